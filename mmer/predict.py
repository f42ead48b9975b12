"""From a clip to what it shows: perceive once, judge every utterance, and say what each channel contributed."""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmer import assets, checkpoint, media, voice
from mmer import face as faces
from mmer.checkpoint import Checkpoint
from mmer.config import Config, Paths
from mmer.errors import AssetError, ClipError, MmerError, Notice
from mmer.face import FaceTrack, FaceTracker
from mmer.features import Features, LanguageModel, collate, corpus_face, trim, with_text
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.media import AudioChunk, MediaInfo, VideoFrame
from mmer.model import BranchStates, Output
from mmer.speech import Transcriber, Transcript, typed
from mmer.voice import Span

TIMED = ("decode", "face", "voice", "speech", "model", "explain", "total")
_NO_SPEECH_ASKED = Transcript("", None, (), "off", "transcription was switched off")


@dataclass(frozen=True)
class Observation:
    """What was seen and heard in a clip, before the model judges it."""

    files: tuple[MediaInfo, ...]
    duration_s: float | None
    features: tuple[Features, ...]  # one for each utterance
    tracks: tuple[FaceTrack, ...]  # every face, the one that is read first
    transcript: Transcript
    quality: tuple[Notice, ...]
    timing_ms: dict[str, float]


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

    @property
    def present(self) -> dict[str, bool]:
        return {m: bool(not np.isnan(self.branch_probs[i, 0])) for i, m in enumerate(MODALITIES)}

    @property
    def telling_segment(self) -> Segment | None:
        """The segment that weighs most for the overall emotion: the one to explain."""
        if self.emotion is None:
            return None
        k = EMOTIONS.index(self.emotion)
        return max(self.segments, key=lambda s: s.probs[k] * max(s.end_s - s.start_s, 0.1) * any(s.present))

    def to_dict(self) -> dict:
        """Return the JSON object of `python -m mmer analyse`."""
        return {
            "clip": self.clip,
            "sha256": self.sha256,
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "emotion": self.emotion,
            "probs": _named(self.probs),
            "present": self.present,
            "per_modality": {
                m: {"probs": _named(p), "emotion": EMOTIONS[int(p.argmax())]} if self.present[m] else None
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
                    "probs": _named(s.probs),
                    "present": dict(zip(MODALITIES, s.present, strict=True)),
                }
                for s in self.segments
            ],
            "quality": [{"code": n.code, "message": n.message} for n in self.quality],
            "timing_ms": {k: round(self.timing_ms.get(k, 0.0), 1) for k in TIMED},
            "checkpoint": self.checkpoint,
        }


def _named(probs: np.ndarray) -> dict[str, float]:
    return {e: round(float(p), 4) for e, p in zip(EMOTIONS, probs, strict=True)}


class _Clock:
    """Adds up milliseconds by name; parts run at the same time, so they need not sum to the total."""

    def __init__(self):
        self.ms: dict[str, float] = {}
        self._start = time.perf_counter()

    def add(self, name: str, since: float) -> None:
        self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - since) * 1e3

    def stop(self) -> dict[str, float]:
        self.add("total", self._start)
        return self.ms


class _FaceWorker:
    """Follows faces in a thread of its own while the decoder goes on; the queue bounds the frames held."""

    def __init__(self, config: Config, model_path: Path, still: bool, clock: _Clock):
        self._frames: queue.Queue[VideoFrame | None] = queue.Queue(maxsize=8)
        self._arguments = (config, model_path, still, clock)
        self.n_frames = 0
        self.tracks: list[FaceTrack] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        config, model_path, still, clock = self._arguments
        try:
            with FaceTracker(config.face, still=still, model_path=model_path) as tracker:
                while (frame := self._frames.get()) is not None:
                    since = time.perf_counter()
                    tracker.add(frame)
                    clock.add("face", since)
                self.tracks = tracker.tracks()
        except BaseException as error:  # handed to the caller by finish()
            self._error = error
            while self._frames.get() is not None:
                continue

    def add(self, frame: VideoFrame) -> None:
        self.n_frames += 1
        self._frames.put(frame)

    def finish(self) -> list[FaceTrack]:
        self._frames.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.tracks


