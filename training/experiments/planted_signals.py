"""Whether "trustworthy" means something: maps of small models that depend on a signal planted where we know.

A tone in noise, a patch on a face, a word in a sentence decide what a small model was trained to say. Right maps and
wrong ones (of shuffled weights, of the centre, of chance, shifted) are judged alike; the verdict should tell them
apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmer.checkpoint import Checkpoint
from mmer.config import SAMPLE_RATE, Config, ModelConfig
from mmer.errors import TrainingError
from mmer.face_map import PATCH, FaceLogit
from mmer.features import Features, LanguageModel, collate, corpus_face, with_text
from mmer.labels import EMOTIONS, MODALITIES
from mmer.model import EmotionModel
from mmer.target_logit import TargetLogit
from mmer.trust import VERDICTS, UnitScores, judge, random_orders
from mmer.voice import log_mel
from mmer.voice_map import VoiceLogit
from training.experiments.faithfulness import METHODS, BranchLogit, branch_logit, centre_prior, shuffled

CONFIG = Config(model=ModelConfig.tiny())
YES, NO = EMOTIONS.index("happiness"), EMOTIONS.index("sadness")
_FILLER = ("the", "we", "they", "this", "that", "was", "came", "went", "saw", "house", "table", "street", "over")
_WORDS = ("wonderful", "broken")
_TONES_HZ = (3000.0, 600.0)
_SECONDS, _TONE_S = 1.5, 0.5
_STEPS, _BATCH = 120, 16
_BEST, _WORST = 0.9, 0.5  # of what was planted, among as many units: from here on a map is right, below it is wrong


@dataclass(frozen=True)
class Planted:
    """An utterance, and where in it the signal lies."""

    features: Features
    label: int
    place: tuple[float, ...]  # start and end in seconds; left and top in pixels; the number of a word from 0


def voice(yes: bool, chance: np.random.Generator, language: LanguageModel | None) -> Planted:
    """Return noise with half a second of a high tone in it, or of a low one."""
    sound = 0.01 * chance.standard_normal(int(_SECONDS * SAMPLE_RATE)).astype(np.float32)
    start = int(chance.uniform(0, _SECONDS - _TONE_S) * SAMPLE_RATE)
    n = int(_TONE_S * SAMPLE_RATE)
    hz = _TONES_HZ[not yes]
    sound[start : start + n] += 0.1 * np.sin(2 * np.pi * hz * np.arange(n) / SAMPLE_RATE).astype(np.float32)
    place = start / SAMPLE_RATE, start / SAMPLE_RATE + _TONE_S, hz
    return Planted(Features(0.0, _SECONDS, sound=log_mel(sound)), YES if yes else NO, place)


def face(yes: bool, chance: np.random.Generator, language: LanguageModel | None) -> Planted:
    """Return a crop of smooth light with a patch of upright stripes on it, or of level ones."""
    light = np.kron(chance.uniform(0.3, 0.7, (6, 6)), np.ones((PATCH, PATCH)))
    left, top = (int(v) * PATCH for v in chance.integers(0, 5, 2))
    stripes = 0.25 * (np.arange(2 * PATCH) // 2 % 2 * 2 - 1)
    patch = np.tile(stripes, (2 * PATCH, 1))
    light[top : top + 2 * PATCH, left : left + 2 * PATCH] += patch if yes else patch.T
    track = corpus_face((light.clip(0, 1) * 255).astype(np.uint8), CONFIG.face.crop_size)
    return Planted(Features(0.0, 0.0, face=track, landmarks=False), YES if yes else NO, (float(left), float(top)))


def text(yes: bool, chance: np.random.Generator, language: LanguageModel | None) -> Planted:
    """Return words without meaning with one that is glad among them, or one that is not."""
    if language is None:
        raise ValueError("sentences are read by the language model")
    words = list(chance.choice(_FILLER, 9))
    at = int(chance.integers(len(words)))
    words[at] = _WORDS[not yes]
    return Planted(with_text(Features(0.0, 0.0), " ".join(words), language), YES if yes else NO, (float(at),))


MAKERS: dict[str, Callable[[bool, np.random.Generator, LanguageModel | None], Planted]] = {
    "face": face,
    "voice": voice,
    "text": text,
}


def trained(branch: str, seed: int, language: LanguageModel | None) -> Checkpoint:
    """Return a small model whose branch tells the two signals apart.

    Raises:
        TrainingError: `not_learned`, so that nothing is concluded from a model that depends on something else.
    """
    chance = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EmotionModel(CONFIG.model)
        parts = torch.nn.ModuleList([model.encoders[branch], model.heads[branch]])
        optimizer = torch.optim.Adam(parts.parameters(), 5e-3)
        parts.train()
        # Sentences are dear to read: they come again.
        pool = [MAKERS[branch](i % 2 == 0, chance, language) for i in range(256 if branch == "text" else 0)]
        for _ in range(_STEPS):
            drawn = [int(i) for i in chance.integers(len(pool), size=_BATCH)] if pool else []
            items = [pool[i] for i in drawn] or [MAKERS[branch](i % 2 == 0, chance, language) for i in range(_BATCH)]
            loss = torch.nn.functional.cross_entropy(_logits(model, branch, items), _answers(items))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        unseen = [MAKERS[branch](i % 2 == 0, chance, language) for i in range(2 * _BATCH)]
        with torch.no_grad():
            right = (_logits(model, branch, unseen).argmax(1) == _answers(unseen)).float().mean()
    if float(right) < 0.9:
        raise TrainingError("not_learned", f"the {branch} of the planted model is right in {float(right):.0%} only")
    return Checkpoint(f"planted {branch}", Path(), model, CONFIG, {})


def _logits(model: EmotionModel, branch: str, items: Sequence[Planted]) -> Tensor:
    batch = collate([item.features for item in items], CONFIG)
    return model.branch_logits(branch, *model.inputs(branch, batch))


def _answers(items: Sequence[Planted]) -> Tensor:
    return torch.tensor([item.label for item in items])


def inside(logit: BranchLogit, planted: Planted) -> Tensor:
    """Return which units (n,) hold the signal: half of them at least is covered by it."""
    if isinstance(logit, VoiceLogit):
        start, end, hz = planted.place
        length = logit.seconds / logit.n_times
        begins = torch.arange(logit.n_times) * length
        covered = (torch.clamp(begins + length, max=end) - torch.clamp(begins, min=start)) / length
        band = torch.tensor([low <= hz < high for low, high in zip(logit.edges, logit.edges[1:], strict=False)])
        return ((covered >= 0.5)[:, None] & band).flatten()
    if isinstance(logit, FaceLogit):
        left, top = (int(v) // PATCH for v in planted.place)
        side = logit.crops.shape[-1] // PATCH
        grid = torch.zeros(side, side, dtype=torch.bool)
        grid[top : top + 2, left : left + 2] = True
        return grid.flatten()
    return torch.arange(logit.n_units) == int(planted.place[0])


def precision(scores: Tensor, where: Tensor) -> float:
    """Return how much of what was planted is among as many of the best units."""
    k = int(where.sum())
    return float(where[scores.cpu().topk(k).indices].float().mean())


def measure(n: int, seed: int = 0, language: LanguageModel | None = None) -> dict[str, Any]:
    """Return for each branch how well the verdict tells right maps from wrong ones, over `n` utterances."""
    found = {}
    for branch in MODALITIES:
        if branch == "text" and language is None:
            continue
        loaded = trained(branch, seed, language)
        found[branch] = _summary(_judged(branch, loaded, n, seed, language))
    return found


def _judged(
    branch: str, loaded: Checkpoint, n: int, seed: int, language: LanguageModel | None
) -> list[tuple[float, str, float]]:
    """Return of every map how much of the signal it finds, its verdict and its gain."""
    chance = np.random.default_rng(seed + 1)
    other = replace(loaded, model=shuffled(loaded.model, branch, seed))
    lines = []
    for i in range(n):
        planted = MAKERS[branch](True, chance, language)
        features, target = planted.features, EMOTIONS[planted.label]
        logit = branch_logit(branch, TargetLogit(loaded, features, target), features, loaded, language, None)
        where = inside(logit, planted)
        own = [method(logit) for method in METHODS[branch].values()]
        strange = branch_logit(branch, TargetLogit(other, features, target), features, other, language, None, logit)
        first = own[0]
        wrong = [
            next(iter(METHODS[branch].values()))(strange).scores,
            centre_prior(logit),
            random_orders(logit.n_units, 1, seed + 100 + i)[0].float(),
            first.scores.cpu().roll(logit.n_units // 2),
        ]
        # A wrong map that adds up all the same: the verdict has nothing but deletion and insertion to go by.
        maps = own + [UnitScores("wrong", scores, first.gap, 0.0) for scores in wrong]
        for one in maps:
            trust = judge(one, logit.kept)
            lines.append((precision(one.scores, where), trust.verdict, min(trust.deletion, trust.insertion)))
    return lines


def _summary(lines: Sequence[tuple[float, str, float]]) -> dict[str, Any]:
    clear = [line for line in lines if line[0] >= _BEST or line[0] < _WORST]  # neither right nor wrong: left out
    right = np.array([found >= _BEST for found, _, _ in clear])
    verdicts = np.array([VERDICTS[::-1].index(verdict) for _, verdict, _ in clear], float)
    gains = np.array([gain for *_, gain in clear])
    trusted = verdicts == len(VERDICTS) - 1
    return {
        "auroc": auroc(right, verdicts),
        "auroc_gain": auroc(right, gains),
        "trustworthy_of_right": float(trusted[right].mean()) if right.any() else None,
        "trustworthy_of_wrong": float(trusted[~right].mean()) if (~right).any() else None,
        "n_right": int(right.sum()),
        "n_wrong": int((~right).sum()),
    }


def auroc(right: np.ndarray, scores: np.ndarray) -> float | None:
    """Return how often a right one has the higher score than a wrong one, ties counting half; None without both."""
    a, b = scores[right], scores[~right]
    if not len(a) or not len(b):
        return None
    return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())
