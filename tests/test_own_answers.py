"""One's own answers in a project: listed, shown again, and answered anew, but for those whose right answer was told."""

import pytest

from annotations.db.schema import OUTCOMES
from annotations.queue import own_answers, projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.errors import LabelError


@pytest.fixture
def queue(store: Store) -> Queue:
    project = projects.create(store, "voices", targets=("all", "face"), gold_share=0, order="random", actor="ada")
    clips = [store.register_clip(None, f"{i:064x}", name=f"clip {i}") for i in range(4)]
    projects.add_items(store, project, [store.utterance(clip, transcript="so it is") for clip in clips])
    return Queue(store, project)


def answered(queue: Queue, annotator: str, emotion: str | None, **details) -> int:
    (task,) = queue.next(annotator)
    answers = [Answer(emotion, **details), Answer("neutral", target="face")] if emotion else Answer(outcome="skip")
    queue.submit(task.assignment_id, annotator, answers, blind=True)
    return task.assignment_id


def test_the_last_answers_come_first_and_skips_are_none(store, queue):
    first = answered(queue, "ann", "fear", intensity=0.66, comment="hm")
    answered(queue, "ann", None)
    last = answered(queue, "ann", "anger")
    answered(queue, "bea", "sadness")
    found = own_answers.own_answers(store, queue, "ann")
    assert [one.assignment_id for one in found] == [last, first]
    assert found[1].emotions == {"all": {"fear": 1.0}, "face": {"neutral": 1.0}}
    assert (found[1].details["intensity"], found[1].details["comment"]) == (0.66, "hm")
    assert [one.assignment_id for one in own_answers.own_answers(store, queue, "ann", {first})] == [first]
    assert own_answers.own_answers(store, queue, "nobody") == []
    assert own_answers.task_again(store, queue, first, "ann").transcript == "so it is"


def test_an_answer_given_anew_counts_instead_and_is_not_blind(store, queue):
    given = answered(queue, "ann", "fear")
    before = queue.progress("ann")
    ids = own_answers.revise(
        store, queue, given, "ann", [Answer({"anger": 2.0, "fear": 1.0}), Answer("anger", target="face")]
    )
    labels = {label.target: label for label in store.labels()}
    assert {label.id for label in labels.values()} == set(ids)
    assert labels["all"].emotions == pytest.approx({"anger": 2 / 3, "fear": 1 / 3})
    assert labels["face"].emotions == {"anger": 1.0}
    assert labels["all"].blind is False
    assert queue.progress("ann") == before
    own_answers.revise(store, queue, given, "ann", [Answer(outcome="broken")])
    assert [label.outcome for label in store.labels(OUTCOMES)] == ["broken", "broken"]
    assert queue.undo("ann").assignment_id == given  # and all of it is taken back
    assert [one.assignment_id for one in own_answers.own_answers(store, queue, "ann")] == []


def test_only_ones_own_answers_are_shown_and_changed(store, queue):
    given = answered(queue, "ann", "fear")
    with pytest.raises(LabelError, match="another annotator's answer"):
        own_answers.revise(store, queue, given, "bea", [Answer("anger"), Answer("anger", target="face")])
    with pytest.raises(LabelError, match="has no such answer"):
        own_answers.task_again(store, queue, given + 99, "ann")
    with pytest.raises(LabelError, match="wants one answer each for all, face"):
        own_answers.revise(store, queue, given, "ann", [Answer("anger")])
    with pytest.raises(LabelError, match="cannot become a skip"):
        own_answers.revise(store, queue, given, "ann", [Answer(outcome="skip")])
    queue.undo("ann")
    with pytest.raises(LabelError, match="taken back meanwhile"):
        own_answers.revise(store, queue, given, "ann", [Answer("anger"), Answer("anger", target="face")])
    assert list(store.labels()) == []


def test_an_answer_whose_right_one_was_told_stays(store):
    project = projects.create(store, "known", gold_share=1.0, order="random", actor="ada")
    clip = store.register_clip(None, "f" * 64, name="clip")
    projects.add_items(store, project, [store.utterance(clip, transcript="so it is")])
    projects.set_gold(store, project, projects.item_of(store, project, "f" * 64), "fear", actor="ada")
    queue = Queue(store, project)
    (task,) = queue.next("ann")
    assert queue.submit(task.assignment_id, "ann", Answer("anger")).gold.right is False
    assert own_answers.own_answers(store, queue, "ann") == []
    with pytest.raises(LabelError, match="the right answer of this item was told"):
        own_answers.revise(store, queue, task.assignment_id, "ann", [Answer("fear")])
