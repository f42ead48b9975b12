"""Figures: recall, precision, F1, calibration error, confusion, risk against coverage, and what chance could explain.

Classes are EMOTIONS unless `names` says otherwise: RAVDESS has an eighth, calm.
"""

from collections.abc import Sequence

import numpy as np

from mmer.labels import EMOTIONS, MODALITIES


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int = len(EMOTIONS)) -> np.ndarray:
    """Return counts (K, K): rows are the truth, columns the prediction."""
    table = np.zeros((n_classes, n_classes), int)
    np.add.at(table, (truth, predicted), 1)
    return table


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


def headline(figures: dict) -> dict:
    """Return what a table shows of `classification`."""
    return {k: figures[k] for k in ("n", "uar", "accuracy", "macro_f1", "weighted_f1", "ece")}


def classification(truth: np.ndarray, probs: np.ndarray, names: Sequence[str] = EMOTIONS) -> dict:
    """Return n, uar, accuracy, macro_f1, weighted_f1, ece, per_class and confusion.

    UAR and macro-F1 are over the classes present in `truth`; predictions of the others count as wrong.

    Args:
        truth: (N,) indices into `names`.
        probs: (N, K) rows that sum to 1.
    """
    table = confusion(truth, probs.argmax(1), len(names))
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
            for k, e in enumerate(names)
            if there[k]
        },
        "confusion": table.tolist(),
    }