class Predictor:
    """Analyses clips with the checkpoint in use; a promotion is picked up with the next clip.

    One instance serves many threads: weights are only read, and what is stateful is locked where it lives.

    Args:
        paths: where weights and checkpoints lie.
        name: a checkpoint to stay with, instead of following the promoted one.
    """

    def __init__(self, paths: Paths | None = None, name: str | None = None):
        self.paths = paths or Paths.from_env()
        self.device = self._device(self.paths.device)
        self._name = name
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = None
        self._language: LanguageModel | None = None
        self.transcriber = Transcriber(self.paths.whisper, self.device, download_root=self.paths.assets / "whisper")

    @staticmethod
    def _device(wish: str) -> str:
        if wish not in ("auto", "cpu", "cuda"):
            raise MmerError("bad_device", f"MMER_DEVICE is {wish!r}; use auto, cpu or cuda")
        if wish == "cuda" and not torch.cuda.is_available():
            raise MmerError("bad_device", "MMER_DEVICE is cuda, but no GPU answers; use auto or cpu")
        return ("cuda" if torch.cuda.is_available() else "cpu") if wish == "auto" else wish

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint in use, loaded when the promoted one has changed."""
        name = self._name or checkpoint.promoted(self.paths.checkpoints)
        with self._lock:
            if self._checkpoint is None or self._checkpoint.id != name:
                loaded = checkpoint.load(name, self.paths.checkpoints)
                loaded.model.to(self.device)
                self._checkpoint = loaded
            return self._checkpoint

    @property
    def language(self) -> LanguageModel:
        """The frozen text encoder, loaded at first use.

        Raises:
            AssetError: its weights are not here and cannot be fetched.
        """
        with self._lock:
            if self._language is None:
                self._language = LanguageModel(assets.find("text_encoder", self.paths), self.device)
            return self._language

    def warm(self) -> None:
        """Load what the first clip would wait for; what cannot be had is reported by that clip."""
        _ = self.checkpoint.model
        for load in (lambda: self.language, lambda: assets.find("face_landmarker", self.paths)):
            try:
                load()
            except AssetError:
                continue

    def observe(
        self,
        *files: str | Path,
        text: str | None = None,
        speech: bool = True,
        modalities: Sequence[str] = MODALITIES,
        start_s: float | None = None,
        end_s: float | None = None,
        whole: bool = False,
        face_crop: bool = False,
        face: int | None = None,
        denoise: bool = False,
    ) -> Observation:
        """Look at and listen to a clip.

        Args:
            files: media that belong together: the picture is taken from the first that has one, the sound likewise.
            text: what is said; replaces transcription, and every utterance gets it.
            speech: transcribe when no text is given.
            modalities: leave the others out.
            start_s: read only this stretch of the media.
            end_s: see `start_s`.
            whole: the clip is one utterance (a row of a corpus), not to be cut.
            face_crop: the picture already is a face crop: nothing is detected in it.
            face: the `track_id` of the face to read, instead of the most prominent one.
            denoise: reduce steady noise before the voice branch listens.

        Raises:
            ClipError: a file cannot be read, or neither a file nor text was given (`nothing_given`).
        """
        config = self.checkpoint.config
        clock = _Clock()
        if not files and not (text or "").strip():
            raise ClipError(
                "nothing_given", "there is nothing to analyse; give a video, a sound, a picture or a sentence"
            )
        infos = [media.probe(f, config.media) for f in files]
        seen = next((i for i in infos if i.has_picture), None) if "face" in modalities else None
        heard = next((i for i in infos if i.has_sound), None) if {"voice", "text"} & set(modalities) else None
        notices: list[Notice] = []

        since = time.perf_counter()
        tracks, n_frames, worker, samples = [], 0, None, None
        if seen is not None and not face_crop:
            try:
                model_path = assets.find("face_landmarker", self.paths)
                worker = _FaceWorker(config, model_path, seen.kind == "image", clock)
            except AssetError as error:
                notices.append(Notice("face_unavailable", f"the face was not read: {error}"))
        chunks: list[AudioChunk] = []
        try:
            for info in dict.fromkeys(i for i in (seen, heard) if i is not None):
                parts = media.stream(
                    info.path, fps=config.face.fps, sample_rate=config.voice.sample_rate, start_s=start_s, end_s=end_s,
                    picture=info is seen and (worker is not None or face_crop), sound=info is heard, limits=config.media,
                )  # fmt: skip
                for part in parts:
                    if isinstance(part, AudioChunk):
                        chunks.append(part)
                    elif worker is not None:
                        worker.add(part)
                    else:
                        tracks = [corpus_face(part.rgb, config.face.crop_size)]
        finally:
            clock.add("decode", since)
            if worker is not None:
                n_frames, found = worker.n_frames, worker.finish()
                tracks = found
        if heard is not None:
            samples = _join(chunks, config.voice.sample_rate, start_s or 0.0)
        duration_s = _duration(infos, samples, config, start_s, end_s)

        since = time.perf_counter()
        spans: list[Span] = []
        if samples is not None and len(samples):
            spans = voice.speech_spans(samples)
            if whole and not spans:  # a corpus row is known to hold an utterance
                spans = [Span(0.0, len(samples) / config.voice.sample_rate)]
            notices += voice.voice_notices(samples, spans)
        clock.add("voice", since)

        since = time.perf_counter()
        if (text or "").strip():
            transcript = typed(text)
        elif "text" not in modalities or not speech or samples is None:
            transcript = _NO_SPEECH_ASKED
            if samples is None and speech and "text" in modalities:
                transcript = replace(transcript, status="no_speech", message="there is no sound to transcribe")
        else:
            transcript = self.transcriber.transcribe(samples, spans)
            clock.add("speech", since)

        if tracks and face is not None:
            tracks = sorted(tracks, key=lambda t: t.track_id != face)
        if worker is not None:
            notices += faces.quality(tracks[0] if tracks else None, n_frames, len(tracks))
        since = time.perf_counter()
        features = self._utterances(
            config,
            tracks,
            samples if "voice" in modalities else None,
            spans,
            transcript,
            duration_s,
            whole,
            denoise,
            notices,
        )
        clock.add("voice", since)
        return Observation(tuple(infos), duration_s, features, tuple(tracks), transcript, tuple(notices), clock.stop())

    def _utterances(self, config, tracks, samples, spans, transcript, duration_s, whole, denoise, notices):
        rate, end = config.voice.sample_rate, duration_s or 0.0
        if whole or not duration_s:
            pad = config.voice.pad_s
            bounds = [Span(max(spans[0].start_s - pad, 0.0), min(spans[-1].end_s + pad, end))] if spans else []
            cuts = bounds or [Span(0.0, end)]
        else:
            cuts = voice.utterances(spans, duration_s, config.voice)
            if not cuts:  # nobody speaks: equal stretches, for the face
                n = max(int(np.ceil(duration_s / config.voice.max_utterance_s)), 1)
                cuts = [Span(duration_s * i / n, duration_s * (i + 1) / n) for i in range(n)]
        language = None
        if transcript.text.strip():
            try:
                language = self.language
            except AssetError as error:
                notices.append(Notice("text_unavailable", f"the words were not read: {error}"))
        clean = voice.denoise(samples, rate) if denoise and samples is not None and spans else samples
        made = []
        for cut in cuts:
            item = Features(cut.start_s, cut.end_s)
            if tracks:
                # With `whole`, silence at the ends is cut from the voice but not from the face.
                span = (0.0, end) if whole else (cut.start_s, cut.end_s)
                known = bool(tracks[0].regions.any())
                track = trim(tracks[0], *span, config.model.max_crops) if duration_s else tracks[0]
                item = replace(item, face=track, landmarks=known)
            if clean is not None and spans:
                item = replace(
                    item, sound=voice.log_mel(clean[int(cut.start_s * rate) : int(cut.end_s * rate)], config.voice)
                )
            if language is not None:
                if transcript.status == "typed" or whole:
                    said = transcript.text
                else:
                    said = " ".join(w.text.strip() for w in transcript.words if cut.start_s <= (w.start_s + w.end_s) / 2 < cut.end_s)  # fmt: skip
                item = with_text(item, said, language)
            made.append(item)
        return tuple(made)

    @torch.no_grad()
    def judge(self, items: Sequence[Features], loaded: Checkpoint | None = None) -> list[Segment]:
        """Return the verdict on each utterance; they are run as one batch."""
        loaded = loaded or self.checkpoint
        batch = collate(items, loaded.config).to(self.device)
        states = loaded.model.branches(batch)
        output: Output = loaded.model.fuse(states, batch.present)
        values = shapley(loaded, states, batch.present).cpu().numpy()
        probs = output.logits.softmax(-1).cpu().numpy()
        branch = output.branch_logits.softmax(-1).cpu().numpy()
        found = []
        for i, item in enumerate(items):
            here = np.array(item.present)
            branch_probs = np.where(here[:, None], branch[i], np.nan)
            emotion = EMOTIONS[int(probs[i].argmax())] if here.any() else None
            found.append(
                Segment(item.start_s, item.end_s, emotion, probs[i], item.present, branch_probs, values[i], item)
            )
        return found

    def analyse(self, *files: str | Path, name: str | None = None, **options) -> EmotionResult:
        """Return the verdict on a clip. `options` are those of `observe`; `name` is how the result calls the clip."""
        since = time.perf_counter()
        loaded = self.checkpoint
        return self.conclude(self.observe(*files, **options), loaded, name=name, since=since)

    def conclude(
        self,
        observation: Observation,
        loaded: Checkpoint | None = None,
        *,
        name: str | None = None,
        since: float | None = None,
    ) -> EmotionResult:
        """Return the verdict on what was observed."""
        loaded = loaded or self.checkpoint
        clock = dict(observation.timing_ms)
        begun = time.perf_counter()
        segments = self.judge(observation.features, loaded)
        clock["model"] = (time.perf_counter() - begun) * 1e3
        clock["total"] = (time.perf_counter() - since) * 1e3 if since else clock.get("total", 0.0) + clock["model"]
        weights = np.array([max(s.end_s - s.start_s, 0.1) * any(s.present) for s in segments])
        quality = list(observation.quality)
        probs, emotion = np.full(N_EMOTIONS, 1 / N_EMOTIONS), None
        contribution = np.zeros(len(MODALITIES))
        branch_probs = np.full((len(MODALITIES), N_EMOTIONS), np.nan)
        if weights.sum() == 0:
            quality.append(
                Notice("nothing_readable", "neither a face, nor a voice, nor words were found; no emotion is given")
            )
        else:
            probs = np.average([s.probs for s in segments], axis=0, weights=weights)
            emotion = EMOTIONS[int(probs.argmax())]
            values = np.average([s.contribution[:, probs.argmax()] for s in segments], axis=0, weights=weights)
            contribution = values / max(np.abs(values).sum(), 1e-9)
            for i in range(len(MODALITIES)):
                having = np.array([s.present[i] for s in segments])
                if having.any():
                    rows = [s.branch_probs[i] for s in segments if s.present[i]]
                    branch_probs[i] = np.average(rows, axis=0, weights=weights[having])
        files = observation.files
        return EmotionResult(
            clip=name or (files[0].path if files else "text"),
            sha256=identity(observation),
            duration_s=observation.duration_s,
            emotion=emotion,
            probs=probs,
            branch_probs=branch_probs,
            contribution=contribution,
            segments=tuple(segments),
            transcript=observation.transcript,
            quality=tuple(quality),
            timing_ms=clock,
            checkpoint=loaded.id,
            observation=observation,
        )


def identity(observation: Observation) -> str:
    """Return the sha256 of the clip: of the file, of the files' hashes together, or of the text when there is none."""
    import hashlib

    hashes = [f.sha256 for f in observation.files]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes or [observation.transcript.text]).encode()).hexdigest()


