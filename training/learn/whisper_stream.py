"""The voice branch's stream from Whisper's frozen encoder: how it learns, how much others count beside it."""

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmer.encoders import WhisperStream
from mmer.model import EmotionModel
from training.data import augment
from training.data.load import Voices
from training.learn.branches import LossFunction, fit_stage, sampling_weights, through_head, voice_encoder
from training.learn.config import TrainConfig
from training.learn.losses import fit_temperature
from training.learn.streams import choose_rest


def train_whisper(
    model: EmotionModel,
    data: Voices,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    augmented: bool = True,
) -> None:
    """Let the stream learn to judge alone, through the head as it is; nothing else changes.

    The CNN and the statistics know by heart what they learned from, so that beside them it would learn little.
    """
    whisper, states = voice_encoder(model).whisper, data.whisper
    if whisper is None or states is None:
        return
    stream = nn.ModuleDict({"whisper": whisper})
    loss_of, head = through_head(model, "voice", whisper, config, loss)
    (n, n_views), size = states.shape[:2], config.voice_whisper_batch
    n_views = n_views if augmented else 1
    optimizer = torch.optim.AdamW(
        [
            {"params": list(whisper.layers.parameters()), "lr": config.voice_whisper_lr},
            {"params": [whisper.depths], "lr": 10 * config.voice_whisper_lr, "weight_decay": 0.0},
        ],
        weight_decay=0.05,
    )
    sampling = sampling_weights(data, config.voice_whisper_power)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        which = torch.multinomial(sampling, n, replacement=True, generator=g)
        view = torch.randint(n_views, (n,), generator=g)
        for part in range(0, max(n - size + 1, 1), size):
            index = which[part : part + size]
            x, targets = states[index, view[part : part + size]].float(), data.targets[index]
            if augmented:
                x, targets, *_ = augment.mixup(x, targets, g, alpha=0.4)
            yield x, targets

    fit_stage(
        "voice_whisper",
        stream,
        optimizer,
        max(n // size, 1),
        batches,
        loss_of,
        config,
        work=work,
        data=(states[:, 0, -1].float().mean(1), data.targets, *head),
    )


@torch.no_grad()
def weigh_whisper(model: EmotionModel, data: Voices, own: Tensor, temperature: float | None = None) -> dict[str, float]:
    """Decide how much the CNN and the statistics count beside the stream, see `choose_rest`.

    Args:
        own: (N, state) of the branch without Whisper, on the same utterances.
        temperature: of the branch without Whisper; None: the one that fits here.
    """
    whisper = voice_encoder(model).whisper
    if whisper is None or data.whisper is None:
        raise ValueError("the voice branch has no stream from Whisper, or the utterances have no states of it")
    beside = whisper(data.whisper[:, 0].float())
    return choose_rest(
        whisper,
        whisper.layers[-2],
        model.heads["voice"],
        own=own,
        beside=beside,
        targets=data.targets,
        temperature=temperature,
    )


def answers_left_out(
    model: EmotionModel, data: Voices, calibration: Voices, config: TrainConfig, work: Path, n_folds: int = 4
) -> np.ndarray:
    """Return (N, K) probabilities of the stream alone on speakers it learns from, left out of it in turn.

    Without the CNN and the statistics, which know these speakers, and without augmented views it is a little worse than
    what serves: how sure it must be is no less.

    Args:
        calibration: people who taught nothing, on whom each fold's temperature is fitted as that of what serves is.
    """
    if data.whisper is None or calibration.whisper is None:
        raise ValueError("the utterances have no states of Whisper's encoder")
    fold = np.array([int(hashlib.sha256(s.encode()).hexdigest(), 16) % n_folds for s in data.speakers])
    probs = torch.zeros_like(data.targets)
    for k in range(n_folds):
        other = copy.deepcopy(model)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed + k)  # a run that goes on begins with the same weights
            stream = WhisperStream(other.config)
        voice_encoder(other).whisper = stream
        train_whisper(other, data.part(fold != k), config, work / f"left-out-{k}", augmented=False)
        with torch.no_grad():
            logits = other.heads["voice"](stream(calibration.whisper[:, 0].float()))
            temperature = fit_temperature(logits, calibration.targets)
            left_out = torch.from_numpy(fold == k)
            answers = other.heads["voice"](stream(data.whisper[left_out, 0].float()))
            probs[left_out] = (answers / temperature).softmax(1)
    return probs.numpy()
