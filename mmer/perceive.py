"""From a clip to what is seen, heard and said in it: decoded once, the face followed while the sound is heard."""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mmer import assets, english, media, prosody, sources, voice
from mmer import face as faces
from mmer.config import Config, Paths
from mmer.errors import AssetError, ClipError, MmerError, Notice
from mmer.face import FaceTrack, FaceTracker, View
from mmer.features import Features, LanguageModel, corpus_face, read_words, trim, with_text
from mmer.labels import MODALITIES, check_modalities
from mmer.media import AudioChunk, MediaInfo, VideoFrame
from mmer.speech import OFF, UNKNOWN_LANGUAGE, Transcriber, Transcript, check_words, typed
from mmer.voice import Span

_LOG = logging.getLogger(__name__)
_LACKING = {
    "asset_missing": "weights are missing; `python -m mmer doctor` says which",
    "asset_damaged": "weights are damaged; `python -m mmer doctor` says which",
    "asset_too_large": "the model does not fit into the memory of the device; set MMER_WHISPER=tiny",
}
_UNUSABLE = "what reads it does not start; the server's log says why"
_SAME_S = 1e-3  # a track keeps the times of its pictures in single precision
_TELL_S = 0.5  # of media, after which a watcher hears again how far the decoding is
_EARLY_S = 8.0  # of media, after which the utterances in it are told of; if there is none yet, after twice as much
_EDGE_S = 1.0  # an utterance that ends nearer to what is not decoded yet may go on
_OFF_S = 1.0  # by which a container may be off: a stream that ends earlier than another is nothing to correct


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
    faces: tuple["OneFace", ...] = ()  # where several were seen: each of them, the one with the largest area first
    face: int = 0  # which of them is read
    view: View | None = None  # a picture of them all

    def __repr__(self) -> str:
        names = " + ".join(repr(f.name) for f in self.files) or "text"
        return f"Observation({names}, {len(self.features)} utterances, {len(self.tracks)} faces)"

    def with_face(self, number: int) -> "Observation":
        """Return it with another of the faces read.

        Raises:
            ClipError: `no_face_there`.
        """
        if not 0 <= number < len(self.faces):
            raise ClipError("no_face_there", f"there is no face {number}; {len(self.faces)} can be chosen from 0 on")
        chosen = self.faces[number]
        features = [
            replace(item, face=part.face, landmarks=part.landmarks)
            for item, part in zip(self.features, chosen.parts, strict=True)
        ]
        of_faces = {n.code for face in self.faces for n in face.quality}
        quality = [n for n in self.quality if n.code not in of_faces]
        return replace(self, features=tuple(features), quality=(*chosen.quality, *quality), face=number)

    @property
    def sha256(self) -> str:
        """The hash of the file, of the files' hashes together, or of the text when there is no file."""
        hashes = [f.sha256 for f in self.files]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("\n".join(hashes or [self.transcript.text]).encode()).hexdigest()


@dataclass(frozen=True)
class OneFace:
    """One of several faces of a clip."""

    parts: tuple[Features, ...]  # of each utterance, nothing but the face
    quality: tuple[Notice, ...]
    seen_s: tuple[float, float]  # first and last


@dataclass(frozen=True)
class Progress:
    """How far the work on a clip is."""

    stage: str  # decode, voice, speech: what goes on; the face is followed while the clip is decoded
    share: float | None  # of this stage, 0 to 1; None: it cannot be told
    # What was seen and heard so far: in the first seconds of a long clip, and of all of it before it is transcribed.
    early: Observation | None = None


Watcher = Callable[[Progress], None]


class _Clock:
    """Adds up milliseconds by name; parts run at the same time, so they need not sum to the total.

    Whoever asks whether to stop may be kept waiting while others have their turn: no stage took that time.

    Args:
        should_stop: as `Perceiver.observe` takes it.
    """

    def __init__(self, should_stop: Callable[[], bool] | None = None) -> None:
        self.ms: dict[str, float] = {}
        self._start = time.perf_counter()
        self._should_stop = should_stop
        self._waited_s = 0.0

    def should_stop(self) -> bool:
        if self._should_stop is None:
            return False
        since = time.perf_counter()
        try:
            return self._should_stop()
        finally:
            self._waited_s += time.perf_counter() - since

    def now(self) -> float:
        """Return the time in seconds, on a clock that stands still while `should_stop` is asked."""
        return time.perf_counter() - self._waited_s

    def add(self, name: str, seconds: float) -> None:
        self.ms[name] = self.ms.get(name, 0.0) + seconds * 1e3

    def so_far(self) -> dict[str, float]:
        return {**self.ms, "total": (time.perf_counter() - self._start) * 1e3}

    def stop(self) -> dict[str, float]:
        self.add("total", time.perf_counter() - self._start)
        return self.ms


