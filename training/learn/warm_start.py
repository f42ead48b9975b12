"""What a model starts from, a checkpoint or other people's weights, and how what its stages learned is put into it."""

import pickle
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mmer import checkpoint
from mmer.config import ModelConfig
from mmer.efficientnet import EfficientNetLite0
from mmer.encoders import TextEncoder
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training.data.manifest import Row, class_counts
from training.learn.branches import branch_module, output_layer
from training.learn.config import CORPORA, TrainConfig, branch_settings, with_current_names
from training.learn.loop import stage_settings, stage_weights
from training.learn.losses import log_prior

IMAGENET_URL = (
    "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
    "tf_efficientnet_lite0-0aa007d2.pth"
)
# Streams inside a branch's encoder, which learn in stages of their own, as `voice_whisper`.
STREAMS: dict[str, tuple[str, ...]] = {"face": ("imagenet",), "voice": ("statistics", "whisper"), "text": ()}
STREAM_STAGES = tuple(f"{m}_{stream}" for m, streams in STREAMS.items() for stream in streams)
_RECORDS = ("training", "stages")  # of a checkpoint's meta.json: the settings of the run, and of each branch's stage


def shape_of(loaded: checkpoint.Checkpoint | None, reset: Sequence[str], usual: ModelConfig) -> ModelConfig:
    """Return the shape of a checkpoint's model, but for the branches that are reset, which have the usual one."""
    if loaded is None:
        return usual
    ours = tuple(f"{m}_" for m in reset)
    return replace(loaded.config.model, **{k: v for k, v in vars(usual).items() if k.startswith(ours)})


def of_branches(model: EmotionModel) -> set[str]:
    return {name for name in model.state_dict() if name.startswith(("encoders.", "heads."))}


def start_from(
    model: EmotionModel, other: EmotionModel, reset: Sequence[str] = (), kept: tuple[str, ...] = ()
) -> set[str]:
    """Take over every weight of the other's branches that has its name and shape here; return their names.

    Args:
        reset: branches that take nothing over.
        kept: beginnings of the names of what stays as it is here.
    """
    own, theirs = model.state_dict(), other.state_dict()
    taken = {
        name: theirs[name]
        for name in of_branches(model) & set(theirs)
        if theirs[name].shape == own[name].shape and name.split(".")[1] not in reset and not name.startswith(kept)
    }
    model.load_state_dict(taken, strict=False)
    return set(taken)


def adopt(branch: nn.ModuleDict, states: Sequence[Path], started: dict[str, Tensor], share: float) -> None:
    """Put what stages learned into their branch, but for a share of the weights that it started from.

    Args:
        states: of the branch, then of streams inside its encoder, which learn in stages of their own.
    """
    learned: dict[str, Tensor] = {}
    for state in states:
        inside = "encoder." if state.name.startswith(STREAM_STAGES) else ""
        learned |= {f"{inside}{k}": v for k, v in stage_weights(state).items()}
    merged = branch.state_dict() | between(learned, started, share)
    try:
        if learned.keys() - branch.state_dict().keys():
            raise RuntimeError("it has other layers")
        branch.load_state_dict(merged)
    except RuntimeError as error:
        raise TrainingError(
            "other_shape",
            f"{states[0]} holds a branch of another shape; "
            "give the options it was trained with, as --reset-branch or --model",
        ) from error


