"""Who waits for the model, in a real browser: the line under the button says where they stand, and it moves."""

import re

import pytest
from playwright.sync_api import expect

from mmer.ui.line import PLACES
from mmer.ui.service import Service
from tests.test_app import new_checkpoint
from tests.test_door import join
from tests.test_label_tab import paths_in
from tests.until import until


@pytest.fixture
def service(tmp_path, text_encoder) -> Service:
    paths = paths_in(tmp_path)
    new_checkpoint(paths, 1)
    return Service(paths)


def test_the_line_stood_still_at_0_s_and_said_nothing(service, serve, visit):
    page = visit(serve(service))
    url = page.evaluate("location.origin")
    with service.predictor.perceiver._lock:  # of the text encoder: whoever needs it waits
        for i in range(PLACES):
            data = [None, None, None, f"these are the words of {i}", None]
            assert join(url, service.line.page, "analyse", data, f"visitor{i}").status_code == 200
        page.locator("#example-surprise").click()
        status = page.locator("#status")
        expect(status).to_contain_text("Next in line")
        expect(status).to_contain_text("being answered")
        expect(status).to_contain_text("there is no estimate")
        expect(page.locator("#mm-page-live")).to_contain_text("Next in line")
        since = page.locator("#status [data-waits] > span:last-child")
        expect(since).to_have_text(re.compile(r"^[3-9] s$"))
        page.locator("#stop").click()
        expect(status).to_contain_text("Stopped")
        # Gradio takes the call out of the line beside the function that says "Stopped".
        until(lambda: all(event.session_hash.startswith("visitor") for event in service.line.page.waiting()))
        page.locator("#example-surprise").click()
        expect(status).to_contain_text("Next in line")
    page.locator("#result .mm-emotion").wait_for(timeout=120_000)
    expect(status).to_have_text("")