@dataclass(frozen=True)
class _Sources:
    """What of a clip's files is read, and how."""

    infos: list[MediaInfo]
    picture: MediaInfo | None
    sound: MediaInfo | None
    start_s: float | None
    end_s: float | None
    hears_voice: bool  # the sound is read for the voice, not for its words alone
    denoise: bool

    @property
    def offset_s(self) -> float:
        return self.start_s or 0.0

    @property
    def to_decode_s(self) -> float:
        """How long it is, as far as is known; 0.0: it cannot be told how far the decoding is."""
        return (self.end_s or _longest_s(self.picture, self.sound)) - self.offset_s


@dataclass(frozen=True)
class _Decoded:
    """What one pass over a clip's media gave, beside the frames that went to the face worker."""

    samples: np.ndarray | None  # (L,) from `start_s` on; None where there is no sound to read
    face_crop: FaceTrack | None  # the picture that already is a face crop
    end_s: float  # how far on the clip's time line it came; 0.0: nothing that has a length was decoded


class _FaceWorker:
    """Follows faces in a thread of its own while decoding and hearing go on; the queue bounds the frames held."""

    def __init__(self, tracker: FaceTracker, clock: _Clock):
        self._frames: queue.Queue[VideoFrame | Future | None] = queue.Queue(maxsize=8)
        self._tracker, self._clock = tracker, clock
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._tracker:
                while (frame := self._frames.get()) is not None:
                    if isinstance(frame, Future):
                        frame.set_result((self._tracker.tracks(), list(self._tracker.times_s)))
                        continue
                    since = time.perf_counter()
                    self._tracker.add(frame)
                    self._clock.add("face", time.perf_counter() - since)
        except BaseException as error:  # finish() raises it in the caller's thread
            self._error = error
            while (frame := self._frames.get()) is not None:
                if isinstance(frame, Future):
                    frame.set_result(([], []))

    def add(self, frame: VideoFrame) -> None:
        self._frames.put(frame)

    def so_far(self) -> tuple[list[FaceTrack], list[float]]:
        """Return the faces in the frames that were added, and when these were shown."""
        asked: Future[tuple[list[FaceTrack], list[float]]] = Future()
        self._frames.put(asked)
        return asked.result()

    def finish(self) -> None:
        self._frames.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error


