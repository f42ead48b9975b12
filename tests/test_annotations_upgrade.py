"""An older database comes to this program's schema with every row, and ends up as a new one would be."""

import json
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

import annotations
from annotations import receipts
from annotations.__main__ import main
from annotations.db import backup
from annotations.db.engine import connect, open_engine, version_of
from annotations.db.schema import OUTCOMES, VERSION
from annotations.db.upgrade import upgrade
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.review.adjudication import adjudicate, disagreements, final_labels
from annotations.store import Store
from mmer.errors import LabelError

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
WHEN = "2026-01-0{} 12:00:00.000000"


def at_version(url: str, revision: str) -> None:
    """Make an empty database as an older program had it, or bring an older one to a later version."""
    engine = open_engine(url)
    with engine.execution_options(write=True).begin() as connection:
        settings = Config()
        settings.set_main_option("script_location", str(Path(annotations.__file__).parent / "db" / "migrations"))
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
    engine.dispose()


def old_database(url: str) -> None:
    """Make a database of version 0001: a correction, an undo, a label of a segment, two annotators, a training run."""
    at_version(url, "0001")
    engine = open_engine(url)
    with engine.execution_options(write=True).begin() as c:
        c.execute(
            text("INSERT INTO annotators (id, name, role) VALUES (1, 'ann', 'annotator'), (2, 'bea', 'reviewer')")
        )
        c.execute(
            text(
                "INSERT INTO clips (id, sha256, name, source, speaker, created_at) "
                f"VALUES (1, '{'a' * 64}', 'one.mp4', 'upload', 'zoe', '{WHEN.format(1)}')"
            )
        )
        c.execute(
            text("INSERT INTO consents (clip_id, text_version, text, given_at) VALUES (1, 'v1', 'keep it', :at)"),
            {"at": WHEN.format(1)},
        )
        c.execute(
            text(
                "INSERT INTO predictions (id, clip_id, checkpoint, emotion, probs, per_modality, present, created_at) "
                "VALUES (1, 1, 'base', 'fear', '{\"fear\": 1.0}', '{}', '{}', :at)"
            ),
            {"at": WHEN.format(1)},
        )
        rows = (  # id, annotator, supersedes, segment, outcome, emotions
            (1, 1, None, (None, None), "label", {"anger": 1.0}),
            (2, 1, None, (None, None), "label", {"anger": 0.3, "fear": 0.7}),  # newer: it counts
            (3, 2, None, (None, None), "label", {"anger": 1.0}),
            (4, 2, 3, (None, None), "undo", {}),
            (5, 2, None, (0.0, 1.5), "cannot_tell", {}),
        )
        for key, annotator, supersedes, (start_s, end_s), outcome, emotions in rows:
            c.execute(
                text(
                    "INSERT INTO labels (id, clip_id, annotator_id, supersedes, start_s, end_s, target, outcome, "
                    "emotions, confidence, comment, created_at) VALUES (:id, 1, :annotator, :supersedes, :start, :end, "
                    "'all', :outcome, :emotions, 0.9, 'hm', :at)"
                ),
                {
                    "id": key,
                    "annotator": annotator,
                    "supersedes": supersedes,
                    "start": start_s,
                    "end": end_s,
                    "outcome": outcome,
                    "emotions": json.dumps(emotions),
                    "at": WHEN.format(key),
                },
            )
        c.execute(text("INSERT INTO training_runs (id, started_at) VALUES (1, :at)"), {"at": WHEN.format(6)})
        c.execute(text("INSERT INTO training_run_labels VALUES (1, 2)"))
        if c.dialect.name == "postgresql":  # rows with ids given leave the counters behind
            for table in ("annotators", "clips", "predictions", "labels", "training_runs"):
                c.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 10)"))
    engine.dispose()


def references(engine, table: str) -> list:
    if engine.dialect.name == "sqlite":  # SQLAlchemy does not see what happens on delete of a reference inside a column
        with engine.connect() as c:
            rows = c.execute(text(f'SELECT "from", "table", on_delete FROM pragma_foreign_key_list(\'{table}\')'))
            return sorted(map(tuple, rows))
    return sorted(
        (f["constrained_columns"], f["referred_table"], f["options"]) for f in inspect(engine).get_foreign_keys(table)
    )


def shape(url: str) -> dict:
    """Return everything about the tables but the order of their columns."""
    engine = open_engine(url)
    found = inspect(engine)
    kind = "sqlite" if engine.dialect.name == "sqlite" else "server"
    tables = {}
    for table in found.get_table_names():
        if table == "alembic_version":
            continue
        tables[table] = {
            "columns": {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(table)},
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "references": references(engine, table),
            "unique": sorted(u["column_names"] for u in found.get_unique_constraints(table)),
            "checks": sorted(c["sqltext"] for c in found.get_check_constraints(table)),
        }
    with engine.connect() as c:
        query = {
            "sqlite": "SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL",
            "server": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' UNION ALL "
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        }[kind]
        tables["indices and triggers"] = {
            name: " ".join(sql.split()) for name, sql in c.execute(text(query)).all() if not name.startswith("alembic")
        }
    engine.dispose()
    return tables


