"""The smallest change that turns an answer: words that go, regions of the face out of focus, stretches of silence.

https://arxiv.org/abs/1711.00399, over the parts that a person would name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmer.checkpoint import Checkpoint
from mmer.face import REGIONS
from mmer.face_map import FaceLogit, regions_kept
from mmer.features import Features, LanguageModel, collate, with_text
from mmer.labels import EMOTIONS
from mmer.messages import Say, marked, plain
from mmer.speech import Transcriber
from mmer.target_logit import TargetLogit
from mmer.voice_map import VoiceLogit

_MOST = 0.5  # of a channel's parts: an answer that only turns when more goes hangs on no part
_WITH = {
    "face": marked("With {parts} blurred it would be {after}, not {before}."),
    "voice": marked("With {parts} silent it would be {after}, not {before}."),
    "text": marked("With {parts} dropped it would be {after}, not {before}."),
}


@dataclass(frozen=True)
class Counterfactual:
    """What has to go for another answer, and no part of it could stay."""

    branch: str
    parts: tuple[str, ...]  # words, regions of the face, stretches of time
    share: float  # of the channel's parts
    before: str  # emotion
    after: str
    probability: float  # of `after` then

    @property
    def sentence(self) -> str:
        return self.told()

    def told(self, say: Say = plain, name: Callable[[str], str] = str) -> str:
        """Return it as a sentence.

        Args:
            say: says the text in some language.
            name: names an emotion, a region of the face or a stretch of time in it.
        """
        named = ", ".join(f'"{p}"' if self.branch == "text" else name(p) for p in self.parts)
        return say(_WITH[self.branch], parts=named, after=name(self.after), before=name(self.before))

    def to_dict(self) -> dict[str, Any]:
        numbers = {"share": round(self.share, 4), "probability": round(self.probability, 4)}
        return {**vars(self), "parts": list(self.parts), **numbers, "sentence": self.sentence}


@dataclass(frozen=True)
class _Parts:
    branch: str
    names: tuple[str, ...]
    logits_of: Callable[[Tensor], Tensor]  # kept parts (R, n) bool -> logits (R, K)


def smallest_turn(
    loaded: Checkpoint,
    features: Features,
    language: LanguageModel | None = None,
    transcriber: Transcriber | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Counterfactual | None:
    """Return the fewest parts of one channel whose loss turns the answer on an utterance; None where half of no
    channel's parts does.

    Every part is tried alone. Where none is enough the parts go one after the other, those first that took most away
    from the answer, until it turns, and each that need not have gone comes back.
    """
    target = TargetLogit(loaded, features, should_stop=should_stop)
    turns = [_turn(target, parts) for parts in _all_parts(target, features, loaded, language, transcriber)]
    return min((t for t in turns if t is not None), key=lambda t: (len(t.parts), t.share), default=None)


def _all_parts(target, features: Features, loaded: Checkpoint, language, transcriber) -> list[_Parts]:
    found = []
    if len(features.words) > 1 and language is not None:
        found.append(_Parts("text", features.words, _Sentences(target, features.words, loaded, language)))
    if features.face is not None and features.landmarks and bool(features.face.regions.any()):
        every = torch.arange(len(features.face.times_s), device=target.batch.crops.device)
        face, masks = FaceLogit(target, every), features.face.regions.to(target.batch.crops.device)
        found.append(_Parts("face", REGIONS, lambda kept: face.masked(every, *regions_kept(masks, kept))))
    if features.sound is not None:
        voice = VoiceLogit(target, features, features.sound, loaded.config.voice, transcriber)
        ends = [voice.start_s + voice.seconds * i / voice.n_times for i in range(voice.n_times + 1)]
        names = tuple(f"{a:.2f} to {b:.2f} s" for a, b in pairwise(ends))
        found.append(_Parts("voice", names, lambda kept: voice.kept_logits(kept.repeat_interleave(voice.n_bands, 1))))
    return found


class _Sentences:
    """The logits (R, K) of the sentence that the kept words (R, n) make."""

    def __init__(self, target: TargetLogit, words: tuple[str, ...], loaded: Checkpoint, language: LanguageModel):
        self.target, self.words, self.loaded, self.language = target, words, loaded, language

    def __call__(self, kept: Tensor) -> Tensor:
        said = [" ".join(w for w, stays in zip(self.words, row, strict=True) if stays) for row in kept.tolist()]
        rows = [with_text(Features(0.0, 0.0), sentence, self.language) for sentence in said]
        batch = collate(rows, self.loaded.config).to(kept.device)
        states = self.target.model.branches(batch)
        assert states.pooled is not None  # of a batch the model pools itself
        return self.target.logits_of(2, states.middles[2], states.tops[:, 2], states.pooled[2])


@torch.no_grad()
def _turn(target: TargetLogit, parts: _Parts) -> Counterfactual | None:
    n, won = len(parts.names), int(target.fused.argmax())
    device = target.fused.device

    def margins(kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far the answer is above the best other one (R,), and the logits (R, K)."""
        logits = parts.logits_of(kept.to(device))
        others = logits.clone()
        others[:, won] = float("-inf")
        return (logits[:, won] - others.amax(1)).cpu(), logits

    each = ~torch.eye(n, dtype=torch.bool)
    alone, _ = margins(each)
    order = alone.argsort()  # what takes most away from the answer comes first
    gone = order[:1]
    if alone[gone] >= 0:
        most = int(n * _MOST)
        if most < 2:
            return None
        steps = torch.ones(most, n, dtype=torch.bool)
        for i in range(most):
            steps[i, order[: i + 1]] = False
        turned = (margins(steps)[0] < 0).nonzero().flatten()
        if not len(turned):
            return None
        gone = order[: int(turned[0]) + 1]
        for part in gone.flip(0):  # the least important first
            fewer = gone[gone != part]
            if len(fewer) and float(margins(_without(n, fewer))[0]) < 0:
                gone = fewer
    logits = margins(_without(n, gone))[1][0]
    after = int(logits.argmax())
    names = tuple(parts.names[i] for i in sorted(gone.tolist()))
    return Counterfactual(
        parts.branch, names, len(gone) / n, EMOTIONS[won], EMOTIONS[after], float(logits.softmax(0)[after])
    )


def _without(n: int, gone: Tensor) -> Tensor:
    kept = torch.ones(1, n, dtype=torch.bool)
    kept[0, gone] = False
    return kept
