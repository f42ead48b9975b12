"""A face and a voice judged while they go on: the same verdict as of a clip, in bounded memory."""

import numpy as np
import pytest

from mmer import voice
from mmer.config import LiveConfig
from mmer.errors import ClipError
from mmer.features import Features
from mmer.live import Live
from mmer.predict import Predictor
from tests import synth
from tests.test_app import new_checkpoint
from tests.test_label_tab import paths_in

RATE = 48_000  # as microphones give it
FACE_S, VOICE_S = LiveConfig().face_s, LiveConfig().voice_s


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, face_model) -> Predictor:
    paths = paths_in(tmp_path_factory.mktemp("home"))
    new_checkpoint(paths, 1)
    return Predictor(paths)


@pytest.fixture
def live(predictor):
    live = Live(predictor)
    yield live
    live.close()


def picture(t: float, **features) -> np.ndarray:
    return np.asarray(synth.talking(t, **features))


def spoken(seconds: float) -> np.ndarray:
    """Return (L,) int16 at `RATE`."""
    sound = np.repeat(synth.voice(seconds), RATE // synth.RATE)
    return (sound * 32767).astype(np.int16)


def test_the_verdict_is_that_of_a_clip_of_the_same_seconds(live, predictor):
    for i in range(20):  # 4 s, of which the last two count
        live.see(picture(i / 5, smile=i / 20), i / 5)
        live.moment()
    live.listen(spoken(VOICE_S + 1), RATE)
    live.hear()
    moment = live.moment()
    (track,) = live._tracker.tracks()
    assert track.times_s[0] == pytest.approx(3.8 - FACE_S, abs=0.01)
    sound = live._sound
    bounds = voice.speech_bounds(voice.speech_spans(sound), VOICE_S)
    part = sound[int(bounds.start_s * synth.RATE) : int(bounds.end_s * synth.RATE)]
    (segment,) = predictor.judge([Features(0.0, VOICE_S, face=track, sound=voice.log_mel(part))])
    assert moment.face == pytest.approx(segment.branch_probs[0], abs=1e-4)
    assert moment.voice == pytest.approx(segment.branch_probs[1], abs=1e-4)
    assert moment.together == pytest.approx(segment.probs, abs=1e-4)


def test_each_crop_is_computed_once(live):
    before: dict = {}
    for i in range(15):
        live.see(picture(i / 5), i / 5)
        live.moment()
        now = dict(live._frames)
        assert len(now.keys() - before.keys()) == 1
        assert all(now[key] is before[key] for key in now.keys() & before.keys())
        before = now


def test_one_channel_alone_is_the_whole_verdict(live):
    assert live.moment().together is None
    live.see(picture(0.0), 0.0)
    seen = live.moment()
    assert seen.voice is None
    assert seen.together == pytest.approx(seen.face, abs=1e-6)
    live.see(np.full((320, 320, 3), 127, np.uint8), 1.5)  # who was there has gone
    assert live.moment().face is None
    live.listen(spoken(3.0), RATE)
    live.hear()
    heard = live.moment()
    assert heard.face is None
    assert heard.together == pytest.approx(heard.voice, abs=1e-6)
    live.listen(np.zeros(round(VOICE_S * RATE), np.int16), RATE)
    live.hear()
    assert live.moment().voice is None


def test_what_is_held_does_not_grow(live):
    small = picture(0.0)
    for i in range(120):
        live.see(small, i / 5)
        live.listen(np.zeros(RATE // 5, np.int16), RATE)
        live.moment()
    held = sum(len(track) for track in live._tracker._tracks)
    assert held == len(live._frames) == len(live._tracker.times_s) == FACE_S * 5 + 1
    assert len(live._sound) == VOICE_S * synth.RATE


def test_another_checkpoint_answers_from_the_next_picture_on(predictor):
    live = Live(predictor)
    for i in range(3):
        live.see(picture(i / 5), i / 5)
    before = live.moment()
    new_checkpoint(predictor.paths, 2)
    after = live.moment()
    (segment,) = predictor.judge([Features(0.0, 0.6, face=live._tracker.tracks()[0])])
    assert after.face == pytest.approx(segment.branch_probs[0], abs=1e-4)
    assert not np.allclose(before.face, after.face, atol=1e-3)
    live.close()


def test_sound_that_is_no_sound_is_refused(live):
    with pytest.raises(ClipError, match="sound of 12 Hz cannot be read"):
        live.listen(np.zeros(10, np.int16), 12)
