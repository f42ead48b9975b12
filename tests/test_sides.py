"""What a clip is for in retraining is decided when it is first seen, and stays."""

import hashlib

from sqlalchemy import select

from annotations.choices import HELD_OUT, SIDES, STRANGER, TRAIN
from annotations.db.schema import ClipRecord
from annotations.store import Store
from training.corrections.history import JUDGED, learned_from, looks


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def side_of(store: Store, name: str) -> str:
    with store.reading() as session:
        return session.scalar(select(ClipRecord.side).where(ClipRecord.sha256 == sha(name)))


def store_in(tmp_path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media")


def test_a_name_typed_later_moves_no_clip(tmp_path):
    """44 of 140 clips that had been learned from became held-out ones, and 44 of 60 the other way."""
    store = store_in(tmp_path)
    names = [f"clip {i}" for i in range(200)]
    for name in names:
        store.register_clip(None, sha(name), name=name)
    before = {name: side_of(store, name) for name in names}
    assert set(before.values()) == {TRAIN, HELD_OUT}
    assert 20 <= sum(side == HELD_OUT for side in before.values()) <= 60  # a fifth
    for i, name in enumerate(names):
        clip = store.register_clip(None, sha(name), name=name, speaker=f"nickname {i % 7}")
        store.add_label(clip, "anna", "anger")
    assert {name: side_of(store, name) for name in names} == before
    assert {label.sha256: label.side for label in store.labels()} == {sha(n): s for n, s in before.items()}


def test_every_sixth_speaker_is_a_stranger_with_all_clips(tmp_path):
    store = store_in(tmp_path)
    for i in range(120):
        store.register_clip(None, sha(f"{i}"), name="x", speaker=f"speaker {i % 12}")
    found = {s: {side_of(store, f"{i}") for i in range(120) if i % 12 == s} for s in range(12)}
    assert {s for s, sides in found.items() if sides == {STRANGER}} == {5, 11}
    assert all(STRANGER not in sides for s, sides in found.items() if s not in (5, 11))
    assert set().union(*found.values()) == set(SIDES)


def test_clips_of_one_speaker_with_the_same_words_are_on_one_side(tmp_path):
    store = store_in(tmp_path)
    for sentence in range(30):
        for take in range(3):
            name = f"{sentence} {take}"
            store.register_clip(None, sha(name), name=name, speaker="zoe", words=f"This is  Sentence {sentence}")
    sides = [{side_of(store, f"{sentence} {take}") for take in range(3)} for sentence in range(30)]
    assert all(len(found) == 1 for found in sides)
    assert {side for found in sides for side in found} == {TRAIN, HELD_OUT}


def test_runs_know_what_their_parents_learned_from_and_what_has_measured_before(tmp_path):
    store = store_in(tmp_path)
    labels = {}
    for i in range(40):
        clip = store.register_clip(None, sha(f"{i}"), name="x")
        labels[f"{i}"] = store.add_label(clip, "anna", "anger")
    learned = {name for name in labels if side_of(store, name) == TRAIN}
    older, newer = ({n for n in labels if int(n) < 20}, {n for n in labels if int(n) >= 20})
    for parent, checkpoint, used in (("base", "one", older), ("one", "two", newer)):
        run = store.start_run(parent)
        ids = [labels[name] for name in used]
        measured = {JUDGED: [sha(name) for name in used]}
        store.finish_run(run, "promoted", checkpoint=checkpoint, report={}, clips=measured, label_ids=ids)
    assert learned_from(store, "base") == set()
    assert learned_from(store, "one") == {sha(n) for n in older & learned}
    assert learned_from(store, "two") == {sha(n) for n in learned}
    assert looks(store, [sha("0"), sha("new")]) == 0.5
    assert looks(store, []) == 0.0
