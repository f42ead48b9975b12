"""What a reviewer does: look at the items annotators differ about, read an item's history, say the final word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.choices import TARGETS
from annotations.db.schema import (
    UNDO,
    AdjudicationRecord,
    AnnotatorRecord,
    AssignmentRecord,
    ClipRecord,
    CurrentLabelRecord,
    GoldRecord,
    ItemRecord,
    ItemSummaryRecord,
    LabelRecord,
    PredictionRecord,
    UtteranceRecord,
)
from annotations.item_summary import model_emotion, refresh_summaries
from annotations.label import check_segment, weights
from annotations.review.agreement import project_id_of
from annotations.store import Store, annotator_id, find_annotator
from annotations.text import check_text, composed
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, emotion

MAX_PAGE = 200  # items a page


@dataclass(frozen=True)
class Filters:
    """Which items a reviewer wants to see; what is not set filters nothing."""

    emotion: str | None = None  # somebody chose it
    annotator: str | None = None  # who judged it
    outcome: str | None = None  # somebody said so: "broken" or "cannot_tell"
    undecided: bool = False  # no reviewer has decided
    model_differs: bool = False  # the model named none of the emotions most annotators chose
    commented: bool = False  # somebody left a comment


@dataclass(frozen=True)
class DisputedItem:
    """An item as a line of the list."""

    item_id: int
    name: str  # of the clip
    start_s: float | None  # both None: the whole clip
    end_s: float | None
    target: str
    counts: dict[str, int]  # emotion -> annotators
    entropy: float  # bits
    cannot_tell: bool
    broken: bool
    commented: bool
    model_differs: bool
    decided: bool


@dataclass(frozen=True)
class AnnotatorLabel:
    """One annotator's word on an item."""

    annotator: str
    outcome: str
    emotions: dict[str, float]
    confidence: float | None
    intensity: float | None
    comment: str
    lead_time_s: float | None
    blind: bool | None
    model: str | None  # what the model had answered then
    created_at: datetime


@dataclass(frozen=True)
class Item:
    """An item with what has to be seen to decide it."""

    item_id: int
    clip_id: int
    name: str
    media: Path | None  # None: it was not kept, or is no longer there
    start_s: float | None
    end_s: float | None
    target: str
    transcript: str | None
    labels: tuple[AnnotatorLabel, ...]  # that count now, by annotator
    gold: dict[str, float]  # the known answer; empty when there is none
    final: dict[str, float]  # the reviewer's; empty while undecided


@dataclass(frozen=True)
class Event:
    """Something that happened to an item."""

    at: datetime
    kind: str  # prediction, lease, label, undo, gold, decision
    who: str  # annotator, reviewer, or checkpoint
    target: str | None
    what: str  # emotion or outcome with its weight; how a lease ended
    counts: bool  # still does: neither taken back, nor replaced, nor run out
    comment: str = ""
    detail: dict = field(default_factory=dict)  # label_id, supersedes, and the like


def disagreements(
    store: Store, project: str, target: str = "all", *, filters: Filters = Filters(), offset: int = 0, limit: int = 20
) -> list[DisputedItem]:
    """Return a page of a project's judged items: the highest entropy of the labels first, then the most labels.

    Raises:
        LabelError: `unknown_project, bad_target, bad_filter, unknown_label, unknown_annotator, bad_page`.
    """
    _check_target(target)
    if offset < 0 or not 1 <= limit <= MAX_PAGE:
        raise LabelError(
            "bad_page", f"items {offset} to {offset + limit}; a page starts at 0 or later and has 1 to {MAX_PAGE}"
        )
    summary, current = ItemSummaryRecord, CurrentLabelRecord
    with store.reading() as session:
        query = (
            select(summary, ClipRecord.name, UtteranceRecord.start_s, UtteranceRecord.end_s)
            .join(ItemRecord, ItemRecord.id == summary.item_id)
            .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
            .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
            .where(summary.project_id == project_id_of(session, project), summary.target == target)
            .order_by(summary.entropy.desc(), summary.n_labels.desc(), summary.item_id)
            .offset(offset)
            .limit(limit)
        )
        for on, condition in (
            (filters.undecided, ~summary.decided),
            (filters.model_differs, summary.model_differs),
            (filters.commented, summary.commented),
        ):
            if on:
                query = query.where(condition)
        if filters.outcome:
            if filters.outcome not in ("cannot_tell", "broken"):
                raise LabelError("bad_filter", f"outcome {filters.outcome!r} is neither cannot_tell nor broken")
            query = query.where(getattr(summary, filters.outcome))
        given = select(current.label_id).where(current.item_id == summary.item_id, current.target == target)
        if filters.emotion:
            query = query.where(given.where(current.top == emotion(filters.emotion)).exists())
        if filters.annotator:
            person = find_annotator(session, filters.annotator)
            if person is None:
                raise LabelError("unknown_annotator", f"nobody by the name {filters.annotator!r} has labelled here")
            query = query.where(given.where(current.annotator_id == person, current.outcome != "skip").exists())
        rows = session.execute(query).all()
        tops = select(current.item_id, current.top).where(
            current.item_id.in_([row[0].item_id for row in rows]), current.target == target, current.outcome == "label"
        )
        counts: dict[int, dict[str, int]] = {}
        for item_id, top in session.execute(tops):
            counts.setdefault(item_id, dict.fromkeys(EMOTIONS, 0))[top] += 1
        return [
            DisputedItem(
                found.item_id, name, start_s, end_s, target,
                {e: n for e, n in counts.get(found.item_id, {}).items() if n}, found.entropy, found.cannot_tell,
                found.broken, found.commented, found.model_differs, found.decided,
            )
            for found, name, start_s, end_s in rows
        ]  # fmt: skip


