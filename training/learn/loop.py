"""One resumable training loop for every stage, on one device or, under `accelerate launch`, on several."""

import hashlib
import json
import math
import re
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mmer.errors import TrainingError
from mmer.model import layout
from training.data.load import save_atomically

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *_HALVES)
_CLIP_NORM = 5.0


def processes() -> PartialState:
    """Return what `accelerate launch` started: one process, or several on GPUs or, where there are none, on the CPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def weights(path: Path) -> dict[str, Tensor]:
    """Return what a stage has learned from its state file: the average over its steps where one was kept."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    return state["average"] or state["module"]


def settings(path: Path) -> dict:
    """Return the settings that a stage's state was made with."""
    return torch.load(path, weights_only=True, map_location="cpu")["settings"]


def _fingerprint(decided: dict, given: Iterable[Tensor]) -> str:
    """Return a hash of all that decides what a stage learns."""
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
    for t in given:
        digest.update(t.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def timed(make: Callable[[], object]) -> dict[str, float]:
    """Run something and return its seconds and the process' peak memory so far."""
    begun = time.perf_counter()
    make()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(time.perf_counter() - begun, 1), "peak_mb": round(peak)}


def depths(module: nn.Module) -> list[list[nn.Parameter]]:
    """Return a branch's parameters in groups from its input to its head: stem, stages, layers, head."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        kind = re.match(r"(encoder\.(cnn\.stages\.\d+|layers\.layers\.\d+|\w+)|\w+)", name).group()
        groups.setdefault(kind, []).append(parameter)
    return list(groups.values())


def layerwise(module: nn.Module, lr: float, decay: float) -> list[dict]:
    """Return optimizer groups whose learning rate falls by `decay` with each group below the head.

    https://arxiv.org/abs/1801.06146
    """
    groups = depths(module)
    return [{"params": part, "lr": lr * decay ** (len(groups) - 1 - i)} for i, part in enumerate(groups)]


def thaw(module: nn.Module, epoch: int, epochs: int) -> None:
    """Let the gradients reach one group after another, from the head down, until all learn from epoch `epochs` on."""
    groups = depths(module)
    for i, part in enumerate(groups):
        below = len(groups) - 1 - i
        for parameter in part:
            parameter.requires_grad_(epoch >= math.ceil(below * epochs / max(len(groups) - 1, 1)))


def _own_rows(batch: tuple[Tensor, ...], team: PartialState) -> tuple[tuple[Tensor, ...], float]:
    """Return this process' rows of a batch that all processes drew alike, and which share of the batch they are."""
    own = tuple(x[team.process_index :: team.num_processes].to(team.device) for x in batch)
    return own, len(own[0]) / len(batch[0])