def between(learned: dict[str, Tensor], started: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights that keep `share` of those that training started from; counters and what is new are as learned.

    https://arxiv.org/abs/2109.01903
    """

    def mixed(name: str, value: Tensor) -> Tensor:
        first = started.get(name)
        if first is None or first.shape != value.shape or not value.is_floating_point():
            return value
        return value.lerp(first, share)

    return {name: mixed(name, value) for name, value in learned.items()}


def adopt_imagenet(net: EfficientNetLite0, path: str) -> None:
    """Let the net start from the ImageNet weights in a .pth file, or, without one, from those that timm publishes.

    Raises:
        TrainingError: `bad_weights` when the file holds no such weights, `no_weights` when they cannot be fetched.
    """
    try:
        if path:
            loaded = torch.load(path, weights_only=True, map_location="cpu")
        else:
            loaded = torch.hub.load_state_dict_from_url(IMAGENET_URL, map_location="cpu", check_hash=True)
    except OSError as error:
        message = f"EfficientNet-Lite0's ImageNet weights cannot be had: {error}; give --imagenet FILE"
        raise TrainingError("no_weights", message) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        message = f"{path} is not a file of PyTorch weights; timm's tf_efficientnet_lite0 .pth is one"
        raise TrainingError("bad_weights", message) from error
    try:
        net.adopt(loaded)
    except (AttributeError, ValueError) as error:
        raise TrainingError("bad_weights", f"{path} does not hold EfficientNet-Lite0's weights: {error}") from error


def adopt_layers(encoder: TextEncoder, folder: Path) -> None:
    """Let the text branch's own layers, where it has any, start as the last ones of the language model in a folder.

    Raises:
        AssetError: `asset_damaged` when it cannot be loaded.
    """
    layers = encoder.layers
    if layers is None:
        return
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    weights = {}
    for i, layer in enumerate(LanguageModel(folder).layers[-len(layers.layers) :]):
        own = layer.state_dict()
        for kind in ("weight", "bias"):
            parts = [own[f"attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            weights[f"layers.{i}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            weights |= {f"layers.{i}.{name}.{kind}": own[f"{old}.{kind}"] for name, old in names.items()}
    layers.load_state_dict(weights)


def _states_of(model: EmotionModel, work: Path, modality: str) -> list[Path]:
    """Return the states that stages left of a branch, its own first."""
    encoder = model.encoders[modality]
    streams = [f"{modality}_{s}" for s in STREAMS[modality] if getattr(encoder, s) is not None]
    return [f for stage in (modality, *streams) if (f := work / f"{stage}.state.pt").is_file()]


def assemble(
    model: EmotionModel,
    work: Path,
    config: TrainConfig,
    loaded: checkpoint.Checkpoint | None,
    fresh: set[str],
    reset: Sequence[str],
    rows: dict[str, tuple[Row, ...]],
) -> dict[str, dict]:
    """Put what the stages in `work` learned into the model's branches; return the settings they were trained with.

    Args:
        loaded: the checkpoint that training started from.
        fresh: names of the tensors that did not start from it.
        reset: branches that began from nothing.
        rows: what each branch was trained on.

    Raises:
        TrainingError: `no_state` where a branch has tensors that nothing has trained.
    """
    # Of branches that stay as they were: what they were trained with.
    before, made = ({}, {}) if loaded is None else (with_current_names(loaded.meta.get(k, {})) for k in _RECORDS)
    training, stages = asdict(config) | branch_settings(before), dict(made)
    states = {m: _states_of(model, work, m) for m in MODALITIES}
    learned = [m for m in MODALITIES if states[m] and states[m][0].name == f"{m}.state.pt"]
    share = {m: config.init_share if loaded and m not in reset else 0.0 for m in MODALITIES}
    for m in MODALITIES:
        if states[m]:
            started = branch_module(loaded.model, m).state_dict() if loaded and share[m] else {}
            adopt(branch_module(model, m), states[m], started, share[m])
            for state in states[m]:
                stages[state.name.split(".")[0]] = stage_settings(state)
        if m in learned:
            training |= branch_settings({**asdict(config), **stages[m]}, m)
    for name in sorted(fresh):
        m = name.split(".")[1]
        stage = next((f"{m}_{s}" for s in STREAMS[m] if name.startswith(f"encoders.{m}.{s}.")), m)
        if work / f"{stage}.state.pt" not in states[m]:
            missing, inside = work / f"{stage}.state.pt", f"give --stage {stage}" if stage in STREAM_STAGES else ""
            way = inside or f"train the {m} branch"
            raise TrainingError("no_state", f"{missing} is missing; {way} first or give --init ID")
    with torch.no_grad():
        priors = (("face", "face_tau", -config.face_tau), ("text", "text_prior_restore", config.text_prior_restore))
        for m, field, tau in priors:
            if m in learned or field not in before:  # else the weights of --init have it already
                part = 1 - share[m] if field in before else 1.0
                usual = [r for r in rows[m] if r.corpus in CORPORA[m]]
                output_layer(model, m).bias.add_(log_prior(torch.tensor(class_counts(usual)), tau * part))
        # Rounded before anything is measured: the file holds them in half the bytes.
        for parameter in (*model.encoders.parameters(), *model.heads.parameters()):
            parameter.copy_(parameter.half())
    model.eval()
    return {"training": training, "stages": stages}
