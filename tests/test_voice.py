"""Voice activity, utterances, notices and noise reduction on made voices; log-mel's own rules."""

import os
import threading

import numpy as np
import pytest
import torch

from mmer.config import VoiceConfig
from mmer.voice import Span, denoise, log_mel, speech_spans, utterances, voice_notices
from tests import synth

RATE = 16_000


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def noise_at(samples: np.ndarray, ratio_db: float) -> np.ndarray:
    """Return white noise that lies `ratio_db` under the samples."""
    noise = np.random.default_rng(0).standard_normal(len(samples))
    noise *= np.sqrt(np.mean(np.square(samples)) / np.mean(np.square(noise)) / 10 ** (ratio_db / 10))
    return noise.astype(np.float32)


def ratio_db(clean: np.ndarray, samples: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(np.square(clean)) / np.sum(np.square(samples - clean))))


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    """One second of silence, a voice from 1 to 4 s, another from 4.8 to 6.8 s, and silence up to 8 s."""
    first, second = synth.voice(3.0, pause_s=0.0), synth.voice(2.0, pitch_hz=200.0, pause_s=0.0, seed=1)
    return np.concatenate([silence(1.0), first, silence(0.8), second, silence(1.2)])


@pytest.fixture(scope="module")
def spans(said) -> list[Span]:
    return speech_spans(said)


def test_spans_begin_and_end_where_the_voices_do(spans):
    assert len(spans) == 2
    found = [edge for span in spans for edge in (span.start_s, span.end_s)]
    assert found == pytest.approx([1.0, 4.0, 4.8, 6.8], abs=0.15)


@pytest.mark.parametrize("level", [0.0, 0.001, 0.05])
def test_nothing_is_said_in_silence_noise_or_nothing(level):
    sound = (level * np.random.default_rng(0).standard_normal(5 * RATE)).astype(np.float32)
    assert speech_spans(sound) == []
    assert speech_spans(sound[:0]) == []
    assert speech_spans(sound[:100]) == []


def test_a_second_clip_is_not_heard_with_the_memory_of_the_first(said, spans):
    speech_spans(synth.voice(2.0, seed=3))
    assert speech_spans(said) == spans


def test_threads_at_once_hear_what_one_hears(said, spans):
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: speech_spans(said)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), spans)


def test_voice_activity_leaves_the_thread_count_of_others_alone(said):
    """silero-vad's import sets torch to one thread for the whole process."""
    before, later = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        speech_spans(said)
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), later) == (3, [3])
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_hears_too(said, spans):
    """The executor's thread stays behind in the parent: a child waited for it for ever."""
    child = os.fork()
    if child == 0:
        os._exit(0 if speech_spans(said) == spans else 1)
    watchdog = threading.Timer(30, os.kill, (child, 9))
    watchdog.start()
    status = os.waitpid(child, 0)[1]
    watchdog.cancel()
    assert os.waitstatus_to_exitcode(status) == 0


def test_no_speech_gives_no_utterance():
    assert utterances([], 12.0) == []


def test_short_pauses_are_joined_and_long_ones_divide():
    spans = [Span(1.0, 2.0), Span(2.3, 3.0), Span(5.0, 6.0)]
    assert utterances(spans, 7.0) == [Span(0.9, 3.1), Span(4.9, 6.1)]


def test_the_cut_falls_at_the_longest_pause():
    # 12 s with pauses of 0.2, 0.9 and 0.3 s: only the middle one may divide.
    spans = [Span(0.0, 3.0), Span(3.2, 6.0), Span(6.9, 9.0), Span(9.3, 12.0)]
    assert utterances(spans, 12.0) == [Span(0.0, pytest.approx(6.1)), Span(pytest.approx(6.8), 12.0)]


def test_padding_meets_in_the_middle_and_stays_inside_the_clip():
    config = VoiceConfig(max_utterance_s=2.0, pad_s=0.1)
    assert utterances([Span(0.05, 1.5), Span(1.6, 2.95)], 3.0, config) == [
        Span(0.0, pytest.approx(1.55)),
        Span(pytest.approx(1.55), 3.0),
    ]


def test_what_is_shorter_than_an_utterance_is_dropped_unless_it_joins_one():
    assert utterances([Span(1.0, 1.2)], 5.0) == []
    assert utterances([Span(1.0, 1.2), Span(1.5, 3.0)], 5.0) == [Span(0.9, 3.1)]


