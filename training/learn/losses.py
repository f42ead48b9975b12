"""Losses for soft labels and unequal classes, and what is fitted after training: temperature and prior.

All take logits (B, K) and targets (B, K) that sum to 1 in each row, and return the mean over the batch. With one
label a row they are their papers' losses; with shares each class's term counts by its share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LOSSES = ("cross_entropy", "smoothing", "class_balanced", "focal", "ldam_drw", "logit_adjustment", "sigmoid")


def soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    log_prior: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy against label distributions.

    Args:
        smoothing: share of each target spread evenly. https://arxiv.org/abs/1512.00567
        log_prior: (K,) log class frequencies times tau, added to the logits while training so that rare classes are
            not argued away: logit adjustment, https://arxiv.org/abs/2007.07314
        weights: (K,) what each class counts, as of `class_balanced_weights`.
    """
    if log_prior is not None:
        logits = logits + log_prior
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    if weights is not None:
        targets = targets * weights
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def log_prior(counts: Tensor, tau: float) -> Tensor:
    """Return tau times the log class frequencies (K,); classes never seen get the frequency of half an example."""
    counts = counts.clamp_min(0.5)
    return tau * (counts / counts.sum()).log()


def adjusted(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Return trained logits without the prior they learned: post-hoc logit adjustment.

    At tau 1 the largest is the choice of least balanced error. https://arxiv.org/abs/2007.07314
    """
    return logits - log_prior(counts, tau)


def class_balanced_weights(counts: Tensor, beta: float = 0.999) -> Tensor:
    """Return weights (K,) inverse to the effective number of examples, (1 - beta^n) / (1 - beta), with mean 1.

    beta 0 weighs all classes alike, beta -> 1 by the inverse of their frequency. A class without examples gets 0.
    https://arxiv.org/abs/1901.05555
    """
    counts = counts.double()
    there = counts > 0
    inverse = torch.where(there, (1 - beta) / (1 - beta ** counts.clamp_min(1e-9)), 0.0)
    return (inverse * there.sum() / inverse.sum()).float()


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the cross-entropy in which what is already right counts less: (1 - p)^gamma times each term.

    https://arxiv.org/abs/1708.02002
    """
    log_p = logits.log_softmax(1)
    return -(targets * (1 - log_p.exp()) ** gamma * log_p).sum(1).mean()


def margins(counts: Tensor, largest: float = 0.5) -> Tensor:
    """Return LDAM's margin of each class (K,), proportional to n^(-1/4); the rarest class has the largest.

    https://arxiv.org/abs/1906.07413
    """
    margin = counts.clamp_min(1).float() ** -0.25
    return margin * largest / margin.max()


def ldam(logits: Tensor, targets: Tensor, margin: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy in which each class must win by its margin. https://arxiv.org/abs/1906.07413

    The paper scales cosine logits by 30; our heads are linear, so nothing is scaled and the margin is in logits.
    """
    lowered = logits - margin
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(itself, float("-inf")).logsumexp(2)  # (B, K): of all but the class
    terms = targets * (lowered - torch.logaddexp(others, lowered))
    return -(terms if weights is None else terms * weights).sum(1).mean()


def multi_label(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of a sigmoid output, one yes or no for each emotion.

    The likeliest label of a row is a whole yes and the others are relative to it: two labels of one half each are two
    yeses. The probabilities of such a model are `logits.sigmoid()` and need not sum to 1.
    """
    yes = targets / targets.amax(1, keepdim=True)
    return -(yes * logsigmoid(logits) - (1 - yes) * softplus(logits)).mean()


@dataclass
class Loss:
    """A loss by its name in `LOSSES`, for the classes' counts of the training data.

    `begin` tells it how far training is: LDAM's weights are deferred (DRW) to the last fifth, as in its paper.
    """

    name: str
    counts: Tensor  # (K,)
    smoothing: float = 0.1
    gamma: float = 2.0
    beta: float = 0.999
    tau: float = 1.0
    deferred: float = 0.8
    progress: float = 0.0

    def __post_init__(self):
        if self.name not in LOSSES:
            raise ValueError(f"loss {self.name!r} is none of {', '.join(LOSSES)}")

    def begin(self, epoch: int, epochs: int) -> None:
        self.progress = epoch / epochs

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        counts = self.counts.to(logits.device)
        if self.name == "smoothing":
            return soft_cross_entropy(logits, targets, smoothing=self.smoothing)
        if self.name == "class_balanced":
            return soft_cross_entropy(logits, targets, weights=class_balanced_weights(counts, self.beta))
        if self.name == "focal":
            return focal(logits, targets, gamma=self.gamma)
        if self.name == "ldam_drw":
            weights = class_balanced_weights(counts, self.beta) if self.progress >= self.deferred else None
            return ldam(logits, targets, margins(counts), weights=weights)
        if self.name == "logit_adjustment":
            return soft_cross_entropy(logits, targets, log_prior=log_prior(counts, self.tau))
        if self.name == "sigmoid":
            return multi_label(logits, targets)
        return soft_cross_entropy(logits, targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return rows that sum to 1: the softmax, or the sigmoids' shares."""
        if self.name == "sigmoid":
            yes = logits.sigmoid()
            return yes / yes.sum(-1, keepdim=True)
        return logits.softmax(-1)


def minimise(parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int) -> None:
    """Bring a convex loss down in place, by at most so many steps of L-BFGS."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature in [0.25, 8] that minimises the cross-entropy. https://arxiv.org/abs/1706.04599"""
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    logits, targets = logits.double().detach(), targets.double()
    minimise([log_t], lambda: soft_cross_entropy(logits / log_t.exp(), targets), 100)
    return float(log_t.detach().exp().clamp(0.25, 8.0))
