"""Adjudication: the items annotators disagree about, an item's history, and a reviewer's final label."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, select
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
from annotations.item_summary import model_emotion, refresh_summaries, same_segment
from annotations.label import check_segment, weights
from annotations.review.agreement import project_id_of
from annotations.store import Store, annotator_id, find_annotator
from annotations.text import check_text, composed
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, emotion

MAX_PAGE = 200  # items a page
FINAL_OUTCOMES = ("label", "cannot_tell", "broken")  # of a final word


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
    """One annotator's current label of an item."""

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
    sha256: str
    start_s: float | None
    end_s: float | None
    target: str
    transcript: str | None
    labels: tuple[AnnotatorLabel, ...]  # that count now, by annotator
    gold: dict[str, float]  # the known answer; empty when there is none
    final: dict[str, float]  # the reviewer's; empty while undecided, and where they name no emotion
    final_outcome: str | None  # one of FINAL_OUTCOMES; None while undecided


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
    summary = ItemSummaryRecord
    with store.reading() as session:
        query = (
            select(summary, ClipRecord.name, UtteranceRecord.start_s, UtteranceRecord.end_s)
            .join(ItemRecord, ItemRecord.id == summary.item_id)
            .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
            .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
            .where(summary.project_id == project_id_of(session, project), summary.target == target)
            .where(*_conditions(session, filters, target))
            .order_by(summary.entropy.desc(), summary.n_labels.desc(), summary.item_id)
            .offset(offset)
            .limit(limit)
        )
        rows = session.execute(query).all()
        votes = _votes(session, [row[0].item_id for row in rows], target)
        return [
            DisputedItem(
                item_id=item.item_id,
                name=name,
                start_s=start_s,
                end_s=end_s,
                target=target,
                counts=votes.get(item.item_id, {}),
                entropy=item.entropy,
                cannot_tell=item.cannot_tell,
                broken=item.broken,
                commented=item.commented,
                model_differs=item.model_differs,
                decided=item.decided,
            )
            for item, name, start_s, end_s in rows
        ]


def _conditions(session: Session, filters: Filters, target: str) -> list[ColumnElement[bool]]:
    """Return what a row of the item summaries has to meet."""
    summary, current = ItemSummaryRecord, CurrentLabelRecord
    conditions: list[ColumnElement[bool]] = []
    if filters.undecided:
        conditions.append(~summary.decided)
    if filters.model_differs:
        conditions.append(summary.model_differs.expression)
    if filters.commented:
        conditions.append(summary.commented.expression)
    if filters.outcome:
        if filters.outcome not in ("cannot_tell", "broken"):
            raise LabelError("bad_filter", f"outcome {filters.outcome!r} is neither cannot_tell nor broken")
        conditions.append(getattr(summary, filters.outcome))
    labels = select(current.label_id).where(current.item_id == summary.item_id, current.target == target)
    if filters.emotion:
        conditions.append(labels.where(current.top == emotion(filters.emotion)).exists())
    if filters.annotator:
        person = find_annotator(session, filters.annotator)
        if person is None:
            raise LabelError("unknown_annotator", f"nobody by the name {filters.annotator!r} has labelled here")
        conditions.append(labels.where(current.annotator_id == person, current.outcome != "skip").exists())
    return conditions


def _votes(session: Session, item_ids: Sequence[int], target: str) -> dict[int | None, dict[str, int]]:
    """Return how many annotators chose each emotion, for each item with a label; in the order of `EMOTIONS`."""
    current = CurrentLabelRecord
    query = select(current.item_id, current.top).where(
        current.item_id.in_(item_ids), current.target == target, current.outcome == "label"
    )
    chosen: dict[int | None, Counter] = {}
    for item_id, top in session.execute(query):
        chosen.setdefault(item_id, Counter())[top] += 1
    return {item_id: {e: counts[e] for e in EMOTIONS if counts[e]} for item_id, counts in chosen.items()}


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
                annotator=name,
                outcome=label.outcome,
                emotions=label.emotions,
                confidence=label.confidence,
                intensity=label.intensity,
                comment=label.comment,
                lead_time_s=label.lead_time_s,
                blind=label.blind,
                model=model,
                created_at=label.created_at,
            )
            for label, name, model in session.execute(query)
        )
        final, final_outcome = _final_word(session, utterance, target)
        gold = select(GoldRecord.emotions).filter_by(item_id=item_id, target=target).order_by(GoldRecord.id.desc())
        return Item(
            item_id=item_id,
            clip_id=clip.id,
            name=clip.name,
            media=store.file_of(clip.media, clip.path),
            sha256=clip.sha256,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            target=target,
            transcript=utterance.transcript,
            labels=labels,
            gold=session.scalar(gold.limit(1)) or {},
            final=final,
            final_outcome=final_outcome,
        )


