"""The doctor's lines about `MMER_BACKUP`: whether it can be used, what it holds, and who writes to it."""

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from annotations.bucket import snapshot as snapshots
from annotations.bucket.local_state import LocalState, read_state
from annotations.bucket.owner import Owner, is_free, limits, machine, owners
from annotations.bucket.place import Folder, HubDataset, Place, open_place
from annotations.db.engine import sqlite_file
from mmer.commands.finding import BAD, NOTE, OK, Finding
from mmer.config import Paths
from mmer.errors import LabelError

_SERVER = "unset MMER_BACKUP; pg_basebackup, or your provider, keeps a database server"
_CURES = {
    "bad_backup_place": "it takes a folder, an fsspec URL, or hf-dataset:OWNER/NAME",
    "backup_public": "set it to private at the hub",
    "backup_unavailable": "see that it is there, and that this machine has the keys (HF_TOKEN, AWS_…) and a network",
}


def examine(paths: Paths) -> Iterator[Finding]:
    """Yield the place, its newest snapshot and its owner; nothing is made there, and nothing stays."""
    if not paths.backup:
        if paths.space:
            cure = "mount a private bucket and set MMER_BACKUP to it"
            yield Finding("backup", NOTE, "none: a Space forgets its labels when it restarts", cure)
        else:
            yield Finding("backup", OK, "none is asked for (MMER_BACKUP)")
        return
    database = sqlite_file(paths.database_url)
    if database is None:
        yield Finding("backup", BAD, "MMER_BACKUP keeps SQLite databases, and MMER_DATABASE_URL is a server", _SERVER)
        return
    try:
        place = open_place(paths.backup, make=False)
    except LabelError as error:
        yield Finding("backup", BAD, error.message, _CURES.get(error.code, ""))
        return
    yield from look(place, paths, database)


def look(place: Place, paths: Paths, database: Path) -> Iterator[Finding]:
    """Yield what is found in a place that was opened."""
    try:
        place.names("owners")
        place.try_writing()
    except LabelError as error:
        cure = f"let this user write to {place.name}" if isinstance(place, Folder) else _CURES["backup_unavailable"]
        yield Finding("backup", BAD, error.message, cure)
        return
    yield _privacy(place)
    yield _snapshot(place)
    yield _owner(place, paths, database)


def _privacy(place: Place) -> Finding:
    found = f"{place.name} can be reached and written to"
    if isinstance(place, Folder):
        if open_ := [path.name for path in sorted(place.root.iterdir()) if path.stat().st_mode & 0o077]:
            told = f"{found}; other users of this machine can read {', '.join(open_)} there"
            return Finding("backup", NOTE, told, f"`chmod -R go= {place.root}`, or mount it for this user alone")
        return Finding("backup", OK, f"{found}, by this user alone")
    if isinstance(place, HubDataset) or place.name.startswith("hf://"):
        return Finding("backup", OK, f"{found}, and is private")
    return Finding("backup", NOTE, found, "whether it is private only its store knows: see that it is")


def _snapshot(place: Place) -> Finding:
    there = [name for name in place.names(snapshots.FOLDER) if name.endswith(".json")]
    whole = snapshots.snapshots(place)
    if not whole:
        if there:
            found = f"none of {len(there)} is whole"
            return Finding("backup snapshot", BAD, found, "start the server on the disk that has the database")
        return Finding("backup snapshot", NOTE, "there is none yet", "the first start of a server makes one")
    newest = whole[-1]
    made = datetime.strptime(newest.at, "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    found = f"{_ago(made)} ago, up to change {newest.seq:,}"
    if len(whole) < len(there):
        damaged = len(there) - len(whole)
        return Finding("backup snapshot", NOTE, f"{found}; {damaged} damaged", "the next one takes their place")
    return Finding("backup snapshot", OK, found)


def _owner(place: Place, paths: Paths, database: Path) -> Finding:
    """Return who writes to the backup, and whether a server could start here."""
    known, state, begun = owners(place), read_state(database) or LocalState(), list(limits(place))
    if not known:
        return Finding("backup owner", OK, "nobody yet")
    newest = known[-1]
    own = state.key if state.key in begun else state.parent
    if database.is_file() and begun and begun[-1] != own:
        cure = f"move {database} away to have the backup's restored, or name another place"
        return Finding("backup owner", BAD, f"it is of another database than {database}", cure)
    who, beat = _named(newest), f"last heard of {_ago(datetime.fromisoformat(newest.at))} ago" if newest.at else ""
    if newest.released:
        return Finding("backup owner", OK, f"{who}, which ended and gave it back")
    if newest.key == state.key or is_free(place, newest, paths.space):
        return Finding("backup owner", OK, f"{who}, {beat}")
    cure = "stop it, or name another place: a server started here would be refused"
    return Finding("backup owner", BAD, f"{who} writes to it, {beat}", cure)


def _named(owner: Owner) -> str:
    if owner.space:
        return f"the Space {owner.space}"
    return f"process {owner.pid} of {'this' if owner.machine == machine() else 'another'} machine"


def _ago(then: datetime) -> str:
    seconds = max((datetime.now(timezone.utc) - then).total_seconds(), 0.0)
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
