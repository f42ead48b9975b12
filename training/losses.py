"""Losses for soft labels and unequal classes."""

import torch
from torch import Tensor


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, log_prior: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy against label distributions.

    Args:
        logits: (B, K).
        targets: (B, K), rows that sum to 1.
        smoothing: share of each target spread evenly. https://arxiv.org/abs/1512.00567
        log_prior: (K,) log class frequencies times tau, added to the logits while training so that rare classes are
            not argued away: logit adjustment, https://arxiv.org/abs/2007.07314
    """
    if log_prior is not None:
        logits = logits + log_prior
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def log_prior(counts: Tensor, tau: float) -> Tensor:
    """Return tau times the log class frequencies (K,); classes never seen get the frequency of half an example."""
    counts = counts.clamp_min(0.5)
    return tau * (counts / counts.sum()).log()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature in [0.25, 8] that minimises the cross-entropy. https://arxiv.org/abs/1706.04599"""
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    logits, targets = logits.double().detach(), targets.double()
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = soft_cross_entropy(logits / log_t.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp().clamp(0.25, 8.0))
