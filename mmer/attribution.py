"""Why a verdict: Captum attributions for one utterance, and how far each of them can be trusted.

What is explained is the fused, calibrated logit f of one emotion. `modality` divides f(all that is present) -
f(nothing) between the branches. The map of a branch divides f(x) - f(its baseline) over the branch's input while the
other branches stay as they are, so a map answers for what was decided, not for what a branch would say alone. With a
single branch both are that branch's own logit. A score above zero speaks for the emotion, below zero against it.

Integrated gradients, occlusion and Shapley values only call the model: nothing is hooked into it, so other threads may
use it.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mmer import face_map, voice_map, word_map
from mmer.checkpoint import Checkpoint
from mmer.explanation import Explanation
from mmer.face import FaceTrack
from mmer.face_map import FaceLogit
from mmer.features import Features, LanguageModel
from mmer.labels import MODALITIES
from mmer.prosody import Prosody, prosody
from mmer.speech import Transcriber
from mmer.target_logit import TargetLogit
from mmer.trust import Trust, judge
from mmer.voice_map import VoiceLogit
from mmer.word_map import WordLogit

_KEPT = 32  # explanations remembered; one of 6 s is half a megabyte
_KEEP_S = 3600.0  # for so long; a server that nobody asks any more forgets with its hourly tidying
_known: OrderedDict[tuple, tuple[float, Explanation]] = OrderedDict()
_lock = threading.Lock()


def explain(
    loaded: Checkpoint,
    features: Features,
    target: str | None = None,
    language: LanguageModel | None = None,
    *,
    against: str | None = None,
    transcriber: Transcriber | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Callable[[Explanation], None] | None = None,
) -> Explanation:
    """Return why `target` got its logit in one utterance; what was explained before is remembered.

    Args:
        target: an emotion; the winning one when None.
        against: why `target` rather than this one: the difference of their logits is explained.
        language: what made the text states; needed when there are words.
        transcriber: what made the voice's states of Whisper's encoder. Without it they stay as they are, and the map
            of the voice is that of the rest.
        should_stop: asked before every run of the model.
        report: gets what is known as it comes, the channels' shares first; `pending` names the maps that are to come.

    Raises:
        ClipError: `nothing_to_explain` when no modality is present.
        MmerError: `stopped` when `should_stop` said so; `bad_contrast` for an emotion held against itself.
    """
    logit = TargetLogit(loaded, features, target, against, should_stop)
    key = _identity(loaded, features, logit, transcriber is not None)
    if (known := _remembered(key)) is not None:
        return known
    if features.token_ids is not None and language is None:
        raise ValueError("the language model that read the words is needed to explain them")
    maps = dict(_maps(logit, loaded, features, language, transcriber))  # the cheap ones first
    found = Explanation(
        target=logit.target,
        start_s=features.start_s,
        end_s=features.end_s,
        logit=logit.value,
        baseline_logit=logit.of_nothing,
        modality=logit.shares(),
        words=(),
        voice_bands=(),
        face_regions=(),
        face_moments=(),
        trust=dict.fromkeys(MODALITIES),
        against=against,
        pending=tuple(maps),
        alone=logit.alone(),
    )
    for branch, work in maps.items():
        if report is not None:
            report(found)
        trust, parts = work()
        pending = tuple(m for m in found.pending if m != branch)
        found = replace(found, trust={**found.trust, branch: trust}, pending=pending, **parts)
    if loaded.meta.get("weights_sha256"):  # else it has no identity: a model that is being trained
        _remember(key, found)
    return found


def forget(older_s: float = _KEEP_S) -> None:
    """Forget the explanations that were made longer ago than that: they have words and a face's outlines in them."""
    oldest = time.monotonic() - older_s
    with _lock:
        for key in [key for key, (made, _) in _known.items() if made < oldest]:
            del _known[key]


def _remember(key: tuple, found: Explanation) -> None:
    with _lock:
        _known[key] = time.monotonic(), found
        while len(_known) > _KEPT:
            _known.popitem(last=False)


def _remembered(key: tuple) -> Explanation | None:
    """Return what was explained not long ago."""
    forget()
    with _lock:
        return _known[key][1] if key in _known else None


def _identity(loaded: Checkpoint, features: Features, logit: TargetLogit, listens: bool) -> tuple:
    """Return what an explanation depends on: the checkpoint, what was perceived, the question."""
    digest = hashlib.sha256()
    track, sound = features.face, features.sound
    face = () if track is None else (track.crops, track.blendshapes, track.regions, track.times_s)
    heard = () if sound is None else (sound.mel, features.pitch_hz, features.whisper, *(h.mel for h in features.heard))
    for x in (*face, *heard, features.token_ids, features.text_states):
        digest.update(b"-" if x is None else str(tuple(x.shape)).encode() + x.cpu().contiguous().numpy().tobytes())
    weights = loaded.meta.get("weights_sha256")
    rest = features.words, features.landmarks, features.start_s, features.end_s
    return loaded.id, weights, digest.hexdigest(), rest, logit.k, logit.other, listens


def _maps(
    logit: TargetLogit,
    loaded: Checkpoint,
    features: Features,
    language: LanguageModel | None,
    transcriber: Transcriber | None,
) -> Iterator[tuple[str, Callable[[], tuple[Trust, dict[str, Any]]]]]:
    """Yield the branches that are present, the cheapest first, each with what makes its map."""
    track, sound = features.face, features.sound
    if language is not None and features.token_ids is not None and features.token_words is not None:
        words = features.words, features.token_ids, features.token_words, language
        yield "text", lambda: _text(WordLogit(logit, *words))
    if track is not None:
        yield "face", lambda: _face(logit, track, features.landmarks)
    if sound is not None:
        config = loaded.config.voice
        contours = partial(prosody, sound, features.pitch_hz, features.start_s, config)
        yield "voice", lambda: _voice(VoiceLogit(logit, features, sound, config, transcriber), contours())


def _face(logit: TargetLogit, track: FaceTrack, landmarks: bool) -> tuple[Trust, dict[str, Any]]:
    face = FaceLogit(logit)
    found = face_map.METHODS[face_map.DEFAULT](face)
    whole = torch.full(face.crops[:, 0].shape, torch.nan)
    whole[face.key.cpu()] = face.spread(found).cpu()
    regions = face_map.region_shares(face, track.regions) if landmarks and bool(track.regions.any()) else ()
    moments = tuple(zip(track.times_s.tolist(), face.moments.tolist(), strict=True))
    return judge(found, face.kept), {"face_map": whole, "face_regions": regions, "face_moments": moments}


def _voice(voice: VoiceLogit, contours: Prosody) -> tuple[Trust, dict[str, Any]]:
    found = voice_map.METHODS[voice_map.DEFAULT if voice.heard else voice_map.DEFAULT_DEAF](voice)
    parts = {"voice_map": voice.spread(found).cpu(), "voice_bands": voice.bands(found.scores), "prosody": contours}
    return judge(found, voice.kept), parts


def _text(text: WordLogit) -> tuple[Trust, dict[str, Any]]:
    found = word_map.METHODS[word_map.DEFAULT](text)
    words = tuple(zip(text.words, found.scores.tolist(), strict=True))
    return judge(found, text.kept), {"token_scores": text.spread(found).cpu(), "words": words}
