"""Which file a database URL opens, and what is not taken for a new database."""

import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import make_url

from annotations.db.engine import connect
from annotations.db.upgrade import upgrade
from annotations.store import Store
from mmer.config import ROOT, Paths, sqlite_url
from mmer.errors import LabelError


@pytest.mark.parametrize("name", ["with%20escape", "what?", "no#1", "plain name", "100%", "a+b&c=d", "ü"])
def test_a_home_of_any_name_has_its_database_in_it(tmp_path, monkeypatch, name):
    """%20 opened another folder's database, and what stood behind a ? was lost."""
    monkeypatch.setenv("MMER_HOME", str(tmp_path / name))
    monkeypatch.delenv("MMER_DATABASE_URL", raising=False)
    paths = Paths.from_env()
    store = Store(paths.database_url, paths.media, paths.features)
    store.register_clip(None, "c" * 64, name="a clip")
    store.engine.dispose()
    assert (tmp_path / name / "mmer.db").stat().st_size > 0
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
    assert make_url(paths.database_url).database == str(tmp_path / name / "mmer.db")


def test_an_option_names_a_file_and_no_url(tmp_path):
    file = tmp_path / "50%20?.db"
    done = subprocess.run(
        [sys.executable, "-m", "annotations", "upgrade", "--database", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("open_", [connect, upgrade, lambda url: connect(url, create=False)])
def test_a_database_that_lost_its_content_is_no_new_one(tmp_path, open_):
    file = tmp_path / "mmer.db"
    file.touch()
    with pytest.raises(LabelError, match="is an empty file where a database should be; restore a backup") as caught:
        open_(sqlite_url(file))
    assert caught.value.code == "empty_database"
    assert file.stat().st_size == 0


def test_a_database_that_another_process_is_making_is_waited_for(tmp_path):
    connect(sqlite_url(tmp_path / "made.db")).dispose()
    file = tmp_path / "mmer.db"
    file.touch()

    def fill():
        time.sleep(0.3)
        file.write_bytes((tmp_path / "made.db").read_bytes())

    maker = threading.Thread(target=fill)
    maker.start()
    connect(sqlite_url(file)).dispose()
    maker.join()
