"""How transcription is measured: errors, times, and sounds in which nobody speaks."""

import wave
from pathlib import Path

import numpy as np
import pytest

from mmer.speech import Transcriber, Transcript, Word
from mmer.voice import speech_spans
from tests import synth
from tests.test_speech import SENTENCE
from tests.test_speech import checkpoint as whisper_checkpoint
from training.data.manifest import Row
from training.experiments.transcription import (
    KINDS,
    SECONDS,
    measure,
    page,
    sample,
    sounds,
    times_are_plausible,
    word_error_rate,
    words_of,
)


def transcript(*times: tuple[float, float]) -> Transcript:
    return Transcript("", "en", tuple(Word("a", start, end, 1.0) for start, end in times), "ok")


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as f:
        f.setparams((1, 2, 16_000, 0, "NONE", ""))
        f.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_errors_are_counted_over_the_words_said_whatever_their_case_and_marks():
    pytest.importorskip("jiwer")
    said = ["Kids are talking by the door.", "Dogs are sitting by the door."]
    assert word_error_rate(said, ["kids are talking, by the door", "Dogs are sitting by the door!"]) == 0
    assert word_error_rate(said, ["kids are walking by door", said[1]]) == pytest.approx(2 / 12)
    assert word_error_rate(said[:1], ["Kids are talking by the door by the door"]) == pytest.approx(3 / 6)


def test_words_that_go_back_or_leave_the_clip_are_not_plausible():
    assert times_are_plausible(transcript((0.1, 0.3), (0.3, 0.6)), 1.0)
    assert times_are_plausible(transcript(), 1.0)
    assert not times_are_plausible(transcript((0.1, 0.4), (0.3, 0.6)), 1.0)
    assert not times_are_plausible(transcript((0.1, 1.3)), 1.0)
    assert not times_are_plausible(transcript((0.1, 2.5)), 3.0)


@pytest.mark.parametrize("kind", KINDS)
def test_sounds_without_speech_are_the_same_at_each_call_and_differ_from_each_other(kind):
    first, again = list(sounds(kind, 3)), list(sounds(kind, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(len(x) == SECONDS * 16_000 and np.abs(x).max() <= 1 and np.isfinite(x).all() for x in first)
    assert not np.array_equal(first[0], first[1])
    if kind == "silence":
        assert not any(speech_spans(x) for x in first)


def test_what_is_said_comes_from_the_row_or_from_ravdess_names(tmp_path):
    assert words_of(Row(("fear",), Path("x.wav"), "Hej.", corpus="nemo")) == "Hej."
    write(tmp_path / "Actor_01" / "03-01-05-01-02-01-01.wav", synth.voice(1.0))
    rows = sample(tmp_path, 5)["ravdess"]
    assert [words_of(r) for r in rows] == ["Dogs are sitting by the door."]


def test_a_transcriber_that_always_says_one_sentence_is_found_out(tmp_path):
    pytest.importorskip("jiwer")
    for i in (1, 2):
        write(tmp_path / f"Actor_0{i}" / f"03-01-05-01-01-01-0{i}.wav", synth.voice(1.5, pause_s=0.0))
    transcriber = Transcriber(str(whisper_checkpoint(tmp_path / "whisper.pt")))
    found = measure(transcriber, sample(tmp_path, 5), 2)
    speech = found["speech"]["ravdess"]
    assert (speech["n"], speech["speakers"], speech["languages"]) == (2, 2, {"de": 2})
    assert speech["wer"] == 1.0
    assert set(speech["heard"]) == {SENTENCE}
    assert found["nothing"]["silence"] == {"n": 2, "invented": 0, "texts": []}
    assert "| 4 s | ravdess | 2, 2 | 1.000 | de 2 | 1.00 |" in page([found])
