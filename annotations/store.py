"""The annotation database: stores and returns clips, consents, predictions, labels and training runs.

Each call is its own transaction, so any thread or process may call at any time; when a method has returned an id, the
row is on the disk, and in the backup where there is one. The current label of an annotator for a clip's segment and
target is the newest that was not undone.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from annotations import item_summary, retention, sides
from annotations.bucket.backup import Backup
from annotations.choices import OUTCOMES, TRAIN
from annotations.db.engine import connect, inserted_id, sqlite_file
from annotations.db.schema import (
    UNDO,
    AnnotatorRecord,
    AuditRecord,
    ClipRecord,
    ConsentRecord,
    CurrentLabelRecord,
    ItemRecord,
    LabelRecord,
    PredictionRecord,
    ReceiptRecord,
    RemovalRecord,
    TrainingRunRecord,
    UtteranceRecord,
    now,
    training_run_labels,
)
from annotations.db.write_lock import write_lock
from annotations.label import Label, check_label, check_segment, current_rows
from annotations.text import check_text, clean_name, composed
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, emotion

# Built once, and run past the unit of work: that took four fifths of the time in which a label is stored.
_CLIP_EXISTS = select(ClipRecord.__table__.c.id).where(ClipRecord.__table__.c.id == bindparam("clip"))
_ANNOTATOR_ID = select(AnnotatorRecord.__table__.c.id).where(AnnotatorRecord.__table__.c.name == bindparam("name"))
# On a server, their other transactions wait until this one ends.
_ANNOTATOR_ID = _ANNOTATOR_ID.with_for_update(key_share=True)
_INSERT_LABEL, _INSERT_CURRENT = insert(LabelRecord.__table__), insert(CurrentLabelRecord.__table__)
_LABEL_FIELDS = ("id", "supersedes", "outcome", "start_s", "end_s", "target", "created_at", "item_id", "top")


def _rows_of(record: type[LabelRecord] | type[CurrentLabelRecord], names: Iterable[str]) -> Select:
    """Return the query of an annotator's rows about a clip."""
    table = record.__table__
    own = (table.c.clip_id == bindparam("clip")) & (table.c.annotator_id == bindparam("annotator"))
    return select(*(table.c[name] for name in names)).where(own)


_LABELS_OF = _rows_of(LabelRecord, _LABEL_FIELDS)
_CURRENT_OF = _rows_of(CurrentLabelRecord, ("label_id", "item_id", "target"))
_UTTERANCE_OF_LABEL = and_(  # as the unique index of utterances puts it
    UtteranceRecord.clip_id == LabelRecord.clip_id,
    func.coalesce(UtteranceRecord.start_s, -1) == func.coalesce(LabelRecord.start_s, -1),
    func.coalesce(UtteranceRecord.end_s, -1) == func.coalesce(LabelRecord.end_s, -1),
)
_SHARED_FIELDS = [field.name for field in fields(Label) if field.name in LabelRecord.__table__.columns]


