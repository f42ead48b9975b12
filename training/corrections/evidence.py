"""What a new model is judged by: judgements of models that had not seen the clip, or had not seen its speaker."""

import copy
from collections.abc import Callable, Sequence
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
from training.learn.exemplars import Exemplar, Exemplars, votes_on


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
def on_base(
    served: EmotionModel,
    new: EmotionModel,
    without: Callable[[Exemplars], EmotionModel],
    exemplars: Exemplars | None,
) -> dict[str, Evidence]:
    """Return the evidence on what the base learned from, for each corpus of each branch that was corrected.

    Exemplars of the calibration part measure: nobody learned from them. A corpus without any there is measured by its
    other exemplars, each half of its speakers by a model that did not know that half to be the base's.

    Args:
        without: a model that was corrected with these exemplars alone.
    """
    served = copy.deepcopy(served).cpu()
    found: dict[str, Evidence] = {}
    for modality in MODALITIES if exemplars else ():
        if exemplars is None or modality not in new.corrections:
            continue
        part = exemplars.branches[modality]
        measured = {c for c, held in zip(part.corpora, part.calibration.tolist(), strict=True) if held}
        for corpus in sorted(measured):
            rows = part.calibration & torch.tensor([c == corpus for c in part.corpora])
            found[f"{modality}, {corpus}"] = _of_base(modality, part.part(rows), served, new)
        if lacking := set(part.corpora) - measured:
            odd = _odd_speakers(part)
            apart = torch.tensor([c in lacking for c in part.corpora])
            halves = [apart & odd, apart & ~odd]
            judges = [without(Exemplars({**exemplars.branches, modality: part.part(~half)})) for half in halves]
            for corpus in sorted(lacking):
                here = torch.tensor([c == corpus for c in part.corpora])
                of_halves = [
                    _of_base(modality, part.part(here & half), served, judge)
                    for half, judge in zip(halves, judges, strict=True)
                ]
                found[f"{modality}, {corpus}"] = _together(of_halves)
    return found


def _odd_speakers(part: Exemplar) -> Tensor:
    """Return a mask (N,) of every other speaker of each corpus, or of every other example of nobody."""
    number: dict[tuple[str, str], int] = {}
    who = [(c, s or f"#{i}") for i, (c, s) in enumerate(zip(part.corpora, part.speakers, strict=True))]
    for corpus, speaker in sorted(set(who)):
        number[corpus, speaker] = sum(c == corpus for c, _ in number)
    return torch.tensor([number[one] % 2 == 1 for one in who])


def _of_base(modality: str, part: Exemplar, served: EmotionModel, new: EmotionModel) -> Evidence:
    before, after = (votes_on(model, modality, part).softmax(1).numpy() for model in (served, new))
    n = len(part.targets)
    return Evidence(part.targets.numpy(), before, after, list(range(n)), [""] * n)


def _together(parts: Sequence[Evidence]) -> Evidence:
    truth, served, new = (np.concatenate([getattr(p, name) for p in parts]) for name in ("truth", "served", "new"))
    return Evidence(truth, served, new, list(range(len(truth))), [""] * len(truth))


@torch.no_grad()
def base_uar(model: EmotionModel, exemplars: Exemplars | None) -> dict[str, float]:
    """Return the UAR of each branch on exemplars of people it never learned from."""
    found: dict[str, float] = {}
    for modality in MODALITIES if exemplars else ():
        part = exemplars.calibration(modality) if exemplars else None
        if part is None or not len(part.targets):
            continue
        truth, said = part.targets.argmax(1).numpy(), votes_on(model, modality, part).argmax(1).numpy()
        found[modality] = float(np.mean([(said[truth == k] == k).mean() for k in np.unique(truth)]))
    return found
