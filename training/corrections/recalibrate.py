"""Thresholds of a retrained model: how sure it must be to answer, by answers on clips that were left out."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mmer.errors import TrainingError
from mmer.labels import MODALITIES
from mmer.metrics import DEAF_VOICE
from mmer.model import EmotionModel
from training.corrections.adapt import Examples
from training.learn.exemplars import Exemplar, Exemplars
from training.learn.fusion import (
    MIN_JUDGED,
    N_TUPLES,
    Encoded,
    Judged,
    Tuples,
    fit_abstention,
    judged,
    subset_probs,
)


def recalibrate(
    model: EmotionModel,
    ex: Examples,
    logits: Tensor,
    speakers: Sequence[str | None],
    exemplars: Exemplars | None,
    promise: dict | None,
    seed: int,
) -> dict | None:
    """Return the thresholds below which the model abstains.

    Args:
        logits: (U, 4, K) of models that had not seen the clips.
        speakers: of each clip, as far as they are known.
        promise: `abstain` of the served checkpoint, which stays where there is nothing to fit thresholds on.
    """
    if exemplars is None or promise is None or "subsets" not in promise:
        return promise
    held = {m: exemplars.calibration(m) for m in MODALITIES}
    parts = {m: _encoded(model, m, part) for m, part in held.items()}
    alone = {m: judged(model, m, parts[m], part.corpora, part.speakers) for m, part in held.items()}
    for i, modality in enumerate(MODALITIES):
        x, truth, clips = _judgements(ex, logits, i)
        one = truth.amax(1) > 0.99  # soft ones have no single truth
        if int(one.sum()) >= MIN_JUDGED:
            whose = [speakers[clip] or "" for clip in clips[one].tolist()]
            alone[modality].append(Judged(x[one].softmax(1).numpy(), truth[one].argmax(1).numpy(), whose))
    try:
        tuples = Tuples(parts, model.temperatures, 0.0)
    except TrainingError:  # an emotion that no exemplar of a branch has
        return promise
    states, _, targets = tuples.draw(N_TUPLES, torch.Generator().manual_seed(seed), subsets=False)
    fused = subset_probs(copy.deepcopy(model), states)
    found = fit_abstention(fused, targets.argmax(1).numpy(), alone, target=promise["target"])
    if (deaf := promise["subsets"].get(DEAF_VOICE)) is not None:
        found["subsets"][DEAF_VOICE] = deaf  # exemplars were heard with Whisper: without it the base's stands
    return found


def _judgements(ex: Examples, logits: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits and targets (J, K) and clips (J,) of a branch: labels of its own, and all where it is alone."""
    own = ex.labelled[ex.clip, i + 1] & ex.present[:, i]
    alone = ex.labelled[ex.clip, 0] & ex.present[:, i] & (ex.present.sum(1) == 1) & ~own
    targets = torch.where(own[:, None], ex.targets[ex.clip, i + 1], ex.targets[ex.clip, 0])
    rows = own | alone
    return logits[rows, i + 1], targets[rows], ex.clip[rows]


@torch.no_grad()
def _encoded(model: EmotionModel, modality: str, part: Exemplar) -> Encoded:
    top = model.encoder(modality).project(part.pooled)
    logits = model.vote_of(modality, top, part.pooled) * model.temperatures[MODALITIES.index(modality)]
    return Encoded(part.middle, top, logits, part.targets, part.pooled)