class Store:
    """The labels database and its media folder.

    Args:
        url: any SQLAlchemy URL; an empty database gets its tables.
        media_dir: where clips of consenting people are kept, as `<sha256>.<ext>`.
        features_dir: cache whose file names hold the clip's sha256; a deletion clears it too.
        uploads_dir: where the page's visitors send clips under other names; a deletion finds them by content.
        create: refuse a missing SQLite file when off.
        backup: where all that is written is kept too; an empty disk is filled from it first.
    """

    def __init__(
        self,
        url: str,
        media_dir: Path,
        features_dir: Path | None = None,
        uploads_dir: Path | None = None,
        *,
        create: bool = True,
        backup: Backup | None = None,
    ):
        self.media_dir = Path(media_dir)
        self.features_dir = Path(features_dir) if features_dir else None
        self.uploads_dir = Path(uploads_dir) if uploads_dir else None
        self._folders = [folder for folder in (self.media_dir, self.features_dir) if folder]
        for folder in self._folders:
            with suppress(FileNotFoundError, PermissionError):  # made when something comes in; or somebody else's
                folder.chmod(0o700)
        self.backup = backup
        if backup:
            backup.open()
        self.engine = connect(url, create=create)
        self._file = sqlite_file(url)
        self._readers = sessionmaker(self.engine)
        self._writers = sessionmaker(self.engine.execution_options(write=True))
        if backup:
            backup.attach()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that sees one state of the database."""
        with self._readers() as session:
            yield session

    @contextmanager
    def writing(self, session: Session | None = None, *, sends: bool = True) -> Iterator[Session]:
        """One transaction, committed at the end; a given session is in one already, and its owner commits.

        Args:
            sends: return only when the backup has it too, where there is one.
        """
        if session:
            yield session
            return
        placed: list[Path] = []
        try:
            with write_lock(self._file) if self._file else nullcontext():
                try:
                    with self._writers.begin() as session:
                        session.info["placed"] = placed
                        yield session
                except BaseException:
                    for file in placed:  # no media whose consent did not reach the disk
                        file.unlink(missing_ok=True)
                    raise
        except OperationalError as error:
            raise LabelError("database_unavailable", f"nothing was saved: {error.orig}") from error
        if self.backup and sends:
            self.backup.sent(file for file in placed if file.is_file())

    def register_clip(
        self,
        path: Path | None,
        sha256: str,
        *,
        name: str,
        speaker: str | None = None,
        consent_text: str | None = None,
        features: bytes | None = None,
        keep_until: datetime | None = None,
        in_place: bool = False,
        source: str = "upload",
        duration_s: float | None = None,
        words: str | None = None,
        session: Session | None = None,
    ) -> int:
        """Return the id of the clip with this content; what an earlier registration did not know is filled in.

        Args:
            path: the clip's file; kept on record only with `in_place`, copied only with `consent_text`. With that and
                no path, the consent is to keep words.
            consent_text: what the person agreed to: the one way into the media folder and the features folder.
            features: the clip's branch embeddings; with them the consent is to keep these and no recording.
            keep_until: when what is kept under the consent has to go; an earlier date given before stands.
            words: what is said in it; clips of one speaker with the same words are for the same in retraining.

        Raises:
            LabelError: `bad_hash, speaker_conflict, clip_unreadable, disk_full, bad_text, no_consent`.
        """
        with self._staged(path, sha256, consent_text, features) as copy, self.writing(session) as session:
            return self._register(
                session,
                copy,
                path,
                sha256.lower(),
                name=name,
                speaker=speaker,
                consent_text=consent_text,
                features=features,
                keep_until=keep_until,
                in_place=in_place,
                source=source,
                duration_s=duration_s,
                words=words,
            )

    def save(
        self,
        path: Path | None,
        sha256: str,
        annotator: str,
        *,
        clip: Mapping,
        label: Mapping,
        prediction: Mapping | int | None = None,
        lines: Sequence[tuple[float, float, str]] = (),
        receipt: str | None = None,
    ) -> tuple[int, int | None, int]:
        """Return the ids of a clip, of the prediction an annotator saw and of their label: all are stored, or none.

        Args:
            clip: what else `register_clip` takes, and `label` what `add_label` does.
            prediction: as `add_prediction` takes it, or the id of one that is stored.
            lines: when each utterance begins and ends, in seconds, and what is said in it.
            receipt: hash of a code with which the clip can be deleted (`annotations.receipts`).

        Raises:
            LabelError: as those three.
        """
        staged = self._staged(path, sha256, clip.get("consent_text"), clip.get("features"))
        with staged as copy, self.writing() as session:
            clip_id = self._register(session, copy, path, sha256.lower(), **clip)
            if isinstance(prediction, Mapping):
                prediction = self.add_prediction(clip_id, prediction, session)
            label_id = self.add_label(clip_id, annotator, prediction_id=prediction, session=session, **label)
            for start_s, end_s, line in lines:
                self.utterance(clip_id, start_s, end_s, transcript=line, session=session)
            if receipt:
                session.add(ReceiptRecord(clip_id=clip_id, code_hash=receipt))
            return clip_id, prediction, label_id

    @contextmanager
    def _staged(
        self, path: Path | None, sha256: str, consent_text: str | None, features: bytes | None
    ) -> Iterator[Path | None]:
        """Yield a flushed copy, beside its final place, of what a consent lets in: before the database is locked."""
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise LabelError("bad_hash", f"{sha256!r} is not a sha256 in hexadecimal")
        copy = None
        if features is not None:
            if not consent_text or not self.features_dir:
                raise LabelError("no_consent", "features are kept only with a consent and in a features folder")
            copy = retention.write_to_temporary(features, sha256.lower(), self.features_dir)
        elif consent_text and path and not self._kept(sha256):
            copy = retention.copy_to_temporary(path, sha256.lower(), self.media_dir)
        try:
            yield copy
        finally:
            if copy:
                copy.unlink(missing_ok=True)

    def _kept(self, sha256: str) -> Path | None:
        return next(self.media_dir.glob(f"{sha256.lower()}*"), None)

    def _register(
        self,
        session: Session,
        copy: Path | None,
        path: Path | None,
        sha256: str,
        *,
        name: str,
        speaker: str | None = None,
        consent_text: str | None = None,
        features: bytes | None = None,
        keep_until: datetime | None = None,
        in_place: bool = False,
        source: str = "upload",
        duration_s: float | None = None,
        words: str | None = None,
    ) -> int:
        speaker = clean_name(speaker or "", "speaker") or None
        clip = _get_or_add(session, ClipRecord, {"name": check_text(name, "name"), "source": source}, sha256=sha256)
        if speaker and clip.speaker and composed(clip.speaker) != speaker:
            raise LabelError("speaker_conflict", f"{name} is on record with speaker {clip.speaker!r}, not {speaker!r}")
        clip.speaker = clip.speaker or speaker
        clip.side = clip.side or sides.side_of(session, clip, words)
        clip.duration_s = clip.duration_s or duration_s
        if in_place and path:
            clip.path = check_text(str(Path(path).resolve()), "path")
        if consent_text and not (clip.media or clip.features):
            clip.keep_until = keep_until  # a date given for what is gone says nothing about this
        elif keep_until:
            clip.keep_until = min(filter(None, (clip.keep_until, keep_until)))
        if consent_text:
            scope = "features" if features is not None else "media" if path else "words"
            self._record_consent(session, clip, consent_text, scope)
        if features is not None and copy and self.features_dir:
            clip.features = _place(session, copy, self.features_dir / f"{sha256}.states").name
        elif consent_text and path:
            media = self._kept(sha256)
            if copy and not media:
                media = _place(session, copy, self.media_dir / f"{sha256}{_suffix(path)}")
            if not media:
                raise LabelError("clip_unreadable", f"{name} was deleted meanwhile; register it again")
            clip.media = media.name
        session.flush()
        return clip.id

    def _record_consent(self, session: Session, clip: ClipRecord, consent_text: str, scope: str) -> None:
        version = hashlib.sha256(check_text(consent_text, "consent").encode()).hexdigest()[:12]
        recorded = select(ConsentRecord.id).filter_by(clip_id=clip.id, text_version=version, scope=scope)
        again = scope != "words" and not (clip.media or clip.features)  # the same text once more, after its time
        if session.scalar(recorded) is None or again:
            session.add(ConsentRecord(clip_id=clip.id, text_version=version, text=consent_text, scope=scope))

    def utterance(
        self,
        clip_id: int,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        transcript: str | None = None,
        embedding: bytes | None = None,
        session: Session | None = None,
    ) -> int:
        """Return the id of a clip's segment, or of the whole clip; a transcript or embedding replaces an earlier one.

        Args:
            embedding: float32 values of the branch embeddings.

        Raises:
            LabelError: `unknown_clip`, `bad_segment`, `bad_text`.
        """
        start_s, end_s = check_segment(start_s, end_s)
        with self.writing(session) as session:
            _require(session, ClipRecord, clip_id, "clip")
            utterance = _get_or_add(session, UtteranceRecord, clip_id=clip_id, start_s=start_s, end_s=end_s)
            if transcript is not None:
                utterance.transcript = check_text(transcript, "transcript")
            if embedding is not None:
                utterance.embedding = embedding
            session.flush()
            return utterance.id

    def add_prediction(self, clip_id: int, result: Mapping, session: Session | None = None) -> int:
        """Return the id of a stored prediction.

        Args:
            result: `emotion, probs, per_modality, present, checkpoint` as `python -m mmer analyse` names them;
                `start_s` and `end_s` too when it is about a segment.
        """
        start_s, end_s = check_segment(result.get("start_s"), result.get("end_s"))
        with self.writing(session) as session:
            _require(session, ClipRecord, clip_id, "clip")
            record = PredictionRecord(
                clip_id=clip_id,
                start_s=start_s,
                end_s=end_s,
                checkpoint=result["checkpoint"],
                emotion=emotion(result["emotion"]),
                probs=dict(result["probs"]),
                per_modality=dict(result.get("per_modality") or {}),
                present=dict(result["present"]),
            )
            session.add(record)
            session.flush()
            return record.id

    # More than half of it says what its parameters are; the steps have names.
    def add_label(
        self,
        clip_id: int,
        annotator: str,
        emotions: str | Mapping[str, float] | None = None,
        *,
        prediction_id: int | None = None,
        item_id: int | None = None,
        assignment_id: int | None = None,
        session: Session | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        target: str = "all",
        outcome: str = "label",
        confidence: float | None = None,
        intensity: float | None = None,
        valence: float | None = None,
        arousal: float | None = None,
        comment: str = "",
        transcript: str | None = None,
        lead_time_s: float | None = None,
        blind: bool | None = None,
        created_at: datetime | None = None,
    ) -> int:
        """Return the id of a new label row; it replaces the annotator's earlier one for the same segment and target.

        Args:
            emotions: one emotion, or weights of several; None for the outcomes skip, cannot_tell and broken.
            prediction_id: the prediction the annotator saw.
            item_id: the item of a project that was judged, and `assignment_id` the lease it was judged under.
            confidence, intensity, valence, arousal: ranges as in `check_label`.
            lead_time_s: from the item's first sight to the answer.
            blind: whether the model's answer was hidden until the choice.

        Raises:
            LabelError: with a code that names what is wrong; nothing is saved then.
        """
        annotator, values = check_label(
            annotator,
            emotions,
            start_s=start_s,
            end_s=end_s,
            target=target,
            outcome=outcome,
            confidence=confidence,
            intensity=intensity,
            valence=valence,
            arousal=arousal,
            comment=comment,
            transcript=transcript,
            lead_time_s=lead_time_s,
            blind=blind,
            created_at=created_at,
        )
        with self.writing(session) as session:
            session.flush()
            _check_clip(session, clip_id, item_id, prediction_id)
            person = annotator_id(session, annotator)
            values |= {"clip_id": clip_id, "annotator_id": person, "prediction_id": prediction_id}
            return self._append(session, values | {"item_id": item_id, "assignment_id": assignment_id})

    def undo(self, label_id: int, annotator: str, session: Session | None = None) -> int:
        """Return the id of a new row that takes an annotator's own label back; the one before it counts again.

        Raises:
            LabelError: `unknown_label_id`, `not_yours`, `already_undone`.
        """
        with self.writing(session) as session:
            person = find_annotator(session, annotator)
            label = _require(session, LabelRecord, label_id, "label_id")
            if label.annotator_id != person:
                raise LabelError("not_yours", f"label {label_id} is another annotator's; add your own instead")
            undone = select(LabelRecord.id).filter_by(supersedes=label_id, outcome=UNDO)
            if label.outcome == UNDO or session.scalar(undone) is not None:
                raise LabelError("already_undone", f"label {label_id} is undone already; label the clip again instead")
            session.flush()
            same = ("clip_id", "annotator_id", "target", "start_s", "end_s", "item_id", "assignment_id")
            values = {name: getattr(label, name) for name in same} | {"supersedes": label_id, "outcome": UNDO}
            return self._append(session, values | {"emotions": {}, "top": None, "comment": "", "created_at": None})

    def _append(self, session: Session, values: dict) -> int:
        """Return the id of a new row of an annotator who is locked; current labels and label statistics follow it."""
        connection = session.connection()
        of = {"clip_id": values["clip_id"], "annotator_id": values["annotator_id"]}
        key = {"clip": values["clip_id"], "annotator": values["annotator_id"]}
        before = connection.execute(_LABELS_OF, key).all()
        was = {}
        if before:
            was = {row.label_id: (row.item_id, row.target) for row in connection.execute(_CURRENT_OF, key)}
        # A clock that was set back must not put a correction before what it corrects.
        values["created_at"] = values["created_at"] or max([now(), *(row.created_at for row in before)])
        label_id = inserted_id(connection.execute(_INSERT_LABEL, values))
        added = SimpleNamespace(**{name: values.get(name) for name in _LABEL_FIELDS} | {"id": label_id})
        rows = {row.id: row for row in current_rows([*before, added])}
        new = [
            of | {"label_id": row.id} | {name: getattr(row, name) for name in ("item_id", "target", "top", "outcome")}
            for row in rows.values()
            if row.id not in was
        ]
        gone = was.keys() - rows.keys()
        if gone:
            session.execute(delete(CurrentLabelRecord).where(CurrentLabelRecord.label_id.in_(gone)))
        if new:
            connection.execute(_INSERT_CURRENT, new)
        changed = [was[label] for label in gone] + [(row["item_id"], row["target"]) for row in new]
        for item_id, target in sorted({place for place in changed if place[0] is not None}):
            item_summary.refresh_summaries(session, target, [item_id])
        return label_id

    def labels(
        self, outcomes: Iterable[str] = ("label",), *, sha256: str | None = None, by_clip: bool = False
    ) -> Iterator[Label]:
        """Stream the current labels in the order they were stored.

        Args:
            outcomes: which kinds to return.
            sha256: only those of this clip.
            by_clip: clip after clip, so that each clip's labels follow each other.
        """
        query = (
            select(*(getattr(LabelRecord, name) for name in _SHARED_FIELDS), AnnotatorRecord.name)
            .add_columns(ClipRecord.sha256, ClipRecord.name, ClipRecord.speaker, ClipRecord.media, ClipRecord.path)
            .add_columns(ClipRecord.features, UtteranceRecord.transcript, ClipRecord.side)
            .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
            .join(ClipRecord, LabelRecord.clip_id == ClipRecord.id)
            .join(AnnotatorRecord, LabelRecord.annotator_id == AnnotatorRecord.id)
            .outerjoin(UtteranceRecord, _UTTERANCE_OF_LABEL)
            .where(LabelRecord.outcome.in_(list(outcomes)))
            .order_by(*([CurrentLabelRecord.clip_id] if by_clip else []), CurrentLabelRecord.label_id)
            .execution_options(yield_per=1000)
        )
        if sha256:
            query = query.where(ClipRecord.sha256 == sha256.lower())
        with self._readers() as session:
            for *shared, annotator, sha256, name, speaker, stored, path, features, words, side in session.execute(
                query
            ):
                media = self.file_of(stored, path)
                yield Label(
                    **dict(zip(_SHARED_FIELDS, shared, strict=True)),
                    sha256=sha256,
                    name=name,
                    media=media,
                    in_place=media is not None and not (stored and media == self.media_dir / stored),
                    annotator=annotator,
                    speaker=speaker and composed(speaker),
                    words=words,
                    states=self.features_dir / features if features and self.features_dir else None,
                    side=side or TRAIN,
                )

    def lines(self) -> dict[str, list[tuple[float, float, str]]]:
        """Return, for each clip whose utterances' words were kept, when each begins and ends and what is said in it."""
        found: dict[str, list[tuple[float, float, str]]] = {}
        query = (
            select(ClipRecord.sha256, UtteranceRecord.start_s, UtteranceRecord.end_s, UtteranceRecord.transcript)
            .join(UtteranceRecord, UtteranceRecord.clip_id == ClipRecord.id)
            .where(UtteranceRecord.start_s.is_not(None), UtteranceRecord.transcript.is_not(None))
            .order_by(ClipRecord.id, UtteranceRecord.start_s)
        )
        with self._readers() as session:
            for sha256, start_s, end_s, line in session.execute(query):
                if start_s is not None and end_s is not None and line is not None:
                    found.setdefault(sha256, []).append((start_s, end_s, line))
        return found

    def file_of(self, media: str | None, path: str | None) -> Path | None:
        """Return where a clip's media lies, kept here or registered in its owner's place; None when it is not there."""
        stored = self.media_dir / media if media else None
        return next((p for p in (stored, path and Path(path)) if p and p.is_file()), None)

    def was_consented(self, file: Path) -> bool:
        """Return whether a clip's file was given with a consent, for people whom the page's owner lets in alone."""
        return file.parent == self.media_dir

    def start_run(self, parent: str | None) -> int:
        """Return the id of a training run that starts now from a checkpoint; it notes the deletions since the last."""
        with self.writing() as session:
            record = TrainingRunRecord(parent=parent)
            session.add(record)
            session.flush()
            session.execute(update(RemovalRecord).where(RemovalRecord.run_id.is_(None)).values(run_id=record.id))
            return record.id

    def removals(self, run_id: int) -> list[dict]:
        """Return the deletions a training run has to list: when, how many clips and label rows, never whose."""
        with self.reading() as session:
            return _removals(session, run_id)

    def deleted(self, hashes: Iterable[str]) -> set[str]:
        """Return those of the clips that are on record no more."""
        with self.reading() as session:
            return set(hashes) - retention.registered(session, hashes)

    def finish_run(
        self,
        run_id: int,
        verdict: str,
        *,
        checkpoint: str | None = None,
        report=None,
        clips: Mapping[str, Iterable[str]] | None = None,
        label_ids: Iterable[int] = (),
    ) -> None:
        """Record how a run ended, what it made and which labels it consumed, as far as they were not deleted since.

        Args:
            clips: hashes that the report names, in lists with a name each.
        """
        with self.writing() as session:
            run = _require(session, TrainingRunRecord, run_id, "run")
            run.finished_at, run.verdict, run.checkpoint = now(), verdict, checkpoint
            removed = _removals(session, run_id)
            if clips:
                named = {name: sorted(retention.registered(session, hashes)) for name, hashes in clips.items()}
                report = {**(report or {}), **named}
            run.report = {**(report or {}), "removed": removed} if removed else report
            label_ids = list(label_ids)
            for i in range(0, len(label_ids), 1000):
                there = select(literal(run_id), LabelRecord.id).where(LabelRecord.id.in_(label_ids[i : i + 1000]))
                session.execute(training_run_labels.insert().from_select(["run_id", "label_id"], there))

    def delete_clip(
        self,
        sha256: str,
        *,
        keep_labels: bool = False,
        only_if: ColumnElement[bool] | None = None,
        actor: str = "system",
    ) -> retention.Removal:
        """Delete a clip's media, features, predictions, labels and consents, and check that no trace is left.

        Args:
            keep_labels: the label rows stay, of a clip without hash, name, speaker, words or comments.
            only_if: what has to hold of the clip's row in the transaction that deletes it; else it is as if not there.

        Raises:
            LabelError: `unknown_clip`, `trace_left`.
        """
        return self._delete(ClipRecord.sha256 == sha256.lower(), f"clip {sha256}", (), keep_labels, actor, only_if)

    def delete_speaker(self, speaker: str, *, keep_labels: bool = False, actor: str = "system") -> retention.Removal:
        """Delete all clips of a speaker, as `delete_clip` does one."""
        with self.reading() as session:
            stored = session.scalars(select(ClipRecord.speaker).distinct().where(ClipRecord.speaker.is_not(None)))
            near = [other for other in stored if other and composed(other).casefold() == composed(speaker).casefold()]
        spelt = tuple(other for other in near if composed(other) == composed(speaker))
        what = f"clip of speaker {speaker!r}"
        removal = self._delete(ClipRecord.speaker.in_(spelt), what, spelt, keep_labels, actor)
        return replace(removal, alike=tuple(sorted({*near} - {*spelt})))

    def _delete(
        self,
        condition: ColumnElement[bool],
        what: str,
        speakers: tuple[str, ...],
        keep_labels: bool,
        actor: str,
        only_if: ColumnElement[bool] | None = None,
    ) -> retention.Removal:
        with self.writing(sends=False) as session:
            query = select(ClipRecord.sha256).where(condition)
            if only_if is not None:
                session.execute(query.with_for_update()).all()  # on a server, who is labelling it now is waited for
                query = query.where(only_if)
            hashes = list(session.scalars(query))
            if not hashes:
                raise LabelError("unknown_clip", f"no {what} on record")
            removal = retention.remove_clips(session, self._folders, hashes, keep_labels=keep_labels)
            counted = {"n_clips": removal.clips, "n_labels": removal.labels, "labels_kept": keep_labels}
            session.add(RemovalRecord(**counted))
            self.audit(actor, "speaker.delete" if speakers else "clip.delete", counted, session)
        try:
            # After the transaction: other writers need not wait until every upload is read.
            n_uploads = retention.delete_uploads(self.uploads_dir, hashes) if self.uploads_dir else 0
            removal = replace(removal, files=removal.files + n_uploads)
            retention.verify_no_trace(self.engine, self._folders, hashes, speakers)
        finally:  # the rows are gone, whatever is left here: the backup must not keep them
            if self.backup:
                self.backup.purge()
        return replace(removal, copies=retention.older_copies_with(self.engine, hashes))

    def expire(self, *, given_before: datetime | None = None, actor: str = "system") -> tuple[int, int]:
        """Delete media and features whose retention period is over; labels stay. Return the clips and files it was.

        Args:
            given_before: also what is kept under consents that are all older than this, whatever was said of an end.
        """
        with self.writing(sends=False) as session:
            over = ClipRecord.keep_until <= now()
            if given_before:
                newest = select(func.max(ConsentRecord.given_at)).where(ConsentRecord.clip_id == ClipRecord.id)
                over |= newest.scalar_subquery() < given_before
            kept = ClipRecord.media.is_not(None) | ClipRecord.features.is_not(None)
            clips = list(session.scalars(select(ClipRecord).where(over, kept)))
            n_files = retention.delete_files(self._folders, [clip.sha256 for clip in clips])
            for clip in clips:
                clip.media = clip.features = None
                utterances = update(UtteranceRecord).where(UtteranceRecord.clip_id == clip.id)
                session.execute(utterances.values(embedding=None))  # features too
            if clips:
                self.audit(actor, "media.expire", {"n_clips": len(clips), "n_files": n_files}, session)
        if self.backup and clips:
            self.backup.purge()
        return len(clips), n_files

    def audit(self, actor: str, action: str, detail: dict, session: Session | None = None) -> None:
        """Note who did what; `detail` must name no clip and no speaker, so that a deletion need not find it."""
        with self.writing(session) as session:
            session.add(AuditRecord(actor=check_text(actor, "actor"), action=action, detail=detail))

    def counts(self) -> dict:
        """Return how many rows of each kind there are, and the current labels by emotion (the heaviest) or outcome."""
        with self._readers() as session:
            counts = {
                table.__tablename__: session.scalar(select(func.count()).select_from(table))
                for table in (ClipRecord, PredictionRecord, AnnotatorRecord, LabelRecord, TrainingRunRecord)
            }
            counts["media"] = session.scalar(select(func.count(ClipRecord.media)))
            counts["speakers"] = session.scalar(select(func.count(ClipRecord.speaker.distinct())))
            current = dict.fromkeys((*EMOTIONS, *OUTCOMES[1:]), 0)
            what = func.coalesce(CurrentLabelRecord.top, CurrentLabelRecord.outcome)
            current |= dict(session.execute(select(what, func.count()).group_by(what)).all())
        return counts | {"current": current}


