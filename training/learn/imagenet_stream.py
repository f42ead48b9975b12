"""The face branch's stream that starts from ImageNet: how it learns."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mmer.encoders import standardised
from mmer.model import EmotionModel
from training.data.load import Faces
from training.learn.branches import (
    LossFunction,
    Report,
    crop_batches,
    decayed_weights,
    face_encoder,
    one_cycle,
    output_layer,
)
from training.learn.config import TrainConfig, settings_of
from training.learn.loop import fit
from training.learn.losses import soft_cross_entropy


def train_imagenet(
    model: EmotionModel,
    data: Faces,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
    augmented: bool = True,
) -> None:
    """Let the stream learn to judge crops alone, through the head as it is; nothing else changes.

    Args:
        loss: in place of the recipe's.
        report: called after each epoch.
    """
    imagenet = face_encoder(model).imagenet
    if imagenet is None:
        return
    stream = nn.ModuleDict({"imagenet": imagenet})
    head = {k: v.detach().clone() for k, v in output_layer(model, "face").state_dict().items()}
    optimizer = torch.optim.AdamW(decayed_weights(stream, config.face_imagenet_lr, 0.05, config))
    if config.compile:
        imagenet.net.compile(dynamic=False)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        small = epoch < config.face_small * config.face_imagenet_epochs
        for index, crops in crop_batches(data, config.face_batch, g, small=small, augmented=augmented):
            yield crops, data.targets[index]

    def loss_of(crops: Tensor, targets: Tensor) -> Tensor:
        weight, bias = (head[k].to(crops.device) for k in ("weight", "bias"))
        logits = nn.functional.linear(imagenet(standardised(crops)), weight, bias).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    n_batches = max(len(data.images) // config.face_batch, 1)
    fit(
        "face_imagenet",
        stream,
        optimizer,
        one_cycle(optimizer, n_batches * config.face_imagenet_epochs),
        batches,
        loss_of,
        epochs=config.face_imagenet_epochs,
        work=work,
        settings=settings_of("face_imagenet", config),
        data=(data.images, data.targets, *head.values()),
        report=report,
        average=config.average,
        precision=config.precision,
    )