def adjudicate(
    store: Store,
    clip_id: int,
    start_s: float | None,
    end_s: float | None,
    target: str,
    emotions: str | Mapping[str, float] | None,
    reviewer: str,
    comment: str = "",
    *,
    outcome: str = "label",
) -> int:
    """Return the id of a new row with the final label of a clip's segment; earlier ones stay and no longer count.

    Args:
        emotions: one emotion, or weights of several; None takes the decision back: the annotators' labels count again.
        outcome: cannot_tell or broken, without emotions, say that nothing is to be learned from the segment.

    Raises:
        LabelError: `bad_target, bad_segment, unknown_label, bad_weight, bad_outcome, bad_text, no_annotator,
            unknown_clip, not_decided`.
    """
    _check_target(target)
    if outcome not in FINAL_OUTCOMES or (emotions and outcome != "label"):
        raise LabelError(
            "bad_outcome", f"a final word of {outcome!r} with {emotions or 'no emotion'}; only `label` names emotions"
        )
    start_s, end_s = check_segment(start_s, end_s)
    final, comment = weights(emotions) if emotions else {}, check_text(comment, "comment")
    record = AdjudicationRecord(
        clip_id=clip_id, start_s=start_s, end_s=end_s, target=target, outcome=outcome, emotions=final, comment=comment
    )
    with store.writing() as session:
        if session.get(ClipRecord, clip_id) is None:
            raise LabelError("unknown_clip", f"there is no clip {clip_id}")
        items = list(
            session.scalars(
                select(ItemRecord.id)
                .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
                .where(same_segment(UtteranceRecord, record))
            )
        )
        record.annotator_id = annotator_id(session, reviewer)
        decides = bool(final) or outcome != "label"
        if not decides and _final_word(session, record, target)[1] is None:
            raise LabelError("not_decided", "there is no final label to take back; nobody has decided this yet")
        session.add(record)
        session.flush()
        refresh_summaries(session, target, items)
        # Names no clip, so that a deletion need not find it.
        action = "adjudication.decide" if decides else "adjudication.take_back"
        detail = {"adjudication": record.id, "target": target, "emotions": final, "outcome": outcome}
        store.audit(composed(reviewer), action, detail, session)
        return record.id


def final_labels(store: Store) -> dict[tuple[str, float | None, float | None, str], dict[str, float]]:
    """Return what reviewers decided: (sha256, start_s, end_s, target) -> weights that sum to 1.

    Without weights where the final word is that nobody can tell, or that the clip is broken.
    """
    names = ("start_s", "end_s", "target", "emotions", "outcome")
    query = (
        select(ClipRecord.sha256, *(getattr(AdjudicationRecord, name) for name in names))
        .join(ClipRecord, ClipRecord.id == AdjudicationRecord.clip_id)
        .order_by(AdjudicationRecord.id)
    )
    with store.reading() as session:
        newest = {tuple(key): (emotions, outcome) for *key, emotions, outcome in session.execute(query)}
    return {key: emotions for key, (emotions, outcome) in newest.items() if emotions or outcome != "label"}


