"""How each branch learns on its corpora: batches, augmentation, optimizer and loss."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmer.model import EmotionModel
from mmer.voice import log_mel
from training.data import augment
from training.data.load import Faces, Texts, Voices
from training.data.manifest import Row, class_counts
from training.learn.config import TrainConfig, settings_of
from training.learn.loop import fit, layerwise
from training.learn.losses import log_prior, soft_cross_entropy

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits and targets (B, K) -> a scalar
Report = Callable[[int], str]  # after each epoch: its number -> a few words for the log


def branch_module(model: EmotionModel, modality: str) -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": model.encoders[modality], "head": model.heads[modality]})


def _shuffled(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return whole batches of indices in random order; what is left over waits for the next epoch."""
    order = torch.randperm(n, generator=generator)
    parts = list(order.split(size))
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < size else parts


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 8), pct_start=0.25)


def _fit(name: str, module: nn.Module, optimizer, steps: int, batches, loss_of, config: TrainConfig, **options) -> None:
    """Run a branch's stage; an epoch has `steps` batches."""
    epochs = getattr(config, f"{name}_epochs")
    if name == "face" and config.compile:  # voices differ in length: each would be compiled anew
        module["encoder"].cnn.compile(dynamic=False)
    fit(
        name, module, optimizer, one_cycle(optimizer, int(steps * epochs)), batches, loss_of, epochs=math.ceil(epochs),
        decided=settings_of(name, config), average=config.average, unfreeze=config.unfreeze, precision=config.precision,
        **options,
    )  # fmt: skip


