"""The experiments behind the model: one part changed at a time, over several seeds, with a paired test.

    python training/ablate.py --corpora DIR --out results [--rows GROUP|ROW ...] [--seeds 0 1 2] [--budget small]

Groups of rows: `branches` (each branch alone), `skip` (without skip connections), `losses`, `augmentation` (off),
`transfer` (EMO-DB's voices learned from nothing, or starting from RAVDESS), `multi` (the branches of those rows fused),
`fusion` (attention at depth against the mainstream fusions) and `robustness` (noise, blur, cover, wrong words). With
--checkpoint the fusion and robustness rows stand on that checkpoint's branches, else on branches trained here.

A finished row is never run again, and a killed run goes on from its last epoch. Branches are measured on validation
speakers. Fusion is measured on label-matched tuples of validation examples, since the corpora are not paired. The test
against the reference row flips the signs of whole speakers (of the voices, for tuples); images and sentences without a
speaker stand for themselves. Nothing is chosen on what is measured: branches end with their last epoch, and each kind of
fusion chooses its number of steps on the calibration split.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmer import checkpoint
from mmer.config import Paths
from mmer.errors import MmerError, TrainingError
from mmer.labels import MODALITIES
from mmer.metrics import paired_test
from training.experiments import corruptions, figures
from training.experiments.ablation_data import BUDGETS, Data
from training.experiments.ablation_grid import RobustRow, all_rows
from training.experiments.ablation_runner import Ablation
from training.experiments.run_cache import Run, Runs
from training.learn.config import TrainConfig


def _right(runs: Sequence[Run]) -> np.ndarray:
    return np.mean([r.arrays["probs"].argmax(1) == r.arrays["truth"] for r in runs], axis=0)


def summary(ablation: Ablation, names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """Return one entry for each finished row: mean and deviation over seeds, and the test against its reference."""
    found = []
    for name in names:
        row = ablation.rows[name]
        runs = [ablation.run(name, seed) for seed in seeds]
        entry = {
            "row": name,
            "group": row.group,
            "seeds": list(seeds),
            "n": runs[0].figures["n"],
            "runs": [r.figures for r in runs],
        }
        for key in ("uar", "accuracy", "macro_f1", "weighted_f1", "ece"):
            values = [r.figures[key] for r in runs]
            entry[key] = {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        if isinstance(row, RobustRow):
            kept = MODALITIES if row.how == "clean" else tuple(m for m in MODALITIES if m != row.modality)
            best = max(kept, key=lambda m: np.mean([r.arrays[m].mean() for r in runs]))
            fused = np.mean([r.arrays["face+voice+text"] for r in runs], axis=0)
            alone = np.mean([r.arrays[best] for r in runs], axis=0)
            entry["best_remaining"] = {"branch": best, "accuracy": float(alone.mean())}
            others = [r.arrays["+".join(kept)].mean() for r in runs]
            entry["others_fused"] = None if row.how == "clean" else float(np.mean(others))
            entry["paired"] = paired_test(fused, alone, ablation.speakers(row, runs[0]))
        elif row.reference and row.reference in names:
            reference = [ablation.run(row.reference, seed) for seed in seeds]
            entry["reference"] = row.reference
            entry["paired"] = paired_test(_right(runs), _right(reference), ablation.speakers(row, runs[0]))
        found.append(entry)
    return found


def _pm(value: dict) -> str:
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


def page(entries: Sequence[dict], about: str) -> str:
    """Return the tables as Markdown."""
    parts = [f"# Ablation\n\n{about}\n"]
    groups = {"branches": "Branches alone", "skip": "Without skip connections", "losses": "Losses", "augmentation": "Without augmentation",
              "transfer": "Transfer", "multi": "Multi-branch", "fusion": "Fusions on the same branches", "robustness": "Worse input"}  # fmt: skip
    for group, title in groups.items():
        own = [e for e in entries if e["group"] == group]
        if not own:
            continue
        parts.append(f"\n## {title}\n")
        if group == "robustness":
            header = (
                "input",
                "face",
                "voice",
                "text",
                "best other branch",
                "the others fused",
                "fused",
                "fused - best other",
                "p",
            )
            rows = []
            for e in own:
                alone = [float(np.mean([r["subsets"][m]["accuracy"] for r in e["runs"]])) for m in MODALITIES]
                best = f"{e['best_remaining']['accuracy']:.3f} ({e['best_remaining']['branch']})"
                gap = f"{e['paired']['difference']:+.3f}"
                rows.append((e["row"], *alone, best, e["others_fused"], _pm(e["accuracy"]), gap, e["paired"]["p"]))
        else:
            header = ("row", "n", "UAR", "accuracy", "macro-F1", "ECE", "accuracy - reference", "p")
            rows = []
            for e in own:
                test = e.get("paired")
                gap = f"{test['difference']:+.3f} ({e['reference']})" if test else None
                rows.append(
                    (
                        e["row"],
                        e["n"],
                        _pm(e["uar"]),
                        _pm(e["accuracy"]),
                        _pm(e["macro_f1"]),
                        _pm(e["ece"]),
                        gap,
                        test and test["p"],
                    )
                )
        parts.append(figures.markdown(header, rows))
        if group in ("multi", "fusion"):
            subsets = list(own[0]["runs"][0]["subsets"])
            parts.append("\nAccuracy of every subset, mean over the seeds:\n")
            rows = [
                (e["row"], *(float(np.mean([r["subsets"][s]["accuracy"] for r in e["runs"]])) for s in subsets))
                for e in own
            ]
            parts.append(figures.markdown(("row", *subsets), rows))
            rows = [(e["row"], e["runs"][0]["steps"], e["runs"][0]["weights"], e["runs"][0]["seconds"]) for e in own]
            parts.append("\nSteps chosen on the calibration split, weights and seconds:\n")
            parts.append(figures.markdown(("row", "steps", "weights", "seconds"), rows))
    return "\n".join(parts)


def draw(folder: Path, entries: Sequence[dict]) -> None:
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
            lines = {s: (levels, [float(np.mean([r["subsets"][s]["accuracy"] for r in e["runs"]])) for e in own])
                     for s in ("voice", "face+text", "face+voice+text")}  # fmt: skip
            figures.lines(folder / f"noise_{how}.png", lines, "signal to noise, dB", "accuracy")


def main() -> int:
    known = all_rows()
    groups = list(dict.fromkeys(r.group for r in known.values()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/ablation"), help="tables, figures and finished runs")
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=groups, help=f"groups ({', '.join(groups)}) or rows; --list shows them")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument("--budget", choices=list(BUDGETS), default="full", help="small: fewer epochs and, for faces and sentences, fewer rows, so that two cores can do it; tiny: to see it run")  # fmt: skip
    parser.add_argument("--checkpoint", metavar="ID", help="whose branches the fusion and robustness rows stand on")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{r.group:14} {name}" for name, r in known.items()))
        return 0
    if not args.corpora:
        parser.error("--corpora is needed: the folder that holds the corpora")
    unknown = [r for r in args.rows if r not in known and r not in groups]
    if unknown:
        parser.error(f"--rows {' '.join(unknown)}: use groups ({', '.join(groups)}) or rows of --list")
    names = [n for n, r in known.items() if n in args.rows or r.group in args.rows]
    # References first, and in the table even when only what is compared with them was asked for.
    names = list(dict.fromkeys([known[n].reference for n in names if known[n].reference] + names))
    seeds = args.seeds if args.one is None else [args.one]
    served = checkpoint.load(args.checkpoint, Paths.from_env().checkpoints) if args.checkpoint else None
    if served and any(known[n].group == "multi" for n in names):
        raise TrainingError("bad_rows", "the rows of group multi need branches trained here; leave --checkpoint out")
    data = Data(args.corpora, args.out / "work", BUDGETS[args.budget])
    config = TrainConfig(precision=args.precision)
    ablation = Ablation(data, config, Runs(args.out / "runs"), served)
    branches = f"the checkpoint {served.id}" if served else "trained here"
    sizes = "; ".join(
        f"{m} {len(data.rows(m, 'train'))} rows to train on, {len(data.rows(m, 'val'))} to measure" for m in MODALITIES
    )
    bar = tqdm(total=len(names) * len(seeds), desc="rows", mininterval=1)
    for i, seed in enumerate(seeds):
        for name in names:
            bar.set_postfix_str(f"{name}, seed {seed}")
            ablation.run(name, seed)
            bar.update()
        done = seeds[: i + 1]  # the tables can be read while further seeds run
        entries = summary(ablation, names, done)
        about = f"Budget {args.budget}, seeds {', '.join(map(str, done))}; branches of fused rows: {branches}. {sizes}."
        whole = {"budget": args.budget, "seeds": done, "checkpoint": served.id if served else None, "config": asdict(ablation.config), "rows": entries}  # fmt: skip
        (args.out / "ablation.json").write_text(json.dumps(whole, indent=1) + "\n")
        (args.out / "ablation.md").write_text(page(entries, about))
        draw(args.out, entries)
    bar.close()
    print(f"wrote {args.out / 'ablation.md'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
