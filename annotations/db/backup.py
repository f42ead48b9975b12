"""Backups of a live SQLite database, and putting one back."""

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from annotations.db.engine import sqlite_file
from annotations.db.schema import OLDER, VERSION
from mmer.errors import LabelError


def backup(url: str, out: Path) -> int:
    """Write a consistent copy of a live SQLite database, media not included; return its number of label rows."""
    database = _database(url)
    if not database.is_file():
        raise LabelError("no_database", f"no database at {database}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        copy(database, temporary)
        n_labels = check_backup(temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return n_labels


def restore(url: str, file: Path) -> tuple[int, Path | None]:
    """Put a checked backup in the database's place; return its label rows and where the old database is kept.

    An older backup comes back as it is: `upgrade` it afterwards.

    A living database is overwritten in one SQLite transaction, so programs that have it open go on with the restored
    rows; swapping the file under them would mix it with their write-ahead log.
    """
    database = _database(url)
    n_labels = check_backup(file)
    kept = None
    if database.exists():
        kept = new_copy_of(database, "restore")
        try:
            copy(database, kept)
        except LabelError:  # not a database any more, so nobody is at work in it
            for end in ("", "-wal", "-shm"):
                if (part := Path(f"{database}{end}")).exists():
                    os.replace(part, f"{kept}{end}")
    database.parent.mkdir(parents=True, exist_ok=True)
    copy(file, database)
    return n_labels, kept


def check_backup(file: Path) -> int:
    """Return the number of label rows of a sound database of this version or an older one.

    Raises:
        LabelError: `bad_backup`.
    """
    if not file.is_file():
        raise LabelError("bad_backup", f"no backup at {file}")
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            report = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
            orphans = len(connection.execute("PRAGMA foreign_key_check").fetchall())
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
            n_labels = connection.execute("SELECT count(*) FROM labels").fetchone()[0]
    except sqlite3.Error as error:
        raise LabelError("bad_backup", f"{file} is not a backup of a labels database: {error}") from None
    if report != ["ok"] or orphans or version not in (*OLDER, VERSION):
        raise LabelError(
            "bad_backup",
            f"{file} cannot be used: integrity {report[0]}, {orphans} orphan rows, schema {version} (needed {VERSION})",
        )
    return n_labels


def _database(url: str) -> Path:
    if (database := sqlite_file(url)) is None:
        raise LabelError(
            "not_sqlite", f"only SQLite files are copied here; use the server's own tool ({url.split(':')[0]})"
        )
    return database


def new_copy_of(database: Path, before: str) -> Path:
    """Return a new empty file beside a database, to keep it in before something is done to it; no name comes twice."""
    name = f"{database.stem}-before-{before}-{datetime.now():%Y%m%dT%H%M%S.%f}{database.suffix}"
    os.close(os.open(database.with_name(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return database.with_name(name)


def copy(source: Path, target: Path) -> None:
    """Copy a database in one transaction of each; a new target becomes one file without a write-ahead log."""
    if not target.exists():
        os.close(os.open(target, os.O_RDWR | os.O_CREAT, 0o600))
    new = target.stat().st_size == 0
    try:
        with closing(sqlite3.connect(source, timeout=30)) as reader, closing(sqlite3.connect(target)) as writer:
            writer.execute("PRAGMA synchronous=FULL")
            reader.backup(writer)
            if new:
                writer.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise LabelError("database_unavailable", f"copying {source} to {target}: {error}") from None
