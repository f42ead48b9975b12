"""Exemplars: branch embeddings of a sample of what the base model learned from, so that corrections leave that alone.

A file of numbers beside the base checkpoint: no face, no voice and no name is in it. A part of it, of people the
branches never learned from, only measures what a retraining costs the base.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmer import checkpoint
from mmer.branch_states import identity
from mmer.checkpoint import Checkpoint
from mmer.errors import CheckpointError
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training.data.manifest import Row

FILE = "exemplars.safetensors"
TRAINING, CALIBRATION = 1200, 600  # of each branch; together 13 MB
FORMAT = 1


@dataclass(frozen=True)
class Exemplar:
    """N examples of one branch."""

    middle: Tensor  # (N, C_middle)
    pooled: Tensor  # (N, C_pooled)
    targets: Tensor  # (N, K)
    corpora: tuple[str, ...]
    speakers: tuple[str, ...]  # hashes; "" where nobody is known
    calibration: Tensor  # (N,) bool: of people the branches never learned from

    def part(self, rows: Tensor) -> "Exemplar":
        """Return only the examples of a mask (N,)."""
        index = torch.nonzero(rows).flatten().tolist()
        return Exemplar(
            self.middle[rows],
            self.pooled[rows],
            self.targets[rows],
            tuple(self.corpora[i] for i in index),
            tuple(self.speakers[i] for i in index),
            self.calibration[rows],
        )


@dataclass(frozen=True)
class Exemplars:
    """Of each branch, by its name."""

    branches: dict[str, Exemplar]

    def training(self, modality: str) -> Exemplar:
        """Return what tells corrections where the base knows better."""
        return self.branches[modality].part(~self.branches[modality].calibration)

    def calibration(self, modality: str) -> Exemplar:
        """Return what only measures."""
        return self.branches[modality].part(self.branches[modality].calibration)


def votes_on(model: EmotionModel, modality: str, part: Exemplar) -> Tensor:
    """Return what a branch answers to exemplars, as people corrected it: calibrated logits (N, K)."""
    return model.vote_of(modality, model.encoder(modality).project(part.pooled), part.pooled)


def as_heard(exemplars: Exemplars, model: EmotionModel, share: float) -> Exemplars:
    """Return the exemplars with what Whisper's encoder heard taken out of all but `share` of the voices.

    Where Whisper's weights are missing, corrections come without it. Compared with exemplars that had it, every clip
    would be near what was corrected.
    """
    voice, state = exemplars.branches["voice"], model.config.state
    deaf = torch.rand(len(voice.pooled), generator=torch.Generator().manual_seed(0)) >= share
    pooled = voice.pooled.clone()
    pooled[deaf, state:] = 0  # the last of these columns says whether it listened
    return Exemplars({**exemplars.branches, "voice": replace(voice, pooled=pooled)})


def speaker_hash(corpus: str, speaker: str) -> str:
    return hashlib.sha256(f"exemplar {corpus} {speaker}".encode()).hexdigest()[:12] if speaker else ""


def balanced(rows: Sequence[Row], n: int) -> list[Row]:
    """Return up to `n` rows of one label, taken in turn from each corpus and emotion, there from each speaker in turn.

    The order is that of a hash of what a row says, so the same rows are taken wherever the corpora lie.
    """
    cells: dict[tuple, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=_digest):
        if max(row.target) > 0.99:
            cells[row.corpus, row.target.index(max(row.target))][row.speaker or ""].append(row)
    queues = [_in_turn(list(cells[key].values())) for key in sorted(cells)]
    return _in_turn(queues)[:n]


def _in_turn(queues: Sequence[Sequence[Row]]) -> list[Row]:
    longest = max((len(q) for q in queues), default=0)
    return [q[i] for i in range(longest) for q in queues if i < len(q)]


def _digest(row: Row) -> str:
    name = f"{row.path.parent.name}/{row.path.name}" if row.path else row.text
    return hashlib.sha256(name.encode()).hexdigest()


def save(file: Path, model: EmotionModel, exemplars: Exemplars) -> None:
    """Write exemplars in half precision, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    names: dict[str, dict[str, list[str]]] = {}
    for modality, part in exemplars.branches.items():
        tensors |= {
            f"{modality}.middle": part.middle.half().contiguous(),
            f"{modality}.pooled": part.pooled.half().contiguous(),
            f"{modality}.targets": part.targets.half().contiguous(),
            f"{modality}.calibration": part.calibration.contiguous(),
        }
        names[modality] = {"corpora": list(part.corpora), "speakers": list(part.speakers)}
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    about = {"format": str(FORMAT), "encoders": identity(model), "names": json.dumps(names)}
    save_file(tensors, unfinished, about)
    unfinished.replace(file)


def load(file: Path, model: EmotionModel) -> Exemplars:
    """Return the exemplars of a file.

    Raises:
        CheckpointError: `bad_exemplars`; `stale_exemplars` when other encoders than the model's made them.
    """
    try:
        with safe_open(file, "pt") as stored:
            about = stored.metadata()
            names = json.loads(about["names"])
            if about["encoders"] != identity(model):
                raise CheckpointError("stale_exemplars", f"{file.name} is of other branches than the model's")
            branches = {
                m: Exemplar(
                    stored.get_tensor(f"{m}.middle").float(),
                    stored.get_tensor(f"{m}.pooled").float(),
                    stored.get_tensor(f"{m}.targets").float(),
                    tuple(names[m]["corpora"]),
                    tuple(names[m]["speakers"]),
                    stored.get_tensor(f"{m}.calibration"),
                )
                for m in MODALITIES
            }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError("bad_exemplars", f"{file.name} cannot be read: {error}") from None
    return Exemplars(branches)


def of_checkpoint(served: Checkpoint, root: Path) -> Exemplars | None:
    """Return the exemplars of a checkpoint or of the one it descends from; None where none fit its branches.

    Raises:
        CheckpointError: `bad_exemplars`.
    """
    folder, meta, seen = served.folder, served.meta, {served.id}
    while True:
        if (folder / FILE).is_file():
            try:
                return load(folder / FILE, served.model)
            except CheckpointError as error:
                if error.code != "stale_exemplars":
                    raise
        parent = meta.get("parent")
        if not parent or parent in seen:
            return None
        seen.add(parent)
        try:
            folder, meta = checkpoint.folder_of(parent, root), checkpoint.read_meta(parent, root)
        except CheckpointError:  # deleted meanwhile: the base may still fit
            folder, meta = checkpoint.folder_of(checkpoint.BASE, root), {}
