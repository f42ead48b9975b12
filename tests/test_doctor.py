"""The doctor on set-ups broken on purpose: each is named with what to do, and nothing is changed by looking."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from annotations.bucket.backup import backup_of
from annotations.bucket.place import HubDataset
from annotations.store import Store
from mmer import checkpoint
from mmer.assets import ASSETS
from mmer.commands import backup_check, doctor
from mmer.commands.doctor import BAD, NOTE, OK
from mmer.config import ROOT, Paths, sqlite_url
from mmer.errors import LabelError, MmerError
from tests.dataset_hub import TOKEN, dataset_hub


@pytest.fixture
def paths(tmp_path) -> Paths:
    """A home with an empty database, as a first start leaves it."""
    home = tmp_path / "home"
    Store(sqlite_url(home / "mmer.db"), home / "media", home / "features").engine.dispose()
    return replace(Paths.from_env(), home=home, database_url=sqlite_url(home / "mmer.db"), device="cpu")


def run(paths: Paths, **more: str) -> subprocess.CompletedProcess:
    """Run the command on a home."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MMER_DATABASE_URL", "MMER_DEVICE")}
    env = kept | {"MMER_HOME": str(paths.home), "MMER_ASSETS": str(paths.assets)} | more
    return subprocess.run(
        [sys.executable, "-m", "mmer", "doctor"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )


def whisper_of_random_weights(file):
    """Write a small Whisper in the real format."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    sizes = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 2}
    sizes |= {"n_vocab": 51865, "n_text_ctx": 448, "n_text_state": 32, "n_text_head": 2, "n_text_layer": 2}
    torch.save({"dims": sizes, "model_state_dict": Whisper(ModelDimensions(**sizes)).state_dict()}, file)
    return file


def test_a_sound_installation_is_well_and_a_broken_one_names_all_that_is_wrong(
    paths, tmp_path, face_model, text_encoder
):
    heard = whisper_of_random_weights(tmp_path / "small.pt")
    well = run(paths, MMER_WHISPER=str(heard))
    assert (well.returncode, well.stdout.split("\n")[-2]) == (0, "all is well"), well.stdout + well.stderr
    assert f"{heard}, " in well.stdout
    assert checkpoint.read_meta("base", paths.checkpoints)["weights_sha256"] in well.stdout

    shutil.copy(face_model, tmp_path / "face_landmarker.task")
    with (tmp_path / "face_landmarker.task").open("r+b") as file:
        file.write(b"no model")
    broken = replace(paths, assets=tmp_path)
    paths.checkpoints.mkdir()
    (paths.checkpoints / "PROMOTED").write_text("gone\n")
    (paths.home / "mmer.db").write_text("no database")
    found = run(broken, MMER_WHISPER=str(tmp_path / "none.pt"), MMER_DEVICE="tpu", https_proxy="http://127.0.0.1:9")
    assert found.returncode == 1
    assert found.stdout.split("\n")[-2] == (
        "6 to mend: database, device, checkpoint, face_landmarker, text_encoder, whisper"
    )
    for told in ("MMER_DEVICE is 'tpu'; use auto, cpu or cuda", "face_landmarker.task damaged", "'gone' is not in"):
        assert told in found.stdout
    assert found.stderr == ""


def test_a_setting_that_is_none_is_told_in_the_doctors_line(paths):
    found = run(paths, MMER_KEEP_DAYS="soon")
    assert found.returncode == 1
    assert "BAD   settings         MMER_KEEP_DAYS is 'soon'; a whole number of days is needed" in found.stdout


def test_a_digit_that_is_no_number_is_no_setting(monkeypatch):
    for name in ("MMER_KEEP_DAYS", "MMER_RETRAIN_AFTER"):
        with monkeypatch.context() as only:
            only.setenv(name, "²")
            with pytest.raises(MmerError, match=f"{name} is '²'; a whole number"):
                Paths.from_env()


def test_versions_that_do_not_fit_are_named():
    assert doctor.python((3, 9, 2)).state == doctor.python((3, 13, 0)).state == BAD
    assert doctor.packages(["no-such-package-of-ours>=1", "numpy"]).state == BAD
    other = doctor.packages(["numpy<1"])
    assert (other.state, other.cure) == (NOTE, "run `pip install -r requirements.txt`")
    assert "where <1 is wanted" in other.found
    assert doctor.packages(doctor.requirements()).state == OK


def test_a_missing_library_is_named_with_its_package():
    found = doctor.libraries({"libGL.so.1": "libgl1", "libnone-of-ours.so.7": "libnone7"})
    assert (found.state, found.cure) == (BAD, "`apt-get install libnone7`")
    assert set(doctor.LIBRARIES.values()) == set((ROOT / "packages.txt").read_text().split())


def test_a_full_disk(tmp_path):
    assert doctor.disk(tmp_path / "not" / "there", full_bytes=2**60).state == BAD
    assert doctor.disk(tmp_path, full_bytes=0, tight_bytes=2**60).state == NOTE
    assert doctor.disk(tmp_path, full_bytes=0, tight_bytes=0).state == OK


def test_a_home_that_is_a_file_or_that_others_can_read(paths, tmp_path):
    assert doctor.home(paths.home).state == OK
    (paths.home / "mmer.db").chmod(0o644)
    found = doctor.home(paths.home)
    assert (found.state, found.cure) == (NOTE, f"`chmod -R go= {paths.home}`")
    assert "can read mmer.db" in found.found
    (tmp_path / "file").write_text("")
    assert doctor.home(tmp_path / "file").found == f"{tmp_path / 'file'} is no folder"
    assert "not there yet" in doctor.home(tmp_path / "new").found
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can become another user, and nothing is forbidden to root")
def test_a_home_of_somebody_else(paths):
    # The folders of pytest are closed to others.
    copy = Path(tempfile.mkdtemp(prefix="doctor-"))
    try:
        shutil.copytree(paths.home, copy, dirs_exist_ok=True)
        copy.chmod(0o755)
        (copy / "mmer.db").chmod(0o644)
        home, database = as_nobody(lambda: f"{doctor.home(copy)}\n{doctor.database(sqlite_url(copy / 'mmer.db'))}")
    finally:
        shutil.rmtree(copy)
    assert home.startswith("BAD   home")
    assert "cannot be written to: Permission denied; give it to this user (`chown -R 65534" in home
    assert database.startswith("BAD   database")
    assert "is read-only for this user; `chown 65534" in database


def as_nobody(look: Callable[[], str]) -> list[str]:
    """Return the lines a call gives where it runs as another user; an interpreter below /root cannot be started so."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setuid(65534)
            told = look()
        except BaseException as error:
            told = repr(error)
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        lines = answer.read().split("\n")
    os.waitpid(child, 0)
    return lines


def test_a_database_of_another_age_damaged_or_away(paths, tmp_path):
    file = paths.home / "mmer.db"
    before = file.read_bytes()
    assert doctor.database(paths.database_url).state == OK
    assert file.read_bytes() == before
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    old = doctor.database(paths.database_url)
    assert (old.state, old.cure) == (BAD, "run `python -m annotations upgrade`")
    assert doctor.database(sqlite_url(tmp_path / "none.db")).state == NOTE
    away = doctor.database("postgresql+psycopg://ann:secret@127.0.0.1:9/mmer")
    assert away.state == BAD
    assert "secret" not in str(away)
    assert away.cure == "start the server, or set MMER_DATABASE_URL"
    (empty,) = doctor.guarded("database", lambda: [doctor.database(sqlite_url(tmp_path / "empty.db"))])
    assert empty.state == NOTE
    (tmp_path / "empty.db").write_bytes(b"")
    (empty,) = doctor.guarded("database", lambda: [doctor.database(sqlite_url(tmp_path / "empty.db"))])
    assert (empty.state, "is an empty file where a database should be" in empty.found) == (BAD, True)


def test_a_database_that_answers_on_each_kind(database):
    Store(database, ROOT / "data").engine.dispose()
    found = doctor.database(database)
    assert found.state == OK
    assert "0 labels, can be written to" in found.found


def test_weights_that_are_missing_say_whether_they_can_be_had(paths, tmp_path, offline):
    away = replace(paths, assets=tmp_path)
    found = doctor.weights(ASSETS["face_landmarker"], away)
    assert found.state == BAD
    assert "is missing and cannot be fetched" in found.found
    assert found.cure.startswith("fetch https://storage.googleapis.com/")
    assert found.cure.endswith(f"put it at {tmp_path / 'face_landmarker.task'}")
    assert offline == ["storage.googleapis.com:443"]
    (whisper,) = doctor.whisper(replace(away, whisper="base"))
    assert (whisper.state, whisper.what) == (BAD, "whisper base")
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "base.pt").write_bytes(b"half of it")
    (whisper,) = doctor.whisper(replace(away, whisper="base"))
    assert (whisper.state, "is damaged (its sha256 differs)" in whisper.found) == (BAD, True)
    tmp_path.chmod(0o555)
    assert "cannot be written to" in doctor.weights(ASSETS["face_landmarker"], away).found
    tmp_path.chmod(0o755)


