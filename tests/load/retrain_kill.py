"""A retraining is killed with SIGKILL at each of its writes: what served goes on, and nothing half-written is listed.

    python tests/load/retrain_kill.py [--every N] [--random N]

A small model learns from labels of a home made for it. Every write of a run below that home (a file opened to be
written, renamed or deleted, a folder made) is a moment at which a copy of it is killed; --random adds moments by the
clock. After each kill every checkpoint in the list has to load, the one in use has to be the served one or the new one,
and the next run has to start, close what was left and come to a verdict. Exit status 1 when something is wrong.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import select

from annotations.db.schema import TrainingRunRecord
from annotations.store import Store
from mmer import checkpoint
from mmer.config import Paths
from mmer.errors import MmerError
from tests.homes import paths_of, tiny_home
from training.corrections.config import RetrainConfig
from training.corrections.run import retrain

QUICK = RetrainConfig()
_WRITES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")  # audit events


def run_in_child(paths: Paths, before: Callable[[], None]) -> int:
    """Retrain in a child process, with what `before` sets up there; return its status as `waitpid` gives it."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = 1
        try:
            before()
            status, _ = retrain(paths, QUICK)
        except MmerError:
            status = 9
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def die_at(home: Path, moment: int, said: int | None = None) -> Callable[[], None]:
    """Return what kills a process at its n-th write below a home, or writes to a pipe how many there were so far."""

    def arm() -> None:
        count, where = 0, str(home)

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if event not in _WRITES or not arguments or not str(arguments[0]).startswith(where):
                return
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            count += 1
            if said is not None:
                os.write(said, b".")
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return arm


def die_after(seconds: float) -> Callable[[], None]:
    """Return what kills a process after some time, whatever it does then."""
    return lambda: threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def problems(paths: Paths) -> list[str]:
    """Return what is wrong with a home after a kill, before and after the next run."""
    found = _unusable(paths)
    status = os.waitstatus_to_exitcode(run_in_child(paths, lambda: None))
    if status not in (0, 3):
        found.append(f"the next run ended with status {status}")
    found += _unusable(paths)
    store = Store(paths.database_url, paths.media, paths.features)
    with store.reading() as session:
        verdicts = session.scalars(select(TrainingRunRecord.verdict).order_by(TrainingRunRecord.id)).all()
        kept = set(session.scalars(select(TrainingRunRecord.checkpoint)))
    store.engine.dispose()
    if None in verdicts:
        found.append(f"a run was left open: {verdicts}")
    if orphans := set(checkpoint.listing(paths.checkpoints)) - kept - {"tiny"}:
        found.append(f"{len(orphans)} checkpoints are of no run")
    return found


def _unusable(paths: Paths) -> list[str]:
    found = []
    for name in {*checkpoint.listing(paths.checkpoints), checkpoint.promoted(paths.checkpoints)}:
        try:
            checkpoint.load(name, paths.checkpoints)
        except MmerError as error:
            found.append(str(error))
    return found


def measure(folder: Path, *, every: int = 1, n_random: int = 0, last: int = 0, seed: int = 0) -> tuple[int, list[str]]:
    """Kill copies of one run; return how many kills there were, and what was wrong after them.

    Args:
        every: of its writes, at each n-th.
        last: only at its last ones; 0: at all.
    """
    tiny_home(folder / "home", n_clips=60)
    reading, writing = os.pipe()
    paths = _copy(folder, "whole")
    since = time.monotonic()
    status = os.waitstatus_to_exitcode(run_in_child(paths, die_at(paths.home, 0, writing)))
    took_s = time.monotonic() - since
    os.close(writing)
    n_writes = 0
    while block := os.read(reading, 65536):
        n_writes += len(block)
    os.close(reading)
    if status != 0:
        return 0, [f"the undisturbed run ended with status {status}"]
    moments = [*range(1, n_writes + 1, every)][-last:]
    chance, wrong, n_kills = random.Random(seed), [], 0
    for kill, moment in enumerate([*moments, *([None] * n_random)]):
        paths = _copy(folder, f"kill{kill}")
        if moment is None:
            delay_s = chance.uniform(0, took_s)
            ended = run_in_child(paths, die_after(delay_s))
        else:
            ended = run_in_child(paths, die_at(paths.home, moment))
        if os.waitstatus_to_exitcode(ended) < 0:
            n_kills += 1
        wrong += [f"killed at {f'write {moment} of {n_writes}' if moment else 'random'}: {p}" for p in problems(paths)]
        shutil.rmtree(paths.home)
    return n_kills, wrong


def _copy(folder: Path, name: str) -> Paths:
    shutil.copytree(folder / "home", folder / name)
    return paths_of(folder / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="kill at each n-th write (default 1)")
    parser.add_argument("--random", type=int, default=10, help="and so many times by the clock (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="for the moments by the clock")
    args = parser.parse_args()
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        n_kills, wrong = measure(Path(folder), every=args.every, n_random=args.random, seed=args.seed)
    print(f"{n_kills} kills in {time.perf_counter() - since:.0f} s, {len(wrong)} problems")
    print(*wrong[:20], sep="\n", file=sys.stderr)
    return 1 if wrong or not n_kills else 0


if __name__ == "__main__":
    sys.exit(main())
