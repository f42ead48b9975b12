"""A stream that learned to judge alone beside a branch's own: how much the branch's own still count."""

import torch
from torch import Tensor, nn

from training.learn.losses import fit_temperature

RESTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # what `choose_rest` tries


@torch.no_grad()
def choose_rest(
    stream: nn.Module,
    layer: nn.Module,
    head: nn.Module,
    *,
    own: Tensor,
    beside: Tensor,
    targets: Tensor,
    temperature: float | None = None,
) -> dict[str, float]:
    """Set how much a branch's own streams count beside another, and that one's scale; return the figures.

    The share is the one with the least negative log-likelihood on what taught none of them, at its own temperature. The
    scale then makes the branch as confident with the stream as without, so one temperature suits both.

    Args:
        stream: has a parameter `rest`, which is set.
        layer: its last, before a ReLU, which scales along.
        own: (N, state) of the branch without the stream.
        beside: (N, state) of the stream, on the same rows.
        targets: (N, K).
        temperature: of the branch without the stream; None: the one that fits here.
    """
    found = {}
    for share in RESTS:
        logits = head(share * own + beside)
        at = fit_temperature(logits, targets)
        found[share] = float(-(targets * (logits / at).log_softmax(1)).sum(1).mean())
    best = min(found, key=lambda share: found[share])
    wanted = temperature or fit_temperature(head(own), targets)
    scale = wanted / fit_temperature(head(best * own + beside), targets)
    stream.get_parameter("rest").fill_(best * scale)
    for parameter in layer.parameters():
        parameter.mul_(scale)
    for parameter in stream.parameters():  # as the file holds them
        parameter.copy_(parameter.half())
    return {"rest": best, "scale": scale, **{f"nll_{share}": round(nll, 4) for share, nll in found.items()}}
