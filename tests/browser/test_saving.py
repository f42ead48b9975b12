"""Saving a correction in a real browser: what may be kept is one choice of three, and a code deletes it again."""

import re
from dataclasses import replace

import pytest

from mmer.ui.service import Service
from tests.test_app import new_checkpoint
from tests.test_label_tab import paths_in

CODE = re.compile(r"(?:[0-9A-Z]{5}-){4}[0-9A-Z]{5}")


@pytest.fixture
def service(tmp_path, text_encoder) -> Service:
    paths = replace(paths_in(tmp_path), contact="people@example.org")
    new_checkpoint(paths, 1)
    return Service(paths)


def analysed(page, words: str = "I did not expect that at all"):
    page.locator("#words textarea").fill(words)
    page.locator("#analyse").click()
    page.locator("#save").wait_for(timeout=120_000)
    return page


def test_both_consents_could_be_ticked(service, serve, visit):
    page = analysed(visit(serve(service)))
    checked = "[...document.querySelectorAll('#keep input')].map((e) => e.checked).join()"
    assert page.evaluate(checked) == "true,false,false"  # nothing, unless somebody says otherwise
    page.locator("#keep label").nth(1).click()
    page.locator("#keep label").nth(2).click()
    page.wait_for_function(f"{checked} === 'false,false,true'")
    page.locator("#emotion label", has_text="Fear").click()
    page.locator("#annotator input, #annotator textarea").fill("bea")
    page.locator("#save").click()
    page.locator("#saved .mm-receipt").wait_for()
    (label,) = service.store.labels()
    assert (label.emotions, label.transcript) == ({"fear": 1.0}, "I did not expect that at all")
    code = page.locator("#saved .mm-receipt").inner_text()
    assert CODE.fullmatch(code)
    page.locator("#save").click()
    page.locator("#saved", has_text="Stored already").wait_for()
    assert not CODE.search(page.locator("#saved").inner_text())
    assert service.store.counts()["labels"] == 1
    page.get_by_role("tab", name="Your data").click()
    page.get_by_text("people@example.org").first.wait_for()
    page.locator("#receipt-code input, #receipt-code textarea").fill(code)
    page.locator("#receipt-delete").click()
    page.locator("#receipt-told", has_text="everything of the clip").wait_for()
    assert service.store.counts()["labels"] == service.store.counts()["clips"] == 0
    assert page.locator("#receipt-code input, #receipt-code textarea").input_value() == ""


def test_own_corrections_are_listed_changed_and_deleted(service, serve, visit):
    url = serve(service)
    page = analysed(visit(url))
    page.get_by_role("tab", name="Your data").click()
    page.locator("#own-told", has_text="What you save under Analyse appears here").wait_for()
    page.get_by_role("tab", name="Analyse").click()
    page.locator("#emotion label", has_text="Fear").click()
    page.locator("#annotator input, #annotator textarea").fill("bea")
    page.locator("#save").click()
    page.locator("#saved", has_text="Stored:").wait_for()
    page.get_by_role("tab", name="Your data").click()
    page.locator("#own-labels label", has_text="fear").click()
    page.locator("#own-emotion input:checked").wait_for(state="attached")
    page.locator("#own-emotion label", has_text="Anger").click()
    page.locator("#own-change").click()
    page.locator("#own-labels label", has_text="anger").wait_for()
    (label,) = service.store.labels()
    assert (label.emotions, label.annotator) == ({"anger": 1.0}, "bea")
    elsewhere = visit(url)  # under a name that anybody may type, nobody else sees or deletes it
    elsewhere.get_by_role("tab", name="Your data").click()
    elsewhere.locator("#own-told", has_text="What you save under Analyse appears here").wait_for()
    assert elsewhere.locator("#own-labels label").count() == 0
    page.locator("#own-labels label", has_text="anger").click()
    page.locator("#own-delete").click()
    page.locator("#own-told", has_text="all that was stored of the clip").wait_for()
    assert service.store.counts()["labels"] == service.store.counts()["clips"] == 0
