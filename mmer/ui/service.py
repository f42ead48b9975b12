"""What the page does, without the page: analyse, read edited words, explain, save a correction."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from annotations import receipts
from annotations.accounts import Accounts
from annotations.bucket.backup import backup_of
from annotations.label import check_label
from annotations.store import Store
from annotations.text import check_text
from mmer import checkpoint, hub, labels
from mmer.config import Paths
from mmer.errors import CheckpointError, ClipError, LabelError
from mmer.labels import EMOTIONS
from mmer.messages import marked
from mmer.ui.examples import ExampleFiles
from mmer.ui.language import gettext
from mmer.ui.line import AT_ONCE, Line
from mmer.ui.live_sessions import LiveSessions
from mmer.ui.media_links import MediaLinks
from mmer.ui.monitor import Monitor
from mmer.ui.playable import Player
from mmer.ui.retraining import Retraining
from mmer.ui.turns import Turn, Turns
from mmer.ui.waiting import Pace

if TYPE_CHECKING:
    from mmer.counterfactual import Counterfactual
    from mmer.explanation import Explanation
    from mmer.perceive import Progress
    from mmer.predict import EmotionResult, Predictor, Segment
    from mmer.whatif import Changes, WhatIf

CANNOT_TELL = "cannot_tell"
CONSENT = marked(
    "Keep the recording. Everyone in it agrees that this clip, its file name and its words are stored on this server, "
    "seen and heard by the people whom the owner of this page lets label here (those with an account from them), "
    "and used to improve the model, until one of them asks for their deletion."
)
NO_CONSENT = marked(
    "Keep nothing of the clip: only your answer, what you typed beside it and the model's answer are stored."
)
NUMBERS_CONSENT = marked(
    "Keep no recording, only the numbers the model computed from it: no picture, no sound, no words. Everyone in it "
    "agrees that they are used to improve the model, until one of them asks for their deletion."
)
# What may be kept of a clip, one of three, and the words in which its people agree to it.
KEEP = {"nothing": NO_CONSENT, "numbers": NUMBERS_CONSENT, "recording": CONSENT}
_HAS_CODE = "the code you were given before is still the one"
_NO_WORDS = ("", None, (), "off", "the words were taken out by hand")  # of a Transcript


@dataclass(frozen=True)
class SessionResult:
    """What one browser session looks at."""

    result: "EmotionResult"
    prediction_id: int | None = None  # once it is stored
    saved: "Saved | None" = None  # the last correction of it, without its code
    has_receipt: bool = False  # a code with which the clip can be deleted was told here
    given: tuple = ()  # what that was made of: the same once more is not stored again
    before: "EmotionResult | None" = None  # the words were edited since: what they were judged as
    faces: "tuple[EmotionResult, ...]" = ()  # the verdict with each of the clip's faces read, where there are several


@dataclass(frozen=True)
class Saved:
    """What a correction left behind."""

    label_id: int
    prediction_id: int | None
    clip: str  # sha256
    checkpoint: str
    media: bool  # the recording was kept
    words: bool  # the words were kept
    numbers: bool  # what the model computed from the recording was kept instead of it
    why_not: str  # why the recording was not kept; empty when it was
    receipt: str | None = None  # the code with which the clip can be deleted; told once
    no_receipt: str = ""  # why there is no code here; empty where there is one
    repeated: bool = False  # the same was stored before, and was not stored again


def current(session: SessionResult | None) -> SessionResult:
    """Return what a session looks at, if it looks at anything.

    Raises:
        ClipError: `nothing_analysed`.
    """
    if session is None:
        raise ClipError("nothing_analysed", "there is no result to work with; analyse a clip first")
    return session


def to_explain(result: "EmotionResult", utterance: int | None = None) -> "tuple[Segment, str]":
    """Return an utterance and the emotion it was given; of the one that decided, the emotion of the clip.

    Args:
        utterance: which one, counted from 0; None: the one that decided.

    Raises:
        ClipError: `nothing_readable`, `no_utterance`.
    """
    if result.telling_segment is None or result.emotion is None:
        raise ClipError("nothing_readable", "no emotion was given, so there is nothing to explain")
    if utterance is None:
        return result.telling_segment, result.emotion
    if not 0 <= utterance < len(result.segments):
        n = len(result.segments)
        raise ClipError("no_utterance", f"there is no utterance {utterance}; the clip has {n}, counted from 0")
    segment = result.segments[utterance]
    if segment.emotion is None:
        raise ClipError("nothing_readable", "nothing was read in this utterance, so there is nothing to explain")
    return segment, segment.emotion


class Service:
    """One for all sessions: it holds the model and the store, and nothing about anybody.

    Args:
        lend: wraps the calls that need an accelerator, where one is lent per call.
    """

    def __init__(self, paths: Paths, lend: Callable[[Callable], Callable] | None = None):
        self.paths = paths
        backup = backup_of(paths)  # an empty disk is filled from it, checkpoints and accounts too
        self.store = Store(paths.database_url, paths.media, paths.features, paths.uploads, backup=backup)
        hub.follow_setting(paths)
        self._predictor: Predictor | None = None
        self._loading = threading.Lock()
        if paths.device not in ("auto", "cpu"):  # whether it is there is said at the start
            _ = self.predictor
        self.accounts = Accounts(paths.accounts)
        self.player = Player(self.store)
        self.links = MediaLinks(paths.secret)
        self.retraining = Retraining(paths, self.store)
        self.monitor = Monitor(self)
        self.line, self.turns = Line(self.monitor), Turns(AT_ONCE)
        self.live = LiveSessions(self)
        self.gpu_is_lent = lend is not None
        self.examples = ExampleFiles(paths.uploads)
        self.pace = Pace()
        self.closed = bool(self.accounts) and not paths.space  # people log in with an account here
        on_gpu = lend or (lambda call: call)
        self._judge, self._states_of = on_gpu(self._judged), on_gpu(self._states)
        self._explain_on_gpu, self._reread_on_gpu = on_gpu(self._explain), on_gpu(self._reread)
        self._what_if_on_gpu, self._turn_on_gpu = on_gpu(self._what_if), on_gpu(self._smallest_turn)
        self._faces_on_gpu, self._face_on_gpu = on_gpu(self._faces), on_gpu(self._of_face)

    @property
    def predictor(self) -> "Predictor":
        """What answers; torch comes with it when it is first asked for: the first page does not wait."""
        with self._loading:
            if self._predictor is None:
                from mmer.predict import Predictor

                self._predictor = Predictor(self.paths)
            return self._predictor

    def new_turn(self) -> Turn:
        """Return the turn of a call of the model that begins."""
        return Turn(self.turns)

    def _judged(self, *files: str, **options: Any) -> "EmotionResult":
        return self.predictor.analyse(*files, **options)

    def _states(self, result: "EmotionResult") -> bytes:
        return self.predictor.states_of(result)

    def close(self) -> None:
        """Put what is left into the backup, where there is one, and let another server take it over."""
        if self.store.backup:
            self.store.backup.close()

    def warm(self) -> None:
        """Load and make what the first visitor would wait for."""
        self.examples.warm()
        self.predictor.warm()

    def knows(self, name: str, password: str) -> bool:
        """Return whether somebody may log in, as gradio asks it."""
        return self.accounts.check(name, password) is not None

    def analyse(
        self,
        files: list[str],
        words: str | None,
        turn: Turn | None = None,
        watcher: "Callable[[Progress, EmotionResult | None], None] | None" = None,
    ) -> "EmotionResult":
        """Return the verdict on files that belong together; without words, what is said in them is transcribed.

        Args:
            turn: the call's, which others are let go before between two steps.
            watcher: told how far the work is, and the verdict on face and voice: of a long clip's first utterances
                while the rest is decoded, and of all while words are transcribed.
        """
        check_text(words or "", "words")
        name = " + ".join(Path(f).name for f in files) or "text"

        def tell(progress: "Progress") -> None:
            seen, early = progress.early, None
            if seen is not None and progress.share is not None and any(any(f.present) for f in seen.features):
                early = self.predictor.conclude(seen, name=name)
            if watcher is not None:
                watcher(progress, early)

        options = {"should_stop": turn and turn.should_stop, "watcher": watcher and tell}
        waited_s = turn.waited_s if turn else 0.0  # for its first turn
        found = self._judge(*files, text=words, name=name, **options)
        took_s = found.timing_ms["total"] / 1000 - (turn.waited_s - waited_s if turn else 0.0)
        self.pace.learn(found.observation.files, bool((words or "").strip()), took_s)
        self.monitor.timed(found.timing_ms)
        # Sessions hold results: the utterances have the crops they were judged by, all crops of a long clip are many
        # times that.
        return replace(found, observation=replace(found.observation, tracks=()))

    def reread(self, result: "EmotionResult", words: str) -> "EmotionResult":
        """Return the verdict with other words, by the checkpoint now in use; the media is not decoded again.

        As many lines as utterances: one for each. Otherwise every utterance gets all of them.
        """
        return self._reread_on_gpu(result, check_text(words, "words"))

    def _reread(self, result: "EmotionResult", words: str) -> "EmotionResult":
        from mmer.features import read_words
        from mmer.speech import Transcript, typed

        since = time.perf_counter()
        observed = result.observation
        features = [f.only(("face", "voice")) for f in observed.features]
        if not observed.files:
            features = features[:1]  # of a text alone there may be several: its windows
        lines = words.split("\n")
        if len(lines) != len(features):
            lines = [words] * len(features)
        quality = [n for n in observed.quality if n.code not in ("text_unavailable", "text_not_read", "text_cut")]
        if words.strip():
            features, found = read_words(features, lines, self.predictor.language(self.predictor.checkpoint))
            quality += found
        changed = replace(
            observed,
            features=tuple(features),
            transcript=typed(words) if words.strip() else Transcript(*_NO_WORDS),
            quality=tuple(quality),
            timing_ms={},
        )
        return self.predictor.conclude(changed, name=result.clip, since=since)

    def with_faces(self, result: "EmotionResult", turn: Turn | None = None) -> SessionResult:
        """Return a result as a session looks at it, with the verdicts that its other faces would give.

        Args:
            turn: as of `analyse`.
        """
        return SessionResult(result, faces=tuple(self.faces(result, turn.should_stop if turn else None)))

    def faces(self, result: "EmotionResult", should_stop: Callable[[], bool] | None = None) -> list["EmotionResult"]:
        """Return the verdict with each of the clip's faces read in turn; [] where there are not several."""
        return self._faces_on_gpu(result, should_stop=should_stop) if result.observation.faces else []

    def _faces(self, result: "EmotionResult", should_stop: Callable[[], bool] | None = None) -> list["EmotionResult"]:
        numbers = range(len(result.observation.faces))
        return [self._of_face(result, n) for n in numbers if not (should_stop and should_stop())]

    def of_face(self, result: "EmotionResult", number: int) -> "EmotionResult":
        """Return the verdict with another of the clip's faces read; nothing is decoded again.

        Raises:
            ClipError: `no_face_there`.
        """
        return self._face_on_gpu(result, number)

    def _of_face(self, result: "EmotionResult", number: int) -> "EmotionResult":
        if number == result.observation.face and result.observation.faces:
            return result
        changed = replace(result.observation.with_face(number), timing_ms={})
        return self.predictor.conclude(changed, name=result.clip, since=time.perf_counter())

    def choose_face(self, session: SessionResult, number: int, turn: Turn) -> SessionResult:
        """Return what a session looks at with another of the clip's faces read.

        Raises:
            ClipError: `no_face_there`.
        """
        if number in range(len(session.faces)):
            return SessionResult(session.faces[number], faces=session.faces)
        return self.with_faces(self.of_face(session.result, number), turn)  # analysed for a program, which gets no list

    def explain(
        self,
        result: "EmotionResult",
        should_stop: Callable[[], bool] | None = None,
        report: "Callable[[Explanation], None] | None" = None,
        *,
        utterance: int | None = None,
        emotion: str | None = None,
        against: str | None = None,
    ) -> "Explanation":
        """Return why an utterance was judged so, by the checkpoint that judged it.

        Args:
            report: gets what is known as it comes.
            utterance: which one, counted from 0; None: the one that decided.
            emotion: why this one; None: the one that was given.
            against: why that rather than this one.
        """
        since = time.perf_counter()
        why = self._explain_on_gpu(result, utterance, emotion, against, should_stop=should_stop, report=report)
        self.monitor.timed({"explain": (time.perf_counter() - since) * 1e3})
        return why

    def _explain(
        self,
        result: "EmotionResult",
        utterance: int | None,
        emotion: str | None,
        against: str | None,
        should_stop: Callable[[], bool] | None = None,
        report: "Callable[[Explanation], None] | None" = None,
    ) -> "Explanation":
        from mmer.attribution import explain  # takes a second to load

        segment, given = to_explain(result, utterance)
        loaded, transcriber = self.predictor.checkpoint_of(result), self.predictor.transcriber
        language = self.predictor.language_if_words(loaded, segment.features)
        return explain(
            loaded,
            segment.features,
            labels.emotion(emotion) if emotion else given,
            language,
            against=labels.emotion(against) if against else None,
            transcriber=transcriber,
            should_stop=should_stop,
            report=report,
        )

    def what_if(self, result: "EmotionResult", changes: "Changes") -> "WhatIf":
        """Return how the utterance that decided would be judged with something changed in it."""
        return self._what_if_on_gpu(result, changes)

    def _what_if(self, result: "EmotionResult", changes: "Changes") -> "WhatIf":
        from mmer.whatif import what_if

        return what_if(self.predictor, result, changes)

    def smallest_turn(
        self, result: "EmotionResult", should_stop: Callable[[], bool] | None = None
    ) -> "Counterfactual | None":
        """Return the smallest change that turns the answer on the utterance that decided, if there is one."""
        return self._turn_on_gpu(result, should_stop=should_stop)

    def _smallest_turn(
        self, result: "EmotionResult", should_stop: Callable[[], bool] | None = None
    ) -> "Counterfactual | None":
        from mmer.counterfactual import smallest_turn

        features = to_explain(result)[0].features
        loaded, transcriber = self.predictor.checkpoint_of(result), self.predictor.transcriber
        language = self.predictor.language_if_words(loaded, features)
        return smallest_turn(loaded, features, language, transcriber, should_stop)

    def save(
        self,
        session: SessionResult,
        emotion: str | None,
        *,
        annotator: str,
        words: str = "",
        confidence: float | None = None,
        comment: str = "",
        speaker: str = "",
        keep: str = "nothing",
    ) -> tuple[SessionResult, Saved]:
        """Store a label, the prediction it corrects and, with consent, the recording and its words, or its numbers.

        What was stored just so before, as by a second press, is not stored again.

        Args:
            keep: one of `KEEP`.

        Raises:
            LabelError: `no_emotion`, `bad_consent`, and those of `Store.save`.
        """
        if not emotion:
            raise LabelError("no_emotion", "choose an emotion, or 'cannot tell'")
        if keep not in KEEP:
            raise LabelError("bad_consent", f"{keep!r} cannot be kept; choose one of {', '.join(KEEP)}")
        if session.saved and self.store.deleted([session.saved.clip]):  # with its receipt: what was stored is gone
            session = replace(session, prediction_id=None, saved=None, has_receipt=False)
        given = (emotion, annotator, words.strip(), confidence, comment, speaker, keep)
        if session.saved and session.given == given:
            told = _HAS_CODE if session.has_receipt else session.saved.no_receipt
            return session, replace(session.saved, no_receipt=told, repeated=True)
        saved = self._store(session, emotion, annotator, words, confidence, comment, speaker, keep)
        session = replace(session, prediction_id=saved.prediction_id, given=given, saved=replace(saved, receipt=None))
        return replace(session, has_receipt=session.has_receipt or saved.receipt is not None), saved

    def _store(
        self,
        session: SessionResult,
        emotion: str,
        annotator: str,
        words: str,
        confidence: float | None,
        comment: str,
        speaker: str,
        keep: str,
    ) -> Saved:
        """Store a correction with what is to be kept, all or nothing, and return what that was."""
        lines = _lines(session.result, words)
        words = words.strip() or session.result.transcript.text
        result, files = session.result, session.result.observation.files
        keep_numbers = keep == "numbers" and result.emotion is not None
        why_not = _why_not_kept(len(files), keep)
        keep_media, keep_words = not why_not, keep == "recording" and len(files) < 2 and bool(words)
        label: dict[str, Any] = {
            "emotions": emotion if emotion in EMOTIONS else None,
            "outcome": "label" if emotion in EMOTIONS else emotion,
            "confidence": confidence,
            "comment": comment,
            "transcript": " ".join(words.split()) if keep_words else None,
        }
        check_label(annotator, **label)  # before the recording is taken in
        clip = {"speaker": speaker, "words": words if keep_words else None}
        clip |= self._kept_clip(result, media=keep_media, words=keep_words, numbers=keep_numbers)
        code, no_receipt = self._receipt(session)
        _, prediction_id, label_id = self.store.save(
            Path(files[0].path) if keep_media else None,
            result.sha256,
            annotator,
            clip=clip,
            prediction=session.prediction_id or (result.to_dict() if result.emotion is not None else None),
            label=label,
            lines=lines if keep_words else (),
            receipt=receipts.hash_of(code) if code else None,
        )
        kept: dict[str, Any] = {"media": keep_media, "words": keep_words, "numbers": keep_numbers, "why_not": why_not}
        told: dict[str, Any] = {"receipt": code, "no_receipt": no_receipt}
        return Saved(label_id, prediction_id, result.sha256, result.checkpoint, **kept, **told)

    def _receipt(self, session: SessionResult) -> tuple[str | None, str]:
        """Return a new code for the session's clip, or why it gets none, in the page's words."""
        sha256 = session.result.sha256
        if not receipts.may_be_given(self.store, sha256):
            return None, "this recording was here before you gave it; only this server's owner can delete it"
        if session.has_receipt:
            return None, _HAS_CODE
        return receipts.new_code(), ""

    def _kept_clip(self, result: "EmotionResult", *, media: bool, words: bool, numbers: bool) -> dict[str, Any]:
        """Return what the database learns of a clip of which the recording, its words or only numbers are kept."""
        consent = CONSENT if media or words else NUMBERS_CONSENT if numbers else ""
        return {
            "name": result.clip if media else f"clip {result.sha256[:8]}",
            "consent_text": gettext(consent) if consent else None,  # in the words that were agreed to
            "features": self._states_of(result) if numbers else None,
            "keep_until": self._keep_until() if media or numbers else None,
            "duration_s": result.duration_s,
        }

    def _keep_until(self) -> datetime | None:
        """Return when what is taken in now has to go; what is over goes now."""
        self.store.expire()
        days = self.paths.keep_days
        return datetime.now(timezone.utc) + timedelta(days=days) if days else None

    def health(self) -> dict:
        """Return whether clips can be answered, and by what: what was promoted meanwhile is loaded for it."""
        device = self.predictor.device
        try:
            answers = self.predictor.checkpoint.id
        except CheckpointError as error:
            promoted = checkpoint.promoted(self.paths.checkpoints)
            return {"status": "error", "checkpoint": promoted, "device": device, "message": error.message}
        if (refusal := self.predictor.refusal) is not None:
            return {"status": "degraded", "checkpoint": answers, "device": device, "message": refusal.message}
        return {"status": "ok", "checkpoint": answers, "device": device}

    def readiness(self) -> dict[str, str]:
        """Return of the model and of the database `ok`, or the code of what keeps them from answering."""
        state = {"model": "ok", "database": "ok"}
        try:
            _ = self.predictor.checkpoint
        except CheckpointError as error:
            state["model"] = error.code
        try:
            with self.store.engine.connect() as connection:
                connection.execute(text("SELECT 1 FROM labels WHERE 1 = 0"))
        except SQLAlchemyError:
            state["database"] = "database_unavailable"
        return state


def _why_not_kept(n_files: int, keep: str) -> str:
    """Return why a recording is not kept, in the page's words; empty where it is."""
    if keep == "numbers":
        return "you chose that only numbers are kept"
    if keep == "nothing":
        return "you chose that nothing of the clip is kept"
    if n_files == 0:
        return "there is none, only words"
    if n_files > 1:
        return f"the clip was put together from {n_files} files, and only single files are kept"
    return ""


def _lines(result: "EmotionResult", words: str) -> list[tuple[float, float, str]]:
    """Return what each utterance was read as, so that retraining reads it so; [] where the words are of the whole clip.

    Args:
        words: as they were edited; empty: not at all.
    """
    read = [" ".join(s.features.words) for s in result.segments]
    lines = words.split("\n")
    if not words.strip() or words.split() == " ".join(read).split():
        lines = read
    same_of_all = len(read) > 1 and len(set(read)) == 1 and lines is read  # typed for the whole clip
    if len(lines) != len(result.segments) or same_of_all or any(s.end_s <= s.start_s for s in result.segments):
        return []
    return [(s.start_s, s.end_s, " ".join(line.split())) for s, line in zip(result.segments, lines, strict=True)]
