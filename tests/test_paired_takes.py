"""Face and voice of the same takes: who taught what, and what true pairs teach that label-matched ones do not."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer import checkpoint
from mmer.config import Config, ModelConfig
from mmer.errors import TrainingError
from mmer.labels import EMOTIONS, MODALITIES, RAVDESS_CODES
from mmer.labels import emotion as named
from mmer.metrics import bootstrap_gain
from mmer.model import BranchStates, EmotionModel
from mmer.speech import Transcriber
from tests import synth
from tests.test_speech import checkpoint as whisper_checkpoint
from training.data.action_units import ravdess_action_units, take_of
from training.experiments.paired_fusion import PairedTakes, Weighted, attention, page
from training.experiments.paired_takes import (
    Faces,
    Regression,
    Takes,
    actor_folds,
    fit_layer,
    fit_regression,
    matched,
    out_of_fold,
    read,
)
from training.learn import exemplars
from training.learn.config import TrainConfig
from training.learn.fusion import Encoded

ACTORS = (1, 2, 3, 4, 5, 7, 8, 9, 10)  # 2 validates


def takes(emotion: float = 6.0, who: float = 0.0, n_actors: int = 8, each: int = 14) -> Takes:
    """Return takes whose action units say the emotion and who it is, each as loud as given."""
    g = torch.Generator().manual_seed(0)
    label = torch.arange(n_actors * each) % 7
    actor = torch.arange(n_actors * each) // each
    units = torch.randn(len(label), 70, generator=g)
    units[torch.arange(len(label)), label] += emotion
    units[torch.arange(len(label)), 20 + actor] += who
    parts = np.array(["val" if a == 0 else "calibration" if a == 1 else "train" for a in actor.tolist()])
    return Takes([], units, torch.eye(7)[label], np.array([f"ravdess-{a:02d}" for a in actor.tolist()]), parts)


def encoded(logits: torch.Tensor, targets: torch.Tensor) -> Encoded:
    top = torch.randn(len(logits), 16, generator=torch.Generator().manual_seed(1))
    return Encoded(top, top, logits, targets, top)


def table(folder: Path, takes: list[str]) -> None:
    """Write action units as their authors publish them; the strength of one says the emotion."""
    folder.mkdir(parents=True, exist_ok=True)
    units = [f"AU{i:02d}_r" for i in range(1, 18)] + [f"AU{i:02d}_c" for i in range(1, 19)]
    lines = ["clip,actor,emotion," + ",".join(units)]
    for name in takes:
        values = ["0.1"] * len(units)
        values[EMOTIONS.index(named(RAVDESS_CODES[name[:2]]))] = "2.5"
        lines.append(f"01-01-{name},{name[-2:]},{name[:2]}," + ",".join(values))
    lines.append(f"01-02-{takes[0]},01,01," + ",".join(["9"] * len(units)))  # song
    (folder / "units.csv").write_text("\n".join(lines) + "\n")


def test_a_take_is_found_by_what_its_files_share(tmp_path):
    table(tmp_path, ["05-01-01-02-03", "08-02-02-01-04"])
    found = ravdess_action_units(tmp_path)
    assert set(found) == {take_of("03-01-05-01-01-02-03"), take_of("02-01-08-02-02-01-04")}  # and no song
    assert len(found["05-01-01-02-03"]) == 35
    assert found["08-02-02-01-04"][EMOTIONS.index("surprise")] == 2.5
    with pytest.raises(TrainingError, match="has no table of action units of RAVDESS; one with the columns clip"):
        ravdess_action_units(tmp_path / "elsewhere")


def test_label_matched_pairs_have_one_label_and_never_one_take():
    here = takes()
    for where in (here.where("val"), here.where("train")):
        faces, voices = matched(here, where, 0)
        label = here.targets.argmax(1).numpy()
        assert (label[faces] == label[voices]).all()
        assert (faces != voices).all()
        assert where[faces].all()
        assert set(voices) == set(np.flatnonzero(where))


def test_no_actor_teaches_the_model_that_answers_for_them():
    """Each actor has an emotion of their own here: only who learned from an actor can say it."""
    here = takes(0.0, 20.0)
    targets = torch.eye(7)[torch.arange(8).repeat_interleave(14) % 7]

    def fit(x: torch.Tensor, targets: torch.Tensor) -> Regression:
        return fit_regression(x, targets, 0.001)

    right = fit(here.units, targets)(here.units).argmax(1) == targets.argmax(1)
    crossed = out_of_fold(here.units, targets, here.actors, fit).argmax(1) == targets.argmax(1)
    assert right.float().mean() == 1
    assert crossed.float().mean() < 0.3
    assert sum(fold.astype(int) for fold in actor_folds(here.actors)).tolist() == [1] * len(here.actors)


def test_the_stand_in_face_learns_from_training_actors_alone():
    here = takes()
    before = Faces(here, 16)
    others = ~here.where("train")
    assert (before.states.logits.argmax(1) == here.targets.argmax(1))[others].float().mean() > 0.8
    here.targets[others] = here.targets[others].roll(1, 1)  # other labels for those who are measured
    assert torch.equal(Faces(here, 16).states.logits, before.states.logits)


def test_true_pairs_teach_that_two_experts_who_err_together_count_once():
    """The face says what the voice says: from pairs of other takes each looks like news."""
    g = torch.Generator().manual_seed(0)
    label = torch.randint(7, (2000,), generator=g)
    targets = torch.eye(7)[label]
    logits = 2 * targets + torch.randn(2000, 7, generator=g)
    logits = logits / 1.0
    weights = {}
    for kind in ("true", "matched"):
        other = torch.arange(2000)
        if kind == "matched":
            for k in range(7):
                own = torch.nonzero(label == k).flatten()
                other[own] = own[torch.randperm(len(own), generator=g)]
        layer = Weighted()
        fit_layer(layer, torch.cat([logits[other], logits], 1).log_softmax(1), targets, 0.0)
        weights[kind] = float(layer.weights.sum())
    assert weights["matched"] > 1.8 * weights["true"]


def test_the_attention_over_a_face_and_a_voice_is_the_models_own():
    torch.manual_seed(0)
    model = EmotionModel(ModelConfig.tiny()).eval()
    torch.nn.init.normal_(model.fusion.correct.weight)
    sizes, targets = model.middle_sizes, torch.eye(7)[:5]
    g = torch.Generator().manual_seed(0)
    face, voice = (
        Encoded(
            torch.randn(5, c, generator=g),
            torch.randn(5, 32, generator=g)[:, : model.config.state],
            torch.randn(5, 7, generator=g),
            targets,
            targets,
        )
        for c in sizes[:2]
    )
    nothing = torch.zeros(5, model.config.state)
    states = BranchStates(
        (face.middle, voice.middle, torch.zeros(5, sizes[2])),
        torch.stack([face.top, voice.top, nothing], 1),
        torch.stack([face.logits, voice.logits, torch.zeros(5, 7)], 1),
    )
    present = torch.tensor([[True, True, False]]).repeat(5, 1)
    assert torch.allclose(attention(model.fusion)(face, voice), model.fuse(states, present).logits)


def test_a_gain_has_an_interval_over_the_same_speakers():
    truth, groups = np.arange(12) % 3, ["a", "b", "c", "d"] * 3
    assert bootstrap_gain(truth, truth, truth, groups, n_classes=3) == {"uar": [0, 0], "accuracy": [0, 0]}
    assert bootstrap_gain(truth, truth, (truth + 1) % 3, groups, n_classes=3)["accuracy"] == [1, 1]


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """What the whole measurement finds with a tiny, untrained model: (report, folder of the corpora)."""
    root = tmp_path_factory.mktemp("paired")
    names = [f"{code}-01-01-01-{a:02d}" for a in ACTORS for code in RAVDESS_CODES]
    table(root / "corpora", names)
    for name in names:
        path = root / "corpora" / f"Actor_{name[-2:]}" / f"03-01-{name}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as f:
            f.setparams((1, 2, 16_000, 0, "NONE", ""))
            f.writeframes((synth.voice(0.6, pitch_hz=90 + 20 * int(name[:2])) * 32767).astype("<i2").tobytes())
    torch.manual_seed(0)
    shape = ModelConfig.tiny()
    shape = type(shape)(**{**vars(shape), "whisper_depths": 2, "whisper_width": 32})
    model = EmotionModel(shape).eval()
    kept = {}
    for i, m in enumerate(MODALITIES):
        targets = torch.eye(7).repeat(4, 1)
        kept[m] = exemplars.Exemplar(
            torch.randn(28, model.middle_sizes[i]),
            torch.randn(28, model.pooled_sizes[i]).abs(),
            targets,
            ("c",) * 28,
            ("",) * 28,
            torch.ones(28, dtype=torch.bool),
        )
    served = checkpoint.Checkpoint("tiny", root, model, Config(model=shape), {})
    found = PairedTakes(
        root / "corpora",
        served,
        exemplars.Exemplars(kept),
        Transcriber(str(whisper_checkpoint(root / "whisper.pt"))),
        TrainConfig(voice_whisper_epochs=1, fusion_steps=10, fusion_batch=16),
        root / "out",
    ).report()
    return found, root / "corpora"


def test_every_fusion_is_measured_on_the_takes_of_validation_actors_alone(paired):
    found, folder = paired
    assert found["actors"]["val"] == ["ravdess-02"]
    assert len(found["actors"]["calibration"]) == 1
    assert not set(found["actors"]["train"]) & set(found["actors"]["calibration"])
    parts = {k: v for k, v in found["validation"].items() if k != "errors"}
    assert {"voice", "face", "product of calibrated experts", "weights, true pairs"} <= set(parts)
    assert all(part["paired"]["n"] == 8 for part in parts.values())
    assert parts["face"]["paired"]["uar"] == 1  # one unit says the emotion
    assert found["others"]["voice"]["n"] == 64
    gain = parts["product of calibrated experts"]["paired"]
    assert gain["gain"]["uar"] == pytest.approx(gain["uar"] - parts["voice"]["paired"]["uar"])
    assert json.loads(json.dumps(found)) == found
    text = page(found)
    assert "| product of calibrated experts | " in text
    assert len(read(folder).rows) == 72
