"""What a new model answers otherwise than the served one: confusion before and after, and the answers that flipped."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmer.labels import EMOTIONS
from mmer.metrics import confusion
from training.corrections.adapt import OUTPUTS, Examples
from training.corrections.collect import TrainingExample
from training.corrections.gate import Evidence


def changes(items: Sequence[TrainingExample], ex: Examples, judged: Tensor, evidence: Evidence) -> dict[str, Any]:
    """Return the confusion of both models (rows: what the labels say) and the answers in which they differ.

    A flip names labels, not clips: what is deleted cannot be found by it.

    Args:
        judged: (N,) bool: the clips that the evidence is of.
    """
    top = evidence.truth.max(1, initial=0)
    sure = (evidence.truth >= top[:, None] - 1e-9).sum(1) == 1  # a tie has no right answer
    right, served, new = (p.argmax(1) for p in (evidence.truth, evidence.served, evidence.new))
    tables = {"served": served, "new": new}
    which = torch.nonzero(ex.labelled & judged[:, None]).tolist()
    flipped = [
        {
            "labels": list(items[i].label_ids),
            "start_s": items[i].start_s,
            "end_s": items[i].end_s,
            "target": OUTPUTS[output],
            "right": EMOTIONS[right[j]],
            "served": EMOTIONS[served[j]],
            "new": EMOTIONS[new[j]],
        }
        for j, (i, output) in enumerate(which)
        if sure[j] and served[j] != new[j]
    ]
    return {
        "confusion": {name: confusion(right[sure], said[sure]).tolist() for name, said in tables.items()},
        "flipped": flipped,
    }
