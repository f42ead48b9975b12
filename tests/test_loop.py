"""The training loop: resumed after a kill, averaged, thawed from the head down, shared by several processes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mmer import checkpoint
from mmer.config import Config, ModelConfig
from mmer.errors import TrainingError
from mmer.model import EmotionModel
from tests.test_model import make_model
from training.learn.branches import branch_module
from training.learn.config import PRECISIONS, TrainConfig, settings_of, with_current_names
from training.learn.loop import depths, fit, layerwise, stage_settings, stage_weights, thaw
from training.learn.warm_start import between, shape_of, start_from

ROOT = Path(__file__).resolve().parent.parent

# Trains a tiny text branch for two epochs on 22 sentences in batches of 5, which two processes cannot share evenly, and
# notes which rows each process saw. With a second argument it is killed, without warning, in the second epoch, of which
# it has saved every batch if the argument is "saved".
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from tests.test_model import make_model
from training.learn.config import PRECISIONS, TrainConfig, settings_of, with_current_names
from training.learn.loop import fit
from training.learn.losses import soft_cross_entropy
from training.learn.branches import branch_module

work = Path(sys.argv[1])
torch.set_num_threads(1)
module = branch_module(make_model(), "text")
module["watch"] = torch.nn.BatchNorm1d(384)  # sees the states and changes nothing
g = torch.Generator().manual_seed(1)
states, targets, row = torch.randn(22, 6, 384, generator=g), torch.eye(7)[torch.arange(22) % 7], torch.arange(22)
seen = []

def batches(epoch):
    order = torch.randperm(22, generator=torch.Generator().manual_seed(epoch))
    for i, index in enumerate(order.split(5)):
        if len(sys.argv) > 2 and (epoch, i) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        yield states[index], torch.ones(len(index), 6, dtype=torch.bool), targets[index], row[index]

def loss_of(states, mask, targets, row):
    seen.append(row.tolist())
    module["watch"](states.flatten(0, 1))
    return soft_cross_entropy(module["head"](module["encoder"](states, mask).top), targets)

optimizer = torch.optim.SGD(module.parameters(), 0.5, 0.9)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10)
minutes = 0.0 if "saved" in sys.argv else 5.0
fit("text", module, optimizer, scheduler, batches, loss_of, epochs=2, work=work, average=0.9, save_minutes=minutes)
torch.save({"module": module.state_dict(), "seen": seen}, work / f"result-{os.environ.get('RANK', '0')}.pt")
"""


def train(work: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    work.mkdir(exist_ok=True)
    script = work / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(work), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict:
    work = tmp_path_factory.mktemp("one")
    done = train(work)
    assert done.returncode == 0, done.stderr
    return torch.load(work / "result-0.pt")


@pytest.mark.parametrize(("how", "left"), [("killed", 5), ("saved", 3)])
def test_a_run_killed_in_an_epoch_ends_where_an_undisturbed_one_does(one_process, tmp_path, how, left):
    assert train(tmp_path, how).returncode == -9
    assert torch.load(tmp_path / "text.state.pt")["epoch"] == 0
    done = train(tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "result-0.pt")
    assert found["seen"] == one_process["seen"][-left:]  # of the second epoch, what was not saved
    for key, value in one_process["module"].items():
        torch.testing.assert_close(found["module"][key], value, msg=key)


def test_two_processes_learn_what_one_does_and_share_the_examples(one_process, tmp_path):
    launcher = (
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    )
    done = train(tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"result-{rank}.pt") for rank in (0, 1))
    for whole, a, b in zip(one_process["seen"], first["seen"], second["seen"], strict=True):
        assert sorted(a + b) == sorted(whole)  # each row once
    for key, value in one_process["module"].items():
        near = {"atol": 0.05, "rtol": 0.05} if key.startswith("watch") else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(first["module"][key], value, **near, msg=key)  # a batch norm sees its process' rows
        torch.testing.assert_close(second["module"][key], first["module"][key], msg=key)


def test_a_stage_ends_with_the_average_of_its_weights(tmp_path):
    """One weight that moves by 1 a step: 1, 2, 3 averaged with decay 0.5 from the first are 1, 1.5, 2.25."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    fit(
        "line",
        module,
        optimizer,
        scheduler,
        lambda epoch: [(torch.ones(1, 1),)] * 3,
        lambda x: -module(x).mean(),
        epochs=1,
        work=tmp_path,
        average=0.5,
    )
    assert module.weight.item() == pytest.approx(2.25)
    assert float(stage_weights(tmp_path / "line.state.pt")["weight"]) == pytest.approx(2.25)


def fit_line(work: Path, epochs: int = 2, **options) -> float:
    """Let one weight move by 1 a step, two steps an epoch; return where it ends."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    data = options.pop("data", (torch.ones(2, 1),))
    fit(
        "line",
        module,
        optimizer,
        scheduler,
        lambda epoch: [(torch.ones(1, 1),)] * 2,
        lambda x: -module(x).float().mean(),
        epochs=epochs,
        work=work,
        data=data,
        **options,
    )
    return module.weight.item()


