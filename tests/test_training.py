"""The training command and the evaluation on corpora in their real layouts, made small."""

import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmer import checkpoint
from mmer.attribution import explain
from mmer.config import ModelConfig, Paths
from mmer.efficientnet import EfficientNetLite0
from mmer.encoders import TextEncoder
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import EMOTIONS, RAVDESS_CODES
from mmer.model import EmotionModel
from mmer.predict import Predictor
from mmer.voice import log_mel
from tests import synth
from tests.test_speech import checkpoint as whisper_checkpoint
from training import corpora
from training.data import augment, manifest
from training.data.load import Faces, Voices, split_calibration, targets_of
from training.data.manifest import Row
from training.learn import exemplars, losses
from training.learn.branches import (
    branch_module,
    text_epoch,
    text_priors,
    text_rates,
    train_face,
    train_statistics,
    train_voice,
)
from training.learn.config import TrainConfig
from training.learn.fusion import Encoded, Tuples
from training.learn.imagenet_stream import train_imagenet
from training.learn.loop import stage_settings
from training.learn.streams import choose_rest
from training.learn.warm_start import adopt_imagenet, adopt_layers

ROOT = Path(__file__).resolve().parent.parent
FER_CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


@pytest.fixture(scope="session")
def corpora_folder(tmp_path_factory) -> Path:
    """Five corpora in the layouts their authors publish, a few examples each."""
    root = tmp_path_factory.mktemp("corpora")
    for actor in (1, 2, 3, 4, 5, 7, 8, 9, 10):  # 2 is a validation actor
        for code in RAVDESS_CODES:
            path = root / "ravdess" / f"Actor_{actor:02d}" / f"03-01-{code}-01-01-01-{actor:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            synth.write_clip(path, seconds=1, voice=synth.voice(1, pitch_hz=90 + 30 * int(code)))
    (root / "emodb" / "wav").mkdir(parents=True)
    for name in ("03a01Fa", "03a01La", "10a01Wa"):  # happiness, boredom, anger by a validation speaker
        synth.write_clip(root / "emodb" / "wav" / f"{name}.wav", seconds=1)
    with zipfile.ZipFile(root / "fer2013.zip", "w") as z:
        for split, n in (("train", 50), ("validation", 2)):
            for k, name in enumerate(FER_CLASSES):
                for i in range(n):
                    picture = Image.fromarray(np.random.default_rng([k, i, n]).integers(0, 255, (48, 48), np.uint8))
                    with z.open(f"{split}/{name}/{split}_{i}.png", "w") as f:
                        picture.save(f, "PNG")
        copy = Image.fromarray(np.random.default_rng([0, 0, 2]).integers(0, 255, (48, 48), np.uint8))
        with z.open("train/angry/copy_of_a_validation_image.png", "w") as f:
            copy.save(f, "PNG")
    (root / "meld").mkdir()
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    for split, n in (("train", 20), ("dev", 3)):
        lines = [
            f'{i},"Well, it\x92s number {i}.",S{i % 5},{e},x,0,{i},1,1,"00:00:01,000","00:00:02,000"'
            for i in range(n)
            for e in ("joy", "anger", "neutral")
        ]
        (root / "meld" / f"{split}_sent_emo.csv").write_text(header + "\n".join(lines))
    (root / "goemotions").mkdir()
    (root / "goemotions" / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise\n")
    for split, n in (("train", 50), ("dev", 3)):
        lines = [f"sentence {i} of kind {k}\t{k}\tid{i}{k}" for i in range(n) for k in range(7)]
        (root / "goemotions" / f"{split}.tsv").write_text("\n".join([*lines, "both at once\t0,5\tidx"]) + "\n")
    return root


def test_the_layouts_are_read(corpora_folder, tmp_path):
    found = corpora.read_all(corpora_folder, tmp_path)
    assert set(found) == {"ravdess", "emodb", "fer2013", "meld", "goemotions"}
    speakers = {s: {r.speaker for r in found["ravdess"] if r.split == s} for s in ("train", "val")}
    assert speakers == {"train": {f"ravdess-{a:02d}" for a in (1, 3, 4, 5, 7, 8, 9, 10)}, "val": {"ravdess-02"}}
    calm = [r for r in found["ravdess"] if r.path.stem.split("-")[2] == "02"]
    assert {r.emotions for r in calm} == {("neutral",)}
    assert [(r.emotions, r.split) for r in found["emodb"]] == [(("happiness",), "train"), (("anger",), "val")]
    assert {r.crop for r in found["fer2013"]} == {"face"}
    assert sum(r.split == "train" for r in found["fer2013"]) == 50 * 7  # the copy of a validation image is gone
    assert found["meld"][0].text == "Well, it’s number 0."
    assert [r.emotions for r in found["goemotions"] if r.text == "both at once"] == [("anger", "sadness")] * 2


def test_manifests_come_back_as_written(corpora_folder, tmp_path):
    rows = [r for part in corpora.read_all(corpora_folder, tmp_path / "images").values() for r in part]
    manifest.write(tmp_path / "all.csv", rows)
    back = manifest.read(tmp_path / "all.csv")
    assert back.problems == ()
    assert [(r.emotions, r.text, r.speaker, r.split, r.crop) for r in back.rows] == [
        (r.emotions, r.text, r.speaker, r.split, r.crop) for r in rows
    ]
    assert all(r.path is None or r.path.is_file() for r in back.rows)


def test_a_bad_row_is_named_and_the_others_are_read(tmp_path):
    (tmp_path / "m.csv").write_text(
        "path,text,start,end,label,speaker,corpus,split,crop,extra\n"
        ",good,,,joy,a,x,train,,kept\n"
        ",bored,,,boredom,a,x,train,,\n"
        "missing.wav,,,,anger,a,x,train,,\n"
        ",times,2,1,anger,a,x,train,,\n"
        ",,,,anger,a,x,train,,\n"
    )
    found = manifest.read(tmp_path / "m.csv")
    assert [r.emotions for r in found.rows] == [("happiness",)]
    assert [p.split(": ")[0] for p in found.problems] == [f"m.csv line {i}" for i in (3, 4, 5, 6)]
    assert "boredom" in found.problems[0]
    assert "missing.wav does not exist" in found.problems[1]
    assert "end 1 s is not after start 2 s" in found.problems[2]
    assert "neither path nor text" in found.problems[3]


def test_a_manifest_without_labels_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="has a, b; the columns path"):
        manifest.read(tmp_path / "m.csv")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_manifest_that_is_not_utf8_is_refused_in_one_line(tmp_path, encoding):
    (tmp_path / "m.csv").write_text("path,text,label\n,Müller lacht,joy\n", encoding=encoding)
    with pytest.raises(TrainingError, match="cannot be read as UTF-8 CSV"):
        manifest.read(tmp_path / "m.csv")


