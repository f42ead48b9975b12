"""The queue on real databases: leases, slots, gold, undo, and ranks worked out by hand."""

import threading
import unicodedata
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import event, func, select, update

from annotations.db.schema import (
    UNDO,
    AssignmentRecord,
    AuditRecord,
    CurrentLabelRecord,
    ItemRecord,
    ItemSummaryRecord,
    LabelRecord,
    ProjectRecord,
    now,
)
from annotations.queue import projects
from annotations.queue.assignment import EXTRA_ANNOTATORS, Answer, Queue
from annotations.queue.leases import FULL_SEARCH_LIMIT
from annotations.queue.priorities import branches, k_center, margin, uncertainty
from mmer.errors import LabelError
from tests.load import annotators as load

SKIP = Answer(outcome="skip")
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Clock:
    def __init__(self):
        self.time = now()

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


def fill(store, project, n, *, embeddings=None, probs=None):
    """Put `n` items in a project and return their ids."""
    clips, utterances = [], []
    with store.writing() as session:
        for i in range(n):
            clips.append(store.register_clip(None, f"{i:064x}", name=f"clip {i}", session=session))
            embedding = np.float32(embeddings[i]).tobytes() if embeddings else None
            utterances.append(store.utterance(clips[i], transcript=f"words {i}", embedding=embedding, session=session))
        assert projects.add_items(store, project, utterances, session=session) == n
    for clip, told in zip(clips, probs or (), strict=False):
        predict(store, clip, told)
    with store.reading() as session:
        return list(session.scalars(select(ItemRecord.id).filter_by(project_id=project.id).order_by(ItemRecord.id)))


def predict(store, clip, probs, per_modality=None):
    top = max(probs, key=probs.get)
    result = {"emotion": top, "probs": probs, "per_modality": per_modality or {}, "present": {}, "checkpoint": "c"}
    return store.add_prediction(clip, result)


def a_queue(store, n=0, clock=now, full_search_limit=FULL_SEARCH_LIMIT, **settings):
    settings = {"gold_share": 0.0, "actor": "boss"} | settings
    project = projects.create(store, "voices", **settings)
    ids = fill(store, project, n) if n else []
    return Queue(store, project, clock=clock, full_search_limit=full_search_limit), ids


def slots(store):
    with store.reading() as session:
        return dict(session.execute(select(ItemRecord.id, ItemRecord.open_slots)).all())


def rows(store, record):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(record))


def answer_all(queue, annotator, answer="anger"):
    judged = []
    while tasks := queue.next(annotator):
        queue.submit(tasks[0].assignment_id, annotator, Answer(answer))
        judged.append(tasks[0].item_id)
    return judged


# Projects


def test_a_project_says_what_cannot_be(store):
    for wrong, words in (
        ({"label_set": ("anger",)}, "two or more"),
        ({"targets": ("hands",)}, "hands.*all, face, voice, text"),
        ({"per_item": 0}, "0 annotators per item: 1 to"),
        ({"gold_share": 1.5}, "1.5: 0 to 1"),
        ({"order": "alphabet"}, "'alphabet'.*uncertainty"),
        ({"lease_s": 0}, "lease of 0 s"),
    ):
        with pytest.raises(LabelError, match=words) as caught:
            projects.create(store, "p", actor="boss", **wrong)
        assert caught.value.code == "bad_project"
    assert projects.projects(store) == []


def test_a_change_keeps_the_old_value_in_the_audit_log_and_moves_the_slots(store):
    _queue, ids = a_queue(store, 2, guidelines="old")
    changed = projects.change(store, "voices", actor="boss", guidelines="new", per_item=3)
    assert (changed.guidelines, changed.per_item) == ("new", 3)
    assert projects.project(store, "voices") == changed
    assert slots(store) == dict.fromkeys(ids, 3)
    with store.reading() as session:
        entry = session.scalar(select(AuditRecord).filter_by(action="project.change"))
    assert entry.detail["before"] == {"guidelines": "old", "per_item": 2}
    with pytest.raises(LabelError, match="no project 'faces'; there is voices"):
        projects.project(store, "faces")
    with pytest.raises(LabelError, match="already; choose another"):
        projects.create(store, "voices", actor="boss")


def test_a_change_shifted_the_slots_by_what_another_had_changed_meanwhile(store):
    _queue, ids = a_queue(store, 2)

    def labels():  # asked for after the project was read, and before it is locked
        projects.change(store, "voices", actor="ada", per_item=4)
        yield from ("anger", "fear")

    assert projects.change(store, "voices", actor="boss", label_set=labels()).per_item == 4
    assert slots(store) == dict.fromkeys(ids, 4)


