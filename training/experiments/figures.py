"""Tables and figures of what was measured: Markdown for the page, PNG beside it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, OTHER = "#c96e0d", "#5b6b8c"  # told apart with every kind of colour blindness


def markdown(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a table; numbers with three digits, missing values as a dash."""

    def cell(value) -> str:
        if value is None:
            return "–"
        return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "/")

    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)]) + "\n"


def with_interval(value: float, ends: Sequence[float] | None, spec: str = ".3f") -> str:
    """Return a value with the ends of its interval, where there is one, as `0.804 [0.710, 0.875]`."""
    return f"{value:{spec}}" + (f" [{', '.join(f'{end:{spec}}' for end in ends)}]" if ends else "")


def _axes(width: float, height: float):
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def confusion(path: Path, table: Sequence[Sequence[int]], names: Sequence[str], title: str = "") -> None:
    """Draw a confusion matrix (K, K): shares of each true class, counts written in."""
    counts = np.array(table)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = _axes(5.4, 4.6)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        if counts[i, j]:
            ink = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, f"{counts[i, j]}\n{shares[i, j]:.0%}", ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="said", ylabel="true", title=title)
    figure.savefig(path)


def risk_coverage(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], mark: float | None = None) -> None:
    """Draw error rates against the share of rows that are answered; `mark` is the coverage of the threshold in use."""
    figure, axes = _axes(5.0, 3.4)
    for name, (coverage, risk) in curves.items():
        axes.plot(coverage, risk, label=name, linewidth=1.4)
    if mark is not None:
        axes.axvline(mark, color="black", linewidth=0.8, linestyle="dashed", label="threshold in use")
    axes.set(xlabel="coverage (share answered)", ylabel="error among answers", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def reliability(path: Path, truth: np.ndarray, probs: np.ndarray, bins: int = 15) -> None:
    """Draw accuracy against confidence over the bins of the calibration error."""
    confidence, right = probs.max(1), probs.argmax(1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    figure, axes = _axes(4.0, 3.6)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="dashed")
    for b in np.unique(which):
        inside = which == b
        size = 12 + 260 * inside.mean()
        axes.scatter(confidence[inside].mean(), right[inside].mean(), s=size, color=OURS, alpha=0.8)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path)


def bars(path: Path, rows: Mapping[str, tuple[float, float]], xlabel: str, highlight: Sequence[str] = ()) -> None:
    """Draw a bar with its deviation for each row: name -> mean, standard deviation."""
    figure, axes = _axes(6.0, 0.7 + 0.27 * len(rows))
    for y, (name, (mean, sd)) in enumerate(rows.items()):
        axes.barh(y, mean, xerr=sd if np.isfinite(sd) else 0.0, color=OURS if name in highlight else OTHER, height=0.7)
        axes.text(mean + (sd if np.isfinite(sd) else 0) + 0.004, y, f"{mean:.3f}", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.margins(x=0.12)
    figure.savefig(path)


def lines(path: Path, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> None:
    """Draw lines with their points: name -> x, y."""
    figure, axes = _axes(5.4, 3.4)
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o", markersize=3, linewidth=1.3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)
