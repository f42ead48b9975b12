"""A home whose retraining takes seconds: a small checkpoint, and labels of clips of which only numbers were kept."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from annotations.store import Store
from mmer import branch_states, checkpoint
from mmer.config import Config, ModelConfig, Paths
from mmer.labels import EMOTIONS
from mmer.model import BranchStates, EmotionModel
from tests.test_model import make_batch, make_model

SPEAKERS = ("wilma", "xaver", "yusuf", "zelda")


def paths_of(folder: Path) -> Paths:
    return replace(Paths.from_env(), home=folder, database_url=f"sqlite:///{folder / 'mmer.db'}", device="cpu")


def tiny_home(folder: Path, *, n_clips: int = 80, learnable: bool = True) -> Paths:
    """Return a home that serves a random small model and holds labels of what each clip's numbers say.

    Args:
        learnable: off, the labels have nothing to do with the numbers.
    """
    paths = paths_of(folder)
    model = make_model()
    served = checkpoint.save(model, Config(model=ModelConfig.tiny()), paths.checkpoints, {"parent": None}, name="tiny")
    checkpoint.promote(served, paths.checkpoints)
    add_clips(paths, model, range(n_clips), learnable=learnable)
    return paths


def add_clips(paths: Paths, model: EmotionModel, numbers: range, *, learnable: bool = True) -> None:
    """Register clips with a label each; what the branches pooled of them points the emotion's way."""
    store = Store(paths.database_url, paths.media, paths.features)
    ways = torch.Generator().manual_seed(7)
    with torch.no_grad():
        batch = make_batch(1)
        found = model.branches(batch)
    assert found.pooled is not None
    signs = [torch.randn(len(EMOTIONS), p.shape[1], generator=ways) for p in found.pooled]
    for i in numbers:
        g = torch.Generator().manual_seed(i)
        label = i % 4
        shown = label if learnable else int(torch.randint(4, (1,), generator=g))
        face, voice, text = (
            p + sign[shown] + 0.3 * torch.randn(p.shape, generator=g)
            for p, sign in zip(found.pooled, signs, strict=True)
        )
        states = BranchStates(found.middles, found.tops, found.logits, (face, voice, text))
        kept = branch_states.dump(model, states, batch.present, torch.ones(1), [(0.0, 1.0)])
        sha256 = hashlib.sha256(f"clip {i}".encode()).hexdigest()
        clip = store.register_clip(
            None,
            sha256,
            name=f"private name {i}.mp4",
            speaker=SPEAKERS[i % 3 if i % 5 else 3],
            consent_text="numbers only",
            features=kept,
        )
        store.add_label(clip, "rater", EMOTIONS[label])
    store.engine.dispose()
