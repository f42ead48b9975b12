"""One resumable training loop for every stage, on one device or, under `accelerate launch`, on several.

accelerate says which processes there are and lets them exchange tensors. Its `Accelerator` does not run the loop: it
would wrap the whole module for gradients to be exchanged, where a stage's loss calls a branch's parts, some of them
frozen for a while; it allows one precision a process, where each stage has its own; and the folder it saves is not
replaced at once, so that a kill while it writes would leave neither the old state nor the new one.
"""

import hashlib
import json
import math
import re
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from training.learn.config import with_current_names

_HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CLIP_NORM = 5.0


def processes() -> PartialState:
    """Return what `accelerate launch` started: one process, or several on GPUs or, where there are none, on the CPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def stage_weights(path: Path) -> dict[str, Tensor]:
    """Return what a stage has learned from its state file: the average over its steps where one was kept."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    return state["average"] or state["module"]


def stage_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a stage's state was made with."""
    return with_current_names(torch.load(path, weights_only=True, map_location="cpu")["settings"])


def _fingerprint(settings: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """Return a hash of all that decides what a stage learns."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for t in tensors:
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
        kind = re.match(r"encoder\.(cnn\.stages\.\d+|layers\.layers\.\d+|\w+)|\w+", name)
        groups.setdefault(kind.group() if kind else name, []).append(parameter)
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


def _place(module: nn.Module, device: torch.device | str, memory_format: torch.memory_format) -> None:
    module.to(device)
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs do not know it


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


@dataclass
class _Stage:
    """Everything that changes while a stage learns, and its file."""

    path: Path
    made_with: str  # hash of all that decides what is learned
    settings: dict[str, Any]
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    averaged: AveragedModel | None
    scaler: torch.amp.GradScaler
    team: PartialState
    half: torch.dtype | None = None  # that convolutions and products are computed in
    saved_s: float = 0.0

    def resume(self) -> tuple[int, int]:
        """Go on from the file, where there is one; return how many epochs, and batches of the next, are done."""
        if not self.path.is_file():
            return 0, 0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if state.get("made_with") != self.made_with:
            raise TrainingError(
                "other_settings",
                f"{self.path} was made with other settings, data or first weights; give another folder, or delete it "
                "to begin again",
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["average"])
            self.averaged.n_averaged.fill_(self.scheduler.last_epoch)
        return state["epoch"] + 1, state["done"]

    def save(self, epoch: int, done: int = 0) -> None:
        """Keep `epoch` finished epochs, counted from 0, and `done` batches of the next."""
        self.join_buffers()
        if self.team.is_main_process:
            state = {
                "module": self.module.state_dict(),
                "average": None if self.averaged is None else self.averaged.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "epoch": epoch,
                "done": done,
                "made_with": self.made_with,
                "settings": self.settings,
            }
            save_atomically(state, self.path)
        self.team.wait_for_everyone()
        self.saved_s = time.monotonic()

    def is_late(self, minutes: float) -> bool:
        """Whether the last save is longer ago; one process' clock is enough, since all must save together."""
        late = torch.tensor(float(time.monotonic() - self.saved_s > 60 * minutes), device=self.team.device)
        return bool(reduce(late, "sum") > 0)

    def step(self, batch: tuple[Tensor, ...], loss_of: Callable[..., Tensor]) -> float:
        """Learn from a batch; return its loss."""
        own, share = _own_rows(batch, self.team)
        with torch.autocast(self.team.device.type, dtype=self.half) if self.half else nullcontext():
            loss = loss_of(*own) * share
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        _join([p.grad for p in self.module.parameters() if p.grad is not None], self.team)
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.module.parameters(), _CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.module)
        return float(reduce(loss.detach(), "sum"))

    def join_buffers(self) -> None:
        """Let the processes agree on the statistics of batch norms, of which each saw its own rows."""
        copies = (self.module,) if self.averaged is None else (self.module, self.averaged.module)
        _join([b for m in copies for b in m.buffers() if b.is_floating_point()], self.team, mean=True)


