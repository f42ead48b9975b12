"""Pitch, loudness and pauses of voices whose pitch, loudness and pauses are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmer.config import SAMPLE_RATE, VoiceConfig
from mmer.prosody import PITCH_HZ, pitch, prosody
from mmer.voice import log_mel

CONFIG = VoiceConfig()


def buzz(hz: float, seconds: float, level: float = 0.1) -> np.ndarray:
    """Return a voice-like sound (L,) of this pitch: eleven harmonics and a little hiss."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hiss = 0.01 * np.random.default_rng(0).standard_normal(len(t))
    return (level * (sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 12)) + hiss)).astype(np.float32)


def measured(samples: np.ndarray) -> torch.Tensor:
    return pitch(samples, CONFIG, len(log_mel(samples).mel))


@pytest.mark.parametrize("hz", [80, 110, 150, 220, 300, 400, 550])
def test_the_pitch_of_a_voice_is_found_in_every_frame_but_its_ends(hz):
    found = measured(buzz(hz, 1.0))[5:-5]
    assert float((found / hz - 1).abs().max()) < 0.02


def test_hiss_and_silence_have_no_pitch():
    hiss = 0.05 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    assert float((~measured(hiss).isnan()).float().mean()) < 0.02
    assert bool(measured(np.zeros(SAMPLE_RATE, np.float32)).isnan().all())


def test_a_sound_shorter_than_a_window_is_read_too():
    short = buzz(200, 0.02)
    assert measured(short).shape == log_mel(short).mel.shape[:1]


def run() -> tuple:
    """Return the contours of low, soft speech, a pause of half a second, and loud, high speech, from 10 s on."""
    samples = np.concatenate([buzz(120, 1.0), np.zeros(SAMPLE_RATE // 2, np.float32), buzz(240, 1.0, level=0.4)])
    sound = log_mel(samples)
    return sound, pitch(samples, CONFIG, len(sound.mel)), 10.0


def test_what_is_louder_and_higher_than_the_rest_is_said():
    contours = prosody(*run(), CONFIG)
    assert contours.louder(11.5, 12.5)
    assert contours.higher(11.5, 12.5)
    assert not contours.louder(10.0, 11.0)
    assert not contours.higher(10.0, 11.0)
    assert not contours.louder(10.0, 12.6)
    assert not contours.higher(10.0, 12.6)


def test_a_pause_lies_where_nothing_is_heard():
    ((start, end),) = prosody(*run(), CONFIG).pauses
    assert start == pytest.approx(11.0, abs=0.04)
    assert end == pytest.approx(11.5, abs=0.04)


def test_a_pause_in_a_room_that_hums_is_found_whole():
    sound, hum = np.concatenate([buzz(120, 1.0), np.zeros(SAMPLE_RATE), buzz(240, 1.0)]), 0.003
    noisy = sound + hum * np.random.default_rng(1).standard_normal(len(sound)).astype(np.float32)
    contours = prosody(log_mel(noisy), None, 0.0, CONFIG)
    room = float(contours.loudness_db[130:170].median())
    ((start, end),) = contours.pauses
    assert -35 < room < -28
    assert start == pytest.approx(1.0, abs=0.05)
    assert end == pytest.approx(2.0, abs=0.05)


def test_without_a_measured_pitch_loudness_and_pauses_are_told():
    sound, _, start_s = run()
    contours = prosody(sound, None, start_s, CONFIG)
    assert bool(contours.pitch_hz.isnan().all())
    assert len(contours.pauses) == 1
    assert float(contours.loudness_db.max()) == 0
    assert not contours.higher(11.5, 12.5)


def test_programs_get_twenty_values_a_second_and_null_without_a_voice():
    told = prosody(*run(), CONFIG).to_dict()
    assert len(told["times_s"]) == len(told["pitch_hz"]) == len(told["loudness_db"]) == 51
    assert told["pitch_hz"][25] is None
    assert told["pitch_hz"][40] == pytest.approx(240, rel=0.02)
    assert told["times_s"][:2] == [10.0, 10.05]


def test_no_pitch_is_told_of_the_room_between_the_words():
    sound, hz, start_s = run()
    everywhere = prosody(sound, torch.full_like(hz, 100.0), start_s, CONFIG)
    assert bool(everywhere.pitch_hz[105:145].isnan().all())
    assert PITCH_HZ[0] < float(everywhere.pitch_hz[50])


def test_the_sentence_says_where_a_voice_is_loud_and_high_and_only_of_a_map_that_is_trustworthy():
    from mmer.explanation import Explanation
    from mmer.trust import Trust

    sure = Trust("occlusion", 0.0, 0.3, 0.3, "trustworthy")
    bands = (
        {"start_s": 10.0, "end_s": 11.0, "low_hz": 50.0, "high_hz": 300.0, "score": 0.1},
        {"start_s": 11.5, "end_s": 12.5, "low_hz": 50.0, "high_hz": 300.0, "score": 0.9},
    )
    why = Explanation(
        target="anger",
        start_s=10.0,
        end_s=12.5,
        logit=1.0,
        baseline_logit=0.0,
        modality={"face": None, "voice": 1.0, "text": None},
        words=(),
        voice_bands=bands,
        face_regions=(),
        face_moments=(),
        trust={"face": None, "voice": sure, "text": None},
        prosody=prosody(*run(), CONFIG),
    )
    assert "from 11.5 to 12.5 s at 50 to 300 Hz, where it is louder and higher than elsewhere." in why.sentence
    doubtful = replace(why, trust={**why.trust, "voice": replace(sure, verdict="weak")})
    assert "louder" not in doubtful.sentence
