"""Words the text branch cannot read: they give no verdict, and English keeps its own however it is spelt."""

from dataclasses import replace

import numpy as np
import pytest

from mmer import checkpoint
from mmer.config import Config, ModelConfig, Paths, sqlite_url
from mmer.features import Features, LanguageModel, read_words
from mmer.predict import Predictor
from mmer.speech import Transcript, Word
from mmer.ui.service import Service
from tests.test_model import make_model
from tests.test_speech import checkpoint as whisper_checkpoint


@pytest.fixture(scope="module")
def paths(tmp_path_factory, text_encoder) -> Paths:
    home = tmp_path_factory.mktemp("home")
    config = Config(model=ModelConfig.tiny())
    name = checkpoint.save(make_model(), config, home / "checkpoints", {"parent": None}, name="first")
    checkpoint.promote(name, home / "checkpoints")
    return replace(Paths.from_env(), home=home, database_url=sqlite_url(home / "mmer.db"), device="cpu")


@pytest.fixture(scope="module")
def predictor(paths) -> Predictor:
    return Predictor(paths)


@pytest.fixture(scope="module")
def language(text_encoder) -> LanguageModel:
    return LanguageModel(text_encoder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("אני כועס עליך מאוד", "Hebrew letters"),
        ("我非常生气,你太过分了", "CJK letters"),
        ("Я тебя ненавижу, я в ярости", "Cyrillic letters"),
        ("मैं बहुत दुखी हूँ", "Devanagari letters"),
        ("Ich bin so wütend auf dich", "do not look like English"),
        ("Nienawidzę cię, jestem wściekły", "do not look like English"),
        ("qwrtz plmk xcvb", "do not look like English"),
        ("a" * 5000, "unknown to the text encoder"),
        ("😡😡😡", "no letter"),
        ("\u200b\u200d", "no letter"),
        ("...", "no letter"),
    ],
)
def test_unknown_words_were_answered_with_confidence(predictor, text, why):
    result = predictor.analyse(text=text)
    assert result.present["text"] is False
    assert (result.emotion, result.abstain) == (None, True)
    assert why in next(n.message for n in result.quality if n.code == "text_not_read")


@pytest.mark.parametrize(
    "text",
    [
        "I HATE YOU",
        "I h̷a̷t̷e̷ ̷y̷o̷u̷",
        "omg lmao wtf",
        "ughhhhh",
        "Yikes",
        "lol",
        "smh fr fr no cap",
        "What ribs lmao",
        "no!",
        "😭 leave me",
    ],
)
def test_english_is_read_however_it_is_spelt(predictor, text):
    result = predictor.analyse(text=text)
    assert result.present["text"]
    assert "text_not_read" not in {n.code for n in result.quality}


def test_words_in_another_language_than_english_had_a_say(paths, voice_only, tmp_path):
    """Of German speech whose language Whisper names, the words got 58 % of the answer."""
    weights = whisper_checkpoint(tmp_path / "german.pt")
    result = Predictor(replace(paths, whisper=str(weights))).analyse(voice_only)
    assert (result.transcript.language, result.transcript.status) == ("de", "ok")
    assert result.present == {"face": False, "voice": True, "text": False}
    assert "'de' was heard" in next(n.message for n in result.quality if n.code == "text_not_read")


def test_only_the_words_of_another_language_are_left_out(predictor, voice_only):
    words = (
        Word("Leave", 0.0, 0.4, 0.9, "en"),
        Word("me", 0.4, 0.8, 0.9, "en"),
        Word("Lappen", 0.8, 1.2, 0.4, "und"),
        Word("niestety", 1.2, 1.6, 0.9, "pl"),
    )
    said = Transcript("Leave me Lappen niestety", "en", words, "ok")
    result = predictor.analyse(voice_only, text=said)
    assert [f.words for f in result.observation.features if f.words] == [("Leave", "me")]
    notice = next(n.message for n in result.quality if n.code == "text_not_read")
    assert notice == "some words were left out: 'pl' and another language was heard, and English alone was learned"


def test_a_long_text_was_read_to_its_128th_token_only(predictor):
    """What came after had no say: now a text is read in windows, and their mean is the verdict."""
    calm, angry = "It is a table. " * 40, "I hate you so much, I am furious! " * 20
    result = predictor.analyse(text=calm + angry)
    windows = [s.features for s in result.segments]
    assert len(windows) == 4  # 40 times 5 tokens and 20 times 10, up to 126 in each
    assert sum((f.words for f in windows), ()) == tuple((calm + angry).split())
    assert all(len(f.token_ids) <= 128 for f in windows)
    np.testing.assert_allclose(result.probs, np.mean([s.probs for s in result.segments], axis=0), atol=1e-6)
    assert not any(n.code == "text_cut" for n in result.quality)


def test_words_that_are_cut_beside_a_recording_are_said(language):
    voices = [Features(0.0, 2.0), Features(2.0, 4.0)]
    items, notices = read_words(voices, ["I am so glad you came. " * 60, "Leave me alone."], language)
    assert [len(i.token_ids) for i in items] == [128, 6]
    assert [(n.code, n.message) for n in notices] == [
        ("text_cut", "only the first 128 pieces of a long text were read")
    ]


def test_other_words_for_a_text_in_windows_are_read_once(paths):
    service = Service(paths)
    long = service.analyse([], "I hate you so much, I am furious! " * 40)
    assert len(long.segments) > 1
    short = service.reread(long, "I am so glad you came")
    assert len(short.segments) == 1
    assert short.probs == pytest.approx(service.analyse([], "I am so glad you came").probs, abs=1e-6)
    unread = service.reread(short, "我非常生气")
    assert "text_not_read" in {n.code for n in unread.quality}
    assert "text_not_read" not in {n.code for n in service.reread(unread, "I am so glad").quality}
