"""From which confidence on a model's answer is given: chosen on data set aside, kept in the checkpoint's meta."""

import itertools

import torch
from torch import Tensor

from mmer.labels import MODALITIES
from mmer.metrics import abstention_threshold
from mmer.model import BranchStates, EmotionModel

TARGET = 0.8  # of the answers given are to be right; the page calls 0.75 and more clear


def fit(model: EmotionModel, states: BranchStates, targets: Tensor, *, target: float = TARGET) -> dict | None:
    """Return the threshold of `mmer.metrics.abstention_threshold` on label-matched tuples (N) of data set aside.

    Every subset of branches counts alike, since a clip may have any. None where no confidence keeps the promise.
    """
    confidence, right = [], []
    for size in (1, 2, 3):
        for kept in itertools.combinations(range(len(MODALITIES)), size):
            present = torch.zeros(len(targets), len(MODALITIES), dtype=torch.bool)
            present[:, list(kept)] = True
            with torch.no_grad():
                best = model.fuse(states, present).logits.softmax(1).max(1)
            confidence.append(best.values)
            right.append(best.indices == targets.argmax(1))
    return abstention_threshold(torch.cat(confidence).numpy(), torch.cat(right).numpy(), target)
