"""Pictures of a run as SVG: what was and what is, told apart by shape and place, not by colour."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmer.labels import EMOTIONS

INK, OTHER = "#333333", "#777777"


def uri(svg: bytes) -> str:
    """Return a picture as part of a page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def before_and_after(rows: Mapping[str, tuple[float, float, float | None]]) -> bytes:
    """Draw UAR before (a ring) and after (a square) for each row: name -> served, new, standard error of the gain."""
    figure = _figure(7.0, 0.9 + 0.42 * len(rows))
    axes = figure.add_subplot()
    for y, (served, new, error) in enumerate(rows.values()):
        axes.annotate("", (new, y), (served, y), arrowprops={"arrowstyle": "->", "color": OTHER, "shrinkA": 4})
        if error is not None:
            axes.errorbar(new, y, xerr=1.645 * error, color=OTHER, capsize=3, linewidth=1, zorder=1)
        axes.plot(served, y, "o", mfc="white", mec=INK, ms=8, label="served" if y == 0 else None)
        axes.plot(new, y, "s", color=INK, ms=7, label="new" if y == 0 else None)
        axes.text(1.03, y, f"{served:.3f} to {new:.3f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="UAR; the line is the 90 % interval of the gain")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return _drawn(figure)


def confusions(tables: Mapping[str, Sequence[Sequence[int]]]) -> bytes:
    """Draw confusion matrices (K, K) side by side: rows what the labels say, columns what the model said."""
    figure = _figure(3.7 * len(tables) + 0.6, 3.9)
    for axes, (name, table) in zip(np.atleast_1d(figure.subplots(1, len(tables))), tables.items(), strict=True):
        counts = np.array(table)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for i, j in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=8)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("said", fontsize=8)
        axes.set_ylabel("labelled", fontsize=8)
    return _drawn(figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Figure) -> bytes:
    out = io.BytesIO()
    # The same run gives the same file: no date, no random names; text stays text.
    with rc_context({"svg.hashsalt": "mmer", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float, float | None]]]], xlabel: str, ylabel: str
) -> bytes:
    """Draw lines with intervals, a panel each: name -> (x, mean, half the interval); told apart by mark and dash."""
    figure = _figure(5.2 * len(panels), 4.4)
    for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            x, y = [p[0] for p in points], [p[1] for p in points]
            error = [p[2] or 0.0 for p in points]
            shade = str(0.55 * (i % 3) / 2)
            style = {"linestyle": ("-", "--", ":", "-.")[i % 4], "marker": "os^Dv*"[i % 6], "color": shade}
            axes.errorbar(x, y, yerr=error, label=name, capsize=2, linewidth=1.3, markersize=5, **style)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(xlabel, fontsize=9)
        axes.set_ylabel(ylabel, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    return _drawn(figure)
