"""A backup in a folder, by fsspec or on a hub: what was acknowledged comes back on an empty disk, and nothing else."""

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, text

from annotations.__main__ import main
from annotations.accounts import Accounts
from annotations.bucket import backup as backup_module
from annotations.bucket.backup import Backup, backup_of
from annotations.bucket.place import Folder, HubDataset, open_place
from annotations.db.schema import Base
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.review.adjudication import adjudicate, final_labels
from annotations.store import Store
from mmer.config import ROOT, Paths, sqlite_url
from mmer.errors import LabelError
from tests.dataset_hub import TOKEN, dataset_hub
from tests.load import lost_disk
from tests.until import until

HASH = "ab" * 32


def paths_of(home: Path, bucket: str | Path, **changed) -> Paths:
    url = sqlite_url(home / "mmer.db")
    return replace(Paths(home=home, assets=home / "assets", database_url=url, backup=str(bucket)), **changed)


def opened(home: Path, bucket: str | Path, *, tick_s: float = 0.05, heartbeat_s: float = 10, **changed) -> Store:
    """Return a server's store, with its backup."""
    paths = paths_of(home, bucket, **changed)
    if isinstance(bucket, Path):
        bucket.mkdir(exist_ok=True)
    backup = backup_of(paths)
    assert backup is not None
    backup.place.heartbeat_s = heartbeat_s
    quick = Backup(backup.place, home / "mmer.db", paths, tick_s=tick_s)
    return Store(paths.database_url, paths.media, paths.features, paths.uploads, backup=quick)


def crash(store: Store) -> None:
    """Stop a server of this process as a power cut would: nothing more is sent, nothing released."""
    backup = store.backup
    stop(store)
    # A record of a process that is no more: this one lives on.
    for name in backup.place.names("owners"):
        record = json.loads(backup.place.read(name)) | {"at": "2026-01-01T00:00:00+00:00", "machine": ""}
        backup.place.write(name, json.dumps(record).encode())


def stop(store: Store) -> None:
    """Stop a server without a last word."""
    store.backup._stop.set()
    for thread in (store.backup._thread, store.backup._beats):
        thread.join()
    store.engine.dispose()