def item(store: Store, item_id: int, target: str = "all") -> Item:
    """Return an item with the labels that count and, where it was kept, its media.

    Raises:
        LabelError: `unknown_item`, `bad_target`.
    """
    _check_target(target)
    with store.reading() as session:
        utterance, clip = _utterance_and_clip(session, item_id)
        query = (
            select(LabelRecord, AnnotatorRecord.name, model_emotion(target))
            .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
            .join(AnnotatorRecord, AnnotatorRecord.id == LabelRecord.annotator_id)
            .join(PredictionRecord, PredictionRecord.id == LabelRecord.prediction_id, isouter=True)
            .where(LabelRecord.item_id == item_id, LabelRecord.target == target)
            .order_by(AnnotatorRecord.name)
        )
        labels = tuple(
            AnnotatorLabel(
                name, label.outcome, label.emotions, label.confidence, label.intensity, label.comment,
                label.lead_time_s, label.blind, model, label.created_at,
            )
            for label, name, model in session.execute(query)
        )  # fmt: skip
        gold = select(GoldRecord.emotions).filter_by(item_id=item_id, target=target).order_by(GoldRecord.id.desc())
        stored = store.media_dir / clip.media if clip.media else None
        return Item(
            item_id, clip.id, clip.name,
            next((p for p in (stored, clip.path and Path(clip.path)) if p and p.is_file()), None),
            utterance.start_s, utterance.end_s, target, utterance.transcript, labels,
            session.scalar(gold.limit(1)) or {}, _final_emotions(session, utterance, target),
        )  # fmt: skip


def adjudicate(
    store: Store,
    clip_id: int,
    start_s: float | None,
    end_s: float | None,
    target: str,
    emotions: str | Mapping[str, float] | None,
    reviewer: str,
    comment: str = "",
) -> int:
    """Return the id of a new row that holds the final label of a stretch of a clip; earlier ones stay and no longer count.

    Args:
        emotions: one emotion, or weights of several; None takes the decision back, so that the annotators' labels count.

    Raises:
        LabelError: `bad_target, bad_segment, unknown_label, bad_weight, bad_text, no_annotator, unknown_clip, not_decided`.
    """
    _check_target(target)
    start_s, end_s = check_segment(start_s, end_s)
    final, comment = weights(emotions) if emotions else {}, check_text(comment, "comment")
    record = AdjudicationRecord(
        clip_id=clip_id, start_s=start_s, end_s=end_s, target=target, emotions=final, comment=comment
    )
    with store.writing() as session:
        if session.get(ClipRecord, clip_id) is None:
            raise LabelError("unknown_clip", f"there is no clip {clip_id}")
        items = list(
            session.scalars(
                select(ItemRecord.id)
                .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
                .where(*_same_segment_as(UtteranceRecord, record))
            )
        )
        record.annotator_id = annotator_id(session, reviewer)
        if not final and not _final_emotions(session, record, target):
            raise LabelError("not_decided", "there is no final label to take back; nobody has decided this yet")
        session.add(record)
        session.flush()
        refresh_summaries(session, target, items)
        # Names no clip, so that a deletion need not find it.
        action = "adjudication.decide" if final else "adjudication.take_back"
        detail = {"adjudication": record.id, "target": target, "emotions": final}
        store.audit(composed(reviewer), action, detail, session)
        return record.id


