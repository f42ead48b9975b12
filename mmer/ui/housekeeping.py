"""What a server deletes because it is old: at its start, and every hour while it runs."""

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from annotations.db.engine import private_folder
from mmer.errors import LabelError, MmerError
from mmer.ui.service import Service

HELD_S = 3600  # how long an upload may lie here before the sweep, which comes as often: gone within two hours
# What a killed process leaves in MMER_HOME, folder by folder; each writer calls its unfinished files so.
_UNFINISHED = (
    (".", (".*.tmp", "accounts.tmp")),
    ("media", (".*.tmp",)),
    ("features", (".*.tmp",)),
    ("imports", ("project-*",)),
    ("checkpoints", (".saving-*", ".PROMOTED-*")),
    ("runs", (".*.tmp",)),
)
_LOG = logging.getLogger(__name__)


def tidy(service: Service) -> None:
    """Delete uploads that are old, what killed processes left, recordings whose retention period is over; forget
    explanations that are old.
    """
    uploads = service.paths.uploads
    private_folder(uploads)
    with suppress(PermissionError):
        uploads.chmod(0o700)
    sweep(uploads, HELD_S)
    for folder, patterns in _UNFINISHED:
        for pattern in patterns:
            for left in (service.paths.home / folder).glob(pattern):
                _delete_unfinished(left)
    if "mmer.attribution" in sys.modules:  # else nothing was explained, and the start need not wait for torch
        from mmer.attribution import forget

        forget()
    try:
        service.store.expire()
    except LabelError as error:
        if not error.code.startswith("backup_"):
            raise
        _LOG.error("%s", error)  # gone here; the backup's own thread tries again


def sweep(folder: Path, age_s: float) -> int:
    """Delete every file below a folder that came there longer ago than that, and the folders it leaves empty.

    A file is as old as its own time says or as the time of its folder, which changes with every file that comes in: who
    sends a file may say when it was made, and an upload that was broken off lies in no folder of its own.

    Returns:
        How many files it was.
    """
    oldest, n_files, came = time.time() - age_s, 0, {}
    for entry in folder.rglob("*"):  # before a deletion makes its folder young
        with suppress(FileNotFoundError):
            came[entry] = entry.lstat().st_mtime
    for entry in sorted(came, reverse=True):  # what is in a folder comes before it
        with suppress(FileNotFoundError):  # its upload has just ended
            if min(came[entry], came.get(entry.parent, came[entry])) >= oldest:
                continue
            if not entry.is_dir() or entry.is_symlink():
                entry.unlink()
                n_files += 1
            elif not any(entry.iterdir()):
                entry.rmdir()
    return n_files


def _delete_unfinished(left: Path) -> None:
    """Delete a file or a folder that nobody has written to for an hour: a young one may be on its way."""
    with suppress(FileNotFoundError):
        newest = max(entry.stat().st_mtime for entry in (left, *left.rglob("*")))
        if time.time() - newest > HELD_S:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def every_hour(service: Service) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return what runs as long as the server does, as FastAPI takes it."""

    async def clock() -> None:
        while True:
            await asyncio.sleep(HELD_S)
            try:
                await asyncio.to_thread(tidy, service)
            except (MmerError, OSError):
                _LOG.exception("what is old could not be deleted; the next try is in an hour")

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        task, backup = asyncio.create_task(clock()), service.store.backup
        if backup:
            backup.start()
        try:
            yield
        finally:
            task.cancel()
            if backup:
                await asyncio.to_thread(backup.close)

    return lifespan
