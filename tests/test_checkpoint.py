import json
from dataclasses import replace

import pytest
import torch

from mmer import checkpoint
from mmer.config import Config, ModelConfig
from mmer.errors import CheckpointError
from tests.test_model import make_batch, make_model

CONFIG = Config(model=ModelConfig.tiny())


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
    for choice in ("voice_statistics", "face_stride"):
        del meta["config"]["model"][choice]
    note.write_text(json.dumps(meta))
    loaded, batch = checkpoint.load(name, tmp_path), make_batch(2)
    assert loaded.config.model == old
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, model(batch).logits)


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


@pytest.mark.parametrize("damage", ["weights", "meta", "emotions"])
def test_a_damaged_checkpoint_says_so_in_one_line(tmp_path, damage):
    name = saved(tmp_path)
    meta = tmp_path / name / "meta.json"
    if damage == "weights":
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "meta":
        meta.write_text("{")
    else:
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "emotions": ["joy"]}))
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        checkpoint.load(name, tmp_path)
    assert caught.value.code == "bad_checkpoint"
    assert "\n" not in caught.value.message