def test_a_project_whose_name_was_stored_in_another_unicode_form_could_not_be_changed(store):
    projects.create(store, "Zo\u00eb", actor="boss")
    with store.writing() as session:  # as an earlier version stored it
        session.execute(update(ProjectRecord).values(name=unicodedata.normalize("NFD", "Zo\u00eb")))
    assert projects.change(store, "Zo\u00eb", actor="boss", guidelines="new").guidelines == "new"
    assert projects.change(store, "Zo\u00eb", actor="boss", new_name="Zo\u00eb").name == "Zo\u00eb"


# Leases


def test_an_item_goes_to_two_annotators_and_to_no_third(store):
    queue, ids = a_queue(store, 3)
    assert [answer_all(queue, name) for name in ("ann", "bob", "cyn")] == [ids, ids, []]
    assert slots(store) == dict.fromkeys(ids, 0)


def test_nobody_judges_an_item_twice(store):
    queue, ids = a_queue(store, 1)
    task = queue.next("ann")[0]
    queue.submit(task.assignment_id, "ann", Answer("anger"))
    assert queue.next("ann") == []
    assert slots(store) == {ids[0]: 1}
    with pytest.raises(LabelError, match="answered already") as caught:
        queue.submit(task.assignment_id, "ann", Answer("fear"))
    assert caught.value.code == "already_submitted"
    assert rows(store, LabelRecord) == 1


def test_a_reload_or_another_device_gets_the_same_items_again(store, clock):
    queue, _ = a_queue(store, 5, clock, lease_s=60)
    first = queue.next("ann", 2)
    clock.advance(50)
    again = Queue(store, queue.project, clock=clock).next("ann", 2)
    assert [t.assignment_id for t in again] == [t.assignment_id for t in first]
    assert again[0].expires_at == clock() + timedelta(seconds=60)
    queue.submit(first[0].assignment_id, "ann", Answer("anger"))
    assert queue.next("ann", 2)[0].item_id == first[1].item_id


def test_a_lease_that_ran_out_frees_its_slot(store, clock):
    queue, (item,) = a_queue(store, 1, clock, per_item=1, lease_s=60)
    queue.next("ann")
    clock.advance(59)
    assert queue.next("bob") == []
    clock.advance(2)
    assert queue.next("bob")[0].item_id == item
    assert slots(store) == {item: 0}


def test_a_late_answer_counts_while_the_slot_is_free_and_else_says_that_nothing_was_stored(store, clock):
    queue, (item, _) = a_queue(store, 2, clock, per_item=1, lease_s=60)
    mine = queue.next("ann")[0]
    clock.advance(61)
    assert queue.next("bob")[0].item_id == item
    with pytest.raises(LabelError, match="others have judged it.*still on the page") as caught:
        queue.submit(mine.assignment_id, "ann", Answer("anger", comment="long thoughts"))
    assert caught.value.code == "lease_lost"
    assert rows(store, LabelRecord) == 0
    clock.advance(61)
    queue.next("cyn", 1)  # bob's ran out, cyn holds the first item now
    clock.advance(61)
    queue.next("dan", 2)
    for lease in queue.next("dan", 2):
        queue.release(lease.assignment_id, "dan")
    assert len(queue.submit(mine.assignment_id, "ann", Answer("anger")).label_ids) == 1
    assert slots(store)[item] == 0


def test_a_late_answer_from_an_old_tab_counts_on_the_new_lease(store, clock):
    queue, (item,) = a_queue(store, 1, clock, lease_s=60)
    old = queue.next("ann")[0]
    clock.advance(61)
    new = queue.next("ann")[0]
    assert new.assignment_id != old.assignment_id
    queue.submit(old.assignment_id, "ann", Answer("anger"))
    assert slots(store) == {item: 1}
    assert queue.next("ann") == []
    with pytest.raises(LabelError, match="answered already"):
        queue.submit(new.assignment_id, "ann", Answer("anger"))


def test_released_and_renewed(store, clock):
    queue, (item,) = a_queue(store, 1, clock, per_item=1, lease_s=60)
    task = queue.next("ann")[0]
    clock.advance(59)
    assert queue.next("ann")[0].expires_at == clock() + timedelta(seconds=60)
    clock.advance(59)
    assert queue.next("bob") == []
    queue.release(task.assignment_id, "ann")
    queue.release(task.assignment_id, "ann")  # twice gives back once
    assert slots(store) == {item: 1}
    assert queue.next("bob")[0].item_id == item
    with pytest.raises(LabelError, match="another annotator's"):
        queue.release(task.assignment_id, "bob")
    with pytest.raises(LabelError, match="no assignment 999"):
        queue.release(999, "ann")


