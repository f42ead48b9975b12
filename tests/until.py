"""Waiting for what another thread or process does: with an end, so that what never comes fails one test by name."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], *, seconds: float = 60, every: float = 0.02) -> None:
    """Return as soon as `holds()` is true.

    Raises:
        AssertionError: it was not within that time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(every)
