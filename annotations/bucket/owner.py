"""Who writes to a backup: one server at a time, or two would each lose what the other takes in.

Each that takes the backup over leaves a record of its own and a higher epoch; the highest counts. A record is renewed
every few seconds while its server lives. Nothing is locked: whoever was overtaken finds it out after the next write,
before anybody is told that something was saved.
"""

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from annotations.bucket.place import Place
from mmer.errors import LabelError

_OWNERS, _EPOCHS = "owners", "epochs"
MISSED = 3  # heartbeats, after which a server is taken to be gone


@dataclass(frozen=True, order=True)
class Owner:
    """One server's time with the backup."""

    epoch: int
    token: str  # of two that began at once the higher one goes on
    space: str = ""  # "owner/name" on a Hugging Face Space
    machine: str = ""
    pid: int = 0
    at: str = ""  # the last heartbeat
    released: bool = False  # it ended by itself

    @property
    def key(self) -> str:
        """The beginning of all names of this epoch; they sort by age."""
        return f"{self.epoch:06d}-{self.token}"


def machine() -> str:
    """Return what processes that see each other's numbers have in common, empty where nobody knows."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def owners(place: Place) -> list[Owner]:
    """Return the records of all owners that are still kept, the one that counts last."""
    found = []
    for name in place.names(_OWNERS):
        epoch, _, token = Path(name).stem.partition("-")
        owner = Owner(int(epoch), token)
        try:
            known = json.loads(place.read(name) or b"{}")
            found.append(Owner(**{**asdict(owner), **known}))
        except (ValueError, TypeError):  # read while it was written
            found.append(owner)
    return sorted(found, key=lambda owner: owner.key)


def renew(place: Place, owner: Owner) -> Owner:
    """Write an owner's heartbeat and return it."""
    owner = replace(owner, at=datetime.now(timezone.utc).isoformat(), machine=machine(), pid=os.getpid())
    place.write(f"{_OWNERS}/{owner.key}.json", json.dumps(asdict(owner)).encode())
    return owner


def claim(place: Place, space: str, *, over: str = "") -> Owner:
    """Return a new record for this process, once nobody else writes to the backup.

    Args:
        over: key of an owner that this process is one of, so that it need not wait for its end.

    Raises:
        LabelError: `backup_in_use`.
    """
    known = owners(place)
    if known and known[-1].key != over and not is_free(place, known[-1], space):
        _wait_until_gone(place, known[-1])
    return renew(place, Owner(known[-1].epoch + 1 if known else 1, secrets.token_hex(4), space=space))


def begin(place: Place, key: str, base: int) -> None:
    """Note that an owner goes on from a change on: of what earlier ones wrote, nothing after it counts.

    The name of a file says it, so that it is there or not, and never half.
    """
    place.write(f"{_EPOCHS}/{key}-{base:012d}", b"\n")


def limits(place: Place) -> dict[str, float]:
    """Return up to which change the events and snapshots of each owner count, by key, oldest first."""
    bases = dict(sorted(Path(name).name.rsplit("-", 1) for name in place.names(_EPOCHS)))
    found: dict[str, float] = {}
    limit = float("inf")
    for key, base in reversed(bases.items()):
        found[key] = limit
        limit = min(limit, int(base))
    return dict(reversed(found.items()))


def old_records(place: Place, oldest: str) -> list[str]:
    """Return the files about owners before one."""
    return [name for folder in (_OWNERS, _EPOCHS) for name in place.names(folder) if Path(name).name < oldest]


def check_owner(place: Place, key: str) -> None:
    """Return when the owner of this key has not been overtaken.

    Raises:
        LabelError: `backup_taken`.
    """
    newest = max((Path(name).stem for name in place.names(_OWNERS)), default="")
    if newest != key:
        raise LabelError(
            "backup_taken",
            f"another server has taken over the backup at {place.name}: what is saved here would be lost; "
            "stop this server, or give it a backup of its own (MMER_BACKUP)",
        )


def is_free(place: Place, owner: Owner, space: str) -> bool:
    """Whether an owner is gone for certain: it said so, was this Space before, or its process is no more."""
    if owner.released or (space and owner.space == space):
        return True
    if owner.machine and owner.machine == machine() and not _is_alive(owner.pid):
        return True
    age_s = (datetime.now(timezone.utc) - datetime.fromisoformat(owner.at)).total_seconds() if owner.at else 0
    return age_s > MISSED * place.heartbeat_s


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_until_gone(place: Place, owner: Owner) -> None:
    deadline = time.monotonic() + MISSED * place.heartbeat_s
    while time.monotonic() < deadline:
        time.sleep(place.heartbeat_s / 4)
        if (now := owners(place)[-1]) != owner:
            who = f"the Space {now.space}" if now.space else f"another server (process {now.pid})"
            raise LabelError(
                "backup_in_use",
                f"{who} writes to the backup at {place.name}, last at {now.at[:19]} UTC; give this one a backup of "
                "its own (MMER_BACKUP), or stop the other",
            )
