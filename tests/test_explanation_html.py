"""An explanation on the page: what is still to come, what can be played, and pictures out of the recording."""

import base64
import io
import re
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmer.explanation import Explanation
from mmer.features import Features
from mmer.predict import Predictor
from mmer.trust import Trust
from mmer.ui.excerpts import Excerpts, excerpts, wav
from mmer.ui.explanation_html import explanation
from mmer.voice import LogMel
from tests import synth
from tests.test_app import plain, service  # noqa: F401

GOOD = Trust("occlusion", 0.0, 0.2, 0.3, "trustworthy")


def why(**given) -> Explanation:
    bands = tuple(
        {"start_s": s, "end_s": s + 0.5, "low_hz": low, "high_hz": low + 1000, "score": score}
        for s, scores in ((0.0, (0.1, 0.1)), (0.5, (0.9, -0.2)), (1.0, (-0.4, -0.5)), (1.5, (0.0, 0.05)))
        for low, score in zip((0.0, 1000.0), scores, strict=True)
    )
    base = {"target": "anger", "start_s": 0.0, "end_s": 2.0, "logit": 1.0, "baseline_logit": 0.0}
    empty = {"words": (), "face_regions": (), "face_moments": (), "voice_bands": bands}
    trust = {"face": None, "voice": GOOD, "text": None}
    return Explanation(
        **{**base, **empty, "modality": {"face": None, "voice": 1.0, "text": -0.5}, "trust": trust, **given}
    )


def test_what_is_still_to_come_is_said():
    pending = why(trust=dict.fromkeys(("face", "voice", "text")), pending=("voice", "text"), voice_bands=())
    told = plain(explanation(pending, Features(0.0, 2.0)))
    assert told.count("Still being asked.") == 2
    assert told.count("Not used.") == 1
    assert "Voice +1.00; Words −0.50" in told
    assert "map" not in told.split("Numbers above zero")[0]


@pytest.fixture(scope="module")
def judged(service, voice_only):  # noqa: F811
    return service.analyse([str(voice_only)], None)


def test_the_moments_that_count_most_can_be_played(judged, voice_only):
    found = excerpts(judged, why())
    assert found.frames == {}
    assert [(start, end) for start, end, *_ in found.sounds] == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]
    assert [score for *_, score, _ in found.sounds] == pytest.approx([0.2, 0.7, -0.9])
    features = Features(0.0, 2.0, sound=LogMel(torch.zeros(201, 64), -2.0, 2.0))
    html = explanation(why(voice_map=torch.zeros(201, 64)), features, found)
    sources = re.findall(r'<audio [^>]*src="data:audio/wav;base64,([^"]+)"[^>]*aria-label="([^"]+)"', html)
    assert [name for _, name in sources] == [
        f"The voice from {a}–{b} s" for a, b in ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5))
    ]
    with wave.open(io.BytesIO(base64.b64decode(sources[1][0]))) as file:
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        played = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    said = synth.voice(3.0)[8_000:16_000]
    assert len(played) == pytest.approx(8_000, abs=400)
    assert np.sqrt(np.mean(played**2)) == pytest.approx(np.sqrt(np.mean(said**2)), rel=0.2)
    assert excerpts(replace(judged, observation=replace(judged.observation, files=())), why()) == Excerpts({}, ())


def test_a_recording_that_is_gone_costs_no_explanation(judged):
    (info,) = judged.observation.files
    gone = replace(judged.observation, files=(replace(info, path="/nowhere/gone.wav"),))
    assert excerpts(replace(judged, observation=gone), why()) == Excerpts({}, ())


def test_sound_beyond_full_scale_does_not_wrap_around():
    with wave.open(io.BytesIO(wav(np.array([2.0, -2.0, 0.5])))) as file:
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [32767, -32767, 16383]


def test_the_frames_that_have_a_map_are_those_of_the_recording(service, talk, face_model):  # noqa: F811
    found = service.analyse([str(talk)], "so glad")
    segment = found.telling_segment
    track = segment.features.face
    assert track.alignment.shape == (len(track.crops), 4)
    face_map = torch.full((len(track.crops), 48, 48), torch.nan)
    face_map[[2, 5]] = 0.1
    moments = tuple((float(t), 0.1) for t in track.times_s)
    shown = excerpts(found, why(face_map=face_map, face_moments=moments, voice_bands=())).frames
    assert sorted(shown) == [2, 5]
    for i, picture in shown.items():  # where the alignment leads, the picture has the light of the crop
        turn, shift = complex(*track.alignment[i, :2].tolist()), complex(*track.alignment[i, 2:].tolist())
        luma, half = picture.astype(float) @ (0.299, 0.587, 0.114) / 255, 0.5 / abs(turn)
        inside, there = range(4, 44), []
        for p in (((x + 0.5) + 1j * (y + 0.5) - shift) / turn for y in inside for x in inside):
            rows, columns = (slice(max(int(v - half), 0), int(v + half) + 1) for v in (p.imag, p.real))
            there.append(luma[rows, columns].mean())
        assert np.corrcoef(there, track.crops[i, 0, 4:44, 4:44].flatten())[0, 1] > 0.9


def test_whoever_explains_from_python_has_no_need_of_a_page(service, judged):  # noqa: F811
    assert isinstance(service.predictor, Predictor)
    told = []
    found = service.explain(judged, report=told.append)
    assert [t.pending for t in told] == [("voice",)]
    assert found.pending == ()
    assert service.explain(judged) is found  # the same clip, target and checkpoint
