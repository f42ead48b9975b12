"""The page in the language of the browser, and writing from right to left in both."""

import numpy as np
import pytest
from PIL import Image

from tests import synth
from tests.browser.german import LOCALE, english_left
from tests.browser.services import analysing, labelling
from tests.test_label_tab import filled

TABS = ("label", "review", "model", "projects", "your-data", "analyse")
_DIRECTION = "(e) => getComputedStyle(e).direction"


def test_every_tab_is_german_in_a_german_browser(tmp_path, text_encoder, serve, visit):
    page = visit(serve(analysing(filled(tmp_path))), **LOCALE)
    page.wait_for_function("document.querySelector('#who [data-may]')")
    assert page.title() == "Emotion in Gesicht, Stimme und Wörtern"
    assert page.evaluate("document.documentElement.lang") == "de"
    assert page.locator("#analyse").inner_text() == "Analysieren"
    for tab in TABS:
        page.locator(f"#tab-{tab}-button").click()
        page.wait_for_timeout(500)
        assert english_left(page) == set(), tab
        assert f"#{tab}" in page.url
    page.locator("#words textarea").fill("I did not expect that at all")
    page.locator("#analyse").click()
    page.locator("#result .mm-emotion").wait_for(timeout=120_000)
    assert "Konfidenz" in page.locator("#result").inner_text()
    page.locator("#save").click()
    refused = page.locator("#saved [role=alert]")
    assert refused.inner_text() == "Das ging nicht: wählen Sie eine Emotion oder „Nicht zu sagen“."
    page.locator("#annotator :is(input, textarea)").fill("bea")
    page.locator("#emotion label", has_text="Angst").click()
    page.locator("#save").click()
    page.locator("#saved .mm-done").wait_for()
    assert english_left(page) == set()


@pytest.mark.parametrize("locale", ["en-GB", "fr-FR"])
def test_any_other_browser_gets_english(tmp_path, text_encoder, serve, visit, locale):
    page = visit(serve(analysing(filled(tmp_path))), locale=locale)
    page.wait_for_function("document.querySelector('#who [data-may]')")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("#analyse").inner_text() == "Analyse"
    page.locator("#analyse").click()
    page.locator("#status [role=alert]", has_text="That did not work: there is nothing to analyse").wait_for()


@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_arabic_and_hebrew_go_from_right_to_left(tmp_path, text_encoder, serve, visit, locale):
    picture = tmp_path / "תמונה.png"
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(picture)
    page = visit(serve(analysing(filled(tmp_path / "home"))), locale=locale)
    page.locator("#drop input[type=file]").set_input_files(picture)
    name = page.locator("#chips strong bdi")
    name.wait_for()
    assert (name.inner_text(), name.evaluate(_DIRECTION)) == ("תמונה.png", "rtl")
    words = page.locator("#words textarea")
    words.fill("أنا سعيد جدا")
    assert words.evaluate("(e) => getComputedStyle(e).unicodeBidi") == "plaintext"


@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_arabic_words_of_an_item_go_from_right_to_left(tmp_path, serve, visit, locale):
    file = synth.write_clip(tmp_path / "0.wav", seconds=0.6, voice=synth.voice(0.6, pitch_hz=120, seed=0))
    page = visit(serve(labelling(tmp_path, [file], start_s=0.0, end_s=0.5, transcript="أنا سعيد جدا")), locale=locale)
    page.locator("#tab-label-button").click()
    page.locator("#label-name :is(input, textarea)").fill("عائشة")
    page.locator("#label-start").click()
    words = page.locator("#mm-words")
    words.filter(has_text="سعيد").wait_for()
    assert words.evaluate(_DIRECTION) == "rtl"
    name = page.locator("#label-name :is(input, textarea)")
    assert name.evaluate("(e) => getComputedStyle(e).unicodeBidi") == "plaintext"
