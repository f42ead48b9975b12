"""The end of a server: what runs is finished, what waits is told, nothing new comes in."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from gradio.server_messages import ProcessCompletedMessage

if TYPE_CHECKING:
    from mmer.ui.page import Page

_LOG = logging.getLogger("mmer.server")
_POLL_S = 0.1
_TELL_S = 1.0  # for the last answers to reach those who wait for them
MESSAGE = "this server is being stopped; try again in a minute"


def serve_until_stopped(page: "Page", finish_s: float) -> None:
    """Return when the process was asked to end (SIGTERM) and what ran is finished, or `finish_s` later.

    Ctrl+C ends it at once.
    """
    asked = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    former = signal.signal(signal.SIGTERM, ask)
    try:
        while not asked.wait(_POLL_S):
            if not page.is_running:
                return
        left = drain(page, finish_s)
        _LOG.info("stopped; %d calls were not finished", left, extra={"fields": {"unfinished": left}})
    except KeyboardInterrupt:
        _LOG.info("stopped by the keyboard")
    finally:
        signal.signal(signal.SIGTERM, former)
        page.close(verbose=False)


def drain(page: "Page", finish_s: float) -> int:
    """Let nothing new in, tell those who wait, and wait for what runs; return how many calls still do."""
    page.stopping, until = True, time.monotonic() + finish_s  # the door refuses, /readyz says so
    if page.loop is not None:  # else nobody has come yet
        page.loop.call_soon_threadsafe(_tell_waiting, page)
    while (n_running := len(page.running())) and time.monotonic() < until:
        time.sleep(_POLL_S)
    time.sleep(_TELL_S)
    return n_running


def _tell_waiting(page: "Page") -> None:
    """Answer the calls that wait; on the server's own loop, whose queues are not for other threads."""
    queue = page._queue
    for each in queue.event_queue_per_concurrency_id.values():
        while each.queue:
            told = ProcessCompletedMessage(output={"error": MESSAGE}, success=False, title="Stopping")
            queue.send_message(each.queue.pop(), told)
