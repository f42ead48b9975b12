"""The Label tab in a real browser."""

import pytest
from playwright.sync_api import Page

from mmer.ui.service import Service
from tests.test_label_tab import filled

# After a reload the page may be there before its scripts are.
ON_SCREEN = "id => window.mmerLabel?.state.item && mmerLabel.state.item.id !== id"
CHOSEN = "n => document.querySelectorAll('#label-all input:checked').length === n"


@pytest.fixture
def service(tmp_path) -> Service:
    return Service(filled(tmp_path, n=6))


def sit_down(page: Page, name: str = "bea") -> Page:
    """Start labelling, and wait for the first item."""
    page.get_by_role("tab", name="Label").click()
    page.wait_for_function("document.querySelector('#label-project input')?.value === 'voices'")
    page.locator("#label-name input, #label-name textarea").fill(name)
    page.keyboard.press("Enter")
    page.wait_for_function(ON_SCREEN, arg=0)
    return page


def item(page: Page) -> int:
    return page.evaluate("mmerLabel.state.item.id")


def answer(page: Page, *digits: int) -> None:
    for digit in digits:
        page.keyboard.press(str(digit))
    page.wait_for_function(CHOSEN, arg=len(digits))
    page.wait_for_timeout(150)  # the choice is on its way into the form
    page.keyboard.press("Enter")


def test_the_second_of_two_windows_of_one_annotator_goes_on(service, serve, visit):
    url = serve(service)
    first, second = sit_down(visit(url)), sit_down(visit(url))
    assert item(first) == item(second)
    shown = item(first)
    answer(first, 1)
    first.wait_for_function(ON_SCREEN, arg=shown)
    answer(second, 2)
    second.locator("#label-told", has_text="was answered in another window").wait_for()
    second.wait_for_function(ON_SCREEN, arg=shown)
    assert item(second) == item(first)
    shown = item(second)
    answer(second, 3)
    second.wait_for_function(ON_SCREEN, arg=shown)
    assert [x.emotions for x in service.store.labels()] == [{"anger": 1.0}, {"fear": 1.0}]


def test_each_of_several_emotions_says_its_place_and_its_share(service, serve, visit):
    page = sit_down(visit(serve(service)))
    ranks = "[...document.querySelectorAll('#label-all label')].map(l => l.dataset.rank ?? '')"

    def choose(digit: int, n: int) -> list[str]:
        page.keyboard.press(str(digit))
        page.wait_for_function(CHOSEN, arg=n)
        page.wait_for_timeout(150)
        return page.evaluate(ranks)

    assert choose(6, 1) == [""] * 7  # one emotion has it all
    assert choose(1, 2) == ["2nd, 33 %", "", "", "", "", "1st, 67 %", ""]
    assert choose(4, 3) == ["2nd, 33 %", "", "", "3rd, 17 %", "", "1st, 50 %", ""]
    assert choose(6, 2) == ["1st, 67 %", "", "", "2nd, 33 %", "", "", ""]
    page.keyboard.press("Enter")
    page.wait_for_function(CHOSEN, arg=0)
    assert page.evaluate(ranks) == [""] * 7
    (label,) = service.store.labels()
    assert label.emotions == pytest.approx({"anger": 2 / 3, "happiness": 1 / 3})


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_the_list_of_keys_opens_where_one_looks(service, serve, visit, width, height):
    page = sit_down(visit(serve(service), width=width, height=height))
    page.keyboard.press("?")
    text = page.get_by_text("Keys do nothing while you write in a field")
    text.wait_for()
    box = page.locator("#mm-help").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= height
    page.keyboard.press("Escape")
    text.wait_for(state="hidden")
    page.keyboard.press("?")
    page.keyboard.press("?")
    text.wait_for(state="hidden")


def test_a_reload_keeps_tab_name_project_and_choice(service, serve, visit):
    page = sit_down(visit(serve(service)))
    shown = item(page)
    page.keyboard.press("6")
    page.keyboard.press("1")
    page.keyboard.press("Shift+Digit2")
    page.wait_for_function("document.querySelector('#label-intensity input:checked')")
    page.wait_for_function(CHOSEN, arg=2)
    page.wait_for_timeout(200)
    page.wait_for_function("location.hash === '#label/voices'")
    page.reload()
    page.wait_for_function(ON_SCREEN, arg=0)
    assert page.get_by_role("tab", name="Label").get_attribute("aria-selected") == "true"
    assert page.locator("#label-name input, #label-name textarea").input_value() == "bea"
    assert item(page) == shown
    page.wait_for_function(CHOSEN, arg=2)
    page.wait_for_function("document.querySelectorAll('#label-intensity input:checked').length === 1")
    page.wait_for_function("document.querySelector('#mm-screen audio')")  # it can be heard again
    page.wait_for_timeout(300)  # the choice is on its way into the form
    page.keyboard.press("Enter")
    page.wait_for_function(ON_SCREEN, arg=shown)
    (label,) = service.store.labels()
    assert (label.annotator, label.intensity) == ("bea", 0.66)
    assert label.emotions == pytest.approx({"sadness": 2 / 3, "anger": 1 / 3})
    page.get_by_role("tab", name="Analyse").click()
    page.reload()
    page.get_by_role("tab", name="Analyse").wait_for()
    page.wait_for_function("document.querySelector('[role=tab][aria-selected=true]')")
    assert page.get_by_role("tab", name="Analyse").get_attribute("aria-selected") == "true"


def test_back_leads_to_the_tab_before(service, serve, visit):
    page = visit(serve(service))
    for tab in ("Label", "Review"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_function("name => location.hash.startsWith(`#${name}`)", arg=tab.lower())
    page.go_back()
    page.wait_for_function("document.querySelector('[role=tab][aria-selected=true]').textContent.trim() === 'Label'")
