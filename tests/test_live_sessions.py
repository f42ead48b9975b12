"""Who is live: places, pace beside clips, what a browser sends, and that nothing is left of those who went."""

import gc
import io
import struct
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from mmer.errors import ClipError, MmerError
from mmer.labels import EMOTIONS
from mmer.ui import live_sessions
from mmer.ui.line import AT_ONCE
from mmer.ui.live_sessions import Limits, unpack
from mmer.ui.page import LAUNCH, Page, build
from mmer.ui.service import Service
from tests import synth
from tests.clients import http_post
from tests.test_app import new_checkpoint
from tests.test_door import join
from tests.test_label_tab import paths_in
from tests.until import until

RATE = 48_000
USUAL = Limits()


@dataclass
class Served:
    page: Page
    url: str

    @property
    def live(self) -> live_sessions.LiveSessions:
        return self.page.service.live

    def begin(self, visitor: str = "ada") -> str:
        return self.live.begin(visitor)

    def send(self, token: str, body: bytes) -> httpx.Response:
        return http_post(f"{self.url}/live/{token}", content=body)


@pytest.fixture(scope="module")
def served(tmp_path_factory, text_encoder, face_model):
    paths = paths_in(tmp_path_factory.mktemp("home"))
    new_checkpoint(paths, 1)
    page = build(Service(paths))
    yield Served(page, page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, _frontend=False)[1].rstrip("/"))
    page.close()


@pytest.fixture(autouse=True)
def limits(served) -> Iterator[Limits]:
    """One place, free again at the end."""
    served.live.limits = Limits(places=1)
    yield served.live.limits
    for token in list(served.live._sessions):
        served.live.end(token)


def sent(picture=None, sound: np.ndarray | None = None, rate: int = RATE) -> bytes:
    jpeg = io.BytesIO()
    if picture is not None:
        picture.save(jpeg, "JPEG")
    samples = b"" if sound is None else (sound * 32767).astype("<i2").tobytes()
    return struct.pack("<II", rate, len(jpeg.getvalue())) + jpeg.getvalue() + samples


def test_pictures_and_sound_are_answered_with_shares(served):
    token = served.begin()
    first = served.send(token, sent(synth.face())).json()
    assert (first["voice"], first["heard"]) == (None, False)
    assert len(first["face"]) == len(EMOTIONS)
    assert sum(first["together"]) == pytest.approx(1.0, abs=0.01)
    assert first["next_s"] == USUAL.pace_s
    loud = np.repeat(synth.voice(3.0), 3)
    found = first
    for _ in range(40):  # the voice is heard beside, and told with a later picture
        time.sleep(USUAL.pace_s)
        found = served.send(token, sent(synth.face(smile=1.0), loud)).json()
        if found["voice"]:
            break
    assert sum(found["voice"]) == pytest.approx(1.0, abs=0.01)
    assert found["at_s"] > first["at_s"]
    assert found["heard"]


def test_a_picture_that_comes_while_one_is_looked_at_is_dropped(served, limits):
    limits.pace_s = 0.0
    token = served.begin()
    body = sent(synth.face())
    with ThreadPoolExecutor(1) as pool, served.live._sessions[token].lock:  # it is looked at for as long as that
        first = pool.submit(served.send, token, body)
        until(lambda: served.live._sessions[token].busy)
        second = served.send(token, body)
        assert not first.done()
    assert first.result().status_code == 200
    assert (second.status_code, second.json()["error"]["code"]) == (429, "dropped")


def test_a_picture_that_comes_too_early_is_dropped(served, limits):
    limits.pace_s = 60.0
    token = served.begin()
    assert served.send(token, sent(synth.face())).json()["next_s"] == 60.0
    early = served.send(token, sent(synth.face()))
    assert (early.status_code, early.json()["next_s"]) == (429, 60.0)


def test_a_place_is_one_visitors_until_they_go(served):
    token = served.begin("ada")
    with pytest.raises(MmerError, match="one visitor at a time can be live here, and every place is taken"):
        served.begin("bea")
    again = served.begin("ada")  # another start of the same page is no second place
    assert served.send(token, sent(synth.face())).json()["error"]["code"] == "live_over"
    assert http_post(f"{served.url}/live/{again}/stop").json() == {"stopped": True}
    assert served.begin("bea")