def test_a_look_that_fails_is_a_line_too():
    def look() -> list[doctor.Finding]:
        raise ZeroDivisionError("division by zero")

    (found,) = doctor.guarded("libraries", look)
    assert str(found) == "BAD   libraries        ZeroDivisionError: division by zero"


def backup_lines(paths: Paths) -> list[str]:
    return [str(finding) for finding in doctor.backup(paths)]


def test_a_backup_that_is_well_says_its_age_and_whose_it_is(paths, tmp_path):
    bucket = tmp_path / "bucket"
    bucket.mkdir(mode=0o700)
    assert backup_lines(paths) == ["ok    backup           none is asked for (MMER_BACKUP)"]
    kept = replace(paths, backup=str(bucket))
    assert backup_lines(kept)[1:] == [
        "note  backup snapshot  there is none yet; the first start of a server makes one",
        "ok    backup owner     nobody yet",
    ]
    store = Store(kept.database_url, kept.media, kept.features, backup=backup_of(kept))
    try:
        store.backup.start()
        before = sorted(bucket.rglob("*"))
        place, snapshot, owner = backup_lines(kept)
        assert sorted(bucket.rglob("*")) == before  # looking left nothing there
    finally:
        store.backup.close()
        store.engine.dispose()
    assert place == f"ok    backup           {bucket} can be reached and written to, by this user alone"
    assert re.fullmatch(r"ok    backup snapshot  \d s ago, up to change \d+", snapshot)
    assert re.fullmatch(rf"ok    backup owner     process {os.getpid()} of this machine, last heard of \d s ago", owner)
    assert (
        backup_lines(kept)[2]
        == f"ok    backup owner     process {os.getpid()} of this machine, which ended and gave it back"
    )