# Answers


def test_a_skip_uses_no_slot_and_does_not_come_back(store):
    queue, (item,) = a_queue(store, 1)
    task = queue.next("ann")[0]
    queue.submit(task.assignment_id, "ann", SKIP)
    assert slots(store) == {item: 2}
    assert queue.next("ann") == []
    for name, outcome in (("bob", "cannot_tell"), ("cyn", "broken")):
        queue.submit(queue.next(name)[0].assignment_id, name, Answer(outcome=outcome))
    assert slots(store) == {item: 0}
    assert queue.next("dan") == []


def test_each_target_wants_one_answer_and_a_broken_clip_answers_all(store):
    queue, _ = a_queue(store, 2, targets=("face", "voice"), label_set=("anger", "fear"))
    task = queue.next("ann")[0]
    for wrong, words in (
        ([Answer("anger", target="face")], "one answer each for face, voice; got face"),
        ([Answer("anger", target="face"), Answer("joy", target="voice")], "no happiness; choose from anger, fear"),
        ([Answer("anger", target="face"), Answer(outcome="skip", target="voice")], "say cannot_tell"),
        ([Answer({"anger": -1}, target="face"), Answer("anger", target="voice")], "not a positive number"),
    ):
        with pytest.raises(LabelError, match=words):
            queue.submit(task.assignment_id, "ann", wrong)
    assert rows(store, LabelRecord) == 0
    answers = [Answer(outcome="cannot_tell", target="voice"), Answer("anger", target="face", intensity=0.5)]
    assert len(queue.submit(task.assignment_id, "ann", answers, lead_time_s=2.5, blind=True).label_ids) == 2
    task = queue.next("ann")[0]
    assert len(queue.submit(task.assignment_id, "ann", Answer(outcome="broken")).label_ids) == 2
    labels = list(store.labels(("label", "cannot_tell", "broken")))
    assert [(x.target, x.outcome) for x in labels] == [
        ("face", "label"),
        ("voice", "cannot_tell"),
        ("face", "broken"),
        ("voice", "broken"),
    ]
    assert (labels[0].intensity, labels[0].lead_time_s, labels[0].blind) == (0.5, 2.5, True)


def test_the_label_names_the_prediction_that_was_there_when_the_item_was_lent(store):
    queue, _ = a_queue(store, 1)
    seen = predict(store, 1, {"anger": 0.9, "fear": 0.1})
    task = queue.next("ann")[0]
    predict(store, 1, {"anger": 0.1, "fear": 0.9})
    assert (task.prediction_id, task.prediction["emotion"]) == (seen, "anger")
    assert queue.next("ann")[0].prediction_id == seen
    queue.submit(task.assignment_id, "ann", Answer("anger"))
    assert [x.prediction_id for x in store.labels()] == [seen]


def test_undo_takes_the_last_submission_back_with_new_rows_and_lends_the_item_again(store):
    queue, ids = a_queue(store, 3)
    for _ in range(2):
        queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("anger"))
    ahead = queue.next("ann", 1)[0]
    before = slots(store)
    assert queue.undo("ann").item_id == ids[1]
    assert slots(store) == before
    assert len(list(store.labels())) == 1
    with store.reading() as session:
        assert session.scalars(select(LabelRecord.outcome).order_by(LabelRecord.id)).all() == ["label", "label", UNDO]
    assert [t.item_id for t in queue.next("ann", 2)] == [ids[1], ahead.item_id]
    queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("fear"))
    assert [x.emotions for x in store.labels()] == [{"anger": 1.0}, {"fear": 1.0}]
    assert queue.undo("ann").item_id == ids[1]
    assert queue.undo("ann").item_id == ids[0]
    assert queue.undo("ann") is None
    assert queue.undo("nobody") is None
    assert rows(store, CurrentLabelRecord) == 0


def test_an_undone_skip_takes_its_slot_again(store):
    queue, (item,) = a_queue(store, 1)
    queue.submit(queue.next("ann")[0].assignment_id, "ann", SKIP)
    task = queue.undo("ann")
    assert slots(store) == {item: 1}
    queue.submit(task.assignment_id, "ann", Answer("anger"))
    assert slots(store) == {item: 1}


