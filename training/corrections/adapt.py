"""Few labels, a trained model: its heads and fusion learn on states computed once, held close to where they were."""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import Batch, BranchStates, EmotionModel
from training.corrections.config import AdaptConfig
from training.learn.losses import fit_temperature

OUTPUTS = ("all", *MODALITIES)  # what a label can be about, and what the model answers: the fusion and each branch
FOLDS = 3
STRENGTHS = (0.1, 1.0)  # how hard the served model holds
HEAD_SHARE = 0.3  # a label of everything says less about one channel: the face may smile at sad words
CLOSENESS = 0.01  # of the start weights against the distillation term
BATCH = 32


@dataclass(frozen=True)
class Examples:
    """Branch embeddings of N labelled clips, in U utterances."""

    middles: tuple[Tensor, Tensor, Tensor]  # (U, C_middle) of each branch
    tops: Tensor  # (U, 3, state)
    present: Tensor  # (U, 3) bool
    share: Tensor  # (U,) weight within its clip
    clip: Tensor  # (U,) index of its clip
    targets: Tensor  # (N, 4, K) for each output
    labelled: Tensor  # (N, 4) bool: that output was labelled and can be read
    served: Tensor  # (U, 4, K) logits of the served model
    batches: tuple[Batch, ...] = ()  # one a clip, only where the encoders may learn

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
        face, voice, text = (m[rows] for m in self.middles)
        return Examples(
            middles=(face, voice, text),
            tops=self.tops[rows],
            present=self.present[rows],
            share=self.share[rows],
            clip=place[self.clip[rows]],
            targets=self.targets[index],
            labelled=self.labelled[index],
            served=self.served[rows],
            batches=tuple(self.batches[i] for i in index) if self.batches else (),
        )


@torch.no_grad()
def examples(
    model: EmotionModel,
    middles: tuple[Tensor, Tensor, Tensor],
    tops: Tensor,
    present: Tensor,
    share: Tensor,
    clip: Tensor,
    targets: Tensor,
    batches: tuple[Batch, ...] = (),
) -> Examples:
    """Return Examples with the served model's answers and with which labels are about something that is there."""
    model = copy.deepcopy(model).cpu()
    there = torch.cat([present.any(1, keepdim=True), present], 1).float()
    readable = torch.zeros(len(targets), len(OUTPUTS)).index_add_(0, clip, there) > 0
    labelled = (targets.sum(-1) > 0) & readable
    served = torch.zeros(len(tops), len(OUTPUTS), N_EMOTIONS)
    ex = Examples(middles, tops, present, share, clip, targets, labelled, served, batches)
    return replace(ex, served=answers(model, ex))


def answers(model: EmotionModel, ex: Examples, *, deep: bool = False) -> Tensor:
    """Return the logits (U, 4, K) of the fusion and of each branch."""
    middles, tops = ex.middles, ex.tops
    if deep:
        states = [model.branches(batch) for batch in ex.batches]
        face, voice, text = (torch.cat([s.middles[i] for s in states]) for i in range(len(MODALITIES)))
        middles = face, voice, text
        tops = torch.cat([s.tops for s in states])
    votes = torch.stack([model.heads[m](tops[:, i]) / model.temperatures[i] for i, m in enumerate(MODALITIES)], 1)
    votes = votes * ex.present[..., None]
    # Cut here, a label of everything moves a head only by its own, smaller term.
    fused = model.fuse(BranchStates(middles, tops, votes.detach()), ex.present).logits
    return torch.cat([fused[:, None], votes], 1)


def probabilities(logits: Tensor, ex: Examples) -> Tensor:
    """Return (N, 4, K): the mean over a clip's utterances, weighted as the predictor does; else zeros."""
    weight = ex.share[:, None] * ex.there  # (U, 4)
    total = torch.zeros(len(ex.targets), len(OUTPUTS)).index_add_(0, ex.clip, weight)
    sums = torch.zeros(ex.targets.shape).index_add_(0, ex.clip, logits.softmax(-1) * weight[..., None])
    return sums / total.clamp_min(1e-9)[..., None]


def training_targets(ex: Examples) -> tuple[Tensor, Tensor]:
    """Return the target of each output of each utterance (U, 4, K), and its weight in the loss (U, 4)."""
    direct = ex.labelled[ex.clip]  # (U, 4)
    whole = ex.targets[ex.clip, :1]  # (U, 1, K)
    targets = torch.where(direct[..., None], ex.targets[ex.clip], whole)
    alone = ex.present.sum(1, keepdim=True) == 1  # then the branch is the verdict
    weight = torch.where(direct, 1.0, direct[:, :1] * torch.where(alone, 1.0, HEAD_SHARE))
    weight = weight * torch.cat([~alone, ex.present], 1)
    return targets, weight * ex.share[:, None]