def shapley(loaded: Checkpoint, states: BranchStates, present: torch.Tensor) -> torch.Tensor:
    """Return the exact Shapley value (B, 3, K) of each branch for each fused logit, against "no branch".

    Three players have eight coalitions, so nothing is sampled. https://doi.org/10.1515/9781400881970-018
    """
    B, n = present.shape
    weight = {0: 1 / 3, 1: 1 / 6, 2: 1 / 3}  # |S|! (2 - |S|)! / 3!
    worth = []
    for code in range(2**n):
        allowed = torch.tensor([bool(code >> i & 1) for i in range(n)], device=present.device)
        worth.append(loaded.model.fuse(states, present & allowed).logits)
    values = torch.zeros(B, n, worth[0].shape[1], device=present.device)
    for i in range(n):
        for code in range(2**n):
            if not code >> i & 1:
                values[:, i] += weight[bin(code).count("1")] * (worth[code | 1 << i] - worth[code])
    return values


def _join(chunks: list[AudioChunk], rate: int, start_s: float) -> np.ndarray:
    """Lay chunks where their times say, so that sound and picture stay together; gaps are silence."""
    if not chunks:
        return np.zeros(0, np.float32)
    ends = [round((c.start_s - start_s) * rate) + len(c.samples) for c in chunks]
    samples = np.zeros(max(ends), np.float32)
    for c, end in zip(chunks, ends, strict=True):
        begin = end - len(c.samples)
        samples[max(begin, 0) : end] = c.samples[max(-begin, 0) :]
    return samples


def _duration(infos, samples, config: Config, start_s: float | None, end_s: float | None) -> float | None:
    stated = [i.duration_s for i in infos if i.duration_s is not None]
    if start_s is not None or end_s is not None:
        stated = [(end_s if end_s is not None else max(stated, default=0.0)) - (start_s or 0.0)]
    if not stated and samples is not None and len(samples):
        stated = [len(samples) / config.voice.sample_rate]
    return max(stated) if stated else None
