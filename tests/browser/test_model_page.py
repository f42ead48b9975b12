"""The Model tab in a real browser: a retraining is started, watched to its end and rolled back."""

import pytest

from mmer import checkpoint
from mmer.config import Config, ModelConfig
from mmer.ui.service import Service
from tests.browser.test_accessibility import check
from tests.homes import tiny_home
from tests.test_model import make_model
from tests.test_model_tab import FOUND, quick

OVERFLOWING = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def service(tmp_path) -> Service:
    """A home with one retraining behind it and labels for another."""
    paths = tiny_home(tmp_path, n_clips=60)
    strangers = {**FOUND, "new": {**FOUND["new"], "uar": 0.625}}
    meta = {"parent": "tiny", "metrics": {"people": FOUND, "strangers": strangers}}
    meta["data"] = {"train": {"clips": 40, "speakers": 3, "labels": 52}}
    name = checkpoint.save(make_model(), Config(model=ModelConfig.tiny()), paths.checkpoints, meta)
    checkpoint.promote(name, paths.checkpoints, by="ada")
    return quick(Service(paths))


def open_model(page):
    page.get_by_role("tab", name="Model").click()
    page.locator("#model-overview h2").wait_for()
    return page


@pytest.mark.slow
def test_a_retraining_is_started_watched_and_rolled_back(service, serve, visit):
    before = checkpoint.promoted(service.paths.checkpoints)
    page = open_model(visit(serve(service)))
    assert "60 labels came since the last run" in page.locator("#model-overview").inner_text()
    page.locator("#model-name input, #model-name textarea").fill("zora")
    page.locator("#model-start").click()
    page.locator("#model-progress .mm-busy").wait_for()
    page.locator("#model-progress", has_text="The run ended with a promotion.").wait_for(timeout=240_000)
    new = checkpoint.promoted(service.paths.checkpoints)
    page.locator("#model-overview h2", has_text=new).wait_for()
    assert "0 labels came since the last run" in page.locator("#model-overview").inner_text()
    page.locator("#model-log-panel button").first.click()
    page.locator(".mm-log", has_text=f"promoted {new}").wait_for()
    page.locator("#model-roll-back").click()
    page.locator("#model-overview h2", has_text=before).wait_for()
    check(page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_the_tab_can_be_read_in_light_and_dark_and_on_a_phone(service, serve, visit, scheme, width):
    page = open_model(visit(f"{serve(service)}?__theme={scheme}", width=width))
    page.locator(".mm-plot svg").wait_for()
    page.wait_for_timeout(400)
    assert page.locator(".mm-plot .mm-dot").count() == 2
    assert page.evaluate(OVERFLOWING) <= 0
    check(page)
