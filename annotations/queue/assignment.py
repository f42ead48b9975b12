"""A project's annotation queue: assigns items to annotators, stores their answers, takes one back."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import Float, bindparam, func, select
from sqlalchemy.orm import Session

from annotations.choices import ORDERS
from annotations.db.schema import (
    DONE,
    LEASED,
    RELEASED,
    UNDO,
    AssignmentRecord,
    ClipRecord,
    CurrentLabelRecord,
    ItemRecord,
    LabelRecord,
    PredictionRecord,
    ProjectRecord,
    UtteranceRecord,
    now,
)
from annotations.label import check_label, heaviest, weights
from annotations.queue.leases import FULL_SEARCH_LIMIT, IS_LEASED, Leases, reclaim, shift_slots
from annotations.queue.priorities import PREDICTED, priorities, without_majority
from annotations.queue.progress import GoldVerdict, Progress, ProgressCounter, verdict
from annotations.queue.projects import Project, gold_answers
from annotations.store import Store, annotator_id, find_annotator
from mmer.errors import LabelError

MAX_LEASES = 20  # items one annotator may hold at a time
EXTRA_ANNOTATORS = 2  # beyond `per_item`, for items that have no majority, in the order "annotators"
_BATCH = 2000  # priorities a transaction: other writers wait for one batch at most
_PREDICTIONS_PER_CALL = 200  # predictions whose items get their priority in one call of `next`

# Built once: putting a statement together takes longer than running it.
_TASKS = (
    select(AssignmentRecord.id, AssignmentRecord.item_id, AssignmentRecord.leased_at, AssignmentRecord.expires_at)
    .add_columns(UtteranceRecord.clip_id, UtteranceRecord.start_s, UtteranceRecord.end_s, UtteranceRecord.transcript)
    .add_columns(ClipRecord.sha256, ClipRecord.name, ClipRecord.media, ClipRecord.path)
    .join(ItemRecord, ItemRecord.id == AssignmentRecord.item_id)
    .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
    .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
    .where(AssignmentRecord.id.in_(bindparam("leases", expanding=True)))
)
# The newest prediction about an utterance that was there at a time: the one an annotator saw.
_SHOWN_PREDICTION = (
    select(PredictionRecord)
    .where(PredictionRecord.clip_id == bindparam("clip"), PredictionRecord.created_at <= bindparam("time"))
    .where(PredictionRecord.start_s.is_not_distinct_from(bindparam("start", type_=Float)))
    .where(PredictionRecord.end_s.is_not_distinct_from(bindparam("end", type_=Float)))
    .order_by(PredictionRecord.id.desc())
    .limit(1)
)
_NEWEST_PREDICTION = select(func.max(PredictionRecord.id))
_ITEMS = ItemRecord.__table__
_PRIORITY = (
    _ITEMS.update()
    .where(_ITEMS.c.id == bindparam("item"), _ITEMS.c.priority != bindparam("value"))
    .values(priority=bindparam("value"))
)


# Of a lease on a gold item: answered, other than by a skip, so that the annotator was told the known answer.
ANSWER_TOLD = AssignmentRecord.gold & (
    select(LabelRecord.id)
    .where(LabelRecord.assignment_id == AssignmentRecord.id, LabelRecord.outcome.not_in(("skip", UNDO)))
    .exists()
)


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
class Receipt:
    label_ids: tuple[int, ...]
    gold: GoldVerdict | None  # None when the item is no gold item, or was skipped
    progress: Progress


class Queue:
    """Items of one project, lent and taken back. Any thread or process may call at any time.

    Args:
        clock: what the time is, aware.
        full_search_limit: as `Leases` takes it.
    """

    def __init__(
        self,
        store: Store,
        project: Project,
        *,
        clock: Callable[[], datetime] = now,
        full_search_limit: int = FULL_SEARCH_LIMIT,
    ):
        self.project = project
        self._store = store
        self._clock = clock
        self._leases = Leases(project.id, full_search_limit)
        self._progress = ProgressCounter(project.id)

    def next(self, annotator: str, n: int = 1) -> list[Task]:
        """Lend an annotator items and return them, at most `n`; fewer when nothing else is open to them.

        What they hold already comes first, renewed, so that a reload or another device goes on where they were.

        Raises:
            LabelError: `no_annotator, bad_text, unknown_project, bad_count`.
        """
        if not 1 <= n <= MAX_LEASES:
            raise LabelError("bad_count", f"{n} items at a time; 1 to {MAX_LEASES} are lent")
        with self._store.writing() as session:
            if not self._apply_new_predictions(session):
                return self._acquire(session, annotator, n)
        # In a transaction of its own: what it locked, another session may hold and wait for what is locked below.
        with self._store.writing() as session:
            return self._acquire(session, annotator, n)

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
            blind: whether the model's answer was hidden until the choice. An answer given again after it was taken back
                is not: the annotator read the model's answer with the first.

        Raises:
            LabelError: `lease_lost, already_submitted, unknown_assignment, not_yours, missing_target, not_in_label_set`
                and those of `check_label`; nothing is stored then.
        """
        with self._store.writing() as session:
            project = self._loaded_project(session)
            answers = checked_answers(project, [answers] if isinstance(answers, Answer) else list(answers), annotator)
            person = annotator_id(session, annotator)
            lease, item = self._leases.locked(session, assignment_id, person)
            lease = reclaim(session, lease, item)
            utterance = session.get_one(UtteranceRecord, item.utterance_id)
            shown = _shown_prediction(session, utterance, lease.leased_at)
            answered = select(LabelRecord.id).filter_by(item_id=item.id, annotator_id=person).limit(1)
            if blind and session.scalar(answered):
                blind = False
            label_ids = tuple(
                self._store.add_label(
                    utterance.clip_id,
                    annotator,
                    **asdict(answer),
                    start_s=utterance.start_s,
                    end_s=utterance.end_s,
                    lead_time_s=lead_time_s,
                    blind=blind,
                    prediction_id=shown.id if shown else None,
                    item_id=item.id,
                    assignment_id=lease.id,
                    session=session,
                )
                for answer in answers
            )
            lease.state, lease.finished_at = DONE, self._clock()
            session.flush()
            skipped = answers[0].outcome == "skip"
            if not lease.gold:
                item.open_slots += skipped or _wants_another(session, project, item)
            tops = {answer.target: _top(answer) for answer in answers}
            gold = verdict(gold_answers(session, item.id), tops) if lease.gold and not skipped else None
        return Receipt(label_ids, gold, self.progress(annotator))

    def release(self, assignment_id: int, annotator: str) -> None:
        """Give a lent item back unanswered; one that is not lent any more stays as it is.

        Raises:
            LabelError: `unknown_assignment`, `not_yours`.
        """
        with self._store.writing() as session:
            lease, item = self._leases.locked(session, assignment_id, annotator_id(session, annotator))
            if lease.state == LEASED:
                lease.state, lease.finished_at = RELEASED, self._clock()
                item.open_slots += not lease.gold

    def release_all(self, annotator: str) -> int:
        """Give back every item that an annotator holds unanswered, as when they leave; return how many it was.

        Raises:
            LabelError: `unknown_annotator`.
        """
        with self._store.reading() as session:
            person = find_annotator(session, annotator)
            if person is None:
                raise LabelError("unknown_annotator", f"nobody by the name {annotator!r} has labelled here")
            held = (
                select(AssignmentRecord.id).filter_by(annotator_id=person, project_id=self.project.id).where(IS_LEASED)
            )
            lease_ids = list(session.scalars(held))
        for lease_id in lease_ids:
            self.release(lease_id, annotator)
        return len(lease_ids)

    def undo(self, annotator: str, given: Set[int] | None = None) -> Task | None:
        """Take the annotator's last submission back, lend the item again and return it; None when there is none.

        The labels stay as rows that newer rows take back. A skipped item whose slots others have filled meanwhile is
        lent all the same: it may then be judged once more than `per_item`.

        An answer to a gold item stays, since its known answer was told with it: the one before it is taken back.

        Args:
            given: assignments whose answers were given by who asks, where a name can be typed by anybody.

        Raises:
            LabelError: `answer_told` when there are only answers to gold items; `not_yours` when it is none of those
                given.
        """
        with self._store.writing() as session:
            project = self._loaded_project(session)
            person = annotator_id(session, annotator)
            done = (
                select(AssignmentRecord)
                .filter_by(annotator_id=person, project_id=project.id, state=DONE)
                .order_by(AssignmentRecord.finished_at.desc(), AssignmentRecord.id.desc())
                .limit(1)
            )
            last = session.scalar(done.where(~ANSWER_TOLD).with_for_update(key_share=True))
            if last is None:
                if session.scalar(done) is None:
                    return None
                raise LabelError(
                    "answer_told", "the right answer of what you answered was known and has been told, so yours stays"
                )
            if given is not None and last.id not in given:
                raise LabelError(
                    "not_yours",
                    "the last answer under this name was given elsewhere; without an account, answers are taken back "
                    "where they were given, until that page is loaded again",
                )
            item = session.get_one(ItemRecord, last.item_id, with_for_update={"key_share": True})
            query = select(LabelRecord.id, LabelRecord.outcome).filter_by(assignment_id=last.id)
            rows = session.execute(query.where(LabelRecord.outcome != UNDO).order_by(LabelRecord.id)).all()
            counting = select(CurrentLabelRecord.label_id).where(
                CurrentLabelRecord.label_id.in_([row.id for row in rows])
            )
            for label_id in sorted(session.scalars(counting)):
                self._store.undo(label_id, annotator, session=session)
            if rows and rows[-1].outcome == "skip":
                item.open_slots -= not last.gold
            last.state, last.finished_at, last.expires_at = LEASED, None, self._expiry(project)
            session.flush()
            return self.tasks(session, [last.id])[0]

    def progress(self, annotator: str) -> Progress:
        """Return how far an annotator is; in a large project `remaining` may lag behind the others by some minutes."""
        with self._store.reading() as session:
            person = find_annotator(session, annotator)
            return self._progress.progress(session, person)

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
            project = self._loaded_project(session)
            order = order or project.order
            ranked_to = session.scalar(_NEWEST_PREDICTION) or 0
            ranked = priorities(session, self.project.id, order, seed)
            while batch := list(islice(ranked, _BATCH)):
                n_items += len(batch)
                with self._store.writing() as writer:
                    _prioritise(writer, batch)
                    if order == "annotators":
                        self._reopen(writer, project, [item_id for item_id, priority in batch if priority > 0])
        with self._store.writing() as session:
            project = session.get_one(ProjectRecord, self.project.id, with_for_update={"key_share": True})
            project.order, project.ranked_to, project.revision = order, ranked_to, project.revision + 1
        return n_items

    def _loaded_project(self, session: Session) -> ProjectRecord:
        project = session.get(ProjectRecord, self.project.id)
        if project is None:
            raise LabelError("unknown_project", f"project {self.project.name!r} is gone")
        return project

    def _expiry(self, project: ProjectRecord) -> datetime:
        return self._clock() + timedelta(seconds=project.lease_s)

    def tasks(self, session: Session, lease_ids: list[int]) -> list[Task]:
        """Return assignments as their annotators see them."""
        rows = {row.id: row for row in session.execute(_TASKS, {"leases": lease_ids})}
        return [self._task(session, rows[lease_id]) for lease_id in lease_ids]

    def _task(self, session: Session, row) -> Task:
        shown = _shown_prediction(session, row, row.leased_at)
        parts = ("emotion", "probs", "per_modality", "present", "checkpoint")
        return Task(
            assignment_id=row.id,
            item_id=row.item_id,
            clip_id=row.clip_id,
            sha256=row.sha256,
            name=row.name,
            media=self._store.file_of(row.media, row.path),
            start_s=row.start_s,
            end_s=row.end_s,
            transcript=row.transcript,
            prediction={name: getattr(shown, name) for name in parts} if shown else None,
            prediction_id=shown.id if shown else None,
            expires_at=row.expires_at,
        )

    def _acquire(self, session: Session, annotator: str, n: int) -> list[Task]:
        project, person = self._loaded_project(session), annotator_id(session, annotator)
        return self.tasks(
            session, self._leases.acquire(session, project, person, n, self._clock(), self._expiry(project))
        )

    def _apply_new_predictions(self, session: Session) -> bool:
        """Give the items that new predictions are about their priorities; return whether there were any."""
        project = self._loaded_project(session)
        if project.order not in PREDICTED or project.ranked_to >= (newest := session.scalar(_NEWEST_PREDICTION) or 0):
            return False
        query = select(ProjectRecord).filter_by(id=project.id).with_for_update(skip_locked=True, key_share=True)
        locked = session.scalar(query.execution_options(populate_existing=True))
        if locked is None or locked.ranked_to >= newest:  # another session does it just now
            return False
        upto = min(newest, locked.ranked_to + _PREDICTIONS_PER_CALL)
        _prioritise(session, priorities(session, locked.id, locked.order, since=locked.ranked_to, upto=upto))
        locked.ranked_to = upto
        return True

    def _reopen(self, session: Session, project: ProjectRecord, item_ids: list[int]) -> None:
        """Open a slot of each full item without a majority."""
        query = select(ItemRecord.id).where(ItemRecord.id.in_(item_ids), ItemRecord.open_slots < 1, ~ItemRecord.gold)
        full = set(session.scalars(query.with_for_update(key_share=True)))
        for item_id in sorted(without_majority(session, full, _max_annotators(project))):
            shift_slots(session, item_id, +1)


