import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmer import checkpoint, versions
from mmer.config import Config, ModelConfig
from mmer.errors import CheckpointError
from mmer.hashing import content_hash
from tests.test_model import make_batch, make_model

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Config(model=ModelConfig.tiny())
# meta.json as the first release wrote it, for the small model.
FIRST_META = {
    "id": "first",
    "created_at": "2026-11-20T10:00:00+00:00",
    "emotions": ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"],
    "config": {
        "media": {"max_bytes": 524288000, "max_seconds": 600.0, "max_pixels": 8294400},
        "face": {"fps": 5.0, "crop_size": 48, "max_faces": 4, "left_eye": [0.325, 0.39]},
        "voice": {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64},
        "model": {
            "face_widths": [8, 16],
            "face_blocks": [1, 1],
            "voice_widths": [8, 16],
            "voice_blocks": [1, 1],
            "text_input": 384,
            "text_channels": 8,
            "text_widths": [1, 3, 5],
            "text_hidden": 8,
            "state": 16,
            "fusion": 16,
            "fusion_heads": 2,
            "dropout": 0.0,
            "skip": True,
            "n_blendshapes": 52,
            "max_crops": 8,
        },
    },
    "parent": None,
}


def saved(root, seed=0, **meta) -> str:
    return checkpoint.save(make_model(seed=seed), CONFIG, root, {"parent": "base", **meta})


def test_a_saved_checkpoint_answers_the_same(tmp_path):
    model = make_model()
    model.temperatures[0] = 1.7
    name = checkpoint.save(model, CONFIG, tmp_path, {"parent": None, "seed": 3})
    loaded = checkpoint.load(name, tmp_path)
    batch = make_batch(2)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)
    assert loaded.config == CONFIG
    assert loaded.meta["seed"] == 3
    assert loaded.meta["emotions"] == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    assert checkpoint.listing(tmp_path) == [name]


def test_a_checkpoint_from_before_a_choice_was_there_is_built_as_it_was(tmp_path):
    old = replace(ModelConfig.tiny(), voice_statistics=0, face_stride=1)
    model = make_model(old)
    name = checkpoint.save(model, Config(model=old), tmp_path, {"parent": None})
    note = tmp_path / name / "meta.json"
    meta = json.loads(note.read_text())
    for choice in ("voice_statistics", "face_stride", "text_layers"):
        del meta["config"]["model"][choice]
    note.write_text(json.dumps(meta))
    loaded, batch = checkpoint.load(name, tmp_path), make_batch(2)
    assert loaded.config.model == old
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)


def test_a_checkpoint_whose_text_branch_had_its_two_layers_under_a_former_name_opens(tmp_path):
    tuned = replace(ModelConfig.tiny(), text_layers=2)
    model = make_model(tuned)
    name = checkpoint.save(model, Config(model=tuned), tmp_path, {"parent": None})
    note = tmp_path / name / "meta.json"
    meta = json.loads(note.read_text())
    del meta["config"]["model"]["text_layers"]
    meta["config"]["model"]["text_tuned"] = True
    note.write_text(json.dumps(meta))
    loaded, batch = checkpoint.load(name, tmp_path), make_batch(2)
    assert loaded.config.model == tuned
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)


def test_a_checkpoint_of_the_first_release_opens(tmp_path):
    """Its meta.json knows neither the weights' hash nor the settings that came later."""
    built = replace(ModelConfig.tiny(), voice_statistics=0, face_stride=1)
    model = make_model(built)
    (tmp_path / "first").mkdir()
    save_file(model.state_dict(), tmp_path / "first" / "model.safetensors")
    (tmp_path / "first" / "meta.json").write_text(json.dumps(FIRST_META))
    loaded, batch = checkpoint.load("first", tmp_path), make_batch(2)
    assert loaded.config == Config(model=built)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)


def test_the_shipped_checkpoint_opens_with_its_own_weights(tmp_path):
    loaded = checkpoint.load("base", tmp_path)
    assert loaded.meta["weights_sha256"] == content_hash(loaded.folder / "model.safetensors")
    assert repr(loaded) == f"Checkpoint(id='base', folder={loaded.folder!r})"


def test_weights_that_half_precision_holds_take_half_the_bytes(tmp_path):
    model = make_model()
    whole = tmp_path / checkpoint.save(model, CONFIG, tmp_path, {"parent": None}) / "model.safetensors"
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half())
    name = checkpoint.save(model, CONFIG, tmp_path, {"parent": None})
    assert (tmp_path / name / "model.safetensors").stat().st_size < 0.7 * whole.stat().st_size
    for key, value in checkpoint.load(name, tmp_path).model.state_dict().items():
        assert value.dtype == model.state_dict()[key].dtype
        assert torch.equal(value, model.state_dict()[key])


