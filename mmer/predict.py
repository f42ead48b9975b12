"""From what was perceived to a verdict: every utterance judged, and what each channel contributed."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmer import assets, branch_states, checkpoint, shapley
from mmer.checkpoint import Checkpoint
from mmer.config import Paths
from mmer.errors import AssetError, CheckpointError, ClipError, MmerError, Notice
from mmer.features import Features, LanguageModel, collate
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.metrics import threshold_of
from mmer.perceive import Observation, Perceiver, Watcher
from mmer.speech import Transcriber, Transcript

_LOG = logging.getLogger(__name__)
_RETRY_S = 60.0  # after which a refused checkpoint is tried again even if nothing changed: memory may have been short
TIMED = ("decode", "face", "voice", "speech", "model", "explain", "total")


@dataclass(frozen=True)
class Segment:
    """The verdict on one utterance. Probabilities are in the order of `EMOTIONS`."""

    start_s: float
    end_s: float
    emotion: str | None  # None when nothing could be read
    probs: np.ndarray  # (K,) fused
    present: tuple[bool, bool, bool]
    branch_probs: np.ndarray  # (3, K), NaN where a branch is absent
    contribution: np.ndarray  # (3, K) Shapley value of each branch for each fused logit, 0 where absent
    features: Features

    def __repr__(self) -> str:
        return f"Segment({self.start_s:.2f}-{self.end_s:.2f} s, {_summary(self.emotion, self.probs)})"


@dataclass(frozen=True)
class EmotionResult:
    """The verdict on a clip and everything it rests on."""

    clip: str
    sha256: str
    duration_s: float | None
    emotion: str | None
    probs: np.ndarray  # (K,) mean over the segments, weighted by their length
    branch_probs: np.ndarray  # (3, K), NaN where a branch is absent everywhere
    contribution: np.ndarray  # (3,) signed shares of the logit of `emotion`; absolute values sum to 1
    segments: tuple[Segment, ...]
    transcript: Transcript
    quality: tuple[Notice, ...]
    timing_ms: dict[str, float]
    checkpoint: str
    observation: Observation
    abstain: bool = False  # no answer should be given: nothing was read, or too little to rely on

    def __repr__(self) -> str:
        modalities = "+".join(m for m, here in self.present.items() if here) or "nothing"
        verdict = _summary(self.emotion, self.probs) + (", abstains" if self.abstain else "")
        return f"EmotionResult({self.clip!r}, {verdict}, from {modalities}, {len(self.segments)} segments)"

    @property
    def present(self) -> dict[str, bool]:
        return {m: bool(not np.isnan(self.branch_probs[i, 0])) for i, m in enumerate(MODALITIES)}

    @property
    def telling_segment(self) -> Segment | None:
        """The segment that weighs most for the overall emotion: the one to explain."""
        if self.emotion is None:
            return None
        k = EMOTIONS.index(self.emotion)
        return max(self.segments, key=lambda s: s.probs[k] * s.features.weight)

    def to_dict(self) -> dict:
        """Return the JSON object of `python -m mmer analyse`."""
        return {
            "clip": self.clip,
            "sha256": self.sha256,
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "emotion": self.emotion,
            "abstain": self.abstain,
            "probs": named(self.probs),
            "present": self.present,
            "per_modality": {
                m: {"probs": named(p), "emotion": EMOTIONS[int(p.argmax())]} if self.present[m] else None
                for m, p in zip(MODALITIES, self.branch_probs, strict=True)
            },
            "contribution": {m: round(float(c), 4) for m, c in zip(MODALITIES, self.contribution, strict=True)},
            "transcript": {
                "text": self.transcript.text,
                "language": self.transcript.language,
                "words": [
                    {"word": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3)}
                    for w in self.transcript.words
                ],
                "status": self.transcript.status,
                "message": self.transcript.message,
            },
            "segments": [
                {
                    "start_s": round(s.start_s, 3),
                    "end_s": round(s.end_s, 3),
                    "emotion": s.emotion,
                    "probs": named(s.probs),
                    "present": dict(zip(MODALITIES, s.present, strict=True)),
                }
                for s in self.segments
            ],
            "quality": [{"code": n.code, "message": n.message} for n in self.quality],
            "timing_ms": {k: round(self.timing_ms.get(k, 0.0), 1) for k in TIMED},
            "checkpoint": self.checkpoint,
        }


def named(probs: np.ndarray) -> dict[str, float]:
    """Return probabilities (K,) by emotion, as the JSON objects have them."""
    return {e: round(float(p), 4) for e, p in zip(EMOTIONS, probs, strict=True)}


def _summary(emotion: str | None, probs: np.ndarray) -> str:
    return "no emotion" if emotion is None else f"{emotion} {probs.max():.2f}"


@dataclass(frozen=True)
class _Refused:
    """A promoted checkpoint that did not load."""

    name: str
    why: CheckpointError
    state: tuple  # of its files when it was tried
    tried: float  # when, by `time.monotonic`

    def still(self, name: str, state: tuple) -> bool:
        """Return whether another try would find the same."""
        return (self.name, self.state) == (name, state) and time.monotonic() - self.tried < _RETRY_S


def _state(name: str, root: Path) -> tuple:
    """Return what changes when a checkpoint is promoted, mended or replaced: the stamps of its files and the pointer's.

    The time of a file's status is among them: a file that may be read at last has changed in nothing else.
    """
    found: list[tuple[int, ...] | None] = []
    for file in (root / "PROMOTED", root / name / checkpoint.META, root / name / checkpoint.WEIGHTS):
        try:
            stat = file.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:  # it is not there, or not to be looked at
            found.append(None)
    return tuple(found)


class Predictor:
    """Analyses clips with the checkpoint in use; a promotion is picked up with the next clip.

    A promoted checkpoint that cannot be used is refused: the one in memory goes on answering, and every result says so.

    One instance serves many threads: weights are only read, and what is stateful is locked where it lives.

    Args:
        paths: where weights and checkpoints lie.
        name: a checkpoint to stay with, instead of following the promoted one.
    """

    def __init__(self, paths: Paths | None = None, name: str | None = None):
        self.paths = paths or Paths.from_env()
        self.device = self.device_of(self.paths.device)
        self._name = name
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = None
        self._refused: _Refused | None = None
        self.perceiver = Perceiver(self.paths, self.device)

    @staticmethod
    def device_of(wish: str) -> str:
        """Return the device of a setting: what it names, or for `auto` the best that answers.

        Raises:
            MmerError: `bad_device`.
        """
        if wish not in ("auto", "cpu", "cuda"):
            raise MmerError("bad_device", f"MMER_DEVICE is {wish!r}; use auto, cpu or cuda")
        if wish == "cuda" and not torch.cuda.is_available():
            raise MmerError("bad_device", "MMER_DEVICE is cuda, but no GPU answers; use auto or cpu")
        return ("cuda" if torch.cuda.is_available() else "cpu") if wish == "auto" else wish

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint in use, loaded when the promoted one has changed.

        Raises:
            CheckpointError: it cannot be used, and no other one is in memory.
        """
        name = self._name or checkpoint.promoted(self.paths.checkpoints)
        with self._lock:
            if self._checkpoint is not None and self._checkpoint.id == name:
                self._refused = None
                return self._checkpoint
            refused, state = self._refused, _state(name, self.paths.checkpoints)
            if self._checkpoint is not None and refused is not None and refused.still(name, state):
                return self._checkpoint
            try:
                loaded = checkpoint.load(name, self.paths.checkpoints)
            except CheckpointError as error:
                if self._checkpoint is None:
                    raise
                if refused is None or refused.name != name:
                    _LOG.error("%s; %s goes on answering", error, self._checkpoint.id)
                self._refused = _Refused(name, error, state, time.monotonic())
                return self._checkpoint
            loaded.model.to(self.device)
            self._checkpoint, self._refused = loaded, None
            return loaded

    @property
    def refusal(self) -> Notice | None:
        """Why the promoted checkpoint does not answer, None while it does."""
        refused, loaded = self._refused, self._checkpoint  # read once: another thread may take them back meanwhile
        if refused is None or loaded is None:
            return None
        message = f"the promoted checkpoint {refused.name!r} does not answer, {loaded.id!r} does: {refused.why}"
        return Notice("checkpoint_refused", message)

    def checkpoint_of(self, result: EmotionResult) -> Checkpoint:
        """Return the checkpoint that judged a result, which may no longer be the one in use."""
        loaded = self.checkpoint
        if loaded.id != result.checkpoint:
            loaded = checkpoint.load(result.checkpoint, self.paths.checkpoints)
            loaded.model.to(self.device)
        return loaded

    @torch.no_grad()
    def states_of(self, result: EmotionResult) -> bytes:
        """Return the branch embeddings of a result's utterances as `mmer.branch_states` keeps them.

        Raises:
            ClipError: `nothing_readable`.
        """
        loaded = self.checkpoint_of(result)
        items = [s.features for s in result.segments]
        share = torch.tensor([f.weight for f in items])
        if not share.sum() > 0:
            raise ClipError("nothing_readable", f"{result.clip}: nothing was read in it that could be kept")
        batch = collate(items, loaded.config).to(self.device)
        spans = [(f.start_s, f.end_s) for f in items]
        return branch_states.dump(loaded.model, loaded.model.branches(batch), batch.present, share / share.sum(), spans)

    def language(self, loaded: Checkpoint) -> LanguageModel:
        """Return the frozen text encoder as a checkpoint's text branch reads it, loaded at first use."""
        return self.perceiver.language(loaded.config)

    def language_if_words(self, loaded: Checkpoint, features: Features) -> LanguageModel | None:
        """As `language`; None where there are no words, so that nothing is loaded or fetched for them."""
        return self.language(loaded) if features.words else None

    @property
    def transcriber(self) -> Transcriber:
        """Whisper: it transcribes, and its encoder is part of the voice branch of some checkpoints."""
        return self.perceiver.encoder

    def warm(self) -> None:
        """Load what the first clip would wait for; what cannot be had is reported by that clip."""
        _ = self.checkpoint.model
        for load in (lambda: self.language(self.checkpoint), lambda: assets.find("face_landmarker", self.paths)):
            try:
                load()
            except AssetError:
                continue

    def observe(
        self,
        *files: str | Path,
        text: str | Transcript | None = None,
        speech: bool = True,
        modalities: Sequence[str] = MODALITIES,
        start_s: float | None = None,
        end_s: float | None = None,
        whole: bool = False,
        face_crop: bool = False,
        denoise: bool = False,
        should_stop: Callable[[], bool] | None = None,
    ) -> Observation:
        """Return the features of a clip, utterance by utterance; `Perceiver.observe` tells of the options."""
        return self.perceiver.observe(
            self.checkpoint.config,
            *files,
            text=text,
            speech=speech,
            modalities=modalities,
            start_s=start_s,
            end_s=end_s,
            whole=whole,
            face_crop=face_crop,
            denoise=denoise,
            should_stop=should_stop,
        )

    @torch.no_grad()
    def judge(self, items: Sequence[Features], loaded: Checkpoint | None = None) -> list[Segment]:
        """Return the verdict on each utterance; they are run as one batch."""
        loaded = loaded or self.checkpoint
        batch = collate(items, loaded.config).to(self.device)
        states = loaded.model.branches(batch)
        output = loaded.model.fuse(states, batch.present)
        values = shapley.of_branches(loaded.model, states, batch.present).cpu().numpy()
        probs = output.logits.softmax(-1).cpu().numpy()
        branch = output.branch_logits.softmax(-1).cpu().numpy()
        segments = []
        for i, item in enumerate(items):
            here = np.array(item.present)
            branch_probs = np.where(here[:, None], branch[i], np.nan)
            emotion = EMOTIONS[int(probs[i].argmax())] if here.any() else None
            segments.append(
                Segment(item.start_s, item.end_s, emotion, probs[i], item.present, branch_probs, values[i], item)
            )
        return segments

    def analyse(
        self,
        *files: str | Path,
        name: str | None = None,
        text: str | Transcript | None = None,
        speech: bool = True,
        modalities: Sequence[str] = MODALITIES,
        start_s: float | None = None,
        end_s: float | None = None,
        whole: bool = False,
        face_crop: bool = False,
        denoise: bool = False,
        should_stop: Callable[[], bool] | None = None,
        watcher: Watcher | None = None,
    ) -> EmotionResult:
        """Return the verdict on a clip; `Perceiver.observe` tells of the options.

        Args:
            name: how the result calls the clip; the path of the first file when None.
        """
        since = time.perf_counter()
        loaded = self.checkpoint
        observation = self.perceiver.observe(
            loaded.config,
            *files,
            text=text,
            speech=speech,
            modalities=modalities,
            start_s=start_s,
            end_s=end_s,
            whole=whole,
            face_crop=face_crop,
            denoise=denoise,
            should_stop=should_stop,
            watcher=watcher,
        )
        return self.conclude(observation, loaded, name=name, since=since)

    def conclude(
        self,
        observation: Observation,
        loaded: Checkpoint | None = None,
        *,
        name: str | None = None,
        since: float | None = None,
    ) -> EmotionResult:
        """Return the verdict on what was observed.

        Args:
            since: when the work on the clip began, by `time.perf_counter`.
        """
        loaded = loaded or self.checkpoint
        timing_ms = dict(observation.timing_ms)
        begun = time.perf_counter()
        segments = self.judge(observation.features, loaded)
        timing_ms["model"] = (time.perf_counter() - begun) * 1e3
        total_ms = timing_ms.get("total", 0.0) + timing_ms["model"]
        timing_ms["total"] = (time.perf_counter() - since) * 1e3 if since else total_ms
        emotion, probs, branch_probs, contribution = _overall(segments)
        quality = list(observation.quality)
        if emotion is None:
            quality.append(
                Notice("nothing_readable", "neither a face, nor a voice, nor words were found; no emotion is given")
            )
        unreliable = _unreliable(loaded, segments, emotion, probs)
        if unreliable is not None:
            quality.append(unreliable)
        if (refusal := self.refusal) is not None:
            quality.append(refusal)
        files = observation.files
        return EmotionResult(
            clip=name or (files[0].path if files else "text"),
            sha256=observation.sha256,
            duration_s=observation.duration_s,
            emotion=emotion,
            probs=probs,
            branch_probs=branch_probs,
            contribution=contribution,
            segments=tuple(segments),
            transcript=observation.transcript,
            quality=tuple(quality),
            timing_ms=timing_ms,
            checkpoint=loaded.id,
            observation=observation,
            abstain=emotion is None or unreliable is not None,
        )


