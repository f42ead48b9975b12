"""One retraining of a home at a time, and parts of it that nobody interrupts."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from annotations.db.schema import TrainingRunRecord
from annotations.store import Store
from mmer import checkpoint, versions
from mmer.errors import TrainingError


@contextmanager
def locked(home: Path, store: Store) -> Iterator[Callable[[int | None], None]]:
    """Hold the only retraining of a home; yields a function that notes the run's id.

    The kernel lets go of the lock when its process dies. The run that a killed process left is then closed: what was
    saved before there was a verdict goes, a verdict that was on record is carried out.

    Raises:
        TrainingError: `already_running`.
    """
    with (home / "retrain.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            process = file.read().split(" ")[0].strip() or "unknown"
            raise TrainingError("already_running", f"process {process} is retraining; wait for it, or end it") from None

        def note(run_id: int | None = None) -> None:
            file.truncate(0)
            file.write(f"{os.getpid()} {run_id or ''}".strip())
            file.flush()

        file.seek(0)
        left = file.read().split()
        if len(left) == 2:
            _close_killed(store, int(left[1]), home / "checkpoints")
        note()
        yield note
        file.truncate(0)


def _close_killed(store: Store, run_id: int, root: Path) -> None:
    with store.writing() as session:
        run = session.get(TrainingRunRecord, run_id)
        if run is None:
            return
        decided, parent, chosen = run.finished_at is not None, run.parent, run.checkpoint
        if not decided:
            run.verdict, run.finished_at = "killed", datetime.now(timezone.utc)
    serves, served = checkpoint.promoted(root), {p.checkpoint for p in versions.promotions(root)}
    if decided:
        if chosen in checkpoint.listing(root) and chosen not in served and serves == parent:
            checkpoint.promote(chosen, root, by=f"run {run_id}")
        return
    for version in versions.versions(root):
        if version.run == run_id and version.parent == parent and version.id not in {serves, *served}:
            shutil.rmtree(root / version.id)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: what is written here is written whole, in milliseconds."""
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
