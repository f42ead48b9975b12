"""A retraining from labels to a verdict: collect, train, gate, then promote or refuse, and record it."""

import copy
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from annotations.db.schema import OUTCOMES, TrainingRunRecord
from annotations.retention import delete_files
from annotations.review.adjudication import final_labels
from annotations.review.agreement import gold_accuracy
from annotations.store import Store
from mmer import checkpoint
from mmer.checkpoint import Checkpoint
from mmer.config import Paths
from mmer.errors import LabelError
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from mmer.predict import Predictor
from training.corrections.adapt import Examples, answers, choose, fit, probabilities
from training.corrections.collect import Skipped, TrainingExample, digest, gather, is_held_out, read, too_few
from training.corrections.config import RetrainConfig
from training.corrections.gate import gate, guard
from training.corrections.lock import locked, uninterrupted
from training.corrections.report import one_line, write_report

PROMOTED, REFUSED, TOO_FEW = 0, 3, 4  # exit statuses


@dataclass(frozen=True)
class Collected:
    """What there is to learn from."""

    items: list[TrainingExample]
    skipped: list[Skipped]
    served: Checkpoint
    examples: Examples


@dataclass(frozen=True)
class TooFew:
    """Not enough to learn from."""

    missing: str
    skipped: list[Skipped]


def retrain(paths: Paths, config: RetrainConfig, *, speech: bool = False, dry_run: bool = False) -> tuple[int, str]:
    """Do all of it; return the exit status and one line."""
    try:
        store = Store(paths.database_url, paths.media, paths.features, create=False)
    except LabelError as error:
        if error.code == "no_database":
            return TOO_FEW, f"too few labels: {error.message}"
        raise
    paths.home.mkdir(parents=True, exist_ok=True)
    with locked(paths.home, store) as note:
        found = collect(paths, store, config, speech=speech)
        for one in found.skipped:
            print(f"skipped {one.name}: {one.reason}", file=sys.stderr)
        left_out = f"; {len(found.skipped)} clips or segments skipped" if found.skipped else ""
        if isinstance(found, TooFew):
            return TOO_FEW, f"too few labels: {found.missing}{left_out}"
        if dry_run:
            _, report = train(found.served, found.items, found.examples, config)
            report |= {"removed": [], "skipped": _reasons(found.skipped)}
            line = f"dry run: {one_line(report)}"
        else:
            report = _recorded(paths, store, config, found, note)
            line = one_line(report)
        return REFUSED if report["reasons"] else PROMOTED, line + left_out


def collect(paths: Paths, store: Store, config: RetrainConfig, *, speech: bool) -> Collected | TooFew:
    """Return the corrections as examples that the served model's heads and fusion can learn from."""
    with store.reading() as session:
        gold = gold_accuracy(session)
    labels = list(store.labels(OUTCOMES))
    items, skipped = gather(labels, config.aggregation, gold=gold, final=final_labels(store))
    if missing := too_few(items, config):
        return TooFew(missing, skipped)
    predictor = Predictor(paths, checkpoint.promoted(paths.checkpoints))
    # Encoders can learn only from what they can look at again.
    deep = len({i.sha256 for i in items}) >= config.deep_from and not any(i.states for i in items)
    items, examples, unread = read(predictor, items, speech=speech, cache=paths.features, deep=deep)
    skipped += unread
    missing = too_few(items, config)
    if missing or examples is None:
        return TooFew(missing or "no clip can be read", skipped)
    return Collected(items, skipped, predictor.checkpoint, examples)


def _reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    return dict(Counter(one.reason.split(":")[0] for one in skipped))