def _wants_another(session: Session, project: ProjectRecord, item: ItemRecord) -> bool:
    """Whether an item whose slots are all taken gets one more, since its annotators have no majority."""
    if project.order != "annotators" or item.open_slots >= 1:
        return False
    return bool(without_majority(session, [item.id], _max_annotators(project)))


def _max_annotators(project: ProjectRecord) -> int:
    return project.per_item + EXTRA_ANNOTATORS


def _shown_prediction(session: Session, utterance, at: datetime) -> PredictionRecord | None:
    key = {"clip": utterance.clip_id, "start": utterance.start_s, "end": utterance.end_s, "time": at}
    return session.scalar(_SHOWN_PREDICTION, key)


def checked_answers(project: ProjectRecord, answers: list[Answer], annotator: str) -> list[Answer]:
    """Return the answers, one for each target of the project in its order, checked against it."""
    if len(answers) == 1 and answers[0].outcome != "label":
        return [replace(answers[0], target=target) for target in project.targets]
    by_target = {answer.target: answer for answer in answers}
    if len(by_target) != len(answers) or by_target.keys() != set(project.targets):
        answered = ", ".join(answer.target for answer in answers) or "none"
        raise LabelError(
            "missing_target", f"{project.name} wants one answer each for {', '.join(project.targets)}; got {answered}"
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
    return heaviest(weights(answer.emotions)) if answer.emotions else None


def _prioritise(session: Session, ranked: Iterable[tuple[int, float]]) -> None:
    rows = [{"item": item_id, "value": priority} for item_id, priority in sorted(ranked)]
    if rows:
        session.connection().execute(_PRIORITY, rows)
