"""A real browser for the page's tests: Debian's Chromium, headless."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
expect.set_options(timeout=30_000)  # other tests run beside these


@pytest.fixture(scope="package")  # while it is there no test can run a loop of its own
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:  # a test cannot install a browser; .ci/run does, so there these tests run
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve():
    """A function that serves a service and returns the page's address."""
    pages = []

    def launch(service: Service, **options) -> str:
        page = build(service)
        pages.append(page)
        # Without gradio's own look at the page, which a busy machine does not answer within its three seconds.
        return page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, _frontend=False, **options)[1]

    yield launch
    for page in pages:
        page.close()


class Visitor:
    """Opens addresses, each in a window of its own."""

    def __init__(self, browser: Browser):
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []  # scripts of a page that failed

    def window(self, url: str, *, width: int = 1280, height: int = 900, **options) -> Page:
        """Return a page as it comes: it may ask for a login first."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.goto(url)
        return page

    def __call__(self, url: str, **options) -> Page:
        page = self.window(url, **options)
        page.locator("#tab-analyse-button").wait_for()
        return page


@pytest.fixture
def visit(browser) -> Iterator[Visitor]:
    """A function that opens an address in a window of its own; at the end, no script of the page may have failed."""
    visitor = Visitor(browser)
    yield visitor
    for context in visitor.contexts:
        context.close()
    assert visitor.problems == []
