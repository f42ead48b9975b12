"""Per-item label statistics: votes, their entropy and flags, kept in a table of their own for the reviewer's list."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from sqlalchemy import and_, delete, insert, select
from sqlalchemy.orm import Session

from annotations.choices import TARGETS
from annotations.db.schema import (
    AdjudicationRecord,
    CurrentLabelRecord,
    ItemRecord,
    ItemSummaryRecord,
    LabelRecord,
    PredictionRecord,
    UtteranceRecord,
)

_PART = 5000  # rows a statement


def entropy(counts: Iterable[float]) -> float:
    """Return how spread out counts are, in bits: 0 when all fall on one, 1 when two share them evenly."""
    counts = [c for c in counts if c > 0]
    total = sum(counts)
    return sum(c / total * math.log2(total / c) for c in counts)


def refresh_summaries(session: Session, target: str | None = None, item_ids: Sequence[int] | None = None) -> None:
    """Recompute the label statistics of items, in the transaction that changed their labels.

    Args:
        target: None for all of them.
        item_ids: None for all items, as after labels were loaded past the store.
    """
    if item_ids is not None:
        # Whoever labels the same item meanwhile waits here on a server, then counts this label too.
        locked = select(ItemRecord.id).where(ItemRecord.id.in_(item_ids)).order_by(ItemRecord.id)
        session.execute(locked.with_for_update(key_share=True)).all()
    for one in (target,) if target else TARGETS:
        stale = delete(ItemSummaryRecord).where(ItemSummaryRecord.target == one)
        if item_ids is not None:
            stale = stale.where(ItemSummaryRecord.item_id.in_(item_ids))
        session.execute(stale)
        part = []
        for summary in _summaries(session, one, item_ids):
            part.append(summary)
            if len(part) == _PART:
                session.execute(insert(ItemSummaryRecord), part)
                part = []
        if part:
            session.execute(insert(ItemSummaryRecord), part)


def model_emotion(target: str):
    """Return the column of a prediction that answers the same question as a label of the target."""
    if target == "all":
        return PredictionRecord.emotion
    return PredictionRecord.per_modality[(target, "emotion")].as_string()


def _summaries(session: Session, target: str, item_ids: Sequence[int] | None) -> Iterator[dict]:
    """Yield a row for each item with a label, a "cannot tell" or a "broken" of the target."""
    current = CurrentLabelRecord
    query = (
        select(current.item_id, ItemRecord.project_id, current.top, current.outcome, LabelRecord.prediction_id)
        .add_columns((LabelRecord.comment != "").label("commented"), model_emotion(target).label("model_emotion"))
        .join(LabelRecord, LabelRecord.id == current.label_id)
        .join(ItemRecord, ItemRecord.id == current.item_id)
        .join(PredictionRecord, PredictionRecord.id == LabelRecord.prediction_id, isouter=True)
        .where(current.target == target, current.outcome != "skip")
        .order_by(current.item_id)
    )
    final = (
        select(ItemRecord.id, AdjudicationRecord.emotions, AdjudicationRecord.outcome)
        .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
        .join(AdjudicationRecord, same_segment(AdjudicationRecord, UtteranceRecord))
        .where(AdjudicationRecord.target == target)
        .order_by(AdjudicationRecord.id)
    )
    if item_ids is not None:
        query, final = query.where(current.item_id.in_(item_ids)), final.where(ItemRecord.id.in_(item_ids))
    decided = {item_id: bool(emotions) or outcome != "label" for item_id, emotions, outcome in session.execute(final)}
    if item_ids is None:
        query = query.execution_options(yield_per=_PART)
    for item_id, group in groupby(session.execute(query), key=lambda row: row.item_id):
        labels = list(group)
        votes = Counter(label.top for label in labels if label.outcome == "label")
        most = {e for e, n in votes.items() if n == max(votes.values())}
        answers = [(label.prediction_id, label.model_emotion) for label in labels if label.model_emotion is not None]
        yield {
            "item_id": item_id,
            "target": target,
            "project_id": labels[0].project_id,
            "n_labels": votes.total(),
            "entropy": entropy(votes.values()),
            "cannot_tell": any(label.outcome == "cannot_tell" for label in labels),
            "broken": any(label.outcome == "broken" for label in labels),
            "commented": any(label.commented for label in labels),
            "model_differs": bool(most and answers) and max(answers)[1] not in most,
            "decided": decided.get(item_id, False),
        }


def same_segment(left, right):
    """Return the condition that two records are of the same segment of the same clip.

    Args:
        left: a class of records with `clip_id, start_s, end_s`.
        right: such a class too, or a loaded row.
    """
    return and_(
        left.clip_id == right.clip_id,
        left.start_s.is_not_distinct_from(right.start_s),
        left.end_s.is_not_distinct_from(right.end_s),
    )
