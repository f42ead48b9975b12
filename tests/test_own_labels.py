"""One's own labels: listed, changed by a newer row, deleted with what was typed beside them, and nobody else's."""

import threading
import time

import pytest

from annotations import own_labels
from annotations.db.schema import OUTCOMES
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.errors import LabelError

SHA, OTHER = "a" * 64, "b" * 64


def saved(store: Store, annotator: str, emotion: str = "fear", sha256: str = SHA, **label) -> int:
    return store.save(None, sha256, annotator, clip={"name": "one"}, label={"emotions": emotion, **label})[2]


def test_own_labels_are_those_of_a_name_or_of_a_session(store):
    first, others = saved(store, "ann", "fear"), saved(store, "bea", "anger")
    second = saved(store, "ann", "joy", OTHER)
    assert [label.id for label in own_labels.own_labels(store, annotator="ann")] == [second, first]
    assert [label.id for label in own_labels.own_labels(store, ids=[others])] == [others]
    assert own_labels.own_labels(store) == []
    assert own_labels.own_labels(store, annotator="nobody") == []


def test_answers_to_a_projects_items_are_not_among_them(store):
    project = projects.create(store, "voices", gold_share=0, actor="ada")
    clip = store.register_clip(None, SHA, name="one")
    projects.add_items(store, project, [store.utterance(clip, transcript="so it is")])
    queue = Queue(store, project)
    (task,) = queue.next("ann")
    queue.submit(task.assignment_id, "ann", Answer("fear"))
    assert own_labels.own_labels(store, annotator="ann") == []


def test_a_change_is_a_newer_row_that_keeps_the_rest(store):
    old = saved(store, "ann", confidence=0.6, intensity=0.5, transcript="go", comment="hm")
    new = own_labels.change(store, old, "anger", "label", None, "sure now")
    (label,) = store.labels(sha256=SHA)
    assert label.id == new
    assert (label.emotions, label.confidence, label.intensity) == ({"anger": 1.0}, 0.6, 0.5)
    assert (label.transcript, label.comment) == ("go", "sure now")
    assert store.counts()["labels"] == 2
    with pytest.raises(LabelError, match="was changed or taken back meanwhile"):
        own_labels.change(store, old, "fear", "label", None, "")
    own_labels.change(store, new, None, "cannot_tell", None, "")
    assert [label.outcome for label in store.labels(OUTCOMES)] == ["cannot_tell"]


def test_a_deletion_does_not_bring_back_what_was_corrected(store):
    first = saved(store, "ann", comment="a secret", transcript="my words")
    saved(store, "bea", "anger")
    last = own_labels.change(store, first, "sadness", "label", 0.9, "another secret")
    assert own_labels.delete(store, last) is False  # the clip stays: bea has judged it
    assert [label.annotator for label in store.labels(OUTCOMES)] == ["bea"]
    with store.reading() as session:
        rows = session.connection().exec_driver_sql("SELECT comment, transcript FROM labels").all()
    assert set(rows) == {("", None)}


def test_a_clip_goes_with_the_only_answer_to_it(store, tmp_path):
    label = saved(store, "ann")
    assert own_labels.delete(store, label) is True
    assert store.counts()["clips"] == store.counts()["labels"] == 0
    with pytest.raises(LabelError, match="it was deleted"):
        own_labels.delete(store, label)


def test_the_owners_recording_stays_when_an_answer_to_it_is_deleted(store):
    store.register_clip(None, SHA, name="one", source="import")
    assert own_labels.delete(store, saved(store, "ann")) is False
    assert (store.counts()["clips"], list(store.labels())) == (1, [])


def test_only_the_newest_200_could_be_changed_or_deleted(store):
    clip = store.register_clip(None, SHA, name="one")
    with store.writing() as session:
        ids = [store.add_label(clip, "ann", "fear", start_s=i, end_s=i + 1, session=session) for i in range(201)]
    assert [label.id for label in own_labels.own_labels(store, annotator="ann")] == ids[::-1]


def test_a_label_given_while_another_was_deleted_went_with_the_clip(store):
    """Who waits to write is served in turn: the label comes between the deletion's look and the deletion."""
    label = saved(store, "ann")
    deletion = threading.Thread(target=own_labels.delete, args=(store, label))
    answer = threading.Thread(target=saved, args=(store, "bea", "anger"))
    with store.writing():
        for thread in (deletion, answer):
            thread.start()
            time.sleep(0.5)
    for thread in (deletion, answer):
        thread.join(60)
    assert [label.annotator for label in store.labels()] == ["bea"]
