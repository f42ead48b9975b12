"""What a browser session analysed before, in a real browser: seen again, and two of them side by side."""

import pytest
from playwright.sync_api import expect

from mmer.ui.service import Service
from tests.browser.services import analysing
from tests.test_label_tab import paths_in


@pytest.fixture
def service(tmp_path, text_encoder, face_model) -> Service:
    return analysing(paths_in(tmp_path))


def test_an_earlier_result_was_gone_with_the_next(service, serve, visit):
    page = visit(serve(service))
    verdicts = []
    for example in ("anger", "talk"):
        page.locator(f"#example-{example}").click()
        page.locator("#result .mm-waiting").wait_for()
        page.locator("#result .mm-emotion").wait_for(timeout=120_000)
        verdicts.append(page.locator("#result .mm-footer").inner_text())
    rows = page.locator("#history li")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("drawn face talking.mp4")
    expect(rows.nth(0).locator("[data-again]")).to_have_attribute("aria-current", "true")
    rows.nth(1).get_by_role("button", name="Compare").click()
    compared = page.locator("#compared section")
    compared.wait_for()
    expect(compared.locator("thead th").nth(0)).to_contain_text("1: drawn face talking.mp4")
    expect(compared.locator("thead th").nth(1)).to_contain_text("2: Leave me alone, I hate this.")
    expect(compared.get_by_role("row", name="Face alone")).to_contain_text("not used")
    assert compared.locator(".mm-strip svg").count() == 1  # words alone have no length
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert rows.nth(0).locator(".mm-named").bounding_box()["height"] < 32  # symbol and word in one line
    rows.nth(1).locator("[data-again]").click()
    expect(page.locator("#result .mm-footer")).to_have_text(verdicts[0])
    expect(page.locator("#transcript textarea")).to_have_value("Leave me alone, I hate this.")
    expect(compared).to_have_count(0)
    page.reload()
    page.locator("#result .mm-empty").wait_for()
    expect(page.locator("#history li")).to_have_count(0)  # nothing outlives the page


def test_words_read_again_stay_one_line_of_the_list(service, serve, visit):
    page = visit(serve(service))
    for example in ("anger", "voice"):
        page.locator(f"#example-{example}").click()
        page.locator("#result .mm-waiting").wait_for()
        page.locator("#result .mm-emotion").wait_for(timeout=120_000)
    expect(page.locator("#history li")).to_have_count(2)
    page.locator("#transcript textarea").fill("What a wonderful day")
    page.locator("#rerun").click()
    page.locator("#result .mm-edited").wait_for()
    expect(page.locator("#history li")).to_have_count(2)
    page.locator("#history li").nth(1).locator("[data-again]").click()
    expect(page.locator("#result .mm-edited")).to_have_count(0)
    page.locator("#history li").nth(0).locator("[data-again]").click()
    expect(page.locator("#result .mm-edited")).to_contain_text("What a wonderful day")
