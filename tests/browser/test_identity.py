"""Who one is stands on the page, and only what one may do is offered, on a Space too."""

import base64
import hashlib
import json
from dataclasses import replace

import gradio.oauth
import pytest
from itsdangerous import TimestampSigner

from annotations.accounts import Accounts
from mmer.ui.service import Service
from tests.test_app import new_checkpoint
from tests.test_label_tab import PASSWORD, filled

SHOWN = "() => [...document.querySelectorAll('.mm-failed, .toast-wrap *')].map((e) => e.textContent)"


@pytest.fixture
def space(tmp_path, monkeypatch, text_encoder) -> Service:
    """A Space of ada, as gradio sees one."""
    for name, value in {"CLIENT_ID": "id", "CLIENT_SECRET": "secret", "SCOPES": "openid profile"}.items():
        monkeypatch.setattr(gradio.oauth, f"OAUTH_{name}", value)
    monkeypatch.setattr(gradio.oauth, "OPENID_PROVIDER_URL", "https://huggingface.co")
    monkeypatch.setenv("SPACE_ID", "ada/faces")
    monkeypatch.setenv("SYSTEM", "spaces")
    paths = replace(filled(tmp_path), space="ada/faces", hosts=("127.0.0.1", "localhost"))
    new_checkpoint(paths, 1)
    return Service(paths)


def cookie(url: str, name: str) -> dict:
    """The session cookie of somebody who is logged in, signed as the page signs it."""
    profile = {"name": name, "preferred_username": name, "profile": "", "picture": "", "sub": name}
    info = {"userinfo": profile, "access_token": "x", "expires_at": 9_999_999_999, "scope": "openid"}
    secret = hashlib.sha256(b"secret-v4").hexdigest()
    session = base64.b64encode(json.dumps({"oauth_info": info}).encode())
    return {"name": "session", "value": TimestampSigner(secret).sign(session).decode(), "url": url}


def test_a_logged_out_visitor_of_a_space_saw_errors_and_filled_in_forms(space, serve, visit):
    page = visit(serve(space))
    page.locator("#who", has_text="You are not logged in").wait_for()
    page.locator("#words textarea").fill("I did not expect that at all")
    page.locator("#analyse").click()
    page.locator("#result .mm-emotion").wait_for(timeout=120_000)
    page.locator(".mm-gate", has_text="To label and save corrections, log in with Hugging Face").first.wait_for()
    assert not page.locator("#save").is_visible()
    for tab, block in (("Label", "#label-start"), ("Review", "#review-show")):
        page.get_by_role("tab", name=tab).click()
        page.locator(".mm-gate", has_text="log in with Hugging Face").locator("visible=true").wait_for()
        assert not page.locator(block).is_visible()
    assert page.evaluate(SHOWN) == []


def test_who_is_logged_in_is_not_asked_for_a_name(space, serve, visit):
    page = visit(serve(space))
    url = page.url
    page.context.add_cookies([cookie(url, "stranger")])
    page.goto(url)
    page.locator("#who", has_text="You are stranger (annotator)").wait_for()
    page.get_by_role("tab", name="Label").click()
    page.wait_for_function("document.querySelector('#label-project input')?.value === 'voices'")
    assert not page.locator("#label-name").is_visible()
    page.locator("#label-start").click()
    page.wait_for_function("mmerLabel.state.item")
    page.keyboard.press("s")
    page.locator("#label-told", has_text="stored: skip").wait_for()
    assert [x.annotator for x in space.store.labels(["skip"])] == ["stranger"]
    page.get_by_role("tab", name="Review").click()
    page.locator(".mm-gate", has_text="takes the role reviewer; stranger has the role annotator").wait_for()
    assert not page.locator("#review-show").is_visible()
    assert page.evaluate(SHOWN) == []


def test_a_viewer_with_an_account_is_offered_to_analyse_only(tmp_path, serve, visit):
    paths = filled(tmp_path)
    Accounts(paths.accounts).add("vera", PASSWORD, "viewer")
    url = serve(Service(paths))
    page = visit.window(url)
    assert page.request.post(f"{url}login", form={"username": "vera", "password": PASSWORD}).ok
    page.goto(url)
    page.locator("#who", has_text="You are vera (viewer)").wait_for()
    page.get_by_role("tab", name="Label").click()
    page.locator(".mm-gate", has_text="takes the role annotator; vera has the role viewer").locator(
        "visible=true"
    ).wait_for()
    assert page.evaluate(SHOWN) == []
