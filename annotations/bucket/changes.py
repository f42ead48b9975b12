"""Which rows of a SQLite database changed: noted by triggers in the transaction that changes them, whoever writes.

What is noted is a table and a key, never a value, so that nothing about a person stays in it. A value is read when the
change goes to the backup: it is that of the last transaction that is committed.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from annotations.db.schema import Base

CHANGES = "backup_changes"
LENT = {"assignments", "items"}  # what is lent to annotators: it goes to the backup with the next answer
_KEYS = {table.name: [column.name for column in table.primary_key.columns] for table in Base.metadata.sorted_tables}


@dataclass(frozen=True)
class Event:
    """The rows that changed in some transactions, as they were after the last of them."""

    schema: str  # of the database
    first: int  # number of the first change in it
    last: int
    rows: tuple[tuple[str, dict[str, Any]], ...]  # table, and the row's values
    gone: tuple[tuple[str, list], ...]  # table, and the key of a row that is no more
    ids: dict[str, int]  # the highest id each of the tables ever gave

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in (*self.rows, *self.gone)}


def install(connection: sqlite3.Connection) -> None:
    """Make the table and the triggers, where they are not there; a database to be upgraded lacks some of the tables."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {CHANGES} "
        "(seq INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, key TEXT NOT NULL)"
    )
    for table, columns in ((table, columns) for table, columns in _KEYS.items() if table in there):
        new, old = (f"'{table}', json_array({', '.join(f'{row}.{c}' for c in columns)})" for row in ("NEW", "OLD"))
        for action, what in (
            ("INSERT", f"VALUES ({new})"),
            ("UPDATE", f"SELECT {old} UNION SELECT {new}"),
            ("DELETE", f"VALUES ({old})"),
        ):
            connection.execute(
                f"CREATE TRIGGER IF NOT EXISTS backup_{table}_{action.lower()} AFTER {action} ON {table} "
                f"BEGIN INSERT INTO {CHANGES} (tbl, key) {what}; END"
            )


def remove(connection: sqlite3.Connection) -> None:
    """Take the triggers and the notes out of a database that rows are put into from a backup."""
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'backup_*'"):
        connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute(f"DELETE FROM {CHANGES}")


def position(connection: sqlite3.Connection) -> int:
    """Return the number of the last change there ever was, 0 when none was noted."""
    if not _has(connection, CHANGES):
        return 0
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (CHANGES,)).fetchone()
    return row[0] if row else 0


def event_after(connection: sqlite3.Connection, last: int, at_most: int) -> Event | int | None:
    """Return what changed since a change, None when nothing did; only how many changes it was if they are too many."""
    connection.execute("BEGIN")
    try:
        n_changes = connection.execute(f"SELECT count(*) FROM {CHANGES} WHERE seq > ?", (last,)).fetchone()[0]
        if n_changes > at_most:
            return n_changes
        changed = connection.execute(f"SELECT seq, tbl, key FROM {CHANGES} WHERE seq > ? ORDER BY seq", (last,))
        noted = changed.fetchall()
        if not noted:
            return None
        rows, gone = [], []
        for table, key in dict.fromkeys((table, key) for _, table, key in noted):
            row = _row(connection, table, json.loads(key))
            if row is None:
                gone.append((table, json.loads(key)))
            else:
                rows.append((table, row))
        tables = {table for _, table, _ in noted}
        ids = {name: n for name, n in connection.execute("SELECT name, seq FROM sqlite_sequence") if name in tables}
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return Event(schema, last + 1, noted[-1][0], tuple(rows), tuple(gone), ids)
    finally:
        connection.execute("COMMIT")


def _row(connection: sqlite3.Connection, table: str, key: list) -> dict[str, Any] | None:
    where = " AND ".join(f'"{column}" = ?' for column in _KEYS[table])
    cursor = connection.execute(f'SELECT * FROM "{table}" WHERE {where}', key)
    values = cursor.fetchone()
    return None if values is None else dict(zip([column[0] for column in cursor.description], values, strict=True))


def apply(connection: sqlite3.Connection, event: Event) -> None:
    """Put an event's rows into a database without triggers of ours, in one transaction; doing so twice changes nothing.

    Args:
        connection: in which foreign keys are not enforced, as rows come in the order in which they changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for table, key in event.gone:
            where = " AND ".join(f'"{column}" = ?' for column in _KEYS[table])
            connection.execute(f'DELETE FROM "{table}" WHERE {where}', key)
        for table, row in event.rows:
            names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
            connection.execute(f'INSERT OR REPLACE INTO "{table}" ({names}) VALUES ({marks})', list(row.values()))
        for name, number in {**event.ids, CHANGES: event.last}.items():
            changed = connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, name))
            if not changed.rowcount:
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, number))


def tables_of(connection: sqlite3.Connection) -> Iterator[str]:
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        yield name


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return table in tables_of(connection)
