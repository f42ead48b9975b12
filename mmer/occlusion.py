"""What each unit adds, found by taking groups of units away and by leaving them alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def occluded(
    logit_of: Callable[[Tensor], Tensor], partitions: Sequence[Tensor], *, both_ways: bool
) -> tuple[Tensor, float]:
    """Return what each unit adds (n,), and f(everything) - f(nothing), which they sum to.

    Each group of each partition goes once. A unit gets its part of what its groups took away, averaged over the
    partitions. What no single group takes away is divided equally, as costs that cannot be separated are
    (Moulin, The separability axiom and equal-sharing methods, 1985).

    Args:
        logit_of: kept units (R, n) bool -> logits (R,).
        partitions: (n,) int each, the group of every unit.
        both_ways: also leave each group alone, and average: the first and the last step of a Shapley value's many.
            https://arxiv.org/abs/1705.07874
    """
    n = len(partitions[0])
    masks = [torch.arange(int(p.max()) + 1, device=p.device)[:, None] == p for p in partitions]  # (groups, n)
    inside = torch.cat(masks)
    ends = torch.stack([torch.ones_like(inside[0]), torch.zeros_like(inside[0])])
    logits = logit_of(torch.cat([ends, ~inside, inside] if both_ways else [ends, ~inside]))
    whole, nothing, taken, left = logits.split([1, 1, len(inside), len(logits) - 2 - len(inside)])
    effects = whole - taken
    if both_ways:
        effects = (effects + left - nothing) / 2
    scores = logits.new_zeros(n)
    for mask, effect in zip(masks, effects.split([len(m) for m in masks]), strict=True):
        scores += (mask * (effect / mask.sum(1))[:, None]).sum(0) / len(masks)
    gap = whole - nothing
    return scores + (gap - scores.sum()) / n, float(gap)
