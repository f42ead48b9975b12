"""Figures: recall, precision, F1, calibration error, confusion, and bootstrap intervals by speaker."""

from collections.abc import Sequence

import numpy as np

from mmer.labels import EMOTIONS, N_EMOTIONS


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return counts (K, K): rows are the truth, columns the prediction."""
    found = np.zeros((N_EMOTIONS, N_EMOTIONS), int)
    np.add.at(found, (truth, predicted), 1)
    return found


def expected_calibration_error(truth: np.ndarray, probs: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins. https://arxiv.org/abs/1706.04599"""
    confidence, right = probs.max(1), probs.argmax(1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(gap)


def classification(truth: np.ndarray, probs: np.ndarray) -> dict:
    """Return n, uar, accuracy, macro_f1, weighted_f1, ece, per_class and confusion.

    UAR and macro-F1 are over the classes present in `truth`; predictions of the others count as wrong.

    Args:
        truth: (N,) indices into EMOTIONS.
        probs: (N, K) rows that sum to 1.
    """
    table = confusion(truth, probs.argmax(1))
    hits, n_true, n_said = np.diag(table), table.sum(1), table.sum(0)
    recall = hits / np.maximum(n_true, 1)
    precision = hits / np.maximum(n_said, 1)
    f1 = 2 * hits / np.maximum(n_true + n_said, 1)
    there = n_true > 0
    return {
        "n": len(truth),
        "uar": float(recall[there].mean()),
        "accuracy": float(hits.sum() / max(len(truth), 1)),
        "macro_f1": float(f1[there].mean()),
        "weighted_f1": float((f1 * n_true).sum() / max(n_true.sum(), 1)),
        "ece": expected_calibration_error(truth, probs),
        "per_class": {
            e: {"recall": float(recall[k]), "precision": float(precision[k]), "n": int(n_true[k])}
            for k, e in enumerate(EMOTIONS)
            if there[k]
        },
        "confusion": table.tolist(),
    }


def bootstrap(
    truth: np.ndarray, predicted: np.ndarray, groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """Return 95 % percentile intervals of UAR and accuracy, resampling whole groups (speakers).

    Rows with an empty group are a group each.
    """
    keys = [g or f"row {i}" for i, g in enumerate(groups)]
    names, member = np.unique(keys, return_inverse=True)
    tables = np.zeros((len(names), N_EMOTIONS, N_EMOTIONS))
    np.add.at(tables, (member, truth, predicted), 1)
    flat = tables.reshape(len(names), -1)
    rng = np.random.default_rng(seed)
    uar, accuracy = [], []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        table = (times @ flat).reshape(N_EMOTIONS, N_EMOTIONS)
        n_true = table.sum(1)
        hits = np.diag(table)
        uar.append((hits / np.maximum(n_true, 1))[n_true > 0].mean())
        accuracy.append(hits.sum() / table.sum())
    return {k: np.percentile(v, [2.5, 97.5]).round(4).tolist() for k, v in (("uar", uar), ("accuracy", accuracy))}
