"""The panel that changes an utterance: what people type in it, and what they read."""

import pytest
from gradio_client.exceptions import AppError

from mmer.errors import ClipError
from mmer.ui.whatif_panel import _number, _numbers, _stretch
from tests.test_app import analyse, client, plain, service, url  # noqa: F401

NOTHING = {"hide": [], "words": "", "cut": "", "noise": "", "blur": ""}


def tried(client, **asked) -> str:  # noqa: F811
    given = {**NOTHING, **asked}
    html, _ = client.predict(*given.values(), api_name="/whatif")
    return plain(html)


def test_before_and_after_stand_side_by_side(client, text_encoder):  # noqa: F811
    raw, _ = analyse(client, text="I am so glad you came")
    told = tried(client, words="4, 6")
    assert "Word 4 dropped; word 6 dropped." in told
    assert "Emotion" not in told
    before = f"{raw['emotion'].capitalize()} {100 * raw['probs'][raw['emotion']]:.0f} %"
    assert before in told
    other, _ = analyse(client, text="I am so you")
    after = other["probs"][raw["emotion"]]
    assert f"{before} {100 * after:.0f} %" in told
    assert told.startswith("It stays" if other["emotion"] == raw["emotion"] else "It would be")


def test_what_cannot_be_changed_is_said(client, text_encoder):  # noqa: F811
    analyse(client, text="I am so glad you came")
    with pytest.raises(AppError, match="the voice cannot be left out: the utterance has the words"):
        tried(client, hide=["voice"])
    with pytest.raises(AppError, match="no change was asked for"):
        tried(client)
    with pytest.raises(AppError, match="the utterance has 6 words; word 9 is none of them"):
        tried(client, words="9")


def test_the_smallest_change_is_a_sentence(client, text_encoder):  # noqa: F811
    raw, _ = analyse(client, text="I am so glad you came")
    html, _ = client.predict(api_name="/whatif_search")
    told = plain(html)
    assert told.startswith("No such change was found") or f"not {raw['emotion']}. That is" in told


def test_numbers_are_read_as_people_type_them():
    assert _numbers("3, 5 7") == (3, 5, 7)
    assert _numbers(None) == ()
    assert _stretch("0.8-1.3") == _stretch("0,8 – 1,3 s") == _stretch("0.8 to 1.3") == (0.8, 1.3)
    assert _stretch(" ") is None
    assert _number("2,5", "the blur") == 2.5
    assert _number("", "the blur") is None
    for read, wrong, need in (
        (_numbers, "three", "their numbers are needed"),
        (_numbers, "²", "their numbers are needed"),  # a digit, but no number that int() reads
        (_numbers, "9" * 5000, "their numbers are needed"),
        (_stretch, "1.2", "two times are needed"),
        (_stretch, "a-b", "a number is needed"),
    ):
        with pytest.raises(ClipError, match=need):
            read(wrong)
