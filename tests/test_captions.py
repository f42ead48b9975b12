"""Captions as players read them, and what is drawn over a clip's time."""

from dataclasses import replace

import numpy as np

from mmer.labels import EMOTIONS
from mmer.predict import Segment
from mmer.speech import Transcript, Word
from mmer.ui.captions import webvtt
from mmer.ui.service import Service
from mmer.ui.timeline_html import overall_strip
from tests.test_app import new_checkpoint
from tests.test_label_tab import paths_in


def segment(like: Segment, start_s: float, end_s: float, emotion: str) -> Segment:
    probs = np.full(len(EMOTIONS), 0.05)
    probs[EMOTIONS.index(emotion)] = 0.7
    return replace(like, start_s=start_s, end_s=end_s, emotion=emotion, probs=probs)


def test_words_stand_in_short_captions_with_the_verdict_beneath(tmp_path, voice_only):
    paths = paths_in(tmp_path)
    new_checkpoint(paths, 1)
    result = Service(paths).analyse([str(voice_only)], None)
    like = result.segments[0]
    words = [Word(f" word{i}", i * 0.5, i * 0.5 + 0.4, 0.9) for i in range(20)] + [Word(" <b>&", 12.0, 12.5, 0.9)]
    result = replace(
        result,
        segments=(segment(like, 0.0, 10.5, "anger"), segment(like, 11.0, 13.0, "sadness")),
        transcript=Transcript(" ".join(w.text for w in words), "en", tuple(words), "ok"),
    )
    head, *cues = webvtt(result).strip().split("\n\n")
    assert head == "WEBVTT"
    assert cues[0] == "00:00:00.000 --> 00:00:03.500\nword0 word1 word2 word3 word4 word5 word6\n(▲ anger 70 %)"
    assert cues[-1] == "00:00:11.000 --> 00:00:13.000\n&lt;b&gt;&amp;\n(▼ sadness 70 %)"
    said = [word for cue in cues for word in cue.split("\n")[1].split()]
    assert len(said) == 21
    assert max(len(cue.split("\n")[1]) for cue in cues) <= 42


def test_a_stretch_in_which_nothing_was_read_was_drawn_as_anger(tmp_path, voice_only):
    paths = paths_in(tmp_path)
    new_checkpoint(paths, 1)
    result = Service(paths).analyse([str(voice_only)], None)
    sad = segment(result.segments[0], 0.0, 5.0, "sadness")
    even = np.full(len(EMOTIONS), 1 / len(EMOTIONS))
    unread = replace(sad, start_s=5.0, end_s=10.0, emotion=None, probs=even, present=(False,) * 3)
    strip = overall_strip("Together", replace(result, duration_s=10.0, segments=(sad, unread)))
    assert strip.tops == [(0.0, 50.0, "sadness")]
    assert strip.told == "Together: 0.0–5.0 s sadness 70 %"
