"""Simulated sessions: what is measured is never labelled, orders choose what they say, figures have their intervals."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from annotations.choices import TRAIN
from annotations.queue.priorities import uncertainty
from mmer.checkpoint import Checkpoint
from mmer.config import ROOT, Config, ModelConfig
from mmer.labels import EMOTIONS, N_EMOTIONS
from tests.test_model import make_batch, make_model
from training.corrections.adapt import examples, probabilities
from training.corrections.collect import TrainingExample
from training.corrections.simulation import Curve, Pool, SimulateConfig, _labels, _next, _split, session
from training.corrections.simulation_report import draw, interval, summary

N = 240


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    """Clips of four speakers whose voice says which of four emotions it is, to who learns it."""
    model, batch = make_model(), make_batch(1)
    with torch.no_grad():
        found = model.branches(batch)
    g = torch.Generator().manual_seed(0)
    label = torch.arange(N) % 4
    ways = [torch.randn(4, p.shape[1], generator=g) for p in found.pooled]
    pooled = tuple(
        p + way[label] + 0.3 * torch.randn(N, p.shape[1], generator=g)
        for p, way in zip(found.pooled, ways, strict=True)
    )
    middles = tuple(m.expand(N, -1).contiguous() for m in found.middles)
    targets = torch.zeros(N, 4, N_EMOTIONS)
    targets[torch.arange(N), 0, label] = 1
    there = torch.ones(N, 3, dtype=torch.bool)
    ex = examples(model, middles, pooled, there, torch.ones(N), torch.arange(N), targets)
    items = [
        TrainingExample(f"{i:064x}", "", None, True, None, None, None, (), f"s{i // 4 % 4}", TRAIN, {}, ())
        for i in range(N)
    ]
    config = Config(model=ModelConfig.tiny())
    return Pool(Checkpoint("tiny", tmp_path_factory.mktemp("none"), model, config, {}), items, ex, None)


def test_clips_that_measure_are_of_known_people_or_of_strangers_and_are_never_labelled(pool):
    people, strangers, free = _split(pool, SimulateConfig(), np.random.default_rng(0))
    parts = [set(people.tolist()), set(strangers.tolist()), set(free)]
    assert sorted(i for part in parts for i in part) == list(range(N))
    speakers = [{pool.items[i].speaker for i in part} for part in parts]
    assert speakers[0] == speakers[2]
    assert len(speakers[1]) == 1
    assert not speakers[1] & speakers[0]
    assert len(parts[0]) == len(parts[2]) == 90


def test_wrong_labels_are_so_many_and_shuffled_ones_are_as_frequent_as_the_true(pool):
    rng = np.random.default_rng(0)
    assert (_labels(pool.truth, 0.0, rng) == pool.truth).all()
    assert 0.1 < (_labels(pool.truth, 0.2, rng) != pool.truth).mean() < 0.3
    shuffled = _labels(pool.truth, 1.0, rng)
    assert np.bincount(shuffled).tolist() == np.bincount(pool.truth).tolist()
    assert (shuffled == pool.truth).mean() < 0.4


def test_an_order_takes_what_it_says_first(pool):
    rng, free = np.random.default_rng(0), list(range(0, N, 2))
    probs = probabilities(pool.examples.served, pool.examples).numpy()[:, 0]
    entropies = {i: uncertainty(dict(zip(EMOTIONS, probs[i].tolist(), strict=True))) for i in free}
    first = _next(pool, "entropy", free, [], 20, rng)
    assert min(entropies[i] for i in first) >= max(entropies[i] for i in set(free) - set(first))
    for order in ("random", "margin", "branches", "diversity"):
        chosen = _next(pool, order, free, first, 20, rng)
        assert len(set(chosen)) == 20
        assert not set(chosen) & set(first)
        assert set(chosen) <= set(free)


def test_true_labels_are_learned_and_shuffled_ones_never_serve(pool):
    config = SimulateConfig(per_round=60, rounds=1)
    start, end = session(pool, Curve("random", 0.0, False, 0), config)
    assert (start["labels"], end["labels"]) == (0, 60)
    assert end["promoted"]
    assert end["people"] > start["people"] + 0.3
    start, end = session(pool, Curve("random", 1.0, False, 0), config)
    assert not end["promoted"]
    assert end["people"] == start["people"]


def rounds() -> list[dict]:
    def one(seed: int, n: int, people: float, promoted: bool) -> dict:
        kind = {"order": "random", "wrong": 0.0, "exemplars": True, "seed": seed}
        figures = {"people": people, "strangers": None, "base_change": -0.01 * seed}
        return {**kind, "labels": n, **figures, "promoted": promoted, "reasons": []}

    return [one(0, 0, 0.5, False), one(0, 50, 0.6, True), one(1, 0, 0.4, False), one(1, 50, 0.42, False)]


def test_a_summary_has_gains_with_students_interval():
    (line,) = summary(rounds())
    half = 6.314 * np.std([0.1, 0.02], ddof=1) / math.sqrt(2)  # t of 0.95 with one degree of freedom
    assert (line["session"], line["labels"], line["seeds"], line["promoted"]) == ("random, 0% wrong", 50, 2, 1)
    assert line["people"]["gain"] == pytest.approx(0.06)
    assert line["people"]["interval"] == pytest.approx(half, rel=1e-3)
    assert line["strangers"] is None
    assert line["worst_base_change"] == -0.01
    assert interval([0.3]) == (0.3, None)


def test_the_picture_has_a_line_for_each_kind_of_session():
    svg = draw([*rounds(), *({**one, "order": "margin"} for one in rounds())]).decode()
    for words in ("random, 0% wrong", "margin, 0% wrong", "people who were labelled"):
        assert f">{words}<" in svg
    assert ">strangers<" not in svg


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(tmp_path):
    """Of words alone, so that nothing but the text encoder is needed."""
    lines = ["text,label,speaker,split"]
    said = {"anger": "I hate this so much", "happiness": "what a lovely day", "sadness": "I miss her every hour"}
    for i in range(90):
        emotion = list(said)[i % 3]
        lines.append(f"{said[emotion]} {i},{emotion},s{i // 3 % 5},val")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "training/simulate.py", "--manifest", str(tmp_path / "m.csv"), "--checkpoint", "base"]
    command += ["--out", str(tmp_path / "out"), "--seeds", "2", "--rounds", "1", "--per-round", "30"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out" / "simulation.json").read_text())
        assert (found["checkpoint"], found["clips"], len(found["rounds"])) == ("base", 90, 4)
    assert "clips:" not in done.stderr  # the second time nothing is computed again
