"""Tables of the labelling sessions.

A label row never changes: a correction or an undo is a new row that names the one it `supersedes`. A trigger holds
SQLite and PostgreSQL to that. Which rows count now is kept beside them in `current_labels`, written in the same
transaction. Ids are only for joins inside one database; outside it a clip is its content hash.
"""

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    DDL,
    JSON,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    String,
    Table,
    TextClause,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from annotations.choices import GOLD_SHARE, LEASE_S, ORDERS, OUTCOMES, PER_ITEM, TARGETS

VERSION = "0005"  # the newest of migrations/versions
OLDER = ("0001", "0002", "0003", "0004")  # those that `python -m annotations upgrade` brings up to it
UNDO = "undo"  # the outcome of a row that only takes another one back
CLOSED = -1_000_000  # free slots of an item that nobody can be shown any more: no slot given back opens it
LEASED, DONE, RELEASED, EXPIRED = "leased", "done", "released", "expired"  # the life of an assignment


def now() -> datetime:
    return datetime.now(timezone.utc)


def _index_where(name: str, condition: str, *columns: str | TextClause, unique: bool = False) -> Index:
    """Return an index of only the rows that meet a condition."""
    where = text(condition)
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


class UtcTime(TypeDecorator):
    """An aware time in Python, UTC without a zone in the database: SQLite drops the zone silently."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value, dialect):
        return None if value is None else value.replace(tzinfo=timezone.utc)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict] = {datetime: UtcTime, dict: JSON}
    # Without it SQLite gives a deleted row's id to the next one, and an open page would undo another label.
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012
    if TYPE_CHECKING:
        __table__: ClassVar[Table]


class ClipRecord(Base):
    __tablename__ = "clips"
    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str]
    path: Mapped[str | None]  # where the owner's file lies, when it was registered in place
    media: Mapped[str | None]  # file name in the media folder: only with consent
    source: Mapped[str]  # "upload", "import", ...
    speaker: Mapped[str | None] = mapped_column(index=True)  # group that never crosses a split
    duration_s: Mapped[float | None]
    features: Mapped[str | None]  # file name in the features folder: kept without face and voice
    keep_until: Mapped[datetime | None] = mapped_column(index=True)  # the retention period ends: media and features go
    side: Mapped[str | None]  # one of SIDES, for good; None only until the row is complete
    created_at: Mapped[datetime] = mapped_column(default=now)


class UtteranceRecord(Base):
    """A stretch of a clip that is judged on its own; the whole clip when it has no bounds."""

    __tablename__ = "utterances"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"))
    start_s: Mapped[float | None]
    end_s: Mapped[float | None]
    transcript: Mapped[str | None]
    embedding: Mapped[bytes | None]  # float32 values of the model's branch states, for diversity
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        Index("ux_utterances", "clip_id", text("coalesce(start_s, -1)"), text("coalesce(end_s, -1)"), unique=True),
        Base.__table_args__,
    )


class ConsentRecord(Base):
    __tablename__ = "consents"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"), index=True)
    text_version: Mapped[str] = mapped_column(String(12))  # start of the text's own hash
    text: Mapped[str]
    # media, features (without face and voice) or words
    scope: Mapped[str] = mapped_column(default="media", server_default="media")
    given_at: Mapped[datetime] = mapped_column(default=now)


class ReceiptRecord(Base):
    """A code that was given out when something of a clip was stored: whoever has it may have the clip deleted."""

    __tablename__ = "receipts"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"), index=True)
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)  # the code itself is stored nowhere
    given_at: Mapped[datetime] = mapped_column(default=now)


class PredictionRecord(Base):
    __tablename__ = "predictions"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"), index=True)
    start_s: Mapped[float | None]
    end_s: Mapped[float | None]
    checkpoint: Mapped[str]
    emotion: Mapped[str]
    probs: Mapped[dict]  # {emotion: p}, all present modalities together
    per_modality: Mapped[dict]  # {modality: {probs, emotion} | None}
    present: Mapped[dict]  # {modality: bool}
    created_at: Mapped[datetime] = mapped_column(default=now)


class AnnotatorRecord(Base):
    __tablename__ = "annotators"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime | None] = mapped_column(default=now)  # None: from before this was noted


class ProjectRecord(Base):
    """What is to be labelled and how."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    guidelines: Mapped[str] = mapped_column(default="")  # Markdown
    label_set: Mapped[list] = mapped_column(JSON)  # emotions to choose from
    targets: Mapped[list] = mapped_column(JSON)  # of TARGETS: what is asked about each item
    per_item: Mapped[int] = mapped_column(default=PER_ITEM)  # annotators who judge each item
    gold_share: Mapped[float] = mapped_column(default=GOLD_SHARE)  # of an annotator's items
    order: Mapped[str] = mapped_column(default=ORDERS[0])  # one of ORDERS
    blind: Mapped[bool] = mapped_column(default=True)  # the model's answer is shown only after the choice
    lease_s: Mapped[int] = mapped_column(default=LEASE_S)
    ranked_to: Mapped[int] = mapped_column(default=0)  # the newest prediction that the priorities know of
    revision: Mapped[int] = mapped_column(default=0)  # goes up when the order of the items changes
    created_at: Mapped[datetime] = mapped_column(default=now)