def test_an_older_database_keeps_every_row_and_knows_which_count(database, tmp_path):
    old_database(database)
    with pytest.raises(LabelError, match="schema 0001.*run `python -m annotations upgrade`"):
        Store(database, tmp_path / "media")
    done = upgrade(database)
    assert (done.before, done.after) == ("0001", VERSION)
    store = Store(database, tmp_path / "media")
    assert store.counts()["labels"] == 5
    found = {label.id: label for label in store.labels(OUTCOMES)}
    assert set(found) == {2, 5}
    assert found[2].emotions == {"anger": 0.3, "fear": 0.7}
    assert (found[2].speaker, found[2].confidence, found[2].comment) == ("zoe", 0.9, "hm")
    assert found[2].created_at == datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
    assert store.counts()["current"] | {"fear": 1, "cannot_tell": 1, "anger": 0} == store.counts()["current"]
    with store.reading() as session:
        assert session.scalars(text("SELECT label_id FROM training_run_labels")).all() == [2]
        spans = session.execute(text("SELECT start_s, end_s FROM utterances ORDER BY id")).all()
        assert spans == [(None, None), (0.0, 1.5)]
        assert session.execute(text("SELECT text, scope FROM consents")).all() == [("keep it", "media")]
        tops = session.execute(text("SELECT top FROM labels ORDER BY id")).scalars().all()
        assert tops == ["anger", "fear", "anger", None, None]
    store.undo(2, "ann")
    assert {label.id for label in store.labels(OUTCOMES)} == {1, 5}
    with pytest.raises(Exception, match="appended, never edited"), store.engine.begin() as connection:
        connection.execute(text("UPDATE labels SET top = 'joy'"))
    store.engine.dispose()


def database_0002(file: Path) -> str:
    """Make the SQLite database that version 0002 wrote; return its URL."""
    script = Path(__file__).parent / "databases" / "schema_0002.sql"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script.read_text())
    return f"sqlite:///{file}"


def test_a_database_of_version_0002_keeps_every_row(tmp_path):
    url = database_0002(tmp_path / "mmer.db")
    with pytest.raises(LabelError, match="schema 0002.*run `python -m annotations upgrade`"):
        Store(url, tmp_path / "media")
    done = upgrade(url)
    assert (done.before, done.after) == ("0002", VERSION)
    store = Store(url, tmp_path / "media")
    counts = store.counts()
    assert {name: counts[name] for name in ("clips", "labels", "annotators", "predictions", "training_runs")} == {
        "clips": 2,
        "labels": 6,
        "annotators": 5,
        "predictions": 2,
        "training_runs": 1,
    }
    labels = {label.id: label for label in store.labels(OUTCOMES)}
    assert set(labels) == {1, 2, 4, 5, 8}
    assert (labels[8].emotions, labels[8].target, labels[8].start_s) == ({"anger": 0.3, "fear": 0.7}, "voice", 0.5)
    assert (labels[2].comment, labels[2].lead_time_s, labels[2].words) == ("low", 3.5, "so it is")
    with store.reading() as session:
        assert session.scalars(text("SELECT label_id FROM training_run_labels")).all() == [1]
    assert final_labels(store) == {("b" * 64, None, None, "all"): {"fear": 1.0}}
    assert [(d.item_id, d.entropy, d.decided) for d in disagreements(store, "voices")] == [
        (2, 1.0, True),
        (1, 0, False),
    ]
    queue = Queue(store, projects.project(store, "voices"))
    assert queue.undo("bea").item_id == 2  # the work goes on where it was
    store.engine.dispose()


def test_a_skip_hid_the_label_before_it(database, tmp_path):
    old_database(database)
    engine = open_engine(database)
    with engine.execution_options(write=True).begin() as c:
        for key, outcome, emotions in ((6, "label", {"anger": 1.0}), (7, "skip", {})):
            c.execute(
                text(
                    "INSERT INTO labels (id, clip_id, annotator_id, target, outcome, emotions, comment, created_at) "
                    "VALUES (:id, 1, 2, 'face', :outcome, :emotions, '', :at)"
                ),
                {"id": key, "outcome": outcome, "emotions": json.dumps(emotions), "at": WHEN.format(key)},
            )
    engine.dispose()
    at_version(database, "0002")
    engine = open_engine(database)
    with engine.connect() as c:
        assert set(c.scalars(text("SELECT label_id FROM current_labels"))) == {2, 5, 7}
    engine.dispose()
    upgrade(database)
    store = Store(database, tmp_path / "media")
    labels = {label.id: label for label in store.labels(OUTCOMES)}
    assert set(labels) == {2, 5, 6}
    assert (labels[6].emotions, labels[6].annotator, labels[6].target) == ({"anger": 1.0}, "bea", "face")
    assert store.counts()["current"]["skip"] == 0
    store.engine.dispose()


