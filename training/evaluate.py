"""Measure a checkpoint on a manifest.

    python training/evaluate.py --manifest M.csv --report R.json [--checkpoint ID] [--modalities face,voice,text]

Each row is one utterance: it is not cut further. Rows that cannot be read, and rows in which none of the modalities
asked for is found, are counted as failed and named; they are not part of the figures. Besides the figures over all
rows there are those of each group of speakers (column `group`), those against what most raters saw (column `votes`,
without ties), the error rate against the share answered, and what the checkpoint's own threshold for abstaining does
here.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import sys
from pathlib import Path

from mmer.config import Paths
from mmer.errors import TrainingError
from mmer.labels import MODALITIES
from training.command import run
from training.data import manifest
from training.data.manifest import Manifest, Row


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--checkpoint", metavar="ID", help="default: the promoted one")
    parser.add_argument("--modalities", default=",".join(MODALITIES), help="which to use, comma separated")
    parser.add_argument("--split", choices=("train", "val", "test"), help="only rows of this split")
    parser.add_argument("--no-speech", action="store_true", help="do not transcribe rows without text")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also draw confusion, calibration, recall and risk")
    return parser


def rows_of(read: Manifest, split: str | None) -> list[Row]:
    """Return the rows of a split with one label; print what is left out."""
    rows = [r for r in read.rows if split in (None, r.split)]
    single = [r for r in rows if len(r.emotions) == 1]
    for problem in read.problems:
        print(problem, file=sys.stderr)
    if len(single) < len(rows):
        print(f"{len(rows) - len(single)} rows with several labels are left out", file=sys.stderr)
    return single


def main() -> int:
    options = parser()
    args = options.parse_args()
    modalities = [m.strip() for m in args.modalities.split(",") if m.strip()]
    if not modalities or not set(modalities) <= set(MODALITIES):
        options.error(f"--modalities {args.modalities!r}: use some of {','.join(MODALITIES)}")
    read = manifest.read(args.manifest)
    rows = rows_of(read, args.split)
    if not rows:
        raise TrainingError("no_rows", f"{args.manifest} has no row that can be evaluated; see the lines above")

    import numpy as np  # and torch: --help does without

    from mmer.metrics import threshold_of
    from mmer.predict import Predictor
    from training.experiments.evaluation import draw, predictions, report

    predictor = Predictor(Paths.from_env(), args.checkpoint)
    probs, present, kept, failed = predictions(predictor, rows, modalities, speech=not args.no_speech)
    for line in failed:
        print(line, file=sys.stderr)
    if not kept:
        raise TrainingError(
            "no_rows", f"none of the {len(rows)} rows of {args.manifest} could be read; the first: {failed[0]}"
        )
    problems = [*read.problems, *failed]
    rows = [rows[i] for i in kept]
    loaded = predictor.checkpoint
    promise = loaded.meta.get("abstain")
    encoder = loaded.model.encoders["voice"]
    deaf = encoder.whisper is not None and not predictor.perceiver.encoder.loaded
    thresholds = np.array([threshold_of(promise, p, deaf=deaf) for p in present], float) if promise else None
    found = report(rows, probs, problems, loaded.id, thresholds=thresholds, seed=args.seed)
    if args.figures:
        found["figures"] = draw(args.figures, found, np.array([r.label for r in rows]), probs)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(json.dumps(found, indent=1) + "\n")
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "weighted_f1": "weighted F1", "ece": "ECE"}
    others = ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items())
    uar = f"UAR {found['uar']:.3f} {found['ci95']['uar']}"
    print(f"{found['n']} rows, {found['failed']} failed: {uar}, {others}")
    if most := found["majority"]:
        print(f"raters' majority, {most['n']} rows: UAR {most['uar']:.3f}, accuracy {most['accuracy']:.3f}")
    return 0


if __name__ == "__main__":
    run(main)