# More than half of it says what its parameters are; the steps have names.
def fit(
    name: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Callable[[int], Iterable[tuple[Tensor, ...]]],
    loss_of: Callable[..., Tensor],
    *,
    epochs: int,
    work: Path,
    settings: dict[str, Any] | None = None,
    data: Iterable[Tensor] = (),
    report: Callable[[int], str] | None = None,
    average: float = 0.0,
    unfreeze: int = 0,
    precision: str = "fp32",
    save_minutes: float = 5.0,
) -> None:
    """Train `module` in place, one state file a stage in `work`, saved after each epoch and every few minutes.

    A killed run goes on from there and ends where an undisturbed one would.

    Several processes draw the same batches and each takes its own rows of them; the gradients are summed, so that the
    result is that of one process (batch normalisation sees a process' rows only; its statistics are averaged).

    Args:
        batches: epoch -> iterable of what `loss_of` takes, tensors with a row for each example; seeded by the epoch, so
            a resumed run sees the same data.
        loss_of: a mean over the rows.
        scheduler: stepped after each batch.
        settings: those it is made with, as JSON can hold them; kept with the state.
        data: tensors that tell these examples from others; a state of other examples is refused.
        report: epoch -> a few words for the log, after each epoch and before it counts as done.
        average: decay per step of the average of the weights that the module ends with; 0 keeps the last weights.
        unfreeze: epochs over which the layers begin to learn, the head first; 0: all at once.
        precision: fp32, or bf16 or fp16 under autocast.

    Raises:
        TrainingError: `other_settings` when the state in `work` was made with others.
    """
    team, half = processes(), _HALF_TYPES.get(precision)
    loop = {"epochs": epochs, "average": average, "unfreeze": unfreeze, "precision": precision}
    made_with = _fingerprint({**(settings or {}), **loop}, (*module.state_dict().values(), *data))
    _place(module, team.device, layout(module))
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True) if average else None
    scaler = torch.amp.GradScaler(team.device.type, enabled=half == torch.float16)
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.state.pt"
    stage = _Stage(path, made_with, settings or {}, module, optimizer, scheduler, averaged, scaler, team, half)
    first, done = stage.resume()
    stage.saved_s = time.monotonic()
    for epoch in range(first, epochs):
        thaw(module, epoch, unfreeze)
        loss = _one_epoch(stage, epoch, done, f"{name} {epoch + 1}/{epochs}", batches, loss_of, save_minutes)
        done = 0
        module.eval()
        stage.join_buffers()
        words = report(epoch) if report else ""  # before the epoch counts: who is killed here has it reported again
        stage.save(epoch)
        if team.is_main_process:
            tqdm.write(f"{name} epoch {epoch + 1}/{epochs} loss {loss:.4f} {words}")
    if not path.is_file():  # no epoch was asked for: what it started from is what it has learned
        stage.save(epochs - 1)
    if averaged is not None:
        module.load_state_dict(averaged.module.state_dict())
    thaw(module, 0, 0)
    _place(module, "cpu", torch.contiguous_format)
    module.eval()


def _one_epoch(
    stage: _Stage,
    epoch: int,
    done: int,
    title: str,
    batches: Callable[[int], Iterable[tuple[Tensor, ...]]],
    loss_of: Callable[..., Tensor],
    save_minutes: float,
) -> float:
    """Learn from the batches of an epoch after the first `done`; return the mean loss."""
    stage.module.train()
    total, n = 0.0, 0
    bar = tqdm(batches(epoch), desc=title, leave=False, mininterval=5, disable=not stage.team.is_main_process)
    for i, batch in enumerate(bar):
        if i < done:
            continue
        torch.manual_seed(1_000_003 * (epoch + 1) + 7919 * i + stage.team.process_index)  # dropout
        total, n = total + stage.step(batch, loss_of), n + 1
        bar.set_postfix(loss=f"{total / n:.3f}", refresh=False)  # with the bar, not at every step
        if stage.is_late(save_minutes):
            stage.save(epoch - 1, i + 1)
    return total / max(n, 1)
