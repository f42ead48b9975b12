"""Leases: items lent to an annotator and taken back, so that two never hold the same slot.

An item's free slots are counted in `items.open_slots`: lending takes one, a lease that runs out, a release and a skip
give it back; any other answer keeps it. Gold items take no slots: everybody meets each of them once.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, exists, func, insert, literal_column, select, text, update
from sqlalchemy.orm import Session

from annotations.db.engine import inserted_id
from annotations.db.schema import DONE, EXPIRED, LEASED, RELEASED, AssignmentRecord, ItemRecord, ProjectRecord
from mmer.errors import LabelError

_EXPIRED_PER_CALL = 100  # leases released in one call
FULL_SEARCH_LIMIT = 1000  # judged items that are skipped over in under 5 ms
_RESCAN_S = 300

# A partial index serves only a query that spells out its condition: SQLAlchemy's own `gold = 0` made each search of a
# million labels read all items.
IS_LEASED = AssignmentRecord.state == literal_column("'leased'")
IS_DONE = AssignmentRecord.state == literal_column("'done'")
IS_LEASED_OR_DONE = AssignmentRecord.state.in_([literal_column("'leased'"), literal_column("'done'")])
IS_OPEN = text("items.open_slots > 0 AND NOT items.gold")
IS_GOLD = text("items.gold")
LEASED_AS_GOLD = text("assignments.gold")


def is_new_to(person):
    """Condition under which an annotator neither holds an item nor has judged it."""
    return ~exists().where(
        AssignmentRecord.item_id == ItemRecord.id, AssignmentRecord.annotator_id == person, IS_LEASED_OR_DONE
    )


# Built once: putting a statement together takes longer than running it.
_EXPIRED_LEASES = (
    select(AssignmentRecord.id, AssignmentRecord.item_id, AssignmentRecord.gold)
    .where(
        AssignmentRecord.project_id == bindparam("project"), IS_LEASED, AssignmentRecord.expires_at <= bindparam("time")
    )
    .order_by(AssignmentRecord.expires_at)
    .limit(_EXPIRED_PER_CALL)
    .with_for_update(skip_locked=True, key_share=True)
)
_OWN_LEASES = (
    select(AssignmentRecord.id, AssignmentRecord.expires_at)
    .where(
        AssignmentRecord.annotator_id == bindparam("person"),
        AssignmentRecord.project_id == bindparam("project"),
        IS_LEASED,
    )
    .order_by(AssignmentRecord.leased_at, AssignmentRecord.id)
    .limit(bindparam("n"))
)
_N_ASSIGNED = (
    select(func.count())
    .select_from(AssignmentRecord)
    .where(AssignmentRecord.annotator_id == bindparam("person"), AssignmentRecord.project_id == bindparam("project"))
)
_NEW_GOLD_ITEMS = (
    select(ItemRecord.id)
    .where(ItemRecord.project_id == bindparam("project"), IS_GOLD, is_new_to(bindparam("person")))
    .order_by(ItemRecord.id)
)
_NEXT_ITEM = (
    select(ItemRecord.id, ItemRecord.priority)
    .where(ItemRecord.project_id == bindparam("project"), IS_OPEN, is_new_to(bindparam("person")))
    .limit(1)
)
_NEXT_BY_PRIORITY = _NEXT_ITEM.order_by(ItemRecord.priority.desc(), ItemRecord.id)
_NEXT_WAITING = _NEXT_BY_PRIORITY.with_for_update(key_share=True)
_NEXT_UNLOCKED = _NEXT_BY_PRIORITY.with_for_update(skip_locked=True, key_share=True)
_LOWER_PRIORITY = _NEXT_UNLOCKED.where(ItemRecord.priority < bindparam("priority"))
_SAME_PRIORITY = (
    _NEXT_ITEM.where(ItemRecord.priority == bindparam("priority"), ItemRecord.id > bindparam("item"))
    .order_by(ItemRecord.id)
    .with_for_update(skip_locked=True, key_share=True)
)
_ITEMS = ItemRecord.__table__
_SHIFT_SLOTS = (
    update(_ITEMS).where(_ITEMS.c.id == bindparam("item")).values(open_slots=_ITEMS.c.open_slots + bindparam("by"))
)
_INSERT_LEASE = insert(AssignmentRecord.__table__)


@dataclass(frozen=True)
class _SearchPosition:
    """How far the search for an annotator's next item has come: past this priority and id."""

    revision: int  # of the order
    until: float  # on the monotonic clock
    priority: float | None = None
    item_id: int = 0