def find_annotator(session: Session, name: str) -> int | None:
    """Return the id of the annotator of this name, None when nobody has it; in a write, their other writes wait.

    Rows that an earlier version stored in another form of the name are found too.
    """
    connection, name = session.connection(), composed(check_text(name, "annotator"))
    key = connection.scalar(_ANNOTATOR_ID, {"name": name})
    if key is None:
        stored = connection.execute(select(AnnotatorRecord.__table__.c.name)).scalars()
        spelt = next((other for other in stored if composed(other) == name), None)
        key = None if spelt is None else connection.scalar(_ANNOTATOR_ID, {"name": spelt})
    return key


def annotator_id(session: Session, name: str) -> int:
    """Return the id of the annotator of this name, new or not, and keep their other writes waiting until the end.

    Raises:
        LabelError: `no_annotator`, `bad_text`, `text_too_long`, `invisible_name`.
    """
    name = clean_name(name, "annotator")
    if not name:
        raise LabelError("no_annotator", "whose item it is has to be known; give the annotator's name")
    known = find_annotator(session, name)
    if known is not None:
        return known
    with suppress(IntegrityError), session.begin_nested():  # on a server, another session may have been first
        session.execute(insert(AnnotatorRecord), {"name": name})
    return session.connection().execute(_ANNOTATOR_ID, {"name": name}).scalar_one()


