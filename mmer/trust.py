"""How far a map of what counted can be trusted: it has to find what changes the answer faster than chance does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VERDICTS = ("trustworthy", "weak", "no clear evidence")
MAX_DELTA = 0.05
MIN_GAP = 0.1  # logits: what changes the odds by less than a tenth explains nothing
MIN_GAIN = 0.1  # over random maps, in areas under curves between 0 and 1: random maps spread by 0.02 to 0.1 around 0
N_POINTS = 4  # intervals of a deletion curve
N_RANDOM = 2  # random orders, each with its reverse: an order and its reverse average to a fair one


@dataclass(frozen=True)
class Trust:
    """How far to trust the map of one branch.

    The units of the map (patches, cells of the spectrogram, words) are taken away, those with the highest scores first,
    and the logit is followed; the lowest and the highest logit met on any way are called 0 and 1. If the map is right
    the curve falls at once, and when the units are put back in the same order it rises at once.
    https://arxiv.org/abs/1806.07421

    `verdict` is "no clear evidence" when |f(x) - f(baseline)| is below 0.1; else "trustworthy" when `delta` is at most
    0.05 and both `deletion` and `insertion` are at least 0.1; else "weak".
    """

    method: str
    # |sum of the map - gap| / |gap|, the gap counting as 0.1 at least; of a face, the larger of time's and space's
    delta: float
    deletion: float  # area under the curve of random maps less that of this one; above 0 is better than chance
    insertion: float  # area under the curve of this map less that of random ones
    verdict: str


@dataclass(frozen=True)
class UnitScores:
    """What one method found: the units of a map and what each adds."""

    method: str  # in words
    scores: Tensor  # (n,)
    gap: float  # f(x) - f(baseline), which they should sum to
    delta: float  # as in `Trust`
    shares: Tensor | None = None  # the map in full, where it is finer than its units


class Kept:
    """The logits of what is kept, each set of units run once: an occlusion, its verdict and other methods share many.

    Args:
        run: kept units (R, n) bool -> logits (R,).
    """

    def __init__(self, run: Callable[[Tensor], Tensor]):
        self._run, self._known = run, dict[bytes, Tensor]()

    def __call__(self, kept: Tensor) -> Tensor:
        """Return the logits (R,) with only the kept units (R, n) there."""
        keys = [row.numpy().tobytes() for row in kept.cpu()]
        unknown = {key: i for i, key in enumerate(keys) if key not in self._known}
        if unknown:
            logits = self._run(kept[list(unknown.values())])
            self._known.update(zip(unknown, logits.unbind(), strict=True))
        return torch.stack([self._known[key] for key in keys])


def off_by(total: float, gap: float) -> float:
    """Return the delta of `Trust` of a map that sums to `total`."""
    return abs(total - gap) / max(abs(gap), MIN_GAP)


@torch.no_grad()
def areas(orders: Sequence[Tensor], logit_of: Callable[[Tensor], Tensor], device: torch.device | str) -> Tensor:
    """Return the areas (orders, 2) under the curves of deletion and of insertion of orders of units, best first.

    Args:
        orders: (n,) each.
        logit_of: kept units (R, n) bool -> logits (R,). All orders share its rows of everything and of nothing.
    """
    rows, shares = steps(orders)
    logits = logit_of(rows.to(device)).cpu()
    logits = (logits - logits.min()) / (logits.max() - logits.min()).clamp_min(1e-6)
    everything, nothing = logits[:2].expand(2 * len(orders), 2).split(1, 1)
    curves = torch.cat([everything, logits[2:].view(2 * len(orders), -1), nothing], 1)
    return torch.trapezoid(curves, torch.tensor([0, *shares, 1])).view(-1, 2)


def steps(orders: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
    """Return which units (R, n) stay on the ways of deletion and insertion, and the share that is gone at each step.

    The first two rows are everything and nothing, then come the steps of each order and those of its reverse: putting
    units back best first passes through the same inputs as taking them away worst first.
    """
    n = len(orders[0])
    both = [o for order in orders for o in (order, order.flip(0))]
    counts = sorted({round(n * i / N_POINTS) for i in range(1, N_POINTS)} - {0, n})
    kept = torch.ones(2 + len(both) * len(counts), n, dtype=torch.bool)
    kept[1] = False
    for i, order in enumerate(both):
        for j, count in enumerate(counts):
            kept[2 + i * len(counts) + j, order[:count]] = False
    return kept, [count / n for count in counts]


def random_orders(n: int, n_orders: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(n, generator=generator) for _ in range(n_orders)]


def judge(found: UnitScores, logit_of: Callable[[Tensor], Tensor]) -> Trust:
    """Return the trust in a map.

    Args:
        logit_of: kept units (R, n) bool -> logits (R,).
    """
    scores = found.scores
    orders = [scores.cpu().argsort(descending=True), *random_orders(len(scores), N_RANDOM)]
    own, *random = areas(orders, logit_of, scores.device)
    chance = torch.stack(random).mean()
    deletion, insertion = float(chance - own[0]), float(own[1] - chance)
    return Trust(found.method, found.delta, deletion, insertion, verdict(found, deletion, insertion))


def verdict(found: UnitScores, deletion: float, insertion: float) -> str:
    """Return the verdict on a map that is so much better than random ones."""
    if abs(found.gap) < MIN_GAP:
        return VERDICTS[2]
    return VERDICTS[not (found.delta <= MAX_DELTA and min(deletion, insertion) >= MIN_GAIN)]
