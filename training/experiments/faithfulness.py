"""How faithful the maps of each branch are, method by method, clip by clip.

What changes the answer has to come first in a map: deletion and insertion (https://arxiv.org/abs/1806.07421) against
random maps and against one that knows nothing but the centre. Infidelity and sensitivity are those of
https://arxiv.org/abs/1901.09392, the check with random weights that of https://arxiv.org/abs/1810.03292.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmer import face_map, voice_map, word_map
from mmer.checkpoint import Checkpoint
from mmer.face_map import PATCH, FaceLogit
from mmer.features import Features, LanguageModel
from mmer.labels import MODALITIES
from mmer.speech import Transcriber
from mmer.target_logit import TargetLogit
from mmer.trust import MAX_DELTA, N_RANDOM, UnitScores, areas, random_orders, verdict
from mmer.voice_map import VoiceLogit
from mmer.word_map import WordLogit

METHODS: dict[str, Mapping[str, Callable[[Any], UnitScores]]] = {
    "face": face_map.METHODS,
    "voice": voice_map.METHODS,
    "text": word_map.METHODS,
}
N_MASKS = 12  # random sets of units that go, for infidelity
NOISE = 0.02  # of the input's deviation, for sensitivity
GAINS = ("deletion", "insertion", "centre_deletion", "centre_insertion")

BranchLogit = FaceLogit | VoiceLogit | WordLogit


def branch_logit(
    branch: str,
    target: TargetLogit,
    features: Features,
    loaded: Checkpoint,
    language: LanguageModel | None,
    transcriber: Transcriber | None,
    like: BranchLogit | None = None,
) -> BranchLogit:
    """Return the target as a function of a branch; of a face, in the frames that `like` maps."""
    if branch == "face":
        return FaceLogit(target, like.key if isinstance(like, FaceLogit) else None)
    if branch == "voice" and features.sound is not None:
        return VoiceLogit(target, features, features.sound, loaded.config.voice, transcriber)
    if language is None or features.token_ids is None or features.token_words is None:
        raise ValueError(f"there is no {branch}")
    return WordLogit(target, features.words, features.token_ids, features.token_words, language)


def shipped(logit: BranchLogit) -> str:
    """Return the name of the method that explanations use."""
    if isinstance(logit, FaceLogit):
        return face_map.DEFAULT
    if isinstance(logit, VoiceLogit):
        return voice_map.DEFAULT if logit.heard else voice_map.DEFAULT_DEAF
    return word_map.DEFAULT


def centre_prior(logit: BranchLogit) -> Tensor:
    """Return the scores (n,) of a map that takes the middle for what counts, whatever is there."""
    if isinstance(logit, FaceLogit):
        *_, H, W = logit.crops.shape
        y, x = (torch.linspace(-1, 1, side // PATCH) for side in (H, W))
        return -(y[:, None] ** 2 + x**2).expand(len(logit.key), -1, -1).flatten()
    if isinstance(logit, VoiceLogit):
        at, band = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (logit.n_times, logit.n_bands))
        return -(at[:, None] ** 2 + band**2).flatten()
    return -torch.linspace(-1, 1, logit.n_units).abs() if logit.n_units > 1 else torch.zeros(1)


def measure_clip(
    loaded: Checkpoint,
    features: Features,
    language: LanguageModel | None,
    transcriber: Transcriber | None,
    *,
    everything: bool = True,
    checks: bool = True,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield what was measured of each branch that is present and each of its methods.

    Args:
        everything: all methods, instead of the one that ships.
        checks: also measure infidelity, sensitivity and the check with random weights, which takes two more maps.
    """
    target = TargetLogit(loaded, features)
    context = loaded, language, transcriber
    for branch, here in zip(MODALITIES, features.present, strict=True):
        if not here:
            continue
        logit = branch_logit(branch, target, features, *context)
        found = {}
        for name in METHODS[branch] if everything else (shipped(logit),):
            since = time.perf_counter()
            result = METHODS[branch][name](logit)
            found[name] = (result, time.perf_counter() - since)
        yield from _compared(branch, logit, found)
        if checks:
            yield from _checked(branch, logit, found, features, *context, seed=seed)


def _compared(branch: str, logit: BranchLogit, found: dict) -> Iterator[dict[str, Any]]:
    """Yield the areas of each method's map beside those of random maps and of the centre, from the same runs."""
    orders = [result.scores.cpu().argsort(descending=True) for result, _ in found.values()]
    orders += [centre_prior(logit).argsort(descending=True), *random_orders(logit.n_units, N_RANDOM)]
    device = next(iter(found.values()))[0].scores.device
    curves = areas(orders, logit.kept, device)
    centre, random = curves[len(found)], curves[len(found) + 1 :].mean()
    for (name, (result, seconds)), (deletion, insertion) in zip(found.items(), curves.tolist(), strict=False):
        yield {
            "branch": branch,
            "method": name,
            "deletion": deletion,
            "insertion": insertion,
            "random_deletion": float(random),  # an order and its reverse pass the same inputs: one figure for both
            "random_insertion": float(random),
            "centre_deletion": float(centre[0]),
            "centre_insertion": float(centre[1]),
            "delta": result.delta,
            "gap": result.gap,
            "verdict": verdict(result, float(random) - deletion, insertion - float(random)),
            "seconds": seconds,
        }