def train(
    served: Checkpoint, items: Sequence[TrainingExample], ex: Examples, config: RetrainConfig
) -> tuple[EmotionModel, dict[str, Any]]:
    """Return a model trained on the part that may be trained on, and how it did on the held-out part."""
    held = torch.tensor([is_held_out(i.group, config.held_out) for i in items])
    learn, test = (ex.part(torch.nonzero(where).flatten()) for where in (~held, held))
    parts = {
        "train": [i for i, h in zip(items, held, strict=True) if not h],
        "held_out": [i for i, h in zip(items, held, strict=True) if h],
    }
    model = copy.deepcopy(served.model).cpu()
    choice = choose(model, learn, [i.group for i in parts["train"]], config)
    if choice.epochs:
        fit(model, learn, config, choice.strength, choice.epochs, deep=choice.deep)
        model.fusion.temperature *= choice.temperature
    with torch.no_grad():
        new = probabilities(answers(model, test, deep=choice.deep), test)
        confident = guard(learn, answers(model, learn, deep=choice.deep))
    where, old = test.labelled, probabilities(test.served, test)
    clips = [parts["held_out"][i].sha256 for i in torch.nonzero(where)[:, 0].tolist()]
    truth, before, after = (x[where].numpy() for x in (test.targets, old, new))
    held_out = gate(truth, before, after, clips, draws=config.draws, seed=config.seed)
    reasons = [] if choice.epochs else ["no way of training helped on the inner folds"]
    return model, {
        "parent": served.id,
        "reasons": [*reasons, *held_out.pop("reasons"), *confident.pop("reasons")],
        "held_out": held_out,
        "confident": confident,
        "choice": asdict(choice),
        "trained": ["heads", "fusion", *(["encoders' last layers"] if choice.deep else [])],
        "aggregation": config.aggregation,
        "settings": asdict(config),
        "data": {name: _described(part) for name, part in parts.items()},
    }


def _described(part: Sequence[TrainingExample]) -> dict[str, Any]:
    return {
        "clips": len({i.sha256 for i in part}),
        "groups": len({i.group for i in part}),
        "labels": sum(len(i.label_ids) for i in part),
        "sha256": digest(part),
    }


def _recorded(
    paths: Paths, store: Store, config: RetrainConfig, found: Collected, note: Callable[[int | None], None]
) -> dict[str, Any]:
    """Train, decide and record it as a run of the database; a run that fails or is stopped is closed as such."""
    run = store.start_run(found.served.id)
    try:
        note(run)
        with store.writing() as session:
            session.get_one(TrainingRunRecord, run).aggregation = config.aggregation
        model, report = train(found.served, found.items, found.examples, config)
        report |= {"removed": store.removals(run), "skipped": _reasons(found.skipped)}
        with uninterrupted():
            _conclude(paths, store, run, found, model, report)
    except BaseException as error:
        with uninterrupted():
            why = f"failed: {type(error).__name__}"  # its message may name a clip
            store.finish_run(run, "stopped" if isinstance(error, KeyboardInterrupt) else why)
        raise
    return report


def _conclude(
    paths: Paths, store: Store, run: int, found: Collected, model: EmotionModel, report: dict[str, Any]
) -> None:
    """Put the model in use if nothing speaks against it, and record the run."""
    served, items = found.served, found.items
    if (now := checkpoint.promoted(paths.checkpoints)) != served.id:
        report["reasons"].append(f"meanwhile {now} was put in use; run again")
    if gone := store.deleted({i.sha256 for i in items}):
        delete_files([paths.features], sorted(gone))  # what this run cached of them since
        report["reasons"].append(f"{len(gone)} of its clips were deleted meanwhile; run again")
    report["verdict"], report["checkpoint"] = ("refused" if report["reasons"] else "promoted"), None
    try:
        if not report["reasons"]:
            report["checkpoint"] = _save(paths, served, model, report)
        # The files name no clip: a deletion cleans the database's copy of the report, which does.
        write_report(paths.home / "runs" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{run}", report)
        held_out = {i.sha256 for i in items if is_held_out(i.group, report["settings"]["held_out"])}
        clips = {"skipped_clips": {one.sha256 for one in found.skipped}, "held_out_clips": held_out}
        ids = [label for i in items for label in i.label_ids]
        store.finish_run(
            run, report["verdict"], checkpoint=report["checkpoint"], report=report, clips=clips, label_ids=ids
        )
        if report["checkpoint"]:
            checkpoint.promote(report["checkpoint"], paths.checkpoints)
    except BaseException:
        if report["checkpoint"]:
            shutil.rmtree(paths.checkpoints / report["checkpoint"], ignore_errors=True)
        raise


def _save(paths: Paths, served: Checkpoint, model: EmotionModel, report: dict[str, Any]) -> str:
    meta = {k: report[k] for k in ("parent", "trained", "data", "settings", "choice", "aggregation")}
    meta |= {k: served.meta[k] for k in ("training", "stages") if k in served.meta}  # how its branches were made
    temperatures = dict(zip(MODALITIES, model.temperatures.tolist(), strict=True))
    meta |= {
        "seed": report["settings"]["seed"],
        "temperature": {**temperatures, "fused": float(model.fusion.temperature)},
        "abstain": served.meta.get("abstain"),  # the temperatures are fitted again, so confidence means what it did
        "metrics": {"held_out": report["held_out"], "confident": report["confident"]},
    }
    return checkpoint.save(model, served.config, paths.checkpoints, meta)
