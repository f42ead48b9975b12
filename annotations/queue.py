"""The queue of a project: which item an annotator judges next, and what becomes of the answer.

An item is lent for `lease_s`. Its free slots are counted in `items.open_slots`: lending takes one, a lease that runs out,
a release and a skip give it back; any other answer keeps it. Gold items take no slots: everybody meets each of them once.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import Float, bindparam, exists, false, func, literal_column, select, true, update
from sqlalchemy.orm import Session

from annotations.label import check_label, weights
from annotations.projects import Project, annotator_id, gold_answers
from annotations.ranking import PREDICTED, contested, priorities
from annotations.schema import (
    DONE,
    EXPIRED,
    LEASED,
    ORDERS,
    RELEASED,
    UNDO,
    AnnotatorRecord,
    AssignmentRecord,
    ClipRecord,
    CurrentLabelRecord,
    GoldRecord,
    ItemRecord,
    LabelRecord,
    PredictionRecord,
    ProjectRecord,
    UtteranceRecord,
    now,
)
from annotations.store import Store
from mmer.errors import LabelError

MOST_LENT = 20  # items one annotator may hold at a time
MORE_ANNOTATORS = 2  # beyond `per_item`, for items that have no majority, in the order "annotators"
_BATCH = 2000  # priorities a transaction: other writers wait for one batch at most
_OVERDUE, _FOLLOWED = 100, 200  # leases released, and predictions followed, in one call of `next`
_FEW = 1000  # judged items that are skipped over in under 5 ms
_RESCAN_S = 300
_COUNTED = 2000  # open items up to which `remaining` is counted each time

# Partial indices serve only a query that spells out their condition.
_LENT = AssignmentRecord.state == literal_column("'leased'")
_TOUCHED = AssignmentRecord.state.in_([literal_column("'leased'"), literal_column("'done'")])
_OPEN = (ItemRecord.open_slots > literal_column("0")) & ~ItemRecord.gold
_IS_GOLD = AssignmentRecord.gold == true()


def _not_touched(person):
    return ~exists().where(AssignmentRecord.item_id == ItemRecord.id, AssignmentRecord.annotator_id == person, _TOUCHED)


# Built once: putting a statement together takes longer than running it.
_RUN_OUT = (
    select(AssignmentRecord.id, AssignmentRecord.item_id, AssignmentRecord.gold)
    .where(AssignmentRecord.project_id == bindparam("project"), _LENT, AssignmentRecord.expires_at <= bindparam("time"))
    .order_by(AssignmentRecord.expires_at)
    .limit(_OVERDUE)
    .with_for_update(skip_locked=True, key_share=True)
)
_HELD = (
    select(AssignmentRecord.id, AssignmentRecord.expires_at)
    .where(
        AssignmentRecord.annotator_id == bindparam("person"), AssignmentRecord.project_id == bindparam("project"), _LENT
    )
    .order_by(AssignmentRecord.leased_at, AssignmentRecord.id)
    .limit(bindparam("n"))
)
_NEW = (
    select(ItemRecord.id, ItemRecord.priority)
    .where(ItemRecord.project_id == bindparam("project"), _OPEN, _not_touched(bindparam("person")))
    .limit(1)
)
_BY_PRIORITY = _NEW.order_by(ItemRecord.priority.desc(), ItemRecord.id)
_FIRST_PATIENT = _BY_PRIORITY.with_for_update(key_share=True)
_FIRST = _BY_PRIORITY.with_for_update(skip_locked=True, key_share=True)
_LOWER_PRIORITY = _FIRST.where(ItemRecord.priority < bindparam("priority"))
_SAME_PRIORITY = (
    _NEW.where(ItemRecord.priority == bindparam("priority"), ItemRecord.id > bindparam("item"))
    .order_by(ItemRecord.id)
    .with_for_update(skip_locked=True, key_share=True)
)
_TASK = (
    select(AssignmentRecord, UtteranceRecord, ClipRecord)
    .join(ItemRecord, ItemRecord.id == AssignmentRecord.item_id)
    .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
    .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
    .where(AssignmentRecord.id.in_(bindparam("leases", expanding=True)))
    .execution_options(populate_existing=True)
)
# The newest prediction about an utterance that was there at a time: the one an annotator saw.
_SEEN = (
    select(PredictionRecord)
    .where(PredictionRecord.clip_id == bindparam("clip"), PredictionRecord.created_at <= bindparam("time"))
    .where(PredictionRecord.start_s.is_not_distinct_from(bindparam("start", type_=Float)))
    .where(PredictionRecord.end_s.is_not_distinct_from(bindparam("end", type_=Float)))
    .order_by(PredictionRecord.id.desc())
    .limit(1)
)
_SHIFT = update(ItemRecord.__table__).where(ItemRecord.__table__.c.id == bindparam("item"))
_SHIFT = _SHIFT.values(open_slots=ItemRecord.__table__.c.open_slots + bindparam("by"))


@dataclass(frozen=True)
class Task:
    """An item lent to an annotator. Nothing here tells whether it is a gold item."""

    assignment_id: int
    item_id: int
    clip_id: int
    sha256: str
    name: str
    media: Path | None  # None: there is only a transcript, or the media is gone
    start_s: float | None  # both None: the whole clip
    end_s: float | None
    transcript: str | None
    prediction: dict | None  # emotion, probs, per_modality, present, checkpoint: the newest when the item was lent
    prediction_id: int | None
    expires_at: datetime


@dataclass(frozen=True)
class Answer:
    """What an annotator says about one target; ranges as in `annotations.label.check_label`."""

    emotions: dict | str | None = None
    target: str = "all"
    outcome: str = "label"
    confidence: float | None = None
    intensity: float | None = None
    valence: float | None = None
    arousal: float | None = None
    comment: str = ""
    transcript: str | None = None


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


@dataclass(frozen=True)
class Receipt:
    label_ids: tuple[int, ...]
    gold: GoldVerdict | None  # None when the item is no gold item, or was skipped
    progress: Progress


class Queue:
    """Items of one project, lent and taken back. Any thread or process may call at any time.

    Args:
        clock: what the time is, aware.
    """

    def __init__(self, store: Store, project: Project, *, clock: Callable[[], datetime] = now):
        self.project = project
        self._store = store
        self._clock = clock
        self._places: dict[int, _Place] = {}  # by annotator
        self._open: dict[int, tuple[float, int, int]] = {}  # by annotator: counted when, remaining, touched

    def next(self, annotator: str, n: int = 1) -> list[Task]:
        """Lend an annotator items and return them, at most `n`; fewer when nothing else is open to them.

        What they hold already comes first, renewed, so that a reload or another device goes on where they were.

        Raises:
            LabelError: `no_annotator, bad_text, unknown_project, bad_count`.
        """
        if not 1 <= n <= MOST_LENT:
            raise LabelError("bad_count", f"{n} items at a time; 1 to {MOST_LENT} are lent")
        with self._store.writing() as session:
            project = self._current(session)
            person = annotator_id(session, annotator)
            n_released = self._release_overdue(session)
            if project.order in PREDICTED:
                self._follow_predictions(session, project)
            own = session.execute(_HELD, {"person": person, "project": project.id, "n": n}).all()
            held = [lease.id for lease in own]
            expires_at = self._expiry(project)
            # Written once in a while only, as most calls come seconds after the last one.
            if any(lease.expires_at < expires_at - timedelta(seconds=project.lease_s / 10) for lease in own):
                _set(session, held, expires_at=expires_at)
            n_own = _count(session, AssignmentRecord.annotator_id == person, project) if len(held) < n else 0
            while len(held) < n:
                # Waiting for a locked item is safe only as long as no other item is locked here.
                patient = n_released == 0 and len(held) == len(own)
                lent = self._lend(session, project, person, n_own, expires_at, patient)
                if lent is None:
                    break
                held.append(lent)
                n_own += 1
            return self._tasks(session, held)

    def submit(
        self,
        assignment_id: int,
        annotator: str,
        answers: Answer | Sequence[Answer],
        *,
        lead_time_s: float | None = None,
        blind: bool | None = None,
    ) -> Receipt:
        """Store an annotator's answers about a lent item, all or none.

        A lease that ran out still counts while the item has a slot free. One answer that is not a label (skip,
        cannot_tell, broken) stands for all targets of the project; else each target needs one.

        Args:
            lead_time_s: from the item's first sight to the answer.
            blind: whether the model's answer was hidden until the choice.

        Raises:
            LabelError: `lease_lost, already_submitted, unknown_assignment, not_yours, missing_target, not_in_label_set`
                and those of `check_label`; nothing is stored then.
        """
        with self._store.writing() as session:
            project = self._current(session)
            answers = _complete(project, [answers] if isinstance(answers, Answer) else list(answers), annotator)
            person = annotator_id(session, annotator)
            lease, item = self._own(session, assignment_id, person)
            lease = self._take_again(session, lease, item)
            utterance = session.get(UtteranceRecord, item.utterance_id)
            seen = _seen(session, utterance, lease)
            label_ids = tuple(
                self._store.add_label(
                    utterance.clip_id, annotator, answer.emotions, start_s=utterance.start_s, end_s=utterance.end_s,
                    target=answer.target, outcome=answer.outcome, confidence=answer.confidence,
                    intensity=answer.intensity, valence=answer.valence, arousal=answer.arousal, comment=answer.comment,
                    transcript=answer.transcript, lead_time_s=lead_time_s, blind=blind, prediction_id=seen and seen.id,
                    item_id=item.id, assignment_id=lease.id, session=session,
                )
                for answer in answers
            )  # fmt: skip
            lease.state, lease.finished_at = DONE, self._clock()
            session.flush()
            skipped = answers[0].outcome == "skip"
            if not lease.gold:
                again = project.order == "annotators" and item.open_slots < 1 and self._wanted(session, item)
                item.open_slots += skipped or again
            tops = {answer.target: _top(answer) for answer in answers}
            verdict = _verdict(gold_answers(session, item.id), tops) if lease.gold and not skipped else None
        return Receipt(label_ids, verdict, self.progress(annotator))

    def release(self, assignment_id: int, annotator: str) -> None:
        """Give a lent item back unanswered; one that is not lent any more stays as it is."""
        with self._store.writing() as session:
            lease, item = self._own(session, assignment_id, annotator_id(session, annotator))
            if lease.state == LEASED:
                lease.state, lease.finished_at = RELEASED, self._clock()
                item.open_slots += not lease.gold

    def renew(self, assignment_id: int, annotator: str) -> datetime:
        """Return until when an item is lent now.

        Raises:
            LabelError: `lease_lost, already_submitted, unknown_assignment, not_yours`.
        """
        with self._store.writing() as session:
            project = self._current(session)
            lease, item = self._own(session, assignment_id, annotator_id(session, annotator))
            lease = self._take_again(session, lease, item)
            lease.expires_at = self._expiry(project)
            return lease.expires_at

    def undo(self, annotator: str) -> Task | None:
        """Take the annotator's last submission back, lend the item again and return it; None when there is none.

        The labels stay as rows that newer rows take back. A skipped item whose slots others have filled meanwhile is lent
        all the same: it may then be judged once more than `per_item`.
        """
        with self._store.writing() as session:
            project = self._current(session)
            person = annotator_id(session, annotator)
            last = session.scalar(
                select(AssignmentRecord)
                .filter_by(annotator_id=person, project_id=project.id, state=DONE)
                .order_by(AssignmentRecord.finished_at.desc(), AssignmentRecord.id.desc())
                .limit(1)
                .with_for_update(key_share=True)
            )
            if last is None:
                return None
            item = session.get(ItemRecord, last.item_id, with_for_update={"key_share": True})
            rows = select(LabelRecord.id, LabelRecord.outcome).filter_by(assignment_id=last.id)
            rows = session.execute(rows.where(LabelRecord.outcome != UNDO).order_by(LabelRecord.id)).all()
            counting = select(CurrentLabelRecord.label_id).where(
                CurrentLabelRecord.label_id.in_([row.id for row in rows])
            )
            for label_id in sorted(session.scalars(counting)):
                self._store.undo(label_id, annotator, session=session)
            if rows and rows[-1].outcome == "skip":
                item.open_slots -= not last.gold
            last.state, last.finished_at, last.expires_at = LEASED, None, self._expiry(project)
            session.flush()
            return self._tasks(session, [last.id])[0]

    def progress(self, annotator: str) -> Progress:
        """Return how far an annotator is. `remaining` may lag behind the others by some minutes in a large project."""
        with self._store.reading() as session:
            person = session.scalar(select(AnnotatorRecord.id).filter_by(name=annotator.strip()))
            own = AssignmentRecord.annotator_id == person
            done = _count(session, own & (AssignmentRecord.state == DONE), self.project)
            right, seen = self._gold(session, person)
            held = _count(session, own & _LENT & (AssignmentRecord.gold == false()), self.project)
            return Progress(done, held + self._remaining(session, person, done + held), right, seen)

    def rank(self, order: str | None = None, seed: int = 0) -> int:
        """Recompute which items come first and return how many there are.

        New predictions are followed without it, a few with each `next`; call it after many, and for the other orders.

        Args:
            order: one of `ORDERS`, which the project keeps to from now on; None for its own.
            seed: for "random", and for the sample that "diversity" takes of a large project.

        Raises:
            LabelError: `bad_order`, `unknown_project`.
        """
        if order not in (None, *ORDERS):
            raise LabelError("bad_order", f"order {order!r}: one of {', '.join(ORDERS)} is needed")
        n_items = 0
        with self._store.reading() as session:
            order = order or self._current(session).order
            ranked_to = session.scalar(select(func.max(PredictionRecord.id))) or 0
            ranked = priorities(session, self.project.id, order, seed)
            while batch := list(islice(ranked, _BATCH)):
                n_items += len(batch)
                with self._store.writing() as writer:
                    _prioritise(writer, batch)
                    if order == "annotators":
                        self._reopen(writer, [item_id for item_id, priority in batch if priority > 0])
        with self._store.writing() as session:
            project = session.get(ProjectRecord, self.project.id, with_for_update={"key_share": True})
            project.order, project.ranked_to, project.revision = order, ranked_to, project.revision + 1
        return n_items

    # Leases

    def _current(self, session: Session) -> ProjectRecord:
        project = session.get(ProjectRecord, self.project.id)
        if project is None:
            raise LabelError("unknown_project", f"project {self.project.name!r} is gone")
        return project

    def _expiry(self, project: ProjectRecord) -> datetime:
        return self._clock() + timedelta(seconds=project.lease_s)

    def _release_overdue(self, session: Session) -> int:
        leases = session.execute(_RUN_OUT, {"project": self.project.id, "time": self._clock()}).all()
        if leases:
            _set(session, [lease.id for lease in leases], state=EXPIRED, finished_at=self._clock())
        # One after the other by id, so that no two sessions wait for each other.
        for item_id in sorted(lease.item_id for lease in leases if not lease.gold):
            _shift_slots(session, item_id, +1)
        return len(leases)

    def _lend(
        self, session: Session, project: ProjectRecord, person: int, n_own: int, expires_at: datetime, patient: bool
    ) -> int | None:
        # From a hash and not from every tenth item, or annotators would know when to take care.
        draw = _draw(project, person, n_own)
        gold = draw < project.gold_share
        item_id = self._gold_item(session, person, draw / project.gold_share) if gold else None
        if item_id is None:
            gold = False
            item_id = self._open_item(session, project, person, n_own, patient)
        if item_id is None:
            return None
        if not gold:
            _shift_slots(session, item_id, -1)
        lease = AssignmentRecord(
            project_id=project.id, item_id=item_id, annotator_id=person, gold=gold, leased_at=self._clock(),
            expires_at=expires_at,
        )  # fmt: skip
        session.add(lease)
        session.flush()
        return lease.id

    def _gold_item(self, session: Session, person: int, draw: float) -> int | None:
        query = select(ItemRecord.id).where(
            ItemRecord.project_id == self.project.id, ItemRecord.gold, _not_touched(person)
        )
        new = list(session.scalars(query.order_by(ItemRecord.id)))
        return new[int(draw * len(new))] if new else None

    def _open_item(
        self, session: Session, project: ProjectRecord, person: int, n_own: int, patient: bool
    ) -> int | None:
        """Return the first open item that the annotator has not touched, locked.

        Skipping over 20,000 own items takes 60 ms. So for somebody with many, the search goes on where the last one
        ended; from the head it begins again when the order has changed, and every five minutes, for what was given back.

        Args:
            patient: wait for an item that another session has locked, when there is no other: it may have a slot left.
        """
        place = self._places.get(person)
        if n_own <= _FEW or not place or place.revision != project.revision or time.monotonic() > place.until:
            place = _Place(project.revision, time.monotonic() + _RESCAN_S)
        key = {"person": person, "project": project.id, "priority": place.priority, "item": place.item_id}
        if place.priority is None:
            found = session.execute(_FIRST, key).first()
            if found is None and patient and session.get_bind().dialect.name != "sqlite":  # which locks nothing by rows
                found = session.execute(_FIRST_PATIENT, key).first()
        else:  # two searches of an index, where one with "or" would read all items of equal priority
            found = session.execute(_SAME_PRIORITY, key).first() or session.execute(_LOWER_PRIORITY, key).first()
        end = (float("-inf"), 0)
        self._places[person] = _Place(place.revision, place.until, *((found.priority, found.id) if found else end))
        return found.id if found else None

    def _own(self, session: Session, assignment_id: int, person: int) -> tuple[AssignmentRecord, ItemRecord]:
        """Return an annotator's assignment and its item, both locked."""
        lease = session.get(AssignmentRecord, assignment_id, with_for_update={"key_share": True})
        if lease is None or lease.project_id != self.project.id:
            raise LabelError(
                "unknown_assignment", f"{self.project.name} has no assignment {assignment_id}; ask for `next`"
            )
        if lease.annotator_id != person:
            raise LabelError("not_yours", f"assignment {assignment_id} is another annotator's; ask for `next`")
        return lease, session.get(ItemRecord, lease.item_id, with_for_update={"key_share": True})

    def _take_again(self, session: Session, lease: AssignmentRecord, item: ItemRecord) -> AssignmentRecord:
        """Return the live lease under which the annotator holds the item: this one, a newer one, or this one once more."""
        if lease.state in (EXPIRED, RELEASED):
            held = select(AssignmentRecord).filter_by(item_id=item.id, annotator_id=lease.annotator_id).where(_TOUCHED)
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

    def _tasks(self, session: Session, lease_ids: list[int]) -> list[Task]:
        rows = session.execute(_TASK, {"leases": lease_ids})
        found = {lease.id: (lease, utterance, clip) for lease, utterance, clip in rows}
        return [self._task(session, *found[lease_id]) for lease_id in lease_ids]

    def _task(self, session: Session, lease: AssignmentRecord, utterance: UtteranceRecord, clip: ClipRecord) -> Task:
        seen = _seen(session, utterance, lease)
        stored = self._store.media_dir / clip.media if clip.media else None
        return Task(
            assignment_id=lease.id,
            item_id=lease.item_id,
            clip_id=clip.id,
            sha256=clip.sha256,
            name=clip.name,
            media=next((p for p in (stored, clip.path and Path(clip.path)) if p and p.is_file()), None),
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            transcript=utterance.transcript,
            prediction=seen
            and {key: getattr(seen, key) for key in ("emotion", "probs", "per_modality", "present", "checkpoint")},
            prediction_id=seen and seen.id,
            expires_at=lease.expires_at,
        )

    # Order

    def _follow_predictions(self, session: Session, project: ProjectRecord) -> None:
        newest = session.scalar(select(func.max(PredictionRecord.id))) or 0
        if project.ranked_to >= newest:
            return
        query = select(ProjectRecord).filter_by(id=project.id).with_for_update(skip_locked=True, key_share=True)
        project = session.scalar(query.execution_options(populate_existing=True))
        if project is None or project.ranked_to >= newest:  # another session does it just now
            return
        upto = min(newest, project.ranked_to + _FOLLOWED)
        _prioritise(session, priorities(session, project.id, project.order, since=project.ranked_to, upto=upto))
        project.ranked_to = upto

    def _wanted(self, session: Session, item: ItemRecord) -> bool:
        return item.id in contested(session, [item.id], self.project.per_item + MORE_ANNOTATORS)

    def _reopen(self, session: Session, item_ids: list[int]) -> None:
        """Open a slot of each full item without a majority."""
        full = select(ItemRecord.id).where(ItemRecord.id.in_(item_ids), ItemRecord.open_slots < 1, ~ItemRecord.gold)
        full = set(session.scalars(full.with_for_update(key_share=True)))
        for item_id in sorted(contested(session, full, self.project.per_item + MORE_ANNOTATORS)):
            _shift_slots(session, item_id, +1)

    # Counts

    def _gold(self, session: Session, person: int | None) -> tuple[int, int]:
        """Return how many gold items an annotator had right, and how many they answered."""
        own = (AssignmentRecord.annotator_id == person) & (AssignmentRecord.project_id == self.project.id)
        own &= _IS_GOLD & (AssignmentRecord.state == DONE)
        known: dict[int, dict[str, GoldRecord]] = {}
        query = select(GoldRecord).join(AssignmentRecord, AssignmentRecord.item_id == GoldRecord.item_id).where(own)
        for gold in session.scalars(query.order_by(GoldRecord.id)):
            known.setdefault(gold.item_id, {})[gold.target] = gold
        given: dict[int, dict[str, str | None]] = {}
        query = (
            select(AssignmentRecord.item_id, CurrentLabelRecord.target, CurrentLabelRecord.top)
            .join(LabelRecord, LabelRecord.assignment_id == AssignmentRecord.id)
            .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
            .where(own, CurrentLabelRecord.outcome != "skip")
        )
        for item_id, target, top in session.execute(query):
            given.setdefault(item_id, {})[target] = top
        verdicts = [verdict for item_id, tops in given.items() if (verdict := _verdict(known.get(item_id, {}), tops))]
        return sum(verdict.right for verdict in verdicts), len(verdicts)

    def _remaining(self, session: Session, person: int | None, touched: int) -> int:
        """Return how many open items an annotator has not touched.

        Counting 500,000 takes 150 ms, so in a large project it is done every five minutes and counted down between.
        """
        items = select(ItemRecord.id).where(ItemRecord.project_id == self.project.id, _OPEN)
        if _rows(session, items.limit(_COUNTED + 1)) <= _COUNTED:
            return _rows(session, items.where(_not_touched(person)))
        counted_at, remaining, before = self._open.get(person, (float("-inf"), 0, 0))
        if time.monotonic() - counted_at > _RESCAN_S:
            own = select(AssignmentRecord.id).join(ItemRecord, ItemRecord.id == AssignmentRecord.item_id)
            own = own.where(AssignmentRecord.annotator_id == person, AssignmentRecord.project_id == self.project.id)
            remaining, before = _rows(session, items) - _rows(session, own.where(_TOUCHED, _OPEN)), touched
            self._open[person] = time.monotonic(), remaining, before
        return max(0, remaining - (touched - before))


