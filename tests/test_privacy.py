"""What was promised to recorded people: nobody is found again after a deletion, nothing is kept that was not agreed to."""

import unicodedata

import pytest

from annotations.accounts import Accounts
from annotations.db.schema import AnnotatorRecord, ClipRecord
from annotations.queue import projects
from annotations.text import MAX_CHARACTERS
from mmer.errors import LabelError

NFC, NFD = "Zo\u00eb", "Zoe\u0308"


def test_a_speaker_spelt_in_other_characters_survived_the_deletion(store):
    first = store.register_clip(None, "a" * 64, name="a.wav", speaker=NFC)
    second = store.register_clip(None, "b" * 64, name="b.wav", speaker=f" {NFD}\u00a0")
    store.register_clip(None, "c" * 64, name="c.wav", speaker="zo\u00eb")
    with store.writing() as session:  # as an earlier version stored it
        session.get(ClipRecord, second).speaker = NFD
    for clip in (first, second):
        store.add_label(clip, "ann", "anger")
    assert {label.speaker for label in store.labels()} == {NFC}  # one group, which no split parts
    removal = store.delete_speaker(NFD)
    assert (removal.clips, removal.alike) == (2, ("zo\u00eb",))
    assert store.deleted(["a" * 64, "b" * 64, "c" * 64]) == {"a" * 64, "b" * 64}


def test_an_annotator_spelt_in_other_characters_was_another_person(store):
    with store.writing() as session:
        session.add(AnnotatorRecord(name=NFD))
    clip = store.register_clip(None, "a" * 64, name="a.wav")
    store.add_label(clip, NFD, "anger")
    newer = store.add_label(clip, f"{NFC} ", "fear")
    assert [label.id for label in store.labels()] == [newer]
    store.undo(newer, NFC)
    assert [label.emotions for label in store.labels()] == [{"anger": 1.0}]


def test_a_project_and_an_account_are_found_under_the_other_spelling(store, tmp_path):
    projects.create(store, NFD, actor="ada")
    assert projects.project(store, NFC).name == NFC
    with pytest.raises(LabelError, match="there is a project"):
        projects.create(store, NFC, actor="ada")
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add(NFD, "long enough", "annotator")
    assert accounts.check(NFC, "long enough") == accounts.person(NFD)
    assert unicodedata.is_normalized("NFC", accounts.person(NFD).name)


@pytest.mark.parametrize("name", ["\u200b", "ann\u200b", "\u3164", "\u2800", "a\u202eb", "\u200d", "a\nb"])
def test_a_name_that_nobody_can_see_was_accepted(store, tmp_path, name):
    clip = store.register_clip(None, "a" * 64, name="a.wav")
    for call in (
        lambda: store.add_label(clip, name, "anger"),
        lambda: store.register_clip(None, "b" * 64, name="b.wav", speaker=name),
        lambda: projects.create(store, name, actor="ada"),
        lambda: Accounts(tmp_path / "accounts.json").add(name, "long enough", "admin"),
    ):
        with pytest.raises(LabelError, match="that nobody can see") as refused:
            call()
        assert refused.value.code == "invisible_name"
    assert store.counts()["labels"] == 0


def test_text_of_any_length_went_in(store):
    clip = store.register_clip(None, "a" * 64, name="a.wav")
    for what, given in (
        ("annotator", {}),
        ("comment", {"comment": "a" * 5_001}),
        ("transcript", {"transcript": "a" * 20_001}),
    ):
        name = "a" * 10_000_000 if what == "annotator" else "ann"
        with pytest.raises(LabelError, match=f"up to {MAX_CHARACTERS[what]:,} are accepted") as refused:
            store.add_label(clip, name, "anger", **given)
        assert refused.value.code == "text_too_long"


@pytest.mark.parametrize("wrong", [3, ["ann"], {"name": "ann"}, True, None])
def test_a_name_of_another_type_was_our_fault(store, wrong):
    clip = store.register_clip(None, "a" * 64, name="a.wav")
    with pytest.raises(LabelError, match="text is needed") as refused:
        store.add_label(clip, wrong, "anger")
    assert refused.value.code == "bad_text"