def test_promote_and_roll_back(tmp_path):
    assert checkpoint.promoted(tmp_path) == "base"
    first = saved(tmp_path)
    second = checkpoint.save(make_model(seed=1), CONFIG, tmp_path, {"parent": first})
    checkpoint.promote(first, tmp_path)
    checkpoint.promote(second, tmp_path)
    assert checkpoint.promoted(tmp_path) == second
    assert checkpoint.roll_back(tmp_path) == first
    assert checkpoint.promoted(tmp_path) == first


def test_what_is_not_there_cannot_be_promoted(tmp_path):
    with pytest.raises(CheckpointError, match=r"'nonsense' is not in .*; there are base"):
        checkpoint.promote("nonsense", tmp_path)
    assert checkpoint.promoted(tmp_path) == "base"


def test_a_checkpoint_without_meta_is_not_listed(tmp_path):
    """meta.json is written last, so a folder without it is a save that was cut off."""
    name = saved(tmp_path)
    (tmp_path / name / "meta.json").unlink()
    assert checkpoint.listing(tmp_path) == []


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(make_model(), CONFIG, tmp_path, {"parent": {1, 2}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["weights", "other weights", "no weights", "meta", "no object", "emotions"])
def test_a_damaged_checkpoint_says_so_in_one_line(tmp_path, damage):
    name = saved(tmp_path)
    meta = tmp_path / name / "meta.json"
    if damage == "weights":
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other weights":  # of the same shape: only their hash tells
        other = saved(tmp_path, seed=1)
        os.replace(tmp_path / other / "model.safetensors", tmp_path / name / "model.safetensors")
    elif damage == "no weights":
        (tmp_path / name / "model.safetensors").unlink()
    elif damage == "meta":
        meta.write_text("{")
    elif damage == "no object":
        meta.write_text("[]")
    else:
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "emotions": ["joy"]}))
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        checkpoint.load(name, tmp_path)
    assert caught.value.code == "bad_checkpoint"
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message  # visitors of the page read it


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "MMER_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "mmer", "checkpoint", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_lists_shows_promotes_and_rolls_back(tmp_path):
    root = tmp_path / "checkpoints"
    first = checkpoint.save(make_model(), CONFIG, root, {"parent": "base"}, name="first")
    tables = {"held_out": {"served": {"uar": 0.5}, "new": {"uar": 0.612}}}
    second = checkpoint.save(make_model(), CONFIG, root, {"parent": first, "metrics": tables}, name="second")
    people = {"people": {"served": {"uar": 0.5}, "new": {"uar": 0.75}}, "strangers": None}
    data = {"train": {"clips": 40, "speakers": 3, "labels": 52}, "held_out": {"clips": 9, "speakers": 2, "labels": 9}}
    checkpoint.save(make_model(), CONFIG, root, {"parent": first, "metrics": people, "data": data}, name="third")
    done = command(tmp_path, "promote", second)
    assert (done.returncode, done.stdout) == (0, "second serves; before it did base\n")
    base, one, two, three = command(tmp_path, "list").stdout.splitlines()
    assert base.startswith("  base")
    assert "learned from 24482 faces, 1945 voices, " in base
    assert one.startswith("  first  ")
    assert one.endswith("from base  no figures")
    assert two.startswith("* second  ")
    (put,) = versions.promotions(root)
    assert put.by
    assert two.endswith(f"from first  UAR 0.612 (new)  put in use {put.at} by {put.by}")
    assert three.endswith(
        "UAR 0.500 -> 0.750 for people who were labelled  learned from 52 labels of 40 clips and 3 speakers"
    )
    shown = json.loads(command(tmp_path, "show").stdout)
    assert shown["id"] == second
    assert shown["promotions"] == [{"at": put.at, "by": put.by, "before": "base"}]
    assert command(tmp_path, "rollback").stdout == "first serves again; before it did second\n"
    assert checkpoint.promoted(root) == first
    log = [json.loads(line) for line in (root / "promotions.jsonl").read_text().splitlines()]
    assert [(e["before"], e["checkpoint"]) for e in log] == [("base", "second"), ("second", "first")]
    assert all(e["by"] and e["at"] for e in log)


def test_the_command_line_promotes_nothing_that_cannot_be_read(tmp_path):
    name = saved(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / name / "model.safetensors").write_bytes(b"no weights")
    done = command(tmp_path, "promote", name)
    assert done.returncode == 2
    assert "the sha256 differs" in done.stderr
    assert checkpoint.promoted(tmp_path / "checkpoints") == "base"
    (tmp_path / "checkpoints" / name / "meta.json").write_text("{")
    listed = command(tmp_path, "list")
    assert listed.returncode == 0
    assert "cannot be used" in listed.stdout


def test_a_line_of_the_log_that_was_cut_off_hides_no_other(tmp_path):
    name = saved(tmp_path)
    checkpoint.promote(name, tmp_path, by="ada")
    with (tmp_path / "promotions.jsonl").open("a") as log:
        log.write('{"at": "2026-')
    assert [(p.by, p.checkpoint) for p in versions.promotions(tmp_path)] == [("ada", name)]
