"""The line before the model: where somebody stands, for how long, and that a long clip does not hold up everybody."""

import pytest
from gradio_client import handle_file

from mmer.ui.line import PLACES, Place, turn_in, words
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests import synth
from tests.clients import client_of, http_get
from tests.test_app import new_checkpoint
from tests.test_door import join
from tests.test_label_tab import paths_in
from tests.until import until


@pytest.fixture
def served(tmp_path, text_encoder):
    """A page with a small model, and its address."""
    paths = paths_in(tmp_path)
    new_checkpoint(paths, 1)
    page = build(Service(paths))
    yield page, page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)[1].rstrip("/")
    page.close()


def test_the_estimate_counts_who_is_served_and_who_is_before():
    assert turn_in([], [], 2, 2) == 0.0
    assert turn_in([30.0], [], 2, 2) == 0.0  # the second place is free
    assert turn_in([30.0, 4.0], [], 2, 2) == 4.0
    assert turn_in([30.0, 4.0], [5.0, 6.0], 2, 2) == 15.0
    assert turn_in([30.0, 4.0], [40.0], 2, 2) == 30.0
    assert turn_in([30.0, None], [], 2, 2) is None
    assert turn_in([30.0, 4.0, 20.0], [], 4, 2) == 0.0
    assert turn_in([30.0, 4.0, 20.0, 5.0], [6.0], 4, 2) == 10.0  # four share two processors


def test_the_line_says_what_it_knows_and_no_more():
    assert words(Place(1, (12.4,), 8.2)) == {
        "place": "Next in line",
        "more": "one request is being answered, for 12 s so far; your turn in about 8 s",
    }
    told = words(Place(3, (40.0, 2.0), None))
    assert told["place"] == "Number 3 in line"
    assert told["more"].startswith("2 are being answered, the longest for 40 s so far; nothing like it ran here before")
    assert "nobody can say when" in words(Place(2, (90.0, 3.0), None, is_late=True))["more"]
    assert words(None) == {"place": "", "more": ""}


def test_who_waits_could_not_learn_where_they_stand(served):
    page, url = served
    with page.service.predictor.perceiver._lock:  # of the text encoder: whoever needs it waits
        for i in range(PLACES + 2):
            data = [None, None, None, f"these are the words of {i}", None]
            assert join(url, page, "analyse", data, f"visitor{i}").status_code == 200
        until(lambda: len(page.running()) == PLACES)
        told = [http_get(f"{url}/line", params={"session": f"visitor{i}"}).json() for i in range(PLACES + 2)]
    assert [each["place"] for each in told] == [""] * PLACES + ["Next in line", "Number 2 in line"]
    assert "answered" in told[-1]["more"]
    assert http_get(f"{url}/line", params={"session": "nobody"}).json() == {"place": "", "more": ""}
    assert http_get(f"{url}/line", headers={"origin": "https://elsewhere.example"}).status_code == 403


def test_two_long_clips_held_up_everybody(served, tmp_path):
    page, url = served
    long = synth.write_clip(tmp_path / "long.mp4", seconds=40, fps=5, face=synth.face(), voice=synth.voice(40))
    *first, last = (client_of(url) for _ in range(3))
    last.predict(text="load what is loaded once", api_name="/analyse")
    running = [client.submit(video=handle_file(long), text="words", api_name="/analyse") for client in first]
    until(lambda: len(page.running()) == 2)
    result = last.predict(text="I did not expect that at all", api_name="/analyse")
    assert not any(job.done() for job in running)
    assert result["transcript"]["text"] == "I did not expect that at all"
    assert [job.result()["duration_s"] for job in running] == [pytest.approx(40, abs=0.5)] * 2