def test_a_state_made_with_other_settings_or_data_is_refused_and_kept(tmp_path):
    first = {"settings": {"lr": 1.0}}
    assert fit_line(tmp_path, **first) == fit_line(tmp_path, **first) == 4.0
    assert stage_settings(tmp_path / "line.state.pt") == first["settings"]
    kept = (tmp_path / "line.state.pt").read_bytes()
    for other in ({"settings": {"lr": 2.0}}, first | {"epochs": 3}, first | {"data": (torch.zeros(2, 1),)}):
        with pytest.raises(TrainingError, match=r"line.state.pt was made with other settings, data or first weights"):
            fit_line(tmp_path, **other)
    assert (tmp_path / "line.state.pt").read_bytes() == kept


def test_stages_of_one_process_may_differ_in_precision(tmp_path):
    for precision in PRECISIONS:
        (tmp_path / precision).mkdir()
        assert 3.0 <= fit_line(tmp_path / precision, precision=precision) <= 4.0  # fp16 skips a step to find its scale


def test_who_is_killed_while_an_epoch_is_reported_has_it_reported_again(tmp_path):
    told = []

    def report(epoch: int) -> str:
        told.append(epoch)
        if told == [0, 1]:
            raise KeyboardInterrupt
        return ""

    with pytest.raises(KeyboardInterrupt):
        fit_line(tmp_path, report=report)
    assert fit_line(tmp_path, report=report) == 4.0
    assert told == [0, 1, 1]


@pytest.mark.parametrize("modality", ["face", "voice", "text"])
def test_the_deeper_a_layer_the_slower_it_learns_and_the_later_it_starts(modality):
    module = branch_module(make_model(), modality)
    groups = depths(module)
    assert sum(map(len, groups)) == len(list(module.parameters()))
    assert {id(p) for p in groups[-1]} == {id(p) for p in module["head"].parameters()}
    rates = [g["lr"] for g in layerwise(module, 1.0, 0.5)]
    assert rates == [0.5**i for i in reversed(range(len(groups)))]

    def learning(epoch: int) -> list[bool]:
        thaw(module, epoch, 2)
        return [all(p.requires_grad for p in part) for part in groups]

    assert learning(0) == [False] * (len(groups) - 1) + [True]
    assert any(learning(1)[:-1])
    assert not learning(1)[0]
    assert all(learning(2))


def test_training_starts_from_a_checkpoints_branches_but_not_from_its_fusion():
    new, old = make_model(seed=1), make_model(seed=2)
    fusion = {k: v.clone() for k, v in new.fusion.state_dict().items()}
    taken = start_from(new, old)
    assert len(taken) == len(old.encoders.state_dict()) + len(old.heads.state_dict())
    for key, value in old.encoders.state_dict().items():
        assert torch.equal(new.encoders.state_dict()[key], value)
    for key, value in fusion.items():
        assert torch.equal(new.fusion.state_dict()[key], value)


def test_what_has_another_shape_is_left_as_it_was():
    new, old = make_model(seed=1), EmotionModel()
    taken = start_from(new, old)
    assert 0 < len(taken) < len(old.encoders.state_dict())


def test_a_model_has_its_checkpoints_shape_but_for_the_branches_that_are_reset(tmp_path):
    tuned = replace(ModelConfig.tiny(), text_layers=2)
    name = checkpoint.save(make_model(tuned), Config(model=tuned), tmp_path, {"parent": None})
    loaded, usual = checkpoint.load(name, tmp_path), ModelConfig()
    assert shape_of(None, [], usual) == usual
    assert shape_of(loaded, [], usual) == tuned
    mixed = shape_of(loaded, ["face"], usual)
    assert mixed.face_widths == usual.face_widths
    assert (mixed.voice_widths, mixed.text_layers) == (tuned.voice_widths, 2)
    model = EmotionModel(shape_of(loaded, ["text"], tuned))
    first = {k: v.clone() for k, v in model.state_dict().items()}
    start_from(model, loaded.model, ["text"])
    theirs = loaded.model.state_dict()
    for key, value in model.state_dict().items():
        if key.startswith(("encoders.", "heads.")):
            assert torch.equal(value, first[key] if ".text." in key else theirs[key]), key


def test_weights_between_start_and_end_keep_their_share_of_the_start():
    learned, started = (
        {"w": torch.tensor([1.0]), "n": torch.tensor(7)},
        {"w": torch.tensor([3.0]), "n": torch.tensor(2)},
    )
    assert between(learned, started, 0.25)["w"].item() == pytest.approx(1.5)
    assert between(learned, started, 0.25)["n"].item() == 7
    assert torch.equal(between(learned, started, 0.0)["w"], learned["w"])
    assert between({"new": torch.ones(2)}, started, 0.25)["new"].tolist() == [1.0, 1.0]


def test_the_settings_of_a_checkpoint_older_than_a_renaming_are_read_under_todays_names():
    meta = json.loads((ROOT / "mmer" / "checkpoints" / "base" / "meta.json").read_text())
    training = with_current_names(meta["training"])
    assert set(training) <= set(asdict(TrainConfig()))
    assert training["speaker_augment_prob"] == 1.0
    assert training["voice_statistics_views"] == 6
    assert training["text_prior_restore"] == 0.2
    older = {"voice": {"voice_strange": 0.5, "voice_lr": 0.1}, "text": {"text_tuned": True}}
    assert with_current_names(older) == {"voice": {"speaker_augment_prob": 0.5, "voice_lr": 0.1}, "text": {}}


def test_a_setting_that_does_not_bear_its_branches_name_still_decides_what_that_branch_learns():
    assert "speaker_augment_prob" in settings_of("voice", TrainConfig())
    assert not {"speaker_augment_prob", "voice_lr"} & set(settings_of("face", TrainConfig()))
