"""A run explained: what changed, by labels and clips that only the database can name."""

import re

import numpy as np
import pytest
import torch

from annotations.store import Store
from mmer import checkpoint
from mmer.errors import TrainingError
from mmer.metrics import confusion
from tests.homes import tiny_home
from training.corrections.adapt import Examples
from training.corrections.changes import changes
from training.corrections.collect import TrainingExample
from training.corrections.config import RetrainConfig
from training.corrections.explain import explained, write
from training.corrections.gate import Evidence
from training.corrections.run import retrain

QUICK = RetrainConfig()


def test_confusion_and_flips_are_of_the_judged_clips_and_ties_are_neither():
    eye = np.eye(7)
    truth = np.stack([eye[0], eye[1], eye[1], (eye[0] + eye[2]) / 2])
    evidence = Evidence(truth, eye[[0, 0, 1, 3]], eye[[0, 1, 4, 0]], range(4), [0] * 4)
    items = [
        TrainingExample(str(i), "", None, False, None, None, None, (), None, "train", {}, (10 + i,)) for i in range(5)
    ]
    labelled = torch.zeros(5, 4, dtype=torch.bool)
    labelled[:, 0] = True
    nothing = torch.zeros(0)
    ex = Examples((), (), nothing, nothing, nothing, torch.zeros(5, 4, 7), labelled, nothing)
    found = changes(items, ex, torch.tensor([True, True, False, True, True]), evidence)
    assert found["confusion"]["served"] == confusion(np.array([0, 1, 1]), np.array([0, 0, 1])).tolist()
    assert found["confusion"]["new"] == confusion(np.array([0, 1, 1]), np.array([0, 1, 4])).tolist()
    told = [(f["labels"], f["right"], f["served"], f["new"]) for f in found["flipped"]]
    assert told == [([11], "disgust", "anger", "disgust"), ([13], "disgust", "disgust", "neutral")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A home after its first run, which was promoted."""
    paths = tiny_home(tmp_path_factory.mktemp("home"), n_clips=60)
    status, line = retrain(paths, QUICK, by="ada")
    assert status == 0, line
    assert line.endswith("; run 1")
    store = Store(paths.database_url, paths.media, paths.features)
    yield paths, store
    store.engine.dispose()


def test_a_run_is_explained_from_its_labels_to_its_flips(run):
    paths, store = run
    found = explained(paths, store, 1)
    child = checkpoint.promoted(paths.checkpoints)
    assert (found.models["served"]["id"], found.models["new"]["id"]) == ("tiny", child)
    assert found.models["new"]["weights_sha256"] == checkpoint.read_meta(child, paths.checkpoints)["weights_sha256"]
    assert sorted(i for ids in found.labels.values() for i in ids) == list(range(1, 61))
    for question in ("people", "strangers"):
        for who, table in found.report["changed"][question]["confusion"].items():
            figures = found.report[question]
            assert np.sum(table) == figures["judgements"]
            recall = [row[k] / sum(row) for k, row in enumerate(table) if sum(row)]
            assert np.mean(recall) == pytest.approx(figures[who]["uar"])
        moved = found.counted(question)
        hits = [np.trace(np.array(found.report["changed"][question]["confusion"][who])) for who in ("served", "new")]
        assert hits[1] - hits[0] == moved["now right"] - moved["now wrong"] > 0
    labels = {label.id: next(iter(label.emotions)) for label in store.labels()}
    for flip in found.flips["people"]:
        assert [labels[i] for i in flip["labels"]] == [flip["right"]]


def test_its_pages_need_nothing_else_and_name_nobody(run):
    paths, store = run
    text, page = (file.read_text() for file in write(paths, explained(paths, store, 1)))
    assert "# Run 1: promoted" in text
    assert "| clip 7 |" in text or "| clip 8 |" in text
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for said in (text, page):
        assert not re.search("private name|wilma|xaver|yusuf|zelda", said)
        assert not any(label.sha256 in said for label in store.labels())


def test_a_clip_that_is_deleted_is_named_no_more(run):
    paths, store = run
    before = explained(paths, store, 1).flips["people"]
    clip = next(label for label in store.labels() if label.id == before[0]["labels"][0])
    store.delete_clip(clip.sha256)
    after = explained(paths, store, 1)
    assert after.flips["people"][0]["clip"] == "a clip deleted since"
    assert clip.id not in {i for ids in after.labels.values() for i in ids}


def test_a_run_that_is_not_there_is_said_so(run):
    paths, store = run
    with pytest.raises(TrainingError, match="there is no run 7; there are 1$"):
        explained(paths, store, 7)


def test_a_run_that_was_killed_has_no_figures(run):
    paths, store = run
    killed = store.start_run("tiny")
    text, page = (file.read_text() for file in write(paths, explained(paths, store, killed)))
    assert "did not come as far as a verdict" in text
    assert "did not come as far as a verdict" in page
