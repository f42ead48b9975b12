"""What earlier runs learned from, and which clips they were measured on."""

from collections import Counter
from collections.abc import Collection

from sqlalchemy import select

from annotations.choices import TRAIN
from annotations.db.schema import ClipRecord, LabelRecord, TrainingRunRecord, training_run_labels
from annotations.store import Store

JUDGED = "judged_clips"  # of a run's report: what its model was measured on


def learned_from(store: Store, checkpoint: str) -> set[str]:
    """Return the hashes of the clips that a checkpoint and those before it learned from, as far as on record."""
    clips = (
        select(ClipRecord.sha256)
        .join(LabelRecord, LabelRecord.clip_id == ClipRecord.id)
        .join(training_run_labels, training_run_labels.c.label_id == LabelRecord.id)
        .where(ClipRecord.side == TRAIN)
    )
    found: set[str] = set()
    seen: set[str] = set()
    name: str | None = checkpoint
    with store.reading() as session:
        while name and name not in seen:
            seen.add(name)
            run = session.scalar(select(TrainingRunRecord).where(TrainingRunRecord.checkpoint == name).limit(1))
            if run is None:
                break
            found.update(session.scalars(clips.where(training_run_labels.c.run_id == run.id)))
            name = run.parent
    return found


def looks(store: Store, clips: Collection[str]) -> float:
    """Return how many earlier runs were measured on these clips, the mean over them."""
    if not clips:
        return 0.0
    times: Counter[str] = Counter()
    with store.reading() as session:
        for report in session.scalars(select(TrainingRunRecord.report).where(TrainingRunRecord.report.is_not(None))):
            times.update(set((report or {}).get(JUDGED, ())))
    return sum(times[clip] for clip in clips) / len(clips)
