"""A Hugging Face Space in a real browser: who is not logged in, who is, and whose it is.

app.py runs as the platform runs it. Nobody is asked at huggingface.co: what its login leaves in the browser, a cookie
signed with the Space's own secret, is made here.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator

import itsdangerous
import pytest
from playwright.sync_api import Page, expect

from tests.test_app import new_checkpoint
from tests.test_label_tab import filled
from tests.test_space import SPACE, served

TABS = ("Analyse", "Label", "Review", "Your data")


@pytest.fixture(scope="module")
def url(tmp_path_factory, text_encoder) -> Iterator[str]:
    home = tmp_path_factory.mktemp("space")
    new_checkpoint(filled(home), 1)
    with served(home, tmp_path_factory.mktemp("bucket"), **SPACE) as (_, url):
        yield url


def logged_in(name: str) -> dict:
    """Return options of a browser window that has logged in at Hugging Face under this name."""
    info = {"sub": name, "name": name, "preferred_username": name, "profile": "", "picture": "", "website": ""}
    session = {"oauth_info": {"access_token": "x", "expires_at": int(time.time()) + 3600, "userinfo": info}}
    secret = hashlib.sha256(f"{SPACE['OAUTH_CLIENT_SECRET']}-v4".encode()).hexdigest()
    cookie = itsdangerous.TimestampSigner(secret).sign(base64.b64encode(json.dumps(session).encode())).decode()
    kept = {"name": "session", "value": cookie, "domain": "127.0.0.1", "path": "/", "expires": -1}
    flags = {"httpOnly": True, "secure": False, "sameSite": "Lax"}
    return {"storage_state": {"cookies": [kept | flags], "origins": []}}


def errors(page: Page) -> list[str]:
    """Return what stands in red on the page, and gradio's own messages."""
    told = page.locator("[role=alert]:visible, .toast-body:visible, .mm-failed:visible")
    return [each.inner_text() for each in told.all()]


def shown_tabs(page: Page) -> list[str]:
    return [tab.inner_text() for tab in page.get_by_role("tab").all() if tab.is_visible()]


def test_who_is_not_logged_in_saw_red_errors_and_forms_that_fail(url, visit):
    page = visit(url)
    page.wait_for_function("document.querySelector('#who [data-may]')")
    expect(page.locator("#who")).to_contain_text("You are not logged in")
    assert set(TABS) <= set(shown_tabs(page))
    assert not {"Model", "Projects"} & set(shown_tabs(page))
    for tab in TABS:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(700)
        assert errors(page) == [], tab
    for tab, hidden in (("Label", "#label-start"), ("Review", "#review-show")):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.locator(f".mm-unless-{tab.lower()}:visible").first.wait_for()
        expect(page.locator(hidden)).to_be_hidden()
    page.get_by_role("tab", name="Analyse", exact=True).click()
    page.locator("#example-anger").click()
    page.locator("#result .mm-emotion").wait_for(timeout=240_000)
    expect(page.locator("#save")).to_be_hidden()
    expect(page.locator(".mm-unless-label:visible")).to_contain_text("log in at the top of this page")
    assert errors(page) == []


def test_who_is_logged_in_was_asked_for_a_name_that_is_ignored(url, visit):
    page = visit(url, **logged_in("bea"))
    page.wait_for_function("document.querySelector('#who [data-named]')")
    expect(page.locator("#who")).to_contain_text("You are bea (annotator)")
    page.locator("#example-anger").click()
    page.locator("#result .mm-emotion").wait_for(timeout=240_000)
    expect(page.locator("#save")).to_be_visible()
    expect(page.locator("#annotator")).to_be_hidden()
    page.locator("#emotion label", has_text="Fear").click()
    page.locator("#save").click()
    page.locator("#saved .mm-done").wait_for()
    page.get_by_role("tab", name="Label", exact=True).click()
    expect(page.locator("#label-name")).to_be_hidden()
    page.locator("#label-start").click()
    page.wait_for_function("mmerLabel.state.item")
    page.get_by_role("tab", name="Your data", exact=True).click()
    expect(page.locator("#own-labels label")).to_contain_text("fear")
    assert errors(page) == []


def test_the_owner_of_a_space_is_offered_everything(url, visit):
    page = visit(url, **logged_in("lab"))
    page.wait_for_function("document.querySelector('#who [data-named]')")
    expect(page.get_by_role("tab", name="Model", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Review", exact=True).click()
    page.locator("#review-show").click()
    expect(page.locator("#review-name")).to_be_hidden()
    page.get_by_role("tab", name="Projects", exact=True).click()
    page.locator("#project-overview h2").wait_for()
    assert errors(page) == []