@dataclass(frozen=True)
class _Place:
    """How far the search for an annotator's next item has come: past this priority and id."""

    revision: int  # of the order
    until: float  # on the monotonic clock
    priority: float | None = None
    item_id: int = 0


def _complete(project: ProjectRecord, answers: list[Answer], annotator: str) -> list[Answer]:
    """Return the answers, one for each target of the project in its order, checked against it."""
    if len(answers) == 1 and answers[0].outcome != "label":
        return [Answer(**{**vars(answers[0]), "target": target}) for target in project.targets]
    by_target = {answer.target: answer for answer in answers}
    if len(by_target) != len(answers) or by_target.keys() != set(project.targets):
        given = ", ".join(answer.target for answer in answers) or "none"
        raise LabelError(
            "missing_target", f"{project.name} wants one answer each for {', '.join(project.targets)}; got {given}"
        )
    if any(answer.outcome == "skip" for answer in answers):
        raise LabelError("bad_outcome", "a skip is about the whole item; for one target say cannot_tell")
    for answer in answers:
        _, values = check_label(annotator, answer.emotions, target=answer.target, outcome=answer.outcome)
        if foreign := values["emotions"].keys() - set(project.label_set):
            choice = ", ".join(project.label_set)
            raise LabelError(
                "not_in_label_set", f"{project.name} has no {', '.join(sorted(foreign))}; choose from {choice}"
            )
    return [by_target[target] for target in project.targets]


