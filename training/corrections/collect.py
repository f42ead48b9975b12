"""Corrections to training examples: which labels can be learned from, what was seen, heard and said in their clips."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from annotations.choices import TRAIN
from annotations.formats.label_row import words_hash
from annotations.label import Label
from annotations.review.aggregate import Key, aggregate
from mmer.branch_states import load as load_states
from mmer.errors import ClipError, MmerError
from mmer.features import collate
from mmer.hashing import content_hash
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.model import Batch, BranchStates
from mmer.predict import Predictor
from mmer.speech import Transcript, Word
from training.corrections.adapt import OUTPUTS, Examples, examples
from training.corrections.config import RetrainConfig
from training.data.load import save_atomically

_CACHE = 2  # version of the cached features
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingExample:
    """One clip or segment with what its annotators' labels come to."""

    sha256: str
    name: str
    media: Path | None  # None: only words
    in_place: bool
    start_s: float | None
    end_s: float | None
    words: str | None  # as an annotator left them
    lines: tuple[tuple[float, float, str], ...]  # what each utterance was heard to say, where that was kept
    speaker: str | None
    side: str  # one of SIDES, since the clip was first seen
    targets: dict[str, list[float]]  # output -> (K,) shares: the annotators' labels aggregated
    label_ids: tuple[int, ...]
    states: Path | None = None  # branch embeddings, where no media was kept

    @property
    def key(self) -> str:
        return f"{self.sha256} {self.start_s} {self.end_s} {self.words} {self.lines}"

    @property
    def likeness(self) -> list[tuple[str, ...]]:
        """What near-duplicates of it share: the recording, or the speaker and the words."""
        said = " ".join((self.words or " ".join(line for *_, line in self.lines)).lower().split())
        return [("recording", self.sha256), *([("words", self.speaker, said)] if self.speaker and said else [])]


@dataclass(frozen=True)
class Skipped:
    """A clip or segment that nothing can be learnt from."""

    sha256: str
    name: str
    reason: str  # "code: words"


def gather(
    labels: Sequence[Label],
    method: str = "soft",
    *,
    gold: Mapping[str, tuple[int, int]] | None = None,
    final: Mapping[Key, Mapping[str, float]] | None = None,
    lines: Mapping[str, Sequence[tuple[float, float, str]]] | None = None,
) -> tuple[list[TrainingExample], list[Skipped]]:
    """Return what can be trained on, and each clip or segment that cannot.

    Args:
        labels: of any outcome: a reviewer may have decided where nobody could tell.
        method: of `annotations.review.aggregate`, as `gold` and `final` are.
        lines: of each clip, what its utterances were heard to say.
    """
    aggregated = aggregate(labels, method, gold=gold, final=final)
    by_segment: dict[tuple, list[Label]] = {}
    for label in labels:
        by_segment.setdefault((label.sha256, label.start_s, label.end_s), []).append(label)
    items: list[TrainingExample] = []
    skipped: list[Skipped] = []
    for (sha256, start_s, end_s), rows in by_segment.items():
        first = rows[0]
        words = next((r.transcript for r in reversed(rows) if r.transcript is not None), first.words)
        shares = {output: aggregated.get((sha256, start_s, end_s, output)) for output in OUTPUTS}
        targets = {o: [of.get(e, 0.0) for e in EMOTIONS] for o, of in shares.items() if of}
        if not targets:
            continue  # nobody could tell
        states = first.states if first.media is None else None
        if first.media is None and states is None:
            # Of a recording that was not kept, only a label about the words can be learned from.
            typed = any(said and words_hash(said) == sha256 for said in (words, first.words))
            targets = targets if typed else {k: v for k, v in targets.items() if k == "text" and (words or "").strip()}
            if not targets:
                skipped.append(
                    Skipped(sha256, first.name, "media_missing: the recording was not kept, or is no longer there")
                )
                continue
        decided = {o for o in targets if (sha256, start_s, end_s, o) in (final or {})}  # whatever annotators said
        ids = tuple(r.id for r in rows if r.target in targets and (r.outcome == "label" or r.target in decided))
        items.append(
            TrainingExample(
                sha256=sha256,
                name=first.name,
                media=first.media,
                in_place=first.in_place,
                start_s=start_s,
                end_s=end_s,
                words=words,
                lines=_served_lines((lines or {}).get(sha256, ()), words) if start_s is None else (),
                speaker=first.speaker,
                side=first.side,
                targets=targets,
                label_ids=ids,
                states=states,
            )
        )
    return items, skipped


