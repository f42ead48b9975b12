"""A lock between processes on writing to a SQLite file, first come, first served.

SQLite lets waiting writers sleep and try again, so who sleeps loses to who comes: with 50 annotators writing all the
time on a busy machine, 11 waited over 30 s and failed with "database is locked". Here they wait in the kernel, which
wakes them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: SQLite's own waiting has to do
    fcntl = None  # type: ignore[assignment]


@contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """Hold the one lock of all threads and processes that write to a database; a killed process gives it up.

    Of two locks the first is for who is next, so that nobody overtakes them when the second becomes free. The names of
    their files stay, `.next` and `.turn`: programs of an earlier version wait for the same ones.
    """
    if fcntl is None:
        yield
        return
    next_writer = os.open(f"{file}.next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        writer = os.open(f"{file}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(next_writer, fcntl.LOCK_EX)
            fcntl.flock(writer, fcntl.LOCK_EX)
            fcntl.flock(next_writer, fcntl.LOCK_UN)
            yield
        finally:
            os.close(writer)
    finally:
        os.close(next_writer)
