"""Whether a new model may replace the served one: two questions, each with known odds.

Is it better for the *people who were labelled*, on other clips of theirs? There, clips are what might have come out
differently, within each speaker. Is it better for *strangers*? There, the speakers are, and at least three are needed.
The gain is in UAR. Its standard error is that of a sum over clusters (clips with their near-duplicates, or speakers),
and it is compared with Student's distribution, so that few clusters promise little.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmer.metrics import classification

SPEAKERS = 3  # with fewer nothing is said about strangers
TOLERANCE = 0.01  # of UAR that may be lost elsewhere
LIKELY = 0.75  # how sure it must be that more was lost: half the sessions without a loss show one of a point by luck
INFORMED = 0.999  # how sure it must be that the answers have to do with the clips: labels at random never get there
SURE, KEPT = 0.6, 0.8  # of answers the served model gave with SURE or more and labels confirmed, KEPT must stay


@dataclass(frozen=True)
class Evidence:
    """J judgements of models that had not seen the clip, or not its speaker."""

    truth: np.ndarray  # (J, K) label distributions
    served: np.ndarray  # (J, K) probabilities of the model in use
    new: np.ndarray  # (J, K) of the one that wants to be
    clusters: Sequence[Any]  # (J,) what might have come out differently as one
    strata: Sequence[Any]  # (J,) within which

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Answer:
    """What the evidence says about one question."""

    gain: float  # in UAR
    error: float  # standard error of it
    freedom: int  # degrees of freedom
    better: float  # confidence that the gain is above 0
    informed: float  # confidence that the new model knows more than the most frequent answer would
    n: int  # judgements
    n_clusters: int
    served: dict[str, float] = field(default_factory=dict)
    new: dict[str, float] = field(default_factory=dict)

    def power(self, gain: float, confidence: float) -> float:
        """Return how often evidence of this size would show a true gain with this confidence."""
        if not math.isfinite(self.error) or self.error <= 0:
            return 0.0
        return normal_cdf(gain / self.error - t_quantile(confidence, self.freedom))


def needed_confidence(confidence: float, looks: float) -> float:
    """Return the confidence that is asked for on clips that earlier runs were measured on.

    The chance of error is spent in the proportion 1, 1/4, 1/9, ...: however often one set of clips is used, noise is
    let through in all at most 1.64 times as often as the first time.

    Args:
        looks: how many earlier runs measured themselves on the clips, mean over them: new clips bring it down.
    """
    return 1 - (1 - confidence) / (1 + looks) ** 2


def answer(evidence: Evidence) -> Answer:
    """Return the gain in UAR over the evidence, and how sure one can be of it."""
    top = np.sort(evidence.truth, 1)
    sure = top[:, -1] > top[:, -2] + 1e-9  # a tie has no right answer
    label = evidence.truth.argmax(1)[sure]
    before, after = evidence.served[sure], evidence.new[sure]
    kinds, which, counts = np.unique(label, return_inverse=True, return_counts=True)
    if not len(label):
        return Answer(0.0, math.inf, 1, 0.0, 0.0, 0, 0)
    # UAR is a sum over judgements: each counts by one over its emotion's number.
    weight = 1 / (len(kinds) * counts[which])
    right = [(p.argmax(1) == label).astype(float) for p in (before, after)]
    clusters = [c for c, s in zip(evidence.clusters, sure, strict=True) if s]
    strata = [s for s, kept in zip(evidence.strata, sure, strict=True) if kept]
    gain, error, freedom, n_clusters = _total(weight * (right[1] - right[0]), clusters, strata, weight)
    margin, margin_error, *_ = _total(weight * (right[1] - 1 / len(kinds)), clusters, strata, weight)
    figures = [
        {k: classification(label, p)[k] for k in ("n", "uar", "accuracy", "ece")} | {"nll": nll}
        for p, nll in zip((before, after), (_nll(evidence, p) for p in (evidence.served, evidence.new)), strict=True)
    ]
    return Answer(
        gain,
        error,
        freedom,
        t_cdf(gain / error, freedom) if gain else 0.5,
        t_cdf(margin / margin_error, freedom) if len(kinds) > 1 else 0.0,
        len(label),
        n_clusters,
        *figures,
    )


def _nll(evidence: Evidence, probs: np.ndarray) -> float:
    return float(-(evidence.truth * np.log(probs.clip(1e-6))).sum(1).mean())


def _total(
    parts: np.ndarray, clusters: Sequence[Any], strata: Sequence[Any], weight: np.ndarray
) -> tuple[float, float, int, int]:
    """Return the sum of the parts, its standard error, degrees of freedom and the number of clusters.

    Two judgements more, one for and one against, are taken into the error: where hardly any answer changed, the error
    would else be that of luck. https://doi.org/10.1002/sim.1874 adds one to every cell of the table of pairs likewise.
    """
    sums: dict[Any, dict[Any, float]] = {}
    for part, cluster, stratum in zip(parts.tolist(), clusters, strata, strict=True):
        inside = sums.setdefault(stratum, {})
        inside[cluster] = inside.get(cluster, 0.0) + part
    # A stratum of one cluster says nothing about its spread: such ones make a stratum together.
    groups = [list(inside.values()) for inside in sums.values() if len(inside) > 1]
    alone = [next(iter(inside.values())) for inside in sums.values() if len(inside) == 1]
    groups += [alone] if alone else []
    variance, freedom = 0.0, 0
    for values in groups:
        n = len(values)
        if n > 1:
            variance += n / (n - 1) * float(((np.array(values) - np.mean(values)) ** 2).sum())
            freedom += n - 1
    if not freedom:
        return float(parts.sum()), math.inf, 1, sum(map(len, groups))
    variance += 2 * float(weight.mean()) ** 2
    return float(parts.sum()), math.sqrt(variance), freedom, sum(map(len, groups))


@dataclass(frozen=True)
class Verdict:
    """The gate's answer, and all it rests on."""

    people: Answer
    strangers: Answer | None  # None: fewer than three speakers
    needed: float  # confidence
    base: dict[str, Answer]  # on each corpus of what each corrected branch of the base learned from
    reasons: list[str]  # against; [] to promote
    advice: list[str]  # what would help

    def to_dict(self) -> dict[str, Any]:
        def described(found: Answer | None) -> dict[str, Any] | None:
            if found is None:
                return None
            power = {f"{points}": round(found.power(points / 100, self.needed), 3) for points in (5, 10)}
            return {
                "served": found.served,
                "new": found.new,
                "gain": found.gain,
                "error": found.error if math.isfinite(found.error) else None,
                "judgements": found.n,
                "clusters": found.n_clusters,
                "better": found.better,
                "informed": found.informed,
                "power": power,
            }

        return {
            "people": described(self.people),
            "strangers": described(self.strangers),
            "needed": self.needed,
            "base": {name: {"served": f.served["uar"], "new": f.new["uar"]} for name, f in self.base.items()},
            "reasons": self.reasons,
            "advice": self.advice,
        }