def test_an_item_made_anonymous_never_comes_back(store):
    queue, _ = a_queue(store, 1, per_item=3)
    ann, bob = queue.next("ann")[0], queue.next("bob")[0]
    queue.submit(ann.assignment_id, "ann", Answer("anger", comment="her at home"))
    store.delete_clip(f"{0:064x}", keep_labels=True)
    with store.reading() as session:
        assert not any(session.scalars(select(ItemSummaryRecord.commented)))
    queue.release(bob.assignment_id, "bob")
    projects.change(store, "voices", actor="boss", per_item=5)
    assert queue.next("cem") == []
    assert [label.emotions for label in store.labels()] == [{"anger": 1.0}]


def test_progress_counts_what_is_held(store):
    queue, _ = a_queue(store, 3)
    assert queue.progress("ann").remaining == 3
    queue.next("ann", 2)
    assert (queue.progress("ann").done, queue.progress("ann").remaining) == (0, 3)
    receipt = queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("anger"))
    assert (receipt.progress.done, receipt.progress.remaining) == (1, 2)


# Gold


def test_everybody_meets_each_gold_item_once_and_learns_how_they_did(store):
    queue, ids = a_queue(store, 20, gold_share=0.6, per_item=3)
    for item in ids[:3]:
        projects.set_gold(store, queue.project, item, {"anger": 0.5, "fear": 0.5}, why="a raised voice", actor="boss")
    places = {}
    for name in ("ann", "bob", "cyn"):
        places[name], order = [], []
        while tasks := queue.next(name):
            receipt = queue.submit(tasks[0].assignment_id, name, Answer("fear" if name == "ann" else "joy"))
            order.append(tasks[0].item_id)
            if receipt.gold:
                places[name].append(len(order))
                assert receipt.gold.right == (name == "ann")
                assert (receipt.gold.emotions, receipt.gold.why) == ({"anger": 0.5, "fear": 0.5}, "a raised voice")
        assert sorted(i for i in order if i in ids[:3]) == ids[:3]
        assert len(places[name]) == 3
        assert len(order) == len(set(order))
        assert (receipt.progress.gold_right, receipt.progress.gold_seen) == (3 if name == "ann" else 0, 3)
    assert len({tuple(p) for p in places.values()}) > 1  # no pattern that one could tell another
    assert {slots(store)[item] for item in ids[:3]} == {3}


def test_an_answer_whose_right_one_was_told_stays(store):
    queue, (item,) = a_queue(store, 1, gold_share=1.0)
    projects.set_gold(store, queue.project, item, "anger", actor="boss")
    queue.submit(queue.next("ann")[0].assignment_id, "ann", SKIP)
    task = queue.undo("ann")  # of a skip nothing is told
    assert not queue.submit(task.assignment_id, "ann", Answer("fear")).gold.right
    with pytest.raises(LabelError) as caught:
        queue.undo("ann")
    assert caught.value.code == "answer_told"
    assert [x.emotions for x in store.labels()] == [{"fear": 1.0}]


def test_undo_goes_past_gold_items_to_the_answer_before_them(store):
    queue, _items = a_queue(store, 3, gold_share=0.0)
    order = []
    for emotion in ("fear", "anger", "joy"):
        task = queue.next("ann")[0]
        order.append(task.item_id)
        if len(order) > 1:
            projects.set_gold(store, queue.project, task.item_id, "sadness", actor="boss")
            with store.writing() as session:
                session.get(AssignmentRecord, task.assignment_id).gold = True
        queue.submit(task.assignment_id, "ann", Answer(emotion))
    assert queue.undo("ann").item_id == order[0]
    assert sorted(x.item_id for x in store.labels()) == sorted(order[1:])
    queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("surprise"))
    assert queue.undo("ann").item_id == order[0]


def test_an_answer_given_again_is_not_blind(store):
    queue, _ = a_queue(store, 1)
    task = queue.next("ann")[0]
    queue.submit(task.assignment_id, "ann", Answer("anger"), blind=True)
    queue.undo("ann")
    queue.release(task.assignment_id, "ann")
    queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("fear"), blind=True)
    assert [(x.emotions, x.blind) for x in store.labels()] == [({"fear": 1.0}, False)]