def _overall(segments: Sequence[Segment]) -> tuple[str | None, np.ndarray, np.ndarray, np.ndarray]:
    """Return emotion, probs (K,), branch_probs (3, K) and contribution (3,) of a clip: means weighted by length."""
    weights = np.array([s.features.weight for s in segments])
    branch_probs = np.full((len(MODALITIES), N_EMOTIONS), np.nan)
    if weights.sum() == 0:
        return None, np.full(N_EMOTIONS, 1 / N_EMOTIONS), branch_probs, np.zeros(len(MODALITIES))
    probs = np.average([s.probs for s in segments], axis=0, weights=weights)
    k = int(probs.argmax())
    values = np.average([s.contribution[:, k] for s in segments], axis=0, weights=weights)
    for i in range(len(MODALITIES)):
        present = np.array([s.present[i] for s in segments])
        if present.any():
            rows = [s.branch_probs[i] for s in segments if s.present[i]]
            branch_probs[i] = np.average(rows, axis=0, weights=weights[present])
    return EMOTIONS[k], probs, branch_probs, values / max(np.abs(values).sum(), 1e-9)


def _unreliable(
    loaded: Checkpoint, segments: Sequence[Segment], emotion: str | None, probs: np.ndarray
) -> Notice | None:
    """Return the notice that the confidence is below the checkpoint's threshold for the channels that were read."""
    promise = loaded.meta.get("abstain")
    present = np.any([s.present for s in segments], axis=0)
    stream = loaded.model.encoders["voice"].whisper
    deaf = stream is not None and all(s.features.whisper is None for s in segments)
    threshold = threshold_of(promise, present, deaf=deaf)
    if emotion is None or promise is None or threshold is None or probs.max() >= threshold:
        return None
    if threshold > 1:
        which = " and ".join(m for m, here in zip(MODALITIES, present, strict=True) if here)
        why = f"with {which} alone, no confidence was enough to be right {promise['target']:.0%} of the time"
    else:
        why = (
            f"the confidence {probs.max():.2f} is below {threshold:.2f}, from which on {promise['target']:.0%} of "
            "the answers were right on people set aside"
        )
    return Notice("unreliable", f"{why}; do not rely on {emotion}")
