"""A project's items answered by the served model: predictions and embeddings come in, once for each checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select

from annotations.db.schema import ItemRecord, PredictionRecord, UtteranceRecord
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.queue.priorities import uncertainty
from annotations.store import Store
from mmer import checkpoint, media
from mmer.config import Config, ModelConfig, Paths
from mmer.model import EmotionModel
from tests import synth
from tests.test_label_tab import filled
from training.corrections.prelabelling import answered_projects, prelabel


@pytest.fixture
def paths(tmp_path) -> Paths:
    return replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")


def test_items_are_answered_once_for_each_checkpoint_and_the_queue_follows(paths, tmp_path):
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "voices", order="uncertainty", gold_share=0, actor="ada")
    spans = {"low.wav": (None, None), "high.wav": (0.5, 1.75)}
    for (name, span), pitch_hz in zip(spans.items(), (95, 260), strict=True):
        file = synth.write_clip(tmp_path / name, seconds=2, voice=synth.voice(2, pitch_hz=pitch_hz, seed=3))
        clip = store.register_clip(file, media.content_hash(file), name=name, in_place=True, source="import")
        projects.add_items(store, project, [store.utterance(clip, *span)])
    gone = store.register_clip(None, "a" * 64, name="gone.wav")
    projects.add_items(store, project, [store.utterance(gone)])

    n_done, failed = prelabel(paths, "voices")
    assert n_done == 2
    assert [line.split(":")[0] for line in failed] == ["gone.wav"]
    with store.reading() as session:
        found = session.scalars(select(PredictionRecord).order_by(PredictionRecord.clip_id)).all()
        assert [(p.start_s, p.end_s) for p in found] == list(spans.values())
        assert {p.checkpoint for p in found} == {"base"}
        assert found[0].present == {"face": False, "voice": True, "text": False}
        embeddings = session.scalars(select(UtteranceRecord.embedding).order_by(UtteranceRecord.id)).all()
        priority = session.scalars(select(ItemRecord.priority).order_by(ItemRecord.id)).all()
    assert embeddings[2] is None
    face, voice, text = np.split(np.frombuffer(embeddings[0], np.float32), 3)
    assert not face.any()
    assert voice.any()
    assert not text.any()
    assert priority[:2] == pytest.approx([uncertainty(p.probs) for p in found])
    first = Queue(store, project).next("bea")[0]
    assert first.prediction["probs"] == found[int(np.argmax(priority[:2]))].probs

    assert prelabel(paths, "voices")[0] == 0
    assert prelabel(paths, "voices", again=True)[0] == 2
    config = Config(model=ModelConfig.tiny())
    name = checkpoint.save(EmotionModel(config.model), config, paths.checkpoints, {"parent": "base"})
    checkpoint.promote(name, paths.checkpoints)
    assert prelabel(paths, "voices")[0] == 2
    with store.reading() as session:
        assert session.scalars(select(PredictionRecord.checkpoint)).all() == ["base"] * 4 + [name] * 2


def test_all_are_the_projects_a_model_has_answered_before(tmp_path):
    paths = filled(tmp_path, 1)
    store = Store(paths.database_url, paths.media, paths.features)
    other = projects.create(store, "untouched", actor="ada")
    clip = store.register_clip(None, "ab" * 32, name="a sentence")
    projects.add_items(store, other, [store.utterance(clip, transcript="so it is")])
    assert answered_projects(paths) == ["voices"]