def _checked(
    branch: str,
    logit: BranchLogit,
    found: dict,
    features: Features,
    loaded: Checkpoint,
    language: LanguageModel | None,
    transcriber: Transcriber | None,
    *,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield infidelity, sensitivity and the correlation with the map of a model of random weights."""
    generator = torch.Generator().manual_seed(seed)
    target, nudged = logit.target.target, nudge(features, generator, transcriber)
    moved = TargetLogit(loaded, nudged, target)
    near = branch_logit(branch, moved, nudged, loaded, language, transcriber, logit)
    if isinstance(near, WordLogit):  # its input is made of the tokens: the embeddings are moved instead
        near.whole = near.whole + NOISE * near.whole.std() * torch.randn(near.whole.shape, generator=generator)
    random = replace(loaded, model=shuffled(loaded.model, branch, seed))
    without = TargetLogit(random, features, target)
    strange = branch_logit(branch, without, features, random, language, transcriber, logit)
    gone = torch.rand(N_MASKS, logit.n_units, generator=generator) < 0.5
    gone[0] = False
    worth = logit.kept(~gone.to(next(iter(found.values()))[0].scores.device)).cpu()
    drop = worth[0] - worth[1:]
    for name, (result, _) in found.items():
        scores = result.scores.cpu()
        wrong = gone[1:].float() @ scores - drop
        change = METHODS[branch][name](near).scores.cpu() - scores
        yield {
            "branch": branch,
            "method": name,
            "infidelity": float(wrong.square().mean() / drop.square().mean().clamp_min(1e-9)),
            "sensitivity": float(change.norm() / scores.norm().clamp_min(1e-9)),
            "random_weights": spearman(scores, METHODS[branch][name](strange).scores.cpu()),
        }


def nudge(features: Features, generator: torch.Generator, transcriber: Transcriber | None) -> Features:
    """Return the same utterance with noise of `NOISE` of its deviation in the face's pixels and in the spectrograms."""

    def noisy(x: Tensor) -> Tensor:
        return x + NOISE * x.std() * torch.randn(x.shape, generator=generator)

    changed: dict[str, Any] = {}
    if features.face is not None:
        changed["face"] = replace(features.face, crops=noisy(features.face.crops).clamp(0, 1))
    if features.sound is not None:
        changed["sound"] = replace(features.sound, mel=noisy(features.sound.mel))
    if features.heard and transcriber is not None:
        heard = tuple(replace(h, mel=noisy(h.mel)) for h in features.heard)
        changed.update(heard=heard, whisper=transcriber.encode_heard(heard))
    return replace(features, **changed)


def shuffled(model: torch.nn.Module, branch: str, seed: int) -> Any:
    """Return a copy of a model in which every weight matrix of a branch and its head is in random order."""
    generator = torch.Generator().manual_seed(seed)
    other: Any = copy.deepcopy(model)
    for part in (other.encoders[branch], other.heads[branch]):
        for weight in part.parameters():
            if weight.ndim > 1:
                order = torch.randperm(weight.numel(), generator=generator)
                weight.data = weight.data.flatten()[order].view_as(weight)
    return other.eval()


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the correlation of ranks; 0 where one has none."""
    if len(a) < 2 or a.max() == a.min() or b.max() == b.min():
        return 0.0
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def report(lines: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Return the figures of the contract over clips; `default` is the method of each branch that ships or should.

    Args:
        lines: what `measure_clip` yielded of all clips.
    """
    branches: dict[str, dict[str, Any]] = {}
    default = {}
    for branch in MODALITIES:
        own = {
            name: [line for line in lines if (line["branch"], line["method"]) == (branch, name)]
            for name in METHODS[branch]
        }
        compared = {name: [line for line in found if "deletion" in line] for name, found in own.items()}
        if found := {name: _summary(own[name], seed) for name in own if compared[name]}:
            branches[branch] = found
            # The methods are compared on the clips that all of them had: the first ones.
            n = min(len(compared[name]) for name in found)
            default[branch] = best({name: _summary(compared[name][:n], seed) for name in found})
    return {"branches": branches, "default": default}


def _summary(lines: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    compared = [line for line in lines if "deletion" in line]
    checked = [line for line in lines if "infidelity" in line]

    def column(name: str, rows: Sequence[dict[str, Any]] = compared) -> np.ndarray:
        return np.array([row[name] for row in rows], float)

    gains = {
        "deletion": column("random_deletion") - column("deletion"),
        "insertion": column("insertion") - column("random_insertion"),
        "centre_deletion": column("centre_deletion") - column("deletion"),
        "centre_insertion": column("insertion") - column("centre_insertion"),
    }
    areas_of = (*GAINS[:2], "random_deletion", "random_insertion", *GAINS[2:])
    evident = [line for line in compared if line["verdict"] != "no clear evidence"]
    return {
        **{name: float(column(name).mean()) for name in areas_of},
        "gain": {name: float(gain.mean()) for name, gain in gains.items()},
        "ci95": {name: interval(gain, seed) for name, gain in gains.items()},  # of the gains
        "delta_median": float(np.median(column("delta"))),
        "trustworthy": float(np.mean([line["verdict"] == "trustworthy" for line in compared])),
        "no_clear_evidence": 1 - len(evident) / len(compared),
        **{
            name: float(column(name, checked).mean()) if checked else None
            for name in ("infidelity", "sensitivity", "random_weights")
        },
        "seconds": float(np.median(column("seconds"))),
        "n": len(compared),
        "n_checked": len(checked),
    }


def interval(values: np.ndarray, seed: int, n_draws: int = 2000) -> list[float]:
    """Return the 95 % interval of the mean, resampling clips."""
    draws = np.random.default_rng(seed).integers(len(values), size=(n_draws, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return [float(low), float(high)]


def best(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the method whose smallest gain over random maps and the centre is largest, among those that add up."""
    adding = {name: f for name, f in found.items() if f["delta_median"] <= MAX_DELTA} or found
    return max(adding, key=lambda name: min(adding[name]["gain"].values()))
