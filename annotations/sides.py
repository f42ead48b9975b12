"""What a clip is for in retraining: decided when it is first seen, and never again.

A nickname typed later, another label, another run: none of them moves a clip from what is learned from to what is
measured on, or back.
"""

import hashlib

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from annotations.choices import HELD_OUT, STRANGER, TRAIN
from annotations.db.schema import ClipRecord

SHARE = 0.2  # of the clips that only measure
EVERY = 6  # of the speakers whose clips all only measure; with fewer, speakers are left out in turn (cross-fitting)


def side_of(session: Session, clip: ClipRecord, words: str | None = None) -> str:
    """Return the side of a clip that has none yet: that of its speaker and its near-duplicates, else by its hash.

    Args:
        words: what is said in it: clips of one speaker with the same words are on one side.
    """
    if clip.speaker and _is_stranger(session, clip):
        return STRANGER
    said = " ".join((words or "").lower().split())
    name = f"{clip.speaker} says {said}" if clip.speaker and said else clip.sha256
    digest = hashlib.sha256(f"held out {name}".encode()).hexdigest()
    return HELD_OUT if int(digest[:12], 16) < SHARE * 16**12 else TRAIN


def _is_stranger(session: Session, clip: ClipRecord) -> bool:
    """Whether everything of the clip's speaker only measures: as it was decided, for a new speaker every sixth time."""
    with session.no_autoflush:
        others = select(ClipRecord.side).where(ClipRecord.speaker == clip.speaker, ClipRecord.id != clip.id)
        known = set(session.scalars(others.where(ClipRecord.side.is_not(None)).distinct()))
        if known:
            return STRANGER in known
        n_speakers = session.scalar(select(func.count(ClipRecord.speaker.distinct())).where(ClipRecord.id != clip.id))
    return (n_speakers or 0) % EVERY == EVERY - 1
