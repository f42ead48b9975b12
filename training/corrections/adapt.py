"""Few labels, a trained model: its heads, last layers and fusion learn on states computed once, beside rehearsal.

What a branch pools (`mmer.encoders`) is fixed, so a clip is seen and heard once. Each step takes some corrections and
some exemplars of what the base model learned from, drawn as label-matched tuples of branches and held to the labels
and to the served model's answers alike: https://arxiv.org/abs/1606.09282, https://arxiv.org/abs/1902.10486.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from tqdm import tqdm

from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import BranchStates, EmotionModel
from training.corrections.config import AdaptConfig
from training.corrections.folds import Folds
from training.learn.exemplars import Exemplars

OUTPUTS = ("all", *MODALITIES)  # what a label can be about, and what the model answers: the fusion and each branch
LENGTHS = (25, 50, 100, 200, 400, 800)  # steps among which cross-validation chooses
HEAD_SHARE = 0.3  # a label of everything says less about one channel: the face may smile at sad words
UNLABELLED_SHARE = 0.3  # of a label's weight, for an output nobody judged: it stays as the served model has it
SMOOTHING = 0.05
BATCH = 64
AVERAGE = 0.98  # decay per step of the weights' average
BASE_LOSS = 0.01  # of UAR on the base exemplars: a plan that costs more is not chosen
CLOSENESS = 0.01  # of the start weights, where there is nothing to rehearse


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
    return _answers(model, ex.middles, ex.pooled, ex.present, [True] * len(OUTPUTS))


def _answers(
    model: EmotionModel,
    middles: Sequence[Tensor],
    pooled: Sequence[Tensor],
    present: Tensor,
    outputs: Sequence[bool],
) -> Tensor:
    """Return the logits (U, 4, K) of some outputs, zeros of the others: what nobody teaches need not be computed."""
    nothing = present.new_zeros(len(present), N_EMOTIONS, dtype=torch.float32)
    tops, votes = [], []
    for i, modality in enumerate(MODALITIES):
        top, vote = nothing.new_zeros(len(present), model.config.state), nothing
        if outputs[i + 1] or outputs[0]:
            here = present[:, i, None].to(nothing.dtype)
            top = model.encoder(modality).project(pooled[i]) * here
            vote = model.heads[modality](top) / model.temperatures[i] * here
        tops.append(top)
        votes.append(vote)
    logits = nothing
    if outputs[0]:
        face, voice, text = middles
        # Cut here, a label of everything moves a head only by its own, smaller term.
        top, vote = torch.stack(tops, 1).detach(), torch.stack(votes, 1).detach()
        logits = model.fuse(BranchStates((face, voice, text), top, vote), present).logits
    return torch.stack([logits, *votes], 1)


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


def sampling(ex: Examples, weight: Tensor) -> Tensor:
    """Return how often each utterance is drawn (U,): a clip's by their share, a rare emotion's more often.

    An emotion with n times the labels of another is drawn the root of n times as often.
    """
    targets = ex.targets.flatten(1).view(len(ex.targets), len(OUTPUTS), N_EMOTIONS).sum(1)  # (N, K)
    targets = targets / targets.sum(1, keepdim=True).clamp_min(1e-9)
    rarity = (targets / targets.sum(0).clamp_min(1e-9).sqrt()).sum(1)
    return rarity[ex.clip] * ex.share * (weight.sum(1) > 0)


class Rehearsal:
    """Label-matched tuples of exemplars, with the answers that the served model gives."""

    def __init__(self, exemplars: Exemplars, model: EmotionModel):
        self.parts = [exemplars.training(m) for m in MODALITIES]
        places = [
            [torch.nonzero(part.targets.argmax(1) == k).flatten() for k in range(N_EMOTIONS)] for part in self.parts
        ]
        self.counts = [torch.tensor([len(rows) for rows in of_branch]) for of_branch in places]
        self.places = [nn.utils.rnn.pad_sequence(of_branch, batch_first=True) for of_branch in places]
        self.emotions = torch.nonzero(torch.stack(self.counts).amin(0) > 0).flatten()
        self.served = []
        with torch.no_grad():
            for i, (modality, part) in enumerate(zip(MODALITIES, self.parts, strict=True)):
                logits = model.heads[modality](model.encoder(modality).project(part.pooled))
                self.served.append((logits / model.temperatures[i]).softmax(1))

    def draw(self, n: int, g: torch.Generator) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return middles and pooled of each branch, `present` (n, 3) and targets (n, 4, K)."""
        label = self.emotions[torch.randint(len(self.emotions), (n,), generator=g)]
        present = torch.ones(n, len(MODALITIES), dtype=torch.bool)
        gone = torch.rand(n, generator=g) < 0.5
        present[gone, torch.randint(len(MODALITIES), (n,), generator=g)[gone]] = False
        truth = one_hot(label, N_EMOTIONS).float()
        middles, pooled, targets = [], [], [truth]
        for part, places, counts, served in zip(self.parts, self.places, self.counts, self.served, strict=True):
            pick = places[label, (torch.rand(n, generator=g) * counts[label]).long()]
            middles.append(part.middle[pick])
            pooled.append(part.pooled[pick])
            targets.append((truth + served[pick]) / 2)
        return middles, pooled, present, torch.stack(targets, 1)


