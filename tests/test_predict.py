"""Clips to verdicts: real media, MediaPipe and voice activity, the model small and random."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer import checkpoint
from mmer.config import Config, ModelConfig, Paths, sqlite_url
from mmer.errors import CheckpointError, ClipError, MmerError
from mmer.features import collate
from mmer.labels import EMOTIONS, MODALITIES
from mmer.predict import Predictor
from mmer.shapley import of_branches
from mmer.ui.service import Service
from tests import synth
from tests.test_model import make_batch, make_model

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Config(model=ModelConfig.tiny())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    name = checkpoint.save(make_model(), CONFIG, home / "checkpoints", {"parent": None}, name="first")
    checkpoint.promote(name, home / "checkpoints")
    return home


@pytest.fixture(scope="module")
def predictor(home) -> Predictor:
    url = sqlite_url(home / "mmer.db")
    return Predictor(replace(Paths.from_env(), home=home, database_url=url, device="cpu"))


def codes(result) -> set[str]:
    return {n.code for n in result.quality}


def test_a_talking_face_is_seen_and_heard(predictor, talk, face_model):
    result = predictor.analyse(talk, speech=False)
    assert result.present == {"face": True, "voice": True, "text": False}
    assert result.emotion == EMOTIONS[int(result.probs.argmax())]
    assert result.probs.sum() == pytest.approx(1)
    assert result.duration_s == pytest.approx(3, abs=0.1)
    assert np.isnan(result.branch_probs[2]).all()
    segment = result.segments[0]
    times = segment.features.face.times_s
    assert segment.start_s - 0.01 <= times.min() <= times.max() <= segment.end_s + 0.01
    mel_s = len(segment.features.sound.mel) * 0.01
    assert mel_s == pytest.approx(segment.end_s - segment.start_s, abs=0.05)


def test_the_words_change_the_verdict_and_nothing_else(predictor, talk, face_model, text_encoder):
    without = predictor.analyse(talk, speech=False)
    result = predictor.analyse(talk, text="I am so glad you came")
    assert result.present == dict.fromkeys(MODALITIES, True)
    assert result.transcript.status == "typed"
    np.testing.assert_allclose(result.branch_probs[:2], without.branch_probs[:2], atol=1e-5)
    assert not np.allclose(result.probs, without.probs)


def test_a_result_is_printed_in_one_line(predictor, talk, face_model):
    """`repr` of a result was 55 kB of tensors."""
    result = predictor.analyse(talk, speech=False, name="talk.mp4")
    verdict = f"{result.emotion} {result.probs.max():.2f}"
    assert repr(result) == f"EmotionResult('talk.mp4', {verdict}, from face+voice, {len(result.segments)} segments)"
    segment, track = result.segments[0], result.observation.tracks[0]
    for part in (segment, segment.features, result.observation, track, segment.features.sound, result.transcript):
        assert len(repr(part)) < 500
        assert "tensor" not in repr(part)
        assert "array" not in repr(part)


def test_a_sentence_alone(predictor, text_encoder):
    result = predictor.analyse(text="I did not expect that")
    assert result.present == {"face": False, "voice": False, "text": True}
    assert result.clip == "text"
    np.testing.assert_allclose(result.probs, result.branch_probs[2], atol=1e-6)
    assert result.contribution[2] == pytest.approx(1, abs=1e-6) or result.contribution[2] == pytest.approx(-1, abs=1e-6)


def test_a_picture_alone(predictor, still, face_model):
    result = predictor.analyse(still)
    assert result.present == {"face": True, "voice": False, "text": False}
    assert len(result.segments[0].features.face.crops) == 1
    assert result.duration_s is None


def test_files_that_belong_together_are_one_clip(predictor, still, voice_only, face_model):
    result = predictor.analyse(still, voice_only, speech=False)
    assert result.present == {"face": True, "voice": True, "text": False}
    assert result.sha256 not in {f.sha256 for f in result.observation.files}


def test_a_picture_stays_with_every_utterance_of_the_sound_beside_it(predictor, still, tmp_path, face_model):
    pause, word = synth.silence(1.5), synth.voice(1.5)
    sound = synth.write_clip(tmp_path / "late.wav", seconds=6, voice=np.concatenate([pause, word, pause, word]))
    result = predictor.analyse(still, sound, speech=False)
    assert len(result.segments) == 2
    assert result.segments[0].start_s > 1
    assert [s.present for s in result.segments] == [(True, True, False)] * 2


@pytest.mark.parametrize("suffix", [".aac", ".mp3"])
def test_the_length_is_that_of_what_was_decoded_where_the_file_only_lets_one_guess(predictor, tmp_path, suffix):
    """A bare stream that begins with silence: FFmpeg takes its first bits for the rate of all."""
    sound = np.concatenate([synth.silence(4), synth.voice(8)])
    clip = synth.write_clip(tmp_path / f"bare{suffix}", seconds=12, voice=sound)
    result = predictor.analyse(clip, speech=False)
    assert result.duration_s == pytest.approx(12, abs=0.3)
    assert all(4 - 0.5 < s.start_s < s.end_s <= result.duration_s for s in result.segments)
    assert result.present["voice"]


def test_a_stretch_of_a_recording_longer_than_the_limit_is_read(predictor, voice_only):
    config = replace(predictor.checkpoint.config, media=replace(predictor.checkpoint.config.media, max_seconds=1.0))
    with pytest.raises(ClipError, match="clips up to 1 s are accepted"):
        predictor.perceiver.observe(config, voice_only, speech=False)
    seen = predictor.perceiver.observe(config, voice_only, speech=False, start_s=0.5, end_s=1.3)
    assert seen.duration_s == pytest.approx(0.8)


def test_nothing_to_read_gives_no_emotion(predictor, tmp_path):
    clip = synth.write_clip(tmp_path / "silence.wav", seconds=2, voice=synth.silence(2))
    result = predictor.analyse(clip)
    assert result.emotion is None
    assert result.abstain
    assert result.present == dict.fromkeys(MODALITIES, False)
    assert result.probs.tolist() == pytest.approx([1 / 7] * 7)
    assert {"nothing_readable", "no_speech"} <= codes(result)
    assert result.telling_segment is None
    json.dumps(result.to_dict(), allow_nan=False)


def test_nothing_given_is_refused(predictor):
    with pytest.raises(ClipError, match="give a video, a sound, a picture or a sentence"):
        predictor.analyse(text="  ")


def test_a_video_without_sound_is_cut_into_equal_stretches(predictor, tmp_path, face_model):
    clip = synth.write_clip(tmp_path / "long.mp4", seconds=12, voice=False, fps=5)
    result = predictor.analyse(clip)
    assert result.present == {"face": True, "voice": False, "text": False}
    assert [round(s.start_s, 1) for s in result.segments] == pytest.approx([0, 6], abs=0.2)


def test_missing_weights_are_named_and_the_rest_is_read(offline, home, talk, tmp_path, caplog):
    bare = Predictor(
        replace(Paths.from_env(), home=home, assets=tmp_path / "empty", device="cpu", whisper=str(tmp_path / "no.pt"))
    )
    result = bare.analyse(talk)
    assert result.present == {"face": False, "voice": True, "text": False}
    assert "storage.googleapis.com:443" in offline
    assert "face_unavailable" in codes(result)
    told = "\n".join(n.message for n in result.quality)
    assert "the face was not read: weights are missing; `python -m mmer doctor` says which" in told
    assert str(tmp_path) not in told  # visitors read it; the log names the place
    assert f"put it at {tmp_path / 'empty' / 'face_landmarker.task'}" in caplog.text
    assert result.transcript.status == "unavailable"
    assert "weights are missing" in result.transcript.message
    assert str(tmp_path) not in result.transcript.message
    assert str(tmp_path / "no.pt") in caplog.text
    assert result.emotion in EMOTIONS


def test_a_promotion_is_served_without_a_restart(home, predictor, voice_only):
    before = predictor.analyse(voice_only, speech=False)
    checkpoint.save(make_model(seed=5), CONFIG, home / "checkpoints", {"parent": "first"}, name="second")
    checkpoint.promote("second", home / "checkpoints")
    try:
        after = predictor.analyse(voice_only, speech=False)
    finally:
        checkpoint.promote("first", home / "checkpoints")
    assert (before.checkpoint, after.checkpoint) == ("first", "second")
    assert not np.allclose(before.probs, after.probs)
    np.testing.assert_allclose(predictor.analyse(voice_only, speech=False).probs, before.probs, atol=1e-6)


def test_a_bad_promotion_leaves_the_good_checkpoint_in_memory_answering(home, predictor, voice_only):
    """It took the page down: every clip failed until somebody promoted another one."""
    service = Service(predictor.paths)
    assert service.health() == {"status": "ok", "checkpoint": "first", "device": "cpu"}
    before = predictor.analyse(voice_only, speech=False)
    checkpoint.save(make_model(seed=6), CONFIG, home / "checkpoints", {"parent": "first"}, name="bad")
    (home / "checkpoints" / "bad" / "model.safetensors").write_bytes(b"no weights")
    checkpoint.promote("bad", home / "checkpoints")
    try:
        after = predictor.analyse(voice_only, speech=False)
        health, started_anew = service.health(), Service(predictor.paths).health()
        with pytest.raises(CheckpointError, match="'bad' cannot be used"):
            Predictor(predictor.paths).analyse(voice_only, speech=False)  # nothing in memory that could answer
    finally:
        checkpoint.promote("first", home / "checkpoints")
    assert after.checkpoint == "first"
    np.testing.assert_array_equal(after.probs, before.probs)
    notice = next(n for n in after.quality if n.code == "checkpoint_refused")
    assert "'bad' does not answer, 'first' does: checkpoint 'bad' cannot be used" in notice.message
    assert str(home) not in notice.message
    assert (health["status"], health["checkpoint"], health["message"]) == ("degraded", "first", notice.message)
    assert (started_anew["status"], started_anew["checkpoint"]) == ("error", "bad")
    assert service.health()["status"] == "ok"
    assert "checkpoint_refused" not in codes(predictor.analyse(voice_only, speech=False))


def test_a_refused_checkpoint_was_loaded_again_at_every_access(home, predictor):
    own = Predictor(predictor.paths)
    good = own.checkpoint
    root = home / "checkpoints"
    checkpoint.save(make_model(seed=7), CONFIG, root, {"parent": "first"}, name="mended")
    weights = root / "mended" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"no weights")
    checkpoint.promote("mended", root)
    try:
        assert own.checkpoint is good
        first = own._refused
        assert own.checkpoint is good
        assert own._refused is first  # looked at, not loaded
        checkpoint.promote("mended", root)
        assert own.checkpoint is good
        assert own._refused is not first  # who promotes it again wants it tried again
        weights.write_bytes(whole)
        assert own.checkpoint.id == "mended"
        assert own.refusal is None
    finally:
        checkpoint.promote("first", root)


def test_a_checkpoint_with_a_threshold_abstains_below_it_and_still_names_its_guess(home, predictor, voice_only):
    before = predictor.analyse(voice_only, speech=False)
    assert not before.abstain  # a checkpoint without a threshold always answers
    for name, threshold in (
        ("strict", float(before.probs.max()) + 0.01),
        ("lenient", float(before.probs.max()) - 0.01),
    ):
        meta = {"abstain": {"threshold": threshold, "target": 0.8, "coverage": 0.5, "accuracy": 0.81}}
        checkpoint.save(make_model(), CONFIG, home / "checkpoints", meta, name=name)
        after = Predictor(predictor.paths, name).analyse(voice_only, speech=False)
        assert after.emotion == before.emotion
        assert after.abstain == after.to_dict()["abstain"] == (name == "strict")
        assert ("unreliable" in codes(after)) == (name == "strict")
    strict = Predictor(predictor.paths, "strict").analyse(voice_only, speech=False)
    notice = next(n for n in strict.quality if n.code == "unreliable")
    assert (
        f"from which on 80% of the answers were right on people set aside; do not rely on {before.emotion}"
        in notice.message
    )


def test_the_same_clip_gives_the_same_answer_in_any_batch(predictor, talk, voice_only, face_model):
    items = [*predictor.observe(talk, speech=False).features, *predictor.observe(voice_only, speech=False).features]
    together = predictor.judge(items)
    for item, segment in zip(items, together, strict=True):
        np.testing.assert_allclose(predictor.judge([item])[0].probs, segment.probs, atol=1e-4)


def test_a_modality_can_be_left_out(predictor, talk, face_model):
    item = predictor.observe(talk, modalities=["voice"]).features[0]
    assert item.present == (False, True, False)
    whole = predictor.observe(talk, speech=False).features[0]
    assert whole.only(["voice"]).present == (False, True, False)
    assert torch.equal(whole.sound.mel, item.sound.mel)


@pytest.mark.parametrize("modalities", [["audio"], ["voice", "words"], "face"])
def test_what_is_no_modality_is_refused(predictor, voice_only, modalities):
    """ "audio" was taken for a wish to leave everything out."""
    with pytest.raises(MmerError, match="use face, voice, text") as caught:
        predictor.analyse(voice_only, modalities=modalities)
    assert caught.value.code == "unknown_modality"


def test_half_a_character_in_the_words_is_refused(predictor, voice_only):
    """It ended in a UnicodeEncodeError after the whole clip was read."""
    for files in ((), (voice_only,)):
        with pytest.raises(ClipError, match=r"half a character \('.ud83d' at 8\)") as caught:
            predictor.analyse(*files, text="so sad \ud83d", speech=False)
        assert caught.value.code == "bad_text"


def test_work_can_be_stopped(predictor, talk):
    with pytest.raises(MmerError, match="stopped") as caught:
        predictor.analyse(talk, should_stop=lambda: True)
    assert caught.value.code == "stopped"
    assert predictor.analyse(talk, speech=False).emotion in EMOTIONS


def test_a_stage_took_the_time_that_others_had_their_turn(predictor, voice_only):
    def give_way() -> bool:
        time.sleep(0.05)
        asked.append(1)
        return False

    asked: list[int] = []
    ms = predictor.observe(voice_only, speech=False, should_stop=give_way).timing_ms
    assert len(asked) > 4
    waited_ms = 50 * len(asked)
    assert ms["decode"] < waited_ms < ms["total"]  # who asked waited for it all the same


def test_shares_sum_to_the_logit_and_an_absent_branch_gets_none(predictor):
    loaded, batch = predictor.checkpoint, make_batch(3)
    batch.present[1, 0] = batch.present[2, 1] = batch.present[2, 2] = False
    with torch.no_grad():
        states = loaded.model.branches(batch)
        values = of_branches(loaded.model, states, batch.present)
        logits = loaded.model.fuse(states, batch.present).logits
    torch.testing.assert_close(values.sum(1), logits, atol=1e-4, rtol=1e-4)
    assert values[1, 0].abs().sum() == 0
    assert values[2, 1:].abs().sum() == 0
    torch.testing.assert_close(values[2, 0], logits[2], atol=1e-4, rtol=1e-4)


def test_collating_pads_and_masks(predictor, talk, voice_only, face_model):
    items = [predictor.observe(talk, speech=False).features[0], predictor.observe(voice_only, speech=False).features[0]]
    batch = collate(items, CONFIG)
    assert batch.present.tolist() == [[True, True, False], [False, True, False]]
    assert batch.crop_mask[1].sum() == 0
    assert batch.mel_mask.sum(1).tolist() == [len(i.sound.mel) for i in items]


def command(home: Path, *arguments) -> subprocess.CompletedProcess:
    env = {
        **os.environ,
        "MMER_HOME": str(home),
        "MMER_ASSETS": str(Paths.from_env().assets),
        "MMER_WHISPER": str(home / "none.pt"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mmer", "analyse", *map(str, arguments)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_line_answers_each_clip_and_goes_on_after_a_bad_one(home, talk, voice_only, tmp_path):
    bad = tmp_path / os.fsdecode(b"bad \xff.mp4")  # a name that is no UTF-8
    bad.write_text("this is no video")
    out = tmp_path / "r.jsonl"
    done = command(home, talk, bad, voice_only, "--explain", "--out", out)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    assert [line["clip"] for line in lines] == [str(talk), str(bad), str(voice_only)]
    assert lines[1] == {"clip": str(bad), "error": {"code": "not_media", "message": lines[1]["error"]["message"]}}
    assert bad.name in lines[1]["error"]["message"]
    for line in (lines[0], lines[2]):
        assert set(line) == {
            "clip",
            "sha256",
            "duration_s",
            "emotion",
            "abstain",
            "probs",
            "present",
            "per_modality",
            "contribution",
            "transcript",
            "segments",
            "quality",
            "explanation",
            "timing_ms",
            "checkpoint",
        }
        assert sum(line["probs"].values()) == pytest.approx(1, abs=1e-3)
        assert set(line["timing_ms"]) == {"decode", "face", "voice", "speech", "model", "explain", "total"}
        assert set(line["explanation"]) >= {
            "target",
            "logit",
            "baseline_logit",
            "modality",
            "words",
            "voice_bands",
            "face_regions",
            "face_moments",
            "trust",
        }
        assert line["explanation"]["modality"]["text"] is None
    assert lines[2]["per_modality"]["face"] is None


def test_the_command_line_needs_something_to_analyse(home):
    done = command(home)
    assert done.returncode == 2
    assert "give at least one CLIP, or --text" in done.stderr


def test_a_picture_that_is_held_on_screen_belonged_to_no_utterance(predictor, tmp_path, face_model):
    """A film of one picture, or one that stands still: what is said later is said by the face that is still shown."""
    sound = np.concatenate([synth.silence(1.5), synth.voice(1.5), synth.silence(1.5), synth.voice(1.5)])
    picture = synth.face(smile=1.0)
    clip = synth.write_clip(tmp_path / "held.mkv", seconds=6, face=picture, times=[0.0], voice=sound)
    result = predictor.analyse(clip, speech=False)
    assert [s.present for s in result.segments] == [(True, True, False)] * 2
    assert [s.features.face.times_s.tolist() for s in result.segments] == [[0.0]] * 2
    assert all(s.start_s > 1 for s in result.segments)
