"""Training data in memory: face crops as bytes, utterances as waveforms, sentences as token states."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mmer.errors import ClipError, TrainingError
from mmer.features import LanguageModel, utterance_samples
from mmer.speech import Transcriber
from training.data import voice_views
from training.data.manifest import Row

VIEWS_IN_ALL = 4000  # of a corpus: a large one has variety of its own


@dataclass(frozen=True)
class Faces:
    images: Tensor  # (N, H, W) uint8
    blendshapes: Tensor  # (N, 52) float32, zeros without a fit
    fitted: Tensor  # (N,) bool
    targets: Tensor  # (N, K)


@dataclass(frozen=True)
class Voices:
    samples: list[np.ndarray]  # of float32, 16 kHz, each cut to its speech
    targets: Tensor  # (N, K)
    corpora: tuple[str, ...] = ()  # of each; empty: all of one
    whisper: Tensor | None = None  # (N, V, depths, 2 * width) float16 of each and its views, where the branch reads it
    speakers: tuple[str, ...] = ()  # of each; empty: all unknown

    def part(self, where: np.ndarray) -> "Voices":
        """Return only the utterances of a mask (N,)."""
        index = np.flatnonzero(where)
        return Voices(
            [self.samples[i] for i in index],
            self.targets[index],
            tuple(self.corpora[i] for i in index) if self.corpora else (),
            None if self.whisper is None else self.whisper[index],
            tuple(self.speakers[i] for i in index) if self.speakers else (),
        )

    def cell_sizes(self) -> Tensor:
        """Return (N,) how many utterances carry the same first label in the same corpus."""
        cells = list(zip(self.corpora or [""] * len(self.samples), self.targets.argmax(1).tolist(), strict=True))
        counts = Counter(cells)
        return torch.tensor([float(counts[c]) for c in cells])


@dataclass(frozen=True)
class Texts:
    states: Tensor  # (total tokens, 384) float16, sentence after sentence
    offsets: Tensor  # (N + 1,) where each sentence starts
    targets: Tensor  # (N, K)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return padded states (B, S, C) and their mask (B, S)."""
        rows = [self.states[self.offsets[i] : self.offsets[i + 1]].float() for i in index]
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows])
        return states, torch.arange(states.shape[1])[None] < lengths[:, None]


def targets_of(rows: Sequence[Row], votes: float = 0.0) -> Tensor:
    """Return (N, K) what each row should answer; raters' votes make up that share where there are any."""
    targets = torch.tensor([r.target for r in rows])
    seen = torch.tensor([r.votes or r.target for r in rows])
    return targets.lerp(seen, votes)


def _row_name(row: Row) -> str:
    return f"{row.path.parent.name}/{row.path.name}" if row.path else row.text