def test_a_backup_broken_on_purpose(paths, tmp_path):
    bucket = tmp_path / "bucket"
    away = replace(paths, backup=str(bucket))
    assert backup_lines(away) == [
        f"BAD   backup           MMER_BACKUP names {bucket}, which is not there; mount it, or make the folder; "
        "it takes a folder, an fsspec URL, or hf-dataset:OWNER/NAME"
    ]
    (nowhere,) = backup_lines(replace(paths, backup="none://of/ours"))
    assert nowhere.startswith("BAD   backup           MMER_BACKUP=none://of/ours cannot be used: ")
    (server,) = backup_lines(replace(away, database_url="postgresql+psycopg://ann:secret@127.0.0.1:9/mmer"))
    assert server.startswith("BAD   backup           MMER_BACKUP keeps SQLite databases")
    assert "secret" not in server
    (space,) = backup_lines(replace(paths, space="lab/mmer"))
    assert space.startswith("note  backup           none: a Space forgets its labels when it restarts; mount a private")

    (bucket / "snapshots").mkdir(parents=True)
    (bucket / "snapshots" / "000001-ab-000000000003-20260101T000000.000000.json").write_text("{half")
    (bucket / "owners").mkdir()
    now = datetime.now(timezone.utc).isoformat()
    record = {"epoch": 1, "token": "ab", "space": "lab/other", "machine": "elsewhere", "pid": 1, "at": now}
    (bucket / "owners" / "000001-ab.json").write_text(json.dumps(record))
    bucket.chmod(0o755)
    for folder in bucket.iterdir():
        folder.chmod(0o755)
    place, snapshot, owner = backup_lines(away)
    assert place.startswith("note  backup")
    assert "can read owners, snapshots there; `chmod -R go= " in place
    assert snapshot == ("BAD   backup snapshot  none of 1 is whole; start the server on the disk that has the database")
    assert owner.startswith(
        "BAD   backup owner     the Space lab/other writes to it, last heard of 0 s ago; stop it, or"
    )
    (bucket / "epochs").mkdir()
    (bucket / "epochs" / "000001-ab-000000000000").write_bytes(b"\n")
    assert backup_lines(away)[2].startswith(
        f"BAD   backup owner     it is of another database than {paths.home / 'mmer.db'}; move "
    )


def test_a_dataset_for_a_backup_is_not_made_by_looking(paths):
    database = paths.home / "mmer.db"
    with dataset_hub() as (url, hub):
        with pytest.raises(LabelError, match="cannot be reached"):
            HubDataset("lab/labels", make=False, endpoint=url, token=TOKEN)
        assert hub.private is None
        hub.private = True
        place = HubDataset("lab/labels", make=False, endpoint=url, token=TOKEN)
        assert [str(found) for found in backup_check.look(place, paths, database)] == [
            "ok    backup           hf-dataset:lab/labels can be reached and written to, and is private",
            "note  backup snapshot  there is none yet; the first start of a server makes one",
            "ok    backup owner     nobody yet",
        ]
        assert len(hub.history) == 1