def final_labels(store: Store) -> dict[tuple[str, float | None, float | None, str], dict[str, float]]:
    """Return what reviewers decided: (sha256, start_s, end_s, target) -> weights that sum to 1."""
    query = (
        select(ClipRecord.sha256, *(getattr(AdjudicationRecord, c) for c in ("start_s", "end_s", "target", "emotions")))
        .join(ClipRecord, ClipRecord.id == AdjudicationRecord.clip_id)
        .order_by(AdjudicationRecord.id)
    )
    with store.reading() as session:
        newest = {tuple(key): emotions for *key, emotions in session.execute(query)}
    return {key: emotions for key, emotions in newest.items() if emotions}


def history(store: Store, item_id: int) -> list[Event]:
    """Return all that happened to an item in the order of time: also what was replaced or taken back.

    Raises:
        LabelError: `unknown_item`.
    """
    with store.reading() as session:
        utterance, clip = _utterance_and_clip(session, item_id)
        names = dict(session.execute(select(AnnotatorRecord.id, AnnotatorRecord.name)).all())
        events = [
            Event(
                p.created_at,
                "prediction",
                p.checkpoint,
                None,
                _emotions_text(p.probs),
                True,
                detail={"prediction_id": p.id},
            )
            for p in session.scalars(select(PredictionRecord).where(*_same_segment_as(PredictionRecord, utterance)))
        ]
        for lease in session.scalars(select(AssignmentRecord).filter_by(item_id=item_id)):
            until = {"expires_at": lease.expires_at, "finished_at": lease.finished_at}
            live = lease.state in ("leased", "done")
            events.append(
                Event(lease.leased_at, "lease", names[lease.annotator_id], None, lease.state, live, detail=until)
            )
        counting = set(session.scalars(select(CurrentLabelRecord.label_id).filter_by(clip_id=clip.id)))
        for label in session.scalars(select(LabelRecord).where(*_same_segment_as(LabelRecord, utterance))):
            undo = label.outcome == UNDO
            events.append(
                Event(
                    label.created_at, "undo" if undo else "label", names[label.annotator_id], label.target,
                    "" if undo else _emotions_text(label.emotions) or label.outcome.replace("_", " "), label.id in counting,
                    label.comment, {"label_id": label.id, "supersedes": label.supersedes},
                )
            )  # fmt: skip
        gold, decided = {}, {}
        for known in session.scalars(select(GoldRecord).filter_by(item_id=item_id).order_by(GoldRecord.id)):
            who = names.get(known.annotator_id, "")
            gold.setdefault(known.target, []).append((known, who, "gold", known.why))
        final = (
            select(AdjudicationRecord)
            .where(*_same_segment_as(AdjudicationRecord, utterance))
            .order_by(AdjudicationRecord.id)
        )
        for decision in session.scalars(final):
            who = names[decision.annotator_id]
            decided.setdefault(decision.target, []).append((decision, who, "decision", decision.comment))
        for rows in (*gold.values(), *decided.values()):
            events += [
                Event(
                    r.created_at,
                    kind,
                    who,
                    r.target,
                    _emotions_text(r.emotions) or "taken back",
                    r is rows[-1][0],
                    comment,
                )
                for r, who, kind, comment in rows
            ]
    order = ("prediction", "lease", "label", "undo", "gold", "decision")
    return sorted(events, key=lambda e: (e.at, order.index(e.kind), e.detail.get("label_id", 0)))


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise LabelError("bad_target", f"target {target!r} is none of {', '.join(TARGETS)}")


def _utterance_and_clip(session: Session, item_id: int) -> tuple[UtteranceRecord, ClipRecord]:
    found = session.execute(
        select(UtteranceRecord, ClipRecord)
        .join(ItemRecord, ItemRecord.utterance_id == UtteranceRecord.id)
        .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
        .where(ItemRecord.id == item_id)
    ).first()
    if found is None:
        raise LabelError("unknown_item", f"there is no item {item_id}; its clip may have been deleted")
    return found


def _same_segment_as(record, place) -> tuple:
    """Conditions under which a record is of the stretch that a loaded row is of."""
    return (
        record.clip_id == place.clip_id,
        record.start_s.is_not_distinct_from(place.start_s),
        record.end_s.is_not_distinct_from(place.end_s),
    )


def _final_emotions(session: Session, place, target: str) -> dict[str, float]:
    """Return the newest decision about a stretch, empty when there is none or it was taken back."""
    newest = (
        select(AdjudicationRecord.emotions).where(*_same_segment_as(AdjudicationRecord, place)).filter_by(target=target)
    )
    return session.scalar(newest.order_by(AdjudicationRecord.id.desc()).limit(1)) or {}


def _emotions_text(emotions: Mapping[str, float]) -> str:
    """Return the emotions with their weights, the heaviest first, at most three."""
    heaviest: Sequence[tuple[str, float]] = sorted(emotions.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(name if weight > 0.995 else f"{name} {weight:.0%}" for name, weight in heaviest if weight >= 0.005)
