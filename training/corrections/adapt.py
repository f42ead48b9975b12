"""Few labels, a trained model: what is near the corrected clips is answered as they teach, the rest as before.

What a branch pools (`mmer.encoders`) is fixed, so a clip is seen and heard once. On it a change of the branch's vote is
learned and, against exemplars of what the base model learned from, how near to the corrected clips a clip is
(`mmer.correction`). Both are convex. Every run begins with the base: nothing drifts, and what was deleted is forgotten.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import tqdm

from mmer.correction import Correction
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import BranchStates, EmotionModel
from training.corrections.folds import Folds
from training.learn.exemplars import Exemplar, Exemplars
from training.learn.losses import minimise

OUTPUTS = ("all", *MODALITIES)  # what a label can be about, and what the model answers: the fusion and each branch
STRENGTHS = (1e-3, 3e-4, 1e-4, 3e-5)  # of the penalty on changes, among which cross-validation chooses
HEAD_SHARE = 0.3  # a label of everything says less about one channel: the face may smile at sad words
UNLABELLED_SHARE = 0.3  # of a label's weight, for an output nobody judged: it stays as the served model has it
SMOOTHING = 0.05
BIAS_SHARE = 0.1  # of the penalty, for what is changed alike for all clips
LIKENESS = 3e-3  # penalty on the weights that tell corrected clips from exemplars
STEEP = 8.0  # log odds of nearness of the middle one of the corrected clips
STEPS = 30  # of L-BFGS


@dataclass(frozen=True)
class Examples:
    """Branch embeddings of N labelled clips, in U utterances."""

    middles: tuple[Tensor, ...]  # (U, C_middle) of each branch
    pooled: tuple[Tensor, ...]  # (U, C_pooled) of each branch
    present: Tensor  # (U, 3) bool
    share: Tensor  # (U,) weight within its clip
    clip: Tensor  # (U,) index of its clip
    targets: Tensor  # (N, 4, K) for each output
    labelled: Tensor  # (N, 4) bool: that output was labelled and can be read
    served: Tensor  # (U, 4, K) logits of the served model

    @property
    def there(self) -> Tensor:
        """(U, 4) bool: which outputs an utterance has."""
        return torch.cat([self.present.any(1, keepdim=True), self.present], 1)

    def part(self, index: Tensor) -> "Examples":
        """Return only the clips in `index`, in its order."""
        place = torch.full((len(self.targets),), -1)
        place[index] = torch.arange(len(index))
        rows = torch.nonzero(place[self.clip] >= 0).flatten()
        rows = rows[place[self.clip[rows]].argsort(stable=True)]
        return Examples(
            middles=tuple(m[rows] for m in self.middles),
            pooled=tuple(p[rows] for p in self.pooled),
            present=self.present[rows],
            share=self.share[rows],
            clip=place[self.clip[rows]],
            targets=self.targets[index],
            labelled=self.labelled[index],
            served=self.served[rows],
        )


@torch.no_grad()
def examples(
    model: EmotionModel,
    middles: tuple[Tensor, ...],
    pooled: tuple[Tensor, ...],
    present: Tensor,
    share: Tensor,
    clip: Tensor,
    targets: Tensor,
) -> Examples:
    """Return Examples with the served model's answers and with which labels are about something that is there."""
    model = copy.deepcopy(model).cpu()
    there = torch.cat([present.any(1, keepdim=True), present], 1).float()
    readable = torch.zeros(len(targets), len(OUTPUTS)).index_add_(0, clip, there) > 0
    labelled = (targets.sum(-1) > 0) & readable
    served = torch.zeros(len(present), len(OUTPUTS), N_EMOTIONS)
    ex = Examples(middles, pooled, present, share, clip, targets, labelled, served)
    return replace(ex, served=answers(model, ex))


def answers(model: EmotionModel, ex: Examples) -> Tensor:
    """Return the logits (U, 4, K) of the fusion and of each branch."""
    return _answers(model, ex)[0]


def _answers(model: EmotionModel, ex: Examples) -> tuple[Tensor, Tensor]:
    """Return the logits (U, 4, K) of the fusion and of each branch, and how strongly it takes their votes (U, 3)."""
    face, voice, text = ex.middles
    tops = model.project(ex.pooled, ex.present)
    votes = model.vote(tops, ex.pooled, ex.present)
    output = model.fuse(BranchStates((face, voice, text), tops, votes), ex.present)
    return torch.cat([output.logits[:, None], votes], 1), output.weights


