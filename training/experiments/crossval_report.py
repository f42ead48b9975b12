"""What a cross-validation found: its tables and its figures."""

from pathlib import Path

import numpy as np

from training.experiments import figures


def page(found: dict, about: str) -> str:
    """Return the tables as Markdown."""
    mean = found["mean_of_folds"]
    over = ", ".join(f"sd over {k.rsplit('_', 1)[1]} {v:.3f}" for k, v in mean.items() if k != "uar" and v is not None)
    parts = [
        f"# Cross-validation\n\n{about}\n\nMean UAR of the folds **{mean['uar']:.3f}**{f' ({over})' if over else ''}.\n"
    ]
    if "calm_as_neutral" in found:
        parts.append(f"Calm counted as neutral, seven classes: **{found['calm_as_neutral']['uar']:.3f}**.\n")
    if "unseen" in found:
        other = found["unseen"]
        parts.append(
            f"On the corpus nobody trained on, mean UAR of the folds' branches **{other['uar']:.3f}**; of their mean "
            f"answer {other['together']['uar']:.3f} ({other['together']['n']} utterances).\n"
        )
    return "\n".join([*parts, *_tables(found)])


def _tables(found: dict) -> list[str]:
    rows = [
        (p["fold"], ", ".join(p["speakers"]), r["n"], r["uar"], r["accuracy"], r["macro_f1"], r["epoch"])
        for p in found["folds"]
        for r in p["runs"]
    ]
    parts = [figures.markdown(("fold", "test speakers", "n", "UAR", "accuracy", "macro-F1", "epoch"), rows)]
    parts.append("\nAll test rows together, 95 % intervals by speaker:\n")
    rows = []
    for p in found["pooled"]:
        gap = p["gaps"]["gaps"].get("uar")
        difference = f"{figures.with_interval(gap['gap'], gap['ci95'])} ({gap['best']} better)" if gap else None
        uar, accuracy = (figures.with_interval(p[key], p["ci95"][key]) for key in ("uar", "accuracy"))
        rows.append((p["seed"], p["n"], uar, accuracy, p["macro_f1"], p["ece"], difference))
    parts.append(figures.markdown(("seed", "n", "UAR", "accuracy", "macro-F1", "ECE", "gap in UAR"), rows))
    recalls = [(c, *(p["per_class"].get(c, {}).get("recall") for p in found["pooled"])) for c in found["classes"]]
    parts.append("\nRecall of each class:\n")
    parts.append(figures.markdown(("class", *(f"seed {p['seed']}" for p in found["pooled"])), recalls))
    return parts


def draw(folder: Path, found: dict) -> None:
    table = np.sum([p["confusion"] for p in found["pooled"]], axis=0)
    figures.confusion(folder / "confusion.png", table, found["classes"], "all folds and seeds")
    bars = {}
    for p in found["folds"]:
        uars = [r["uar"] for r in p["runs"]]
        bars[f"fold {p['fold']}"] = (
            float(np.mean(uars)),
            float(np.std(uars, ddof=1)) if len(uars) > 1 else float("nan"),
        )
    figures.bars(folder / "folds.png", bars, "UAR on unseen speakers")
    curves = {}
    for p in found["folds"]:
        curve = p["runs"][0]["inner"]
        epochs = sorted(map(int, curve))
        curves[f"fold {p['fold']}"] = (epochs, [curve[str(e)] for e in epochs])
    if any(epochs for epochs, _ in curves.values()):
        figures.lines(folder / "epochs.png", curves, "epoch", "UAR of the inner speakers")
