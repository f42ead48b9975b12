"""What if: each change does to what was kept what it would do to the recording, and nothing else."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer import checkpoint
from mmer.__main__ import main
from mmer.config import Config, ModelConfig, Paths, VoiceConfig, sqlite_url
from mmer.counterfactual import smallest_turn
from mmer.errors import ClipError
from mmer.face import REGIONS
from mmer.face_map import soften
from mmer.features import Features, collate, with_text
from mmer.labels import EMOTIONS
from mmer.predict import Predictor
from mmer.speech import Transcriber, Transcript, Word
from mmer.voice import log_mel, mel_power, power_of
from mmer.whatif import Changes, changed, what_if
from tests import synth
from tests.test_attribution import CONFIG, checkpoint_of, everything, face_and_voice, language, strong_model  # noqa: F401
from tests.test_speech import dimensions

VOICE = VoiceConfig()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_a_log_mel_leads_back_to_the_power_it_was_made_of():
    samples = torch.from_numpy(synth.voice(1.0))
    power = mel_power(samples, VOICE)
    back = power_of(log_mel(samples))
    torch.testing.assert_close(back, power, rtol=1e-3, atol=2 * VOICE.floor * 1e-2)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory) -> Transcriber:
    from whisper.model import ModelDimensions, Whisper

    path = tmp_path_factory.mktemp("whisper") / "random.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dims = dimensions(n_layers=2)
        torch.save({"dims": dims, "model_state_dict": Whisper(ModelDimensions(**dims)).state_dict()}, path)
    return Transcriber(str(path))


def heard(transcriber: Transcriber, samples: np.ndarray) -> Features:
    spoken = transcriber.hear(samples)
    return Features(
        0.0, len(samples) / 16_000, sound=log_mel(samples), whisper=transcriber.encode_heard(spoken), heard=spoken
    )


@pytest.mark.parametrize("snr_db", [20.0, 5.0])
def test_noise_is_what_it_would_be_in_the_recording(transcriber, snr_db):
    samples = synth.voice(2.0)
    found = changed(heard(transcriber, samples), Changes(noise_db=snr_db), VOICE, transcriber=transcriber)
    ratio = power_of(found.sound).sum() / power_of(log_mel(samples)).sum()
    assert float(ratio) == pytest.approx(1 + 10 ** (-snr_db / 10), rel=0.01)

    noise = torch.randn(len(samples), generator=torch.Generator().manual_seed(0)).numpy()
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    real = heard(transcriber, samples + noise)
    assert correlation(found.sound.mel, real.sound.mel) > 0.95
    assert correlation(found.sound.mel, real.sound.mel) > correlation(found.sound.mel, log_mel(samples).mel) + 0.1
    assert correlation(found.heard[0].mel, real.heard[0].mel) > 0.95
    torch.testing.assert_close(found.whisper, transcriber.encode_heard(found.heard))
    clean = heard(transcriber, samples)
    assert (found.whisper - real.whisper).norm() < 0.5 * (clean.whisper - real.whisper).norm()


def test_a_cut_leaves_what_a_shorter_recording_would(transcriber):
    samples = synth.voice(3.0)
    found = changed(heard(transcriber, samples), Changes(cut_s=(1.0, 2.0)), VOICE, transcriber=transcriber)
    real = heard(transcriber, np.concatenate([samples[:16_000], samples[32_000:]]))
    assert found.sound.mel.shape == real.sound.mel.shape
    assert correlation(found.sound.mel, real.sound.mel) > 0.98
    assert [h.n_frames for h in found.heard] == [h.n_frames for h in real.heard] == [100]
    assert found.heard[0].mel.shape == real.heard[0].mel.shape
    with pytest.raises(ClipError, match="nothing of the utterance is left"):
        changed(heard(transcriber, samples), Changes(cut_s=(-1.0, 9.0)), VOICE, transcriber=transcriber)


def test_a_cut_that_leaves_less_than_whisper_hears_crashed(transcriber):
    """Of 2.00 s cut from 0 to 2 one frame of the log-mel is left, and nothing that is 20 ms long."""
    samples = synth.voice(2.0)
    features = replace(heard(transcriber, samples), text_states=torch.zeros(1, 3, 4), words=("so",))
    found = changed(features, Changes(cut_s=(0.0, 2.0)), VOICE, transcriber=transcriber)
    assert found.present == (False, False, True)
    with pytest.raises(ClipError, match="nothing of the utterance is left"):
        changed(heard(transcriber, samples), Changes(cut_s=(0.0, 2.0)), VOICE, transcriber=transcriber)
    little = Changes(cut_s=(0.0, 1.975), noise_db=5.0)
    left = changed(heard(transcriber, samples), little, VOICE, transcriber=transcriber)
    assert left.heard[0].n_frames == 1
    assert torch.isfinite(left.sound.mel).all()


@pytest.mark.parametrize("db", [-60.5, 100_000.0, float("nan")])
def test_noise_without_bounds_overflowed(transcriber, db):
    with pytest.raises(ClipError, match="noise is -60 to 100 dB below the voice; .* is not") as caught:
        changed(heard(transcriber, synth.voice(0.5)), Changes(noise_db=db), VOICE, transcriber=transcriber)
    assert caught.value.code == "bad_change"


@pytest.mark.parametrize("pixels", [0.0, 1e-300, 1e6, float("nan")])
def test_a_blur_without_bounds_gave_no_number(everything, pixels):  # noqa: F811
    with pytest.raises(ClipError, match="a blur is 0.1 to 48 pixels wide; .* is not"):
        changed(everything, Changes(blur=pixels), VOICE)


@pytest.mark.parametrize("change", [{"blur": 0.1}, {"blur": 48.0}, {"noise_db": -60.0}, {"noise_db": 100.0}])
def test_the_outermost_changes_give_numbers(everything, change):  # noqa: F811
    found = changed(everything, Changes(**change), VOICE)
    assert torch.isfinite(found.face.crops).all()
    assert torch.isfinite(found.sound.mel).all()


def test_a_cut_takes_frames_and_words_of_its_stretch(everything, language):  # noqa: F811
    n = len(everything.words)
    times = [(10 + 2 * i / n, 10 + 2 * (i + 1) / n) for i in range(n)]
    found = changed(everything, Changes(cut_s=(11.0, 13.0)), VOICE, language, word_times=times)
    assert found.words == everything.words[: n // 2]
    assert found.face.times_s.max() < 11
    assert len(found.face.crops) == len(found.face.blendshapes) == int((everything.face.times_s < 11).sum())
    assert changed(everything, Changes(cut_s=(11.0, 13.0)), VOICE, language).words == everything.words


def test_a_rate_makes_the_voice_shorter_and_keeps_its_pitch(transcriber):
    tone = synth.tone(2.0, 1000)
    found = changed(heard(transcriber, tone), Changes(rate=2.0), VOICE, transcriber=transcriber)
    assert len(found.sound.mel) == pytest.approx(len(log_mel(tone).mel) / 2, abs=1)
    assert int(found.sound.mel.mean(0).argmax()) == int(log_mel(tone).mel.mean(0).argmax())
    assert found.heard[0].n_frames == 50
    with pytest.raises(ClipError, match="between 0.5 and 2"):
        changed(heard(transcriber, tone), Changes(rate=3.0), VOICE, transcriber=transcriber)


def test_words_are_dropped_and_replaced_by_number(everything, language):  # noqa: F811
    found = changed(everything, Changes(drop_words=(1,), replace_words=((2, "do"),)), VOICE, language)
    expected = with_text(everything, " ".join(["do", *everything.words[2:]]), language)
    assert found.words == expected.words
    torch.testing.assert_close(found.text_states, expected.text_states)
    assert torch.equal(found.face.crops, everything.face.crops)
    every = tuple(range(1, len(everything.words) + 1))
    assert changed(everything, Changes(drop_words=every), VOICE, language).present == (True, True, False)
    for wrong in (0, len(every) + 1):
        with pytest.raises(ClipError, match=f"the utterance has {len(every)} words; word {wrong} is none"):
            changed(everything, Changes(drop_words=(wrong,)), VOICE, language)


def test_channels_go_and_a_blur_leaves_no_landmarks(everything):  # noqa: F811
    muted = changed(everything, Changes(hide=("voice",)), VOICE)
    assert muted.present == (True, False, True)
    blurred = changed(everything, Changes(blur=3.0), VOICE)
    torch.testing.assert_close(blurred.face.crops, soften(everything.face.crops, 3.0))
    assert not collate([blurred], CONFIG).blend_mask.any()
    with pytest.raises(ClipError, match="the voice cannot be left out: the utterance has the face and the words"):
        changed(muted, Changes(hide=("voice",)), VOICE)
    with pytest.raises(ClipError, match="nothing of the utterance is left"):
        changed(everything, Changes(hide=("face", "voice", "text")), VOICE)


def test_a_voice_that_whisper_cannot_hear_again_is_not_changed(transcriber):
    features = replace(heard(transcriber, synth.voice(1.0)), heard=())
    with pytest.raises(ClipError, match="what Whisper heard was not kept"):
        changed(features, Changes(noise_db=10.0), VOICE, transcriber=transcriber)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    config = Config(model=ModelConfig.tiny())
    name = checkpoint.save(strong_model(), config, home / "checkpoints", {"parent": None}, name="tiny")
    checkpoint.promote(name, home / "checkpoints")
    return home


def test_before_and_after_are_what_the_model_says_of_both(home, everything, text_encoder):  # noqa: F811
    paths = replace(Paths.from_env(), home=home, database_url=sqlite_url(home / "mmer.db"), device="cpu")
    predictor = Predictor(paths)
    words = tuple(Word(w, 10 + 0.2 * i, 10.2 + 0.2 * i, 1.0) for i, w in enumerate(everything.words))
    transcript = Transcript(" ".join(everything.words), "en", words, "ok")
    result = predictor.conclude(
        replace(predictor.observe(text="so glad"), features=(everything,), transcript=transcript)
    )
    found = what_if(predictor, result, Changes(cut_s=(10.0, 10.2), hide=("voice",)))
    np.testing.assert_allclose(found.before.probs, result.segments[0].probs, atol=1e-5)
    assert found.after.present == (True, False, True)
    assert found.after.features.words == everything.words[1:]
    (expected,) = predictor.judge([found.after.features])
    np.testing.assert_allclose(found.after.probs, expected.probs, atol=1e-5)
    said = found.to_dict()
    assert said["changes"] == "10 to 10.2 s cut out; without the voice"
    assert said["turned"] == (found.before.emotion != found.after.emotion)
    assert said["after"]["per_modality"]["voice"] is None
    with pytest.raises(ClipError, match="no change was asked for"):
        what_if(predictor, result, Changes())
    with pytest.raises(ClipError, match="the clip has 1 utterances; 2 is none"):
        what_if(predictor, result, Changes(hide=("voice",)), 2)


def test_what_turns_an_answer_does_and_no_less_of_it_would(everything, language):  # noqa: F811
    """Random models of which the words decide: the words found turn the answer, all but one of them do not."""
    turned = 0
    for seed in range(6):
        loaded = checkpoint_of(strong_model(seed))
        features = everything.only(("text",))
        turn = smallest_turn(loaded, features, language)

        def answer(gone: set[int], loaded=loaded, features=features) -> str:
            drop = tuple(i + 1 for i in sorted(gone))
            left = changed(features, Changes(drop_words=drop), VOICE, language) if drop else features
            return EMOTIONS[int(loaded.model(collate([left], CONFIG)).logits[0].argmax())]

        each = [answer({i}) for i in range(len(features.words))]
        if turn is None:
            assert set(each) == {answer(set())}
            continue
        turned += 1
        gone = {features.words.index(part) for part in turn.parts}
        assert answer(set()) == turn.before != turn.after == answer(gone)
        assert turn.share == pytest.approx(len(gone) / len(features.words))
        assert turn.after in turn.sentence
        if len(gone) == 1:
            assert turn.before != each[gone.pop()]
        else:
            assert set(each) == {turn.before}
            assert all(answer(gone - {i}) == turn.before for i in gone)
    assert turned


@pytest.mark.parametrize("channel", ["face", "voice"])
def test_what_turns_a_face_or_a_voice_is_named(everything, channel):  # noqa: F811
    """Alone of its channel, of models whose answer hangs on few parts of it."""
    parts = REGIONS if channel == "face" else [f"{10 + i / 4:.2f} to {10.25 + i / 4:.2f} s" for i in range(8)]
    for seed in range(8):
        loaded, features = checkpoint_of(strong_model(seed)), everything.only((channel,))
        turn = smallest_turn(loaded, features)
        if turn is None:
            continue
        assert turn.branch == channel
        assert set(turn.parts) <= set(parts)
        assert turn.share == pytest.approx(len(turn.parts) / len(parts))
        assert turn.share <= 0.5
        before = loaded.model(collate([features], CONFIG)).logits[0]
        assert turn.before == EMOTIONS[int(before.argmax())] != turn.after
        assert turn.probability >= 1 / len(EMOTIONS)
        return
    pytest.fail("no model's answer was turned")


@pytest.fixture
def command(home, monkeypatch, capsys):
    """A function that runs `python -m mmer whatif` in this process: status, JSON and complaints."""
    monkeypatch.setenv("MMER_HOME", str(home))

    def run(*args) -> tuple[int, dict, str]:
        monkeypatch.setattr(sys, "argv", ["mmer", "whatif", *map(str, args)])
        try:
            status = main()
        except SystemExit as ended:
            status = ended.code
        out, complaint = capsys.readouterr()
        return status, json.loads(out or "{}"), complaint

    return run


def test_the_command_prints_before_and_after(command, text_encoder):
    status, found, complaint = command(
        "--text", "so glad you came", "--drop-word", "2", "--replace-word", "1", "not", "--search"
    )
    assert status == 0, complaint
    assert found["changes"] == 'word 1 replaced by "not"; word 2 dropped'
    assert found["before"]["words"] == ["so", "glad", "you", "came"]
    assert found["after"]["words"] == ["not", "you", "came"]
    assert sum(found["after"]["probs"].values()) == pytest.approx(1, abs=1e-3)
    assert found["turn"] is None or found["turn"]["before"] == found["before"]["emotion"]


def test_the_command_says_what_cannot_be_changed(command, voice_only):
    status, found, _ = command(voice_only, "--no-speech", "--hide", "face")
    assert status == 1
    assert found["error"]["code"] == "no_such_channel"
    status, _, complaint = command(voice_only)
    assert status == 2
    assert "asks for at least one change" in complaint
    status, _, complaint = command("--text", "so glad", "--replace-word", "²", "sad")  # a digit, and no number
    assert status == 2
    assert "'²' is no number" in complaint


def test_a_name_that_is_not_utf_8_was_not_printed(command, voice_only, tmp_path):
    clip = tmp_path / os.fsdecode(b"so \xff.wav")
    shutil.copy(voice_only, clip)
    status, found, complaint = command(clip, "--no-speech", "--rate", "1.5")
    assert status == 0, complaint
    assert found["clip"] == str(clip)
