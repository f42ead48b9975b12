"""The Label tab in a real browser."""

import pytest
from playwright.sync_api import Page, Route

from annotations.queue import projects
from mmer.ui.service import Service
from tests.test_label_tab import filled

# After a reload the page may be there before its scripts are.
ON_SCREEN = "id => window.mmerLabel?.state.item && mmerLabel.settled() && mmerLabel.state.item.id !== id"
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
    ranks = "[...document.querySelectorAll('#label-all label')].map(l => l.dataset.rank ?? '').join('|')"

    def ranked(key: str, n: int, *expected: str) -> None:
        page.keyboard.press(key)
        page.wait_for_function(CHOSEN, arg=n)
        page.wait_for_function(f"expected => {ranks} === expected", arg="|".join(expected))

    ranked("6", 1, *[""] * 7)  # one emotion has it all
    ranked("1", 2, "2nd, 33 %", "", "", "", "", "1st, 67 %", "")
    ranked("4", 3, "2nd, 33 %", "", "", "3rd, 17 %", "", "1st, 50 %", "")
    ranked("6", 2, "1st, 67 %", "", "", "2nd, 33 %", "", "", "")
    ranked("Enter", 0, *[""] * 7)
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


CALLS = "**/queue/join*"


def test_the_next_item_waited_for_the_server_and_keys_pressed_meanwhile_were_lost(service, serve, visit):
    page = sit_down(visit(serve(service)))
    shown = [item(page)]
    calls: list[Route] = []
    page.route(CALLS, lambda call: calls.append(call), times=1)
    page.keyboard.press("1")
    page.wait_for_function(CHOSEN, arg=1)
    page.wait_for_timeout(150)
    page.keyboard.press("Enter")
    assert item(page) != shown[0]  # at once
    shown.append(item(page))
    assert page.evaluate("!mmerLabel.settled() && document.getElementById('label-form').inert")
    assert list(service.store.labels()) == []
    page.keyboard.press("2")  # about the item that is here
    page.keyboard.press("Enter")
    calls[0].continue_()
    page.wait_for_function(ON_SCREEN, arg=shown[1])
    first, second = service.store.labels()
    assert [first.emotions, second.emotions] == [{"anger": 1.0}, {"disgust": 1.0}]
    assert first.sha256 != second.sha256
    assert not page.evaluate("document.getElementById('label-form').inert")
    assert page.evaluate("document.querySelectorAll('#label-all input:checked').length") == 0


def submit_again(page: Page, service: Service, shown: int) -> None:
    """Press Enter on an item that came back; what was chosen for it is stored."""
    page.keyboard.press("Enter")
    page.wait_for_function(ON_SCREEN, arg=shown)
    (label,) = service.store.labels()
    assert label.emotions == pytest.approx({"sadness": 2 / 3, "anger": 1 / 3})


def test_an_item_whose_answer_did_not_arrive_comes_back_as_it_was_filled_in(service, serve, visit):
    page = sit_down(visit(serve(service)))
    shown = item(page)
    page.route(CALLS, lambda call: call.abort(), times=1)
    answer(page, 6, 1)
    page.wait_for_function("id => window.mmerLabel?.settled() && mmerLabel.id() === id", arg=shown)
    page.wait_for_function(CHOSEN, arg=2)
    assert list(service.store.labels()) == []
    page.wait_for_timeout(300)  # the choice is on its way into the form
    submit_again(page, service, shown)


def test_an_item_whose_answer_was_refused_comes_back_as_it_was_filled_in(service, serve, visit):
    page = sit_down(visit(serve(service)))
    shown = item(page)
    projects.change(service.store, "voices", new_name="sounds", actor="ada")
    answer(page, 6, 1)
    page.locator("#label-told", has_text="voices").wait_for()
    page.wait_for_function("id => mmerLabel.settled() && mmerLabel.id() === id", arg=shown)
    assert page.evaluate(CHOSEN, 2)
    projects.change(service.store, "sounds", new_name="voices", actor="ada")
    submit_again(page, service, shown)


def test_without_a_choice_the_item_stays(service, serve, visit):
    page = sit_down(visit(serve(service)))
    shown = item(page)
    page.keyboard.press("Enter")
    page.locator("#label-told", has_text="choose an emotion").wait_for()
    assert page.evaluate("mmerLabel.settled()")
    assert item(page) == shown
