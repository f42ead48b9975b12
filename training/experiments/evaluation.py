"""A checkpoint's answers to the rows of a manifest, and the figures of them."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmer.errors import ClipError, MmerError
from mmer.features import Features
from mmer.labels import EMOTIONS, N_EMOTIONS
from mmer.metrics import area_under_risk_coverage, bootstrap, by_group, classification, headline, risk_coverage
from mmer.predict import Predictor
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
    """Return fused probabilities (N, K), what was present (N, 3), whose rows these are, a line for each that failed."""

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
        "majority": _majority(rows, probs),
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


def _majority(rows: Sequence[Row], probs: np.ndarray) -> dict | None:
    """Return the figures against what most raters saw, over the rows on which one emotion has most of their votes."""
    votes = np.array([r.votes or (0.0,) * N_EMOTIONS for r in rows])
    most = votes.max(1, initial=0.0)
    clear = (most > 0) & ((votes == most[:, None]).sum(1) == 1)
    return headline(classification(votes[clear].argmax(1), probs[clear])) if clear.any() else None


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