def gate(
    people: Evidence,
    strangers: Evidence | None,
    base: dict[str, Evidence],
    *,
    confidence: float,
    looks: float = 0.0,
) -> Verdict:
    """Return whether the new model is likely better for one of the two, and not worse for the other and the base.

    Args:
        strangers: its clusters are speakers; None where there are too few.
        base: on what the base learned from, by corpus.
        looks: see `needed_confidence`.
    """
    needed = needed_confidence(confidence, looks)
    on_people = answer(people)
    on_strangers = answer(strangers) if strangers is not None and len(set(strangers.clusters)) >= SPEAKERS else None
    named = {"people who were labelled": on_people, "strangers": on_strangers}
    asked = {name: found for name, found in named.items() if found is not None}
    reasons, advice = [], []
    passed = [name for name, found in asked.items() if found.gain > 0 and found.better >= needed]
    if not passed:
        for name, found in asked.items():
            uar = f"UAR {found.served.get('uar', 0):.3f} -> {found.new.get('uar', 0):.3f}"
            if found.gain <= 0:
                reasons.append(f"for {name} it is not better ({uar} on {found.n} judgements)")
            else:
                reasons.append(
                    f"for {name} it is better with {found.better:.0%} confidence; {needed:.0%} are needed ({uar})"
                )
        advice += _advice(asked, needed)
    for name, found in asked.items():
        if name not in passed and passed and _lost(found) > LIKELY:
            reasons.append(
                f"for {name} it is worse by {-found.gain:.1%} of UAR on {found.n} judgements; "
                f"{TOLERANCE:.0%} may be lost"
            )
    on_base = {name: found for name, evidence in base.items() if (found := answer(evidence)).n}
    for name, found in on_base.items():
        if _lost(found) > LIKELY:
            reasons.append(
                f"on what the base learned from ({name}) it falls from UAR {found.served['uar']:.3f} to "
                f"{found.new['uar']:.3f}; {TOLERANCE:.0%} may be lost"
            )
    if on_people.n and on_people.informed < INFORMED:
        reasons.append(
            "its answers may have nothing to do with the clips: that they are better than one emotion for everything "
            f"is {on_people.informed:.1%} sure, {INFORMED:.1%} are needed"
        )
        advice.append("look through the labels: are they of these clips, and do annotators agree?")
    return Verdict(on_people, on_strangers, needed, on_base, reasons, list(dict.fromkeys(advice)))


def _lost(found: Answer) -> float:
    """Return how sure it is that more is lost than may be."""
    return t_cdf((-TOLERANCE - found.gain) / found.error, found.freedom)


def _advice(asked: dict[str, Answer], needed: float) -> list[str]:
    found = asked["people who were labelled"]
    if found.gain <= 0 or not math.isfinite(found.error):
        return ["label more clips: so far they teach nothing that holds on clips they were not learned from"]
    times = (t_quantile(needed, found.freedom) * found.error / found.gain) ** 2
    more = max(math.ceil(found.n * (times - 1)), 1)
    who = "" if "strangers" in asked else ", of at least three named speakers"
    return [f"about {more} more labelled clips{who} would show a gain of this size"]


def guard(served: np.ndarray, new: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return how often the new model still gives the answers the served one was sure of and the labels confirmed.

    Args:
        served, new, truth: (J, K) of each judgement.
    """
    confirmed = (served.max(1, initial=0) >= SURE) & (served.argmax(1) == truth.argmax(1))
    kept, n = int((new.argmax(1) == served.argmax(1))[confirmed].sum()), int(confirmed.sum())
    lost = n >= 5 and kept < KEPT * n
    reasons = [f"of {n} sure and confirmed answers only {kept} are kept; {KEPT:.0%} are needed"] if lost else []
    return {"confirmed": n, "kept": kept, "reasons": reasons}


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def t_cdf(t: float, freedom: int) -> float:
    """Return the distribution function of Student's t, by the finite sums for whole degrees of freedom.

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    if not math.isfinite(t):
        return 1.0 if t > 0 else 0.0
    if freedom > 200:
        return normal_cdf(t)
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cosine**2 * 2 * k / (2 * k + 1)
        within = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1) / (2 * k)
        within = sine * total
    return 0.5 * (1 + within)


def t_quantile(p: float, freedom: int) -> float:
    """Return the t with a share `p` of Student's distribution below it."""
    low, high = -1e4, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2
