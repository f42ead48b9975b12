"""A deletion reaches the backup: snapshots, events, recordings; and says so clearly when it cannot."""

import base64
import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from annotations.__main__ import main
from annotations.store import Store
from mmer.config import sqlite_url
from mmer.errors import LabelError
from tests.test_bucket import HASH, crash, opened, rows_of
from tests.until import until

CONTENT = bytes(range(1, 250)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()
EMBEDDING = b"embed\x07ding"
WORDS = (b"zaphod", b"trembling", b"leave me alone", b"whisperer")
TRACES = (CONTENT[200:600], SHA256.encode(), EMBEDDING, base64.b64encode(EMBEDDING), *WORDS)


def people(tmp_path: Path, **options) -> Store:
    """Return a server's store with two people's clips, one of them to be deleted; snapshots and events have both."""
    store = opened(tmp_path / "home", tmp_path / "bucket", **options)
    file = tmp_path / "whisperer.wav"
    file.write_bytes(CONTENT)
    keep_until = datetime.now(timezone.utc) + timedelta(days=1)
    clip = store.register_clip(
        file, SHA256, name="whisperer.wav", speaker="zaphod", consent_text="yes", keep_until=keep_until
    )
    store.add_label(clip, "ann", "fear", comment="a trembling voice")
    store.backup.snapshot()
    store.utterance(clip, 0, 1, transcript="leave me alone", embedding=EMBEDDING)
    other = store.register_clip(None, HASH, name="other.wav", speaker="trillian")
    store.add_label(other, "bea", "anger")
    store.backup.snapshot()
    store.add_label(clip, "bea", "sadness", comment="trembling still")
    store.backup._send(everything=True)
    return store


def traces_in(bucket: Path) -> list[str]:
    """Return what of the deleted person the bucket still has, names of files and their bytes."""
    found = []
    for path in bucket.rglob("*"):
        name = str(path.relative_to(bucket)).encode()
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{path.name}: {trace[:20]!r}" for trace in TRACES if trace in name or trace in content]
    return found


def test_a_deletion_left_the_person_in_the_backup(tmp_path, monkeypatch, capsys):
    """By the command line, while a server writes to the same backup; what others labelled stays, what follows too."""
    bucket = tmp_path / "bucket"
    store = people(tmp_path)
    places = {Path(trace.split(":")[0]).suffix for trace in traces_in(bucket)}
    assert places == {".db", ".jsonl", ".wav"}
    monkeypatch.setenv("MMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMER_BACKUP", str(bucket))
    assert main(["delete", "--speaker", "zaphod"]) == 0
    assert "no trace is left" in capsys.readouterr().out
    assert traces_in(bucket) == []
    store.add_label(2, "cyd", "disgust")  # by the server, which heard nothing of it
    before = rows_of(store)
    crash(store)
    again = opened(tmp_path / "two", bucket)
    assert rows_of(again) == before
    assert traces_in(bucket) == []
    crash(again)


def test_a_trace_left_here_left_the_person_in_the_backup_too(tmp_path):
    store = people(tmp_path)
    store.add_label(2, "cyd", "fear", comment=f"as in {SHA256}")
    with pytest.raises(LabelError, match="table labels, column comment"):
        store.delete_clip(SHA256)
    assert {trace.split(": ")[1] for trace in traces_in(tmp_path / "bucket")} == {repr(SHA256[:20].encode())}
    crash(store)


def test_anonymous_labels_kept_their_clip_in_the_backup(tmp_path):
    store = people(tmp_path)
    store.delete_speaker("zaphod", keep_labels=True)
    assert traces_in(tmp_path / "bucket") == []
    assert store.counts()["labels"] == 3
    crash(store)


def test_an_expired_recording_stayed_in_the_backup(tmp_path):
    store = people(tmp_path)
    assert store.expire() == (0, 0)
    assert store.expire(given_before=datetime.now(timezone.utc) + timedelta(days=2)) == (1, 1)
    left = {trace.split(": ")[1] for trace in traces_in(tmp_path / "bucket")}
    assert not left & {repr(CONTENT[200:220]), repr(EMBEDDING), repr(base64.b64encode(EMBEDDING))}
    assert store.counts()["labels"] == 3
    crash(store)


def test_a_deletion_says_that_the_backup_still_has_it_and_makes_up_for_it(tmp_path, monkeypatch, capsys):
    bucket, away = tmp_path / "bucket", tmp_path / "away"
    store = people(tmp_path, tick_s=600)
    bucket.rename(away)
    bucket.write_text("the mount is gone")
    with pytest.raises(LabelError, match="deleted here, but the backup still has it: .* cannot be reached") as told:
        store.delete_speaker("zaphod")
    assert told.value.code == "backup_unavailable"
    assert store.counts()["clips"] == 1
    bucket.unlink()
    away.rename(bucket)
    assert traces_in(bucket) != []
    monkeypatch.setenv("MMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMER_BACKUP", str(bucket))
    assert main(["vacuum"]) == 0
    assert "the database is compact, and its backup" in capsys.readouterr().out
    assert traces_in(bucket) == []
    crash(store)


def test_a_running_server_tries_the_deletion_again(tmp_path):
    bucket, away = tmp_path / "bucket", tmp_path / "away"
    store = people(tmp_path)
    bucket.rename(away)
    bucket.write_text("the mount is gone")
    with pytest.raises(LabelError, match="a running server tries again every minute"):
        store.delete_clip(SHA256)
    store.backup._purge_at = 0.0  # the minute is over
    bucket.unlink()
    away.rename(bucket)

    def is_purged() -> bool:
        store.backup._purge_at = 0.0
        return not traces_in(bucket)

    until(is_purged, every=0.1)
    crash(store)


def test_a_deletion_by_a_program_without_the_backup_reaches_it_too(tmp_path):
    """The server sees a clip's row go, and throws away the snapshots and events that had it."""
    store = people(tmp_path)
    other = Store(sqlite_url(tmp_path / "home" / "mmer.db"), tmp_path / "home" / "media")
    other.delete_speaker("zaphod")
    other.engine.dispose()
    until(lambda: not traces_in(tmp_path / "bucket"), every=0.1)
    crash(store)
