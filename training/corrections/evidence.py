"""What a new model is judged by: judgements of models that had not seen the clip, or had not seen its speaker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from annotations.choices import STRANGER, TRAIN
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training.corrections.adapt import Examples, probabilities
from training.corrections.collect import TrainingExample
from training.corrections.gate import Evidence
from training.learn.exemplars import Exemplars


def on_people(
    items: Sequence[TrainingExample], groups: Sequence[int], ex: Examples, new: Tensor, judged: Tensor
) -> Evidence:
    """Return the evidence on other clips of the people who were labelled: near-duplicates are one, speakers strata.

    Args:
        new: (U, 4, K) logits of models that had not seen the clip.
        judged: (N,) bool: clips that count.
    """
    return _evidence(ex, new, judged, groups, [i.speaker or "" for i in items])


def on_strangers(items: Sequence[TrainingExample], ex: Examples, new: Tensor, judged: Tensor) -> Evidence:
    """Return the evidence on speakers whom the model never heard; `judged` has none of unknown speakers."""
    return _evidence(ex, new, judged, [i.speaker or "" for i in items], [""] * len(items))


def _evidence(ex: Examples, new: Tensor, judged: Tensor, clusters: Sequence, strata: Sequence) -> Evidence:
    where = ex.labelled & judged[:, None]
    clip = torch.nonzero(where)[:, 0].tolist()
    served, found = probabilities(ex.served, ex), probabilities(new, ex)
    return Evidence(
        ex.targets[where].numpy(),
        served[where].numpy(),
        found[where].numpy(),
        [clusters[i] for i in clip],
        [strata[i] for i in clip],
    )


@dataclass(frozen=True)
class Sides:
    """What each clip is for, as masks (N,)."""

    learn: Tensor
    fresh: Tensor  # of them, those that neither the served model nor one before it learned from
    held: Tensor  # never learned from, of people who are
    strange: Tensor  # of speakers never learned from
    heard_before: tuple[str, ...]  # speakers whom the served model or one before it learned from


def sides(items: Sequence[TrainingExample], groups: Sequence[int], known: set[str]) -> Sides:
    """Return what each clip is for.

    A held-out clip with a near-duplicate among those that are learned from, now or before, measures nothing. Only fresh
    clips can be judged by models that left them out.

    Args:
        known: hashes of what the served model and those before it learned from.
    """
    learn = torch.tensor([i.side == TRAIN for i in items])
    taught = {g for i, g in zip(items, groups, strict=True) if i.side == TRAIN or i.sha256 in known}
    before = {g for i, g in zip(items, groups, strict=True) if i.sha256 in known}
    heard = {i.speaker for i in items if i.speaker and (i.side == TRAIN or i.sha256 in known)}
    apart = torch.tensor([g not in taught for g in groups])
    fresh = learn & torch.tensor([g not in before for g in groups])
    strange = torch.tensor([i.side == STRANGER and i.speaker not in heard for i in items]) & apart
    held = torch.tensor([i.side != TRAIN for i in items]) & apart & ~strange
    return Sides(learn, fresh, held, strange, tuple({i.speaker for i in items if i.speaker and i.sha256 in known}))


@torch.no_grad()
def base_uar(model: EmotionModel, exemplars: Exemplars | None) -> dict[str, float]:
    """Return the UAR of each branch on exemplars of people it never learned from."""
    found: dict[str, float] = {}
    for i, modality in enumerate(MODALITIES if exemplars else ()):
        part = exemplars.calibration(modality) if exemplars else None
        if part is None or not len(part.targets):
            continue
        logits = model.heads[modality](model.encoder(modality).project(part.pooled)) / model.temperatures[i]
        truth, said = part.targets.argmax(1).numpy(), logits.argmax(1).numpy()
        found[modality] = float(np.mean([(said[truth == k] == k).mean() for k in np.unique(truth)]))
    return found
