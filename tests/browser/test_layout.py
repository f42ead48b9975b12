"""Nothing jumps under the reader's eyes: layout shift as browsers measure it, on load and while a clip is analysed.

https://web.dev/articles/cls: a shift counts as the share of the screen that moved times how far; what follows a press
within half a second is expected and does not count. A page may have 0.1.
"""

import threading
import time

import pytest
from playwright.sync_api import Page

from mmer.ui.service import Service
from tests.browser.services import analysing
from tests.test_label_tab import filled

MOST = 0.1
WATCH = """window.mmerShifts = [];
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.mmerShifts.push([
    Number(each.value.toFixed(4)), Math.round(each.startTime),
    each.sources.map(({node}) => (node?.closest ? node : node?.parentElement)?.closest('[id]')?.id ?? '?').join(' '),
  ]);
}).observe({type: 'layout-shift', buffered: true});"""


@pytest.fixture
def service(tmp_path, text_encoder, face_model) -> Service:
    return analysing(filled(tmp_path))


@pytest.fixture
def busy():
    """Both cores at work, as on a server that answers others."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            sum(range(20_000))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    done.set()


def moved(page: Page) -> float:
    """Return the layout shift: the worst window of shifts less than a second apart, of five seconds at most."""
    worst, window = 0.0, []
    for value, at_ms, what in page.evaluate("window.mmerShifts"):
        print(f"{at_ms} ms: {value} {what}")  # shown where the test fails
        if window and (at_ms - window[-1][0] > 1000 or at_ms - window[0][0] > 5000):
            window = []
        window.append((at_ms, value))
        worst = max(worst, sum(shift for _, shift in window))
    return worst


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_page_jumped_while_it_loaded(service, serve, visitor_of, busy, size):
    page = visitor_of(size)
    page.goto(serve(service))
    page.wait_for_function("document.querySelector('#who [data-may]')")
    page.wait_for_timeout(1500)
    assert moved(page) <= MOST


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_page_jumped_while_a_clip_was_analysed(service, serve, visitor_of, size):
    page = visitor_of(size)
    page.goto(serve(service))
    page.locator("#example-talk").wait_for()
    page.wait_for_function("document.querySelector('#who [data-may]')")
    page.wait_for_timeout(500)
    page.evaluate("window.mmerShifts = []")
    page.locator("#example-talk").click()
    page.locator("#result .mm-emotion").wait_for(timeout=240_000)
    time.sleep(1)
    assert moved(page) <= MOST


@pytest.fixture
def visitor_of(browser):
    """A function that opens a window of a size in which shifts are noted from the start."""
    contexts = []

    def open_window(size: tuple[int, int]) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(WATCH)
        return page

    yield open_window
    for context in contexts:
        context.close()