def train_face(
    model: EmotionModel,
    data: Faces,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
    augmented: bool = True,
) -> None:
    module = branch_module(model, "face")
    steps = max(len(data.images) // config.face_batch, 1)
    small = [side * 2 // 3 for side in data.images.shape[1:]]
    groups = [
        {"params": part, "lr": group["lr"], "weight_decay": decay}
        for group in layerwise(module, config.face_lr, config.layer_decay)
        for part, decay in (([p for p in group["params"] if p.ndim > 1], 5e-4), ([p for p in group["params"] if p.ndim <= 1], 0.0))
        if part
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        for index in _shuffled(len(data.images), config.face_batch, g):
            crops = data.images[index][:, None].float() / 255
            if epoch < config.face_small * config.face_epochs:  # https://arxiv.org/abs/2104.00298
                crops = nn.functional.interpolate(crops, size=small, mode="area")
            crops = augment.faces(crops, g) if augmented else crops
            # Half of the fits are hidden, so that the crop alone is enough where no landmarks exist.
            fitted = data.fitted[index] & (torch.rand(len(index), generator=g) < 0.5)
            yield crops, data.blendshapes[index], fitted, data.targets[index]

    def loss_of(crops: Tensor, blendshapes: Tensor, fitted: Tensor, targets: Tensor) -> Tensor:
        seen = torch.ones(len(crops), 1, dtype=torch.bool, device=crops.device)
        state = module["encoder"](crops[:, None], seen, blendshapes[:, None], fitted[:, None])
        logits = module["head"](state.top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    given = (data.images, data.blendshapes, data.targets)
    _fit("face", module, optimizer, steps, batches, loss_of, config, work=work, report=report, given=given)


def _disturbed(samples: np.ndarray, length: int, strange: float, g: torch.Generator) -> Tensor:
    """Return the log-mel (T_a, M) of an utterance disturbed, with chance `strange` as from another speaker's throat."""
    x = augment.waveform(samples, length, g)
    other, room = torch.rand(2, generator=g).tolist()
    if room < 0.3 * strange:
        x = augment.reverberate(x, g)
    mel = log_mel(x).mel
    return augment.other_speaker(mel, g) if other < strange else mel


def train_voice(
    model: EmotionModel,
    data: Voices,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
    augmented: bool = True,
) -> None:
    """Train the CNN as if the statistics were not there; `train_statistics` comes after it."""
    module = branch_module(model, "voice")
    n = max(len(data.samples) // config.voice_batch, 1) * config.voice_batch  # drawn in an epoch
    length = int(config.voice_crop_s * 16_000)
    seconds = torch.tensor([min(len(x), length) for x in data.samples]) / 16_000
    often = _how_often(data, config)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        drawn = torch.multinomial(often, n, replacement=True, generator=g)
        near = (seconds[drawn] + 0.4 * torch.rand(n, generator=g)).argsort()  # like lengths together: little padding
        parts = drawn[near].split(config.voice_batch)
        for part in torch.randperm(len(parts), generator=g):
            index = parts[part]
            sounds = [data.samples[i] for i in index]
            if augmented:
                mels = [_disturbed(x, length, config.voice_strange, g) for x in sounds]
            else:
                mels = [log_mel(x[:length]).mel for x in sounds]
            heard = None if data.whisper is None else data.whisper[index]
            lengths = torch.tensor([len(m) for m in mels])
            padded, targets = nn.utils.rnn.pad_sequence(mels, batch_first=True), data.targets[index]
            if augmented:
                padded = augment.spec_augment(padded, g)
                padded, targets, other, share = augment.mixup(padded, targets, g)
                lengths = torch.maximum(lengths, lengths[other])
                if heard is not None:
                    heard = share * heard + (1 - share) * heard[other]
            mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
            # Half of the time it does without Whisper, as where that is not to be had.
            extra = () if heard is None else (heard, torch.rand(len(index), generator=g) < 0.5)
            yield padded, mask, targets, *extra

    def loss_of(mels: Tensor, mask: Tensor, targets: Tensor, *heard: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](mels, mask, *heard).top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    stream, module["encoder"].statistics = module["encoder"].statistics, None
    try:
        optimizer = torch.optim.AdamW(layerwise(module, config.voice_lr, config.layer_decay), weight_decay=0.05)
        given, steps = (torch.tensor([len(x) for x in data.samples]), data.targets), n // config.voice_batch
        _fit("voice", module, optimizer, steps, batches, loss_of, config, work=work, report=report, given=given)
    finally:
        module["encoder"].statistics = stream


def _how_often(data: Voices, config: TrainConfig) -> Tensor:
    return data.cell_sizes() ** (config.voice_power - 1)


def train_statistics(
    model: EmotionModel,
    data: Voices,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    augmented: bool = True,
) -> None:
    """Let the voice's statistics learn to judge alone, through the head as it is; nothing else changes."""
    module = branch_module(model, "voice")
    if module["encoder"].statistics is None:
        return
    stream = nn.ModuleDict({"statistics": module["encoder"].statistics})
    head = {k: v.detach().clone() for k, v in module["head"][1].state_dict().items()}
    n, size = len(data.samples), config.voice_statistics_batch
    readings, length = config.voice_statistics_readings if augmented else 0, int(config.voice_crop_s * 16_000)
    optimizer = torch.optim.AdamW(stream.parameters(), config.voice_statistics_lr, weight_decay=0.01)
    often = _how_often(data, config)

    @cache
    @torch.no_grad()
    def bank() -> Tensor:
        """(readings + 1, N, n): each utterance as it is and disturbed."""
        g, read = torch.Generator().manual_seed(config.seed), module["encoder"].statistics.read

        def one(mel: Tensor) -> Tensor:
            mel = mel[None].to(module["encoder"].statistics.dct.device)
            return read(mel, torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)).cpu()

        clean = [one(log_mel(x).mel) for x in tqdm(data.samples, desc="statistics", leave=False, mininterval=5)]
        rounds = tqdm(range(readings), desc="statistics, disturbed", leave=False, mininterval=5)
        disturbed = [[one(_disturbed(x, length, 1.0, g)) for x in data.samples] for _ in rounds]
        return torch.stack([torch.cat(part) for part in (clean, *disturbed)])

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        which = torch.multinomial(often, n * len(bank()), replacement=True, generator=g)
        reading = torch.randint(len(bank()), which.shape, generator=g)
        for part in range(0, max(len(which) - size + 1, 1), size):
            index = which[part : part + size]
            x, targets = bank()[reading[part : part + size], index], data.targets[index]
            if augmented:
                x, targets, *_ = augment.mixup(x, targets, g, alpha=0.4)
            yield x, targets

    def loss_of(x: Tensor, targets: Tensor) -> Tensor:
        weight, bias = (head[k].to(x.device) for k in ("weight", "bias"))
        logits = nn.functional.linear(stream["statistics"](x), weight, bias).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    steps = max(n * (readings + 1) // size, 1)
    fit(
        "voice_statistics", stream, optimizer, one_cycle(optimizer, steps * config.voice_statistics_epochs), batches,
        loss_of, epochs=config.voice_statistics_epochs, average=config.average, precision=config.precision, work=work,
        decided=settings_of("voice_statistics", config), given=(torch.tensor([len(x) for x in data.samples]), data.targets, *head.values()),
    )  # fmt: skip


def train_text(
    model: EmotionModel,
    data: Texts,
    rows: tuple[Row, ...],
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
) -> None:
    module = branch_module(model, "text")
    n, size = len(data.targets), config.text_batch
    lengths = (data.offsets[1:] - data.offsets[:-1]).float()
    optimizer = torch.optim.AdamW(layerwise(module, config.text_lr, config.layer_decay), weight_decay=0.02)
    prior = log_prior(torch.tensor(class_counts(rows)), config.text_tau)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        noisy = lengths + 4 * torch.rand(n, generator=g)  # near lengths together: little padding
        parts = noisy.argsort().split(size)
        share = min(config.text_epochs - epoch, 1.0)  # of the last epoch
        for i in torch.randperm(len(parts), generator=g)[: int(len(parts) * share)]:
            yield *data.batch(parts[i]), data.targets[parts[i]]

    def loss_of(states: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](states, mask).top).float()
        if loss:
            return loss(logits, targets)
        return soft_cross_entropy(logits, targets, smoothing=config.smoothing, log_prior=prior.to(logits.device))

    given = (data.offsets, data.targets)
    _fit("text", module, optimizer, -(-n // size), batches, loss_of, config, work=work, report=report, given=given)
