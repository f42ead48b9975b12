"""What training runs left on record, and how many labels none of them has used."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from annotations.db.schema import (
    CurrentLabelRecord,
    PredictionRecord,
    TrainingRunRecord,
    training_run_labels,
)
from annotations.store import Store


@dataclass(frozen=True)
class TrainingRun:
    id: int
    started_at: datetime  # UTC
    finished_at: datetime | None  # None: it runs, or was killed and nobody has noticed yet
    parent: str | None  # checkpoint ids
    checkpoint: str | None
    verdict: str | None
    report: Mapping[str, Any]


def recent(store: Store, n: int) -> list[TrainingRun]:
    """Return the last runs, the newest first."""
    with store.reading() as session:
        rows = session.scalars(select(TrainingRunRecord).order_by(TrainingRunRecord.id.desc()).limit(n))
        return [
            TrainingRun(r.id, r.started_at, r.finished_at, r.parent, r.checkpoint, r.verdict, r.report or {})
            for r in rows
        ]


def fresh_labels(store: Store) -> int:
    """Return how many labels count now that no run has used; skips and the like are none."""
    used = select(training_run_labels.c.label_id)
    query = (
        select(func.count())
        .select_from(CurrentLabelRecord)
        .where(CurrentLabelRecord.outcome == "label", CurrentLabelRecord.label_id.not_in(used))
    )
    with store.reading() as session:
        return session.scalar(query) or 0


def outdated_answers(store: Store, checkpoint: str) -> int:
    """Return of how many clips the newest stored answer is another checkpoint's."""
    newest = select(func.max(PredictionRecord.id)).group_by(
        PredictionRecord.clip_id, PredictionRecord.start_s, PredictionRecord.end_s
    )
    query = select(func.count()).where(PredictionRecord.id.in_(newest), PredictionRecord.checkpoint != checkpoint)
    with store.reading() as session:
        return session.scalar(query) or 0