def _top(answer: Answer) -> str | None:
    shares = weights(answer.emotions) if answer.emotions else {}
    return max(shares, key=shares.get, default=None)


def _verdict(known: dict[str, GoldRecord], tops: dict[str, str | None]) -> GoldVerdict | None:
    verdicts = [
        GoldVerdict(tops[target] in gold.emotions, gold.emotions, gold.why, target)
        for target, gold in known.items()
        if gold.emotions and target in tops
    ]
    return next((verdict for verdict in verdicts if not verdict.right), verdicts[0] if verdicts else None)


def _draw(project: ProjectRecord, person: int, n_own: int) -> float:
    """Return a number in [0, 1), the same for the same annotator and place in their queue."""
    digest = hashlib.blake2b(f"{project.created_at} {project.id} {person} {n_own}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _seen(session: Session, utterance: UtteranceRecord, lease: AssignmentRecord) -> PredictionRecord | None:
    key = {"clip": utterance.clip_id, "start": utterance.start_s, "end": utterance.end_s, "time": lease.leased_at}
    return session.scalar(_SEEN, key)


def _set(session: Session, lease_ids: list[int], **values) -> None:
    query = update(AssignmentRecord).where(AssignmentRecord.id.in_(lease_ids)).values(**values)
    session.execute(query.execution_options(synchronize_session=False))


def _shift_slots(session: Session, item_id: int, by: int) -> None:
    session.connection().execute(_SHIFT, {"item": item_id, "by": by})


def _prioritise(session: Session, ranked) -> None:
    rows = [{"key": item_id, "value": priority} for item_id, priority in sorted(ranked)]
    if rows:
        table = ItemRecord.__table__
        query = table.update().where(table.c.id == bindparam("key"), table.c.priority != bindparam("value"))
        session.connection().execute(query.values(priority=bindparam("value")), rows)


def _count(session: Session, condition, project) -> int:
    query = select(func.count()).select_from(AssignmentRecord)
    return session.scalar(query.where(condition, AssignmentRecord.project_id == project.id))


def _rows(session: Session, query) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery()))
