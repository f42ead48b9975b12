"""An annotator's progress in a project, and their accuracy on gold items."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Select, and_, bindparam, func, select
from sqlalchemy.orm import Session

from annotations.db.schema import (
    AnnotatorRecord,
    AssignmentRecord,
    CurrentLabelRecord,
    GoldRecord,
    ItemRecord,
    LabelRecord,
)
from annotations.queue.leases import IS_DONE, IS_GOLD, IS_LEASED, IS_LEASED_OR_DONE, IS_OPEN, LEASED_AS_GOLD, is_new_to

_COUNTED = 2000  # open items up to which they are counted each time
_RECOUNT_S = 300


@dataclass(frozen=True)
class GoldVerdict:
    """How an answer compares with the known one: of the first target that was wrong, else of the first."""

    right: bool
    emotions: dict[str, float]
    why: str
    target: str


@dataclass(frozen=True)
class Progress:
    done: int  # items answered, skipped ones too
    remaining: int  # items that this annotator holds or can still get, gold items not counted
    gold_right: int
    gold_seen: int  # gold items answered, skipped ones not


# Built once: putting a statement together takes longer than running it.
_OWN = (AssignmentRecord.annotator_id == bindparam("person")) & (AssignmentRecord.project_id == bindparam("project"))
_N_OWN = select(func.count()).select_from(AssignmentRecord)
_N_DONE = _N_OWN.where(_OWN, IS_DONE)
_N_LEASED = _N_OWN.where(_OWN, IS_LEASED, ~AssignmentRecord.gold)
_GOLD_ITEMS = select(ItemRecord.id).where(ItemRecord.project_id == bindparam("project"), IS_GOLD)
# From the few gold items to the annotator's lease on each: from the annotator, all their items would be read.
_GOLD = and_(
    AssignmentRecord.item_id.in_(_GOLD_ITEMS),
    AssignmentRecord.annotator_id == bindparam("person"),
    IS_LEASED_OR_DONE,
    LEASED_AS_GOLD,
)
_GOLD_ANSWERS = (
    select(GoldRecord.item_id, GoldRecord.target, GoldRecord.emotions, GoldRecord.why)
    .join(AssignmentRecord, AssignmentRecord.item_id == GoldRecord.item_id)
    .where(_GOLD)
    .order_by(GoldRecord.id)
)
_GOLD_LABELS = (
    select(AssignmentRecord.item_id, CurrentLabelRecord.target, CurrentLabelRecord.top)
    .join(LabelRecord, LabelRecord.assignment_id == AssignmentRecord.id)
    .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
    .where(_GOLD, CurrentLabelRecord.outcome != "skip")
)
_ITEMS = select(ItemRecord.id).where(ItemRecord.project_id == bindparam("project"), IS_OPEN)
_N_OPEN = select(func.count()).select_from(_ITEMS.subquery())
_N_OPEN_FEW = select(func.count()).select_from(_ITEMS.limit(_COUNTED + 1).subquery())
_N_NEW = select(func.count()).select_from(_ITEMS.where(is_new_to(bindparam("person"))).subquery())
_N_OPEN_ASSIGNED = _N_OWN.join(ItemRecord, ItemRecord.id == AssignmentRecord.item_id).where(
    _OWN, IS_LEASED_OR_DONE, IS_OPEN
)


class ProgressCounter:
    """Counts for the annotators of a project."""

    def __init__(self, project_id: int):
        self._project_id = project_id
        self._open: dict[int, tuple[float, int, int]] = {}  # by annotator: counted when, new to them, touched by them

    def progress(self, session: Session, person: int | None) -> Progress:
        """Return how far an annotator is; None for somebody who has judged nothing anywhere."""
        key = {"person": person, "project": self._project_id}
        done, held = _count(session, _N_DONE, key), _count(session, _N_LEASED, key)
        right, seen = self.gold(session, person)
        return Progress(done, held + self._new(session, key, done + held), right, seen)

    def gold(self, session: Session, person: int | None) -> tuple[int, int]:
        """Return how many gold items an annotator answered right, and how many they answered."""
        key = {"person": person, "project": self._project_id}
        known: dict[int, dict] = {}
        for gold in session.execute(_GOLD_ANSWERS, key):
            known.setdefault(gold.item_id, {})[gold.target] = gold
        chosen: dict[int, dict] = {}
        for item_id, target, top in session.execute(_GOLD_LABELS, key) if known else ():
            chosen.setdefault(item_id, {})[target] = top
        verdicts = [one for item_id, tops in chosen.items() if (one := verdict(known[item_id], tops))]
        return sum(one.right for one in verdicts), len(verdicts)

    def _new(self, session: Session, key: dict, touched: int) -> int:
        """Return how many open items an annotator has not touched.

        Counting 500,000 takes 150 ms, so in a large project it is done every five minutes and counted down between.
        """
        if _count(session, _N_OPEN_FEW, key) <= _COUNTED:
            return _count(session, _N_NEW, key)
        counted_at, new, before = self._open.get(key["person"], (float("-inf"), 0, 0))
        if time.monotonic() - counted_at > _RECOUNT_S:
            new, before = _count(session, _N_OPEN, key) - _count(session, _N_OPEN_ASSIGNED, key), touched
            self._open[key["person"]] = time.monotonic(), new, before
        return max(0, new - (touched - before))


def _count(session: Session, query: Select, key: Mapping) -> int:
    return session.execute(query, key).scalar_one()


def verdict(known: Mapping, tops: Mapping[str, str | None]) -> GoldVerdict | None:
    """Return how the heaviest emotions of an answer compare with the known ones, None when none of them is known.

    Args:
        known: {target: row or record with `emotions` and `why`}.
        tops: {target: emotion}; None where the annotator could not tell, which is not right.
    """
    verdicts = [
        GoldVerdict(tops[target] in gold.emotions, gold.emotions, gold.why, target)
        for target, gold in known.items()
        if gold.emotions and target in tops
    ]
    return next((one for one in verdicts if not one.right), verdicts[0] if verdicts else None)


@dataclass(frozen=True)
class AnnotatorProgress:
    """How far one annotator is in a project."""

    name: str
    done: int
    held: int  # lent and not answered yet
    gold_right: int
    gold_seen: int


def by_annotator(session: Session, project_id: int) -> list[AnnotatorProgress]:
    """Return everybody who was lent an item of a project, by name."""
    counts = (
        select(
            AnnotatorRecord.id,
            AnnotatorRecord.name,
            func.count().filter(IS_DONE).label("done"),
            func.count().filter(IS_LEASED).label("held"),
        )
        .join(AssignmentRecord, AssignmentRecord.annotator_id == AnnotatorRecord.id)
        .where(AssignmentRecord.project_id == project_id, IS_LEASED_OR_DONE)
        .group_by(AnnotatorRecord.id, AnnotatorRecord.name)
        .order_by(AnnotatorRecord.name)
    )
    counter, found = ProgressCounter(project_id), []
    for person, name, done, held in session.execute(counts).all():
        right, seen = counter.gold(session, person)
        found.append(AnnotatorProgress(name, done, held, right, seen))
    return found