def probabilities(logits: Tensor, ex: Examples) -> Tensor:
    """Return (N, 4, K): the mean over a clip's utterances, weighted as when served; zeros where none is there."""
    weight = ex.share[:, None] * ex.there  # (U, 4)
    total = torch.zeros(len(ex.targets), len(OUTPUTS)).index_add_(0, ex.clip, weight)
    sums = torch.zeros(ex.targets.shape).index_add_(0, ex.clip, logits.softmax(-1) * weight[..., None])
    return sums / total.clamp_min(1e-9)[..., None]


def training_targets(ex: Examples) -> tuple[Tensor, Tensor]:
    """Return the target of each output of each utterance (U, 4, K), and its weight in the loss (U, 4).

    A branch learns from labels of its own; from those of everything less, unless it is alone. An output that nobody
    judged keeps the served model's answer.
    """
    direct, whole = ex.labelled[ex.clip], ex.labelled[ex.clip, :1]  # (U, 4), (U, 1)
    alone = ex.present.sum(1, keepdim=True) == 1  # then the branch is the verdict
    targets = torch.where(whole[..., None], ex.targets[ex.clip, :1], ex.served.softmax(-1))
    targets = torch.where(direct[..., None], ex.targets[ex.clip], targets)
    indirect = torch.where(whole, torch.where(alone, 1.0, HEAD_SHARE), UNLABELLED_SHARE)
    weight = torch.where(direct, 1.0, indirect) * torch.cat([~alone, ex.present], 1)
    return targets, weight * ex.share[:, None]


def rarity(ex: Examples) -> Tensor:
    """Return how much each clip counts (N,): an emotion of n times the labels counts the root of n times."""
    targets = ex.targets.sum(1)  # (N, K)
    targets = targets / targets.sum(1, keepdim=True).clamp_min(1e-9)
    return (targets / targets.sum(0).clamp_min(1e-9).sqrt()).sum(1)


def tell_apart(correction: Correction, pooled: Tensor, known: Exemplar | None, *, flagged: bool) -> None:
    """Have a correction know which clips are near those that were corrected.

    Near is what a linear classifier takes for one of them rather than for an exemplar. Without exemplars everything is.

    Args:
        pooled: (N, C) of the corrected clips.
        flagged: the last column says whether Whisper listened.
    """
    reference = pooled if known is None else known.pooled
    deviation = reference.std(0, correction=0)
    correction.mean.copy_(reference.mean(0))
    correction.scale.copy_(torch.where(deviation > 1e-3, 1 / deviation.clamp_min(1e-3), 0.0))
    if flagged:
        correction.heard.copy_(pooled[:, -1].mean())
    near = correction.likeness
    if known is None:
        near.weight.data.zero_()
        near.bias.data.fill_(STEEP)
        return
    corrected, others = correction.standard(pooled), correction.standard(known.pooled)

    def loss() -> Tensor:
        wrong = softplus(-near(corrected)).mean() + softplus(near(others)).mean()
        return wrong + LIKENESS * near.weight.square().sum()

    near.requires_grad_()
    minimise(list(near.parameters()), loss, STEPS)
    near.requires_grad_(False)
    steep = STEEP / near(corrected).median().clamp_min(0.1)
    near.bias.data.mul_(steep)
    near.weight.data.mul_(steep)


