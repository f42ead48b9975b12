"""Integrated gradients that add up: the path is walked in pieces, the steep ones in more of them.

https://arxiv.org/abs/1703.01365
"""

from itertools import pairwise

import torch
from torch import Tensor

from mmer.captum_attr import captum_attr
from mmer.trust import MAX_DELTA, MIN_GAP

PIECES = (4, 16)  # of an integral, at first and at most
STEPS = 4  # in each piece


def slopes(function, inputs: tuple, baselines: tuple, arguments: tuple = ()) -> tuple[tuple, float]:
    """Return the gradients averaged over the straight path from the baselines to the inputs, and the delta of `Trust`.

    Times input - baseline they are integrated gradients. The path is walked in pieces, and while the delta is too large
    the piece that is furthest off is halved. From silence a voice changes little on the first half of the way and much
    on the last hundredth: eight utterances of five clips came within 5 % with 4 to 12 pieces.

    Args:
        function: inputs of B rows, then `arguments` -> (B,).
    """
    method = captum_attr().IntegratedGradients(function, multiply_by_inputs=False)
    ways = tuple(x - b for x, b in zip(inputs, baselines, strict=True))

    def at(share: float) -> tuple[Tensor, ...]:
        return tuple(b + share * way for b, way in zip(baselines, ways, strict=True))

    @torch.no_grad()
    def value(share: float) -> tuple[float, Tensor]:
        return share, function(*at(share), *arguments)

    def piece(low: tuple[float, Tensor], high: tuple[float, Tensor]):
        found = method.attribute(at(high[0]), at(low[0]), additional_forward_args=arguments or None, n_steps=STEPS)
        parts = tuple(slope.detach() * (high[0] - low[0]) for slope in found)
        sums = sum((way * part).flatten(1).sum(1) for way, part in zip(ways, parts, strict=True))
        return low, high, parts, sums - (high[1] - low[1])

    ends = [value(i / PIECES[0]) for i in range(PIECES[0] + 1)]
    gap = float((ends[-1][1] - ends[0][1]).abs().sum())
    pieces = [piece(low, high) for low, high in pairwise(ends)]
    while True:
        delta = float(sum(off for *_, off in pieces).abs().sum()) / max(gap, MIN_GAP)
        if delta <= MAX_DELTA or gap < MIN_GAP or len(pieces) == PIECES[1]:
            return tuple(sum(parts) for parts in zip(*(found for _, _, found, _ in pieces), strict=True)), delta
        worst = max(range(len(pieces)), key=lambda i: float(pieces[i][3].abs().sum()))
        low, high, *_ = pieces.pop(worst)
        middle = value((low[0] + high[0]) / 2)
        pieces += [piece(low, middle), piece(middle, high)]
