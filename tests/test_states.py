"""Kept instead of a recording: branch embeddings come back as they were, only to the branches that made them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmer import branch_states, checkpoint
from mmer.config import ModelConfig
from mmer.errors import CheckpointError
from mmer.labels import MODALITIES, N_EMOTIONS
from tests.test_model import make_batch, make_model
from training.corrections.evidence import base_uar
from training.learn.exemplars import FILE, Exemplar, Exemplars, as_heard, of_checkpoint

SPANS = [(0.0, 1.25), (1.25, 3.0)]


@pytest.fixture
def kept(tmp_path):
    """A file of two utterances, the second without a face, and what is in it."""
    model, batch = make_model(), make_batch(2)
    batch.present[1, 0] = False
    with torch.no_grad():
        found = model.branches(batch)
    file = tmp_path / "x.states"
    file.write_bytes(branch_states.dump(model, found, batch.present, torch.tensor([0.4, 0.6]), SPANS))
    return model, file, found, batch.present


def test_states_come_back_as_they_were(kept):
    model, file, found, present = kept
    again, here, share = branch_states.load(file, model)
    assert torch.equal(again.tops, found.tops)
    assert all(torch.equal(a, b) for a, b in zip(again.middles, found.middles, strict=True))
    assert torch.equal(here, present)
    assert share.tolist() == pytest.approx([0.4, 0.6])


def test_one_utterance_is_found_by_its_bounds(kept):
    model, file, found, present = kept
    again, here, share = branch_states.load(file, model, 1.25, 3.0)
    assert torch.equal(again.tops, found.tops[1:])
    assert torch.equal(here, present[1:])
    assert share.tolist() == [1.0]
    with pytest.raises(CheckpointError, match="no utterance from 1.0 to 2.0 s"):
        branch_states.load(file, model, 1.0, 2.0)


def test_heads_last_layers_and_fusion_may_have_learnt_but_not_what_pools(kept):
    model, file, found, present = kept
    with torch.no_grad():
        model.heads["voice"][1].weight += 1
        model.encoders["text"].embed[1].weight += 1
        again, *_ = branch_states.load(file, model)
    assert torch.equal(again.pooled[2], found.pooled[2])
    expected = model.encoders["text"].project(found.pooled[2])
    assert torch.equal(again.tops[:, 2], expected)
    assert not torch.allclose(again.tops[:, 2], found.tops[:, 2])
    assert torch.equal(again.logits, model.vote(again.tops, again.pooled, present))
    with torch.no_grad():
        model.encoders["voice"].mix.weight += 1
    with pytest.raises(CheckpointError, match="other branches"):
        branch_states.load(file, model)
    with pytest.raises(CheckpointError, match="other branches"):
        branch_states.load(file, make_model(seed=3))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        branch_states.load(file, model)


def test_exemplars_are_heard_as_the_corrections_were():
    """Without Whisper's weights, 40 true labels were refused: the exemplars had its encoder's part, they not."""
    model = make_model(replace(ModelConfig.tiny(), whisper_depths=2, whisper_width=8, whisper_sums=1))
    state, n = model.config.state, 400
    part = Exemplar(
        torch.ones(n, 1),
        torch.ones(n, model.encoder("voice").pooled_size),
        torch.eye(7)[torch.arange(n) % 7],
        ("c",) * n,
        ("",) * n,
        torch.zeros(n, dtype=torch.bool),
    )
    for share, least, most in ((0.0, 0, 0), (0.25, 70, 130), (1.0, n, n)):
        pooled = as_heard(Exemplars({"voice": part}), model, share).branches["voice"].pooled
        heard = pooled[:, -1] > 0
        assert least <= int(heard.sum()) <= most
        assert (pooled[:, :state] == 1).all()
        assert (pooled[heard] == 1).all()
        assert (pooled[~heard, state:] == 0).all()
    assert (part.pooled == 1).all()


def test_what_ships_has_exemplars():
    """Two hundred true corrections changed nothing while there was nothing to hold the base with."""
    base = checkpoint.load(checkpoint.BASE, Path("nowhere"))
    found = of_checkpoint(base, Path("nowhere"))
    assert found is not None
    assert (base.folder / FILE).stat().st_size <= 15 * 2**20
    for modality in MODALITIES:
        learned, held = found.training(modality), found.calibration(modality)
        assert len(learned.targets) >= 1000
        assert len(held.targets) >= 250
        assert set(learned.targets.argmax(1).tolist()) == set(range(N_EMOTIONS))
        assert not set(learned.speakers) - {""} & set(held.speakers)
    assert set(found.training("voice").corpora) == {"ravdess", "emodb", "nemo"}
    # Whisper listened; the base knows its own: voices it learned from better than those of people it never heard.
    assert (found.branches["voice"].pooled[:, -1] > 0).all()
    uar = base_uar(base.model, found)
    assert uar["voice"] > 0.6
    assert uar["face"] > 0.5
    assert uar["text"] > 0.5
