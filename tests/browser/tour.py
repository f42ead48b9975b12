"""A walk through every tab of the page as somebody fills it: what is looked at is measured in each state."""

from collections.abc import Iterator

from playwright.sync_api import Page

SETTLED_MS = 400  # until colours and heights have changed


def tour(page: Page) -> Iterator[str]:
    """Yield the name of each state once the page shows it; the page is one of `tests.test_label_tab.filled`."""
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
    page.locator("#emotion label", has_text="Fear").click()
    page.locator("#save").click()
    page.locator("#saved .mm-done").wait_for()
    yield "analyse-saved"
    _open(page, "Live", "#live-start")
    yield "live"
    yield from _label(page)
    yield from _review(page)
    _open(page, "Model", "#model-overview h2")
    yield "model"
    _open(page, "Projects", "#project-overview h2")
    for fold in ("#project-labels", "#project-people"):
        page.locator(f"{fold} > button").click()
    page.wait_for_timeout(SETTLED_MS)
    yield "projects"
    _open(page, "Your data", "#own-labels label")
    page.locator("#own-labels label").first.click()
    page.locator("#own-panel").wait_for()
    page.locator("#receipt-code :is(input, textarea)").fill("not a code")
    page.locator("#receipt-delete").click()
    page.locator("#receipt-told [role=alert]").wait_for()
    page.wait_for_timeout(SETTLED_MS)
    yield "data"


def _label(page: Page) -> Iterator[str]:
    _open(page, "Label", "#label-start")
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
    page.locator("#label-told", has_text="stored: cannot tell").wait_for()
    page.keyboard.press("3")
    page.wait_for_function("document.querySelector('#label-all input:checked')")
    page.keyboard.press("Enter")
    page.locator("#label-told", has_text="stored: fear").wait_for()
    page.keyboard.press("a")
    page.locator("#label-given label").first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
    yield "label-answers"


def _review(page: Page) -> Iterator[str]:
    _open(page, "Review", "#review-show")
    page.locator("#review-filters > button").click()
    page.locator("#review-show").click()
    page.locator("#review-items label").first.click()
    page.locator("#review-detail h2").wait_for()
    page.locator("#review-final label", has_text="Fear").click()
    page.locator("#review-history summary").click()
    page.wait_for_timeout(SETTLED_MS)
    yield "review"


def _open(page: Page, tab: str, what: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.locator(what).first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
