"""Checkpoints: saved whole or not at all, listed, promoted and rolled back.

A checkpoint is a folder `<utc time>-<short hash>` with model.safetensors and, written last, meta.json. `PROMOTED`
beside them names the one in use. Without it the checkpoint that ships with the package, `base`, is in use.
`promotions.jsonl`, which is only appended to, says what was put in use when and by whom.

torch takes seconds to import, so only what reads or writes weights imports it.
"""

import getpass
import json
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmer.config import Config, FaceConfig, MediaLimits, ModelConfig, VoiceConfig
from mmer.errors import CheckpointError
from mmer.hashing import content_hash
from mmer.labels import EMOTIONS, MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from mmer.model import EmotionModel

BASE = "base"
WEIGHTS, META, LOG = "model.safetensors", "meta.json", "promotions.jsonl"
_ABSENT = {"voice_statistics": 0, "face_stride": 1, "text_layers": 0}  # how a checkpoint was built that does not say
_LOG = logging.getLogger(__name__)
_BASE_FOLDER = Path(__file__).resolve().parent / "checkpoints" / BASE


@dataclass(frozen=True)
class Checkpoint:
    id: str
    folder: Path
    model: "EmotionModel" = field(repr=False)  # on the CPU, in evaluation mode
    config: Config = field(repr=False)
    meta: dict[str, Any] = field(repr=False)


def save(model: "EmotionModel", config: Config, root: Path, meta: dict[str, Any], *, name: str | None = None) -> str:
    """Write a checkpoint below `root` and return its id; a killed save leaves only a hidden folder behind.

    Args:
        meta: parent, metrics, data hashes, seed and whatever else tells where the weights come from.
        name: a fixed id instead of the time and a hash; an existing folder of that name is replaced.

    Raises:
        CheckpointError: `not_saved`: the disk is full, or nothing may be written there.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        root.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".saving-", dir=root))
    except OSError as error:
        raise _not_written("a checkpoint", root, error) from error
    try:
        weights = {k: _compact(v.detach().cpu().contiguous()) for k, v in model.state_dict().items()}
        save_file(weights, part / WEIGHTS)
        now = datetime.now(timezone.utc)
        digest = content_hash(part / WEIGHTS)
        name = name or f"{now:%Y%m%dT%H%M%S}-{digest[:8]}"
        whole = {
            "id": name,
            "created_at": now.isoformat(timespec="seconds"),
            "emotions": EMOTIONS,
            "modalities": MODALITIES,
            "config": asdict(config),
            "weights_sha256": digest,
            "torch": torch.__version__,
            **meta,
        }
        (part / META).write_text(json.dumps(whole, indent=1) + "\n")
        part.chmod(0o755)
        for path in (part / WEIGHTS, part / META, part):
            _to_disk(path)
        if (root / name).exists():
            shutil.rmtree(root / name)
        os.replace(part, root / name)
        _to_disk(root)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise _not_written("a checkpoint", root, error) from error
        raise
    return name


def _not_written(what: str, root: Path, error: Exception) -> CheckpointError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n")[0]
    return CheckpointError("not_saved", f"{what} cannot be written to {root.name}/: {reason}; what served goes on")


def _to_disk(path: Path) -> None:
    """Have the system write a file or a folder's names out: what is called saved survives a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _compact(weights: "Tensor") -> "Tensor":
    """Return a tensor in half precision where that holds every value exactly; loading gives back what was saved."""
    import torch

    half = weights.half()
    return half if weights.dtype == torch.float32 and torch.equal(half.float(), weights) else weights


def folder_of(name: str, root: Path) -> Path:
    """Return where a checkpoint lies.

    Raises:
        CheckpointError: `no_checkpoint` when it is not there.
    """
    folder = _BASE_FOLDER if name == BASE else root / name
    if not (folder / META).is_file():
        known = ", ".join([BASE, *listing(root)])
        raise CheckpointError("no_checkpoint", f"checkpoint {name!r} is not in {root.name}/; there are {known}")
    return folder


def listing(root: Path) -> list[str]:
    """Return the ids of the complete checkpoints below `root`, oldest first."""
    return sorted(p.parent.name for p in root.glob(f"*/{META}") if not p.parent.name.startswith("."))