class Leases:
    """The leases of one project. Each method works in a transaction of its caller.

    Args:
        full_search_limit: items up to which an annotator's search begins at the head each time.
    """

    def __init__(self, project_id: int, full_search_limit: int = FULL_SEARCH_LIMIT):
        self._project_id = project_id
        self._full_search_limit = full_search_limit
        self._positions: dict[int, _SearchPosition] = {}  # by annotator

    def acquire(
        self, session: Session, project: ProjectRecord, person: int, n: int, at: datetime, expires_at: datetime
    ) -> list[int]:
        """Return the ids of up to n live leases of an annotator, the oldest first, new ones where they had fewer.

        Leases of anybody that have run out are released first.
        """
        n_released = self._release_overdue(session, at)
        own = session.execute(_OWN_LEASES, {"person": person, "project": self._project_id, "n": n}).all()
        held = [lease.id for lease in own]
        # Written once in a while only, as most calls come seconds after the last one.
        if any(lease.expires_at < at + (expires_at - at) * 0.9 for lease in own):
            _set(session, held, expires_at=expires_at)
        n_assigned = 0
        if len(held) < n:
            key = {"person": person, "project": self._project_id}
            n_assigned = session.execute(_N_ASSIGNED, key).scalar_one()
        while len(held) < n:
            # Waiting for a locked item is safe only as long as no other item is locked here.
            patient = n_released == 0 and len(held) == len(own)
            lease = self._lease_next(session, project, person, n_assigned, at, expires_at, patient)
            if lease is None:
                break
            held.append(lease)
            n_assigned += 1
        return held

    def locked(self, session: Session, assignment_id: int, person: int) -> tuple[AssignmentRecord, ItemRecord]:
        """Return an annotator's assignment and its item, both locked.

        Raises:
            LabelError: `unknown_assignment`, `not_yours`.
        """
        lease = session.get(AssignmentRecord, assignment_id, with_for_update={"key_share": True})
        if lease is None or lease.project_id != self._project_id:
            raise LabelError("unknown_assignment", f"this project has no assignment {assignment_id}; ask for `next`")
        if lease.annotator_id != person:
            raise LabelError("not_yours", f"assignment {assignment_id} is another annotator's; ask for `next`")
        return lease, session.get_one(ItemRecord, lease.item_id, with_for_update={"key_share": True})

    def _release_overdue(self, session: Session, at: datetime) -> int:
        leases = session.execute(_EXPIRED_LEASES, {"project": self._project_id, "time": at}).all()
        if leases:
            _set(session, [lease.id for lease in leases], state=EXPIRED, finished_at=at)
        # One after the other by id, so that no two sessions wait for each other.
        for item_id in sorted(lease.item_id for lease in leases if not lease.gold):
            shift_slots(session, item_id, +1)
        return len(leases)

    def _lease_next(
        self,
        session: Session,
        project: ProjectRecord,
        person: int,
        n_assigned: int,
        at: datetime,
        expires_at: datetime,
        patient: bool,
    ) -> int | None:
        # From a hash and not from every tenth item, or annotators would know when to take care.
        draw = _uniform_draw(project, person, n_assigned)
        item_id = self._gold_item(session, person, draw / project.gold_share) if draw < project.gold_share else None
        gold = item_id is not None
        if not gold:
            item_id = self._open_item(session, project, person, n_assigned, patient)
            if item_id is None:
                return None
            shift_slots(session, item_id, -1)
        lease = {
            "project_id": project.id,
            "item_id": item_id,
            "annotator_id": person,
            "gold": gold,
            "state": LEASED,
            "leased_at": at,
            "expires_at": expires_at,
        }
        return inserted_id(session.connection().execute(_INSERT_LEASE, lease))

    def _gold_item(self, session: Session, person: int, draw: float) -> int | None:
        new = list(session.scalars(_NEW_GOLD_ITEMS, {"project": self._project_id, "person": person}))
        return new[int(draw * len(new))] if new else None

    def _open_item(
        self, session: Session, project: ProjectRecord, person: int, n_assigned: int, patient: bool
    ) -> int | None:
        """Return the first open item that the annotator has not touched, locked.

        Skipping over 20,000 own items takes 60 ms. So for somebody with many, the search goes on where the last one
        ended; from the head it begins again when the order has changed, and every five minutes, for items given back.

        Args:
            patient: wait for an item that another session has locked, when there is no other: it may have a slot left.
        """
        place = self._positions.get(person)
        if (
            n_assigned <= self._full_search_limit
            or not place
            or place.revision != project.revision
            or time.monotonic() > place.until
        ):
            place = _SearchPosition(project.revision, time.monotonic() + _RESCAN_S)
        key: dict[str, float] = {"person": person, "project": project.id}
        if place.priority is None:
            found = session.execute(_NEXT_UNLOCKED, key).first()
            if found is None and patient and session.get_bind().dialect.name != "sqlite":  # which locks no rows
                found = session.execute(_NEXT_WAITING, key).first()
        else:  # two searches of an index, where one with "or" would read all items of equal priority
            key |= {"priority": place.priority, "item": place.item_id}
            found = session.execute(_SAME_PRIORITY, key).first() or session.execute(_LOWER_PRIORITY, key).first()
        end = (float("-inf"), 0)
        self._positions[person] = _SearchPosition(
            place.revision, place.until, *((found.priority, found.id) if found else end)
        )
        return found.id if found else None