def test_a_sentence_in_the_wrong_column_is_named(tmp_path):
    (tmp_path / "m.csv").write_text(f"path,text,label\n{'so ' * 100},,joy\n,fine,joy\n")
    found = manifest.read(tmp_path / "m.csv")
    assert len(found.rows) == len(found.problems) == 1
    assert found.problems[0].startswith("m.csv line 2: ")


def test_no_speaker_is_on_both_sides_of_a_split():
    rows = tuple(Row(("anger",), text=f"{s} {i}", speaker=f"s{s}", corpus="c") for s in range(20) for i in range(10))
    rest, calibration = split_calibration(rows)
    assert {r.speaker for r in rest} & {r.speaker for r in calibration} == set()
    assert len(calibration) == 20
    few = tuple(r for r in rows if r.speaker in ("s0", "s1", "s2"))
    assert split_calibration(few) == (few, ())  # one of three speakers would be a third of the corpus


def test_the_calibration_split_depended_on_where_the_corpora_lie(tmp_path):
    def calibration(root: Path) -> set[str]:
        rows = tuple(Row(("fear",), root / "train" / "fear" / f"{i}.png", corpus="c") for i in range(200))
        return {r.path.name for r in split_calibration(rows)[1]}

    assert len(calibration(tmp_path / "here")) == 20
    assert calibration(tmp_path / "here") == calibration(tmp_path / "there")


def test_an_emotion_nobody_shows_is_named():
    eye = torch.eye(7)
    encoded = {m: Encoded(eye, eye, eye, eye, eye) for m in ("face", "voice", "text")}
    encoded["voice"] = Encoded(*[eye[:5]] * 5)
    with pytest.raises(TrainingError, match="no voice example says sadness, surprise"):
        Tuples(encoded, torch.ones(3), 0.0)


