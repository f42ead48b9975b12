"""What an ablation found: figures of each row, its tables and its figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmer.labels import MODALITIES
from mmer.metrics import paired_test
from training.experiments import corruptions, figures
from training.experiments.ablation_grid import RobustRow
from training.experiments.ablation_runner import Ablation
from training.experiments.run_cache import Run


def _right(runs: Sequence[Run]) -> np.ndarray:
    return np.mean([r.arrays["probs"].argmax(1) == r.arrays["truth"] for r in runs], axis=0)


def summary(ablation: Ablation, names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """Return one entry for each finished row: mean and deviation over seeds, and the test against its reference."""
    return [_entry(ablation, name, names, seeds) for name in names]


def _entry(ablation: Ablation, name: str, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    row = ablation.rows[name]
    runs = [ablation.run(name, seed) for seed in seeds]
    entry: dict[str, Any] = {
        "row": name,
        "group": row.group,
        "seeds": list(seeds),
        "n": runs[0].figures["n"],
        "runs": [r.figures for r in runs],
    }
    for key in ("uar", "accuracy", "macro_f1", "weighted_f1", "ece"):
        values = [r.figures[key] for r in runs]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        entry[key] = {"mean": float(np.mean(values)), "sd": deviation}
    if isinstance(row, RobustRow):
        entry |= _against_the_best_other(ablation, row, runs)
    elif row.reference and row.reference in names:
        reference = [ablation.run(row.reference, seed) for seed in seeds]
        entry["reference"] = row.reference
        entry["paired"] = paired_test(_right(runs), _right(reference), ablation.speakers(row, runs[0]))
    return entry


def _against_the_best_other(ablation: Ablation, row: RobustRow, runs: Sequence[Run]) -> dict[str, Any]:
    """Return how fusion does against the best branch whose input is not worse, and what the others are fused."""
    others = MODALITIES if row.how == "clean" else tuple(m for m in MODALITIES if m != row.modality)
    best = max(others, key=lambda m: np.mean([r.arrays[m].mean() for r in runs]))
    fused = np.mean([r.arrays["face+voice+text"] for r in runs], axis=0)
    alone = np.mean([r.arrays[best] for r in runs], axis=0)
    others_fused = [r.arrays["+".join(others)].mean() for r in runs]
    return {
        "best_remaining": {"branch": best, "accuracy": float(alone.mean())},
        "others_fused": None if row.how == "clean" else float(np.mean(others_fused)),
        "paired": paired_test(fused, alone, ablation.speakers(row, runs[0])),
    }


def _pm(value: dict) -> str:
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


_TITLES = {
    "branches": "Branches alone",
    "skip": "Without skip connections",
    "losses": "Losses",
    "augmentation": "Without augmentation",
    "transfer": "Transfer",
    "multi": "Multi-branch",
    "fusion": "Fusions on the same branches",
    "robustness": "Worse input",
}


def page(entries: Sequence[dict], about: str) -> str:
    """Return the tables as Markdown."""
    parts = [f"# Ablation\n\n{about}\n"]
    for group, title in _TITLES.items():
        own = [e for e in entries if e["group"] == group]
        if own:
            parts.append(f"\n## {title}\n")
            parts.append(_robustness_table(own) if group == "robustness" else _reference_table(own))
        if own and group in ("multi", "fusion"):
            parts += _subset_tables(own)
    return "\n".join(parts)


def _accuracy(entry: dict, subset: str) -> float:
    """Return the accuracy of a subset of branches, mean over the seeds."""
    return float(np.mean([r["subsets"][subset]["accuracy"] for r in entry["runs"]]))


def _robustness_table(entries: Sequence[dict]) -> str:
    header = ("input", *MODALITIES, "best other branch", "the others fused", "fused", "fused - best other", "p")
    rows = []
    for e in entries:
        best = f"{e['best_remaining']['accuracy']:.3f} ({e['best_remaining']['branch']})"
        alone = [_accuracy(e, m) for m in MODALITIES]
        gap = f"{e['paired']['difference']:+.3f}"
        rows.append((e["row"], *alone, best, e["others_fused"], _pm(e["accuracy"]), gap, e["paired"]["p"]))
    return figures.markdown(header, rows)


def _reference_table(entries: Sequence[dict]) -> str:
    header = ("row", "n", "UAR", "accuracy", "macro-F1", "ECE", "accuracy - reference", "p")
    rows = []
    for e in entries:
        test = e.get("paired")
        gap = f"{test['difference']:+.3f} ({e['reference']})" if test else None
        measured = [_pm(e[key]) for key in ("uar", "accuracy", "macro_f1", "ece")]
        rows.append((e["row"], e["n"], *measured, gap, test and test["p"]))
    return figures.markdown(header, rows)


def _subset_tables(entries: Sequence[dict]) -> list[str]:
    subsets = list(entries[0]["runs"][0]["subsets"])
    accuracies = [(e["row"], *(_accuracy(e, s) for s in subsets)) for e in entries]
    costs = [(e["row"], *(e["runs"][0][key] for key in ("steps", "weights", "seconds"))) for e in entries]
    return [
        "\nAccuracy of every subset, mean over the seeds:\n",
        figures.markdown(("row", *subsets), accuracies),
        "\nSteps chosen on the calibration split, weights and seconds:\n",
        figures.markdown(("row", "steps", "weights", "seconds"), costs),
    ]


def draw(folder: Path, entries: Sequence[dict]) -> None:
    """Draw each group's bars and, for voices in noise, accuracy against the level of the noise."""
    for group in dict.fromkeys(e["group"] for e in entries):
        own = [e for e in entries if e["group"] == group]
        key = "accuracy" if group in ("multi", "fusion", "robustness") else "uar"
        bars = {e["row"]: (e[key]["mean"], e[key]["sd"] if e[key]["sd"] is not None else float("nan")) for e in own}
        ours = [e["row"] for e in own if not e.get("reference")]
        figures.bars(folder / f"{group}.png", bars, f"{key}, validation", ours)
    for how in corruptions.NOISES:
        own = [e for e in entries if e["row"].startswith(f"voice-{how}")]
        if own:
            levels = [int(e["row"].rsplit("-", 1)[1][:-2]) for e in own]
            subsets = ("voice", "face+text", "face+voice+text")
            lines = {s: (levels, [_accuracy(e, s) for e in own]) for s in subsets}
            figures.lines(folder / f"noise_{how}.png", lines, "signal to noise, dB", "accuracy")