def test_a_hidden_label_counts_again_for_its_item(tmp_path):
    url = database_0002(tmp_path / "mmer.db")
    with closing(sqlite3.connect(tmp_path / "mmer.db")) as connection, connection:
        # As the skip, label 9, was stored by a program that let it take the place of label 1.
        connection.execute("DELETE FROM current_labels WHERE label_id = 1")
        connection.execute("INSERT INTO current_labels VALUES (9, 1, 1, 1, 'all', NULL, 'skip')")
        connection.execute("UPDATE standings SET n_labels = 1 WHERE item_id = 1")
    upgrade(url)
    store = Store(url, tmp_path / "media")
    assert {label.id for label in store.labels(OUTCOMES)} == {1, 2, 4, 5, 8}
    assert {d.item_id: d.counts for d in disagreements(store, "voices")}[1] == {"anger": 2}
    with store.reading() as session:
        rows = session.execute(text("SELECT item_id, n_labels, entropy FROM standings ORDER BY item_id")).all()
    assert rows == [(1, 2, 0.0), (2, 2, 1.0)]
    store.engine.dispose()


def test_an_upgraded_database_is_shaped_as_a_new_one(database, tmp_path):
    connect(database).dispose()
    new = shape(database)
    engine = open_engine(database)
    if engine.dialect.name == "sqlite":
        (tmp_path / "mmer.db").unlink()
        for end in ("-wal", "-shm"):
            (tmp_path / f"mmer.db{end}").unlink(missing_ok=True)
    else:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    at_version(database, "0001")
    upgrade(database)
    assert shape(database) == new


def test_what_was_decided_before_final_words_could_name_no_emotion_still_is(database, tmp_path):
    old_database(database)
    at_version(database, "0004")
    engine = open_engine(database)
    with engine.execution_options(write=True).begin() as c:
        for emotions in ({"anger": 1.0}, {"fear": 1.0}):
            c.execute(
                text(
                    "INSERT INTO adjudications (clip_id, target, emotions, annotator_id, comment, created_at) "
                    "VALUES (1, 'all', :emotions, 2, '', :at)"
                ),
                {"emotions": json.dumps(emotions), "at": WHEN.format(8)},
            )
    engine.dispose()
    assert upgrade(database).before == "0004"
    store = Store(database, tmp_path / "media")
    assert final_labels(store) == {("a" * 64, None, None, "all"): {"fear": 1.0}}
    adjudicate(store, 1, None, None, "all", None, "bea", outcome="broken")
    assert final_labels(store) == {("a" * 64, None, None, "all"): {}}
    code = receipts.new_code()
    clip = {"name": "one.mp4"}
    store.save(None, "a" * 64, "ann", clip=clip, label={"emotions": "fear"}, receipt=receipts.hash_of(code))
    assert receipts.delete(store, code).clips == 1
    store.engine.dispose()


def test_upgrading_twice_or_an_empty_database_changes_nothing(database):
    assert upgrade(database).before is None
    done = upgrade(database)
    assert (done.before, done.after, done.backup) == (VERSION, VERSION, None)


@on_sqlite
def test_the_command_keeps_a_backup_and_a_failed_upgrade_changes_nothing(database, tmp_path, capsys):
    old_database(database)
    engine = open_engine(database)
    with engine.execution_options(write=True).begin() as connection:
        connection.execute(text("CREATE TABLE audit (id INTEGER)"))  # in the way of the new one
    assert main(["upgrade", "--database", database]) == 1
    assert "database_unavailable: nothing was changed" in capsys.readouterr().err
    with engine.connect() as connection:
        assert version_of(connection) == "0001"
        assert "top" not in {c["name"] for c in inspect(connection).get_columns("labels")}
    with engine.execution_options(write=True).begin() as connection:
        connection.execute(text("DROP TABLE audit"))
    engine.dispose()
    for kept in tmp_path.glob("mmer-before-*"):
        kept.unlink()
    assert main(["upgrade", "--database", database]) == 0
    assert f"has schema {VERSION} (it had 0001)" in capsys.readouterr().out
    (kept,) = tmp_path.glob(f"mmer-before-{VERSION}-*.db")
    assert backup.check_backup(kept) == 5
    assert main(["restore", str(kept), "--database", database]) == 0  # an older backup is brought up too
    assert {label.id for label in Store(database, tmp_path).labels(OUTCOMES)} == {2, 5}
