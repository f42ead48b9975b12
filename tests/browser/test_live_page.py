"""The Live tab with Chromium's own camera and microphone, which play a drawn face and a voice."""

import pytest
from playwright.sync_api import Browser, Page, expect

from mmer.labels import EMOTIONS
from mmer.ui.service import Service
from tests.browser.conftest import Visitor
from tests.browser.live_media import ALLOWED, devices, with_devices
from tests.browser.services import analysing
from tests.browser.test_accessibility import check
from tests.test_label_tab import paths_in
from tests.until import until

UPDATES = "mmerLive.state.updates.length"


@pytest.fixture
def service(tmp_path, text_encoder, face_model) -> Service:
    return analysing(paths_in(tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[str]:
    return devices(tmp_path_factory.mktemp("devices"))


@pytest.fixture
def browser_with(browser: Browser):
    """A function that starts a browser with flags."""
    started: list[Browser] = []

    def start(*flags: str) -> Browser:
        started.append(with_devices(browser.browser_type, list(flags)))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def visitors():
    """A function that makes a visitor of a browser; no script of a page may have failed at the end."""
    made: list[Visitor] = []

    def visitor(browser: Browser) -> Visitor:
        made.append(Visitor(browser))
        return made[-1]

    yield visitor
    assert [problem for each in made for problem in each.problems] == []


def open_live(page: Page, *, start: bool = True) -> Page:
    page.get_by_role("tab", name="Live").click()
    page.locator("#live-start").wait_for()
    page.wait_for_function("document.querySelector('#who [data-may]')")
    if start:
        page.locator("#live-start").click()
    return page


def first_of(page: Page, channel: str):
    return page.locator(f"#live [data-channel={channel}] [data-first]")


def tracks_end(page: Page) -> bool:
    return page.evaluate("Object.keys(mmerLive.state.streams).length === 0 && !mmerLive.state.audio")


def test_face_and_voice_scroll_by_until_one_stops(service, serve, browser_with, made, visitors):
    visit = visitors(browser_with(*made, ALLOWED))
    page = open_live(visit(serve(service)))
    for channel in ("together", "face", "voice"):
        expect(first_of(page, channel).locator(".mm-sign")).to_have_count(1, timeout=120_000)
        shown = first_of(page, channel).inner_text().split()
        assert shown[0] in EMOTIONS
        curves = page.locator(f"#live [data-channel={channel}] path")
        assert any(curves.evaluate_all("(all) => all.map((path) => path.getAttribute('d'))"))
        assert page.locator(f"#live [data-channel={channel}] .mm-marks .mm-sign").count() >= 1  # told without colour
    expect(page.locator("#mm-page-live")).to_contain_text("%")
    expect(page.locator(".mm-camera p")).to_be_hidden()
    assert page.evaluate("document.querySelector('#live-video').videoWidth") == 640
    assert len(service.live) == 1
    page.locator("#live-stop").click()
    expect(page.locator("#live-told")).to_contain_text("Stopped. Nothing was kept")
    assert tracks_end(page)
    until(lambda: len(service.live) == 0)
    seen = page.evaluate(UPDATES)
    page.wait_for_timeout(1000)
    assert page.evaluate(UPDATES) == seen
    page.evaluate("window.AudioWorkletNode = undefined")  # as in a browser that lacks it
    page.locator("#live-start").click()  # and again
    page.wait_for_function(f"{UPDATES} > 0")
    alone = "The microphone cannot be used in this browser. The face is followed alone."
    expect(page.locator("#live-told")).to_have_text(alone)
    page.get_by_role("tab", name="Analyse").click()
    expect(page.locator("#live-told")).to_contain_text("another part of the page was opened")
    assert tracks_end(page)


def test_who_leaves_frees_the_place_and_who_comes_too_late_is_told(service, serve, browser_with, made, visitors):
    service.live.limits.places = 1
    url = serve(service)
    visit = visitors(browser_with(*made, ALLOWED))
    first = open_live(visit(url))
    first.wait_for_function(f"{UPDATES} > 0", timeout=120_000)
    second = open_live(visit(url))
    expect(second.locator("#live-status [role=alert]")).to_contain_text("every place is taken")
    until(lambda: tracks_end(second))  # its camera is off: a step of its own, after the refusal is shown
    first.close(run_before_unload=True)
    until(lambda: len(service.live) == 0)
    second.locator("#live-start").click()
    second.wait_for_function(f"{UPDATES} > 0", timeout=60_000)
    service.live.end(next(iter(service.live._sessions)))  # as when the server was started again
    expect(second.locator("#live-told")).to_contain_text("This live session is over")
    assert tracks_end(second)


def test_devices_that_are_refused_or_missing_are_said_and_one_is_enough(service, serve, browser_with, made, visitors):
    url = serve(service)
    page = open_live(visitors(browser_with(*made))(url))  # nobody answers the browser's question: no
    told = page.locator("#live-told")
    expect(told).to_contain_text("The camera may not be used")
    expect(told).to_contain_text("The microphone may not be used")
    assert len(service.live) == 0
    page = open_live(visitors(browser_with(ALLOWED))(url))  # there are none
    expect(page.locator("#live-told")).to_contain_text("No camera was found. No microphone was found. Press Start")
    visit = visitors(browser_with(*made))
    page = visit(url)
    page.context.grant_permissions(["microphone"])
    page = open_live(page)
    expect(page.locator("#live-told")).to_contain_text("The camera may not be used")
    expect(page.locator("#live-told")).to_contain_text("The voice is followed alone.")
    expect(first_of(page, "voice").locator(".mm-sign")).to_have_count(1, timeout=120_000)
    expect(first_of(page, "face")).to_have_text("off")
    assert first_of(page, "together").inner_text() == first_of(page, "voice").inner_text()


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(service, serve, browser_with, made, visitors, size):
    page = open_live(visitors(browser_with(*made, ALLOWED))(serve(service), width=size[0], height=size[1]))
    page.wait_for_function(f"{UPDATES} > 2", timeout=120_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    above = page.locator("#live-stop").bounding_box()
    page.wait_for_timeout(1500)
    assert page.locator("#live-stop").bounding_box() == above  # what is told beside it moves nothing
    page.locator("#live-stop").click()
    check(page)
