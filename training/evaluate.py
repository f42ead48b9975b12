"""Measure a checkpoint on a manifest.

    python training/evaluate.py --manifest M.csv --report R.json [--checkpoint ID] [--modalities face,voice,text]

Each row is one utterance: it is not cut further. Rows that cannot be read, and rows in which none of the modalities asked
for is found, are counted as failed and named; they are not part of the figures. Besides the figures over all rows there are
those of each group of speakers (column `group`), the error rate against the share answered, and what the checkpoint's own
threshold for abstaining does here.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmer.config import Paths
from mmer.errors import ClipError, MmerError, TrainingError
from mmer.features import Features
from mmer.labels import EMOTIONS, MODALITIES
from mmer.metrics import (
    area_under_risk_coverage,
    bootstrap,
    by_group,
    classification,
    headline,
    risk_coverage,
    threshold_of,
)
from mmer.predict import Predictor
from training.data import manifest
from training.data.manifest import Row
from training.experiments import figures

_BATCH = 32


def perceive(predictor: Predictor, row: Row, modalities: Sequence[str], speech: bool) -> Features:
    """Return one row's utterance as the model reads it.

    Raises:
        ClipError: it cannot be read, or holds none of the modalities (`nothing_readable`).
    """
    files = [row.path] if row.path else []
    observation = predictor.observe(
        *files,
        text=row.text or None,
        speech=speech,
        modalities=modalities,
        start_s=row.start_s,
        end_s=row.end_s,
        whole=True,
        face_crop=row.crop == "face",
    )
    features = observation.features[0]
    if not any(features.present):
        reasons = "; ".join(n.message for n in observation.quality) or "it has none of these streams"
        raise ClipError("nothing_readable", f"{row.name}: no {', '.join(modalities)} to read: {reasons}")
    return features


def predictions(
    predictor: Predictor, rows: Sequence[Row], modalities: Sequence[str], *, speech: bool = False
) -> tuple[np.ndarray, np.ndarray, list[int], list[str]]:
    """Return fused probabilities (N, K) and what was present (N, 3), which rows they belong to, a line for each that failed."""

    def one(i: int) -> tuple[int, Features | MmerError]:
        try:
            return i, perceive(predictor, rows[i], modalities, speech)
        except MmerError as error:
            return i, error

    probs, present, kept, failed = [], [], [], []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        stream: Iterator = iter(range(len(rows)))
        bar = tqdm(total=len(rows), unit="row", mininterval=2)
        while indices := list(islice(stream, _BATCH)):
            found = list(pool.map(one, indices))
            good = [(i, f) for i, f in found if isinstance(f, Features)]
            failed += [f"line {rows[i].line}: {f}" for i, f in found if not isinstance(f, Features)]
            if good:
                segments = predictor.judge([f for _, f in good])
                probs += [s.probs for s in segments]
                present += [s.present for s in segments]
                kept += [i for i, _ in good]
            bar.update(len(indices))
        bar.close()
    return np.array(probs), np.array(present), kept, failed


def report(
    rows: Sequence[Row],
    probs: np.ndarray,
    failed: Sequence[str],
    checkpoint: str,
    *,
    thresholds: np.ndarray | None = None,
    seed: int = 0,
) -> dict:
    """Return the figures of the contract for rows with one label each, and those named in this module's head."""
    truth = np.array([r.label for r in rows])
    speakers = [r.speaker for r in rows]
    whole = classification(truth, probs)
    confidence, right = probs.max(1), probs.argmax(1) == truth
    coverage, risk = risk_coverage(confidence, right)
    groups = by_group(truth, probs, speakers, [r.group for r in rows], seed=seed)
    kept = confidence >= (0.0 if thresholds is None else thresholds)
    return {
        "n": whole["n"],
        "failed": len(failed),
        **{k: whole[k] for k in ("uar", "accuracy", "macro_f1", "weighted_f1", "ece", "per_class", "confusion")},
        "ci95": bootstrap(truth, probs.argmax(1), speakers, seed=seed),
        "by_corpus": {
            corpus: headline(classification(truth[where], probs[where]))
            for corpus in sorted({r.corpus for r in rows})
            if (where := np.array([r.corpus == corpus for r in rows])).any()
        },
        "by_group": groups["groups"],
        "gaps": groups["gaps"],
        "aurc": area_under_risk_coverage(confidence, right),
        "risk_coverage": [
            {"coverage": round(float(coverage[i]), 4), "risk": round(float(risk[i]), 4)}
            for i in sorted({max(round(len(rows) * share / 20) - 1, 0) for share in range(1, 21)})
        ],
        "abstention": None
        if thresholds is None
        else {
            "thresholds": sorted({float(t) for t in thresholds}),
            "coverage": float(kept.mean()),
            "accuracy": float(right[kept].mean()) if kept.any() else None,
        },
        "checkpoint": checkpoint,
        "failures": list(failed),
    }


def draw(folder: Path, found: dict, truth: np.ndarray, probs: np.ndarray) -> list[str]:
    """Write the figures of a report and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    figures.confusion(
        folder / "confusion.png", found["confusion"], EMOTIONS, f"{found['n']} rows, UAR {found['uar']:.3f}"
    )
    curve = risk_coverage(probs.max(1), probs.argmax(1) == truth)
    mark = found["abstention"]["coverage"] if found["abstention"] else None
    figures.risk_coverage(folder / "risk_coverage.png", {f"AURC {found['aurc']:.3f}": curve}, mark)
    figures.reliability(folder / "reliability.png", truth, probs)
    recalls = {f"{e} ({c['n']})": (c["recall"], float("nan")) for e, c in found["per_class"].items()}
    figures.bars(folder / "recall.png", recalls, "recall")
    return ["confusion.png", "risk_coverage.png", "reliability.png", "recall.png"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--checkpoint", metavar="ID", help="default: the promoted one")
    parser.add_argument("--modalities", default=",".join(MODALITIES), help="which to use, comma separated")
    parser.add_argument("--split", choices=("train", "val", "test"), help="only rows of this split")
    parser.add_argument("--no-speech", action="store_true", help="do not transcribe rows without text")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also draw confusion, calibration, recall and risk")
    args = parser.parse_args()
    modalities = [m.strip() for m in args.modalities.split(",") if m.strip()]
    if not modalities or not set(modalities) <= set(MODALITIES):
        parser.error(f"--modalities {args.modalities!r}: use some of {','.join(MODALITIES)}")
    read = manifest.read(args.manifest)
    rows = [r for r in read.rows if args.split in (None, r.split)]
    several = [r for r in rows if len(r.emotions) > 1]
    rows = [r for r in rows if len(r.emotions) == 1]
    for problem in read.problems:
        print(problem, file=sys.stderr)
    if several:
        print(f"{len(several)} rows with several labels are left out", file=sys.stderr)
    if not rows:
        raise TrainingError("no_rows", f"{args.manifest} has no row that can be evaluated; see the lines above")
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
    thresholds = np.array([threshold_of(promise, p) for p in present], float) if promise else None
    found = report(rows, probs, problems, loaded.id, thresholds=thresholds, seed=args.seed)
    if args.figures:
        found["figures"] = draw(args.figures, found, np.array([r.label for r in rows]), probs)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{found['n']} rows, {found['failed']} failed: UAR {found['uar']:.3f} {found['ci95']['uar']}, accuracy "
        f"{found['accuracy']:.3f}, macro-F1 {found['macro_f1']:.3f}, weighted F1 {found['weighted_f1']:.3f}, ECE {found['ece']:.3f}"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
