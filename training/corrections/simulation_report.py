"""Simulated sessions as figures: means over seeds with intervals, and a picture of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from training.corrections.gate import t_quantile
from training.corrections.pictures import curves

KINDS = ("people", "strangers")
_INTERVAL = 0.9


def kinds_of(rounds: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rounds of each kind of session, whatever its seed, by its name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in rounds:
        wrong = "shuffled labels" if one["wrong"] >= 1 else f"{one['wrong']:.0%} wrong"
        name = f"{one['order']}, {wrong}{'' if one['exemplars'] else ', no exemplars'}"
        found.setdefault(name, []).append(one)
    return found


def summary(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each kind of session and each number of labels what was gained, and how often a run was promoted."""
    lines = []
    for name, own in kinds_of(rounds).items():
        starts = {one["seed"]: one for one in own if one["labels"] == 0}
        for n in sorted({one["labels"] for one in own} - {0}):
            here = [one for one in own if one["labels"] == n]
            line: dict[str, Any] = {"session": name, "labels": n, "seeds": len(here)}
            for kind in KINDS:
                gains = [one[kind] - starts[one["seed"]][kind] for one in here if one[kind] is not None]
                line[kind] = dict(zip(("gain", "interval"), interval(gains), strict=True)) if gains else None
            base = [one["base_change"] for one in here if one["base_change"] is not None]
            line["worst_base_change"] = min(base, default=None)
            line["promoted"] = sum(
                any(one["promoted"] for one in own if one["seed"] == seed and one["labels"] <= n) for seed in starts
            )
            lines.append(line)
    return lines


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 90 % interval by Student's distribution; None of a single value."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None
    return mean, t_quantile((1 + _INTERVAL) / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)


def draw(rounds: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a picture of UAR by labels: a panel for labelled people and one for strangers."""
    panels: dict[str, dict[str, list[tuple[int, float, float | None]]]] = {}
    for kind, title in zip(KINDS, ("people who were labelled", "strangers"), strict=True):
        lines: dict[str, list[tuple[int, float, float | None]]] = {}
        for name, own in kinds_of(rounds).items():
            for n in sorted({one["labels"] for one in own}):
                values = [one[kind] for one in own if one["labels"] == n and one[kind] is not None]
                if values:
                    lines.setdefault(name, []).append((n, *interval(values)))
        if lines:
            panels[title] = lines
    return curves(panels, xlabel="labels", ylabel="UAR of the model that serves")
