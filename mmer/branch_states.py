"""Branch embeddings of a clip as bytes: enough to learn from its labels, and nothing of it can be seen or heard."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmer.errors import CheckpointError
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import BranchStates, EmotionModel


def dump(
    model: EmotionModel, states: BranchStates, present: Tensor, share: Tensor, spans: list[tuple[float, float]]
) -> bytes:
    """Return the branch embeddings of a clip's utterances as a safetensors file.

    Args:
        states: of U utterances.
        present: (U, 3) bool.
        share: (U,) weight of each in the clip's verdict.
        spans: where each begins and ends, in seconds.
    """
    tensors = {f"middle.{m}": x for m, x in zip(MODALITIES, states.middles, strict=True)}
    tensors |= {"tops": states.tops, "present": present, "share": share}
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return save(plain, {"encoders": _identity(model), "spans": json.dumps([[round(t, 3) for t in s] for s in spans])})


def load(
    file: Path, model: EmotionModel, start_s: float | None = None, end_s: float | None = None
) -> tuple[BranchStates, Tensor, Tensor]:
    """Return states (their logits are zeros), present and shares of the whole clip, or of the utterance with these
    bounds.

    Raises:
        CheckpointError: `bad_states`; `stale_states` when other encoders than the model's made them;
        `no_such_utterance`.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no dict
            about = stored.metadata()
            encoders, spans = about["encoders"], json.loads(about["spans"])
            middles, tops = tuple(tensors[f"middle.{m}"] for m in MODALITIES), tensors["tops"]
            present, share = tensors["present"], tensors["share"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError("bad_states", f"{file.name} cannot be read: {error}") from None
    if encoders != _identity(model):
        raise CheckpointError(
            "stale_states", f"{file.name} is of other branches than the model's; only a recording can be read again"
        )
    if start_s is not None:
        rows = [i for i, span in enumerate(spans) if span == [start_s, end_s]]
        if not rows:
            raise CheckpointError("no_such_utterance", f"{file.name} has no utterance from {start_s} to {end_s} s")
        middles, tops = tuple(m[rows] for m in middles), tops[rows]
        present, share = present[rows], torch.ones(1)
    logits = tops.new_zeros(len(tops), len(MODALITIES), N_EMOTIONS)
    return BranchStates(middles, tops, logits), present, share


def _identity(model: EmotionModel) -> str:
    digest = hashlib.sha256()
    for name, weights in sorted(model.encoders.state_dict().items()):
        digest.update(name.encode() + weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