def fit(
    model: EmotionModel,
    ex: Examples,
    config: AdaptConfig,
    strength: float,
    epochs: int,
    *,
    deep: bool,
    watch: Callable[[EmotionModel], None] | None = None,
) -> None:
    """Train `model` in place; `watch` is called before the first and after every epoch."""
    model.requires_grad_(False).eval()  # no dropout: the encoders' states are fixed; BatchNorm must not move
    last = [model.fusion.weigh, model.fusion.correct]
    groups: list[dict[str, Any]] = [
        {"params": [p for m in (model.heads, *last) for p in m.parameters()], "lr": config.lr}
    ]
    if deep:
        inner = [m for e in model.encoders.values() for n, m in e.named_children() if n not in ("cnn", "convs", "skip")]
        groups += [{"params": [p for m in inner for p in m.parameters()], "lr": config.lr / 10}]
    every = [p.requires_grad_() for group in groups for p in group["params"]]
    start = [p.detach().clone() for p in every]
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(config.seed)
    if watch:
        watch(model)
    for _ in range(epochs):
        for index in torch.randperm(len(ex.targets), generator=generator).split(BATCH):
            part = ex.part(index)
            targets, weight = training_targets(part)
            logits = answers(model, part, deep=deep)
            loss = -(targets * logits.log_softmax(-1)).sum(-1)
            named = targets > 0
            was = part.served.masked_fill(named, -1e4).log_softmax(-1)
            now = logits.masked_fill(named, -1e4).log_softmax(-1)
            drift = (was.exp() * (was - now)).sum(-1)
            moved = sum(((p - q) ** 2).sum() for p, q in zip(every, start, strict=True))
            mean = (weight * (loss + strength * drift)).sum() / weight.sum().clamp_min(1e-6)
            loss = mean + strength * CLOSENESS * moved
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(every, 5.0)
            optimizer.step()
        if watch:
            watch(model)
    model.requires_grad_(False)


def balanced_nll(probs: Tensor, ex: Examples) -> float:
    """Return the mean over the emotions of the negative log-likelihood of their judgements: what UAR is to accuracy."""
    truth = ex.targets[ex.labelled]
    nll = -(truth * probs[ex.labelled].clamp_min(1e-6).log()).sum(-1)
    mass = truth.sum(0)
    return float(((truth * nll[:, None]).sum(0)[mass > 0] / mass[mass > 0]).mean())


def folds(groups: Sequence[str]) -> Tensor:
    """Return the inner fold of each clip (N,): whole groups, the fullest first, each to the emptiest fold."""
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda g: (-sizes[g], hashlib.sha256(f"inner {g}".encode()).hexdigest()))
    filled, fold = [0] * FOLDS, {}
    for group in order:
        fold[group] = filled.index(min(filled))
        filled[fold[group]] += sizes[group]
    return torch.tensor([fold[g] for g in groups])


@dataclass(frozen=True)
class Choice:
    """How to train, as cross-validation inside the training part found it."""

    strength: float
    deep: bool
    epochs: int  # 0: nothing helped
    served_nll: float
    nll: float  # on clips the fold had not seen
    temperature: float  # of the fusion, against the served one


def choose(model: EmotionModel, ex: Examples, groups: Sequence[str], config: AdaptConfig) -> Choice:
    """Return the strength, depth and length of training that did best on inner folds."""
    inside = folds(groups)
    may_be_deep = ex.batches and len(groups) >= config.deep_from
    plans = [(s, deep) for deep in ((False, True) if may_be_deep else (False,)) for s in STRENGTHS]
    best: tuple[float, float, bool, int, Tensor, float] | None = None
    bar = tqdm(total=len(plans) * FOLDS * (config.epochs + 1), desc="choosing", unit="epoch", mininterval=1)
    for strength, deep in plans:
        outer = torch.zeros(config.epochs + 1, len(ex.tops), len(OUTPUTS), N_EMOTIONS)
        for k in range(FOLDS):
            learn, test = torch.nonzero(inside != k).flatten(), torch.nonzero(inside == k).flatten()
            if not len(learn) or not len(test):
                outer[:, torch.isin(ex.clip, test)] = ex.served[torch.isin(ex.clip, test)]
                continue
            held = ex.part(test)
            heard: list[Tensor] = []

            @torch.no_grad()
            def watch(trained: EmotionModel, held=held, heard=heard) -> None:
                heard.append(answers(trained, held, deep=deep))  # noqa: B023  called inside this round
                bar.update()

            fit(copy.deepcopy(model), ex.part(learn), config, strength, config.epochs, deep=deep, watch=watch)
            outer[:, torch.isin(ex.clip, test)] = torch.stack(heard)
        losses = [balanced_nll(probabilities(o, ex), ex) for o in outer]
        epoch = int(np.argmin(losses))
        if best is None or losses[epoch] < best[0]:
            best = (losses[epoch], strength, deep, epoch, outer[epoch], losses[0])
    bar.close()
    assert best is not None  # there is at least one plan
    nll, strength, deep, epoch, logits, served_nll = best
    return Choice(strength, deep, epoch, served_nll, nll, _temperature(logits, ex, inside))


def _temperature(logits: Tensor, ex: Examples, inside: Tensor) -> float:
    """Return the factor for the fusion's temperature, 1 unless fitting it on two folds helps on the third.

    A head's training sets its scale; the fused sum of three votes is where confidence is easily overdone.
    """
    rows = ex.labelled[ex.clip, 0] & (ex.present.sum(1) > 1)
    fused, targets, fold = logits[rows, 0], ex.targets[ex.clip[rows], 0], inside[ex.clip[rows]]
    if len(fold.unique()) < FOLDS:
        return 1.0
    gain = 0.0
    for k in range(FOLDS):
        t = fit_temperature(fused[fold != k], targets[fold != k])
        x, y = fused[fold == k], targets[fold == k]
        gain += float((y * ((x / t).log_softmax(1) - x.log_softmax(1))).sum())
    return fit_temperature(fused, targets) if gain > 0 else 1.0