def test_speech_without_a_pause_is_cut_at_its_quietest_place():
    said = synth.voice(14.0, pause_s=0.0)
    said[int(6.5 * RATE) : int(6.58 * RATE)] *= 0.01  # too short for a pause
    first, second = utterances([Span(0.0, 14.0)], 14.0, samples=said)
    assert (first.start_s, second.end_s) == (0.0, 14.0)
    assert first.end_s == second.start_s == pytest.approx(6.54, abs=0.04)


@pytest.mark.parametrize("seed", range(20))
def test_utterances_keep_their_promises_on_any_speech(seed):
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.gamma(1.0, (0.6, 3.0)[seed % 2], 60) + 0.1)
    spans = [Span(float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    duration_s, config = float(edges[-1]), VoiceConfig()
    found = utterances(spans, duration_s, config)
    times = [0.0, *(t for u in found for t in (u.start_s, u.end_s)), duration_s]
    assert times == sorted(times)
    assert all(config.min_utterance_s <= u.duration_s <= config.max_utterance_s + 1e-9 for u in found)
    lost = [s for s in spans if not any(u.start_s <= s.start_s and s.end_s <= u.end_s for u in found)]
    assert all(s.duration_s < config.min_utterance_s or s.duration_s > 9.8 for s in lost)


def test_clean_speech_gives_no_notice(said, spans):
    assert voice_notices(said, spans) == []


def test_no_speech_is_said_with_the_length_and_silence_is_quiet():
    assert [(n.code, n.message) for n in voice_notices(noise_at(synth.voice(2.0), 0), [])] == [
        ("no_speech", "nobody was heard speaking in 2.0 s of sound")
    ]
    assert [n.code for n in voice_notices(silence(1.0), [])] == ["no_speech", "too_quiet"]
    assert [n.code for n in voice_notices(silence(0.0), [])] == ["no_speech"]


def test_quiet_clipped_and_noisy_sound_each_have_their_notice(said, spans):
    assert [n.code for n in voice_notices(said * 0.005, spans)] == ["too_quiet"]
    loud = (said * 8).clip(-1, 1)
    assert [n.code for n in voice_notices(loud, spans)] == ["clipped"]
    speech = np.concatenate([said[int(s.start_s * RATE) : int(s.end_s * RATE)] for s in spans])
    level = np.sqrt(np.mean(np.square(speech)))
    noise = (level * np.random.default_rng(0).standard_normal(len(said))).astype(np.float32)
    for ratio, codes in ((5, ["noisy"]), (20, [])):
        notices = voice_notices(said + noise * 10 ** (-ratio / 20), spans)
        assert [n.code for n in notices] == codes
    notice = voice_notices(said + noise * 10 ** (-5 / 20), spans)[0]
    assert "speech about 5 dB above it" in notice.message


@pytest.mark.parametrize(("before_db", "gain_db"), [(0, 4.0), (5, 3.0), (10, 2.0)])
def test_denoise_brings_a_noisy_voice_closer_to_the_clean_one(said, before_db, gain_db):
    noisy = said + noise_at(said, before_db)
    cleaned = denoise(noisy)
    assert cleaned.dtype == np.float32
    assert cleaned.shape == said.shape
    assert ratio_db(said, cleaned) - ratio_db(said, noisy) > gain_db


def test_denoise_leaves_what_is_too_short_or_silent_as_it_is():
    for sound in (silence(0.0), silence(1.0), synth.voice(1.0)[:4000]):
        np.testing.assert_array_equal(denoise(sound), sound)


def test_log_mel_does_not_change_with_the_level_and_names_its_silence():
    said = synth.voice(1.0)
    loud, quiet = log_mel(said), log_mel(said * 0.5)
    assert loud.mel.shape == (101, 64)  # a frame every 10 ms, both ends included
    assert loud.mel.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert loud.mel.std().item() == pytest.approx(1.0, abs=1e-5)
    assert float(np.corrcoef(loud.mel.flatten(), quiet.mel.flatten())[0, 1]) > 0.99
    half = log_mel(np.concatenate([said, silence(1.0)]))
    assert half.mel[-1].numpy() == pytest.approx(half.silence, abs=1e-4)
