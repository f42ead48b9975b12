"""The line before the model: where somebody stands in it, who is served, and in about how long it is their turn."""

import heapq
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmer.config import cores
from mmer.ui.language import gettext, ngettext
from mmer.ui.monitor import Monitor

if TYPE_CHECKING:
    from mmer.ui.page import Page

AT_ONCE = min(2, cores())  # calls that compute: more would only share the same cores
# Calls that have begun, and compute in turn, so that long clips do not hold up a short one: more than one visitor may
# have in line.
PLACES = 10
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": PLACES}  # of every call of the model
_REMEMBERED = 1000  # sessions whose clips' lengths are known


@dataclass(frozen=True)
class Place:
    """Where one call stands."""

    number: int  # 1 is the next
    running_s: tuple[float, ...]  # for how long each call that is served runs, the longest first
    turn_in_s: float | None  # None: it cannot be told
    is_late: bool = False  # a call that is served takes longer than those like it did


class Line:
    """One for each page; any thread may call.

    Args:
        monitor: knows how long each kind of call took lately.
    """

    def __init__(self, monitor: Monitor):
        self.page: Page | None = None  # once it is built
        self._monitor = monitor
        self._expected: OrderedDict[str, float] = OrderedDict()  # by session: how long its clip should take

    def expect(self, session: str | None, seconds: float | None) -> None:
        """Note how long the clip that a session sends should take; None: it is not known."""
        if not session:
            return
        self._expected.pop(session, None)
        if seconds is not None:
            self._expected[session] = seconds
        while len(self._expected) > _REMEMBERED:
            self._expected.popitem(last=False)

    def load(self) -> tuple[int, int]:
        """Return how many calls of the model compute, and how many wait for it or for their next turn."""
        if self.page is None:
            return 0, 0
        running, waiting = (
            sum(event.concurrency_id == "model" for event in events)
            for events in (self.page.running(), self.page.waiting())
        )
        return min(running, AT_ONCE), waiting + max(running - AT_ONCE, 0)

    def place(self, session: str) -> Place | None:
        """Return where the first call of a session stands that waits for the model; None where none waits."""
        if self.page is None:
            return None
        waiting = [event for event in self.page.waiting() if event.concurrency_id == "model"]
        ahead = next((i for i, event in enumerate(waiting) if event.session_hash == session), None)
        if ahead is None:
            return None
        running = self._running()
        left = [None if (usual := self._usual_s(event)) is None else usual - ran_s for event, ran_s in running]
        late = any(each is not None and each < 0 for each in left)
        ahead_s = [self._usual_s(event) for event in waiting[:ahead]]
        turn_in_s = None if late else turn_in(left, ahead_s, PLACES, AT_ONCE)
        return Place(ahead + 1, tuple(sorted((ran_s for _, ran_s in running), reverse=True)), turn_in_s, late)

    def _running(self) -> list[tuple[Any, float]]:
        """Return the calls that are served, each with the seconds since it began."""
        assert self.page is not None
        began: dict[Any, list[float]] = defaultdict(list)  # gradio knows it by function
        for fn, times in list(self.page._queue.event_queue_per_concurrency_id["model"].start_times_per_fn.items()):
            began[fn] = sorted(times)
        now = time.time()
        events = [event for event in self.page.running() if event.concurrency_id == "model"]
        return [(event, max(now - (began[event.fn].pop(0) if began[event.fn] else now), 0.0)) for event in events]

    def _usual_s(self, event: Any) -> float | None:
        usual = self._monitor.usual_s(event.fn.name)
        return self._expected.get(event.session_hash, usual) if event.fn.name == "analyse" else usual


def turn_in(left_s: Sequence[float | None], ahead_s: Sequence[float | None], places: int, at_once: int) -> float | None:
    """Return the seconds until it is one's turn; None where how long somebody before takes is not known.

    Args:
        left_s: of each call that is served, if it had a processor to itself.
        ahead_s: of each that waits before, in order.
        places: how many are served, in turn.
        at_once: how many of them compute at a time.
    """
    known = [each for each in (*left_s, *ahead_s) if each is not None]
    if len(known) < len(left_s) + len(ahead_s):
        return None
    if len(known) < places:
        return 0.0
    shared = places / at_once  # as long as all places are taken, each takes that many times as long
    free = [shared * each for each in known[: len(left_s)]] + [0.0] * (places - len(left_s))
    heapq.heapify(free)
    for each in known[len(left_s) :]:
        heapq.heappush(free, heapq.heappop(free) + shared * each)
    return free[0]


def words(place: Place | None) -> dict[str, str]:
    """Return what is told of a place: `place`, spoken when it changes, and `more`, which moves."""
    if place is None:
        return {"place": "", "more": ""}
    first = gettext("Next in line") if place.number == 1 else gettext("Number {n} in line", n=place.number)
    n, at_work = len(place.running_s), ""
    if n:
        at_work = ngettext(
            "one request is being answered, for {since} s so far",
            "{n} are being answered, the longest for {since} s so far",
            n,
            since=f"{place.running_s[0]:.0f}",
        )
    if place.is_late:
        turn = ngettext(
            "it takes longer than those like it, so nobody can say when it is your turn",
            "one of them takes longer than those like it, so nobody can say when it is your turn",
            n,
        )
    elif place.turn_in_s is None:
        turn = gettext("nothing like it ran here before, so there is no estimate")
    else:
        turn = gettext("your turn in about {n} s", n=f"{max(place.turn_in_s, 1):.0f}")
    return {"place": first, "more": "; ".join(part for part in (at_work, turn) if part)}
