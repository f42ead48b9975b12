"""Which clips are near-duplicates, and which are judged together, by a model that learned from the rest."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PARTS = 5
SPEAKERS = 3  # named ones: with fewer nothing can be said about strangers
SAME_TAKE = 0.97  # correlation of what was pooled: copies are above, two takes of one sentence 0.6 in the median


@dataclass(frozen=True)
class Folds:
    parts: tuple[Tensor, ...]  # indices of clips; a clip in none is never judged


def near_duplicates(keys: Sequence[Sequence[Hashable]], pooled: Sequence[Tensor], present: Tensor) -> list[int]:
    """Return the group of each clip: clips that share a key or that sound or look alike are in one.

    Args:
        keys: of each clip, as its recording, or its speaker and words.
        pooled: (N, C) of each branch.
        present: (N, 3) bool.
    """
    group = list(range(len(keys)))

    def find(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    first: dict[Hashable, int] = {}
    for i, mine in enumerate(keys):
        for key in mine:
            group[find(i)] = find(first.setdefault(key, i))
    for x, here in zip(pooled, present.unbind(1), strict=True):
        rows = torch.nonzero(here).flatten()
        if len(rows) < 10:  # no deviations to speak of
            continue
        x = x[rows] - x[rows].mean(0)
        x = torch.nn.functional.normalize(x / x.std(0).clamp_min(1e-6), dim=1)
        for start in range(0, len(rows), 1000):
            alike = torch.nonzero(x[start : start + 1000] @ x.T > SAME_TAKE)
            for i, j in (alike + torch.tensor([start, 0])).tolist():
                group[find(int(rows[i]))] = find(int(rows[j]))
    return [find(i) for i in range(len(keys))]


def of_clips(speakers: Sequence[str | None], groups: Sequence[int]) -> Folds:
    """Return folds that spread each speaker's clips evenly; near-duplicates stay together."""
    order = sorted(set(groups), key=lambda g: hashlib.sha256(f"fold {g}".encode()).hexdigest())
    members: dict[int, list[int]] = {g: [] for g in order}
    for i, g in enumerate(groups):
        members[g].append(i)
    filled: Counter[tuple[str | None, int]] = Counter()
    sizes: Counter[int] = Counter()
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for g in order:
        who = Counter(speakers[i] for i in members[g]).most_common(1)[0][0]
        k = min(range(PARTS), key=lambda k: (filled[who, k], sizes[k]))
        parts[k] += members[g]
        filled[who, k] += len(members[g])
        sizes[k] += len(members[g])
    return _of(parts, len(groups))


def of_speakers(speakers: Sequence[str | None], groups: Sequence[int]) -> Folds | None:
    """Return folds of whole speakers, None with fewer than three of them; clips of nobody named are in none.

    Clips that are near-duplicates of another speaker's are left out too.
    """
    sizes = Counter(s for s in speakers if s)
    if len(sizes) < SPEAKERS:
        return None
    whose: dict[int, set[str | None]] = {}
    for speaker, g in zip(speakers, groups, strict=True):
        whose.setdefault(g, set()).add(speaker)
    order = sorted(sizes, key=lambda s: (-sizes[s], hashlib.sha256(f"fold {s}".encode()).hexdigest()))
    filled, part = [0] * min(PARTS, len(sizes)), {}
    for speaker in order:
        part[speaker] = filled.index(min(filled))
        filled[part[speaker]] += sizes[speaker]
    parts: list[list[int]] = [[] for _ in filled]
    for i, (speaker, g) in enumerate(zip(speakers, groups, strict=True)):
        if speaker and len(whose[g]) == 1:
            parts[part[speaker]].append(i)
    folds = _of(parts, len(groups))
    return folds if folds.parts else None


def _of(parts: Sequence[Sequence[int]], n: int) -> Folds:
    """Return folds without empty ones, and without any that would leave nothing to learn from."""
    return Folds(tuple(torch.tensor(sorted(part)) for part in parts if 0 < len(part) < n))
