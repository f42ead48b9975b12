"""Each utterance keeps its own words: what retraining reads is what was served."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from annotations.db.schema import OUTCOMES
from mmer.config import Paths
from mmer.features import collate
from mmer.model import Batch
from mmer.speech import Transcript, Word
from mmer.ui.service import Service, SessionResult
from tests import synth
from training.corrections.collect import gather, perceive

PAUSE = np.zeros(round(1.5 * synth.RATE), np.float32)


@pytest.fixture
def service(tmp_path):
    paths = replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")
    return Service(paths)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch)]
    return all((x is None and y is None) or (x is not None and torch.equal(x, y)) for x, y in pairs)


def test_retraining_read_the_whole_transcript_into_every_utterance(service, tmp_path):
    """On a clip of a minute the text branch said happiness eight of eight times, served it had said so once."""
    parts = [synth.voice(6.5, pitch_hz=120 + 40 * i, seed=i) for i in range(3)]
    sound = np.concatenate([x for part in parts for x in (part, PAUSE)])
    clip = synth.write_clip(tmp_path / "long.wav", seconds=len(sound) / synth.RATE, voice=sound, face=False)
    words = [("what a lovely day", 0.5, 1.5), ("leave me alone", 9.0, 10.0), ("I do not know", 18.0, 19.0)]
    timed = tuple(Word(text, start_s, end_s, 0.9) for text, start_s, end_s in words)
    heard = Transcript(" ".join(text for text, *_ in words), "en", timed, "ok")
    predictor = service.predictor
    served = predictor.analyse(clip, text=heard)
    assert [" ".join(s.features.words) for s in served.segments] == [text for text, *_ in words]

    service.save(SessionResult(served), "anger", annotator="anna", keep="recording")
    ((item,), skipped) = gather(list(service.store.labels(OUTCOMES)), lines=service.store.lines())
    assert skipped == []
    assert [line for *_, line in item.lines] == [text for text, *_ in words]
    before = collate([s.features for s in served.segments], predictor.checkpoint.config)
    batch, share = perceive(predictor, item, speech=False, cache=None)
    assert same(batch, before)
    weights = torch.tensor([s.features.weight for s in served.segments])
    assert torch.equal(share, weights / weights.sum())

    # Words that are typed later for the whole clip are read as such words are served: by every utterance.
    service.store.add_label(1, "bert", "fear", transcript="never mind")
    ((item,), _) = gather(list(service.store.labels(OUTCOMES)), lines=service.store.lines())
    assert (item.words, item.lines) == ("never mind", ())
    typed = predictor.analyse(clip, text="never mind")
    batch, _ = perceive(predictor, item, speech=False, cache=None)
    assert same(batch, collate([s.features for s in typed.segments], predictor.checkpoint.config))


def test_edited_lines_are_each_of_one_utterance(service, tmp_path):
    parts = [synth.voice(6.5, seed=i) for i in range(2)]
    sound = np.concatenate([parts[0], PAUSE, parts[1]])
    clip = synth.write_clip(tmp_path / "two.wav", seconds=len(sound) / synth.RATE, voice=sound, face=False)
    served = service.predictor.analyse(clip, speech=False)
    assert len(served.segments) == 2
    read = service.reread(served, "so it is\nleave me")
    service.save(SessionResult(read), "anger", annotator="anna", words="so it is\nleave me", keep="recording")
    ((item,), _) = gather(list(service.store.labels(OUTCOMES)), lines=service.store.lines())
    assert [line for *_, line in item.lines] == ["so it is", "leave me"]
    batch, _ = perceive(service.predictor, item, speech=False, cache=None)
    assert same(batch, collate([s.features for s in read.segments], service.predictor.checkpoint.config))
