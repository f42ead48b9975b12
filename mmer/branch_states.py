"""Branch embeddings of a clip as bytes: enough to learn from its labels, and nothing of it can be seen or heard."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmer.errors import CheckpointError
from mmer.labels import MODALITIES
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
    if states.pooled is None:
        raise CheckpointError("bad_states", "these states are not of clips: they say nothing of what was pooled")
    tensors = {f"middle.{m}": x for m, x in zip(MODALITIES, states.middles, strict=True)}
    tensors |= {f"pooled.{m}": x for m, x in zip(MODALITIES, states.pooled, strict=True)}
    tensors |= {"present": present, "share": share}
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return save(plain, {"encoders": identity(model), "spans": json.dumps([[round(t, 3) for t in s] for s in spans])})


def load(
    file: Path, model: EmotionModel, start_s: float | None = None, end_s: float | None = None
) -> tuple[BranchStates, Tensor, Tensor]:
    """Return states (as the model's own last layers and heads see them), present and shares of the whole clip, or of
    the utterance with these bounds.

    Raises:
        CheckpointError: `bad_states`; `stale_states` when other encoders than the model's made them;
        `no_such_utterance`.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no dict
            about = stored.metadata()
            encoders, spans = about["encoders"], json.loads(about["spans"])
            if encoders != identity(model):
                raise CheckpointError(
                    "stale_states",
                    f"{file.name} is of other branches than the model's; only a recording can be read again",
                )
            middles, pooled = ([tensors[f"{part}.{m}"] for m in MODALITIES] for part in ("middle", "pooled"))
            present, share = tensors["present"], tensors["share"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError("bad_states", f"{file.name} cannot be read: {error}") from None
    with torch.no_grad():
        device = model.temperatures.device
        there, of_branches = present.to(device), [p.to(device) for p in pooled]
        tops = model.project(of_branches, there)
        tops, logits = tops.cpu(), model.vote(tops, of_branches, there).cpu()
    if start_s is not None:
        rows = [i for i, span in enumerate(spans) if span == [start_s, end_s]]
        if not rows:
            raise CheckpointError("no_such_utterance", f"{file.name} has no utterance from {start_s} to {end_s} s")
        middles, pooled = [m[rows] for m in middles], [p[rows] for p in pooled]
        tops, logits, present, share = tops[rows], logits[rows], present[rows], torch.ones(1)
    (face, voice, text), (at_face, at_voice, at_text) = middles, pooled
    return BranchStates((face, voice, text), tops, logits, (at_face, at_voice, at_text)), present, share


def identity(model: EmotionModel) -> str:
    """Return a hash of the weights that made the states: retraining changes none of them."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.pool_weights().items()):
        digest.update(name.encode() + weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
