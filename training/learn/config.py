"""The settings of a training run and what each stage takes of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mmer.labels import MODALITIES

PRECISIONS = ("fp32", "bf16", "fp16")
CORPORA = {"face": ("fer2013",), "voice": ("ravdess", "emodb", "nemo"), "text": ("goemotions", "meld")}
TEACHING = {"text": ("xed",)}  # corpora that a branch learns from too; nothing is calibrated or measured on them


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    precision: str = "fp32"  # bf16 halves the time of the convolutions on CPUs that have it; fp16 on GPUs that lack it
    layer_decay: float = 1.0  # learning rate of each layer over that of the layer above it
    unfreeze: int = 0  # epochs over which the layers begin to learn, the head first
    init_share: float = 0.0  # how much of the weights of --init a trained branch keeps
    compile: bool = False  # let torch compile the face's CNN, where there is a C++ compiler
    average: float = 0.99  # decay per step of the weights' average, which a branch ends with; 0: the last weights
    face_epochs: int = 48
    face_batch: int = 96
    face_lr: float = 0.05  # SGD with momentum, one cycle
    face_small: float = 0.7  # share of the epochs, the first ones, on crops of two thirds their size, at half the time
    face_imagenet_epochs: int = 14  # of the network that starts from ImageNet, which learns after the CNN
    face_imagenet_lr: float = 1.5e-3  # AdamW, one cycle
    face_imagenet_votes: float = 0.15  # share of its target that FER+'s raters have, where they voted
    face_tau: float = 0.0  # logit adjustment after training: 0 has the best macro-F1 of 0 to 1 on the calibration split
    voice_epochs: int = 80  # from nothing: after 40 RAVDESS has ten points less
    voice_most: int = 1500  # utterances of one corpus: more of one would cost hours and teach little
    voice_batch: int = 16
    voice_lr: float = 1e-3  # AdamW, one cycle
    voice_crop_s: float = 3.0
    speaker_augment_prob: float = 0.25  # of an utterance to sound like another speaker to the CNN, some also in a room
    voice_statistics_epochs: int = 40  # in which the statistics learn after the CNN: seconds each
    voice_statistics_views: int = 6  # augmented ones of each utterance
    voice_statistics_batch: int = 64
    voice_statistics_lr: float = 1e-3  # AdamW, one cycle
    voice_whisper_views: int = (
        3  # augmented ones of each utterance that Whisper's encoder hears, fewer in a large corpus
    )
    voice_whisper_power: float = 0.5  # as voice_power, for this stream: it learns from several corpora
    voice_whisper_epochs: int = 60  # in which the stream from Whisper's encoder learns last: seconds each
    voice_whisper_batch: int = 64
    voice_whisper_lr: float = 1e-3  # AdamW, one cycle
    voice_power: float = 0.25  # a corpus' emotion with n utterances is drawn n ** power times as often as one with one
    text_epochs: float = 3.0
    text_batch: int = 64
    text_lr: float = 1e-3
    text_layer_decay: float = 0.75  # as layer_decay, where layers of MiniLM learn too: they start from a good place
    text_teaching_share: float = 0.3  # of the sentences of TEACHING, drawn for each epoch: best of 0, 0.3 and 1
    text_tau: float = 0.4  # logit adjustment: neutral is 30-47 % of the sentences
    text_prior_restore: float = 0.2  # of the log frequencies the head gets back: best of -0.4 to 0.6, calibration split
    fusion_steps: int = 100  # best of 100 and 300, two-fold on the calibration split; 3000 overfit its few voices
    fusion_batch: int = 256
    fusion_lr: float = 3e-4
    fusion_dropout: float = 0.5  # of the branch states it reads, never of their votes
    conflict: float = 0.15  # share of tuples in which one branch carries another label
    smoothing: float = 0.1


FORMER_NAMES = {
    "voice_strange": "speaker_augment_prob",
    "voice_statistics_readings": "voice_statistics_views",
    "text_back": "text_prior_restore",
}
DROPPED = ("text_tuned",)  # settings no more: part of the model's shape


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, also nested ones, under today's names: checkpoints and states may be older than a renaming."""
    return {
        FORMER_NAMES.get(k, k): with_current_names(v) if isinstance(v, Mapping) else v
        for k, v in settings.items()
        if k not in DROPPED
    }


def config_of(meta: Mapping[str, Any]) -> TrainConfig:
    """Return the settings that a checkpoint was trained with; today's defaults where its meta.json has none."""
    kept = with_current_names(meta.get("training", {}))
    return TrainConfig(**{field.name: kept[field.name] for field in fields(TrainConfig) if field.name in kept})


def part_of(setting: str) -> str:
    """Return the part of the model that a setting is about, as `voice` or `fusion`; else the setting's first word."""
    return "voice" if setting == "speaker_augment_prob" else setting.split("_")[0]


def branch_settings(settings: Mapping[str, Any], *modalities: str) -> dict[str, Any]:
    """Return only the settings about these branches, about all three when none is named."""
    return {k: v for k, v in settings.items() if part_of(k) in (modalities or MODALITIES)}


def settings_of(stage: str, config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide what a stage learns; the voice's other streams stand on what its CNN learned."""
    shared = ("seed", "layer_decay", "average", "unfreeze", "precision", "smoothing")
    every = asdict(config)
    own = stage.split("_")[0]
    later = {
        "face": ("face_tau", *(k for k in every if "imagenet" in k)),
        "text": ("text_prior_restore",),
        "voice": tuple(k for k in every if "statistics" in k or "whisper" in k),
        "voice_statistics": tuple(k for k in every if "whisper" in k),
    }.get(stage, ())
    return {k: v for k, v in every.items() if k in shared or (part_of(k) == own and k not in later)}
