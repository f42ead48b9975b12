"""What each unit adds, found by taking groups of units away and by leaving them alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmer.captum_attr import captum_attr
from mmer.trust import N_RANDOM, random_orders, steps

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of what one unit may add, squared: how far the logit is from a sum


def occluded(
    logit_of: Callable[[Tensor], Tensor], partitions: Sequence[Tensor], *, both_ways: bool
) -> tuple[Tensor, float]:
    """Return what each unit adds (n,), and f(everything) - f(nothing), which they sum to.

    Each group of each partition goes once (Captum's feature ablation). A unit gets its part of what its groups took
    away, averaged over the partitions. What no single group takes away is divided equally, as costs that cannot be
    separated are (Moulin, The separability axiom and equal-sharing methods, 1985).

    Args:
        logit_of: kept units (R, n) bool -> logits (R,).
        partitions: (n,) int each, the group of every unit.
        both_ways: also leave each group alone, and average: the first and the last step of a Shapley value's many.
            https://arxiv.org/abs/1705.07874
    """
    everything = torch.ones(1, len(partitions[0]), device=partitions[0].device)
    nothing = torch.zeros_like(everything)
    method = captum_attr().FeatureAblation(lambda kept: logit_of(kept > 0.5))

    def effects(there: Tensor, other: Tensor, groups: Tensor) -> Tensor:
        """Return the logit of `there` less that with each unit's group as in `other` (n,)."""
        at_once = int(groups.max()) + 1
        return method.attribute(there, other, feature_mask=groups[None], perturbations_per_eval=at_once)[0]

    scores = torch.zeros_like(everything[0])
    for groups in partitions:
        found = effects(everything, nothing, groups)
        if both_ways:
            found = (found - effects(nothing, everything, groups)) / 2
        scores += found / groups.bincount()[groups] / len(partitions)
    gap = torch.sub(*logit_of(torch.cat([everything, nothing]) > 0.5))
    return scores + (gap - scores.sum()) / len(scores), float(gap)


@torch.no_grad()
def regressed(
    logit_of: Callable[[Tensor], Tensor], partitions: Sequence[Tensor], prior: Tensor
) -> tuple[Tensor, float]:
    """As `occluded`, from a linear regression of the logit on which units are there.

    It learns from the sets of units that an occlusion takes away and from those on the random ways on which a verdict
    rests, so that it costs no more runs than they do and knows what a unit adds in the company of half of the others.
    Regression on coalitions is from https://arxiv.org/abs/1705.07874; here it is a Gaussian process, whose noise is the
    one that predicts best what is left out.

    Args:
        prior: (n, n) how alike units are expected to be, before anything was run.
    """
    n, device = len(partitions[0]), partitions[0].device
    gone = torch.cat([torch.arange(int(p.max()) + 1, device=device)[:, None] == p for p in partitions])
    ways = steps(random_orders(n, N_RANDOM))[0].to(device)  # everything and nothing first
    kept = torch.cat([ways, ~gone])
    logits = logit_of(kept).double().cpu()
    whole, nothing = logits[:2]
    gap = whole - nothing
    x = kept[2:].double().cpu()
    rest = logits[2:] - nothing - gap * x.mean(1)  # beyond what equal shares would give
    cross = x @ prior.double().cpu()  # (R, n)
    shape = cross @ x.T
    best = None
    for noise in NOISES:
        inverse = torch.linalg.inv(shape + noise * prior.diagonal().mean().cpu() * torch.eye(len(x)))
        weights = inverse @ rest
        off = (weights / inverse.diagonal()).square().mean()  # of each run, predicted from the others
        if best is None or off < best[0]:
            best = off, cross.T @ weights
    assert best is not None
    scores = best[1] + gap / n
    scores = scores + (gap - scores.sum()) / n
    return scores.to(device, torch.float32), float(gap)
