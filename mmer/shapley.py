"""Exact Shapley values: what each player of a small game adds, averaged over the orders in which they may come.

https://doi.org/10.1515/9781400881970-018
"""

from math import factorial

import torch
from torch import Tensor

from mmer.model import BranchStates, EmotionModel


def exact(worth: Tensor) -> Tensor:
    """Return the values (n, ...) of n players from the worth (2 ** n, ...) of every coalition.

    Args:
        worth: player i is in coalition c where bit i of c is set. With few players nothing needs to be sampled.
    """
    n = len(worth).bit_length() - 1
    values = worth.new_zeros(n, *worth.shape[1:])
    for coalition in range(2**n):
        size = coalition.bit_count()
        for i in range(n):
            if not coalition >> i & 1:
                weight = factorial(size) * factorial(n - size - 1) / factorial(n)
                values[i] += weight * (worth[coalition | 1 << i] - worth[coalition])
    return values


def of_branches(model: EmotionModel, states: BranchStates, present: Tensor) -> Tensor:
    """Return the value (B, 3, K) of each branch for each fused logit, against "no branch"; 0 where it is absent."""
    n = present.shape[1]
    allowed = torch.arange(2**n, device=present.device)[:, None] >> torch.arange(n, device=present.device) & 1
    worth = torch.stack([model.fuse(states, present & mask).logits for mask in allowed.bool()])  # (8, B, K)
    return exact(worth).transpose(0, 1)
