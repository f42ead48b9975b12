"""Retraining in a process of its own, started, watched and stopped from the page: nothing of it runs in the server."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO

from annotations.store import Store
from annotations.training_runs import fresh_labels
from mmer.config import ROOT, Paths
from mmer.errors import TrainingError
from mmer.messages import marked

try:
    import fcntl
except ImportError:  # Windows: a process that lives is taken for the one that is named
    fcntl = None  # type: ignore[assignment]

_LOOK_S = 60.0  # between two looks at how many labels there are
_TAIL = 64 * 2**10  # bytes of the log that are read
_LINES = 60  # of it that are shown
_BAR = re.compile(r"(\w+):\s+(\d+)%\|")  # as tqdm draws it
_STAGES = {"clips": marked("Reading clips"), "choosing": marked("Choosing how to train")}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far the last run is, or how it ended."""

    running: bool
    elsewhere: bool = False  # not started by this server
    stage: str = ""
    share: float | None = None  # of the stage
    seconds: float = 0.0
    status: int | None = None  # exit status of the run
    log: tuple[str, ...] = ()  # names of clips may be in it


class Retraining:
    """The retraining of a home; one for all sessions.

    Args:
        command: what trains, and what answers anew after a promotion; commands of the repository unless given.
    """

    def __init__(self, paths: Paths, store: Store, command: Sequence[str] = (), refresh: Sequence[str] = ()):
        self.paths, self.store = paths, store
        self._command = list(command) or [sys.executable, "-m", "training.retrain"]
        self._refresh = list(refresh) or [sys.executable, "-m", "training.prelabel", "--all"]
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._log: IO[bytes] | None = None  # has no name on the disk: names of clips are in it
        self._since = self._took_s = 0.0
        self._status: int | None = None
        self._refreshing = False
        self._follower: threading.Thread | None = None
        self._tried = 0  # labels without a run when the last run from here ended

    def start(self, by: str, *, only_refresh: bool = False) -> None:
        """Start a run, or only the answers of the checkpoint in use to what another one answered.

        Raises:
            TrainingError: `already_running`, `cannot_start`.
        """
        with self._lock:
            if self._running() or self._held():
                raise TrainingError("already_running", "a retraining runs already; wait for it, or cancel it")
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  the run writes to it, and the page reads it
            self._since, self._took_s, self._status = time.monotonic(), 0.0, None
            self._refreshing = only_refresh
            command = self._refresh if only_refresh else [*self._command, f"--by={by or 'the page'}"]
            self._process = self._launch(command)
            self._follower = threading.Thread(target=self._follow, daemon=True)
            self._follower.start()

    def _launch(self, command: Sequence[str]) -> subprocess.Popen:
        try:
            # A session of its own: Ctrl-C at the server does not reach it.
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.paths.to_env()},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise TrainingError("cannot_start", f"{command[0]} cannot be started: {error.strerror}") from error

    def _follow(self) -> None:
        """Wait for the run; after a promotion, have the new checkpoint answer what the old one had."""
        process = self._process
        assert process is not None
        status = process.wait()
        with self._lock:
            if not self._refreshing:
                self._status = status
                if status == 0:
                    with suppress(TrainingError):
                        self._process = self._launch(self._refresh)
                        self._refreshing = True
        if self._refreshing and self._process is not None:
            self._process.wait()
        self._took_s = time.monotonic() - self._since
        self._refreshing = False
        try:
            self._tried = fresh_labels(self.store)  # what no run can read stays unused, and starts no run again
        except Exception:  # of the database too: it may be back at the next look
            _LOG.exception("the labels that are left after a retraining could not be counted")

    def cancel(self) -> None:
        """Ask the run to stop, whoever started it; it changes nothing then.

        Raises:
            TrainingError: `not_running`.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                return
            process = self._held()
            if not process:
                raise TrainingError("not_running", "no retraining runs")
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def progress(self) -> Progress:
        """Return how far the last run is."""
        if not self._running() and self._held():
            return Progress(
                True, elsewhere=True, stage=marked("A run that was not started from this page is under way")
            )
        if self._follower is None:
            return Progress(False)
        running = self._running()
        text = self._tail()
        bars = _BAR.findall(text)
        stage, share = marked("Starting"), None
        if self._refreshing:
            stage = marked("The new checkpoint answers what the old one had answered")
        elif bars:
            name, percent = bars[-1]
            stage, share = _STAGES.get(name, name), int(percent) / 100
        lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
        seconds = time.monotonic() - self._since if running else self._took_s
        return Progress(
            running, False, stage, share, seconds, self._status, tuple([line for line in lines if line][-_LINES:])
        )

    def start_if_due(self) -> bool:
        """Start a run when as many labels as the setting says have come since the last; return whether it did."""
        wanted = self.paths.retrain_after
        fresh = fresh_labels(self.store) if wanted else 0
        self._tried = min(self._tried, fresh)  # a run from elsewhere has used some
        if not wanted or fresh - self._tried < wanted or self._running() or self._held():
            return False
        self._tried = fresh
        self.start(f"automatic, after {fresh} labels")
        return True

    def wait(self, timeout_s: float) -> None:
        """Return when the run and what follows it have ended, or after a time."""
        if self._follower is not None:
            self._follower.join(timeout_s)

    def _running(self) -> bool:
        return self._follower is not None and self._follower.is_alive()

    def _held(self) -> int:
        """Return the process that retrains this home, whoever started it; 0 when none does."""
        try:
            with (self.paths.home / "retrain.lock").open("r") as lock:
                named = lock.read().split()
                process = int(named[0]) if named and named[0].isdigit() else 0
                if process:
                    os.kill(process, 0)
                    if fcntl is not None:  # after a kill the number may be another's by now
                        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        return 0
                return process
        except BlockingIOError:
            return process
        except OSError:  # no file, no such process
            return 0

    def _tail(self) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _TAIL, max(size - _TAIL, 0)).decode("utf-8", "replace")


def watch(retraining: Retraining, every_s: float = _LOOK_S) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return what starts runs by themselves as long as the server does, as FastAPI takes it."""

    async def clock() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(retraining.start_if_due)
            except Exception:  # whatever it was, as a database that is away for a moment: the looks go on
                _LOG.exception("retraining could not be started; the next look is in %.0f s", every_s)

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        task = asyncio.create_task(clock()) if retraining.paths.retrain_after else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    return lifespan