@dataclass(frozen=True)
class _Taught:
    """What learns: the parts of the model that some correction is about."""

    outputs: Tensor  # (4,) bool
    modules: list[nn.Module]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules for p in module.parameters()]


def _taught(model: EmotionModel, weight: Tensor, *, deep: bool) -> _Taught:
    outputs = weight.sum(0) > 0
    modules: list[nn.Module] = [model.fusion.weigh, model.fusion.correct] if outputs[0] else []
    for modality, some in zip(MODALITIES, outputs[1:].tolist(), strict=True):
        if some:
            modules.append(model.heads[modality])
            names = [n for n in model.encoder(modality).projecting if deep and n != "whisper.rest"]
            found = (_find(model.encoders[modality], name) for name in names)
            modules += [module for module in found if module is not None]
    return _Taught(outputs, modules)


def _find(module: nn.Module | None, name: str) -> nn.Module | None:
    for part in name.split("."):
        module = None if module is None else getattr(module, part)
    return module


@contextmanager
def _with_weights(parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
    kept = [p.data for p in parameters]
    for p, w in zip(parameters, weights, strict=True):
        p.data = w
    try:
        yield
    finally:
        for p, w in zip(parameters, kept, strict=True):
            p.data = w


def fit(
    model: EmotionModel,
    ex: Examples,
    rehearsal: Rehearsal | None,
    config: AdaptConfig,
    steps: int,
    *,
    deep: bool,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Train `model` in place, which ends with the average of its weights; `watch` is called at each of `LENGTHS`."""
    model.requires_grad_(False).eval()  # what is not taught keeps still, BatchNorm and dropout too
    targets, weight = training_targets(ex)
    taught = _taught(model, weight, deep=deep)
    parameters = [p.requires_grad_() for p in taught.parameters]
    for module in taught.modules:
        module.train()
    start, average = ([p.detach().clone() for p in parameters] for _ in range(2))
    optimizer, often = torch.optim.Adam(parameters, config.lr), sampling(ex, weight)
    g = torch.Generator().manual_seed(config.seed)
    n_new, outputs = max(round(BATCH * config.share), 1), taught.outputs.tolist()

    def loss_of(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        smooth = targets * (1 - SMOOTHING) + SMOOTHING / N_EMOTIONS
        loss = -(smooth * logits.log_softmax(-1)).sum(-1)
        return (weight * loss).sum() / weight.sum().clamp_min(1e-6)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of dropout
        for step in range(1, steps + 1):
            rows = torch.multinomial(often, n_new, replacement=True, generator=g)
            drawn = _answers(
                model, [x[rows] for x in ex.middles], [x[rows] for x in ex.pooled], ex.present[rows], outputs
            )
            loss = loss_of(drawn, targets[rows], weight[rows])
            if rehearsal is not None:
                middles, pooled, present, known = rehearsal.draw(BATCH - n_new, g)
                counts = torch.cat([present.sum(1, keepdim=True) > 1, present], 1) & taught.outputs
                loss = config.share * loss + (1 - config.share) * loss_of(
                    _answers(model, middles, pooled, present, outputs), known, counts.float()
                )
            else:
                moved = sum(((p - q) ** 2).sum() for p, q in zip(parameters, start, strict=True))
                loss = loss + CLOSENESS * moved
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay = min(AVERAGE, step / (step + 10))
            with torch.no_grad():
                for kept, p in zip(average, parameters, strict=True):
                    kept.lerp_(p, 1 - decay)
            if watch and step in LENGTHS:
                with _with_weights(parameters, average), torch.no_grad():
                    model.eval()
                    watch(step)
                    for module in taught.modules:
                        module.train()
    for p, kept in zip(parameters, average, strict=True):
        p.data = kept
    model.requires_grad_(False).eval()


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

    deep: bool
    steps: int  # 0: nothing helped
    served_nll: float
    nll: float  # on clips the fold had not seen
    base: float  # gain in UAR on the base exemplars, mean over the folds; 0 without exemplars


@dataclass(frozen=True)
class CrossFit:
    """The answers of models trained in the chosen way that had not seen the clip, or had not seen its speaker."""

    choice: Choice
    logits: dict[str, Tensor]  # (U, 4, K) by the name of the folds; the served model's where no fold judged


def cross_fit(
    model: EmotionModel,
    ex: Examples,
    folds: dict[str, Folds],
    rehearsal: Rehearsal | None,
    base_uar: Callable[[EmotionModel], float],
    config: AdaptConfig,
) -> CrossFit:
    """Return the length of training that did best on clips and on speakers left out, and its answers there.

    Args:
        folds: which clips are judged together by a model that learned from the others.
        base_uar: of a model on the base exemplars.
    """
    lengths = [n for n in LENGTHS if n <= config.steps] or [config.steps]
    deep = len(ex.targets) >= config.deep_from
    judged = {name: torch.isin(torch.arange(len(ex.targets)), torch.cat(f.parts)) for name, f in folds.items()}
    served = {name: balanced_nll(probabilities(ex.served, ex), ex, where) for name, where in judged.items()}
    served_nll, before = sum(served.values()) / len(served), base_uar(model)
    best = Choice(False, 0, served_nll, served_nll, 0.0)
    found = dict.fromkeys(folds, ex.served)
    total = sum(len(f.parts) for f in folds.values())
    bar = tqdm(total=total, desc="choosing", unit="model", mininterval=1)
    outer = {(name, n): ex.served.clone() for name in folds for n in lengths}
    base: dict[int, list[float]] = {n: [] for n in lengths}
    for name, split in folds.items():
        for test in split.parts:
            learn = torch.nonzero(~torch.isin(torch.arange(len(ex.targets)), test)).flatten()
            held, rows = ex.part(test.sort().values), torch.isin(ex.clip, test)
            trained = copy.deepcopy(model)

            def watch(n: int, held=held, rows=rows, trained=trained, name=name) -> None:
                outer[name, n][rows] = answers(trained, held)
                base[n].append(base_uar(trained) - before)

            fit(trained, ex.part(learn), rehearsal, config, lengths[-1], deep=deep, watch=watch)
            bar.update()
    for n in lengths:
        losses = [balanced_nll(probabilities(outer[name, n], ex), ex, judged[name]) for name in folds]
        nll, cost = sum(losses) / len(losses), sum(base[n]) / len(base[n])
        if nll < best.nll and cost >= -BASE_LOSS:
            best = Choice(deep, n, served_nll, nll, cost)
            found = {name: outer[name, n] for name in folds}
    bar.close()
    return CrossFit(best, found)
