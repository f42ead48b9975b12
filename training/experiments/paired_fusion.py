"""Fusions measured where face and voice are of the same take, beside pairs that only share their label.

The fusion that ships learns from tuples whose errors are independent. Here they are not: a take that is badly acted is
so in both.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmer.checkpoint import Checkpoint
from mmer.labels import MODALITIES
from mmer.metrics import bootstrap, bootstrap_gain, classification, headline, paired_test
from mmer.model import AttentionFusion, BranchStates, EmotionModel
from mmer.speech import Transcriber
from training.experiments.figures import with_interval
from training.experiments.paired_takes import (
    PENALTIES,
    Faces,
    HeardVoices,
    actor_folds,
    at,
    best_penalty,
    fit_layer,
    made,
    matched,
    read,
)
from training.learn.config import TrainConfig
from training.learn.exemplars import Exemplars, votes_on
from training.learn.fusion import Encoded, Tuples, calibrate, train_fusion
from training.learn.losses import fit_temperature, soft_cross_entropy

Layer = TypeVar("Layer", bound=nn.Module)
Fused = Callable[[Encoded, Encoded], Tensor]  # face and voice, row by row, to logits (N, K)


class Weighted(nn.Module):
    """The product of two calibrated experts, each with a weight: (N, 2K) calibrated votes to logits (N, K)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, votes: Tensor) -> Tensor:
        return (votes.unflatten(1, (2, -1)) * self.weights[:, None]).sum(1)


def stacked(n_classes: int) -> nn.Linear:
    """Return a regression on two experts' votes (N, 2K) that starts as their product."""
    layer = nn.Linear(2 * n_classes, n_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(n_classes).repeat(1, 2))
        layer.bias.zero_()
    return layer


def votes(face: Encoded, voice: Encoded) -> Tensor:
    return torch.cat([face.logits.log_softmax(1), voice.logits.log_softmax(1)], 1)


def product(face: Encoded, voice: Encoded) -> Tensor:
    return face.logits + voice.logits


def by_votes(layer: nn.Module) -> Fused:
    return lambda face, voice: layer(votes(face, voice)).detach()


def attention(fusion: AttentionFusion) -> Fused:
    """Return how an attention fusion joins a face and a voice without words."""

    @torch.no_grad()
    def fused(face: Encoded, voice: Encoded) -> Tensor:
        n = len(face.logits)
        present = torch.tensor([[True, True, False]]).expand(n, -1)
        nothing = [
            x.new_zeros(n, size) for x, size in ((face.middle, _text_size(fusion)), (voice.top, voice.top.shape[1]))
        ]
        states = BranchStates(
            (face.middle, voice.middle, nothing[0]),
            torch.stack([face.top, voice.top, nothing[1]], 1),
            torch.stack([face.logits, voice.logits, torch.zeros_like(voice.logits)], 1),
        )
        return fusion(states, present)[0]

    return fused


def _text_size(fusion: AttentionFusion) -> int:
    return cast(nn.LayerNorm, cast(nn.Sequential, fusion.middles[2])[0]).normalized_shape[0]


@torch.no_grad()
def exemplar_states(model: EmotionModel, exemplars: Exemplars, modality: str) -> Encoded:
    """Return the embeddings of the calibration split's exemplars, with calibrated logits."""
    part = exemplars.calibration(modality)
    top = model.encoder(modality).project(part.pooled)
    return Encoded(part.middle, top, votes_on(model, modality, part), part.targets, part.pooled)


def borrowed(model: EmotionModel, known: Encoded) -> Fused:
    """Return the model's own fusion for a stand-in's votes: its states are those of the face whose votes are likest."""
    fused, own = attention(model.fusion), known.logits.softmax(1)

    def join(face: Encoded, voice: Encoded) -> Tensor:
        nearest = torch.cdist(face.logits.softmax(1), own, p=1).argmin(1)
        return fused(replace(at(known, nearest), logits=face.logits), voice)

    return join


def label_matched_attention(
    model: EmotionModel, faces: Encoded, exemplars: Exemplars, config: TrainConfig, work: Path
) -> Fused:
    """Return our fusion, learned anew for the stand-in's states as ours is: from label-matched tuples."""
    torch.manual_seed(config.seed)
    shell = EmotionModel(model.config)
    shell.fusion = AttentionFusion(model.config, (faces.middle.shape[1], *model.middle_sizes[1:]))
    others = {m: exemplar_states(model, exemplars, m) for m in MODALITIES[1:]}
    ones = torch.ones(len(MODALITIES))
    train_fusion(shell, Tuples({"face": faces, **others}, ones, config.conflict), config, made(work))
    shell.fusion.eval()
    calibrate(shell, Tuples({"face": faces, **others}, ones, 0.0), config.seed + 1)
    return attention(shell.fusion)