def test_the_share_of_gold_items_is_about_what_was_asked_for(store):
    queue, ids = a_queue(store, 300, gold_share=0.2)
    for item in ids[:100]:
        projects.set_gold(store, queue.project, item, "anger", actor="boss")
    for i in range(10):
        queue.next(f"annotator {i}", 20)
    with store.reading() as session:
        drawn = Counter(session.scalars(select(AssignmentRecord.gold)))
    assert 0.06 < drawn[True] / 200 < 0.34  # five standard deviations to each side


def test_gold_can_be_taken_back(store):
    queue, (item,) = a_queue(store, 1)
    projects.set_gold(store, queue.project, item, "anger", actor="boss")
    assert queue.next("ann") == []  # no share of gold here
    projects.set_gold(store, queue.project, item, {}, actor="boss")
    assert queue.next("ann")[0].item_id == item
    with pytest.raises(LabelError, match="asks about all, not 'face'"):
        projects.set_gold(store, queue.project, item, "anger", target="face", actor="boss")


# Order


def test_scores_worked_out_by_hand():
    assert uncertainty({"anger": 1.0}) == 0
    assert uncertainty({"anger": 0.5, "fear": 0.5}) == pytest.approx(1 / np.log2(7))
    assert uncertainty(dict.fromkeys("abcdefg", 1 / 7)) == pytest.approx(1)
    assert margin({"anger": 0.6, "fear": 0.3, "joy": 0.1}) == pytest.approx(0.7)
    one, other = ({"probs": {e: 1.0}, "emotion": e} for e in ("anger", "fear"))
    assert branches({"face": one, "voice": other, "text": None}) == pytest.approx(1)
    assert branches({"face": one, "voice": other, "text": one}) == pytest.approx(2 / 3)  # two of three pairs differ
    assert branches({"face": one, "voice": None, "text": None}) == 0
    half = {"probs": {"anger": 0.5, "fear": 0.5}}  # middle (3/4, 1/4): (log2(4/3) + log2(2/3)/2 + log2(2)/2) / 2
    assert branches({"face": one, "voice": half}) == pytest.approx(0.311278, abs=1e-6)


def test_k_center_takes_the_farthest_each_time():
    line = np.float32([[0.0], [1.0], [2.0], [10.0], [14.0]])
    picks, distance = k_center(line, 3)  # the mean is 5.4: 2 is nearest to it, then 14 is 12 away, then 10 is 4 away
    assert picks == [2, 4, 3]
    assert distance.tolist() == [2, 1, 0, 0, 0]
    assert k_center(line, 2, centers=np.float32([[14.0]]))[0] == [0, 3]
    assert sorted(k_center(np.zeros((4, 2), np.float32), 4)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("order", "expected"), [("uncertainty", [1, 2, 0, 3]), ("margin", [2, 1, 0, 3]), ("random", None)]
)
def test_the_order_of_the_model_decides_what_comes_first(store, order, expected):
    project = projects.create(store, "voices", order=order, gold_share=0.0, actor="boss")
    spread = dict.fromkeys(("anger", "disgust", "fear", "happiness"), 0.2) | {"anger": 0.4}
    ids = fill(
        store, project, 4, probs=[{"anger": 0.9, "fear": 0.1}, spread, {"anger": 0.5, "fear": 0.5}, {"anger": 1.0}]
    )
    queue = Queue(store, project)
    assert queue.rank(seed=1) == 4
    came = answer_all(queue, "ann")
    if expected:
        assert came == [ids[i] for i in expected]
    else:
        assert sorted(came) == ids
        assert answer_all(queue, "bob") == came
        queue.rank(seed=2)
        assert answer_all(queue, "cyn") == []


def test_new_predictions_reorder_the_queue_without_being_asked(store):
    queue, ids = a_queue(store, 3)
    predict(store, 3, {"anger": 0.5, "fear": 0.5})
    predict(store, 2, {"anger": 0.9, "fear": 0.1})
    assert answer_all(queue, "ann") == [ids[2], ids[1], ids[0]]
    predict(store, 2, dict.fromkeys(("anger", "fear", "joy", "sadness"), 0.25))
    assert queue.next("bob")[0].item_id == ids[1]


def test_an_item_without_a_majority_comes_back_up_to_a_maximum(store):
    queue, (agreed, split) = a_queue(store, 2, order="annotators")
    said = {"ann": "anger", "bob": "fear", "cyn": "joy", "dan": "anger", "eve": "anger"}
    for name, emotion in said.items():
        for task in queue.next(name, 2):
            queue.submit(task.assignment_id, name, Answer("anger" if task.item_id == agreed else emotion))
    with store.reading() as session:
        judged = Counter(session.scalars(select(CurrentLabelRecord.item_id)))
    assert judged == {agreed: 2, split: 2 + EXTRA_ANNOTATORS}