def _join(tensors: list[Tensor], team: PartialState, *, mean: bool = False) -> None:
    """Replace tensors by their sum (or mean) over the processes, in one exchange."""
    if team.num_processes == 1 or not tensors:
        return
    whole = reduce(torch.cat([t.flatten().float() for t in tensors]), "mean" if mean else "sum")
    for t, part in zip(tensors, whole.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view_as(t))


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
    decided: dict | None = None,
    given: Iterable[Tensor] = (),
    report: Callable[[int], str] | None = None,
    average: float = 0.0,
    unfreeze: int = 0,
    precision: str = "fp32",
    save_minutes: float = 5.0,
) -> None:
    """Train `module` in place, one state file a stage in `work`, saved after each epoch and in long ones every few minutes.

    A killed run goes on from there and ends where an undisturbed one would.

    Several processes draw the same batches and each takes its own rows of them; the gradients are summed, so that the
    result is that of one process (batch normalisation sees a process' rows only; its statistics are averaged).

    Args:
        batches: epoch -> iterable of what `loss_of` takes, tensors with a row for each example; seeded by the epoch, so
            a resumed run sees the same data.
        loss_of: a mean over the rows.
        scheduler: stepped after each batch.
        decided: the settings it is made with, as JSON can hold them; kept with the state.
        given: what else decides it, beside the weights it starts from: the data.
        report: epoch -> a few words for the log, after each epoch and before it counts as done.
        average: decay per step of the average of the weights that the module ends with; 0 keeps the last weights.
        unfreeze: epochs over which the layers begin to learn, the head first; 0: all at once.
        precision: fp32, or bf16 or fp16 under autocast.

    Raises:
        TrainingError: `other_settings` when the state in `work` was made with others.
    """
    team = processes()
    decided = decided or {}
    loop = {"epochs": epochs, "average": average, "unfreeze": unfreeze, "precision": precision}
    made_with = _fingerprint({**decided, **loop}, (*module.state_dict().values(), *given))
    module.to(team.device, memory_format=layout(module))
    half = _HALVES.get(precision)
    scaler = torch.amp.GradScaler(team.device.type, enabled=half == torch.float16)
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True) if average else None
    path = work / f"{name}.state.pt"
    first = done = 0  # epochs finished, batches of the next one done
    if path.is_file():
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state.get("made_with") != made_with:
            raise TrainingError(
                "other_settings",
                f"{path} was made with other settings, data or first weights; give another folder, or delete it to begin anew",
            )
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        scaler.load_state_dict(state["scaler"])
        if averaged is not None:
            averaged.module.load_state_dict(state["average"])
            averaged.n_averaged.fill_(scheduler.last_epoch)
        first, done = state["epoch"] + 1, state["done"]
    copies = (module,) if averaged is None else (module, averaged.module)
    buffers = [b for m in copies for b in m.buffers() if b.is_floating_point()]

    def save(epoch: int, done: int = 0) -> None:
        _join(buffers, team, mean=True)
        if team.is_main_process:
            kept = averaged.module.state_dict() if averaged is not None else None
            save_atomically(
                {"module": module.state_dict(), "average": kept, "optimizer": optimizer.state_dict(),
                 "scheduler": scheduler.state_dict(), "scaler": scaler.state_dict(), "epoch": epoch, "done": done,
                 "made_with": made_with, "settings": decided},
                path,
            )  # fmt: skip
        team.wait_for_everyone()

    saved = time.monotonic()
    for epoch in range(first, epochs):
        thaw(module, epoch, unfreeze)
        module.train()
        total = n = 0
        bar = tqdm(batches(epoch), desc=f"{name} {epoch + 1}/{epochs}", leave=False, mininterval=5, disable=not team.is_main_process)  # fmt: skip
        for i, batch in enumerate(bar):
            if i < done:
                continue
            torch.manual_seed(1_000_003 * (epoch + 1) + 7919 * i + team.process_index)  # dropout
            own, share = _own_rows(batch, team)
            with torch.autocast(team.device.type, dtype=half) if half else nullcontext():
                loss = loss_of(*own) * share
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            _join([p.grad for p in module.parameters() if p.grad is not None], team)
            scaler.unscale_(optimizer)
            clip_grad_norm_(module.parameters(), _CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            if averaged is not None:
                averaged.update_parameters(module)
            loss = reduce(loss.detach(), "sum")
            total, n = total + float(loss), n + 1
            bar.set_postfix(loss=f"{total / n:.3f}", refresh=False)  # with the bar, not at every step
            late = torch.tensor(float(time.monotonic() - saved > 60 * save_minutes), device=team.device)
            if reduce(late, "sum") > 0:  # one process' clock is enough: all must save together
                save(epoch - 1, i + 1)
                saved = time.monotonic()
        done = 0
        module.eval()
        _join(buffers, team, mean=True)
        words = report(epoch) if report else ""  # before the epoch counts: who is killed here has it reported again
        save(epoch)
        saved = time.monotonic()
        if team.is_main_process:
            tqdm.write(f"{name} epoch {epoch + 1}/{epochs} loss {total / max(n, 1):.4f} {words}")
    if not path.is_file():  # no epoch was asked for: what it started from is what it has learned
        save(epochs - 1)
    if averaged is not None:
        module.load_state_dict(averaged.module.state_dict())
    thaw(module, 0, 0)
    module.to("cpu", memory_format=torch.contiguous_format).eval()
