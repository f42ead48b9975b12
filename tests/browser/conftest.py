"""A real browser for the page's tests: Debian's Chromium, headless."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

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


@pytest.fixture(scope="session")
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
        return page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, **options)[1]

    yield launch
    for page in pages:
        page.close()


@pytest.fixture
def visit(browser):
    """A function that opens an address in a window of its own; at the end, no script of the page may have failed."""
    contexts, problems = [], []

    def window(url: str, *, width: int = 1280, height: int = 900, **options) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page

    def open_page(url: str, **options) -> Page:
        page = window(url, **options)
        page.get_by_role("tab", name="Analyse").wait_for()
        return page

    open_page.window = window  # for a page that asks for a login first
    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