class ItemRecord(Base):
    """An utterance in a project's queue."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    utterance_id: Mapped[int] = mapped_column(ForeignKey("utterances.id", ondelete="CASCADE"), index=True)
    priority: Mapped[float] = mapped_column(default=0.0)  # the highest comes first
    open_slots: Mapped[int] = mapped_column(default=PER_ITEM)  # annotators still wanted, live leases taken off
    gold: Mapped[bool] = mapped_column(default=False)  # it has a known answer, and no limit to its annotators
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        UniqueConstraint("project_id", "utterance_id"),
        _index_where("ix_items_open", "open_slots > 0 AND NOT gold", "project_id", text("priority DESC"), "id"),
        _index_where("ix_items_gold", "gold", "project_id"),
        Base.__table_args__,
    )


class GoldRecord(Base):
    """A known answer, appended; the newest for an item and target counts."""

    __tablename__ = "gold"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), index=True)
    target: Mapped[str] = mapped_column(default="all")
    emotions: Mapped[dict]  # {emotion: weight}; an answer whose heaviest emotion is one of them is right
    why: Mapped[str] = mapped_column(default="")  # shown to the annotator afterwards
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotators.id"))  # who said so
    created_at: Mapped[datetime] = mapped_column(default=now)


class AssignmentRecord(Base):
    """An item lent to an annotator."""

    __tablename__ = "assignments"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    state: Mapped[str] = mapped_column(default=LEASED)  # leased, then done, released or expired
    gold: Mapped[bool] = mapped_column(default=False)
    leased_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        # Nobody holds or judges an item twice.
        _index_where("ux_assignments", "state IN ('leased', 'done')", "item_id", "annotator_id", unique=True),
        _index_where("ix_assignments_live", "state = 'leased'", "project_id", "expires_at"),
        Index("ix_assignments_person", "annotator_id", "project_id", "state", "finished_at"),  # the last comes last
        _index_where("ix_assignments_gold", "gold", "annotator_id", "project_id"),
        CheckConstraint(f"state IN {(LEASED, DONE, RELEASED, EXPIRED)}"),
        Base.__table_args__,
    )


class LabelRecord(Base):
    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    prediction_id: Mapped[int | None] = mapped_column(ForeignKey("predictions.id", ondelete="SET NULL"), index=True)
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("labels.id"), index=True)
    start_s: Mapped[float | None]  # both None: the whole clip
    end_s: Mapped[float | None]
    target: Mapped[str]  # one of TARGETS: what the annotator judged
    outcome: Mapped[str]  # one of OUTCOMES, or UNDO
    emotions: Mapped[dict]  # {emotion: weight}, weights sum to 1; empty unless the outcome is "label"
    top: Mapped[str | None]  # the heaviest of the emotions; None unless the outcome is "label"
    confidence: Mapped[float | None]  # 0 to 1
    intensity: Mapped[float | None]  # 0 to 1
    valence: Mapped[float | None]  # -1 to 1
    arousal: Mapped[float | None]  # -1 to 1
    comment: Mapped[str]
    transcript: Mapped[str | None]  # the words as the annotator corrected them
    item_id: Mapped[int | None] = mapped_column(ForeignKey("items.id", ondelete="SET NULL"), index=True)
    assignment_id: Mapped[int | None] = mapped_column(ForeignKey("assignments.id", ondelete="SET NULL"), index=True)
    lead_time_s: Mapped[float | None]  # from the item's first sight to the answer
    blind: Mapped[bool | None]  # whether the model's answer was hidden until the choice; None when nobody knows
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        Index("ix_labels_key", "clip_id", "annotator_id", "target"),
        CheckConstraint(f"target IN {TARGETS}"),
        CheckConstraint(f"outcome IN {(*OUTCOMES, UNDO)}"),
        Base.__table_args__,
    )


class CurrentLabelRecord(Base):
    """The label rows that count now: each annotator's newest for a segment and target that was not taken back."""

    __tablename__ = "current_labels"
    label_id: Mapped[int] = mapped_column(ForeignKey("labels.id", ondelete="CASCADE"), primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    item_id: Mapped[int | None] = mapped_column(ForeignKey("items.id", ondelete="SET NULL"))
    target: Mapped[str]
    top: Mapped[str | None]
    outcome: Mapped[str]
    __table_args__ = (
        Index("ix_current_labels_clip", "clip_id", "annotator_id"),
        Index("ix_current_labels_item", "item_id", "target"),
    )


class ItemSummaryRecord(Base):
    """Statistics of an item's current labels for one target; kept, so that a page out of a million is read by an index.

    The table keeps the name it was first given.
    """

    __tablename__ = "standings"
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    n_labels: Mapped[int]  # that name an emotion
    entropy: Mapped[float]  # bits, of how the annotators' emotions are spread: 0 when they agree
    cannot_tell: Mapped[bool]  # somebody could not
    broken: Mapped[bool]  # somebody found the clip broken
    commented: Mapped[bool]
    model_differs: Mapped[bool]  # the model's answer is none of the emotions most annotators chose
    decided: Mapped[bool]  # by a reviewer
    __table_args__ = (
        Index("ix_standings", "project_id", "target", text("entropy DESC"), text("n_labels DESC"), "item_id"),
        {"sqlite_autoincrement": False},  # its key is of two columns
    )


class AdjudicationRecord(Base):
    """A reviewer's final word on an item, appended; the newest for an item and target counts."""

    __tablename__ = "adjudications"
    id: Mapped[int] = mapped_column(primary_key=True)
    clip_id: Mapped[int] = mapped_column(ForeignKey("clips.id", ondelete="CASCADE"), index=True)
    start_s: Mapped[float | None]
    end_s: Mapped[float | None]
    target: Mapped[str]
    # label, cannot_tell or broken: that nothing can be learned from it is a final word too
    outcome: Mapped[str] = mapped_column(default="label", server_default="label")
    emotions: Mapped[dict]  # {} with the outcome "label" takes an earlier decision back
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))  # the reviewer
    comment: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=now)


