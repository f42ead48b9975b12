"""What an annotator has answered in a project: the last answers, one of them again with its item, and another instead.

Taking an answer back is `Queue.undo`; here it stays until another stands in its place.
"""

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.db.schema import (
    DONE,
    AssignmentRecord,
    CurrentLabelRecord,
    ItemRecord,
    LabelRecord,
    ProjectRecord,
    UtteranceRecord,
)
from annotations.queue.assignment import ANSWER_TOLD, Answer, Queue, Task, checked_answers
from annotations.store import Store, find_annotator
from mmer.errors import LabelError

MOST = 50  # answers in a list


@dataclass(frozen=True)
class OwnAnswer:
    """An answered item; of one that stands for several targets, all of them."""

    assignment_id: int
    item_id: int
    start_s: float | None
    end_s: float | None
    finished_at: datetime
    outcome: str
    emotions: dict[str, dict[str, float]]  # by target
    details: dict[str, object]  # confidence, intensity, valence, arousal, comment, transcript of the first


def own_answers(
    store: Store, queue: Queue, annotator: str, given: Set[int] | None = None, n: int = MOST
) -> list[OwnAnswer]:
    """Return an annotator's last answers in a project, the newest first; not those whose right answer was told.

    Args:
        given: assignments whose answers were given by who asks, where a name can be typed by anybody; None for all.
    """
    with store.reading() as session:
        person = find_annotator(session, annotator)
        query = (
            select(AssignmentRecord, UtteranceRecord)
            .join(ItemRecord, ItemRecord.id == AssignmentRecord.item_id)
            .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
            .where(AssignmentRecord.annotator_id == person, AssignmentRecord.project_id == queue.project.id)
            .where(AssignmentRecord.state == DONE, ~ANSWER_TOLD)
            .order_by(AssignmentRecord.finished_at.desc(), AssignmentRecord.id.desc())
            .limit(n)
        )
        if given is not None:
            query = query.where(AssignmentRecord.id.in_(given))
        found = [(lease, utterance, _labels(session, lease.id)) for lease, utterance in session.execute(query)]
        return [_answer(lease, utterance, labels) for lease, utterance, labels in found if labels]


def task_again(store: Store, queue: Queue, assignment_id: int, annotator: str) -> Task:
    """Return an answered item as it was lent.

    Raises:
        LabelError: `unknown_assignment`, `not_yours`, `not_answered`, `answer_told`.
    """
    with store.reading() as session:
        _answered(session, queue, assignment_id, annotator)
        return queue.tasks(session, [assignment_id])[0]


def revise(
    store: Store, queue: Queue, assignment_id: int, annotator: str, answers: Sequence[Answer]
) -> tuple[int, ...]:
    """Return the ids of new label rows that stand in the place of an earlier answer; it is not blind any more.

    Raises:
        LabelError: as `task_again` and `Queue.submit`; `bad_outcome` for a skip.
    """
    if any(answer.outcome == "skip" for answer in answers):
        raise LabelError("bad_outcome", "an answer cannot become a skip; take it back instead")
    with store.writing() as session:
        lease = _answered(session, queue, assignment_id, annotator)
        answers = checked_answers(session.get_one(ProjectRecord, queue.project.id), list(answers), annotator)
        utterance = session.get_one(UtteranceRecord, session.get_one(ItemRecord, lease.item_id).utterance_id)
        before = {label.target: label for label in _labels(session, lease.id)}
        return tuple(
            store.add_label(
                utterance.clip_id,
                annotator,
                **asdict(answer),
                start_s=utterance.start_s,
                end_s=utterance.end_s,
                blind=False,
                prediction_id=before[answer.target].prediction_id if answer.target in before else None,
                item_id=lease.item_id,
                assignment_id=lease.id,
                session=session,
            )
            for answer in answers
        )


def _answered(session: Session, queue: Queue, assignment_id: int, annotator: str) -> AssignmentRecord:
    """Return an annotator's assignment that is answered and may be answered anew."""
    lease = session.get(AssignmentRecord, assignment_id)
    if lease is None or lease.project_id != queue.project.id:
        raise LabelError("unknown_assignment", "this project has no such answer; look at the list again")
    if lease.annotator_id != find_annotator(session, annotator):
        raise LabelError("not_yours", "this is another annotator's answer")
    if lease.state != DONE or not _labels(session, lease.id):
        raise LabelError("not_answered", "this answer was taken back meanwhile")
    told = select(AssignmentRecord.id).where(AssignmentRecord.id == lease.id, ANSWER_TOLD)
    if session.scalar(told) is not None:
        raise LabelError("answer_told", "the right answer of this item was told with yours, so yours stays")
    return lease


def _labels(session: Session, assignment_id: int) -> list[LabelRecord]:
    """Return the label rows of an assignment that count, but for skips."""
    query = (
        select(LabelRecord)
        .join(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
        .where(LabelRecord.assignment_id == assignment_id, LabelRecord.outcome != "skip")
        .order_by(LabelRecord.id)
    )
    return list(session.scalars(query))


def _answer(lease: AssignmentRecord, utterance: UtteranceRecord, labels: list[LabelRecord]) -> OwnAnswer:
    names = ("confidence", "intensity", "valence", "arousal", "comment", "transcript")
    return OwnAnswer(
        assignment_id=lease.id,
        item_id=lease.item_id,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        finished_at=lease.finished_at or lease.leased_at,
        outcome=labels[0].outcome,
        emotions={label.target: label.emotions for label in labels},
        details={name: getattr(labels[0], name) for name in names},
    )
