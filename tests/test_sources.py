"""Which of several files is seen and which is heard, and what is said where that mixes two."""

import pytest

from mmer import media
from mmer.sources import doubts, seen_and_heard
from tests import synth


@pytest.fixture(scope="module")
def short(clips):
    return synth.write_clip(clips / "short.wav", seconds=1.5, voice=synth.tone(1.5))


def codes(*files) -> list[str]:
    return [notice.code for notice in doubts(*seen_and_heard([media.probe(f) for f in files]))]


def test_one_persons_face_with_anothers_voice_is_said(talk, voice_only, still):
    assert codes(talk) == codes(voice_only) == codes(still) == []
    assert codes(voice_only, talk) == ["two_sources"]  # of one length
    assert codes(still, voice_only) == ["two_sources"]  # a picture has none


def test_lengths_that_differ_are_said(talk, silent_face, voice_only, short):
    assert codes(short, talk) == ["two_sources", "lengths_differ"]
    assert codes(silent_face, voice_only) == ["two_sources"]  # 2 s and 3 s: a third, but no more than a second
    (_, notice) = doubts(*seen_and_heard([media.probe(f) for f in (short, talk)]))
    assert "talk.mp4 lasts 3.0 s and short.wav 1.5 s" in notice.message


def test_the_first_file_that_has_it_is_seen_and_heard(talk, voice_only, still):
    seen, heard = seen_and_heard([media.probe(f) for f in (still, voice_only, talk)])
    assert (seen.name, heard.name) == ("still.jpg", "voice_only.wav")