def test_augmented_faces_stay_pictures_and_are_reproducible():
    images = torch.rand(16, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    one = augment.faces(images, torch.Generator().manual_seed(1))
    assert one.shape == images.shape
    assert 0 <= one.min() <= one.max() <= 1
    assert torch.equal(one, augment.faces(images, torch.Generator().manual_seed(1)))
    assert not torch.allclose(one, augment.faces(images, torch.Generator().manual_seed(2)))


def test_speed_changes_pitch():
    """A 200 Hz tone comes out between 200 x 0.88 and 200 x 1.12 Hz, and not always at 200."""
    sine = np.sin(2 * np.pi * 200 * np.arange(32000) / 16000).astype(np.float32)
    peaks = []
    for seed in range(8):
        x = augment.waveform(sine, 16000, torch.Generator().manual_seed(seed), noise=False)
        assert len(x) == 16000
        peaks.append(float(torch.fft.rfft(x).abs().argmax()))
    assert all(174 <= p <= 226 for p in peaks)
    assert max(peaks) - min(peaks) > 10


def test_a_short_waveform_is_not_padded_with_silence():
    x = augment.waveform(np.ones(1600, np.float32), 16000, torch.Generator().manual_seed(0), noise=False)
    assert 1600 / 1.13 < len(x) < 1600 / 0.87


def test_a_room_keeps_what_comes_straight_and_adds_what_comes_later():
    click = torch.zeros(16000)
    click[1000] = 1.0
    heard = augment.reverberate(click, torch.Generator().manual_seed(0))
    assert heard.shape == click.shape
    assert heard[:1000].abs().max() < 1e-5  # nothing before the click
    assert heard[1000] == pytest.approx(1.0, abs=1e-4)
    early, late = heard[1001:1801].square().mean(), heard[4001:4801].square().mean()
    assert early > 10 * late  # it dies away


def test_another_speaker_has_another_length_and_other_bands_and_stays_normalised():
    tone = torch.full((200, 64), -0.5)
    tone[:, 20] = 5.0
    peaks, lengths = set(), set()
    for seed in range(12):
        x = augment.other_speaker(tone, torch.Generator().manual_seed(seed))
        assert abs(float(x.mean())) < 1e-4
        assert float(x.std()) == pytest.approx(1.0, abs=1e-3)
        assert 200 * 0.85 <= len(x) + 1 <= 200 * 1.2 + 2
        peaks.add(int(x.mean(0).argmax()))
        lengths.add(len(x))
    assert peaks <= set(range(17, 24))  # band 20, moved by up to 12 %
    assert len(peaks) > 2
    assert len(lengths) > 5
    assert torch.isfinite(augment.other_speaker(tone[:1], torch.Generator().manual_seed(0))).all()


def test_rare_cells_are_known_by_corpus_and_emotion():
    eye = torch.eye(7)
    voices = Voices([np.zeros(1, np.float32)] * 4, eye[[0, 0, 0, 1]], ("a", "a", "b", "b"))
    assert voices.cell_sizes().tolist() == [2, 2, 1, 1]
    assert Voices(voices.samples, voices.targets).cell_sizes().tolist() == [3, 3, 3, 1]


def test_the_statistics_learn_after_the_cnn_and_each_leaves_the_other_alone(tmp_path):
    rng, seconds = np.random.default_rng(0), np.arange(16_000, dtype=np.float32) / 16_000
    pitch_hz = 120 + 300 * (np.arange(24) % 2) + rng.uniform(0, 40, 24)
    sounds = [np.sin(2 * np.pi * f * seconds) + rng.normal(0, 0.01, 16_000) for f in pitch_hz]
    low_or_high = torch.eye(7)[torch.arange(24) % 2]
    voices = Voices([x.astype(np.float32) for x in sounds], low_or_high)
    torch.manual_seed(0)
    model = EmotionModel(ModelConfig.tiny())
    config = TrainConfig(voice_epochs=1, voice_batch=8, voice_statistics_batch=8, voice_statistics_epochs=10)
    states = [{k: v.clone() for k, v in branch_module(model, "voice").state_dict().items()}]
    for train in (train_voice, train_statistics):
        train(model, voices, config, tmp_path)
        states.append({k: v.clone() for k, v in branch_module(model, "voice").state_dict().items()})
    untaught, cnn, both = states
    changed = [{k for k in untaught if not torch.equal(a[k], b[k])} for a, b in ((untaught, cnn), (cnn, both))]
    assert {"encoder.cnn.stem.weight", "head.1.weight"} <= changed[0]
    assert not any("statistics" in k for k in changed[0])
    assert changed[1]
    assert all(k.startswith("encoder.statistics.") for k in changed[1])
    mel = torch.cat([log_mel(voices.samples[i]).mel[None] for i in (0, 1)])
    stream = model.encoders["voice"].statistics
    with torch.no_grad():
        heard = model.heads["voice"](stream(stream.read(mel, torch.ones(mel.shape[:2], dtype=torch.bool))))
    assert heard.argmax(1).tolist() == [0, 1]


def test_soft_cross_entropy_of_known_cases():
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    hard = torch.tensor([[1.0, 0.0, 0.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
    assert losses.soft_cross_entropy(logits, hard) == pytest.approx(float(expected))
    smooth = torch.nn.functional.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1)
    assert losses.soft_cross_entropy(logits, hard, smoothing=0.1) == pytest.approx(float(smooth))


def test_logit_adjustment_of_even_classes_changes_nothing():
    logits, targets = torch.randn(5, 7), torch.eye(7)[:5]
    even = losses.log_prior(torch.full((7,), 10.0), 1.0)
    assert losses.soft_cross_entropy(logits, targets, log_prior=even) == pytest.approx(
        float(losses.soft_cross_entropy(logits, targets)), rel=1e-5
    )
    rare = losses.log_prior(torch.tensor([100.0, 1, 1, 1, 1, 1, 1]), 1.0)
    loss_of_rare = losses.soft_cross_entropy(torch.zeros(1, 7), torch.eye(7)[1:2], log_prior=rare)
    assert loss_of_rare > losses.soft_cross_entropy(torch.zeros(1, 7), torch.eye(7)[1:2])


def test_the_temperature_that_was_put_in_is_found():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6000, 7, generator=g) * 2
    truth = torch.multinomial(logits.softmax(1), 1, generator=g).flatten()
    assert losses.fit_temperature(logits * 3, torch.eye(7)[truth]) == pytest.approx(3, rel=0.08)


def test_tuples_carry_one_label_and_conflicts_share_it():
    """The states are the labels themselves, so what was drawn can be read back."""
    eye = torch.eye(7).repeat(4, 1)
    encoded = {m: Encoded(eye, eye, eye, eye, eye) for m in ("face", "voice", "text")}
    g = torch.Generator().manual_seed(0)
    states, present, targets = Tuples(encoded, torch.ones(3), 0.0).draw(500, g)
    assert set(present.sum(1).tolist()) == {2, 3}
    for i in range(3):
        here = present[:, i]
        assert torch.equal(states.logits[here, i], targets[here])
        assert states.tops[~here, i].abs().sum() == 0
    states, present, targets = Tuples(encoded, torch.ones(3), 1.0).draw(500, g, subsets=False)
    torch.testing.assert_close(states.logits.mean(1), targets)
    assert 0.7 < float((targets.max(1).values < 0.9).float().mean()) < 0.95  # the odd one agrees by chance in 1 of 7


def run(script: str, *arguments, home: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "MMER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    env.setdefault("MMER_ASSETS", str(ROOT / "data" / "assets"))
    return subprocess.run(
        [sys.executable, f"training/{script}.py", *map(str, arguments)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="session")
def trained(corpora_folder, tmp_path_factory, face_model, text_encoder) -> tuple[Path, str]:
    """A home with a checkpoint that the training command wrote from the tiny corpora: (home, id)."""
    home = tmp_path_factory.mktemp("home")
    done = run(
        "train",
        "--corpora",
        corpora_folder,
        "--work",
        home / "work",
        "--model",
        "tiny",
        "--face-epochs",
        1,
        "--face-batch",
        16,
        "--voice-epochs",
        1,
        "--voice-batch",
        8,
        "--text-epochs",
        1,
        "--fusion-steps",
        20,
        "--fusion-batch",
        16,
        home=home,
    )
    assert done.returncode == 0, done.stderr
    return home, checkpoint.listing(home / "checkpoints")[0]


def test_the_training_command_writes_a_checkpoint(trained):
    home, name = trained
    loaded = checkpoint.load(name, home / "checkpoints")
    assert set(loaded.meta["metrics"]["label_matched_validation_tuples"]) == {
        "face",
        "voice",
        "text",
        "face+voice",
        "face+text",
        "voice+text",
        "face+voice+text",
    }
    assert all(t > 0 for t in loaded.meta["temperature"].values())
    promise = loaded.meta["abstain"]  # an hour of training keeps it, a minute may find no confidence that does
    assert {"face", "voice", "text", "face+voice", "face+voice+text"} <= set(promise["subsets"])
    assert all(s is None or s["accuracy"] >= promise["target"] for s in promise["subsets"].values())


def test_a_voice_branch_learns_from_whispers_encoder_and_uses_it(trained, corpora_folder, tmp_path, voice_only):
    """The encoder is random, so nothing is said about what it is worth."""
    home, name = trained
    weights = whisper_checkpoint(tmp_path / "whisper.pt")
    done = run(
        "train",
        "--corpora",
        corpora_folder,
        "--work",
        tmp_path / "work",
        "--model",
        "tiny",
        "--init",
        name,
        "--whisper",
        weights,
        "--stage",
        "voice",
        "fusion",
        "--voice-epochs",
        1,
        "--voice-batch",
        8,
        "--fusion-steps",
        20,
        "--fusion-batch",
        16,
        "--name",
        "listening",
        home=home,
    )
    assert done.returncode == 0, done.stderr
    loaded = checkpoint.load("listening", home / "checkpoints")
    assert (loaded.config.model.whisper_depths, loaded.config.model.whisper_width) == (2, 32)
    assert loaded.meta["whisper"] == "whisper.pt"
    again = ("--model", "tiny", "--init", "listening", "--stage", "fusion")
    refused = run("train", "--corpora", corpora_folder, "--work", tmp_path / "again", *again, home=home)
    assert refused.returncode == 1
    assert "the voice branch of listening reads Whisper's encoder; give --whisper" in refused.stderr
    with_it, without, other = (
        Predictor(replace(Paths.from_env(), home=home, device="cpu", whisper=str(w)), "listening")
        for w in (weights, tmp_path / "nowhere.pt", whisper_checkpoint(tmp_path / "wider.pt", width=64))
    )
    heard = with_it.analyse(voice_only, speech=False)
    assert heard.transcript.status == "off"
    states = heard.segments[0].features.whisper
    assert states.shape == (2, 64)
    deaf = without.analyse(voice_only, speech=False)
    assert [n.code for n in deaf.quality if n.code.startswith("whisper")] == ["whisper_unavailable"]
    assert deaf.segments[0].features.whisper is None
    assert np.abs(heard.probs - deaf.probs).max() > 1e-6
    wrong = other.analyse(voice_only, speech=False)
    assert "reads a Whisper of 1 layers and width 32" in next(
        n.message for n in wrong.quality if n.code == "whisper_unavailable"
    )
    assert np.allclose(wrong.probs, deaf.probs)
    explained = explain(loaded, heard.segments[0].features)
    assert explained.trust["voice"].delta < 0.05  # the map divides what the spectrogram adds; Whisper's part stays


def test_training_again_goes_on_where_it_was(trained, corpora_folder):
    """Every branch is done, so only the fusion learns again, and the weights are the same."""
    home, name = trained
    done = run(
        "train",
        "--corpora",
        corpora_folder,
        "--work",
        home / "work",
        "--model",
        "tiny",
        "--face-epochs",
        1,
        "--face-batch",
        16,
        "--voice-epochs",
        1,
        "--voice-batch",
        8,
        "--text-epochs",
        1,
        "--fusion-steps",
        20,
        "--fusion-batch",
        16,
        "--name",
        "again",
        home=home,
    )
    assert done.returncode == 0, done.stderr
    assert "fusion epoch 10/10" in done.stdout
    assert not any(f"{stage} epoch" in done.stdout for stage in ("face", "voice", "voice_statistics", "text"))
    first = checkpoint.load(name, home / "checkpoints").model.state_dict()
    second = checkpoint.load("again", home / "checkpoints").model.state_dict()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], atol=1e-4, rtol=1e-4)


def test_thresholds_are_fitted_again_and_nothing_else_changes(trained, corpora_folder, tmp_path):
    home, name = trained
    only = ("train", "--corpora", corpora_folder, "--work", home / "work", "--stage", "abstention")
    done = run(*only, "--init", name, "--name", "firmer", home=home)
    assert done.returncode == 0, done.stderr
    first, second = (checkpoint.folder_of(n, home / "checkpoints") for n in (name, "firmer"))
    for file in (checkpoint.WEIGHTS, exemplars.FILE):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    before, after = (checkpoint.read_meta(n, home / "checkpoints") for n in (name, "firmer"))
    assert after["id"] == "firmer"
    assert set(after["abstain"]["subsets"]) == set(before["abstain"]["subsets"])
    changed = {k for k in before if before[k] != after[k]}
    assert changed <= {"id", "created_at", "abstain"}
    refused = run(*only, home=home)
    assert refused.returncode == 2
    assert "--stage abstention stands alone, with --init" in refused.stderr


def test_training_from_a_corrected_checkpoint_dropped_what_people_corrected(trained, corpora_folder):
    home, name = trained
    served = checkpoint.load(name, home / "checkpoints")
    served.model.correct("voice")
    checkpoint.save(served.model, served.config, home / "checkpoints", {"parent": name}, name="corrected")
    done = run("train", "--corpora", corpora_folder, "--work", home / "other", "--init", "corrected", home=home)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        f"people corrected voice of corrected, as those branches are; start from {name}, then run retrain.py: it has "
        "all labels still"
    )


def test_what_was_trained_otherwise_or_not_at_all_is_refused(trained, corpora_folder, tmp_path):
    home, name = trained
    tiny = ("train", "--corpora", corpora_folder, "--model", "tiny")
    done = run(*tiny, "--work", home / "work", "--stage", "voice", "--voice-epochs", 2, "--voice-batch", 8, home=home)
    assert done.returncode == 1
    assert "voice.state.pt was made with other settings" in done.stderr
    done = run(*tiny, "--work", tmp_path, "--init", name, "--reset-branch", "voice", "--stage", "fusion", home=home)
    assert done.returncode == 1
    assert "voice.state.pt is missing; train the voice branch first" in done.stderr
    done = run("train", "--corpora", corpora_folder, "--work", home / "work", "--stage", "fusion", home=home)
    assert done.returncode == 1
    assert "face.state.pt holds a branch of another shape" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_branch_keeps_what_it_was_trained_with_and_its_prior_is_taken_once(trained, corpora_folder, tmp_path):
    """The text and face branches stay; of the voice, which learns, all of the start is kept."""
    home, name = trained
    done = run(
        "train",
        "--corpora",
        corpora_folder,
        "--work",
        tmp_path,
        "--model",
        "tiny",
        "--init",
        name,
        "--stage",
        "voice",
        "fusion",
        "--voice-epochs",
        1,
        "--voice-batch",
        16,
        "--init-share",
        1,
        "--fusion-steps",
        20,
        "--fusion-batch",
        16,
        "--name",
        "joined",
        home=home,
    )
    assert done.returncode == 0, done.stderr
    first, second = (checkpoint.load(n, home / "checkpoints") for n in (name, "joined"))
    for m in ("face", "text"):
        assert second.meta["stages"][m] == first.meta["stages"][m]
    assert [c.meta["training"]["voice_batch"] for c in (first, second)] == [8, 16]
    assert first.meta["training"]["face_batch"] == second.meta["training"]["face_batch"] == 16
    for part in ("encoders", "heads"):
        for key, value in getattr(first.model, part).named_parameters():
            assert torch.equal(getattr(second.model, part).get_parameter(key), value), key


def test_exemplars_written_again_were_of_a_corpus_that_had_not_taught(trained, corpora_folder):
    home, name = trained
    whole = checkpoint.load(name, home / "checkpoints")
    assert whole.meta["without"] == []
    less = checkpoint.save(whole.model, whole.config, home / "checkpoints", {**whole.meta, "without": ["meld"]})
    done = run("exemplars", "--corpora", corpora_folder, "--work", home / "work", "--checkpoint", less, home=home)
    assert done.returncode == 0, done.stderr
    before, after = (
        exemplars.load(checkpoint.folder_of(n, home / "checkpoints") / exemplars.FILE, whole.model).branches
        for n in (name, less)
    )
    assert set(before["text"].corpora) == {"goemotions", "meld"}
    assert set(after["text"].corpora) == {"goemotions"}
    for m in ("face", "voice"):
        assert (after[m].corpora, after[m].speakers) == (before[m].corpora, before[m].speakers), m
        torch.testing.assert_close(after[m].pooled, before[m].pooled, atol=1e-2, rtol=1e-2)


def test_fewer_faces_than_a_batch_learn_for_as_many_epochs_as_any(tmp_path):
    faces = Faces(
        torch.zeros(5, 48, 48, dtype=torch.uint8),
        torch.zeros(5, 52),
        torch.zeros(5, dtype=torch.bool),
        torch.eye(7)[:5],
    )
    train_face(EmotionModel(ModelConfig.tiny()), faces, TrainConfig(face_epochs=10), tmp_path)
    assert stage_settings(tmp_path / "face.state.pt")["face_epochs"] == 10


def test_imagenet_weights_are_read_and_what_is_none_is_refused(tmp_path):
    theirs, net = EfficientNetLite0().state_dict(), EfficientNetLite0()
    theirs["stem.weight"] = torch.ones(32, 3, 3, 3)
    torch.save(theirs, tmp_path / "lite0.pth")
    adopt_imagenet(net, str(tmp_path / "lite0.pth"))
    assert (net.stem.weight == 3).all()
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(TrainingError, match="does not hold EfficientNet-Lite0's weights: .* tensors are needed, 1"):
        adopt_imagenet(net, str(tmp_path / "other.pth"))
    with pytest.raises(TrainingError, match="text.pth is not a file of PyTorch weights"):
        adopt_imagenet(net, str(tmp_path / "text.pth"))
    with pytest.raises(TrainingError, match="cannot be had.*nowhere"):
        adopt_imagenet(net, str(tmp_path / "nowhere.pth"))


def test_the_stream_from_imagenet_learns_alone_and_its_share_is_the_likeliest(tmp_path):
    torch.manual_seed(0)
    model = EmotionModel(replace(ModelConfig.tiny(), face_imagenet=True))
    images = torch.zeros(32, 48, 48, dtype=torch.uint8)
    images[:16, :24], images[16:, 24:] = 200, 200  # bright above, bright below
    targets = torch.eye(7)[[0] * 16 + [1] * 16]
    faces = Faces(images, torch.zeros(32, 52), torch.zeros(32, dtype=torch.bool), targets)
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("encoders.face.imagenet.")}
    config = TrainConfig(face_imagenet_epochs=3, face_batch=8, average=0.0)
    train_imagenet(model, faces, config, tmp_path)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert stage_settings(tmp_path / "face_imagenet.state.pt")["face_imagenet_epochs"] == 3
    encoder, head = model.encoders["face"], model.heads["face"]
    beside = targets @ torch.linalg.pinv(head[1].weight.detach()).T * 5  # the stream is right, its own is noise
    found = choose_rest(
        encoder.imagenet, encoder.imagenet.embed[1], head, own=torch.randn(32, 16), beside=beside, targets=targets
    )
    assert (found["rest"], float(encoder.imagenet.rest)) == (0.0, 0.0)
    found = choose_rest(
        encoder.imagenet, encoder.imagenet.embed[1], head, own=beside, beside=torch.randn(32, 16), targets=targets
    )
    assert found["rest"] == 1.0
    assert encoder.imagenet.rest > 0


