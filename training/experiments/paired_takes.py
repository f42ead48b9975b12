"""Takes of RAVDESS that are heard and seen: its sound, and OpenFace's action units of its pictures; what each says.

Every answer is by models that the take's own actor taught nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmer.checkpoint import Checkpoint
from mmer.errors import TrainingError
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from mmer.speech import Transcriber
from training.data.action_units import ravdess_action_units, take_of
from training.data.load import Voices, load_every_voice, split_calibration
from training.data.manifest import Row
from training.data.unpaired import ravdess
from training.learn.branches import voice_encoder
from training.learn.config import TrainConfig
from training.learn.fusion import Encoded, encode_voices
from training.learn.losses import fit_temperature, minimise, soft_cross_entropy
from training.learn.whisper_stream import train_whisper

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)  # on the squared weights of a regression; each chooses its own
N_FOLDS = 4  # of the actors who do not validate

N_MATCHED = 20  # label-matched faces of each voice


@dataclass(frozen=True)
class Takes:
    """Takes that are both heard and seen."""

    rows: list[Row]
    units: Tensor  # (N, 70) action units and their square roots, as they are
    targets: Tensor  # (N, K)
    actors: np.ndarray  # (N,)
    parts: np.ndarray  # (N,) train | calibration | val

    def where(self, *parts: str) -> np.ndarray:
        return np.isin(self.parts, parts)


def read(corpora: Path) -> Takes:
    """Return RAVDESS' takes in the parts that the shipped branches were made with."""
    units = ravdess_action_units(corpora)
    rows = [r for r in ravdess(corpora) if r.path is not None and take_of(r.path.stem) in units and r.split != "test"]
    if not rows:
        raise TrainingError("no_pairs", f"{corpora} has no sound of a take whose action units are there")
    _, calibration = split_calibration(tuple(r for r in rows if r.split == "train"))
    aside = {r.speaker for r in calibration}
    values = torch.tensor([units[take_of(r.path.stem)] for r in rows if r.path is not None])
    return Takes(
        rows,
        torch.cat([values, values.clamp_min(0).sqrt()], 1),  # most strengths are near 0
        torch.tensor([r.target for r in rows]),
        np.array([r.speaker for r in rows]),
        np.array(["calibration" if r.speaker in aside else r.split for r in rows]),
    )