def figures(truth: np.ndarray, logits: Tensor, actors: np.ndarray, alone: np.ndarray | None = None) -> dict:
    """Return the figures of answers, and how much better they are than those of the voice `alone` (N,)."""
    probs = logits.softmax(1).numpy()
    said, found = probs.argmax(1), headline(classification(truth, probs))
    found["nll"] = float(
        soft_cross_entropy(logits, nn.functional.one_hot(torch.from_numpy(truth), probs.shape[1]).float())
    )
    found["ci95"] = bootstrap(truth, said, who := actors.tolist())
    if alone is not None:
        theirs = classification(truth, np.eye(probs.shape[1])[alone])
        test = paired_test(said == truth, alone == truth, who)
        found["gain"] = {
            "uar": found["uar"] - theirs["uar"],
            "accuracy": test["difference"],
            "p": test["p"],
            "ci95": bootstrap_gain(truth, said, alone, who),
        }
    return found


def rescued(face: np.ndarray, voice: np.ndarray) -> dict[str, float]:
    """Return how often the face is right, over all and where the voice is wrong: apart where errors depend."""
    return {"face": float(face.mean()), "face, voice wrong": float(face[~voice].mean()) if (~voice).any() else 1.0}


class PairedTakes:
    """The measurement: every fusion on true pairs and on label-matched pairs of the same takes."""

    def __init__(
        self,
        corpora: Path,
        served: Checkpoint,
        exemplars: Exemplars,
        whisper: Transcriber,
        config: TrainConfig,
        work: Path,
    ):
        made(work)
        self.takes = takes = read(corpora)
        self.voices = HeardVoices(takes, served, whisper, config, work)
        self.faces = Faces(takes, served.model.config.state)
        others = takes.where("train", "calibration")
        self.crossed = replace(self.voices.states, logits=self.voices.crossed)  # only its votes are to be read
        self.weighted = {
            "label-matched pairs": self._fit(Weighted(), others, 0.0, matched(takes, others, 3)),
            "true pairs": self._fit(Weighted(), others, 0.0),
        }
        self.fused: dict[str, Fused] = {
            "product of calibrated experts": product,
            "shipped fusion, the states of the likest face": borrowed(
                served.model, exemplar_states(served.model, exemplars, "face")
            ),
            "attention, label-matched tuples": label_matched_attention(
                served.model, at(self.faces.states, others), exemplars, config, work / "fusion"
            ),
            **{f"weights, {kind}": by_votes(layer) for kind, layer in self.weighted.items()},
            "regression, label-matched pairs": by_votes(self._stack(others, matched(takes, others, 3))),
            "regression, true pairs": by_votes(self._stack(others)),
        }

    def _votes(self, pairs: tuple[np.ndarray, np.ndarray]) -> Tensor:
        return votes(at(self.faces.states, pairs[0]), at(self.crossed, pairs[1]))

    def _fit(
        self,
        layer: Layer,
        where: np.ndarray,
        penalty: float,
        pairs: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Layer:
        face, voice = pairs or (np.flatnonzero(where),) * 2
        fit_layer(layer, self._votes((face, voice)), self.takes.targets[voice], penalty)
        return layer

    def _stack(self, where: np.ndarray, pairs: tuple[np.ndarray, np.ndarray] | None = None) -> nn.Module:
        """Return the regression with the penalty that serves true pairs of actors who taught it nothing."""
        takes, index = self.takes, np.flatnonzero(where)
        tried = {p: torch.empty(len(index), takes.targets.shape[1]) for p in PENALTIES}
        for fold in actor_folds(takes.actors[index]):
            learned, test = index[~fold], index[fold]
            kept = None
            if pairs is not None:
                both = np.isin(pairs[0], learned) & np.isin(pairs[1], learned)
                kept = pairs[0][both], pairs[1][both]
            for penalty in PENALTIES:
                layer = self._fit(
                    stacked(takes.targets.shape[1]), np.isin(np.arange(len(where)), learned), penalty, kept
                )
                tried[penalty][fold] = layer(self._votes((test, test))).detach()
        penalty = best_penalty(tried, takes.targets[index])
        return self._fit(stacked(takes.targets.shape[1]), where, penalty, pairs)

    def validation(self) -> dict:
        """Return the figures on validation actors, with the checkpoint's own voice."""
        takes = self.takes
        here, aside = takes.where("val"), takes.where("calibration")
        index, calibration = np.flatnonzero(here), np.flatnonzero(aside)
        truth, actors = takes.targets.argmax(1).numpy(), takes.actors
        faces, voices, apart = self.faces.states, self.voices.states, matched(takes, here, 5)
        alone = voices.logits.argmax(1).numpy()
        found: dict[str, dict] = {
            "voice": {"paired": figures(truth[index], voices.logits[index], actors[index])},
            "face": {"paired": figures(truth[index], faces.logits[index], actors[index])},
        }
        for name, fused in self.fused.items():
            true = fused(at(faces, index), at(voices, index))
            temperature = fit_temperature(fused(at(faces, calibration), at(voices, calibration)), takes.targets[aside])
            found[name] = {
                "paired": figures(truth[index], true, actors[index], alone[index]),
                "matched": figures(
                    truth[apart[1]], fused(at(faces, apart[0]), at(voices, apart[1])), actors[apart[1]], alone[apart[1]]
                ),
                "temperature": temperature,
                "tempered": headline(classification(truth[index], (true / temperature).softmax(1).numpy())),
            }
        right = [(x.logits.argmax(1).numpy() == truth) for x in (faces, voices)]
        found["errors"] = {
            "paired": rescued(right[0][index], right[1][index]),
            "matched": rescued(right[0][apart[0]], right[1][apart[1]]),
        }
        return found

    def others(self) -> dict:
        """Return the figures on all other actors: branches and weights that their own actor taught nothing."""
        takes = self.takes
        index = np.flatnonzero(takes.where("train", "calibration"))
        truth, actors = takes.targets.argmax(1).numpy()[index], takes.actors[index]
        faces, voices = at(self.faces.states, index), at(self.crossed, index)
        alone = voices.logits.argmax(1).numpy()
        weighed = torch.empty_like(voices.logits)
        for fold in actor_folds(actors):
            where = np.isin(np.arange(len(takes.rows)), index[~fold])
            layer = self._fit(Weighted(), where, 0.0)
            weighed[fold] = layer(votes(at(faces, fold), at(voices, fold))).detach()
        return {
            "voice": figures(truth, voices.logits, actors),
            "face": figures(truth, faces.logits, actors),
            "product of calibrated experts": figures(truth, product(faces, voices), actors, alone),
            "weights, true pairs": figures(truth, weighed, actors, alone),
        }

    def report(self) -> dict:
        takes = self.takes
        return {
            "actors": {part: sorted(set(takes.actors[takes.where(part)])) for part in ("train", "calibration", "val")},
            "face_penalty": self.faces.penalty,
            "face_temperature": self.faces.temperature,
            "weights": {kind: layer.weights.tolist() for kind, layer in self.weighted.items()},
            "validation": self.validation(),
            "others": self.others(),
        }


def page(found: dict) -> str:
    """Return the report as Markdown tables."""
    actors = {part: ", ".join(str(int(a.split("-")[1])) for a in names) for part, names in found["actors"].items()}

    def plus(figure: dict) -> str:
        gain = figure.get("gain")
        if gain is None:
            return ""
        return with_interval(100 * gain["uar"], [100 * x for x in gain["ci95"]["uar"]], "+.1f")

    lines = [
        f"Faces: actors {actors['train']}. Set aside: {actors['calibration']}. Measured: {actors['val']}.",
        "",
        "| fusion | UAR of true pairs | over the voice, points | ECE | tempered | UAR of label-matched pairs | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in found["validation"].items():
        if name == "errors":
            continue
        true, apart = part["paired"], part.get("matched")
        uar = with_interval(true["uar"], true["ci95"]["uar"])
        tempered = f"{part['tempered']['ece']:.3f} at {part['temperature']:.2f}" if apart else ""
        lines.append(
            f"| {name} | {uar} | {plus(true)} | {true['ece']:.3f} | {tempered} | "
            + (f"{apart['uar']:.3f} | {apart['ece']:.3f} |" if apart else "| |")
        )
    lines += ["", "| other actors, cross-fitted | UAR | over the voice, points | ECE |", "|---|---|---|---|"]
    lines += [f"| {name} | {x['uar']:.3f} | {plus(x)} | {x['ece']:.3f} |" for name, x in found["others"].items()]
    errors = found["validation"]["errors"]
    lines += [
        "",
        "Where the voice is wrong the face is right in "
        + ", ".join(
            f"{100 * part['face, voice wrong']:.1f} % of {kind} pairs (over all in {100 * part['face']:.1f} %)"
            for kind, part in (("true", errors["paired"]), ("label-matched", errors["matched"]))
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"