class Perceiver:
    """Looks at and listens to clips. One serves many threads: what is stateful is locked where it lives."""

    def __init__(self, paths: Paths, device: str = "cpu"):
        self.paths, self.device = paths, device
        whisper = paths.whisper or ("turbo" if device == "cuda" else "base")
        self.transcriber = Transcriber(whisper, device, download_root=paths.assets / "whisper")
        # The shipped voice branch learned from the encoder of `base`; a larger one may transcribe beside it.
        other = whisper not in ("base", "") and not whisper.endswith(".pt")
        self.encoder = (
            Transcriber("base", device, download_root=paths.assets / "whisper") if other else self.transcriber
        )
        self._languages: dict[int, LanguageModel] = {}  # by how many layers are left to the branch
        self._lacked: set[str] = set()  # what the log was told of already
        self._lock = threading.Lock()

    def language(self, config: Config) -> LanguageModel:
        """Return the frozen text encoder as a model's branch reads it, loaded at first use.

        Raises:
            AssetError: its weights are not here and cannot be fetched.
        """
        without = config.model.text_layers
        with self._lock:
            if without not in self._languages:
                folder = assets.find("text_encoder", self.paths)
                self._languages[without] = LanguageModel(folder, self.device, without=without)
            return self._languages[without]

    # Almost half of it says what its parameters are; the steps have names.
    def observe(
        self,
        config: Config,
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
        watcher: Watcher | None = None,
    ) -> Observation:
        """Look at and listen to a clip.

        Args:
            files: media that belong together: the picture is taken from the first that has one, the sound likewise.
            text: what is said; replaces transcription. Every utterance gets it, of a transcript with times its words.
            speech: transcribe when no text is given.
            modalities: leave the others out.
            start_s: read only this stretch of the media; times in what comes back count from here.
            end_s: see `start_s`.
            whole: the clip is one utterance (a row of a corpus), not to be cut.
            face_crop: the picture already is a face crop: nothing is detected in it.
            denoise: reduce steady noise before the voice branch listens.
            should_stop: asked with every piece of media; True ends the work.
            watcher: told how far the work is, on the thread that does it.

        Raises:
            ClipError: a file cannot be read, or neither a file nor text was given (`nothing_given`).
            MmerError: `stopped`.
        """
        clock = _Clock(should_stop)
        text = _checked(files, text, modalities)
        infos = [media.probe(f, config.media, whole=start_s is None and end_s is None) for f in files]
        wants_voice, wants_words = "voice" in modalities, "text" in modalities and speech and not text
        seen, heard = sources.seen_and_heard(infos)
        picture = seen if "face" in modalities else None
        sound = heard if wants_voice or wants_words else None
        notices: list[Notice] = sources.doubts(picture, sound)
        tracker = None if picture is None or face_crop else self._tracker(config, picture, notices)
        worker = _FaceWorker(tracker, clock) if tracker else None
        watched = picture if worker is not None or face_crop else None
        tell = watcher or _nobody_watches
        read = _Sources(infos, watched, sound, start_s, end_s, wants_voice, denoise)
        tell_early = None
        if watcher is not None and not whole and read.to_decode_s > 2 * _EARLY_S:
            tell_early = partial(self._first_utterances, config, read, worker, clock, tell)
        try:
            decoded = _decode(config, read, worker, clock, tell, tell_early)
            everything = all((i is watched or not i.has_picture) and (i is sound or not i.has_sound) for i in infos)
            duration_s = _duration(infos, decoded.end_s, everything, start_s, end_s)
            tell(Progress("voice", None))
            spans = _find_speech(decoded.samples, notices, clock)
            cuts = _cuts(config, spans, decoded.samples, duration_s, whole)
        finally:
            if worker is not None:
                worker.finish()  # it is at most its queue behind
        tracks = _tracks(decoded, tracker, notices)
        since = clock.now()
        # A row of a corpus is known to hold an utterance, even one that voice activity misses.
        voiced = decoded.samples if wants_voice and (spans or whole) else None
        still = not duration_s or (picture is not None and picture.kind == "image")
        shown_s = [] if tracker is None else tracker.times_s
        items = self._utterances(config, cuts, tracks, shown_s, voiced, notices, denoise=denoise, whole=whole or still)
        clock.add("voice", clock.now() - since)
        several = _several_faces(config, cuts, tracks, shown_s, whole or still)
        view = tracker.view(tracks) if tracker is not None and several else None
        so_far = Observation(tuple(infos), duration_s, tuple(items), tuple(tracks), OFF, tuple(notices), clock.so_far())
        tell(Progress("speech", 0.0 if wants_words and spans else None, early=so_far))
        transcript = self._transcribe(decoded.samples, spans, text, wants_words, clock)
        if transcript.text.strip() and "text" in modalities:
            items = self._read(items, transcript, whole, config, notices)
        so_far = replace(so_far, features=tuple(items), transcript=transcript, quality=tuple(notices), faces=several)
        return replace(so_far, view=view, timing_ms=clock.stop())

    def _first_utterances(
        self,
        config: Config,
        read: _Sources,
        worker: _FaceWorker | None,
        clock: _Clock,
        tell: Watcher,
        chunks: list[AudioChunk],
        share: float,
    ) -> bool:
        """Tell of the utterances that have ended in what is decoded so far; return whether there was one."""
        samples = media.lay_out(chunks, config.voice.sample_rate, read.offset_s)
        cuts = _ended(config, samples)
        if cuts:
            tracks, shown_s = worker.so_far() if worker else ([], [])
            voiced = samples if read.hears_voice else None
            items = self._utterances(config, cuts, tracks, shown_s, voiced, [], denoise=read.denoise, whole=False)
            seen = Observation(tuple(read.infos), cuts[-1].end_s, tuple(items), (), OFF, (), clock.so_far())
            tell(Progress("decode", share, early=seen))
        return bool(cuts)

    def _utterances(
        self,
        config: Config,
        cuts: Sequence[Span],
        tracks: list[FaceTrack],
        shown_s: Sequence[float],
        sound: np.ndarray | None,
        notices: list[Notice],
        *,
        denoise: bool,
        whole: bool,
    ) -> list[Features]:
        """Return the face and the voice of each utterance, where it is read through Whisper's encoder too."""
        if sound is not None and denoise:
            sound = voice.denoise(sound, config.voice.sample_rate)
        items = [_cut_out(config, cut, tracks, sound, whole, shown_s) for cut in cuts]
        if sound is None or not config.model.whisper_depths:
            return items
        return self.encode(config, items, sound, notices)

    def _tracker(self, config: Config, picture: MediaInfo, notices: list[Notice]) -> FaceTracker | None:
        """Return a face tracker; where its weights cannot be had, None and a notice."""
        try:
            model = assets.find("face_landmarker", self.paths)
            return FaceTracker(config.face, still=picture.kind == "image", model_path=model)
        except AssetError as error:
            notices.append(Notice("face_unavailable", f"the face was not read: {self._lacking(error)}"))
            return None

    def _lacking(self, error: AssetError) -> str:
        """Return why weights cannot be had, for visitors; where on the disk they belong the log is told, once."""
        if error.message not in self._lacked:
            self._lacked.add(error.message)
            _LOG.warning("%s", error)
        return _LACKING.get(error.code, _UNUSABLE)

    def _transcribe(self, samples, spans, text, wants_words, clock: _Clock) -> Transcript:
        if text:
            return text if isinstance(text, Transcript) else typed(text)
        if not wants_words:
            return OFF
        if samples is None:
            return Transcript("", None, (), "no_speech", "there is no sound to transcribe")
        since = clock.now()
        try:
            if spans:
                self.transcriber.load()
            transcript = self.transcriber.transcribe(samples, spans, clock.should_stop)
        except AssetError as error:
            why = f"speech cannot be transcribed: {self._lacking(error)}"
            transcript = Transcript("", None, (), "unavailable", why)
        clock.add("speech", clock.now() - since)
        return transcript

    def encode(self, config: Config, items: list[Features], sound, notices: list[Notice]) -> list[Features]:
        """Give each utterance the states of Whisper's encoder; say why where the voice branch has to do without."""
        wanted, rate = (config.model.whisper_depths, config.model.whisper_width), config.voice.sample_rate
        try:
            size = self.encoder.encoder_size()
        except AssetError as error:
            why = self._lacking(error)
            notices.append(Notice("whisper_unavailable", f"the voice was heard without Whisper: {why}"))
            return items
        if size != wanted:
            what = f"the voice branch reads a Whisper of {wanted[0] - 1} layers and width {wanted[1]}"
            has = f"{self.encoder.model_name} has {size[0] - 1} and {size[1]}"
            notices.append(Notice("whisper_unavailable", f"{what}, {has}; set MMER_WHISPER"))
            return items
        stretches = [sound[int(i.start_s * rate) : int(i.end_s * rate)] for i in items]
        heard = [self.encoder.hear(x) for x in stretches]
        encoded = [self.encoder.encode_heard(h) for h in heard]
        return [replace(i, whisper=e, heard=h) for i, e, h in zip(items, encoded, heard, strict=True)]

    def _read(
        self, items: list[Features], transcript: Transcript, whole: bool, config: Config, notices: list[Notice]
    ) -> list[Features]:
        """Give each utterance its words: those spoken in it, or all when the text was typed."""
        try:
            language = self.language(config)
        except AssetError as error:
            notices.append(Notice("text_unavailable", f"the words were not read: {self._lacking(error)}"))
            return items
        if whole and transcript.status == "typed" and not any(any(item.present) for item in items):
            # A row of a corpus that is nothing but words is known to be an utterance.
            return [with_text(item, transcript.text, language) for item in items]
        spoken = {word.language or transcript.language for word in transcript.words} or {transcript.language}
        if foreign := sorted(language for language in spoken if language not in (None, english.LANGUAGE)):
            some = "the words" if len(foreign) == len(spoken) else "some words"
            named = " and ".join("another language" if code == UNKNOWN_LANGUAGE else repr(code) for code in foreign)
            heard = f"{named} was heard, and English alone was learned"
            notices.append(Notice("text_not_read", f"{some} were left out: {heard}"))
            if len(foreign) == len(spoken):
                return items
            known = tuple(word for word in transcript.words if word.language not in foreign)
            transcript = replace(transcript, text=" ".join(word.text for word in known), words=known)
        everything = whole or not transcript.words
        texts = [transcript.text if everything else _words_in(item, transcript) for item in items]
        items, found = read_words(items, texts, language)
        notices += found
        return items


