"""A minute of film by link, in a real browser: it starts before it is loaded, and one can go to any place of it."""

from tests import synth
from tests.browser.services import labelling
from tests.browser.test_label_page import item, sit_down

CLIP = "document.querySelector('#mm-screen video')"
AT = f"s => !{CLIP}.seeking && Math.abs({CLIP}.currentTime - s) < 2"


def clip_of(each) -> bool:
    """Whether a request or an answer is of the film itself, not of its strip."""
    return "/media/" in each.url and not each.url.endswith("/peaks")


def test_an_annotator_goes_to_any_place_of_a_minute_and_a_link_that_is_over_is_renewed(tmp_path, serve, visit):
    file = synth.write_clip(tmp_path / "long.mp4", seconds=60, fps=5, face=synth.face())
    service = labelling(tmp_path, [file])
    page = visit(serve(service))
    ranges: list[dict[str, str]] = []
    statuses: list[int] = []

    def answered(response) -> None:
        if clip_of(response):
            statuses.append(response.status)
            service.links.life_s = 3600.0

    page.on("request", lambda each: each.method == "GET" and clip_of(each) and ranges.append(each.headers))
    page.on("response", answered)
    service.links.life_s = -1.0
    sit_down(page)
    page.wait_for_function(f"{CLIP}?.readyState >= 2")
    assert statuses[0] == 410
    shown = item(page)
    assert page.evaluate(f"{CLIP}.duration") > 59
    for at_s in (55, 20, 59):
        page.evaluate(f"s => {{ {CLIP}.currentTime = s }}", at_s)
        page.wait_for_function(AT, arg=at_s)
    assert item(page) == shown
    assert statuses[-1] == 206
    assert all(each["range"].startswith("bytes=") for each in ranges)
