"""One resumable training loop for every stage."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


def save_atomically(state: dict, path: Path) -> None:
    """Write a training state so that a killed run finds either the old file or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def fit(
    name: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Callable[[int], Iterable],
    loss_of: Callable[..., Tensor],
    *,
    epochs: int,
    work: Path,
    report: Callable[[int], str] | None = None,
    clip_norm: float = 5.0,
) -> None:
    """Train `module` in place, one state file a stage in `work`, going on from the last finished epoch.

    Args:
        batches: epoch -> iterable of what `loss_of` takes; seeded by the epoch, so a resumed run sees the same data.
        scheduler: stepped after each batch.
        report: epoch -> a few words for the log, after each epoch.
    """
    path = work / f"{name}.state.pt"
    first = 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first = state["epoch"] + 1
    for epoch in range(first, epochs):
        torch.manual_seed(1_000_003 * (epoch + 1))  # dropout
        module.train()
        total = n = 0
        bar = tqdm(batches(epoch), desc=f"{name} {epoch + 1}/{epochs}", leave=False, mininterval=5)
        for batch in bar:
            loss = loss_of(*batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizer.step()
            scheduler.step()
            total, n = total + float(loss.detach()), n + 1
            bar.set_postfix(loss=f"{total / n:.3f}")
        module.eval()
        words = report(epoch) if report else ""
        tqdm.write(f"{name} epoch {epoch + 1}/{epochs} loss {total / max(n, 1):.4f} {words}")
        save_atomically(
            {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "epoch": epoch},
            path,
        )  # fmt: skip
    module.eval()