def test_ranking_by_annotators_reopens_what_was_full(store):
    queue, (agreed, split, fresh) = a_queue(store, 3)
    for name, emotion in (("ann", "anger"), ("bob", "fear")):
        for task in queue.next(name, 2):
            queue.submit(task.assignment_id, name, Answer("anger" if task.item_id == agreed else emotion))
    assert slots(store) == {agreed: 0, split: 0, fresh: 2}
    queue.rank("annotators")
    assert slots(store) == {agreed: 0, split: 1, fresh: 2}
    queue.rank("annotators")
    assert slots(store)[split] == 1  # once is enough
    assert [t.item_id for t in queue.next("cyn", 3)] == [split, fresh]


def test_diversity_starts_from_what_is_labelled(store):
    project = projects.create(store, "voices", order="diversity", gold_share=0.0, actor="boss")
    ids = fill(store, project, 5, embeddings=[[0.0], [1.0], [2.0], [10.0], [14.0]])
    queue = Queue(store, project)
    queue.rank()
    assert queue.next("ann")[0].item_id == ids[2]
    queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("anger"))
    queue.rank()
    assert [t.item_id for t in queue.next("ann", 4)] == [ids[4], ids[3], ids[0], ids[1]]


def test_an_annotator_with_many_items_goes_on_where_the_search_ended(store):
    queue, ids = a_queue(store, 12, full_search_limit=2)
    assert answer_all(queue, "ann") == ids  # equal priorities
    queue.rank("random")
    order = answer_all(queue, "bob")
    assert sorted(order) == ids
    assert order != ids
    assert Queue(store, queue.project).next("ann") == []
    assert projects.add_items(store, queue.project, [store.utterance(1, 0.0, 1.0)]) == 1
    assert len(queue.next("ann")) == 1  # new items are found though the search had come to the end


# Races


def race(n, job):
    """Run a job n times at once and return what each returned or raised."""
    results, start = [None] * n, threading.Barrier(n)

    def run(i):
        start.wait()
        try:
            results[i] = job(i)
        except LabelError as error:
            results[i] = error.code

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_twelve_threads_race_for_two_slots(store):
    queue, (item,) = a_queue(store, 1)
    got = race(12, lambda i: len(queue.next(f"annotator {i}")))
    assert sorted(got) == [0] * 10 + [1] * 2
    assert slots(store) == {item: 0}


def test_one_annotator_in_eight_tabs_holds_an_item_once(store):
    queue, _ = a_queue(store, 3)
    got = race(8, lambda i: queue.next("ann")[0].assignment_id)
    assert len(set(got)) == 1
    codes = race(8, lambda i: len(queue.submit(got[0], "ann", Answer("anger")).label_ids))
    assert sorted(map(str, codes)) == ["1"] + ["already_submitted"] * 7
    assert rows(store, LabelRecord) == 1


def test_a_late_answer_races_for_the_slot_with_a_new_lease(store, clock):
    queue, _ = a_queue(store, 1, clock, per_item=1, lease_s=60)
    mine = queue.next("ann")[0]
    clock.advance(61)
    jobs = (
        lambda: len(queue.submit(mine.assignment_id, "ann", Answer("anger")).label_ids),
        lambda: len(queue.next("bob")),
    )
    late, lent = race(2, lambda i: jobs[i]())
    assert (late, lent) in ((1, 0), ("lease_lost", 1))


def test_processes_label_at_once_without_losing_or_doubling_one(database, tmp_path):
    report = load.measure(
        database, tmp_path / "media", n_annotators=6, n_processes=2, seconds=2, n_items=60, lease_s=60
    )
    assert report.problems == []
    assert report.n_labels >= 6  # each annotator at least one


@on_sqlite
def test_the_search_for_the_next_item_reads_an_index_and_not_all_items(store):
    queue, _ = a_queue(store, 3)
    asked = []
    event.listen(store.engine, "before_cursor_execute", lambda c, cursor, sql, values, *_: asked.append((sql, values)))
    queue.next("ann")
    (search,) = [(sql, values) for sql, values in asked if sql.startswith("SELECT items.id, items.priority")]
    with store.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {search[0]}", search[1])]
    assert plan[0] == "SEARCH items USING INDEX ix_items_open (project_id=?)"
    assert "ux_assignments (item_id=? AND annotator_id=?)" in plan[-1]
