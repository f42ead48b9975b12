"""Why a verdict: Captum attributions for one utterance, and how far each of them can be trusted.

What is explained is the fused, calibrated logit f of one emotion. `modality` divides f(all that is present) -
f(nothing) between the branches. The map of a branch divides f(x) - f(its baseline) over the branch's input while the
other branches stay as they are, so a map answers for what was decided, not for what a branch would say alone. With a
single branch both are that branch's own logit. A score above zero speaks for the emotion, below zero against it.

Integrated gradients, occlusion and Shapley values only call the model: nothing is hooked into it, so other threads may
use it.
"""

from collections.abc import Callable
from typing import Any

import torch

from mmer import face_map, voice_map, word_map
from mmer.checkpoint import Checkpoint
from mmer.explanation import Explanation
from mmer.face import FaceTrack
from mmer.face_map import FaceLogit
from mmer.features import Features, LanguageModel
from mmer.labels import MODALITIES
from mmer.speech import Transcriber
from mmer.target_logit import TargetLogit
from mmer.trust import judge
from mmer.voice_map import VoiceLogit
from mmer.word_map import WordLogit


def explain(
    loaded: Checkpoint,
    features: Features,
    target: str | None = None,
    language: LanguageModel | None = None,
    *,
    against: str | None = None,
    transcriber: Transcriber | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Explanation:
    """Return why `target` got its logit in one utterance.

    Args:
        target: an emotion; the winning one when None.
        against: why `target` rather than this one: the difference of their logits is explained.
        language: what made the text states; needed when there are words.
        transcriber: what made the voice's states of Whisper's encoder. Without it they stay as they are, and the map
            of the voice is that of the rest.
        should_stop: asked before every run of the model.

    Raises:
        ClipError: `nothing_to_explain` when no modality is present.
        MmerError: `stopped` when `should_stop` said so; `bad_contrast` for an emotion held against itself.
    """
    logit = TargetLogit(loaded, features, target, against, should_stop)
    face: dict[str, Any] = {}
    voice: dict[str, Any] = {}
    text: dict[str, Any] = {}
    if features.face is not None:
        face = _face(logit, features.face, features.landmarks)
    if features.sound is not None:
        voice = _voice(VoiceLogit(logit, features, features.sound, loaded.config.voice, transcriber))
    if features.token_ids is not None and features.token_words is not None:
        if language is None:
            raise ValueError("the language model that read the words is needed to explain them")
        text = _text(WordLogit(logit, features.words, features.token_ids, features.token_words, language))
    return Explanation(
        target=logit.target,
        start_s=features.start_s,
        end_s=features.end_s,
        logit=logit.value,
        baseline_logit=logit.of_nothing,
        modality=logit.shares(),
        words=text.get("words", ()),
        voice_bands=voice.get("bands", ()),
        face_regions=face.get("regions", ()),
        face_moments=face.get("moments", ()),
        trust={m: part.get("trust") for m, part in zip(MODALITIES, (face, voice, text), strict=True)},
        face_map=face.get("map"),
        voice_map=voice.get("map"),
        token_scores=text.get("map"),
        against=against,
    )


def _face(logit: TargetLogit, track: FaceTrack, landmarks: bool) -> dict[str, Any]:
    face = FaceLogit(logit)
    found = face_map.METHODS[face_map.DEFAULT](face)
    whole = torch.full(face.crops[:, 0].shape, torch.nan)
    whole[face.key.cpu()] = face.spread(found).cpu()
    regions = face_map.region_shares(face, track.regions) if landmarks and bool(track.regions.any()) else ()
    return {
        "map": whole,
        "trust": judge(found, face.kept),
        "regions": regions,
        "moments": tuple(zip(track.times_s.tolist(), face.moments.tolist(), strict=True)),
    }


def _voice(voice: VoiceLogit) -> dict[str, Any]:
    found = voice_map.METHODS[voice_map.DEFAULT if voice.heard else voice_map.DEFAULT_DEAF](voice)
    return {
        "map": voice.spread(found).cpu(),
        "bands": voice.bands(found.scores),
        "trust": judge(found, voice.kept),
    }


def _text(text: WordLogit) -> dict[str, Any]:
    found = word_map.METHODS[word_map.DEFAULT](text)
    return {
        "map": text.spread(found).cpu(),
        "words": tuple(zip(text.words, found.scores.tolist(), strict=True)),
        "trust": judge(found, text.kept),
    }
