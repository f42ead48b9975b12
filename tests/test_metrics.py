import numpy as np
import pytest

from mmer.labels import EMOTIONS
from mmer.metrics import bootstrap, classification, expected_calibration_error


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
