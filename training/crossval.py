"""Cross-validate the voice branch over speakers who are never trained on, the epoch chosen without them.

    python training/crossval.py --corpora DIR --out results/crossval [--classes 8] [--folds emobox] [--epochs N]
    python training/crossval.py --corpora DIR --out results/crossval --classes 8 --fixed --unseen emodb
    python training/crossval.py --corpora DIR --out results/crossval --across ravdess:emodb

RAVDESS has the folds of EmoBox (https://arxiv.org/abs/2406.07162) by name; a fold is left out when one of its actors is
missing. Any other corpus is cut into --folds parts by a hash of its speakers' names. In each fold the speakers of the
next fold are kept out of training too, and the epoch is the one that serves them best; the test speakers are read once.
--refit then trains again on those speakers as well and stops at that epoch; --fixed chooses nothing and trains on all
other speakers for all epochs. The branch has a head of its own for the experiment, so that RAVDESS can keep calm apart
from neutral (--classes 8); the same answers are then also measured with calm counted as neutral. --across trains on one
whole corpus and tests on another; --unseen measures every fold's branch on another corpus as well.

What is finished is never run again, and a killed fold goes on from its last epoch.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmer.config import ModelConfig
from mmer.errors import MmerError, TrainingError
from training.data import unpaired
from training.data.manifest import Row
from training.experiments import figures
from training.experiments.folds import CrossValidation, Fold, emobox, hashed
from training.experiments.run_cache import Runs
from training.learn.config import TrainConfig

HOW = {
    "nested": "",
    "refit": ", trained again with the inner speakers",
    "fixed": ", all of them, on all other speakers",
}


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
    rows = [
        (p["fold"], ", ".join(p["speakers"]), r["n"], r["uar"], r["accuracy"], r["macro_f1"], r["epoch"])
        for p in found["folds"]
        for r in p["runs"]
    ]
    parts.append(figures.markdown(("fold", "test speakers", "n", "UAR", "accuracy", "macro-F1", "epoch"), rows))
    parts.append("\nAll test rows together, 95 % intervals by speaker:\n")
    rows = []
    for p in found["pooled"]:
        gap = p["gaps"]["gaps"].get("uar")
        said = f"{gap['gap']:.3f} {gap['ci95']} ({gap['best']} better)" if gap else None
        rows.append((p["seed"], p["n"], f"{p['uar']:.3f} {p['ci95']['uar']}", f"{p['accuracy']:.3f} {p['ci95']['accuracy']}", p["macro_f1"], p["ece"], said))  # fmt: skip
    parts.append(figures.markdown(("seed", "n", "UAR", "accuracy", "macro-F1", "ECE", "gap in UAR"), rows))
    recalls = [(c, *(p["per_class"][c]["recall"] if c in p["per_class"] else None for p in found["pooled"])) for c in found["classes"]]  # fmt: skip
    parts.append("\nRecall of each class:\n")
    parts.append(figures.markdown(("class", *(f"seed {p['seed']}" for p in found["pooled"])), recalls))
    return "\n".join(parts)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/crossval"), help="tables, figures and finished runs")
    parser.add_argument("--corpus", choices=("ravdess", "emodb"), default="ravdess")
    parser.add_argument(
        "--classes", type=int, choices=(7, 8), default=7, help="8: RAVDESS with calm apart from neutral"
    )
    parser.add_argument("--folds", default="emobox", help="emobox, or how many to make (default: emobox)")
    parser.add_argument("--only", nargs="+", metavar="FOLD", help="run these folds only")
    parser.add_argument(
        "--across", metavar="TRAIN:TEST", help="train on one corpus and test on another, as ravdess:emodb"
    )
    parser.add_argument("--unseen", choices=("ravdess", "emodb"), help="measure every fold's branch on this corpus too")
    parser.add_argument("--also", choices=("ravdess", "emodb"), help="train on this corpus' training speakers too")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--refit", dest="how", action="store_const", const="refit", default="nested", help="train again with the inner speakers, up to the chosen epoch")  # fmt: skip
    how.add_argument("--fixed", dest="how", action="store_const", const="fixed", help="choose nothing: all other speakers, all epochs")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument("--epochs", type=int, default=TrainConfig().voice_epochs, help="default %(default)s; fewer are another experiment")  # fmt: skip
    parser.add_argument("--batch", type=int, default=TrainConfig().voice_batch)
    parser.add_argument("--lr", type=float, default=TrainConfig().voice_lr)
    parser.add_argument(
        "--speaker-augment-prob",
        type=float,
        default=TrainConfig().speaker_augment_prob,
        help="of an utterance to be made another speaker's, default %(default)s",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--model", choices=("full", "tiny"), default="full", help="tiny: to see it run")
    args = parser.parse_args()
    if args.folds != "emobox" and not (args.folds.isdigit() and int(args.folds) > 2):
        parser.error(f"--folds {args.folds!r}: give emobox or a number from 3")
    seeds = args.seeds if args.one is None else [args.one]
    read = {"ravdess": unpaired.ravdess(args.corpora), "emodb": unpaired.emodb(args.corpora)}

    def of(name: str) -> list[Row]:
        if not read.get(name):
            raise TrainingError("no_corpora", f"{args.corpora} holds no {name}; it or its speech is needed")
        return read[name]

    if args.across:
        source, _, target = args.across.partition(":")
        if {source, target} != {"ravdess", "emodb"}:
            parser.error(f"--across {args.across!r}: use ravdess:emodb or emodb:ravdess")
        rows = [*of(source), *of(target)]
        inner = emobox({r.speaker for r in of(source)})[-1].test if source == "ravdess" else hashed({r.speaker for r in of(source)}, 4)[0].test  # fmt: skip
        folds = [Fold(args.across.replace(":", "-"), frozenset(r.speaker for r in of(target)), inner)]
    else:
        rows = list(of(args.corpus))
        people = {r.speaker for r in rows}
        if args.folds == "emobox" and args.corpus != "ravdess":
            parser.error("--folds emobox is for RAVDESS; give a number")
        folds = emobox(people) if args.folds == "emobox" else hashed(people, int(args.folds))
        if args.also and args.also != args.corpus:
            rows += [r for r in of(args.also) if r.split == "train"]
    if args.only:
        unknown = set(args.only) - {f.name for f in folds}
        if unknown:
            parser.error(f"--only {' '.join(sorted(unknown))}: there are {', '.join(f.name for f in folds)}")
        folds = [f for f in folds if f.name in args.only]
    if args.unseen in {r.corpus for r in rows}:
        parser.error(f"--unseen {args.unseen}: it is trained on")
    config = TrainConfig(
        voice_epochs=args.epochs, voice_lr=args.lr, voice_batch=args.batch, speaker_augment_prob=args.speaker_augment_prob, precision=args.precision
    )  # fmt: skip
    shape = ModelConfig.tiny() if args.model == "tiny" else ModelConfig()
    unseen = of(args.unseen) if args.unseen else ()
    runs = CrossValidation(rows, args.classes, shape, config, Runs(args.out / "runs"), args.how, unseen)
    for seed, fold in (bar := tqdm([(s, f) for s in seeds for f in folds], desc="folds", mininterval=1)):
        bar.set_postfix_str(f"fold {fold.name}, seed {seed}")
        runs.run(fold, seed)
    found = runs.summary(folds, seeds)
    what = args.across or args.corpus
    name = f"{what.replace(':', '-')}-{args.classes}" + (f"-with-{args.also}" if args.also else "")
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"{what}, voice, {args.classes} classes, {args.epochs} epochs, {len(folds)} folds, seeds {', '.join(map(str, seeds))}"
        f"{', with ' + args.also if args.also else ''}{HOW[args.how]}. "
        "No test speaker is trained on or chooses an epoch."
    )
    (folder / "crossval.json").write_text(
        json.dumps({"about": about, "config": asdict(config), **found}, indent=1) + "\n"
    )
    (folder / "crossval.md").write_text(page(found, about))
    draw(folder, found)
    print(f"mean UAR of {len(folds)} folds {found['mean_of_folds']['uar']:.3f}; wrote {folder / 'crossval.md'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
