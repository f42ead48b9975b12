"""A walk through every tab of the page as somebody fills it: what is looked at is measured in each state."""

import re
from collections.abc import Callable, Iterator

from playwright.sync_api import Page

from mmer.messages import plain

SETTLED_MS = 400  # until colours and heights have changed


def tour(page: Page, say: Callable[..., str] = plain) -> Iterator[str]:
    """Yield the name of each state once the page shows it; the page is one of `tests.test_label_tab.filled`.

    Args:
        say: says what the page does in its language.
    """
    page.wait_for_function("document.querySelector('#who [data-may]')")
    page.locator("#words textarea").wait_for()
    yield "analyse-empty"
    page.locator("#analyse").click()  # nothing was given
    page.locator("#status [role=alert]").wait_for(timeout=120_000)
    yield "analyse-failed"
    page.locator("#example-talk").click()
    page.locator("#result .mm-stages").wait_for(timeout=120_000)
    yield "analyse-waiting"
    page.locator("#result .mm-emotion").wait_for(timeout=240_000)
    page.locator("#explain").click()
    page.locator("#why h2").wait_for(timeout=240_000)
    page.wait_for_function("!document.querySelector('#doing .mm-busy')", timeout=240_000)
    page.locator("#whatif > button").click()
    page.locator("#whatif-hide label").first.click()
    page.locator("#whatif-try").click()
    page.locator("#whatif-found table").wait_for(timeout=120_000)
    page.locator("#save").click()
    page.locator("#saved [role=alert]").wait_for()
    yield "analyse-result"
    page.locator("#annotator :is(input, textarea)").fill("bea")
    page.locator("#emotion label", has_text=say("Fear")).click()
    page.locator("#save").click()
    page.locator("#saved .mm-done").wait_for()
    yield "analyse-saved"
    _open(page, "live", "#live-start")
    yield "live"
    yield from _label(page, say)
    yield from _review(page, say)
    _open(page, "model", "#model-overview h2")
    yield "model"
    _open(page, "projects", "#project-overview h2")
    for fold in ("#project-labels", "#project-people"):
        page.locator(f"{fold} > button").click()
    page.wait_for_timeout(SETTLED_MS)
    yield "projects"
    _open(page, "your-data", "#own-labels label")
    page.locator("#own-labels label").first.click()
    page.locator("#own-panel").wait_for()
    page.locator("#receipt-code :is(input, textarea)").fill("not a code")
    page.locator("#receipt-delete").click()
    page.locator("#receipt-told [role=alert]").wait_for()
    page.wait_for_timeout(SETTLED_MS)
    yield "data"


def _label(page: Page, say: Callable[..., str]) -> Iterator[str]:
    _open(page, "label", "#label-start")
    yield "label-start"
    page.locator("#label-name :is(input, textarea)").fill("bea")
    page.locator("#label-start").click()
    page.wait_for_function("mmerLabel.state.item")
    page.mouse.move(0, 0)
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.locator("#label-all [data-rank]").first.wait_for()
    page.locator("#label-more > button").click()
    page.wait_for_timeout(SETTLED_MS)
    yield "label"
    page.keyboard.press("c")
    page.locator("#label-told", has_text=_stored(say, "cannot tell")).wait_for()
    page.keyboard.press("3")
    page.wait_for_function("document.querySelector('#label-all input:checked')")
    page.keyboard.press("Enter")
    page.locator("#label-told", has_text=_stored(say, "fear")).wait_for()
    page.keyboard.press("a")
    page.locator("#label-given label").first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
    yield "label-answers"


def _review(page: Page, say: Callable[..., str]) -> Iterator[str]:
    _open(page, "review", "#review-show")
    page.locator("#review-filters > button").click()
    page.locator("#review-show").click()
    page.locator("#review-items label").first.click()
    page.locator("#review-detail h2").wait_for()
    page.locator("#review-final label", has_text=say("Fear")).click()
    page.locator("#review-history summary").click()
    page.wait_for_timeout(SETTLED_MS)
    yield "review"


def _stored(say: Callable[..., str], answer: str) -> re.Pattern[str]:
    told = re.escape(say("{item} stored: {answer}.", item="ITEM", answer="ANSWER"))
    return re.compile(told.replace("ITEM", ".+").replace("ANSWER", rf"\s*{say(answer)}\s*"))


def _open(page: Page, tab: str, what: str) -> None:
    page.locator(f"#tab-{tab}-button").click()
    page.locator(what).first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