def rows_of(store: Store) -> dict[str, list]:
    with store.reading() as session:
        return {
            table.name: sorted(map(tuple, session.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }


def work(store: Store) -> None:
    """Do a little of everything that people do."""
    clip = store.register_clip(None, HASH, name="a.wav", speaker="zaphod")
    first = store.add_label(clip, "ann", "anger", comment="é\u2028 'quoted'", confidence=0.1 + 0.2)
    store.add_label(clip, "bea", {"fear": 2, "anger": 1})
    store.undo(first, "ann")
    store.add_label(clip, "ann", outcome="skip")
    store.utterance(clip, 0.5, 1.5, transcript="so", embedding=bytes(range(256)))
    project = projects.create(store, "voices", actor="test")
    projects.add_items(store, project, [store.utterance(clip)])
    queue = Queue(store, project)
    (task,) = queue.next("ann", 1)
    queue.submit(task.assignment_id, "ann", Answer(emotions="sadness"))
    queue.undo("ann")
    adjudicate(store, clip, None, None, "all", "anger", "rita")
    store.finish_run(store.start_run("base"), "refused", report={"n": 1}, label_ids=[first])


def events(bucket: Path) -> list[Path]:
    return sorted((bucket / "events").rglob("*.jsonl"))


def test_what_was_acknowledged_comes_back_on_an_empty_disk(tmp_path):
    """Every table, row by row: labels, undo, skip, leases, final words, runs, and the ids that were given out."""
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    work(store)
    store.backup._send(everything=True)  # leases go with the next answer, or within seconds
    before, sequences = rows_of(store), ids_of(store)
    crash(store)
    assert before["labels"]
    assert before["adjudications"]
    again = opened(tmp_path / "two", bucket)
    assert rows_of(again) == before
    assert ids_of(again) == sequences
    with again.reading() as session:
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    assert final_labels(again) == {(HASH, None, None, "all"): {"anger": 1.0}}
    again.add_label(1, "cyd", "happiness")  # and it goes on
    after = rows_of(again)
    crash(again)
    assert rows_of(opened(tmp_path / "three", bucket)) == after


def ids_of(store: Store) -> dict[str, int]:
    with store.reading() as session:
        return dict(session.execute(text("SELECT name, seq FROM sqlite_sequence")).all())


def test_an_object_store_that_cannot_append_keeps_every_event(tmp_path):
    """fsspec's memory file system, as s3:// and hf:// are reached: each event is an object of its own."""
    url = f"memory://{tmp_path.name}/backup"
    store = opened(tmp_path / "one", url)
    work(store)
    store.backup._send(everything=True)
    before = rows_of(store)
    names = store.backup.place.names("events")
    assert len(names) > 10
    assert all(len(store.backup.place.read(name).splitlines()) == 1 for name in names)
    crash(store)
    assert rows_of(opened(tmp_path / "two", url)) == before


def test_a_dataset_on_the_hub_is_private_and_gives_everything_back(tmp_path):
    """Through huggingface_hub to a server of its API; what a deletion takes is in no older commit either."""
    with dataset_hub() as (url, repo):

        def on_hub(home: Path) -> Store:
            paths = paths_of(home, "hf-dataset:lab/labels", space="lab/space")
            place = HubDataset("lab/labels", endpoint=url, token=TOKEN)
            backup = Backup(place, home / "mmer.db", paths, tick_s=600)
            return Store(paths.database_url, paths.media, paths.features, backup=backup)

        store = on_hub(tmp_path / "one")
        assert repo.private is True
        work(store)
        store.register_clip(None, "cd" * 32, name="b.wav", speaker="trillian")
        store.delete_speaker("zaphod")
        assert len(repo.history) == 1
        assert [name for name, content in repo.files.items() if HASH.encode() in content or b"zaphod" in content] == []
        store.add_label(2, "ann", "fear")
        before = rows_of(store)
        stop(store)
        again = on_hub(tmp_path / "two")  # the same Space
        assert rows_of(again) == before
        again.backup.close()


def test_a_public_dataset_gets_no_label():
    with dataset_hub() as (url, repo):
        repo.private = False
        with pytest.raises(LabelError, match="hf-dataset:lab/labels is public, and a backup holds recordings"):
            HubDataset("lab/labels", endpoint=url, token=TOKEN)
        assert repo.history == [{}]


def test_a_label_was_called_saved_before_the_backup_had_it(tmp_path):
    """Also undo and final words: when the call returns, the row is in a file of the bucket."""
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket, tick_s=600)  # nothing but the call itself sends
    clip = store.register_clip(None, HASH, name="a.wav")
    seen = b"".join(file.read_bytes() for file in events(bucket))
    assert HASH.encode() in seen
    label = store.add_label(clip, "ann", "anger", comment="a scowl")
    assert b"a scowl" in b"".join(file.read_bytes() for file in events(bucket))
    undone = store.undo(label, "ann")
    lines = [json.loads(line) for file in events(bucket) for line in file.read_bytes().splitlines()]
    assert {"id": undone, "outcome": "undo", "supersedes": label}.items() <= dict(lines[-1]["rows"])["labels"].items()
    store.backup.close()


def test_what_is_only_lent_waits_for_the_answer(tmp_path):
    """A bucket far away answers in a second, and nobody waits for it twice an item."""
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket, tick_s=600)
    project = projects.create(store, "voices", actor="test")
    projects.add_items(store, project, [store.utterance(store.register_clip(None, HASH, name="a.wav"))])
    queue = Queue(store, project)
    queue.release(queue.next("ann", 1)[0].assignment_id, "ann")  # ann is new, which is no lease
    (file,) = events(bucket)
    n_lines = len(file.read_bytes().splitlines())
    (task,) = queue.next("ann", 1)
    assert len(file.read_bytes().splitlines()) == n_lines
    queue.submit(task.assignment_id, "ann", Answer(emotions="sadness"))
    lines = file.read_bytes().splitlines()
    assert len(lines) == n_lines + 1
    sent = [table for table, _ in json.loads(lines[-1])["rows"]]
    assert sorted(set(sent)) == ["assignments", "current_labels", "items", "labels", "standings"]
    store.backup.close()