def test_who_sends_nothing_has_left(served, limits):
    token = served.begin()
    held = weakref.ref(served.live._sessions[token].live)
    limits.idle_s = 0.1
    until(lambda: gc.collect() is not None and held() is None)  # the server's clock comes by
    assert len(served.live) == 0
    told = served.send(token, sent(synth.face()))
    assert told.status_code == 404
    assert "press Start for another" in told.json()["error"]["message"]


def test_a_visitor_whose_picture_takes_longer_than_others_are_waited_for_keeps_the_place(served, limits):
    limits.idle_s = 0.5
    token = served.begin()
    with ThreadPoolExecutor(1) as pool:
        with served.live._sessions[token].lock:  # it is looked at for as long as that
            answered = pool.submit(served.send, token, sent(synth.face()))
            until(lambda: served.live._sessions[token].busy)
            time.sleep(2 * limits.idle_s)
            served.live.end_idle()
        assert answered.result().status_code == 200
    served.live.end_idle()  # and its browser has as long as any to send the next one
    assert len(served.live) == 1


def test_clips_of_others_go_first(served):
    service = served.page.service
    token = served.begin()
    assert service.line.load() == (0, 0)
    pace = []
    with service.predictor.perceiver._lock:  # of the text encoder: whoever needs it waits
        for i in range(AT_ONCE + 1):
            data = [None, None, None, f"these are the words of {i}", None]
            assert join(served.url, served.page, "analyse", data, f"visitor{i}").status_code == 200
            until(lambda n=i: sum(service.line.load()) > n)
            time.sleep(USUAL.crowded_s)
            pace.append(served.send(token, sent(synth.face())).json()["next_s"])
    assert pace == [USUAL.beside_s] * AT_ONCE + [USUAL.crowded_s]
    until(lambda: service.line.load() == (0, 0))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "8 bytes about it"),
        (struct.pack("<II", RATE, 100) + b"short", "announced, not sent"),
        (struct.pack("<II", RATE, 4) + b"none", "is a JPEG, and this one cannot be read"),
        (sent(synth.face(size=1600)), "1600 x 1600 pixels; up to 1280"),
    ],
    ids=["nothing", "cut", "no picture", "large"],
)
def test_what_is_no_picture_is_refused(body, why):
    with pytest.raises(ClipError, match=why):
        unpack(body)


def test_a_picture_of_four_billion_pixels_was_our_fault():
    body = sent(synth.face())
    size = body.index(b"\xff\xc0") + 5  # of the frame's header: height and width
    with pytest.raises(ClipError, match="is a JPEG, and this one cannot be read"):
        unpack(body[:size] + b"\xff\xff\xff\xff" + body[size + 4 :])


def test_one_failure_to_hear_refused_every_later_picture(served):
    token = served.begin()
    failed: Future = Future()
    failed.set_exception(MmerError("asset_missing", "Whisper is not here"))
    served.live._sessions[token].hearing = failed
    codes = []
    for _ in range(2):
        codes.append(served.send(token, sent(synth.face())).status_code)
        time.sleep(USUAL.crowded_s)
    assert codes == [422, 200]


def test_a_refused_picture_ends_nothing(served):
    token = served.begin()
    bad = served.send(token, sent(synth.face(), np.zeros(10), rate=7))
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "bad_rate")
    time.sleep(USUAL.crowded_s)  # others' clips may still be answered
    assert served.send(token, sent(synth.face())).status_code == 200
    assert served.send(token, b"0" * (2**20 + 1)).status_code == 413
    foreign = http_post(f"{served.url}/live/{token}", headers={"origin": "https://elsewhere.example"})
    assert foreign.status_code == 403


def test_a_gpu_lent_for_a_call_cannot_follow_anybody(tmp_path):
    paths = paths_in(tmp_path)
    new_checkpoint(paths, 1)
    service = Service(paths, lambda call: lambda *args, **options: call(*args, **options))
    with pytest.raises(MmerError, match="borrows a GPU for each clip"):
        service.live.begin("ada")


def test_nothing_of_it_is_written(served):
    before = {p for p in served.page.service.paths.home.rglob("*") if p.is_file()}
    token = served.begin()
    served.send(token, sent(synth.face(), synth.tone(1.0)))
    served.live.end(token)
    assert {p for p in served.page.service.paths.home.rglob("*") if p.is_file()} == before
