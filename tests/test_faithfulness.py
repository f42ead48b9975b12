"""The table of faithfulness: what its columns mean, and a run of the command on a tiny model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer import checkpoint, face_map, word_map
from mmer.checkpoint import Checkpoint
from mmer.config import Config, ModelConfig
from mmer.errors import TrainingError
from mmer.face_map import FaceLogit
from mmer.features import LanguageModel
from mmer.target_logit import TargetLogit
from tests import synth
from tests.test_attribution import strong_model
from training.data import manifest
from training.data.manifest import Row
from training.experiments import planted_signals
from training.experiments.faithfulness import METHODS, best, interval, report, shuffled, spearman
from training.experiments.planted_signals import auroc
from training.faithfulness import main


def line(method: str, deletion: float, insertion: float, **others) -> dict:
    chance = {"random_deletion": 0.5, "random_insertion": 0.5, "centre_deletion": 0.4, "centre_insertion": 0.6}
    base = {"branch": "text", "method": method, "deletion": deletion, "insertion": insertion, **chance}
    return {**base, "delta": 0.01, "gap": 1.0, "verdict": "trustworthy", "seconds": 0.1, **others}


def test_gains_are_over_random_and_over_the_centre():
    found = report([line("occlusion", 0.2, 0.9), line("occlusion", 0.3, 0.7, verdict="weak", delta=0.03)])
    own = found["branches"]["text"]["occlusion"]
    assert own["n"] == 2
    assert own["deletion"] == pytest.approx(0.25)
    assert own["random_deletion"] == 0.5
    expected = {"deletion": 0.25, "insertion": 0.3, "centre_deletion": 0.15, "centre_insertion": 0.2}
    assert own["gain"] == pytest.approx(expected)
    assert own["ci95"]["deletion"] == pytest.approx([0.2, 0.3])  # of two clips any mean lies between them
    assert own["delta_median"] == pytest.approx(0.02)
    assert own["trustworthy"] == 0.5
    assert found["default"] == {"text": "occlusion"}


def test_the_default_is_the_best_that_adds_up():
    one_sided, even = [line("occlusion", 0.05, 0.55)], [line("two-way occlusion", 0.3, 0.7)]
    assert report(one_sided + even)["default"]["text"] == "two-way occlusion"  # 0.05 and 0.2 of gain at least
    astray = [line("integrated gradients", 0.0, 1.0, delta=0.2)]
    assert report(one_sided + even + astray)["default"]["text"] == "two-way occlusion"
    assert best(report(astray)["branches"]["text"]) == "integrated gradients"


def test_methods_are_compared_on_the_clips_that_all_of_them_had():
    """The default was measured on a hard clip more: on the first one it is the best all the same."""
    lines = [line("occlusion", 0.2, 0.8), line("two-way occlusion", 0.3, 0.7), line("occlusion", 0.9, 0.1)]
    found = report(lines)
    assert found["branches"]["text"]["occlusion"]["n"] == 2
    assert found["branches"]["text"]["occlusion"]["gain"]["deletion"] == pytest.approx(-0.05)
    assert found["default"]["text"] == "occlusion"


def test_the_interval_narrows_with_clips():
    few, many = (interval(np.tile([0.0, 1.0], n), seed=0) for n in (5, 500))
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(1000), rel=0.1)


def test_correlation_is_of_ranks():
    a = torch.tensor([1.0, 5.0, 2.0, 100.0])
    assert spearman(a, a.exp().log1p()) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, torch.ones(4)) == 0


def test_shuffled_weights_are_those_of_one_branch_and_the_same_numbers():
    model = strong_model()
    other = shuffled(model, "voice", 0)
    for name, weight in model.state_dict().items():
        moved = other.state_dict()[name]
        own = name.startswith(("encoders.voice.", "heads.voice."))
        if own and weight.ndim > 1 and name in dict(model.named_parameters()):
            assert not torch.equal(weight, moved)
            torch.testing.assert_close(weight.flatten().sort().values, moved.flatten().sort().values)
        else:
            assert torch.equal(weight, moved)


@pytest.fixture
def rows(tmp_path) -> Path:
    """A face that is a crop already, a voice and a sentence, and a row that cannot be read."""
    synth.write_image(tmp_path / "face.png", synth.face(smile=1.0, size=48))
    synth.write_clip(tmp_path / "voice.wav", seconds=1.5)
    (tmp_path / "noise.wav").write_bytes(b"no sound")
    some = [
        Row(("happiness",), tmp_path / "face.png", crop="face", corpus="drawn", split="val"),
        Row(("sadness",), tmp_path / "voice.wav", corpus="made", split="val"),
        Row(("anger",), text="you broke my favourite cup", corpus="typed", split="val"),
        Row(("anger",), tmp_path / "noise.wav", corpus="made", split="val"),
    ]
    manifest.write(tmp_path / "m.csv", some)
    return tmp_path / "m.csv"


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """A function that runs the command in this process and returns what it printed on stderr."""
    monkeypatch.setenv("MMER_HOME", str(tmp_path / "home"))

    def run(*args) -> str:
        monkeypatch.setattr(sys, "argv", ["faithfulness.py", *map(str, args)])
        assert main() == 0
        return capsys.readouterr().err

    return run


def test_the_command_writes_the_table_and_goes_on_where_it_was_stopped(rows, measured, tmp_path, text_encoder):
    home, model = tmp_path / "home", strong_model()
    name = checkpoint.save(model, Config(model=ModelConfig.tiny()), home / "checkpoints", {"parent": None}, name="tiny")
    checkpoint.promote(name, home / "checkpoints")
    command = ("--manifest", rows, "--report", tmp_path / "r.json", "--split", "val", "--checks", 9)
    assert "noise.wav" in measured(*command)
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["failed"] == 1
    assert set(found["default"]) == {"face", "voice", "text"}
    for branch, methods in found["branches"].items():
        assert set(methods) == set(METHODS[branch])
        for figures in methods.values():
            assert figures["n"] == figures["n_checked"] == 1
            for area in ("deletion", "insertion", "random_deletion", "centre_insertion"):
                assert 0 <= figures[area] <= 1
            assert set(figures["ci95"]) == {"deletion", "insertion", "centre_deletion", "centre_insertion"}
            assert figures["infidelity"] >= 0
            assert figures["sensitivity"] >= 0
            assert -1 <= figures["random_weights"] <= 1
    clips = (tmp_path / "r.clips.jsonl").read_text()
    assert clips.count("\n") == 3
    measured(*command)
    assert (tmp_path / "r.clips.jsonl").read_text() == clips
    assert json.loads((tmp_path / "r.json").read_text()) == found
    kept, cut = clips.splitlines()[:2], clips.splitlines()[2]
    (tmp_path / "r.clips.jsonl").write_text("\n".join([*kept, cut[: len(cut) // 2]]) + "\n")  # as a kill leaves it
    measured(*command)
    assert (tmp_path / "r.clips.jsonl").read_text().splitlines()[-1].startswith('{"clip"')
    measured("--manifest", rows, "--report", tmp_path / "few.json", "--compare", 0, "--checks", 0, "--longest", 1.0)
    few = json.loads((tmp_path / "few.json").read_text())
    assert {b: list(m) for b, m in few["branches"].items()} == {"face": [face_map.DEFAULT], "text": [word_map.DEFAULT]}
    assert few["left_out"] == 1  # the voice is longer than a second


def test_a_manifest_without_rows_of_the_split_is_refused(rows, measured, tmp_path):
    with pytest.raises(TrainingError, match="has no row to explain"):
        measured("--manifest", rows, "--report", tmp_path / "r.json", "--split", "test")


def test_the_area_under_the_curve_of_right_and_wrong():
    right = np.array([True, True, False, False])
    assert auroc(right, np.array([3.0, 2.0, 1.0, 0.0])) == 1
    assert auroc(right, np.array([1.0, 1.0, 1.0, 1.0])) == 0.5
    assert auroc(right, np.array([2.0, 0.0, 1.0, 1.0])) == 0.5
    assert auroc(right[:2], np.ones(2)) is None


def test_what_was_planted_is_where_it_was_planted():
    chance = np.random.default_rng(0)
    planted = planted_signals.face(True, chance, None)
    model = Checkpoint("t", Path(), strong_model(), planted_signals.CONFIG, {})
    logit = FaceLogit(TargetLogit(model, planted.features))
    where = planted_signals.inside(logit, planted)
    assert int(where.sum()) == 4
    crop = planted.features.face.crops[0, 0]
    edges = (crop[:, 1:] - crop[:, :-1]).abs()[:, :47]  # upright stripes change to the right
    busy = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(edges, (0, 1))[None], 8)[0].flatten()
    assert set(busy.topk(4).indices.tolist()) == set(where.nonzero().flatten().tolist())
    assert planted_signals.precision(where.float(), where) == 1
    assert planted_signals.precision(-where.float(), where) == 0


@pytest.mark.slow
def test_the_verdict_tells_right_maps_from_wrong_ones(text_encoder):
    found = planted_signals.measure(8, 0, LanguageModel(text_encoder))
    assert set(found) == {"face", "voice", "text"}
    for figures in found.values():
        assert figures["n_right"] >= 8
        assert figures["n_wrong"] >= 8
        assert figures["auroc_gain"] > 0.85
