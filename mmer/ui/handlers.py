"""What the tabs' event handlers share: work in the background that can be stopped, and errors told in the page."""

import contextvars
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import wraps
from html import escape
from typing import TypeVar

import gradio as gr
from gradio.context import Context

from mmer.errors import ClipError, MmerError
from mmer.ui import language, result_html
from mmer.ui.line import PLACES
from mmer.ui.service import SessionResult
from mmer.ui.turns import Turn

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_POLL_S = 0.3  # how long Stop may take
_WORKERS = ThreadPoolExecutor(4 * PLACES, thread_name_prefix="analyse")  # also what was stopped and has yet to end


def page_being_built() -> gr.Blocks:
    """Return the page that the code runs within the `with` of."""
    if Context.root_block is None:
        raise RuntimeError("a tab is laid out in a page: with gr.Blocks() as page: ...")
    return Context.root_block


def remember_name(name: gr.Textbox) -> None:
    """Have the browser fill in the name that somebody typed before, here or in another tab of the page."""
    name.input(None, name, None, js="(name) => mmerPage.keep('name', name)")
    page_being_built().load(None, None, name, js="() => mmerPage.kept('name')")


def run_in_background(turn: Turn, work: Callable[[], T]) -> Iterator[tuple[float, T | None]]:
    """Run a call on another thread, and yield the seconds so far with None until it ends, then with what it returned.

    gradio stops a generator only between two of its values, so whoever presses Stop waits for one of these.

    Args:
        turn: the call's; what works for it asks `turn.should_stop` between two steps.

    Raises:
        ClipError: `too_slow`, so that others get their turn.
    """

    def in_turn() -> T:
        with turn:
            return work()

    since = time.perf_counter()
    call = _WORKERS.submit(contextvars.copy_context().run, in_turn)
    try:
        while not call.done():
            yield time.perf_counter() - since, None
            if time.perf_counter() - since - turn.waited_s > turn.most_s:
                message = f"the clip takes longer than {turn.most_s:.0f} s here; give a shorter part of it"
                raise ClipError("too_slow", message)
            wait([call], timeout=_POLL_S)
        yield time.perf_counter() - since, call.result()
    finally:
        turn.stop()


def language_of(given: Sequence[object]) -> str:
    """Return the language of the page that makes a request; a program that names none gets English.

    Args:
        given: what a handler was called with; the request is among it.
    """
    request = next((each for each in given if isinstance(each, gr.Request)), None)
    return language.asked(request.headers.get("accept-language") if request else None)


def in_its_language(handler: Callable[..., T]) -> Callable[..., T]:
    """Wrap a handler that cannot fail so that it answers in the language of the page."""

    @wraps(handler)
    def spoken(*args):
        with language.speaking(language_of(args)):
            return handler(*args)

    return spoken


def report_errors(status: str, **left: Callable[[], object]):
    """Wrap a generator method so that it answers in the language of the page, and an error is told there and to the
    caller, a bug without its details.

    Args:
        status: the attribute that holds the HTML component in which the page tells of it.
        left: what other attributes' components show after it.
    """

    def wrap(handler):
        @wraps(handler)
        def guarded(self, *args):
            call, code = self.service.monitor.begin(handler.__name__), "stopped"  # unless it comes to an end
            spoken = language_of(args)
            try:
                with closing(handler(self, *args)) as steps:
                    for shown in language.in_language(spoken, steps):
                        for value in shown.values() if isinstance(shown, dict) else ():
                            if isinstance(value, SessionResult):
                                call.judged(value.result)
                        yield shown
                code = "ok"
            except Exception as error:
                code = error.code if isinstance(error, MmerError) else "internal"
                title, message = _told(error, handler.__name__)
                with language.speaking(spoken):
                    failed = {getattr(self, status): result_html.failure(message)}
                    failed |= {getattr(self, name): value() for name, value in left.items()}
                yield failed
                raise _for_callers(title, message) from None
            finally:
                call.end(code)

        return guarded

    return wrap


def report_to_callers(handler):
    """Wrap a generator method of the API so that an error reaches its caller, a bug without its details."""

    @wraps(handler)
    def guarded(self, *args):
        call, code = self.service.monitor.begin(handler.__name__), "stopped"  # unless it comes to an end
        try:
            with closing(handler(self, *args)) as steps:
                for answer in steps:
                    found = answer[1] if isinstance(answer, tuple) else None
                    if isinstance(found, SessionResult) and handler.__name__ == "analyse":
                        call.judged(found.result)
                    yield answer
            code = "ok"
        except Exception as error:
            code = error.code if isinstance(error, MmerError) else "internal"
            raise _for_callers(*_told(error, handler.__name__)) from None
        finally:
            call.end(code)

    return guarded


def _told(error: Exception, doing: str) -> tuple[str, str]:
    """Return the title and the message of an error; a bug goes to the log."""
    if isinstance(error, MmerError):
        return error.code.replace("_", " ").capitalize(), error.message
    _LOG.exception("%s failed", doing)
    return "Our fault", "something went wrong in this program; the next clip will work"


def _for_callers(title: str, message: str) -> gr.Error:
    """Return an error for callers of the API; a browser has it in the page, and would take it for HTML."""
    return gr.Error(escape(message, quote=False), title=title, visible=False, print_exception=False)