class AuditRecord(Base):
    """Who did what: roles, projects, adjudications, imports, exports, deletions. Names no clip that was deleted."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str]
    action: Mapped[str]  # "project.create", "speaker.delete", ...
    detail: Mapped[dict]


class RemovalRecord(Base):
    """A deletion that the next training run has to list: only how much went, never whose."""

    __tablename__ = "removals"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    n_clips: Mapped[int]
    n_labels: Mapped[int]
    labels_kept: Mapped[bool]  # anonymous, or dropped
    run_id: Mapped[int | None] = mapped_column(ForeignKey("training_runs.id", ondelete="SET NULL"))  # that listed it


training_run_labels = Table(
    "training_run_labels",
    Base.metadata,
    Column("run_id", ForeignKey("training_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("labels.id", ondelete="CASCADE"), primary_key=True, index=True),
)


class TrainingRunRecord(Base):
    __tablename__ = "training_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    parent: Mapped[str | None]  # checkpoint ids
    checkpoint: Mapped[str | None]
    verdict: Mapped[str | None]
    aggregation: Mapped[str | None]  # how several annotators became one target
    report: Mapped[dict | None]


# Everything but the links to what may be deleted while the label stays; words about a person can be erased, not
# changed.
_FREE = {"prediction_id", "item_id", "assignment_id", "comment", "transcript"}
_FIXED = ", ".join(column.name for column in LabelRecord.__table__.columns if column.name not in _FREE)
_ERASED = "UPDATE OF comment, transcript ON labels {each}WHEN (NEW.comment <> '' OR NEW.transcript IS NOT NULL)"
_TRIGGERS = (
    f"CREATE TRIGGER labels_append_only BEFORE UPDATE OF {_FIXED} ON labels {{each}}",
    f"CREATE TRIGGER labels_words_only_erased BEFORE {_ERASED} ",
)
_REFUSE = {
    "sqlite": ("", "BEGIN SELECT RAISE(ABORT, 'labels are appended, never edited'); END"),
    "postgresql": ("FOR EACH ROW ", "EXECUTE FUNCTION refuse_label_update()"),
}
_FUNCTION = (
    "CREATE OR REPLACE FUNCTION refuse_label_update() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RAISE EXCEPTION $$labels are appended, never edited$$ USING ERRCODE = $$23000$$; END'"
)
event.listen(LabelRecord.__table__, "after_create", DDL(_FUNCTION).execute_if(dialect="postgresql"))
for _dialect, (_each, _action) in _REFUSE.items():
    for _trigger in _TRIGGERS:
        _statement = _trigger.format(each=_each) + _action
        event.listen(LabelRecord.__table__, "after_create", DDL(_statement).execute_if(dialect=_dialect))
