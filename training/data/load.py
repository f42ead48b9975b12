"""Training data in memory: face crops as bytes, utterances as waveforms, sentences as token states."""

import hashlib
import os
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

from mmer.encoders import TextEncoder
from mmer.errors import ClipError, TrainingError
from mmer.features import LanguageModel, utterance_samples
from mmer.speech import Transcriber
from training.data.manifest import Row


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
    whisper: Tensor | None = None  # (N, depths, 2 * width) from Whisper's encoder, where the branch reads it

    def cell_sizes(self) -> Tensor:
        """Return (N,) how many utterances carry the same first label in the same corpus."""
        cells = list(zip(self.corpora or [""] * len(self.samples), self.targets.argmax(1).tolist(), strict=True))
        counts = Counter(cells)
        return torch.tensor([float(counts[c]) for c in cells])


@dataclass(frozen=True)
class Texts:
    states: Tensor  # (total tokens, 768 or the 384 that the encoder reads) float16, sentence after sentence
    offsets: Tensor  # (N + 1,) where each sentence starts
    targets: Tensor  # (N, K)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return padded states (B, S, C) and their mask (B, S)."""
        rows = [self.states[self.offsets[i] : self.offsets[i + 1]].float() for i in index]
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows])
        return states, torch.arange(states.shape[1])[None] < lengths[:, None]


def targets_of(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([r.target for r in rows])


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
    values = torch.from_numpy(np.stack([known[k] for k in keys]).astype(np.float32))
    fitted = ~values.isnan().any(1)
    return values.nan_to_num(), fitted


def load_voices(rows: Sequence[Row], whisper: Transcriber | None = None, work: Path = Path()) -> Voices:
    """Decode each row's sound and cut it to its speech, as prediction does; a row that cannot be read is named, left out.

    With `whisper` its encoder listens to each utterance once; the states are kept in `work`.
    """

    def decode(row: Row) -> np.ndarray | None:
        try:
            return utterance_samples(row.path, row.start_s, row.end_s)
        except ClipError as error:
            tqdm.write(str(error))
            return None

    with ThreadPoolExecutor(2) as pool:
        decoded = list(tqdm(pool.map(decode, rows), total=len(rows), desc="voices", mininterval=5))
    readable = [(x, r) for x, r in zip(decoded, rows, strict=True) if x is not None]
    samples = [x for x, _ in readable]
    states = None if whisper is None else _whisper_states(samples, whisper, work)
    return Voices(samples, targets_of(tuple(r for _, r in readable)), tuple(r.corpus for _, r in readable), states)


def load_every_voice(rows: Sequence[Row]) -> Voices:
    """As `load_voices`, for experiments in which every row counts.

    Raises:
        TrainingError: `unreadable` when a row cannot be read.
    """
    voices = load_voices(rows)
    if len(voices.samples) != len(rows):
        raise TrainingError("unreadable", "a recording cannot be read, see above; repair it or take it out")
    return voices


def _whisper_states(samples: list[np.ndarray], whisper: Transcriber, work: Path) -> Tensor:
    digest = hashlib.sha256(whisper.model_name.encode())
    for x in samples:
        digest.update(x.tobytes())
    cache = work / f"whisper_states-{digest.hexdigest()[:16]}.pt"
    if not cache.is_file():
        states = []
        for x in tqdm(samples, desc="Whisper states", mininterval=5):
            states.append(whisper.encode(x).half())
        save_atomically({"states": torch.stack(states)}, cache)
    return torch.load(cache, weights_only=True)["states"].float()


def load_texts(rows: tuple[Row, ...], work: Path, language: LanguageModel, encoder: TextEncoder | None = None) -> Texts:
    """Run the frozen language model over every sentence once; the states are kept in `work`.

    With an encoder only the half of the states that it reads.
    """
    part_read = "" if encoder is None else f", tuned {encoder.layers is not None}"
    sentences = "\n".join(r.text for r in rows)
    key = hashlib.sha256(f"{sentences}{language.identity}{part_read}".encode()).hexdigest()[:16]
    cache = work / f"text_states-{key}.pt"
    if not cache.is_file():
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].text))  # like lengths together: little padding
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        for i in tqdm(range(0, len(order), 64), desc="text states", mininterval=5):
            part = order[i : i + 64]
            ids, mask = language.tokenize([rows[j].text for j in part])
            for j, s, m in zip(part, language.states(ids, mask), mask, strict=True):
                states[j] = (s[m] if encoder is None else encoder.reads(s[m])).half()
        lengths = torch.tensor([0] + [len(s) for s in states])
        save_atomically({"states": torch.cat(states), "offsets": lengths.cumsum(0)}, cache)
    cached = torch.load(cache, weights_only=True, mmap=True)
    return Texts(cached["states"], cached["offsets"], targets_of(rows))


def save_atomically(state: dict, path: Path) -> None:
    """Write a training state so that a killed run finds either the old file or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
