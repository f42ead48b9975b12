"""An annotator's own labels: listed, changed by a newer row, and deleted with what was typed beside them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from annotations.db.schema import AnnotatorRecord, ClipRecord, CurrentLabelRecord, LabelRecord
from annotations.item_summary import same_segment
from annotations.store import Store, find_annotator
from mmer.errors import LabelError


@dataclass(frozen=True)
class OwnLabel:
    """A label that counts, as its annotator sees it."""

    id: int
    clip_id: int
    clip: str  # its name
    sha256: str
    start_s: float | None  # both None: the whole clip
    end_s: float | None
    target: str
    outcome: str
    emotions: dict[str, float]
    confidence: float | None
    comment: str
    created_at: datetime
    media: bool  # the recording is kept
    features: bool  # the model's numbers are kept


def own_labels(store: Store, *, annotator: str | None = None, ids: Collection[int] = ()) -> list[OwnLabel]:
    """Return labels that count and were not asked for by a project, the newest first.

    Args:
        annotator: all under this name; None for no name.
        ids: these rows, whoever gave them.
    """
    with store.reading() as session:
        person = find_annotator(session, annotator) if annotator else None
        mine = [LabelRecord.id.in_(list(ids)), *([LabelRecord.annotator_id == person] if person is not None else [])]
        query = (
            select(LabelRecord, ClipRecord)
            .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
            .join(ClipRecord, ClipRecord.id == LabelRecord.clip_id)
            .where(or_(*mine), LabelRecord.item_id.is_(None))
            .order_by(LabelRecord.id.desc())
        )
        return [_own(label, clip) for label, clip in session.execute(query)]


def change(
    store: Store, label_id: int, emotion: str | None, outcome: str, confidence: float | None, comment: str
) -> int:
    """Return the id of a new row that replaces a label; a confidence of None, and all it does not name, stay.

    Raises:
        LabelError: `unknown_label_id`, `not_current`, and those of `Store.add_label`.
    """
    with store.writing() as session:
        label, annotator = _current(session, label_id)
        confidence = label.confidence if confidence is None else confidence
        return store.add_label(
            label.clip_id,
            annotator,
            emotion,
            outcome=outcome,
            confidence=confidence,
            comment=comment,
            prediction_id=label.prediction_id,
            start_s=label.start_s,
            end_s=label.end_s,
            target=label.target,
            intensity=label.intensity,
            valence=label.valence,
            arousal=label.arousal,
            transcript=label.transcript,
            blind=label.blind,
            session=session,
        )


def delete(store: Store, label_id: int) -> bool:
    """Take a label back with all it replaced, and erase what was typed beside it; return whether the clip went too.

    An uploaded clip goes, with everything of it, where nobody else has judged it.

    Raises:
        LabelError: `unknown_label_id`, `not_current`.
    """
    with store.writing() as session:
        label, annotator = _current(session, label_id)
        alone = _is_judged_only_by(label.annotator_id)
        sha256 = session.scalar(select(ClipRecord.sha256).where(ClipRecord.id == label.clip_id, alone))
        if sha256 is None:
            _take_back(store, session, label, annotator)
            return False
    try:
        store.delete_clip(sha256, actor=annotator, only_if=alone)
    except LabelError as error:
        if error.code != "unknown_clip":
            raise
        return delete(store, label_id)  # somebody else judged the clip between the two transactions, or deleted it
    return True


def _is_judged_only_by(annotator_id: int) -> ColumnElement[bool]:
    """Return the condition that a clip is an upload which nobody but this annotator judged, and that for no project."""
    others = (LabelRecord.annotator_id != annotator_id) | LabelRecord.item_id.is_not(None)
    judged = select(LabelRecord.id).where(LabelRecord.clip_id == ClipRecord.id, others)
    return and_(ClipRecord.source == "upload", ClipRecord.path.is_(None), ~judged.exists())


def _take_back(store: Store, session: Session, label: LabelRecord, annotator: str) -> None:
    """Undo an annotator's rows about the same segment and target until none counts; their words go."""
    own = (
        same_segment(LabelRecord, label)
        & (LabelRecord.annotator_id == label.annotator_id)
        & (LabelRecord.target == label.target)
        & LabelRecord.item_id.is_(None)
    )
    counting = select(CurrentLabelRecord.label_id).join(LabelRecord, LabelRecord.id == CurrentLabelRecord.label_id)
    while (left := session.scalar(counting.where(own).limit(1))) is not None:
        store.undo(left, annotator, session=session)
    session.execute(update(LabelRecord).where(own).values(comment="", transcript=None))


def _current(session: Session, label_id: int) -> tuple[LabelRecord, str]:
    """Return a label that counts and its annotator's name."""
    query = (
        select(LabelRecord, AnnotatorRecord.name)
        .join(AnnotatorRecord, AnnotatorRecord.id == LabelRecord.annotator_id)
        .where(LabelRecord.id == label_id)
    )
    row = session.execute(query).first()
    if row is None:
        raise LabelError("unknown_label_id", f"there is no label {label_id}; it was deleted")
    if session.get(CurrentLabelRecord, label_id) is None:
        raise LabelError("not_current", f"label {label_id} was changed or taken back meanwhile; look at the list again")
    return row[0], row[1]


def _own(label: LabelRecord, clip: ClipRecord) -> OwnLabel:
    same = ("id", "clip_id", "start_s", "end_s", "target", "outcome", "emotions", "confidence", "comment", "created_at")
    return OwnLabel(
        **{name: getattr(label, name) for name in same},
        clip=clip.name,
        sha256=clip.sha256,
        media=clip.media is not None,
        features=clip.features is not None,
    )