def _checked(files: Sequence[str | Path], text: str | Transcript | None, modalities: Sequence[str]) -> str | Transcript:
    """Return the words that came with the files; what was asked for makes sense."""
    check_modalities(modalities)
    text = text if isinstance(text, Transcript) else check_words((text or "").strip())
    if not files and not text:
        raise ClipError("nothing_given", "there is nothing to analyse; give a video, a sound, a picture or a sentence")
    return text


def _longest_s(*infos: MediaInfo | None) -> float:
    return max((i.duration_s for i in infos if i is not None and i.duration_s), default=0.0)


def _decode(
    config: Config,
    read: _Sources,
    worker: _FaceWorker | None,
    clock: _Clock,
    tell: Watcher,
    tell_early: Callable[[list[AudioChunk], float], bool] | None,
) -> _Decoded:
    """Decode the picture and the sound of a clip once, giving every frame to the worker as it comes.

    Args:
        tell_early: gets the sound so far and how far the decoding is, until it returns true.

    Raises:
        ClipError: a file cannot be decoded.
        MmerError: `stopped`.
    """
    picture, sound, offset_s, to_decode_s = read.picture, read.sound, read.offset_s, read.to_decode_s
    since, reached_s = clock.now(), 0.0
    chunks: list[AudioChunk] = []
    crop: FaceTrack | None = None
    told_s, early_s = offset_s, _EARLY_S
    for info in dict.fromkeys(i for i in (picture, sound) if i is not None):
        pieces = media.stream(
            info.path,
            fps=config.face.fps,
            sample_rate=config.voice.sample_rate,
            start_s=read.start_s,
            end_s=read.end_s,
            picture=info is picture,
            sound=info is sound,
            limits=config.media,
        )
        for piece in pieces:
            if clock.should_stop():
                raise MmerError("stopped", "stopped before the end of the clip")
            at_s = piece.start_s if isinstance(piece, AudioChunk) else piece.time_s
            if at_s - told_s > _TELL_S:
                told_s = at_s
                tell(Progress("decode", min((told_s - offset_s) / to_decode_s, 1.0) if to_decode_s > 0 else None))
            if isinstance(piece, AudioChunk):
                chunks.append(piece)
                if tell_early is not None and at_s - offset_s > early_s and (info is picture or picture is None):
                    early_s = float("inf") if tell_early(chunks, (at_s - offset_s) / to_decode_s) else 2 * early_s
                continue
            reached_s = piece.time_s + 1 / config.face.fps
            if worker is not None:
                worker.add(replace(piece, time_s=piece.time_s - offset_s))
            else:
                crop = corpus_face(piece.rgb, config.face.crop_size)
    clock.add("decode", clock.now() - since)
    samples = media.lay_out(chunks, config.voice.sample_rate, offset_s) if chunks else None
    if samples is not None:
        reached_s = max(reached_s, len(samples) / config.voice.sample_rate + offset_s)
    return _Decoded(samples, crop, reached_s)


