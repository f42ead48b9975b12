"""The strip beneath a clip: as loud as the clip is where it is, and nothing where there is no sound."""

import wave

import numpy as np

from mmer.ui.waveform import N_PEAKS, peaks
from tests import synth


def write(path, samples: np.ndarray, rate: int = 16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_the_strip_is_high_where_the_clip_is_loud(tmp_path):
    tone = np.sin(np.arange(16_000) * 0.2)
    clip = write(tmp_path / "a.wav", np.concatenate([np.zeros(16_000 * 10), 0.8 * tone, 0.2 * tone]))
    found = np.array(peaks(clip, 0))
    assert len(found) == N_PEAKS
    at_s = (np.arange(N_PEAKS) + 0.5) * 12 / N_PEAKS
    assert found[at_s < 9.9].max() <= 1
    assert found[(at_s > 10.05) & (at_s < 10.95)].min() >= 95
    assert np.abs(found[(at_s > 11.05) & (at_s < 11.9)] - 25).max() <= 3


def test_noise_that_nobody_hears_is_not_drawn_as_speech(tmp_path):
    hiss = 0.001 * np.random.default_rng(0).standard_normal(16_000)
    assert max(peaks(write(tmp_path / "a.wav", hiss), 0)) < 30


def test_what_has_no_sound_has_no_strip(tmp_path):
    silent = synth.write_clip(tmp_path / "a.mp4", seconds=1, voice=False)
    assert peaks(silent, 0) == ()
    assert peaks(write(tmp_path / "b.wav", np.zeros(16_000)), 0) == ()


def test_a_file_that_was_written_again_is_heard_again(tmp_path):
    clip = write(tmp_path / "a.wav", np.zeros(16_000))
    assert peaks(clip, 1) == ()
    write(clip, np.sin(np.arange(16_000) * 0.2))
    assert len(peaks(clip, 2)) == 50  # of 20 ms each
