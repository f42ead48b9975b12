"""WCAG 2.2 AA in a real browser: axe-core on every tab, contrast, names, keys, what a screen reader hears."""

from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page

from mmer.labels import EMOTIONS, SIGNS
from mmer.messages import plain
from mmer.ui.service import Service
from tests.browser.german import english_left, in_german
from tests.browser.services import analysing
from tests.browser.tour import tour
from tests.test_label_tab import filled

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# Text with less contrast than 4.5 to 1 (3 to 1 when large), as drawn over what lies behind it.
FAINT = """() => {
  const parse = (colour) => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (e) => e ? over(parse(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    if (e.closest(':disabled, .mm-live, script, style, svg')) continue;
    const style = getComputedStyle(e), ground = behind(e);
    const [a, b] = [light(over(parse(style.color), ground)), light(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const ratio = (a + 0.05) / (b + 0.05), needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    if (ratio < needed) faint.add(`${ratio.toFixed(2)} ${text.slice(0, 40)} (${e.className})`);
  }
  return [...faint];
}"""
# What can be worked but has no name.
NAMELESS = """() => [...document.querySelectorAll('button, a[href], input, textarea, select, [role=combobox]')]
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && e.type !== 'hidden' && e.type !== 'file')
  .filter((e) => !(e.ariaLabel || e.title || e.textContent.trim() || e.labels?.length
    || document.getElementById(e.getAttribute('aria-labelledby'))))
  .map((e) => e.outerHTML.slice(0, 160))"""
GROUPS = """() => [...document.querySelectorAll('fieldset')].filter((e) => e.checkVisibility()).map((e) => [
  e.getAttribute('role'), document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim(),
  new Set([...e.querySelectorAll('input[type=radio]')].map((r) => r.name)).size])"""
# Where an emotion is chosen, by state, and what stands before each choice.
CHOICES = {"analyse-result": "#emotion", "label": "#label-all", "review": "#review-final", "data": "#own-emotion"}
SYMBOLS = """(block) => [...document.querySelectorAll(`${block} label > span`)]
  .map((e) => getComputedStyle(e, '::before').content)"""


@pytest.fixture
def service(tmp_path, text_encoder) -> Service:
    return analysing(filled(tmp_path))


def check(page: Page) -> None:
    assert page.evaluate(FAINT) == []
    assert page.evaluate(NAMELESS) == []
    for role, name, radio_groups in page.evaluate(GROUPS):
        assert role in ("group", "radiogroup")
        assert name
        assert radio_groups == (role == "radiogroup")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.evaluate(AXE)
    found = page.evaluate("async (tags) => (await axe.run(document, {runOnly: tags})).violations", TAGS)
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark", "phone", "german", "german phone"])
def test_every_tab_can_be_read_and_worked(service, serve, visit, scheme):
    options: dict = {"width": 390, "height": 844} if "phone" in scheme else {}
    options |= {"locale": "de-DE"} if "german" in scheme else {}
    page = visit(f"{serve(service)}?__theme={'dark' if scheme == 'dark' else 'light'}", **options)
    for state in tour(page, in_german if "german" in scheme else plain):
        if state != "analyse-waiting":  # it is over before all is looked at
            check(page)
        if "german" in scheme:
            assert english_left(page) == set(), state
        if state in CHOICES:
            shown = page.evaluate(SYMBOLS, CHOICES[state])[: len(EMOTIONS)]
            assert [content.strip('"')[0] for content in shown] == [sign.symbol for sign in SIGNS.values()]


def test_a_screen_reader_hears_the_verdict_and_what_goes_wrong(service, serve, visit):
    page = visit(serve(service))
    page.locator("#words textarea").fill("I did not expect that at all")
    page.locator("#analyse").click()
    live = page.locator("#mm-page-live")
    live.filter(has_text="Confidence").wait_for(state="attached", timeout=120_000)
    headline = " ".join(page.locator("#result .mm-emotion").inner_text().split())
    assert live.inner_text().startswith(f"{headline}. Confidence ")
    page.locator("#save").click()
    page.locator("#saved [role=alert]", has_text="choose an emotion").wait_for()
    left = page.evaluate(
        "[...document.querySelectorAll('[data-testid=status-tracker] button')]"
        ".filter((e) => e.checkVisibility({visibilityProperty: true})).length"
    )
    assert left == 0  # no invisible button for those who do not see that it is invisible


def test_arrow_keys_move_through_radio_buttons(service, serve, visit):
    page = visit(serve(service))
    page.get_by_role("tab", name="Label").click()
    page.locator("#label-name input, #label-name textarea").fill("bea")
    page.locator("#label-start").click()
    page.wait_for_function("mmerLabel.state.item")
    page.keyboard.press("1")
    page.wait_for_function("document.querySelector('#label-all input:checked')")
    page.locator("#label-intensity input").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    checked = "[...document.querySelectorAll('#label-intensity input')].map((e) => e.checked).join()"
    page.wait_for_function(f"{checked} === 'false,false,true'")
    page.locator("#label-submit").click()
    page.wait_for_function("!document.querySelector('#label-all input:checked')")
    (label,) = service.store.labels()
    assert (label.emotions, label.intensity) == ({"anger": 1.0}, 1.0)