def _nobody_watches(_progress: Progress) -> None:
    """Take what would be told to a watcher."""


def _tracks(decoded: _Decoded, tracker: FaceTracker | None, notices: list[Notice]) -> list[FaceTrack]:
    """Return the faces of a clip, or the crop that it is, and say what to know of the face that is read."""
    if tracker is None:
        return [] if decoded.face_crop is None else [decoded.face_crop]
    tracks = tracker.tracks()
    notices += faces.quality(tracks[0] if tracks else None, tracker.n_frames, len(tracks))
    return tracks


def _find_speech(samples: np.ndarray | None, notices: list[Notice], clock: _Clock) -> list[Span]:
    if samples is None:
        return []
    since = clock.now()
    spans = voice.speech_spans(samples)
    notices += voice.voice_notices(samples, spans)
    clock.add("voice", clock.now() - since)
    return spans


def _ended(config: Config, samples: np.ndarray) -> list[Span]:
    """Return the utterances of a clip's first seconds that have ended in them."""
    seconds = len(samples) / config.voice.sample_rate
    spoken = voice.utterances(voice.speech_spans(samples), seconds, config.voice, samples=samples)
    return [cut for cut in spoken if cut.end_s < seconds - _EDGE_S]


def _cuts(config: Config, spans: list[Span], samples, duration_s: float | None, whole: bool) -> list[Span]:
    """Return the utterances; where nobody speaks, equal stretches for the face."""
    if not duration_s:
        return [Span(0.0, 0.0)]
    if whole:
        return [voice.speech_bounds(spans, duration_s, config.voice)]
    spoken = voice.utterances(spans, duration_s, config.voice, samples=samples)
    if spoken:
        return spoken
    n = max(int(np.ceil(duration_s / config.voice.max_utterance_s)), 1)
    return [Span(duration_s * i / n, duration_s * (i + 1) / n) for i in range(n)]


