"""Thresholds of a retrained model: how sure it must be to answer, by answers on clips that were left out."""

import copy

import numpy as np
import torch
from torch import Tensor

from mmer.errors import TrainingError
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training.corrections.adapt import Examples
from training.learn.exemplars import Exemplar, Exemplars
from training.learn.fusion import N_TUPLES, Encoded, Tuples, fit_abstention, subset_probs

MIN_JUDGEMENTS = 40  # fewer tell no threshold


def recalibrate(
    model: EmotionModel, ex: Examples, logits: Tensor, exemplars: Exemplars | None, promise: dict | None, seed: int
) -> dict | None:
    """Return the thresholds below which the model abstains.

    Args:
        logits: (U, 4, K) of models that had not seen the clips.
        promise: `abstain` of the served checkpoint, which stays where there is nothing to fit thresholds on.
    """
    if exemplars is None or promise is None or "subsets" not in promise:
        return promise
    alone = {m: _by_corpus(model, m, exemplars.calibration(m)) for m in MODALITIES}
    for i, modality in enumerate(MODALITIES):
        x, truth = _judgements(ex, logits, i)
        one = truth.amax(1) > 0.99  # soft ones have no single truth
        if int(one.sum()) >= MIN_JUDGEMENTS:
            alone[modality].append((x[one].softmax(1).numpy(), truth[one].argmax(1).numpy()))
    parts = {m: _encoded(model, m, exemplars.calibration(m)) for m in MODALITIES}
    try:
        tuples = Tuples(parts, model.temperatures, 0.0)
    except TrainingError:  # an emotion that no exemplar of a branch has
        return promise
    states, _, targets = tuples.draw(N_TUPLES, torch.Generator().manual_seed(seed), subsets=False)
    fused = subset_probs(copy.deepcopy(model), states)
    return fit_abstention(fused, targets.argmax(1).numpy(), alone, target=promise["target"])


def _judgements(ex: Examples, logits: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Return logits and targets (J, K) of a branch: of labels of its own, and of everything where it is alone."""
    own = ex.labelled[ex.clip, i + 1] & ex.present[:, i]
    alone = ex.labelled[ex.clip, 0] & ex.present[:, i] & (ex.present.sum(1) == 1) & ~own
    targets = torch.where(own[:, None], ex.targets[ex.clip, i + 1], ex.targets[ex.clip, 0])
    rows = own | alone
    return logits[rows, i + 1], targets[rows]


@torch.no_grad()
def _encoded(model: EmotionModel, modality: str, part: Exemplar) -> Encoded:
    top = model.encoder(modality).project(part.pooled)
    logits = model.vote_of(modality, top, part.pooled) * model.temperatures[MODALITIES.index(modality)]
    return Encoded(part.middle, top, logits, part.targets, part.pooled)


def _by_corpus(model: EmotionModel, modality: str, part: Exemplar) -> list[tuple[np.ndarray, np.ndarray]]:
    encoded = _encoded(model, modality, part)
    probs = (encoded.logits / model.temperatures[MODALITIES.index(modality)]).softmax(1).numpy()
    truth, corpora = part.targets.argmax(1).numpy(), np.array(part.corpora)
    found = []
    for corpus in np.unique(corpora):
        here = corpora == corpus
        if here.sum() >= MIN_JUDGEMENTS:
            found.append((probs[here], truth[here]))
    return found