def test_raters_votes_are_a_share_of_the_target_where_there_are_any():
    voted = Row(("fear",), votes=(0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0))
    targets = targets_of([voted, Row(("anger",))], votes=0.4)
    torch.testing.assert_close(targets[0], torch.tensor([0.0, 0.0, 0.8, 0.0, 0.0, 0.2, 0.0]))
    torch.testing.assert_close(targets[1], torch.eye(7)[0])


def test_nobody_else_talks_behind_a_speaker_of_a_split():
    from training.data.voice_views import crowds, views

    samples = [np.full(4000, v, np.float32) for v in (0.1, 0.2, 0.3)]
    behind = crowds(samples, ["ann", "bo", "ann"])
    assert [[float(x[0]) for x in crowd] for crowd in behind] == [
        [pytest.approx(0.1), pytest.approx(0.3)],
        [pytest.approx(0.2)],
        [pytest.approx(0.1), pytest.approx(0.3)],
    ]
    again = [list(views(samples[0], behind[0], 2)) for _ in range(2)]
    for first, second in zip(*again, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_report_tells_agreement_with_what_most_raters_saw():
    from training.experiments.evaluation import report

    seen = (
        (0.1, 0.0, 0.8, 0.0, 0.0, 0.1, 0.0),  # fear, as answered
        (0.0, 0.0, 0.0, 0.9, 0.1, 0.0, 0.0),  # happiness; sadness was answered, as the label says
        (0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0),  # no majority
        (),  # nobody voted
    )
    rows = [
        Row((label,), votes=votes) for label, votes in zip(("anger", "sadness", "anger", "anger"), seen, strict=True)
    ]
    answers = np.eye(7)[[EMOTIONS.index(e) for e in ("fear", "sadness", "anger", "anger")]] * 0.94 + 0.01
    found = report(rows, answers / answers.sum(1, keepdims=True), [], "some")
    assert found["accuracy"] == 0.75
    assert (found["majority"]["n"], found["majority"]["accuracy"]) == (2, 0.5)
    assert report(rows[3:], answers[3:], [], "some")["majority"] is None


def test_evaluate_reports_what_the_contract_says(trained, corpora_folder, tmp_path):
    home, name = trained
    for corpus, rows in corpora.read_all(corpora_folder, tmp_path / "images").items():
        manifest.write(tmp_path / f"{corpus}.csv", [r for r in rows if r.split == "val"])
    lines = (tmp_path / "ravdess.csv").read_text().splitlines()
    (tmp_path / "broken.wav").write_text("this is no sound")
    (tmp_path / "ravdess.csv").write_text("\n".join([*lines, "broken.wav,,,,anger,x,ravdess,val,"]) + "\n")
    done = run(
        "evaluate",
        "--manifest",
        tmp_path / "ravdess.csv",
        "--report",
        tmp_path / "r.json",
        "--checkpoint",
        name,
        "--modalities",
        "voice",
        "--figures",
        tmp_path / "figures",
        home=home,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["n"] == 8
    assert found["failed"] == 1
    assert "broken.wav" in found["failures"][0]
    assert found["checkpoint"] == name
    assert set(found["by_corpus"]) == {"ravdess"}
    assert set(found["per_class"]) == set(EMOTIONS)
    assert found["per_class"]["neutral"]["n"] == 2
    table = np.array(found["confusion"])
    assert table.sum() == 8
    assert found["accuracy"] == pytest.approx(np.trace(table) / 8)
    assert set(found["ci95"]) == {"uar", "accuracy"}
    assert found["by_group"]["female"]["n"] == 8  # actor 2
    assert found["risk_coverage"][-1]["coverage"] == 1.0
    assert found["risk_coverage"][-1]["risk"] == pytest.approx(1 - found["accuracy"], abs=1e-4)
    for name in found["figures"]:
        with Image.open(tmp_path / "figures" / name) as picture:
            assert min(picture.size) > 300


def test_evaluating_nothing_says_why(trained, tmp_path):
    home, name = trained
    (tmp_path / "m.csv").write_text("path,text,label\nnowhere.wav,,anger\n")
    done = run(
        "evaluate", "--manifest", tmp_path / "m.csv", "--report", tmp_path / "r.json", "--checkpoint", name, home=home
    )
    assert done.returncode == 1
    assert "nowhere.wav does not exist" in done.stderr
    assert "has no row that can be evaluated" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.json").exists()


def test_a_folder_without_corpora_is_refused_in_one_line(tmp_path):
    done = run("train", "--corpora", tmp_path, "--work", tmp_path / "work", home=tmp_path)
    assert done.returncode == 1
    assert "holds none of RAVDESS, EMO-DB, FER2013, MELD, GoEmotions" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_branch_whose_corpora_are_all_left_out_is_refused(corpora_folder, tmp_path):
    arguments = ("--corpora", corpora_folder, "--work", tmp_path / "work", "--model", "tiny", "--stage", "voice")
    done = run("train", *arguments, "--without", "ravdess", "emodb", home=tmp_path)
    assert done.returncode == 1
    assert "the voice branch could learn from; it needs ravdess or emodb or nemo" in done.stderr
    assert "Traceback" not in done.stderr


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 6])
def test_the_language_models_last_layers_give_its_end_before_they_are_trained(text_encoder, n):
    whole, below = LanguageModel(text_encoder), LanguageModel(text_encoder, without=n)
    encoder = TextEncoder(replace(ModelConfig.tiny(), text_layers=n)).eval()
    adopt_layers(encoder, text_encoder)
    ids, mask = whole.tokenize(["I am so happy today!", "no"])
    states = below.states(ids, mask)
    assert states.shape == (2, ids.shape[1], 384)
    found = encoder.layers(states, src_key_padding_mask=~mask)
    torch.testing.assert_close(found[mask], whole.states(ids, mask)[mask], atol=1e-4, rtol=1e-4)