def reclaim(session: Session, lease: AssignmentRecord, item: ItemRecord) -> AssignmentRecord:
    """Return the live lease under which an annotator holds an item: this one, a newer one, or this one once more.

    Raises:
        LabelError: `already_submitted`, `lease_lost`.
    """
    if lease.state in (EXPIRED, RELEASED):
        held = (
            select(AssignmentRecord)
            .filter_by(item_id=item.id, annotator_id=lease.annotator_id)
            .where(IS_LEASED_OR_DONE)
        )
        lease = session.scalar(held) or lease
    if lease.state == DONE:
        raise LabelError("already_submitted", "this item is answered already; undo takes the last answer back")
    if lease.state != LEASED:
        if not lease.gold and item.open_slots < 1:
            raise LabelError(
                "lease_lost",
                "the time for this item ran out and others have judged it since, so nothing was stored; what you "
                "entered is still on the page: copy what you want to keep, then go on with the next item",
            )
        item.open_slots -= not lease.gold
        lease.state, lease.finished_at = LEASED, None
    return lease


def shift_slots(session: Session, item_id: int, by: int) -> None:
    """Open or close slots of an item."""
    session.connection().execute(_SHIFT_SLOTS, {"item": item_id, "by": by})


def _uniform_draw(project: ProjectRecord, person: int, n_assigned: int) -> float:
    """Return a number in [0, 1), the same for the same annotator and place in their queue."""
    digest = hashlib.blake2b(
        f"{project.created_at} {project.id} {person} {n_assigned}".encode(), digest_size=6
    ).digest()
    return int.from_bytes(digest, "big") / 2**48


def _set(session: Session, lease_ids: list[int], **values) -> None:
    query = update(AssignmentRecord).where(AssignmentRecord.id.in_(lease_ids)).values(**values)
    session.execute(query.execution_options(synchronize_session=False))
