"""What was promised to recorded people: nobody is found after a deletion, nothing is kept that was not agreed to."""

import hashlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from annotations import retention
from annotations.__main__ import main
from annotations.accounts import Accounts
from annotations.db import backup
from annotations.db.schema import AnnotatorRecord, ClipRecord
from annotations.queue import projects
from annotations.store import Store
from annotations.text import MAX_CHARACTERS
from mmer.config import ROOT
from mmer.errors import LabelError
from tests.test_annotations import RESULT

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


def taken_in(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("*")] if folder.exists() else []


def test_a_save_that_failed_kept_the_recording(store, tmp_path):
    file = tmp_path / "talk.wav"
    file.write_bytes(b"a voice")
    sha256 = hashlib.sha256(b"a voice").hexdigest()
    clip = {"name": "talk.wav", "speaker": "ann", "consent_text": "yes"}
    other = store.add_prediction(store.register_clip(None, "b" * 64, name="b"), RESULT)
    for label, prediction in (
        ({"emotions": "anger", "confidence": 3}, RESULT),
        ({"emotions": "anger"}, other),  # of another clip
        ({"emotions": "anger"}, {**RESULT, "emotion": "boredom"}),
    ):
        with pytest.raises(LabelError):
            store.save(file, sha256, "ann", clip=clip, prediction=prediction, label=label)
        assert taken_in(store.media_dir) == []
        assert store.deleted([sha256]) == {sha256}
    numbers = {**clip, "features": b"numbers"}
    with pytest.raises(LabelError):
        store.save(None, sha256, "ann", clip=numbers, label={"emotions": "anger", "confidence": 3})
    assert taken_in(store.features_dir) == []
    _, seen, _ = store.save(file, sha256, "ann", clip=clip, prediction=RESULT, label={"emotions": "anger"})
    store.save(file, sha256, "ann", clip=clip, prediction=seen, label={"emotions": "fear"})
    assert taken_in(store.media_dir) == [f"{sha256}.wav"]
    assert [(label.emotions, label.prediction_id) for label in store.labels()] == [({"fear": 1.0}, seen)]


ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from annotations import retention
from mmer.errors import LabelError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a file that cannot grow, as on a full disk
folder = Path(sys.argv[1])
for take in (
    lambda: retention.write_to_temporary(b"x" * 5000, "a" * 64, folder / "features"),
    lambda: retention.copy_to_temporary(folder / "clip.wav", "a" * 64, folder / "media"),
):
    try:
        take()
    except LabelError as error:
        print(error.code)
print(*folder.rglob("*.tmp"))
"""


def test_a_full_disk_was_our_fault(tmp_path):
    (tmp_path / "clip.wav").write_bytes(b"x" * 5000)
    command = [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["disk_full", "disk_full"], run.stderr


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_others_on_the_machine_could_read_the_database_and_the_media(tmp_path):
    home, before = tmp_path / "new" / "home", os.umask(0o022)
    try:
        file = tmp_path / "talk.wav"
        file.write_bytes(b"a voice")
        (home.parent / "home" / "media").mkdir(parents=True)
        store = Store(f"sqlite:///{home / 'mmer.db'}", home / "media", home / "features")
        sha256 = hashlib.sha256(b"a voice").hexdigest()
        store.register_clip(file, sha256, name="talk.wav", consent_text="yes")
        store.register_clip(None, "b" * 64, name="b", consent_text="yes", features=b"numbers")
        backup.backup(str(store.engine.url), home / "copies" / "one.db")
        backup.restore(str(store.engine.url), home / "copies" / "one.db")
        other = Store(f"sqlite:///{tmp_path / 'deep' / 'er' / 'mmer.db'}", home / "media")
    finally:
        os.umask(before)
    files = [file for file in home.rglob("*") if file.is_file()]
    assert {file.name: oct(mode(file)) for file in files if mode(file) & 0o077} == {}
    assert len(files) >= 6  # the database, two beside it, two copies, media and features
    assert [oct(mode(home / folder)) for folder in ("media", "features")] == ["0o700", "0o700"]
    assert [oct(mode(tmp_path / "deep" / folder)) for folder in ("", "er")] == ["0o700", "0o700"]
    for opened in (store, other):
        opened.engine.dispose()


def test_two_restores_within_a_second_kept_one_old_database(tmp_path):
    url, copy = f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "one.db"
    store = Store(url, tmp_path / "media")
    backup.backup(url, copy)
    store.register_clip(None, "a" * 64, name="a")
    kept = [backup.restore(url, copy)[1] for _ in range(3)]
    assert len(set(kept)) == 3
    assert [sqlite3.connect(file).execute("SELECT count(*) FROM clips").fetchone()[0] for file in kept] == [1, 0, 0]
    store.engine.dispose()


def test_a_deletion_left_the_upload_and_the_state_of_a_shared_page(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media", tmp_path / "features", tmp_path / "uploads")
    sha256 = hashlib.sha256(b"a voice").hexdigest()
    clip = store.register_clip(None, sha256, name="talk.wav", speaker="nickname")
    store.add_label(clip, "ann", "anger")
    lying = {
        "uploads/0123/talk.wav": b"a voice",
        "uploads/tmpab12": b"a voice",  # an upload that was broken off
        "uploads/deep_links/xyz/state.json": b'{"speaker": "nickname", "comment": "her trembling voice"}',
        "uploads/4567/result.json": json.dumps({"sha256": sha256}).encode(),
        "uploads/4567/other.wav": b"another voice",
    }
    for name, content in lying.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert store.delete_speaker("nickname").files == 4
    store.engine.dispose()
    left = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert left.pop(tmp_path / "uploads/4567/other.wav") == b"another voice"
    for file, content in left.items():
        for trace in (b"a voice", sha256.encode(), b"nickname", b"trembling"):
            assert trace not in content, (file, trace)


def test_the_advice_after_a_trace_was_left_ended_with_an_unknown_clip(tmp_path, monkeypatch):
    monkeypatch.setattr("annotations.db.engine.BUSY_S", 0.1)  # a patience: nothing else is different
    url = f"sqlite:///{tmp_path / 'mmer.db'}"
    store = Store(url, tmp_path / "media", tmp_path / "features")
    store.register_clip(None, "a" * 64, name="a")
    reader = sqlite3.connect(tmp_path / "mmer.db")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM clips").fetchone()
    with pytest.raises(LabelError, match="then run `python -m annotations vacuum`, which clears it") as left:
        store.delete_clip("a" * 64)
    assert left.value.code == "trace_left"
    with pytest.raises(LabelError, match="another program reads the database"):
        retention.vacuum(store.engine, store.media_dir, store.features_dir)
    reader.close()
    assert main(["vacuum", "--database", url]) == 0
    store.engine.dispose()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"a" * 64 in file.read_bytes()]


def test_half_a_character_in_a_name_to_look_for_was_our_fault(store):
    for look in (
        lambda: store.undo(1, "\ud800"),
        lambda: store.delete_speaker("\ud800"),
        lambda: projects.project(store, "\ud800"),
    ):
        with pytest.raises(LabelError) as refused:
            look()
        assert refused.value.code in ("bad_text", "unknown_clip", "unknown_project")
