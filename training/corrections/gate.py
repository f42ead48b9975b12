"""Whether a new model may replace the served one: better on clips it has not seen, and by what is in them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mmer.labels import N_EMOTIONS
from mmer.metrics import classification
from training.corrections.adapt import Examples, probabilities

CONFIDENCE = 0.9  # share of the bootstrap draws that must agree
SURE, KEPT = 0.6, 0.8  # of answers the served model gave with SURE or more and labels confirmed, KEPT must stay


def gate(
    truth: np.ndarray, served: np.ndarray, new: np.ndarray, clips: Sequence[str], *, draws: int, seed: int
) -> dict:
    """Return the figures of both models on held-out labels and the reasons against the new one, [] to promote it.

    Args:
        truth: (J, K) label distributions.
        served: (J, K) probabilities of the model in use.
        new: (J, K) probabilities of the one that wants to be.
        clips: (J,) which belong together.
    """
    top = np.sort(truth, 1)
    sure = top[:, -1] > top[:, -2] + 1e-9  # a tie has no right answer; it still counts in the likelihood
    label = truth.argmax(1)
    names, member = np.unique(np.array(clips), return_inverse=True)

    def table(values: np.ndarray) -> np.ndarray:  # (C, K): sums by clip and true emotion
        found = np.zeros((len(names), N_EMOTIONS))
        np.add.at(found, (member[sure], label[sure]), values[sure].astype(float))
        return found

    n, before, after = table(np.ones(len(truth))), table(served.argmax(1) == label), table(new.argmax(1) == label)
    logs = [-(truth * np.log(p.clip(1e-6))).sum(1) for p in (served, new)]
    fall = np.zeros(len(names))
    np.add.at(fall, member, logs[0] - logs[1])

    def measure(times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gain in UAR, its tie-breaker and the margin over naming one emotion, for each weighting (D, C)."""
        count = times @ n
        there = (count > 0).sum(1)
        uar = [(times @ t / np.maximum(count, 1)).sum(1) / np.maximum(there, 1) for t in (before, after)]
        return uar[1] - uar[0], times @ fall, uar[1] - 1 / np.maximum(there, 1)

    def higher(gain: np.ndarray, tie: np.ndarray) -> np.ndarray:
        return (gain > 1e-9) | ((np.abs(gain) <= 1e-9) & (tie > 1e-9))

    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    gain, tie, margin = measure(times)
    once = measure(np.ones((1, len(names))))
    confidence, informed = float(higher(gain, tie).mean()), float((margin > 1e-9).mean())
    figures = {
        who: {k: classification(label[sure], p[sure])[k] for k in ("n", "uar", "accuracy", "ece")}
        | {"nll": float(log.mean())}
        for who, p, log in (("served", served, logs[0]), ("new", new, logs[1]))
    }
    reasons = []
    if not higher(*once[:2])[0]:
        reasons.append(
            f"UAR {figures['new']['uar']:.3f} is not above the served model's {figures['served']['uar']:.3f}"
        )
    elif confidence < CONFIDENCE:
        reasons.append(f"it is better in only {confidence:.0%} of the bootstrap draws; {CONFIDENCE:.0%} are needed")
    if informed < CONFIDENCE:
        reasons.append(f"it beats naming one emotion for everything in only {informed:.0%} of the draws")
    return {**figures, "clips": len(names), "better_in": confidence, "informed_in": informed, "reasons": reasons}


def guard(ex: Examples, new: Tensor) -> dict:
    """Return how often the new model still gives the answers the served one was sure of and the labels confirmed.

    Args:
        new: (U, 4, K) logits of the new model on the training clips.
    """
    before, after = probabilities(ex.served, ex), probabilities(new, ex)
    confirmed = ex.labelled & (before.amax(-1) >= SURE) & (before.argmax(-1) == ex.targets.argmax(-1))
    kept = int((after.argmax(-1) == before.argmax(-1))[confirmed].sum())
    n = int(confirmed.sum())
    lost = n >= 5 and kept < KEPT * n
    reasons = [f"of {n} sure and confirmed answers only {kept} are kept; {KEPT:.0%} are needed"] if lost else []
    return {"confirmed": n, "kept": kept, "reasons": reasons}
