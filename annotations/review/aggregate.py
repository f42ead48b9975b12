"""Label aggregation: several annotators' labels of a segment become one distribution over the emotions.

A reviewer's final label stands alone: the annotators' labels of that segment and target no longer count. Where it says
that nobody can tell, or that the clip is broken, there is no distribution. Otherwise:

- `soft`: the mean of the annotators' weights; where they differ, the target says how much.
- `majority`: one vote each for the heaviest emotion, split where several are equally heavy; the emotions with the most
  votes share the target evenly, so a tie stays a tie.
- `gold`: the mean of the weights, each annotator counted by the share of gold items answered right, (right + 1) /
  (seen + 2): who saw none counts half, and nobody counts nothing.
- `dawid_skene`: the probability of each emotion given who chose what, each annotator's confusion of the emotions being
  estimated from all labels of a target by EM (https://doi.org/10.2307/2346806); final labels are held fixed in it. An
  annotator's vote is the heaviest emotion, of equal ones the first in `EMOTIONS`.

A segment with one annotator gets that annotator's label; with `dawid_skene`, how far it is believed depends on how the
annotator compares on the other segments.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from annotations.choices import METHODS
from annotations.label import Label, heaviest
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, N_EMOTIONS

Key = tuple[str, float | None, float | None, str]  # sha256, start_s, end_s, target


def aggregate(
    labels: Sequence[Label],
    method: str = "soft",
    *,
    gold: Mapping[str, tuple[int, int]] | None = None,
    final: Mapping[Key, Mapping[str, float]] | None = None,
) -> dict[Key, dict[str, float]]:
    """Return one distribution for each segment and target; weights sum to 1, emotions without weight are left out.

    Args:
        labels: current labels, one of each annotator for a segment and target; those that name no emotion are left out.
        gold: how many gold items each annotator answered right, and how many there were.
        final: what reviewers decided; segments without a label too. Without an emotion: nothing is to be learned there.

    Raises:
        LabelError: `unknown_aggregation`.
    """
    if method not in METHODS:
        raise LabelError("unknown_aggregation", f"aggregation {method!r} is none of {', '.join(METHODS)}")
    decided = {key: dict(emotions) for key, emotions in (final or {}).items() if emotions}
    nothing = (final or {}).keys() - decided.keys()
    votes: dict[Key, list[tuple[str, np.ndarray]]] = {}
    for label in labels:
        key = (label.sha256, label.start_s, label.end_s, label.target)
        if label.outcome == "label" and key not in nothing:
            shares = np.array([label.emotions.get(e, 0.0) for e in EMOTIONS])
            votes.setdefault(key, []).append((label.annotator, shares))
    merged: dict[Key, np.ndarray] = {}
    if method == "dawid_skene":
        for target in {key[3] for key in votes}:
            merged |= _dawid_skene({key: rows for key, rows in votes.items() if key[3] == target}, decided)
    elif method == "majority":
        for key, rows in votes.items():
            merged[key] = _heaviest(np.sum([_heaviest(shares) for _, shares in rows], axis=0))
    else:
        trust = {} if method == "soft" else {who: (right + 1) / (n + 2) for who, (right, n) in (gold or {}).items()}
        for key, rows in votes.items():
            weights = [trust.get(who, 0.5) for who, _ in rows]
            merged[key] = np.average([shares for _, shares in rows], axis=0, weights=weights)
    targets = {
        key: {e: float(p) for e, p in zip(EMOTIONS, shares, strict=True) if p > 0} for key, shares in merged.items()
    }
    return targets | decided


def _heaviest(shares: np.ndarray) -> np.ndarray:
    """Return (K,) the heaviest emotion, or equally the heaviest ones."""
    heaviest = shares > shares.max() - 1e-9
    return heaviest / heaviest.sum()


def _dawid_skene(
    votes: Mapping[Key, Sequence[tuple[str, np.ndarray]]], final: Mapping[Key, Mapping[str, float]]
) -> dict[Key, np.ndarray]:
    """Return (K,) probabilities of each segment by Dawid and Skene's model."""
    import pandas as pd  # with crowd-kit, two to four seconds that the other methods need not wait
    from crowdkit.aggregation import DawidSkene

    keys = list(votes)
    rows = [(i, who, int(shares.argmax())) for i, key in enumerate(keys) for who, shares in votes[key]]
    known = {i: EMOTIONS.index(str(heaviest(final[key]))) for i, key in enumerate(keys) if key in final}
    frame = pd.DataFrame(rows, columns=["task", "worker", "label"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # crowd-kit calls pandas 3 as it called pandas 2
        probs = DawidSkene(n_iter=100).fit_predict_proba(frame, pd.Series(known, dtype=int) if known else None)
    probs = probs.where(probs > 1e-6, 0.0)  # what EM clips at 1e-10 means none
    table = probs.reindex(index=range(len(keys)), columns=range(N_EMOTIONS), fill_value=0.0).to_numpy(float)
    return dict(zip(keys, table / table.sum(1, keepdims=True), strict=True))