def test_what_another_program_writes_is_in_the_backup_too(tmp_path):
    store = opened(tmp_path / "one", tmp_path / "bucket")
    store.register_clip(None, HASH, name="a.wav")
    with closing(sqlite3.connect(tmp_path / "one" / "mmer.db")) as connection, connection:
        connection.execute("UPDATE clips SET speaker = 'zaphod'")
    until(lambda: b"zaphod" in b"".join(file.read_bytes() for file in events(tmp_path / "bucket")))
    crash(store)


def test_half_a_last_line_is_passed_over_and_said(tmp_path, caplog):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    before = rows_of(store)
    store.add_label(clip, "bea", "fear")
    crash(store)
    (file,) = events(bucket)
    file.write_bytes(file.read_bytes()[:-20])
    again = opened(tmp_path / "two", bucket)
    assert rows_of(again) == before
    assert "the last line, of a write that was broken off, of events/" in caplog.text
    crash(again)


def test_a_damaged_snapshot_falls_back_to_the_one_before(tmp_path, caplog):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    for n, emotion in enumerate(("anger", "fear", "sadness")):
        store.add_label(clip, f"annotator {n}", emotion)
        store.backup.snapshot()
    projects.create(store, "voices", actor="test")
    with store.writing(sends=False) as session:  # committed, and not sent when the next snapshot comes
        session.execute(text("UPDATE clips SET speaker = 'zaphod'"))
    store.backup.snapshot()
    store.add_label(clip, "dee", "disgust")
    before = rows_of(store)
    crash(store)
    databases, manifests = (sorted((bucket / "snapshots").glob(f"*.{end}")) for end in ("db", "json"))
    assert len(databases) == 3
    damaged = bytearray(databases[-1].read_bytes())
    damaged[5000] ^= 1
    databases[-1].write_bytes(damaged)
    manifests[-2].write_bytes(manifests[-2].read_bytes()[:-70])
    again = opened(tmp_path / "two", bucket)
    assert rows_of(again) == before
    assert [databases[-1].name in caplog.text, manifests[-2].name in caplog.text] == [True, True]
    crash(again)
    for file in (bucket / "snapshots").glob("*.db"):
        file.write_bytes(b"no database")
    with pytest.raises(LabelError, match="has no whole snapshot; nothing was changed"):
        opened(tmp_path / "three", bucket)
    assert not (tmp_path / "three" / "mmer.db").exists()


def test_an_event_that_two_processes_sent_counts_once(tmp_path):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    work(store)
    store.backup._send(everything=True)
    before = rows_of(store)
    crash(store)
    (file,) = events(bucket)
    lines = file.read_bytes().splitlines(keepends=True)
    file.with_name(file.name.replace(".jsonl", "x.jsonl")).write_bytes(b"".join(reversed(lines)))
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_a_missing_event_is_not_passed_over_in_silence(tmp_path, caplog):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    store.add_label(clip, "bea", "fear")
    store.add_label(clip, "ann", "sadness")
    crash(store)
    (file,) = events(bucket)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line for line in lines if b'"name":"bea"' not in line))
    paths = paths_of(tmp_path / "two", bucket)
    with pytest.raises(LabelError, match=r"changes \d+ to \d+ are missing in the backup .* --allow-missing"):
        backup_of(paths).open()
    assert not (tmp_path / "two" / "mmer.db").exists()
    found = backup_of(paths).open(allow_missing=True)
    assert found.n_labels == 2
    assert "it goes on without them" in caplog.text


def test_labels_that_name_a_lost_row_go_with_it(tmp_path, caplog):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    store.add_label(clip, "ann", "fear")
    store.add_label(clip, "bea", "fear")
    crash(store)
    (file,) = events(bucket)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line for line in lines if b'"name":"ann"' not in line))
    found = backup_of(paths_of(tmp_path / "two", bucket)).open(allow_missing=True)
    assert found.n_labels == 1  # bea's
    assert "has lost its row of annotators" in caplog.text