def fit(
    model: EmotionModel,
    ex: Examples,
    exemplars: Exemplars | None,
    strengths: Sequence[float],
    watch: Callable[[float], None] | None = None,
) -> None:
    """Give `model` corrections that the examples teach, in place of those it has; `watch` is called at each strength.

    What fusion makes of a changed vote is taken as its weight of it, which leaves the loss convex; what is measured is
    the fusion's own answer.
    """
    model.requires_grad_(False).eval()
    model.corrections.clear()
    with torch.no_grad():
        logits, weights = _answers(model, ex)
    targets, weight = training_targets(ex)
    targets = targets * (1 - SMOOTHING) + SMOOTHING / N_EMOTIONS
    weight = weight * rarity(ex)[ex.clip, None]
    rows = weight.sum(1) > 0
    logits, weights, targets, weight = (x[rows] for x in (logits, weights, targets, weight / weight.sum()))
    temperature = torch.where(ex.present[rows].sum(1) > 1, model.fusion.temperature, 1.0)
    changes, read = [], []
    for i, modality in enumerate(MODALITIES):
        here = ex.present[:, i] & rows
        if not weight[:, i + 1].sum() > 0:
            continue
        correction = model.correct(modality)
        known = exemplars.training(modality) if exemplars else None
        flagged = modality == "voice" and model.pooled_sizes[i] > model.config.state
        tell_apart(correction, ex.pooled[i][here], known if known and len(known.targets) else None, flagged=flagged)
        changes.append(correction.change.requires_grad_())
        read.append((i, correction.standard(ex.pooled[i][rows]), ex.present[rows, i, None]))

    def loss_at(strength: float) -> Tensor:
        shifts = torch.zeros(len(logits), len(MODALITIES), N_EMOTIONS)
        for change, (i, x, here) in zip(changes, read, strict=True):
            shifts[:, i] = change(x) * here
        fused = (weights[..., None] * shifts).sum(1) / temperature[:, None]
        found = (logits + torch.cat([fused[:, None], shifts], 1)).log_softmax(-1)
        size = sum(c.weight.square().sum() + BIAS_SHARE * c.bias.square().sum() for c in changes)
        return -(weight * (targets * found).sum(-1)).sum() + strength * size

    for strength in sorted(strengths, reverse=True):
        minimise([p for change in changes for p in change.parameters()], partial(loss_at, strength), STEPS)
        if watch:
            with torch.no_grad():
                watch(strength)
    model.requires_grad_(False)


def balanced_nll(probs: Tensor, ex: Examples, where: Tensor) -> float:
    """Return the mean over the emotions of the negative log-likelihood of their judgements: what UAR is to accuracy.

    Args:
        where: (N,) bool: the clips that count.
    """
    labelled = ex.labelled & where[:, None]
    truth = ex.targets[labelled]
    nll = -(truth * probs[labelled].clamp_min(1e-6).log()).sum(-1)
    mass = truth.sum(0)
    return float(((truth * nll[:, None]).sum(0)[mass > 0] / mass[mass > 0]).mean())


@dataclass(frozen=True)
class Choice:
    """How to train, as cross-validation inside the training part found it."""

    strength: float | None  # of the penalty on changes; None: nothing helped
    served_nll: float
    nll: float  # on clips the fold had not seen


@dataclass(frozen=True)
class CrossFit:
    """The answers of models trained in the chosen way that had not seen the clip, or had not seen its speaker."""

    choice: Choice
    logits: dict[str, Tensor]  # (U, 4, K) by the name of the folds; the served model's where no fold judged


def cross_fit(model: EmotionModel, ex: Examples, folds: dict[str, Folds], exemplars: Exemplars | None) -> CrossFit:
    """Return the strength that did best on clips and on speakers left out, and its answers there.

    Args:
        folds: which clips are judged together by a model that learned from the others.
    """
    judged = {name: torch.isin(torch.arange(len(ex.targets)), torch.cat(f.parts)) for name, f in folds.items()}
    served = {name: balanced_nll(probabilities(ex.served, ex), ex, where) for name, where in judged.items()}
    served_nll = sum(served.values()) / len(served)
    outer = {(name, s): ex.served.clone() for name in folds for s in STRENGTHS}
    parts = [(name, test) for name, split in folds.items() for test in split.parts]
    trained = copy.deepcopy(model)
    for name, test in tqdm(parts, desc="choosing", unit="model", mininterval=1):
        learn = torch.nonzero(~torch.isin(torch.arange(len(ex.targets)), test)).flatten()
        held, rows = ex.part(test.sort().values), torch.isin(ex.clip, test)

        def watch(strength: float, held=held, rows=rows, name=name) -> None:
            outer[name, strength][rows] = answers(trained, held)

        fit(trained, ex.part(learn), exemplars, STRENGTHS, watch)
    best = Choice(None, served_nll, served_nll)
    for strength in STRENGTHS:
        losses = [balanced_nll(probabilities(outer[name, strength], ex), ex, judged[name]) for name in folds]
        if (nll := sum(losses) / len(losses)) < best.nll:
            best = Choice(strength, served_nll, nll)
    found = {name: ex.served if best.strength is None else outer[name, best.strength] for name in folds}
    return CrossFit(best, found)
