"""Database engines that lose no label: write-ahead logging, foreign keys, one writer at a time."""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from annotations.db.schema import OLDER, VERSION, Base
from mmer.errors import LabelError

NEW_S = 2  # how long a database may be empty while another process makes it
BUSY_S = 30  # how long a writer waits for the others: far above any write, below a user's patience


def sqlite_file(url: str) -> Path | None:
    """Return the file a SQLite URL names, None for any other database.

    Raises:
        LabelError: `bad_database_url`, also for a database in memory, which every thread would see empty.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LabelError("bad_database_url", f"{url!r} is not a database URL; try sqlite:///data/mmer.db") from None
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise LabelError("bad_database_url", f"{url!r} names no file; try sqlite:///data/mmer.db")
    return Path(parsed.database)


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are not there, so that nobody but this user can look into it."""
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def open_engine(url: str, *, create: bool = True) -> Engine:
    """Return an engine on a database as it is; nothing is asked of it yet.

    Raises:
        LabelError: `bad_database_url`, `no_database` (with `create` off), `empty_database`.
    """
    file = sqlite_file(url)
    if file and not create and not file.is_file():
        raise LabelError("no_database", f"no database at {file}; `python -m annotations upgrade` creates one")
    if file:
        _refuse_emptied(file)
    try:
        # A thread that waits for its turn to write holds a connection: one for each of gradio's 40 workers and more.
        # An error of the database goes to the log, and is not to quote what visitors typed.
        engine = create_engine(url, pool_size=8, max_overflow=56, hide_parameters=True)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LabelError("bad_database_url", f"no driver for {url.split(':')[0]}: {error}") from None
    if file:
        private_folder(file.parent)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "connect", lambda *_: keep_private(file))
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _refuse_emptied(file: Path) -> None:
    """Refuse a file of 0 bytes: it was a database once, and nobody must begin anew in its place without knowing.

    SQLite makes a new database empty and fills it within milliseconds, so another process's is waited for.

    Raises:
        LabelError: `empty_database`.
    """
    give_up = time.monotonic() + NEW_S
    while file.is_file() and file.stat().st_size == 0:
        if time.monotonic() > give_up:
            cure = "restore a backup (`python -m annotations restore FILE`), or delete it to begin anew"
            raise LabelError("empty_database", f"{file} is an empty file where a database should be; {cure}")
        time.sleep(0.01)


def connect(url: str, *, create: bool = True) -> Engine:
    """Return an engine on a database whose tables are there and of this version; empty databases get them.

    Raises:
        LabelError: `bad_database_url`, `no_database` (with `create` off), `empty_database`, `database_unavailable`,
            `schema_version`, `foreign_database`.
    """
    engine = open_engine(url, create=create)
    try:
        with engine.connect() as connection:
            version = version_of(connection)
        if version is None:
            with engine.execution_options(write=True).begin() as connection:
                version = version_of(connection)
                if version is None:  # another process may have been first
                    _create(connection)
                    version = VERSION
    except DBAPIError as error:
        raise LabelError("database_unavailable", f"database {sqlite_file(url) or engine.url}: {error.orig}") from None
    if version != VERSION:
        cure = (
            "run `python -m annotations upgrade`"
            if version in OLDER
            else "use the program that wrote it, or a newer one"
        )
        raise LabelError("schema_version", f"the database has schema {version}, this program {VERSION}; {cure}")
    return engine


def inserted_id(result: CursorResult) -> int:
    """Return the id of the row that an insert added."""
    if result.inserted_primary_key is None:
        raise TypeError("the statement was not the insert of one row")
    return result.inserted_primary_key[0]


def version_of(connection: Connection) -> str | None:
    """Return the database's version, None when it is empty.

    Raises:
        LabelError: `foreign_database`.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if "alembic_version" not in tables:
        found = ", ".join(sorted(tables)[:3])
        raise LabelError("foreign_database", f"the database holds other tables ({found}); name an empty one")
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def _create(connection: Connection) -> None:
    Base.metadata.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": VERSION})


def _prepare_sqlite(connection, _record) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, DDL included
    for pragma in (
        f"busy_timeout={BUSY_S * 1000}",
        "synchronous=FULL",  # an acknowledged label survives a power cut: NORMAL may lose the last commits in WAL
        "foreign_keys=ON",
        "secure_delete=ON",  # deleted people leave no bytes in free pages
    ):
        connection.execute(f"PRAGMA {pragma}")
    _switch_to_wal(connection)


def keep_private(file: Path) -> None:
    """Take a SQLite database, with the files SQLite puts beside it, from everybody but its owner."""
    for end in ("", "-wal", "-shm"):
        path = Path(f"{file}{end}")
        with suppress(FileNotFoundError, PermissionError):  # somebody else's is shared on purpose
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


def _switch_to_wal(connection) -> None:
    """Turn on write-ahead logging, waiting for others that do the same.

    SQLite does not apply the busy timeout to this switch: of 400 openings of new databases, each by two processes at
    once, 73 failed with "database is locked".
    """
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection) -> None:
    # A transaction that reads first and writes later fails at once when another wrote in between, whatever the
    # busy timeout; one that begins as a writer waits its turn.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