def test_layers_that_others_trained_move_less_than_what_is_new():
    def rates(n: int) -> list[float]:
        model = EmotionModel(replace(ModelConfig.tiny(), text_layers=n))
        return [group["lr"] for group in text_rates(branch_module(model, "text"), TrainConfig())]

    assert set(rates(0)) == {TrainConfig().text_lr}
    found = rates(6)
    assert found == sorted(found)
    assert found[-1] == TrainConfig().text_lr
    assert found[0] < 5e-5 < found[5] < 2e-4  # MiniLM's first and last layer


def test_of_a_corpus_that_only_teaches_an_epoch_draws_a_share():
    rows = [Row(("fear",), text=f"{i}", corpus=c) for c, n in (("xed", 50), ("goemotions", 20)) for i in range(n)]
    g = torch.Generator().manual_seed(0)
    first, second = (text_epoch(rows, 0.3, g).tolist() for _ in range(2))
    for drawn in (first, second):
        assert len(set(drawn)) == len(drawn) == 20 + 15
        assert set(range(50, 70)) <= set(drawn)
    assert set(first) != set(second)
    assert text_epoch(rows, 0.0, g).tolist() == list(range(50, 70))
    assert sorted(text_epoch(rows, 1.0, g).tolist()) == list(range(70))


def test_lines_that_were_collected_by_emotion_teach_no_prior():
    def lines(corpus: str, **counts: int) -> list[Row]:
        return [Row((e,), text=f"{e} {i}", corpus=corpus) for e, n in counts.items() for i in range(n)]

    usual = lines("goemotions", neutral=60, happiness=30, fear=10)
    films = lines("xed", neutral=20, fear=20)
    found = text_priors([*usual, *films], 0.4)
    neutral, fear = EMOTIONS.index("neutral"), EMOTIONS.index("fear")
    # What is right for a sentence of unknown corpus with this likelihood ratio has the same logits in both.
    ratio = math.log(3.0)
    gap = ratio + math.log(60 / 10) - 0.4 * math.log(60 / 10)  # what is learned from GoEmotions
    assert found[0][neutral] - found[0][fear] == pytest.approx(0.4 * math.log(60 / 10))
    assert gap + float(found[-1][neutral] - found[-1][fear]) == pytest.approx(ratio + math.log(20 / 20))
