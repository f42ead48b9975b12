"""A database out of a backup: the newest snapshot that is whole, and the events after it, in order."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from annotations.bucket import changes, event_file
from annotations.bucket import snapshot as snapshots
from annotations.bucket.changes import Event
from annotations.bucket.owner import limits as limits_of
from annotations.bucket.place import Place
from annotations.bucket.snapshot import Snapshot
from annotations.db.backup import check_backup
from annotations.db.schema import OLDER, VERSION
from annotations.db.upgrade import upgrade
from mmer.config import sqlite_url
from mmer.errors import LabelError

EVENTS = "events"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """What a database was made of."""

    snapshot: Snapshot
    n_events: int
    n_labels: int
    seq: int  # the last change in it


def recover(place: Place, target: Path, *, allow_missing: bool = False) -> Recovered | None:
    """Write the database as it was last acknowledged; return what it was made of, None when the backup is empty.

    Args:
        target: a file that is not there.
        allow_missing: go on without events that are missing or damaged, where they would be refused.

    Raises:
        LabelError: `backup_damaged`, `schema_version`, `backup_unavailable`.
    """
    limits = limits_of(place)  # of an owner that never began, nothing was acknowledged
    usable = [s for s in snapshots.snapshots(place) if s.seq <= limits.get(s.key, -1)]
    for snapshot in reversed(usable):
        if snapshot.schema not in (*OLDER, VERSION):
            raise LabelError(
                "schema_version",
                f"the backup at {place.name} has schema {snapshot.schema}, newer than {VERSION}: update the program",
            )
        if snapshots.get(place, snapshot, target):
            n_events = _replay(place, snapshot, limits, target, allow_missing)
            with closing(sqlite3.connect(target)) as connection:
                seq = changes.position(connection)
            return Recovered(snapshot, n_events, check_backup(target), seq)
    begun = any(name.endswith(".json") for name in place.names(snapshots.FOLDER))  # else its first start was cut short
    if begun or place.names(EVENTS):
        raise LabelError("backup_damaged", f"the backup at {place.name} has no whole snapshot; nothing was changed")
    return None


def _replay(place: Place, snapshot: Snapshot, limits: dict[str, float], target: Path, allow_missing: bool) -> int:
    """Put the events after a snapshot into its copy; return how many there were."""
    n_events = 0
    connection = _open(target)
    try:
        for event in sorted(_events(place, snapshot, limits), key=lambda event: (event.last, event.first)):
            done = changes.position(connection)
            if event.last <= done:
                continue  # two processes sent it
            if event.first > done + 1:
                missing = f"changes {done + 1} to {event.first - 1} are missing in the backup at {place.name}"
                if not allow_missing:
                    cure = "`python -m annotations recover --allow-missing` goes on without them"
                    raise LabelError("backup_damaged", f"{missing}, or their file is damaged; {cure}")
                _LOG.error("backup: %s; it goes on without them", missing)
            if event.schema != _schema(connection):
                connection.close()
                _upgrade(target)
                connection = _open(target)
            changes.apply(connection, event)
            n_events += 1
        if allow_missing:
            _delete_orphans(connection)
        connection.commit()
        older = _schema(connection) != VERSION
    finally:
        connection.close()
    if older:
        _upgrade(target)
    return n_events


def _open(target: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(target, isolation_level=None)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA synchronous=OFF")  # made anew if the machine stops; flushed before it is used
    changes.install(connection)
    changes.remove(connection)
    return connection


def _schema(connection: sqlite3.Connection) -> str:
    return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def _upgrade(target: Path) -> None:
    done = upgrade(sqlite_url(target))
    if done.backup:
        done.backup.unlink()


def _events(place: Place, snapshot: Snapshot, limits: dict[str, float]) -> Iterator[Event]:
    for name in sorted(place.names(EVENTS)):
        key, segment = place_of(name)
        limit = limits.get(key, -1)
        if (key, segment) < (snapshot.key, snapshot.segment) or limit <= snapshot.seq:
            continue
        for event in event_file.events_in(place.read(name) or b"", name):
            if snapshot.seq < event.last <= limit:
                yield event


def place_of(name: str) -> tuple[str, int]:
    """Return the owner's key and the segment's number of an event file."""
    _, key, file = name.split("/", 2)
    return key, int(file.split("-")[0])


def _delete_orphans(connection: sqlite3.Connection) -> None:
    """Delete rows whose parents were in a missing event, and those that hang on them."""
    while found := connection.execute("PRAGMA foreign_key_check").fetchall():
        for table, rowid, parent, _ in found:
            _LOG.error("backup: a row of %s has lost its row of %s, and goes", table, parent)
            connection.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (rowid,))
