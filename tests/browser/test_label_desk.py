"""The desk for hours of labelling: on one screen with a mouse or a thumb, looped, changed afterwards, summed up."""

import pytest
from playwright.sync_api import Page

from mmer.ui.service import Service
from tests import synth
from tests.browser.services import labelling
from tests.browser.test_label_page import ON_SCREEN, answer, item, sit_down
from tests.test_label_tab import filled

KEYS = ("submit", "cannot", "undo", "skip", "broken", "reveal", "pause")
# What an annotator sees and presses for each item, with its box.
BOXES = """() => Object.fromEntries([
  ["clip", "#mm-screen video"], ...[...document.querySelectorAll("#label-all label, #label-intensity label")]
    .map((e, i) => [e.textContent.trim(), e]),
  ...%s.map((name) => [name, `#label-${name}`]),
].map(([name, e]) => [name, (e.nodeType ? e : document.querySelector(e)).getBoundingClientRect().toJSON()]))"""


@pytest.fixture
def film(tmp_path) -> Service:
    """A page with a project of two films with words."""
    files = [synth.write_clip(tmp_path / f"{i}.mp4", seconds=1 + i) for i in range(2)]
    words = "I did not expect that at all, and I am not going to say another word about it"
    return labelling(tmp_path, files, predicted=True, transcript=words)


@pytest.fixture
def service(tmp_path) -> Service:
    return Service(filled(tmp_path, n=4))


def played(page: Page) -> None:
    page.wait_for_function("document.querySelector('#mm-screen :is(video, audio)')?.readyState >= 2")
    page.wait_for_timeout(400)


@pytest.mark.parametrize(("width", "height", "least"), [(1280, 900, 28), (390, 844, 44)])
def test_the_clip_and_all_keys_are_on_one_screen(film, serve, visit, width, height, least):
    page = sit_down(visit(serve(film), width=width, height=height))
    played(page)
    page.evaluate("scrollTo(0, 0)")
    boxes = page.evaluate(BOXES % list(KEYS))
    assert len(boxes) == 1 + 7 + 3 + len(KEYS)
    for name, box in boxes.items():
        assert box["left"] >= 0, name
        assert box["right"] <= width, name
        assert box["top"] >= 0, name
        assert box["bottom"] <= height, (name, box)
        assert box["height"] >= least, (name, box)
        assert box["width"] >= least, (name, box)
    keys = "[...document.querySelectorAll('#label-submit, #label-all label')].map((e) => "
    keys += "getComputedStyle(e, e.id ? '::after' : '::before').content)"
    shown = page.evaluate(keys)
    assert ('" (Enter)"' in shown and '"7"' in shown) == (width > 640)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_answer_is_given_while_the_clip_plays_and_loops(film, serve, visit):
    page = sit_down(visit(serve(film)))
    played(page)
    page.keyboard.press("l")
    page.evaluate("document.querySelector('#mm-screen video').play()")
    length_s = page.evaluate("document.querySelector('#mm-screen video').duration")
    page.evaluate("document.querySelector('#mm-screen video').currentTime = %f" % (length_s - 0.2))
    page.wait_for_function("document.querySelector('#mm-screen video').currentTime < %f" % (length_s - 0.3))
    assert not page.evaluate("document.querySelector('#mm-screen video').paused")
    shown = item(page)
    page.keyboard.press("1")
    page.wait_for_function("document.querySelectorAll('#label-all input:checked').length === 1")
    assert not page.evaluate("document.querySelector('#mm-screen video').paused")
    page.wait_for_timeout(150)
    page.keyboard.press("Enter")
    page.wait_for_function(ON_SCREEN, arg=shown)
    assert page.locator("[data-mm=loop]").get_attribute("aria-pressed") == "true"  # for the items to come, too


def test_an_own_answer_is_changed_by_keyboard_and_the_session_is_summed_up(service, serve, visit):
    page = sit_down(visit(serve(service)))
    first = item(page)
    answer(page, 1)
    page.wait_for_function(ON_SCREEN, arg=first)
    second = item(page)
    page.keyboard.press("a")
    page.locator("#label-given label").first.wait_for()
    page.locator("#label-given input").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("id => mmerLabel.state.item.id === id", arg=first)
    page.wait_for_function("document.querySelector('#label-all input[name=anger]').checked")
    page.wait_for_timeout(200)
    page.keyboard.press("1")
    page.keyboard.press("3")
    page.wait_for_timeout(200)
    page.keyboard.press("Enter")
    page.locator("#label-told", has_text="changed: fear").wait_for()
    page.wait_for_function("id => mmerLabel.state.item.id === id", arg=second)
    assert [x.emotions for x in service.store.labels()] == [{"fear": 1.0}]
    page.keyboard.press("p")
    page.locator("#label-status", has_text="This session: 1 item (1 labelled)").wait_for()
    page.locator("#label-start").wait_for()
    page.locator("#label-start").click()
    page.wait_for_function("id => mmerLabel.state.item?.id === id", arg=second)


def test_words_are_corrected_where_they_stand(film, serve, visit):
    page = sit_down(visit(serve(film)))
    played(page)
    words, first = page.locator("#mm-words"), item(page)
    page.keyboard.press("e")
    page.keyboard.type(" 1 s, ever")  # no key of the tab is heard meanwhile
    page.keyboard.press("Enter")
    assert words.inner_text().endswith("another word about it 1 s, ever")
    assert page.evaluate("document.querySelectorAll('#label-all input:checked').length") == 0
    page.reload()  # what was corrected stays with the item
    page.wait_for_function("id => window.mmerLabel?.state.item?.id === id", arg=first)
    page.wait_for_function("document.querySelector('#mm-words').textContent.endsWith('ever')")
    answer(page, 1)
    page.wait_for_function(ON_SCREEN, arg=first)
    assert words.inner_text().endswith("another word about it")
    shown = item(page)
    answer(page, 2)
    page.wait_for_function("id => mmerLabel.settled() && mmerLabel.id() !== id", arg=shown)
    said = {next(iter(x.emotions)): x.transcript for x in film.store.labels()}
    assert said["anger"].endswith("another word about it 1 s, ever")
    assert said["disgust"] is None  # nothing was corrected