def test_two_servers_on_one_backup_lost_each_others_labels(tmp_path):
    bucket = tmp_path / "bucket"
    first = opened(tmp_path / "one", bucket, space="lab/first", heartbeat_s=0.1)
    clip = first.register_clip(None, HASH, name="a.wav")
    paths = paths_of(tmp_path / "two", bucket, space="lab/second")
    second = backup_of(paths)
    second.place.heartbeat_s = 0.5
    with pytest.raises(LabelError, match=f"the Space lab/first writes to the backup at {bucket}, last at 20"):
        second.open()
    assert not (tmp_path / "two" / "mmer.db").exists()
    first.add_label(clip, "ann", "anger")  # and the first was not disturbed
    first.backup.close()
    second.open()  # once it has ended
    second.close()


def test_a_space_that_starts_anew_takes_over_at_once_and_the_old_one_saves_nothing_more(tmp_path):
    bucket = tmp_path / "bucket"
    old = opened(tmp_path / "one", bucket, space="lab/first", tick_s=600)
    clip = old.register_clip(None, HASH, name="a.wav")
    since = time.monotonic()
    new = opened(tmp_path / "two", bucket, space="lab/first")
    assert time.monotonic() - since < 20  # it did not wait for three heartbeats
    with pytest.raises(LabelError, match="another server has taken over the backup") as refused:
        old.add_label(clip, "ann", "anger")
    assert refused.value.code == "backup_taken"
    new.add_label(clip, "bea", "fear")
    before = rows_of(new)
    stop(old)
    crash(new)
    assert rows_of(opened(tmp_path / "three", bucket)) == before


def test_a_server_that_died_is_replaced_after_its_heartbeats_stopped(tmp_path):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    store.register_clip(None, HASH, name="a.wav")
    stop(store)
    (record,) = (bucket / "owners").glob("*.json")
    elsewhere = json.loads(record.read_text()) | {"machine": "another"}
    record.write_text(json.dumps(elsewhere))
    again = backup_of(paths_of(tmp_path / "two", bucket))
    again.place.heartbeat_s = 0.1
    assert again.open().n_labels == 0


def test_a_first_start_that_was_cut_short_made_the_backup_useless(tmp_path):
    """Killed within the first snapshot: nothing was acknowledged, and the next start begins anew."""
    bucket = tmp_path / "bucket"
    crash(opened(tmp_path / "one", bucket))
    for manifest in (bucket / "snapshots").glob("*.json"):
        manifest.unlink()
    crash(opened(tmp_path / "two", bucket))


