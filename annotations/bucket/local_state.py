"""What the processes of one machine know of a backup: a small file beside the database, changed under its lock."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalState:
    key: str = ""  # the owner whose database this is
    parent: str = ""  # the one before: a start that is cut short goes back to it
    sent: int = 0  # a change up to which the backup has all; each process knows of later ones that it sent
    segment: int = 1  # where events go now
    snapshot: int = -1  # the last change of the last snapshot
    files: str = ""  # hash of the small files in it
    purge: bool = False  # something was deleted here, and the backup still has it


def read_state(database: Path) -> LocalState | None:
    try:
        return LocalState(**json.loads(_file(database).read_text()))
    except FileNotFoundError:
        return None


def write_state(database: Path, state: LocalState) -> None:
    part = _file(database).with_suffix(f".{os.getpid()}.tmp")
    with open(part, "w", opener=lambda file, flags: os.open(file, flags, 0o600)) as out:
        out.write(json.dumps(asdict(state)))
    os.replace(part, _file(database))


def _file(database: Path) -> Path:
    return Path(f"{database}.backup.json")