def split_calibration(
    rows: tuple[Row, ...], share: float = 0.1, limit: float = 0.15
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return (the rest, a calibration split of about `share` of each corpus), cut by whole speakers.

    Speakers are taken in the order of a hash of their name, and only while no more than `limit` of the corpus goes; a
    corpus of a few speakers gives none. Rows without a speaker count as one each, named by their text or by the last
    two parts of their path, so that the split is the same wherever the corpora lie.
    """

    def digest(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()

    calibration: set[int] = set()
    for corpus in {r.corpus for r in rows}:
        groups: dict[str, list[int]] = {}
        for i, r in enumerate(rows):
            if r.corpus == corpus:
                groups.setdefault(r.speaker or _row_name(r), []).append(i)
        total, taken = sum(map(len, groups.values())), 0
        for speaker in sorted(groups, key=digest):
            if taken < share * total and taken + len(groups[speaker]) <= limit * total:
                calibration.update(groups[speaker])
                taken += len(groups[speaker])
    rest = tuple(r for i, r in enumerate(rows) if i not in calibration)
    return rest, tuple(r for i, r in enumerate(rows) if i in calibration)


def row_digest(row: Row) -> str:
    """Return a hash of what a row holds, the same wherever its corpus lies: an order that knows nothing of labels."""
    return hashlib.sha256(_row_name(row).encode()).hexdigest()


def at_most(rows: Sequence[Row], n: int) -> list[Row]:
    """Return `n` of the rows, in their order: the first by a hash of their names, the same wherever they lie."""
    if len(rows) <= n:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: row_digest(rows[i]))
    return [rows[i] for i in sorted(order[:n])]


def load_faces(rows: tuple[Row, ...], work: Path, size: int) -> Faces:
    """Read crops (rows with crop = face) and what Face Landmarker finds on them, which is kept in `work`."""
    images = torch.empty(len(rows), size, size, dtype=torch.uint8)
    for i, row in enumerate(tqdm(rows, desc="face crops", mininterval=5)):
        with Image.open(row.path) as image:
            gray = image.convert("L")
            if gray.size != (size, size):
                gray = gray.resize((size, size), Image.Resampling.BOX)
            images[i] = torch.from_numpy(np.array(gray))
    blendshapes, fitted = _face_fits(images, work)
    return Faces(images, blendshapes, fitted, targets_of(rows))


def _face_fits(images: Tensor, work: Path) -> tuple[Tensor, Tensor]:
    from mmer.face import fit_crops

    keys = np.array([hashlib.sha256(x.numpy().tobytes()).hexdigest()[:32] for x in images])
    cache = work / "face_fits.npz"
    known: dict[str, np.ndarray] = {}
    if cache.is_file():
        with np.load(cache) as cached:
            known = dict(zip(cached["keys"].tolist(), cached["blendshapes"], strict=True))
    missing = [i for i, k in enumerate(keys) if k not in known]
    if missing:
        fits = fit_crops(images[i].numpy() for i in tqdm(missing, desc="landmark fits", mininterval=5))
        for i, values in zip(missing, fits, strict=True):
            known[keys[i]] = np.full(52, np.nan, np.float16) if values is None else values.astype(np.float16)
        part = cache.with_suffix(".part.npz")
        np.savez_compressed(part, keys=np.array(list(known)), blendshapes=np.stack(list(known.values())))
        os.replace(part, cache)
    blendshapes = torch.from_numpy(np.stack([known[k] for k in keys]).astype(np.float32))
    fitted = ~blendshapes.isnan().any(1)
    return blendshapes.nan_to_num(), fitted


def load_voices(
    rows: Sequence[Row], whisper: Transcriber | None = None, work: Path = Path(), n_views: int = 0
) -> Voices:
    """Decode each row's sound and cut it to its speech, as prediction does; a row that cannot be read is named.

    With `whisper` its encoder listens once to each utterance and to augmented views of it, `n_views` in a small corpus,
    one at least where there are any; kept in `work`.
    """

    def decode(row: Row) -> np.ndarray | None:
        if row.path is None:
            tqdm.write(f"{row.name!r} has no sound")
            return None
        try:
            return utterance_samples(row.path, row.start_s, row.end_s)
        except ClipError as error:
            tqdm.write(str(error))
            return None

    with ThreadPoolExecutor(2) as pool:
        decoded = list(tqdm(pool.map(decode, rows), total=len(rows), desc="voices", mininterval=5))
    readable = [(x, r) for x, r in zip(decoded, rows, strict=True) if x is not None]
    samples = [x for x, _ in readable]
    corpora = tuple(r.corpus for _, r in readable)
    sizes = Counter(corpora)
    views = [min(n_views, max(VIEWS_IN_ALL // sizes[c], 1)) for c in corpora]
    speakers = tuple(r.speaker or "" for _, r in readable)
    states = None if whisper is None else whisper_states(samples, speakers, whisper, work, views)
    return Voices(samples, targets_of(tuple(r for _, r in readable)), corpora, states, speakers)


def load_every_voice(
    rows: Sequence[Row], whisper: Transcriber | None = None, work: Path = Path(), n_views: int = 0
) -> Voices:
    """As `load_voices`, for experiments in which every row counts.

    Raises:
        TrainingError: `unreadable` when a row cannot be read.
    """
    voices = load_voices(rows, whisper, work, n_views)
    if len(voices.samples) != len(rows):
        raise TrainingError("unreadable", "a recording cannot be read, see above; repair it or take it out")
    return voices


def whisper_states(
    samples: list[np.ndarray], speakers: Sequence[str], whisper: Transcriber, work: Path, n_views: Sequence[int]
) -> Tensor:
    """Return the pooled states (N, V, depths, 2 * width) of Whisper's encoder; V is 1 + the most views of any.

    Of an utterance with fewer, they come again. They are kept by the hashes of the utterance and of those that talk
    behind it, every few minutes: an hour need not be repeated by a run that was stopped.
    """
    identity = "-".join(map(str, whisper.encoder_size()))
    file = work / f"whisper_states-{identity}-{voice_views.VERSION}.pt"
    known: dict[str, Tensor] = torch.load(file, weights_only=True) if file.is_file() else {}
    keys = [hashlib.sha256(x.tobytes()).hexdigest() for x in samples]
    crowds = voice_views.crowds(samples, speakers)
    behind: dict[str, str] = {}
    for key, speaker in zip(keys, speakers, strict=True):
        behind[speaker] = hashlib.sha256((behind.get(speaker, "") + key).encode()).hexdigest()
    keys = [f"{k} {behind[s]}" if n else k for k, s, n in zip(keys, speakers, n_views, strict=True)]
    missing = [i for i, key in enumerate(keys) if key not in known or len(known[key]) <= n_views[i]]
    since = time.monotonic()
    for i in tqdm(missing, desc="Whisper's encoder", mininterval=5):
        sounds = voice_views.views(samples[i], crowds[i], n_views[i])
        known[keys[i]] = torch.stack([whisper.encode(x) for x in sounds]).half()
        if time.monotonic() - since > 300:
            save_atomically(known, file)
            since = time.monotonic()
    if missing:
        save_atomically(known, file)
    most = 1 + max(n_views, default=0)
    cycled = [[v % (1 + n) for v in range(most)] for n in n_views]
    return torch.stack([known[key][views] for key, views in zip(keys, cycled, strict=True)])


def load_texts(rows: tuple[Row, ...], work: Path, language: LanguageModel) -> Texts:
    """Run the frozen language model over every sentence once; the states are kept in `work`."""
    sentences = "\n".join(r.text for r in rows)
    key = hashlib.sha256(f"{sentences}{language.identity}".encode()).hexdigest()[:16]
    cache = work / f"text_states-{key}.pt"
    if not cache.is_file():
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].text))  # like lengths together: little padding
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        for i in tqdm(range(0, len(order), 64), desc="text states", mininterval=5):
            part = order[i : i + 64]
            ids, mask = language.tokenize([rows[j].text for j in part])
            for j, s, m in zip(part, language.states(ids, mask), mask, strict=True):
                states[j] = s[m].half()
        lengths = torch.tensor([0] + [len(s) for s in states])
        save_atomically({"states": torch.cat(states), "offsets": lengths.cumsum(0)}, cache)
    cached = torch.load(cache, weights_only=True, mmap=True)
    return Texts(cached["states"], cached["offsets"], targets_of(rows))


def save_atomically(state: dict, path: Path) -> None:
    """Write a training state so that a killed run finds either the old file or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
