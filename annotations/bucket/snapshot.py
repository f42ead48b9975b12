"""Consistent copies of a database in a backup, each with a manifest that is written last and has its checksum."""

import hashlib
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from annotations.bucket.place import Place
from mmer.errors import LabelError
from mmer.hashing import content_hash

FOLDER = "snapshots"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What a manifest says."""

    key: str  # of the owner who made it
    at: str  # when, UTC
    seq: int  # the last change in it
    segment: int  # what changed after it is in event files of this number and higher ones
    schema: str
    sha256: str  # of the copy
    files: dict[str, str]  # small files of MMER_HOME: path and text

    @property
    def name(self) -> str:
        """Names sort by age."""
        return f"{FOLDER}/{self.key}-{self.seq:012d}-{self.at}"

    @property
    def database(self) -> str:
        return f"{self.name}.db"

    @property
    def manifest(self) -> str:
        return f"{self.name}.json"


@contextmanager
def scratch(folder: Path, what: str) -> Iterator[Path]:
    """Yield the path of a file that is gone in the end; the sweep knows its name if this process is killed."""
    path = folder / f".{what}.{secrets.token_hex(4)}.tmp"
    try:
        yield path
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            Path(f"{path}{end}").unlink(missing_ok=True)


def put(place: Place, snapshot: Snapshot, copy: Path) -> None:
    """Write a snapshot and read it back: only what came back whole is one.

    Raises:
        LabelError: `backup_unavailable`, `backup_damaged`.
    """
    content = json.dumps(asdict(snapshot), ensure_ascii=False)
    manifest = f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n".encode()
    place.write(snapshot.database, copy)
    with scratch(copy.parent, "snapshot-read") as back:
        place.fetch(snapshot.database, back)
        whole = content_hash(back) == snapshot.sha256
    if whole:
        place.write(snapshot.manifest, manifest)
        whole = place.read(snapshot.manifest) == manifest
    if not whole:
        raise LabelError("backup_damaged", f"{place.name} gave back another snapshot than it got; it stays unused")


def snapshots(place: Place) -> list[Snapshot]:
    """Return the snapshots whose manifest is whole, oldest first; the log names the others."""
    found = []
    for name in sorted(place.names(FOLDER)):
        if not name.endswith(".json"):
            continue
        content, _, digest = (place.read(name) or b"").rstrip(b"\n").rpartition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == digest:
            found.append(Snapshot(**json.loads(content)))
        else:
            _LOG.warning("backup: the snapshot %s is damaged and is passed over", name)
    return found


def get(place: Place, snapshot: Snapshot, target: Path) -> bool:
    """Fetch a snapshot's copy; whether it is whole."""
    if snapshot.database in place.names(FOLDER):
        place.fetch(snapshot.database, target)
        if content_hash(target) == snapshot.sha256:
            return True
    _LOG.warning("backup: the snapshot %s is damaged and is passed over", snapshot.database)
    return False
