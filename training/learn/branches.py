"""How each branch learns on its corpora: batches, augmentation, optimizer and loss."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmer.config import SAMPLE_RATE
from mmer.encoders import FaceEncoder, StatisticsStream, TextEncoder, VoiceEncoder
from mmer.model import EmotionModel
from mmer.voice import log_mel
from training.data import augment
from training.data.load import Faces, Texts, Voices
from training.data.manifest import Row, class_counts
from training.learn.config import CORPORA, TrainConfig, settings_of
from training.learn.loop import fit, layerwise
from training.learn.losses import log_prior, soft_cross_entropy

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits and targets (B, K) -> a scalar
Report = Callable[[int], str]  # after each epoch: its number -> a few words for the log
Batches = Callable[[int], Iterable[tuple[Tensor, ...]]]  # an epoch's number -> its batches


def face_encoder(model: EmotionModel) -> FaceEncoder:
    return cast(FaceEncoder, model.encoders["face"])


def voice_encoder(model: EmotionModel) -> VoiceEncoder:
    return cast(VoiceEncoder, model.encoders["voice"])


def text_encoder(model: EmotionModel) -> TextEncoder:
    return cast(TextEncoder, model.encoders["text"])


def output_layer(model: EmotionModel, modality: str) -> nn.Linear:
    return cast(nn.Linear, cast(nn.Sequential, model.heads[modality])[1])


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


def fit_stage(
    name: str,
    module: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    n_batches: int,
    batches: Batches,
    loss_of: Callable[..., Tensor],
    config: TrainConfig,
    *,
    work: Path,
    data: Iterable[Tensor],
    report: Report | None = None,
) -> None:
    """Run the stage of a branch or of a stream in it; an epoch has `n_batches`."""
    epochs = getattr(config, f"{name}_epochs")
    fit(
        name,
        module,
        optimizer,
        one_cycle(optimizer, int(n_batches * epochs)),
        batches,
        loss_of,
        epochs=math.ceil(epochs),
        work=work,
        settings=settings_of(name, config),
        data=data,
        report=report,
        average=config.average,
        unfreeze=config.unfreeze,
        precision=config.precision,
    )


def through_head(
    model: EmotionModel,
    modality: str,
    stream: Callable[[Tensor], Tensor],
    config: TrainConfig,
    loss: LossFunction | None = None,
) -> tuple[LossFunction, tuple[Tensor, Tensor]]:
    """Return the loss of a stream that judges alone, through its branch's head as it is, and that head's weights.

    Args:
        stream: its input -> (B, state).
        loss: in place of the recipe's.
    """
    layer = output_layer(model, modality)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()

    def loss_of(x: Tensor, targets: Tensor) -> Tensor:
        logits = nn.functional.linear(stream(x), weight.to(x.device), bias.to(x.device)).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    return loss_of, (weight, bias)


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
    """Train the face's encoder and head on crops, half of them with what Face Landmarker found.

    Args:
        loss: in place of the recipe's.
        report: called after each epoch.
    """
    module = branch_module(model, "face")
    n_batches = max(len(data.images) // config.face_batch, 1)
    optimizer = torch.optim.SGD(decayed_weights(module, config.face_lr, 5e-4, config), momentum=0.9, nesterov=True)
    if config.compile:  # of faces only: voices differ in length, and each length would be compiled
        face_encoder(model).cnn.compile(dynamic=False)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        small = epoch < config.face_small * config.face_epochs
        for index, crops in crop_batches(data, config.face_batch, g, small=small, augmented=augmented):
            # Half of the fits are hidden, so that the crop alone is enough where no landmarks exist.
            fitted = data.fitted[index] & (torch.rand(len(index), generator=g) < 0.5)
            yield crops, data.blendshapes[index], fitted, data.targets[index]

    def loss_of(crops: Tensor, blendshapes: Tensor, fitted: Tensor, targets: Tensor) -> Tensor:
        seen = torch.ones(len(crops), 1, dtype=torch.bool, device=crops.device)
        state = module["encoder"](crops[:, None], seen, blendshapes[:, None], fitted[:, None])
        logits = module["head"](state.top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    fit_stage(
        "face",
        module,
        optimizer,
        n_batches,
        batches,
        loss_of,
        config,
        work=work,
        data=(data.images, data.blendshapes, data.targets),
        report=report,
    )


def crop_batches(
    data: Faces, size: int, generator: torch.Generator, *, small: bool, augmented: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices (B,) and crops (B, 1, H, W) of an epoch's batches.

    Args:
        small: two thirds of the crops' size, as the first epochs see them. https://arxiv.org/abs/2104.00298
    """
    sides = [side * 2 // 3 for side in data.images.shape[1:]]
    for index in _shuffled(len(data.images), size, generator):
        crops = data.images[index][:, None].float() / 255
        if small:
            crops = nn.functional.interpolate(crops, size=sides, mode="area")
        yield index, augment.faces(crops, generator) if augmented else crops


def decayed_weights(module: nn.Module, rate: float, decay_of_weights: float, config: TrainConfig) -> list[dict]:
    """Return optimizer groups in which matrices and kernels decay, biases and norms do not."""
    groups = []
    for group in layerwise(module, rate, config.layer_decay):
        for is_weight, decay in ((True, decay_of_weights), (False, 0.0)):
            part = [p for p in group["params"] if (p.ndim > 1) == is_weight]
            if part:
                groups.append({"params": part, "lr": group["lr"], "weight_decay": decay})
    return groups


def _augmented_mel(samples: np.ndarray, length: int, speaker_prob: float, g: torch.Generator) -> Tensor:
    """Return the log-mel (T_a, M) of an utterance augmented, with chance `speaker_prob` as another speaker's."""
    x = augment.waveform(samples, length, g)
    speaker, room = torch.rand(2, generator=g).tolist()
    if room < 0.3 * speaker_prob:
        x = augment.reverberate(x, g)
    mel = log_mel(x).mel
    return augment.other_speaker(mel, g) if speaker < speaker_prob else mel


def _voice_batch(
    sounds: Sequence[np.ndarray], targets: Tensor, length: int, speaker_prob: float, g: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded log-mels (B, T_a, M), their mask (B, T_a) and targets (B, K); with a generator augmented."""
    if g is None:
        mels = [log_mel(x[:length]).mel for x in sounds]
    else:
        mels = [_augmented_mel(x, length, speaker_prob, g) for x in sounds]
    lengths = torch.tensor([len(m) for m in mels])
    padded = nn.utils.rnn.pad_sequence(mels, batch_first=True)
    if g is not None:
        padded = augment.spec_augment(padded, g)
        padded, targets, other, _ = augment.mixup(padded, targets, g)
        lengths = torch.maximum(lengths, lengths[other])
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None], targets


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
    """Train the CNN as if the other streams were not there; `train_statistics` and `train_whisper` come after it."""
    module = branch_module(model, "voice")
    n_batches = max(len(data.samples) // config.voice_batch, 1)
    n = n_batches * config.voice_batch  # drawn in an epoch
    length = int(config.voice_crop_s * SAMPLE_RATE)
    seconds = torch.tensor([min(len(x), length) for x in data.samples]) / SAMPLE_RATE
    sampling = sampling_weights(data, config.voice_power)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        drawn = torch.multinomial(sampling, n, replacement=True, generator=g)
        near = (seconds[drawn] + 0.4 * torch.rand(n, generator=g)).argsort()  # like lengths together: little padding
        parts = drawn[near].split(config.voice_batch)
        for part in torch.randperm(len(parts), generator=g):
            index = parts[part]
            sounds = [data.samples[i] for i in index]
            yield _voice_batch(
                sounds, data.targets[index], length, config.speaker_augment_prob, g if augmented else None
            )

    def loss_of(mels: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](mels, mask).top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    encoder = voice_encoder(model)
    statistics, encoder.statistics = encoder.statistics, None
    try:
        optimizer = torch.optim.AdamW(layerwise(module, config.voice_lr, config.layer_decay), weight_decay=0.05)
        fit_stage(
            "voice",
            module,
            optimizer,
            n_batches,
            batches,
            loss_of,
            config,
            work=work,
            data=(_lengths(data), data.targets),
            report=report,
        )
    finally:
        encoder.statistics = statistics


def sampling_weights(data: Voices, power: float) -> Tensor:
    """Return (N,) how often each utterance is drawn: rare labels of small corpora more often, at 1 all alike."""
    return data.cell_sizes() ** (power - 1)


def _lengths(data: Voices) -> Tensor:
    return torch.tensor([len(x) for x in data.samples])


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
    statistics = voice_encoder(model).statistics
    if statistics is None:
        return
    stream = nn.ModuleDict({"statistics": statistics})
    loss_of, head = through_head(model, "voice", statistics, config, loss)
    n, size = len(data.samples), config.voice_statistics_batch
    n_views = 1 + (config.voice_statistics_views if augmented else 0)
    optimizer = torch.optim.AdamW(stream.parameters(), config.voice_statistics_lr, weight_decay=0.01)
    sampling = sampling_weights(data, config.voice_power)
    bank = cache(lambda: _statistics_views(statistics, data, n_views, config))  # not needed where the stage is done

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        which = torch.multinomial(sampling, n * n_views, replacement=True, generator=g)
        view = torch.randint(n_views, which.shape, generator=g)
        for part in range(0, max(len(which) - size + 1, 1), size):
            index = which[part : part + size]
            x, targets = bank()[view[part : part + size], index], data.targets[index]
            if augmented:
                x, targets, *_ = augment.mixup(x, targets, g, alpha=0.4)
            yield x, targets

    fit_stage(
        "voice_statistics",
        stream,
        optimizer,
        max(n * n_views // size, 1),
        batches,
        loss_of,
        config,
        work=work,
        data=(_lengths(data), data.targets, *head),
    )


@torch.no_grad()
def _statistics_views(statistics: StatisticsStream, data: Voices, n_views: int, config: TrainConfig) -> Tensor:
    """Return what the statistics read (n_views, N, n_statistics): each utterance as it is, then augmented ones."""
    g, length = torch.Generator().manual_seed(config.seed), int(config.voice_crop_s * SAMPLE_RATE)

    def read(mel: Tensor) -> Tensor:
        mel = mel[None].to(statistics.dct.device)
        return statistics.read(mel, torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)).cpu()

    clean = [read(log_mel(x).mel) for x in tqdm(data.samples, desc="statistics", leave=False, mininterval=5)]
    views = [torch.cat(clean)]
    for _ in tqdm(range(n_views - 1), desc="statistics, augmented", leave=False, mininterval=5):
        views.append(torch.cat([read(_augmented_mel(x, length, 1.0, g)) for x in data.samples]))
    return torch.stack(views)


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
    """Train the text's encoder and head on token states.

    Args:
        rows: the sentences of `data`, whose class frequencies adjust the logits.
    """
    priors = text_priors(rows, config.text_tau)
    module = branch_module(model, "text")
    size = config.text_batch
    lengths = (data.offsets[1:] - data.offsets[:-1]).float()
    n = len(text_epoch(rows, config.text_teaching_share, torch.Generator()))
    optimizer = torch.optim.AdamW(text_rates(module, config), weight_decay=0.02)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        drawn = text_epoch(rows, config.text_teaching_share, g)
        noisy = lengths[drawn] + 4 * torch.rand(n, generator=g)  # near lengths together: little padding
        parts = drawn[noisy.argsort()].split(size)
        share = min(config.text_epochs - epoch, 1.0)  # of the last epoch
        for i in torch.randperm(len(parts), generator=g)[: int(len(parts) * share)]:
            yield *data.batch(parts[i]), data.targets[parts[i]], priors[parts[i]]

    def loss_of(states: Tensor, mask: Tensor, targets: Tensor, prior: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](states, mask).top).float()
        if loss:
            return loss(logits, targets)
        return soft_cross_entropy(logits, targets, smoothing=config.smoothing, log_prior=prior)

    fit_stage(
        "text",
        module,
        optimizer,
        -(-n // size),
        batches,
        loss_of,
        config,
        work=work,
        data=(data.offsets, data.targets, priors),
        report=report,
    )


def text_epoch(rows: Sequence[Row], share: float, generator: torch.Generator) -> Tensor:
    """Return (N,) which sentences an epoch learns from: all of the corpora in `CORPORA`, a share of the others."""
    is_usual = torch.tensor([r.corpus in CORPORA["text"] for r in rows])
    usual, others = (part.nonzero().flatten() for part in (is_usual, ~is_usual))
    return torch.cat([usual, others[torch.randperm(len(others), generator=generator)[: round(share * len(others))]]])


def text_rates(module: nn.ModuleDict, config: TrainConfig) -> list[dict]:
    """Return optimizer groups of the text branch, each with its learning rate."""
    has_layers = cast(TextEncoder, module["encoder"]).layers is not None
    return layerwise(module, config.text_lr, config.layer_decay * (config.text_layer_decay if has_layers else 1.0))


def text_priors(rows: Sequence[Row], tau: float) -> Tensor:
    """Return what is added to the logits of each sentence (N, K) while training.

    Of the corpora in `CORPORA` it is `tau` times the log class frequencies of them all together. Another corpus
    was collected by its emotions, and its frequencies say nothing about speech: its own take the place of theirs, so
    that what the logits learn of the prior is what they learn from `CORPORA` alone.
    """
    usual = log_prior(torch.tensor(class_counts([r for r in rows if r.corpus in CORPORA["text"]])), 1.0)
    priors = {}
    for corpus in {r.corpus for r in rows}:
        own = log_prior(torch.tensor(class_counts([r for r in rows if r.corpus == corpus])), 1.0)
        priors[corpus] = tau * usual if corpus in CORPORA["text"] else own - (1 - tau) * usual
    return torch.stack([priors[r.corpus] for r in rows])