def history(store: Store, item_id: int) -> list[Event]:
    """Return all that happened to an item in the order of time: also what was replaced or taken back.

    Raises:
        LabelError: `unknown_item`.
    """
    with store.reading() as session:
        utterance, clip = _utterance_and_clip(session, item_id)
        names = {key: name for key, name in session.execute(select(AnnotatorRecord.id, AnnotatorRecord.name))}
        predictions = session.scalars(select(PredictionRecord).where(same_segment(PredictionRecord, utterance)))
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
            for p in predictions
        ]
        for lease in session.scalars(select(AssignmentRecord).filter_by(item_id=item_id)):
            until = {"expires_at": lease.expires_at, "finished_at": lease.finished_at}
            live = lease.state in ("leased", "done")
            who = names[lease.annotator_id]
            events.append(Event(lease.leased_at, "lease", who, None, lease.state, live, detail=until))
        counting = set(session.scalars(select(CurrentLabelRecord.label_id).filter_by(clip_id=clip.id)))
        for label in session.scalars(select(LabelRecord).where(same_segment(LabelRecord, utterance))):
            events.append(_label_event(label, names[label.annotator_id], label.id in counting))
        gold = select(GoldRecord).filter_by(item_id=item_id).order_by(GoldRecord.id)
        events += _decision_events("gold", session.scalars(gold), names)
        final = select(AdjudicationRecord).where(same_segment(AdjudicationRecord, utterance))
        events += _decision_events("decision", session.scalars(final.order_by(AdjudicationRecord.id)), names)
    order = ("prediction", "lease", "label", "undo", "gold", "decision")
    return sorted(events, key=lambda e: (e.at, order.index(e.kind), e.detail.get("label_id", 0)))


def _label_event(label: LabelRecord, annotator: str, counts: bool) -> Event:
    kind, what = "label", _emotions_text(label.emotions) or label.outcome.replace("_", " ")
    if label.outcome == UNDO:
        kind, what = "undo", ""
    detail = {"label_id": label.id, "supersedes": label.supersedes}
    return Event(label.created_at, kind, annotator, label.target, what, counts, label.comment, detail)


def _decision_events(
    kind: str, records: Iterable[GoldRecord | AdjudicationRecord], names: Mapping[int, str]
) -> list[Event]:
    """Return the events of gold answers or final labels, given by ascending id; of a target the last counts."""
    rows = list(records)
    newest = {row.target: row.id for row in rows}
    return [
        Event(
            at=row.created_at,
            kind=kind,
            who=names[row.annotator_id] if row.annotator_id else "",
            target=row.target,
            what=_decision_text(row),
            counts=row.id == newest[row.target],
            comment=row.why if isinstance(row, GoldRecord) else row.comment,
        )
        for row in rows
    ]


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise LabelError("bad_target", f"target {target!r} is none of {', '.join(TARGETS)}")


def _utterance_and_clip(session: Session, item_id: int) -> tuple[UtteranceRecord, ClipRecord]:
    row = session.execute(
        select(UtteranceRecord, ClipRecord)
        .join(ItemRecord, ItemRecord.utterance_id == UtteranceRecord.id)
        .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
        .where(ItemRecord.id == item_id)
    ).first()
    if row is None:
        raise LabelError("unknown_item", f"there is no item {item_id}; its clip may have been deleted")
    utterance, clip = row
    return utterance, clip


def _final_word(session: Session, place, target: str) -> tuple[dict[str, float], str | None]:
    """Return the newest decision about a segment, its emotions and its outcome; ({}, None) while there is none."""
    newest = (
        select(AdjudicationRecord.emotions, AdjudicationRecord.outcome)
        .where(same_segment(AdjudicationRecord, place))
        .filter_by(target=target)
        .order_by(AdjudicationRecord.id.desc())
    )
    row = session.execute(newest.limit(1)).first()
    if row is None or (row.outcome == "label" and not row.emotions):
        return {}, None
    return row.emotions, row.outcome


def _decision_text(row: GoldRecord | AdjudicationRecord) -> str:
    if isinstance(row, AdjudicationRecord) and row.outcome != "label":
        return row.outcome.replace("_", " ")
    return _emotions_text(row.emotions) or "taken back"


def _emotions_text(emotions: Mapping[str, float]) -> str:
    """Return the emotions with their weights, the heaviest first, at most three."""
    heaviest: Sequence[tuple[str, float]] = sorted(emotions.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(
        name if weight > 0.995 else f"{name} {100 * weight:.0f} %" for name, weight in heaviest if weight >= 0.005
    )
