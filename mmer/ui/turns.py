"""Who computes: a few calls at a time, in turn, so that long clips do not keep a short one waiting."""

import threading
import time
from collections import deque
from types import TracebackType

_LOOK_S = 0.2  # after which a call that waits looks whether anybody still wants its answer


class Turns:
    """Any thread may call.

    Args:
        at_once: calls that compute at the same time; more would only share the same cores.
        slice_s: how long a call computes before it gives way to one that waits.
        most_s: that one call may take, its waiting apart: ten minutes of talk take a third of it on two cores.
    """

    def __init__(self, at_once: int, slice_s: float = 2.0, most_s: float = 900.0):
        self.slice_s, self.most_s = slice_s, most_s
        self._free = at_once
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()

    def take(self, turn: "Turn") -> None:
        """Return when it is a call's turn, its first one before the next one of others; at once when nobody wants its
        answer any more: it will end.
        """
        with self._changed:
            first = sum(not other.began for other in self._waiting)
            self._waiting.insert(len(self._waiting) if turn.began else first, turn)
            while (self._waiting[0] is not turn or self._free < 1) and not turn.stopped:
                self._changed.wait(_LOOK_S)
            self._waiting.remove(turn)
            turn.began = True
            self._free -= 1  # below 0 for the moment that a stopped call needs to end
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    @property
    def somebody_waits(self) -> bool:
        return bool(self._waiting)


class Turn:
    """The turn of one call: within the `with` it computes, but for the times when it gives way to others.

    The threads that work for the call ask `should_stop` between two steps, and hold no lock then.
    """

    def __init__(self, turns: Turns):
        self._turns = turns
        self._since = time.monotonic()  # when it began to compute, or to wait
        self._waited_s = 0.0
        self._lock = threading.Lock()  # its threads give way once, not each
        self.waits, self.began, self.stopped = True, False, False

    def __enter__(self) -> "Turn":
        self._wait()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._turns.end()

    def stop(self) -> None:
        """Say that nobody waits for the answer any more."""
        self.stopped = True

    def should_stop(self) -> bool:
        """Return whether to end the work; when others wait and this call had its slice, after their turn."""
        with self._lock:
            if not self.stopped and time.monotonic() - self._since > self._turns.slice_s:
                if self._turns.somebody_waits:
                    self._turns.end()
                    self._wait()
                self._since = time.monotonic()
        return self.stopped

    @property
    def most_s(self) -> float:
        return self._turns.most_s

    @property
    def waited_s(self) -> float:
        """For how long others had their turn so far."""
        return self._waited_s + (time.monotonic() - self._since if self.waits else 0.0)

    def _wait(self) -> None:
        self._since, self.waits = time.monotonic(), True
        self._turns.take(self)
        now = time.monotonic()
        self._waited_s += now - self._since
        self._since, self.waits = now, False