def _removals(session: Session, run_id: int) -> list[dict]:
    query = select(RemovalRecord).filter_by(run_id=run_id).order_by(RemovalRecord.id)
    return [
        {"at": r.at.isoformat(), "clips": r.n_clips, "labels": r.n_labels, "labels_kept": r.labels_kept}
        for r in session.scalars(query)
    ]


def _check_clip(session: Session, clip_id: int, item_id: int | None, prediction_id: int | None) -> None:
    """Raise LabelError unless the clip exists and the item and the prediction, where given, are of it."""
    if session.connection().scalar(_CLIP_EXISTS, {"clip": clip_id}) is None:
        raise LabelError("unknown_clip", f"there is no clip {clip_id}")
    if item_id is not None:
        item = _require(session, ItemRecord, item_id, "item")
        if _require(session, UtteranceRecord, item.utterance_id, "utterance").clip_id != clip_id:
            raise LabelError("unknown_item", f"item {item_id} is of another clip")
    seen = prediction_id and _require(session, PredictionRecord, prediction_id, "prediction")
    if seen and seen.clip_id != clip_id:
        raise LabelError("unknown_prediction", f"prediction {prediction_id} is of another clip")


def _require(session: Session, record, key: int, what: str):
    row = session.get(record, key)
    if row is None:
        raise LabelError(f"unknown_{what}", f"there is no {what} {key}")
    return row


def _get_or_add(session: Session, record, others: Mapping | None = None, **key):
    query = select(record).filter_by(**key)
    row = session.scalar(query)
    if row is None:
        try:
            with session.begin_nested():
                row = record(**key, **others or {})
                session.add(row)
        except IntegrityError:  # on a server, another session may have been first
            row = session.scalar(query)
    return row


def _place(session: Session, copy: Path, final: Path) -> Path:
    """Move a staged copy to its place, and note it: it goes again if the transaction fails."""
    if not final.exists():
        session.info.setdefault("placed", []).append(final)
    os.replace(copy, final)
    return final


def _suffix(path: Path) -> str:
    suffix = Path(path).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