def matched(takes: Takes, where: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (faces, voices): each voice of these takes with faces of other takes of the same label."""
    rng, label = np.random.default_rng(seed), takes.targets.argmax(1).numpy()
    faces, voices = [], []
    for i in np.flatnonzero(where):
        others = np.flatnonzero(where & (label == label[i]) & (np.arange(len(label)) != i))
        if len(others):
            faces.append(rng.choice(others, N_MATCHED))
            voices.append(np.full(N_MATCHED, i))
    return np.concatenate(faces), np.concatenate(voices)


def at(states: Encoded, index: Tensor | np.ndarray) -> Encoded:
    """Return rows of a branch's embeddings."""
    return Encoded(**{f.name: getattr(states, f.name)[index] for f in fields(Encoded)})


def actor_folds(actors: Sequence[str] | np.ndarray) -> list[np.ndarray]:
    """Return masks (N,) of the actors of each fold."""
    names = sorted(set(actors))
    return [np.isin(actors, names[i::N_FOLDS]) for i in range(min(N_FOLDS, len(names)))]


@dataclass(frozen=True)
class Regression:
    """Logistic regression on standardised inputs."""

    mean: Tensor  # (C,)
    deviation: Tensor  # (C,)
    layer: nn.Linear

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.layer((x - self.mean) / self.deviation)


def fit_layer(layer: nn.Module, x: Tensor, targets: Tensor, penalty: float) -> None:
    """Fit a layer's few weights by cross-entropy, all rows at once, held near to where they start."""
    weights = [p for p in layer.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in weights]

    def loss() -> Tensor:
        apart = sum(((p - s) ** 2).sum() for p, s in zip(weights, start, strict=True))
        return soft_cross_entropy(layer(x), targets) + penalty * apart

    minimise(weights, loss, 200)


def fit_regression(x: Tensor, targets: Tensor, penalty: float) -> Regression:
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-3)
    layer = nn.Linear(x.shape[1], targets.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    fit_layer(layer, (x - mean) / deviation, targets, penalty)
    return Regression(mean, deviation, layer.requires_grad_(False))


def out_of_fold(
    x: Tensor, targets: Tensor, actors: np.ndarray, fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
) -> Tensor:
    """Return logits (N, K) of each row by a model that its actor taught nothing."""
    logits = torch.empty(len(x), targets.shape[1])
    for fold in actor_folds(actors):
        logits[fold] = fit(x[~fold], targets[~fold])(x[fold])
    return logits


def best_penalty(found: dict[float, Tensor], targets: Tensor) -> float:
    """Return the penalty whose logits on actors who taught nothing have the least cross-entropy."""
    return min(found, key=lambda p: float(soft_cross_entropy(found[p], targets)))


class Faces:
    """The stand-in for the face branch: a regression of emotions on action units, calibrated.

    Attributes:
        states: of every take: for takes of the training actors by models that their own actor taught nothing.
        temperature: of the training actors' answers.
    """

    def __init__(self, takes: Takes, width: int):
        learn = takes.where("train")
        x, targets, actors = takes.units[learn], takes.targets[learn], takes.actors[learn]

        def at_penalty(penalty: float) -> Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]:
            return lambda x, targets: fit_regression(x, targets, penalty)

        tried = {p: out_of_fold(x, targets, actors, at_penalty(p)) for p in PENALTIES}
        self.penalty = best_penalty(tried, targets)
        model = fit_regression(x, targets, self.penalty)
        logits = model(takes.units)
        logits[learn] = tried[self.penalty]
        self.temperature = fit_temperature(tried[self.penalty], targets)
        logits = logits / self.temperature
        scaled = (takes.units - model.mean) / model.deviation
        top = torch.cat([logits, scaled, scaled.new_zeros(len(scaled), width)], 1)[:, :width]
        self.states = Encoded(scaled, top, logits, takes.targets, top)


class HeardVoices:
    """The voice's answers to takes whose actor taught it nothing: the checkpoint's own, else those of other streams.

    Attributes:
        states: of every take; those of training actors are the checkpoint's and know these actors by heart.
        crossed: (N, K) calibrated logits of the streams, for all actors who do not validate.
    """

    def __init__(self, takes: Takes, served: Checkpoint, whisper: Transcriber, config: TrainConfig, work: Path):
        voices = replace(load_every_voice(takes.rows, whisper, work), targets=takes.targets)
        model = served.model
        self.states = self._own(model, voices, takes.where("calibration", "val"))
        own = takes.where("train", "calibration")
        self.crossed = torch.zeros(len(takes.rows), takes.targets.shape[1])
        logits = self._crossed(model, voices.part(own), takes.actors[own], config, work)
        self.temperature = fit_temperature(logits, takes.targets[own])
        self.crossed[own] = logits / self.temperature

    def _own(self, model: EmotionModel, voices: Voices, where: np.ndarray) -> Encoded:
        found = encode_voices(model, voices.part(where))
        temperature = model.temperatures[MODALITIES.index("voice")]
        found = replace(found, logits=found.logits / temperature)
        index = torch.from_numpy(np.flatnonzero(where))

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(len(where), x.shape[1]).index_copy(0, index, x)

        return Encoded(**{f.name: spread(getattr(found, f.name)) for f in fields(Encoded)})

    def _crossed(
        self, model: EmotionModel, voices: Voices, actors: np.ndarray, config: TrainConfig, work: Path
    ) -> Tensor:
        """Return logits (N, K) by streams from Whisper's encoder, alone, each taught by the other folds' actors."""
        logits = torch.empty(len(actors), voices.targets.shape[1])
        assert voices.whisper is not None
        for i, fold in enumerate(actor_folds(actors)):
            torch.manual_seed(config.seed)
            student = EmotionModel(model.config)
            student.heads.load_state_dict(model.heads.state_dict())
            train_whisper(student, voices.part(~fold), config, made(work / f"stream-{i}"))
            stream = voice_encoder(student.eval()).whisper
            assert stream is not None
            with torch.no_grad():
                logits[fold] = student.heads["voice"](stream(voices.whisper[fold, 0].float()))
        return logits


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
