"""The strip beneath a clip in Label: drawn once, to be clicked and worked by keys, and nothing moves for it."""

import pytest

from mmer.ui.service import Service
from tests import synth
from tests.browser.services import labelling
from tests.browser.test_label_page import ON_SCREEN, answer, item, sit_down

CLIP = "document.querySelector('#mm-screen audio')"
DRAWN = "document.querySelector('#mm-wave path').getAttribute('d').length > 100"
PLACED_A_FRAME = """() => new Promise((done) => {
  const style = document.querySelector("#mm-wave").style, set = style.setProperty.bind(style);
  let placed = 0, frames = 0;
  style.setProperty = (name, value) => { placed += name === "--at"; set(name, value); };
  const count = () => ++frames > 10 ? done(placed / 10) : requestAnimationFrame(count);
  requestAnimationFrame(count);
})"""
SHIFTS = """() => { window.moved = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({ type: "layout-shift", buffered: false }); }"""


@pytest.fixture
def service(tmp_path) -> Service:
    """A page with a project of two utterances of recordings of eight seconds, of their third to fifth second."""
    voices = [synth.voice(8.0, pitch_hz=100 + 9 * i, seed=i) for i in range(2)]
    files = [synth.write_clip(tmp_path / f"{i}.wav", seconds=8, voice=voice) for i, voice in enumerate(voices)]
    return labelling(tmp_path, files, start_s=3.0, end_s=5.0)


def test_any_place_of_a_clip_is_a_click_or_a_key_away(service, serve, visit):
    page = sit_down(visit(serve(service), color_scheme="dark"))
    strip = page.locator("#mm-wave")
    page.wait_for_function(DRAWN)
    page.wait_for_function(f"{CLIP}.readyState >= 2")
    share = "name => Number(document.querySelector('#mm-wave').style.getPropertyValue(name))"
    assert page.evaluate(share, "--from") == pytest.approx(3 / 8, abs=0.01)
    assert page.evaluate(share, "--to") == pytest.approx(5 / 8, abs=0.01)
    shaded = "(side) => parseFloat(getComputedStyle(document.querySelector('#mm-wave'), '::before')[side])"
    box = strip.bounding_box()
    for side in ("left", "right"):
        assert page.evaluate(shaded, side) == pytest.approx(3 / 8 * box["width"], abs=3)
    colour = "getComputedStyle(document.querySelector('#mm-wave'), '::before').backgroundColor"
    assert page.evaluate(colour) not in ("rgba(0, 0, 0, 0)", "transparent")
    assert box["height"] >= 44
    page.evaluate(f"{CLIP}.pause()")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    page.wait_for_function(f"Math.abs({CLIP}.currentTime - 4) < 0.05")
    assert page.locator("[data-mm=whole]").get_attribute("aria-pressed") == "false"
    strip.focus()
    for key, at_s in (("ArrowRight", 5), ("Home", 3), ("End", 5), ("PageUp", 8), ("ArrowLeft", 7)):
        page.keyboard.press(key)
        page.wait_for_function(f"s => Math.abs({CLIP}.currentTime - s) < 0.05", arg=at_s)
    assert page.locator("[data-mm=whole]").get_attribute("aria-pressed") == "true"  # it left what is to be judged
    assert strip.get_attribute("aria-valuetext") == "7.0 of 8.0 seconds"
    page.keyboard.press("l")
    assert strip.get_attribute("data-loop") == "true"
    page.keyboard.press("1")  # the keys of the tab go on working from there
    page.wait_for_function("document.querySelectorAll('#label-all input:checked').length === 1")


def test_nothing_moves_when_the_next_clip_comes(service, serve, visit):
    page = sit_down(visit(serve(service)))
    page.wait_for_function(DRAWN)
    first, lines = item(page), page.evaluate("document.querySelector('#mm-wave path').getAttribute('d')")
    page.evaluate(SHIFTS)
    answer(page, 1)
    page.wait_for_function(ON_SCREEN, arg=first)
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('#mm-wave path').getAttribute('d')") != lines
    assert page.evaluate("window.moved") < 0.1


def test_the_line_was_moved_once_more_in_every_frame_after_each_quarter_of_a_second(service, serve, visit):
    page = sit_down(visit(serve(service)))
    page.wait_for_function(DRAWN)
    page.keyboard.press("l")
    page.evaluate(f"{CLIP}.play()")
    page.wait_for_timeout(2500)  # some ten times the element says how far it is
    assert 0 < page.evaluate(PLACED_A_FRAME) < 3
    assert not page.evaluate(f"{CLIP}.paused")
