"""The face branch's stream that starts from ImageNet: how it learns, how much others count beside it."""

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
    fit_stage,
    through_head,
)
from training.learn.config import TrainConfig
from training.learn.fusion import encode_faces
from training.learn.streams import choose_rest


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
    loss_of, head = through_head(model, "face", lambda crops: imagenet(standardised(crops)), config, loss)
    optimizer = torch.optim.AdamW(decayed_weights(stream, config.face_imagenet_lr, 0.05, config))
    if config.compile:
        imagenet.net.compile(dynamic=False)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        small = epoch < config.face_small * config.face_imagenet_epochs
        for index, crops in crop_batches(data, config.face_batch, g, small=small, augmented=augmented):
            yield crops, data.targets[index]

    fit_stage(
        "face_imagenet",
        stream,
        optimizer,
        max(len(data.images) // config.face_batch, 1),
        batches,
        loss_of,
        config,
        work=work,
        data=(data.images, data.targets, *head),
        report=report,
    )


@torch.no_grad()
def weigh_imagenet(model: EmotionModel, data: Faces) -> dict[str, float]:
    """Decide how much the CNN and the blendshapes count beside the stream, see `choose_rest`."""
    encoder = face_encoder(model)
    stream, encoder.imagenet = encoder.imagenet, None
    if stream is None:
        raise ValueError("the face branch has no stream from ImageNet")
    try:
        own = encode_faces(model, data, fits=True).top
    finally:
        encoder.imagenet = stream
    beside = torch.cat([stream(standardised(part[:, None].float() / 255)) for part in data.images.split(256)])
    return choose_rest(stream, stream.embed[1], model.heads["face"], own=own, beside=beside, targets=data.targets)