def _served_lines(lines: Sequence[tuple[float, float, str]], words: str | None) -> tuple[tuple[float, float, str], ...]:
    """Return what each utterance was heard to say; nothing where the whole clip's words were typed since."""
    if words is not None and words.split() != " ".join(line for *_, line in lines).split():
        return ()
    return tuple(lines)


def perceive(predictor: Predictor, item: TrainingExample, *, speech: bool, cache: Path | None) -> tuple[Batch, Tensor]:
    """Return a clip's utterances as model input and the share of each in the clip's verdict.

    Raises:
        ClipError: it cannot be read, has changed, or shows nothing (`nothing_readable`).
    """
    config = predictor.checkpoint.config
    if item.media is not None and content_hash(item.media) != item.sha256:
        raise ClipError("clip_changed", "the file is no longer the one that was labelled")
    text = _said(item)
    transcribed_by = predictor.perceiver.transcriber.model_name if speech and text is None else None
    made_with = json.dumps([_CACHE, asdict(config), item.start_s, item.end_s, item.words, item.lines, transcribed_by])
    file = cache / f"{item.sha256}-{hashlib.sha256(made_with.encode()).hexdigest()[:16]}.pt" if cache else None
    if file is not None and file.is_file():
        try:
            kept = torch.load(file, weights_only=True)
            return Batch(**{f.name: kept[f.name] for f in fields(Batch)}), kept["share"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
            file.unlink(missing_ok=True)  # a damaged cache costs a second look
    files = [item.media] if item.media is not None else []
    seen = predictor.observe(
        *files,
        text=text,
        speech=speech and text is None,
        start_s=item.start_s,
        end_s=item.end_s,
        whole=item.start_s is not None,
    )
    share = torch.tensor([f.weight for f in seen.features])
    if not share.sum() > 0:
        raise ClipError("nothing_readable", "neither a face, nor a voice, nor words were found")
    batch, share = collate(seen.features, config), share / share.sum()
    if cache is not None and file is not None and not any(n.code.endswith("_unavailable") for n in seen.quality):
        kept = {f.name: getattr(batch, f.name) for f in fields(Batch)} | {"share": share}
        try:
            cache.mkdir(parents=True, exist_ok=True)
            save_atomically(kept, file)
        except (OSError, RuntimeError) as error:  # a full disk costs the next run a second look, not this one the clip
            with suppress(OSError):  # half of it must not fill what is left of the disk
                file.with_suffix(".part").unlink(missing_ok=True)
            _LOG.warning("what was read of %s could not be kept in %s: %s", item.name, cache, error)
    return batch, share


def _said(item: TrainingExample) -> str | Transcript | None:
    """Return the words as they were served: to each utterance its own where these were kept, else all of them."""
    if not item.lines:
        return item.words
    words = tuple(Word(line, start_s, end_s, 1.0) for start_s, end_s, line in item.lines)
    return Transcript(" ".join(line for *_, line in item.lines), None, words, "ok")


@dataclass(frozen=True)
class _Embedded:
    """What the branches of the served model make of one clip's utterances."""

    states: BranchStates
    present: Tensor  # (U, 3) bool
    share: Tensor  # (U,)


def _embed(predictor: Predictor, item: TrainingExample, *, speech: bool, cache: Path | None) -> _Embedded | Skipped:
    loaded = predictor.checkpoint
    try:
        if item.states:
            return _Embedded(*load_states(item.states, loaded.model, item.start_s, item.end_s))
        batch, share = perceive(predictor, item, speech=speech, cache=cache)
    except MmerError as error:
        return Skipped(item.sha256, item.name, f"{error.code}: {error.message}")
    except OSError as error:
        return Skipped(item.sha256, item.name, f"clip_unreadable: {error.strerror}")
    with torch.no_grad():
        states = loaded.model.branches(batch.to(predictor.device))
    return _Embedded(states, batch.present, share)


def _pooled(embedded: _Embedded) -> tuple[Tensor, Tensor, Tensor]:
    if embedded.states.pooled is None:
        raise TypeError("the branches were not run")
    return embedded.states.pooled


def read(
    predictor: Predictor, items: Sequence[TrainingExample], *, speech: bool, cache: Path | None
) -> tuple[list[TrainingExample], Examples | None, list[Skipped]]:
    """Return the clips that can be read, their branch embeddings, and the clips that cannot."""
    readable, embedded = [], []
    skipped: list[Skipped] = []
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        embed = partial(_embed, predictor, speech=speech, cache=cache)
        stream = tqdm(pool.map(embed, items), total=len(items), desc="clips", unit="clip", mininterval=1)
        for item, made in zip(items, stream, strict=True):
            if isinstance(made, Skipped):
                skipped.append(made)
            else:
                readable.append(item)
                embedded.append(made)
    finally:
        pool.shutdown(cancel_futures=True)
    if not readable:
        return [], None, skipped
    at_face, at_voice, at_text = (torch.cat([_pooled(e)[i].cpu() for e in embedded]) for i in range(len(MODALITIES)))
    face, voice, text = (torch.cat([e.states.middles[i].cpu() for e in embedded]) for i in range(len(MODALITIES)))
    ex = examples(
        predictor.checkpoint.model,
        (face, voice, text),
        (at_face, at_voice, at_text),
        torch.cat([e.present for e in embedded]),
        torch.cat([e.share for e in embedded]),
        torch.repeat_interleave(torch.arange(len(readable)), torch.tensor([len(e.share) for e in embedded])),
        torch.tensor([[item.targets.get(o, [0.0] * N_EMOTIONS) for o in OUTPUTS] for item in readable]),
    )
    useful = ex.labelled.any(1)
    nothing = "nothing_to_teach: what the label is about was not found in it"
    skipped += [Skipped(i.sha256, i.name, nothing) for i, use in zip(readable, useful, strict=True) if not use]
    kept = [i for i, use in zip(readable, useful, strict=True) if use]
    return kept, ex.part(torch.nonzero(useful).flatten()), skipped


def too_few(items: Sequence[TrainingExample], config: RetrainConfig) -> str | None:
    """Return what is missing before training can start, None when it can."""
    n_labels = sum(len(i.label_ids) for i in items)
    if n_labels < config.min_labels:
        return f"{n_labels} labels can be trained on, {config.min_labels} are needed"
    learn = [i for i in items if i.side == TRAIN]
    if (n_clips := len({i.sha256 for i in learn})) < config.min_judged:
        return f"{n_clips} clips are for training, {config.min_judged} are needed; label more"
    named = {e for i in learn for t in i.targets.values() if (e := _majority(t)) is not None}
    if len(named) < 2:
        return "the clips for training name fewer than two emotions; label clips with other emotions too"
    return None


def _majority(target: Sequence[float]) -> int | None:
    first, second = sorted(target)[:-3:-1]
    return list(target).index(first) if first > second + 1e-9 else None


def digest(items: Sequence[TrainingExample]) -> str:
    """Return a hash of which clips with which labels; it names no clip, so a deletion need not find it."""
    lines = sorted(f"{i.key} {json.dumps(i.targets, sort_keys=True)}" for i in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