def _cut_out(
    config: Config, cut: Span, tracks: list[FaceTrack], sound, whole_face: bool, shown_s: Sequence[float]
) -> Features:
    """Return the face and the voice of one utterance.

    Args:
        whole_face: all of the face belongs to it: a picture shows no moment of the sound that comes with it.
        shown_s: when each picture began to show; it stays until the next, so the last before an utterance is part of
            one in which none begins.
    """
    rate, item = config.voice.sample_rate, Features(cut.start_s, cut.end_s)
    if tracks:
        # Silence at the ends of a whole row is cut from the voice but not from the face: it may show more before a
        # word.
        start_s, end_s = (0.0, float("inf")) if whole_face else (cut.start_s, cut.end_s)
        if not any(start_s <= s <= end_s for s in shown_s):
            start_s = max((s for s in shown_s if s < start_s), default=start_s) - _SAME_S
        track = trim(tracks[0], start_s, end_s, config.model.max_crops)
        item = replace(item, face=track, landmarks=track is not None and bool(track.regions.any()))
    if sound is not None:
        samples = sound[int(cut.start_s * rate) : int(cut.end_s * rate)]
        heard = voice.log_mel(samples, config.voice)
        pitch_hz = prosody.pitch(samples, config.voice, len(heard.mel))
        item = replace(item, sound=heard, pitch_hz=pitch_hz)
    return item


def _several_faces(
    config: Config, cuts: Sequence[Span], tracks: Sequence[FaceTrack], shown_s: Sequence[float], whole: bool
) -> tuple[OneFace, ...]:
    """Return each face over the utterances where there are several; () where there is one or none."""
    if len(tracks) < 2:
        return ()
    return tuple(
        OneFace(
            tuple(_cut_out(config, cut, [track], None, whole, shown_s) for cut in cuts),
            tuple(faces.quality(track, len(shown_s), len(tracks))),
            (float(track.times_s[0]), float(track.times_s[-1])),
        )
        for track in tracks
    )


def _words_in(item: Features, transcript: Transcript) -> str:
    """Return the words of an utterance."""
    return " ".join(w.text.strip() for w in transcript.words_in(item.start_s, item.end_s))


def _duration(
    infos: Sequence[MediaInfo], decoded_s: float, everything: bool, start_s: float | None, end_s: float | None
) -> float | None:
    """Return the length of what is read: what the container says where that is what came out, else what came out.

    Args:
        decoded_s: how far decoding came on the clip's time line; 0.0: nothing that has a length was decoded.
        everything: nothing was left out of it.
    """
    length_s = max((i.duration_s for i in infos if i.duration_s is not None), default=None)
    if decoded_s and any(i.kind != "image" for i in infos):
        ends_early = everything and end_s is None and length_s is not None and decoded_s < length_s - _OFF_S
        if length_s is None or ends_early or decoded_s > length_s + _OFF_S:
            length_s = decoded_s
    if end_s is not None:
        length_s = end_s if length_s is None else min(end_s, length_s)
    return None if length_s is None else max(length_s - (start_s or 0.0), 0.0)
