import numpy as np
import pytest

from mmer.labels import EMOTIONS
from mmer.metrics import (
    abstention_threshold,
    area_under_risk_coverage,
    bootstrap,
    by_group,
    classification,
    expected_calibration_error,
    paired_test,
    risk_coverage,
)


def sure(predicted: list[int]) -> np.ndarray:
    return np.eye(len(EMOTIONS))[predicted]


def test_figures_of_a_hand_made_confusion():
    # anger: 3 of 4 right, one called fear; fear: 1 of 2 right, one called joy, which nobody shows.
    truth = np.array([0, 0, 0, 0, 2, 2])
    found = classification(truth, sure([0, 0, 0, 2, 2, 3]))
    assert found["n"] == 6
    assert found["uar"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["accuracy"] == pytest.approx(4 / 6)
    f1_anger, f1_fear = 2 * 3 / (4 + 3), 2 * 1 / (2 + 2)
    assert found["macro_f1"] == pytest.approx((f1_anger + f1_fear) / 2)
    assert found["weighted_f1"] == pytest.approx((4 * f1_anger + 2 * f1_fear) / 6)
    assert found["per_class"] == {
        "anger": {"recall": 0.75, "precision": 1.0, "n": 4},
        "fear": {"recall": 0.5, "precision": 0.5, "n": 2},
    }
    assert found["confusion"][0] == [3, 0, 1, 0, 0, 0, 0]
    assert found["confusion"][2] == [0, 0, 1, 1, 0, 0, 0]


def test_calibration_error_of_a_known_case():
    """Ten answers at 0.85 confidence, six right: the gap is 0.25."""
    probs = np.full((10, 7), 0.025)
    probs[:, 0] = 0.85
    truth = np.array([0] * 6 + [1] * 4)
    assert expected_calibration_error(truth, probs) == pytest.approx(0.25)


def test_the_bootstrap_resamples_speakers_not_rows():
    """One speaker all right and one all wrong: whole speakers give 0, a half or 1, so the interval is [0, 1]."""
    truth, said = np.zeros(200, int), np.array([0] * 100 + [1] * 100)
    speakers = ["a"] * 100 + ["b"] * 100
    assert bootstrap(truth, said, speakers)["accuracy"] == [0.0, 1.0]
    low, high = bootstrap(truth, said, [""] * 200)["accuracy"]
    assert 0.4 < low < 0.5 < high < 0.6


def test_other_classes_have_their_own_names():
    found = classification(np.array([0, 7, 7]), np.eye(8)[[0, 7, 1]], [*EMOTIONS, "calm"])
    assert found["per_class"]["calm"] == {"recall": 0.5, "precision": 1.0, "n": 2}
    assert np.array(found["confusion"]).shape == (8, 8)
    assert bootstrap(np.array([7, 7]), np.array([7, 7]), ["a", "b"], n_classes=8)["uar"] == [1.0, 1.0]


def test_few_speakers_cannot_be_significant():
    """Three speakers all better by one row: of eight ways to sign them, two are as far from zero."""
    found = paired_test(np.ones(3), np.zeros(3), ["a", "b", "c"])
    assert found == {"difference": 1.0, "p": 0.25, "n_groups": 3}
    many = paired_test(np.ones(30), np.zeros(30), [f"s{i}" for i in range(30)])
    assert many["p"] == pytest.approx(1 / 10_001)


def test_rows_of_one_speaker_are_no_evidence_of_their_own():
    better, worse = np.ones(100), np.zeros(100)
    assert paired_test(better, worse, ["a"] * 100)["p"] == 1.0
    assert paired_test(better, worse, [""] * 100)["p"] < 0.001
    assert paired_test(better, better, [""] * 100)["p"] == 1.0


def test_risk_and_coverage_of_a_known_case():
    """Surest first: right, right, then a tie of one right and one wrong, then wrong."""
    confidence = np.array([0.5, 0.9, 0.7, 0.8, 0.7])
    right = np.array([False, True, True, True, False])
    coverage, risk = risk_coverage(confidence, right)
    assert coverage.tolist() == pytest.approx([0.2, 0.4, 0.8, 0.8, 1.0])
    assert risk.tolist() == pytest.approx([0, 0, 0.25, 0.25, 0.4])
    assert area_under_risk_coverage(confidence, right) == pytest.approx((0.25 + 0.25 + 0.4) / 5)


def test_the_threshold_keeps_the_promised_accuracy():
    confidence = np.array([0.5, 0.9, 0.7, 0.8, 0.7])
    right = np.array([False, True, True, True, False])
    found = abstention_threshold(confidence, right, 0.75)
    assert found == {"threshold": 0.7, "target": 0.75, "coverage": pytest.approx(0.8), "accuracy": pytest.approx(0.75)}
    assert abstention_threshold(confidence, right, 0.9)["threshold"] == 0.8
    assert abstention_threshold(confidence, ~right, 0.9) is None
    kept = confidence >= found["threshold"]
    assert right[kept].mean() >= 0.75


def test_a_promise_that_rows_set_aside_just_keep_is_broken_on_others():
    """Answers as sure as they are right: what is above a confidence c is right (1 + c) / 2 of the time."""
    rng, kept = np.random.default_rng(0), {}
    for doubt in (0.0, 1.0):
        thresholds = []
        for _ in range(200):
            confidence = rng.random(120)
            found = abstention_threshold(confidence, rng.random(120) < confidence, 0.8, doubt=doubt)
            thresholds.append(found["threshold"] if found else 1.0)
        kept[doubt] = np.mean((1 + np.array(thresholds)) / 2 >= 0.8)
    assert kept[0.0] < 0.5
    assert kept[1.0] > 0.75


def test_one_who_is_always_misread_raises_what_the_answers_to_others_promise():
    """Two are read rightly, one never, at the same confidences: more of the same people are no more certain."""
    confidence = np.tile(np.linspace(0.5, 0.99, 50), 6)
    speakers = np.repeat(["a", "b", "c", "d", "e", "f"], 50)
    right = (speakers != "f") | (confidence > 0.9)
    by_rows = abstention_threshold(confidence, right, 0.8, doubt=1.0)
    by_speakers = abstention_threshold(confidence, right, 0.8, doubt=1.0, speakers=speakers)
    assert by_rows["threshold"] < 0.6
    assert by_speakers["threshold"] > 0.7
    strangers = [""] * len(confidence)
    assert abstention_threshold(confidence, right, 0.8, doubt=1.0, speakers=strangers) == by_rows
    two = np.where(speakers == "f", "f", "a")  # of two speakers no spread is to be had
    assert abstention_threshold(confidence, right, 0.8, doubt=1.0, speakers=two) == by_rows


def test_groups_are_compared_by_their_speakers():
    """Two women all right, one man half right: 1.0 against 0.5, and nothing is known about other men."""
    truth = np.array([0, 1, 0, 1, 0, 1])
    found = by_group(truth, sure([0, 1, 0, 1, 0, 0]), ["a", "a", "b", "b", "c", "c"], ["female"] * 4 + ["male"] * 2)
    assert found["groups"]["female"] == {
        "n": 4,
        "n_speakers": 2,
        "uar": 1.0,
        "accuracy": 1.0,
        "ci95": {"uar": [1.0, 1.0], "accuracy": [1.0, 1.0]},
    }
    assert found["gaps"]["uar"] == {"best": "female", "worst": "male", "gap": 0.5, "ci95": None}
    assert found["groups"]["male"]["ci95"] == {"uar": None, "accuracy": None}
    alone = by_group(truth, sure([0] * 6), ["a"] * 6, ["female"] * 5 + [""])
    assert alone["groups"]["female"]["n"] == 5
    assert alone["gaps"] == {}
