"""Checkpoints: saved whole or not at all, listed, promoted and rolled back.

A checkpoint is a folder `<utc time>-<short hash>` with model.safetensors and, written last, meta.json. `PROMOTED` beside
them names the one in use. Without it the checkpoint that ships with the package, `base`, is in use.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmer.config import Config, FaceConfig, MediaLimits, ModelConfig, VoiceConfig
from mmer.errors import CheckpointError
from mmer.labels import EMOTIONS, MODALITIES
from mmer.model import EmotionModel, layout

BASE = "base"
_ABSENT = {"voice_statistics": 0, "face_stride": 1}  # how a checkpoint was built that does not say
_BASE_FOLDER = Path(__file__).resolve().parent / "checkpoints" / BASE


@dataclass(frozen=True)
class Checkpoint:
    id: str
    folder: Path
    model: EmotionModel  # on the CPU, in evaluation mode
    config: Config
    meta: dict


def save(model: EmotionModel, config: Config, root: Path, meta: dict, *, name: str | None = None) -> str:
    """Write a checkpoint below `root` and return its id; a killed save leaves only a hidden folder behind.

    Args:
        meta: parent, metrics, data hashes, seed and whatever else tells where the weights come from.
        name: a fixed id instead of the time and a hash; an existing folder of that name is replaced.
    """
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".saving-", dir=root))
    try:
        weights = {k: _compact(v.detach().cpu().contiguous()) for k, v in model.state_dict().items()}
        save_file(weights, part / "model.safetensors")
        now = datetime.now(timezone.utc)
        digest = hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest()
        name = name or f"{now:%Y%m%dT%H%M%S}-{digest[:8]}"
        whole = {"id": name, "created_at": now.isoformat(timespec="seconds"), "emotions": EMOTIONS, "modalities": MODALITIES,
                 "config": asdict(config), "weights_sha256": digest, "torch": torch.__version__, **meta}  # fmt: skip
        (part / "meta.json").write_text(json.dumps(whole, indent=1) + "\n")
        part.chmod(0o755)
        if (root / name).exists():
            shutil.rmtree(root / name)
        os.replace(part, root / name)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return name


def _compact(weights: torch.Tensor) -> torch.Tensor:
    """Return a tensor in half precision where that holds every value exactly; loading gives back what was saved."""
    half = weights.half()
    return half if weights.dtype == torch.float32 and torch.equal(half.float(), weights) else weights


def folder_of(name: str, root: Path) -> Path:
    """Return where a checkpoint lies.

    Raises:
        CheckpointError: `no_checkpoint` when it is not there.
    """
    folder = _BASE_FOLDER if name == BASE else root / name
    if not (folder / "meta.json").is_file():
        there = ", ".join([BASE, *(listing(root))])
        raise CheckpointError("no_checkpoint", f"checkpoint {name!r} is not in {root}; there are {there}")
    return folder


def listing(root: Path) -> list[str]:
    """Return the ids of the complete checkpoints below `root`, oldest first."""
    return sorted(p.parent.name for p in root.glob("*/meta.json") if not p.parent.name.startswith("."))


def promoted(root: Path) -> str:
    """Return the id of the checkpoint in use."""
    pointer = root / "PROMOTED"
    return pointer.read_text().split("\n")[0].strip() if pointer.is_file() else BASE


def promote(name: str, root: Path) -> None:
    """Put a checkpoint in use. Readers see the old name or the new one, never half of it."""
    folder_of(name, root)
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".PROMOTED-{os.getpid()}"
    part.write_text(f"{name}\n")
    os.replace(part, root / "PROMOTED")


def roll_back(root: Path) -> str:
    """Put the parent of the checkpoint in use back and return its id.

    Raises:
        CheckpointError: `no_parent` when it has none.
    """
    current = promoted(root)
    parent = json.loads((folder_of(current, root) / "meta.json").read_text()).get("parent")
    if not parent:
        raise CheckpointError("no_parent", f"checkpoint {current!r} has no parent to go back to")
    promote(parent, root)
    return parent


def _config(stored: dict) -> Config:
    parts = {"media": MediaLimits, "face": FaceConfig, "voice": VoiceConfig, "model": ModelConfig}
    made = {}
    for name, cls in parts.items():
        known = {f.name for f in fields(cls)}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.get(name, {}).items() if k in known}
        made[name] = cls(**({**_ABSENT, **values} if name == "model" else values))
    return Config(**made)


def load(name: str, root: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        CheckpointError: `no_checkpoint`, `bad_checkpoint`.
    """
    folder = folder_of(name, root)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if tuple(meta["emotions"]) != EMOTIONS:
            raise ValueError(f"its emotions are {', '.join(meta['emotions'])}")
        config = _config(meta["config"])
        model = EmotionModel(config.model, config.voice.n_mels)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise CheckpointError("bad_checkpoint", f"checkpoint {name!r} in {folder} cannot be used: {first}") from error
    return Checkpoint(name, folder, model.eval().to(memory_format=layout(model)), config, meta)