def test_a_start_that_was_cut_short_after_its_claim_begins_again(tmp_path):
    """Of an owner that never noted where it began nothing counts, so nobody may go on as that one."""
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    crash(store)
    newest = max((bucket / "epochs").iterdir())
    newest.unlink()
    again = opened(tmp_path / "one", bucket)
    again.add_label(clip, "ann", "anger")
    before = rows_of(again)
    crash(again)
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_a_restored_file_replaced_the_database_and_not_its_backup(tmp_path, monkeypatch):
    """`restore FILE` goes back: labels since then must not come out of the backup again."""
    home, bucket = tmp_path / "one", tmp_path / "bucket"
    store = opened(home, bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    monkeypatch.setenv("MMER_HOME", str(home))
    monkeypatch.setenv("MMER_BACKUP", str(bucket))
    assert main(["backup", str(tmp_path / "copy.db")]) == 0
    store.add_label(clip, "bea", "fear")
    assert main(["restore", str(tmp_path / "copy.db")]) == 0
    store.add_label(clip, "cyd", "sadness")  # by the server, which has it open
    before = rows_of(store)
    assert [row[-2] for row in before["annotators"]] == ["ann", "cyd"]
    crash(store)
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_recover_makes_the_database_without_a_server(tmp_path, monkeypatch, capsys):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    work(store)
    store.backup._send(everything=True)
    before = rows_of(store)
    crash(store)
    monkeypatch.setenv("MMER_HOME", str(tmp_path / "two"))
    monkeypatch.setenv("MMER_BACKUP", str(bucket))
    assert main(["recover"]) == 0
    assert "6 label rows: the snapshot of 20" in capsys.readouterr().out
    assert rows_of(Store(sqlite_url(tmp_path / "two" / "mmer.db"), tmp_path / "two" / "media")) == before
    assert main(["recover"]) == 1
    assert "nothing_to_recover: the backup is empty, or" in capsys.readouterr().err


def test_a_database_of_its_own_is_not_mixed_with_the_backups(tmp_path):
    crash(opened(tmp_path / "one", tmp_path / "bucket"))
    Store(sqlite_url(tmp_path / "two" / "mmer.db"), tmp_path / "two" / "media").engine.dispose()
    with pytest.raises(LabelError, match=r"is of another database than .*two/mmer\.db; move the database away"):
        opened(tmp_path / "two", tmp_path / "bucket")


def test_a_server_that_starts_again_on_its_own_disk_goes_on_there(tmp_path):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    stop(store)
    again = opened(tmp_path / "one", bucket)
    again.add_label(clip, "ann", "fear")
    before = rows_of(again)
    again.backup.start()
    crash(again)
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_a_backup_that_cannot_be_reached_is_said_and_made_up_for(tmp_path):
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket)
    clip = store.register_clip(None, HASH, name="a.wav")
    bucket.rename(tmp_path / "away")
    bucket.write_text("the mount is gone")
    with pytest.raises(
        LabelError, match="in this machine's database, but not in its backup.*cannot be reached"
    ) as told:
        store.add_label(clip, "ann", "anger")
    assert told.value.code == "backup_unavailable"
    bucket.unlink()
    (tmp_path / "away").rename(bucket)
    until(lambda: b'"name":"ann"' in b"".join(file.read_bytes() for file in events(bucket)))
    before = rows_of(store)
    crash(store)
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_a_kept_recording_is_in_the_backup_when_it_is_called_kept(tmp_path, caplog):
    bucket, clip = tmp_path / "bucket", tmp_path / "talk.wav"
    clip.write_bytes(b"a voice" * 1000)
    sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
    store = opened(tmp_path / "one", bucket, tick_s=600)
    store.register_clip(clip, sha256, name="talk.wav", consent_text="for research")
    store.register_clip(None, HASH, name="numbers", consent_text="numbers", features=b"states")
    assert (bucket / "media" / f"{sha256}.wav").read_bytes() == clip.read_bytes()
    assert (bucket / "features" / f"{HASH}.states").read_bytes() == b"states"
    crash(store)
    again = opened(tmp_path / "two", bucket)
    again.backup.close()
    assert (tmp_path / "two" / "media" / f"{sha256}.wav").read_bytes() == clip.read_bytes()
    assert (tmp_path / "two" / "features" / f"{HASH}.states").read_bytes() == b"states"
    (bucket / "media" / f"{sha256}.wav").write_bytes(b"a vOice" * 1000)
    opened(tmp_path / "three", bucket).backup.close()
    assert list((tmp_path / "three" / "media").iterdir()) == []
    assert f"media/{sha256}.wav is damaged and is left out" in caplog.text


def test_accounts_and_the_checkpoint_that_serves_come_back(tmp_path):
    bucket, home = tmp_path / "bucket", tmp_path / "one"
    store = opened(home, bucket)
    folder = home / "checkpoints" / "20260101T000000-abcd"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "meta.json").write_text("{}")
    (home / "checkpoints" / "promotions.jsonl").write_text('{"checkpoint": "20260101T000000-abcd", "before": "base"}\n')
    (home / "checkpoints" / "PROMOTED").write_text("20260101T000000-abcd\n")
    Accounts(home / "accounts.json").add("rita", "correct horse", "admin")

    def rita_is_kept() -> bool:  # the server sees it within seconds
        kept = [f.read_bytes() for f in bucket.glob("snapshots/*.json")]
        return any(b"correct" not in each and b"rita" in each for each in kept)

    until(rita_is_kept)
    crash(store)
    again = opened(tmp_path / "two", bucket)
    assert Accounts(tmp_path / "two" / "accounts.json").check("rita", "correct horse").role == "admin"
    there = tmp_path / "two" / "checkpoints"
    assert (there / "PROMOTED").read_text() == "20260101T000000-abcd\n"
    assert (there / "20260101T000000-abcd" / "model.safetensors").read_bytes() == b"weights" * 100
    crash(again)