def _members(groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups' names and of each row the index of its own; a row without a name is a group of one."""
    return np.unique([g or f"row {i}" for i, g in enumerate(groups)], return_inverse=True)


def _resampled(
    truth: np.ndarray, predicted: np.ndarray, groups: Sequence[str], n_classes: int, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Return UAR and accuracy (draws,) of whole groups drawn with replacement."""
    names, member = _members(groups)
    tables = np.zeros((len(names), n_classes, n_classes))
    np.add.at(tables, (member, truth, predicted), 1)
    flat = tables.reshape(len(names), -1)
    rng = np.random.default_rng(seed)
    uar, accuracy = np.empty(draws), np.empty(draws)
    for i in range(draws):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        table = (times @ flat).reshape(n_classes, n_classes)
        n_true = table.sum(1)
        hits = np.diag(table)
        uar[i] = (hits / np.maximum(n_true, 1))[n_true > 0].mean()
        accuracy[i] = hits.sum() / table.sum()
    return {"uar": uar, "accuracy": accuracy}


def _interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).round(4).tolist()


def bootstrap(
    truth: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence[str],
    *,
    n_classes: int = len(EMOTIONS),
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return 95 % percentile intervals of UAR and accuracy, resampling whole groups (speakers).

    Rows with an empty group are a group each.
    """
    draws_of = _resampled(truth, predicted, groups, n_classes, draws, seed)
    return {k: _interval(v) for k, v in draws_of.items()}


def bootstrap_gain(
    truth: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    groups: Sequence[str],
    *,
    n_classes: int = len(EMOTIONS),
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return 95 % percentile intervals of how much better UAR and accuracy are, the same groups drawn for both.

    Args:
        truth, ours, theirs: (N,) indices of what is right and of what two models said.
    """
    one, other = (_resampled(truth, said, groups, n_classes, draws, seed) for said in (ours, theirs))
    return {k: _interval(one[k] - other[k]) for k in one}


def by_group(
    truth: np.ndarray,
    probs: np.ndarray,
    speakers: Sequence[str],
    groups: Sequence[str],
    *,
    names: Sequence[str] = EMOTIONS,
    seed: int = 0,
) -> dict:
    """Return the figures of each group of speakers, and how far the best and the worst served are apart.

    Rows without a group are left out. The interval of a gap resamples the speakers of both groups; one speaker alone
    has none.

    Returns:
        groups{name: {n, n_speakers, uar, accuracy, ci95}}, gaps{uar | accuracy: {best, worst, gap, ci95}}; gaps are
        empty with fewer than two groups.
    """
    group_of, speaker_of = np.array(groups, str), np.array(speakers, str)
    figures: dict[str, dict] = {}
    draws: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(set(groups) - {""}):
        rows = group_of == name
        draws[name] = _resampled(truth[rows], probs[rows].argmax(1), speaker_of[rows], probs.shape[1], 1000, seed)
        whole = classification(truth[rows], probs[rows], names)
        n_speakers = len(_members(speaker_of[rows])[0])
        figures[name] = {
            "n": whole["n"],
            "n_speakers": n_speakers,
            "uar": whole["uar"],
            "accuracy": whole["accuracy"],
            "ci95": {k: _interval(v) if n_speakers > 1 else None for k, v in draws[name].items()},
        }
        seed += 1  # the draws of one group say nothing about those of the other
    gaps = {}
    if len(figures) > 1:
        for key in ("uar", "accuracy"):
            best, worst = max(figures, key=lambda g: figures[g][key]), min(figures, key=lambda g: figures[g][key])
            gap = figures[best][key] - figures[worst][key]
            apart = draws[best][key] - draws[worst][key]
            several = min(figures[best]["n_speakers"], figures[worst]["n_speakers"]) > 1
            gaps[key] = {"best": best, "worst": worst, "gap": gap, "ci95": _interval(apart) if several else None}
    return {"groups": figures, "gaps": gaps}


def paired_test(
    ours: np.ndarray, theirs: np.ndarray, groups: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Return the mean difference of two models on the same rows, and the chance of one as large were they equal.

    Signs of whole groups (speakers) are flipped: all ways of it up to twelve groups, `draws` random ones beyond. Rows
    with an empty group are a group each. With n groups no p is below 2^(1 - n): six speakers prove little.

    Args:
        ours, theirs: (N,) how right each row is: 0 or 1, or the mean over several seeds.

    Returns:
        difference, p (two-sided), n_groups.
    """
    names, member = _members(groups)
    gaps = np.bincount(member, weights=np.asarray(ours, float) - np.asarray(theirs, float), minlength=len(names))
    n = len(names)
    if n <= 12:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        worse = np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9
        p = float(worse.mean())
    else:
        rng, hits, done = np.random.default_rng(seed), 0, 0
        while done < draws:  # in parts: 10,000 draws of 3,589 images are 36 M signs
            signs = rng.integers(0, 2, (min(500, draws - done), n), dtype=np.int8) * 2 - 1
            hits += int((np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9).sum())
            done += len(signs)
        p = (hits + 1) / (draws + 1)
    return {"difference": float(gaps.sum() / len(member)), "p": p, "n_groups": n}


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage (N,) and the error rate (N,) among what is answered, the surest first.

    Rows of one confidence are answered together or not at all. https://arxiv.org/abs/1705.08500
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~np.asarray(right, bool)[order])
    n = np.arange(1, len(order) + 1)
    c = confidence[order]
    last = np.searchsorted(-c, -c, side="right") - 1  # of its ties
    return n[last] / len(order), wrong[last] / n[last]


def area_under_risk_coverage(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the mean error rate over all coverages (AURC); 0 is best. https://arxiv.org/abs/1805.08206"""
    return float(risk_coverage(confidence, right)[1].mean())


DEAF_VOICE = "voice without whisper"  # of the subsets of channels that have a threshold
NEVER = 1.01  # a threshold for subsets of channels whose answers were never right often enough


def abstention_threshold(
    confidence: np.ndarray,
    right: np.ndarray,
    target: float = 0.8,
    *,
    doubt: float = 0.0,
    speakers: Sequence[str] | None = None,
) -> dict[str, float] | None:
    """Return the lowest confidence from which on the answers given are right at least `target` of the time.

    Args:
        doubt: by how many standard errors of that share they have to be right more often here.
        speakers: of each row, "" where unknown. People differ more than utterances do, so that the standard error is
            that of a sample of speakers where it is the larger one. None: every row is somebody else's.

    Returns:
        threshold, target, and the coverage and accuracy it has on these rows; None where no confidence is enough.
    """
    coverage, risk = risk_coverage(confidence, right)
    error = np.sqrt(target * (1 - target) / np.maximum(coverage * len(confidence), 1))
    if speakers is not None and doubt:
        among_speakers = _error_over_speakers(confidence, right, speakers)
        error = np.maximum(error, among_speakers[np.round(coverage * len(confidence)).astype(int) - 1])
    enough = np.flatnonzero(1 - risk - doubt * error >= target)
    if not len(enough):
        return None
    i = int(enough[-1])
    threshold = float(np.sort(confidence)[::-1][round(coverage[i] * len(confidence)) - 1])
    return {"threshold": threshold, "target": target, "coverage": float(coverage[i]), "accuracy": float(1 - risk[i])}


def _error_over_speakers(confidence: np.ndarray, right: np.ndarray, speakers: Sequence[str]) -> np.ndarray:
    """Return the standard error (N,) of the share that is right among the surest 1 to N, as speakers are resampled.

    That of a ratio of sums over clusters; 0 where fewer than three speakers are among them: it tells nothing there.
    """
    order = np.argsort(-confidence, kind="stable")
    n = np.arange(1, len(order) + 1)
    share = np.cumsum(np.asarray(right, bool)[order]) / n
    squares, among = np.zeros(len(n)), np.zeros(len(n), int)
    names, whose = _members(speakers)
    for speaker in range(len(names)):
        here = (whose == speaker)[order]
        said = np.cumsum(here)
        squares += (np.cumsum(here & np.asarray(right, bool)[order]) - share * said) ** 2
        among += said > 0
    return np.where(among < 3, 0.0, np.sqrt(squares * among / np.maximum(among - 1, 1)) / n)


def threshold_of(promise: dict | None, present: Sequence[bool], *, deaf: bool = False) -> float | None:
    """Return the confidence from which on a checkpoint's answers are to be relied on; None: always.

    Args:
        promise: `abstain` of its meta.json. Older ones have one threshold for every subset of channels.
        present: which of face, voice and text were read.
        deaf: the voice branch had to do without Whisper's encoder.
    """
    if not promise:
        return None
    if "subsets" not in promise:
        return promise["threshold"]
    name = "+".join(m for m, here in zip(MODALITIES, present, strict=True) if here)
    found = promise["subsets"].get(DEAF_VOICE if deaf and name == "voice" else name)
    return NEVER if found is None else found["threshold"]