def read_meta(name: str, root: Path) -> dict[str, Any]:
    """Return what a checkpoint's meta.json says: where it comes from, its settings and its figures.

    Raises:
        CheckpointError: `no_checkpoint`, `bad_checkpoint`.
    """
    try:
        meta = json.loads((folder_of(name, root) / META).read_text())
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error
    if not isinstance(meta, dict):
        raise _unusable(name, ValueError(f"its {META} is no object"))
    return meta


def promoted(root: Path) -> str:
    """Return the id of the checkpoint in use."""
    pointer = root / "PROMOTED"
    return pointer.read_text().split("\n")[0].strip() if pointer.is_file() else BASE


def promote(name: str, root: Path, *, by: str | None = None) -> None:
    """Put a checkpoint in use. Readers see the old name or the new one, never half of it.

    Args:
        by: who did it, for the log; the name this user has on the machine when None.

    Raises:
        CheckpointError: `no_checkpoint`, `not_saved`.
    """
    folder_of(name, root)
    root.mkdir(parents=True, exist_ok=True)
    entry = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "by": by or _user(),
        "checkpoint": name,
        "before": promoted(root),
    }
    part = root / f".PROMOTED-{os.getpid()}"
    try:
        part.write_text(f"{name}\n")
        _to_disk(part)
        os.replace(part, root / "PROMOTED")
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _not_written("which checkpoint serves", root, error) from error
    try:
        with (root / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        for path in (root / LOG, root):
            _to_disk(path)
    except OSError as error:  # it serves: whoever asked for it must not take it for refused and delete it
        _LOG.error("%s serves, but %s could not be written: %s", name, LOG, error.strerror)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return str(os.getuid())


def roll_back(root: Path, *, by: str | None = None) -> str:
    """Put the parent of the checkpoint in use back and return its id; what came from elsewhere goes back to base.

    Raises:
        CheckpointError: `no_parent` when it has none.
    """
    current = promoted(root)
    meta = read_meta(current, root)
    parent = meta.get("parent")
    if meta.get("source") and parent not in listing(root):
        parent = BASE  # its own parent stayed where it was made
    if not parent:
        raise CheckpointError("no_parent", f"checkpoint {current!r} has no parent to go back to")
    promote(parent, root, by=by)
    return parent


def _config(stored: dict[str, Any]) -> Config:
    def part(cls, name: str, absent: dict[str, Any] | None = None):
        known = {f.name for f in fields(cls)}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.get(name, {}).items() if k in known}
        return cls(**{**(absent or {}), **values})

    tuned = {"text_layers": 2} if stored.get("model", {}).get("text_tuned") else {}  # its former name
    return Config(
        media=part(MediaLimits, "media"),
        face=part(FaceConfig, "face"),
        voice=part(VoiceConfig, "voice"),
        model=part(ModelConfig, "model", {**_ABSENT, **tuned}),
    )


def _unusable(name: str, error: Exception) -> CheckpointError:
    """Return an error without the folder's path: visitors of the page read it."""
    if isinstance(error, OSError) and error.filename:
        reason = f"{Path(error.filename).name}: {error.strerror}"
    elif isinstance(error, FileNotFoundError):  # as safetensors raises it
        reason = f"{WEIGHTS} is missing"
    else:
        reason = str(error).strip().split("\n")[0]
    return CheckpointError("bad_checkpoint", f"checkpoint {name!r} cannot be used: {reason}")


def load(name: str, root: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        CheckpointError: `no_checkpoint`, `bad_checkpoint`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from mmer.model import EmotionModel, layout

    folder, meta = folder_of(name, root), read_meta(name, root)
    try:
        if tuple(meta["emotions"]) != EMOTIONS:
            raise ValueError(f"its emotions are {', '.join(meta['emotions'])}")
        # The first checkpoints did not say which weights they were written with.
        if meta.get("weights_sha256") not in (None, content_hash(folder / WEIGHTS)):
            raise ValueError(f"its {WEIGHTS} is damaged or of another checkpoint (the sha256 differs)")
        config = _config(meta["config"])
        model = EmotionModel(config.model, config.voice.n_mels)
        weights = load_file(folder / WEIGHTS)
        for modality in MODALITIES:
            if f"corrections.{modality}.mean" in weights:
                model.correct(modality)
        model.load_state_dict(weights)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise _unusable(name, error) from error
    model.eval()
    model.to(memory_format=layout(model))  # type: ignore[call-overload]
    return Checkpoint(name, folder, model, config, meta)