def test_a_large_import_becomes_a_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr(backup_module, "MOST_CHANGES", 10)
    bucket = tmp_path / "bucket"
    store = opened(tmp_path / "one", bucket, tick_s=600)
    with store.writing() as session:
        for n in range(20):
            store.register_clip(None, f"{n:064x}", name=f"{n}.wav", session=session)
    assert events(bucket) == []
    store.add_label(1, "ann", "anger")
    assert len(events(bucket)) == 1
    before = rows_of(store)
    crash(store)
    assert rows_of(opened(tmp_path / "two", bucket)) == before


def test_an_older_backup_is_upgraded_when_it_comes_back(tmp_path):
    """A Space is built anew with a newer program: nobody is there to upgrade what comes out of the bucket."""
    home, bucket = tmp_path / "one", tmp_path / "bucket"
    home.mkdir()
    bucket.mkdir()
    with closing(sqlite3.connect(home / "mmer.db")) as connection:
        connection.executescript((ROOT / "tests" / "databases" / "schema_0002.sql").read_text())
        connection.commit()
        n_labels = connection.execute("SELECT count(*) FROM labels").fetchone()[0]
    backup = Backup(Folder(bucket), home / "mmer.db", paths_of(home, bucket))
    backup.open()
    with closing(sqlite3.connect(home / "mmer.db")) as connection:
        connection.execute("CREATE TABLE backup_changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT, key TEXT)")
    backup.snapshot()
    backup.close()
    again = opened(tmp_path / "two", bucket)
    assert n_labels > 0
    assert again.counts()["labels"] == n_labels
    assert [file.name for file in (tmp_path / "two").glob("*before*")] == []
    crash(again)


def test_a_database_server_has_a_backup_of_its_own(tmp_path):
    with pytest.raises(LabelError, match="MMER_BACKUP keeps SQLite databases; a database server is kept by its own"):
        backup_of(replace(paths_of(tmp_path, tmp_path), database_url="postgresql+psycopg://mmer@db/mmer"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("/no/such/mount", "MMER_BACKUP names /no/such/mount, which is not there; mount it, or make the folder"),
        ("nosuch://bucket", "MMER_BACKUP=nosuch://bucket cannot be used: .*nosuch"),
        ("hf://datasets/lab/labels", "it can be hf://buckets/OWNER/NAME or hf-dataset:OWNER/NAME"),
        ("hf-dataset:labels", "OWNER/NAME is needed"),
    ],
)
def test_a_place_that_cannot_be_is_named(setting, message):
    with pytest.raises(LabelError, match=message):
        open_place(setting)


def test_a_label_stays_quick(tmp_path):
    """With a folder for the bucket a label took 3 ms more than without; 50 ms of work is where people notice."""
    store = opened(tmp_path / "one", tmp_path / "bucket", tick_s=600)
    clip = store.register_clip(None, HASH, name="a.wav")
    store.add_label(clip, "ann", "anger")
    since = time.process_time()
    for _ in range(20):
        store.add_label(clip, "ann", "fear")
    assert (time.process_time() - since) / 20 < 0.05


def test_a_server_killed_with_its_disk_had_acknowledged_what_was_lost(tmp_path):
    """Two rounds of two writers; `tests/load/lost_disk.py` has more."""
    (tmp_path / "bucket").mkdir()
    found = lost_disk.measure(tmp_path, str(tmp_path / "bucket"), n_kills=2, n_writers=2)
    assert found.problems == []
    assert found.n_said > 20
    assert found.n_rows >= found.n_said
