"""Train on the corrections people made, and serve the result only if it is better on clips it has not seen.

    python training/retrain.py [--dry-run] [--min-labels N] [--aggregation METHOD] [--home DIR] [--database URL]

Uses the current labels whose clip can be read: media kept with consent, a registered file that still has the same hash,
what the branches made of a clip where only that was kept (while they are the same branches), or a typed sentence. Several annotators of one clip or segment make one target, by --aggregation: the mean of their labels
(soft), the majority, the mean weighted by their answers to gold items, or Dawid and Skene's model of their confusions. A
reviewer's final label stands alone. The held-out labels are made into targets in the same way.

Groups (the speaker, else the clip) whose hash falls below --held-out are never trained on, in this run or a later one.
The encoders stay as they are: their states are computed once, and the heads and the fusion learn on them, held to the
served model by their start weights (https://arxiv.org/abs/1802.01483) and by what it said of the emotions that were not
labelled (https://arxiv.org/abs/2203.08679). From --deep-from clips on, the last layers of the encoders may learn too.
How strongly, how deep and how long is chosen by cross-validation inside the training part.

The gate promotes the new model only if on the held-out clips its UAR is higher than the served one's (the same UAR and
a lower negative log-likelihood count as higher), in nine of ten bootstrap draws by clip too; if in as many draws it beats
naming one emotion for everything, which a model can learn from labels that have nothing to do with the clips; and if
it still answers as the served model where that was sure and the label agreed.

Exit status: 0 promoted, 3 refused by the gate, 4 too few labels, 2 bad usage, 1 another error.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import copy
import fcntl
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from annotations.db.schema import OUTCOMES, TrainingRunRecord
from annotations.retention import delete_files
from annotations.review.adjudication import final_labels
from annotations.review.aggregate import METHODS
from annotations.review.agreement import gold_accuracy
from annotations.store import Store
from mmer import checkpoint
from mmer.checkpoint import Checkpoint
from mmer.config import Paths
from mmer.errors import LabelError, MmerError, TrainingError
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from mmer.predict import Predictor
from training.corrections.adapt import Examples, answers, choose, fit, probabilities
from training.corrections.collect import Judged, RetrainConfig, digest, gather, is_held_out, read, too_few
from training.corrections.gate import gate, guard
from training.corrections.report import _line, _write

PROMOTED, REFUSED, TOO_FEW = 0, 3, 4


@contextmanager
def locked(home: Path, store: Store) -> Iterator[Callable[[int], None]]:
    """Hold the only retraining of a home; yields a function that notes the run's id.

    The kernel lets go of the lock when its process dies; the run that a killed process left open is then closed.

    Raises:
        TrainingError: `already_running`.
    """
    with (home / "retrain.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            process = file.read().split(" ")[0].strip() or "unknown"
            raise TrainingError("already_running", f"process {process} is retraining; wait for it, or end it") from None

        def note(run_id: int | None = None) -> None:
            file.truncate(0)
            file.write(f"{os.getpid()} {run_id or ''}".strip())
            file.flush()

        file.seek(0)
        left = file.read().split()
        if len(left) == 2:
            with store.writing() as session:
                run = session.get(TrainingRunRecord, int(left[1]))
                if run is not None and run.finished_at is None:
                    run.verdict, run.finished_at = "killed", datetime.now(timezone.utc)
        note()
        yield note
        file.truncate(0)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits: what is written here is written whole, in milliseconds."""
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    served: Checkpoint, items: Sequence[Judged], ex: Examples, config: RetrainConfig
) -> tuple[EmotionModel, dict]:
    """Return a model trained on the part that may be trained on, and how it did on the held-out part."""
    held = torch.tensor([is_held_out(i.group, config.held_out) for i in items])
    learn, test = (ex.part(torch.nonzero(where).flatten()) for where in (~held, held))
    parts = {
        name: [i for i, h in zip(items, held, strict=True) if h == side]
        for name, side in (("train", False), ("held_out", True))
    }
    model = copy.deepcopy(served.model).cpu()
    choice = choose(model, learn, [i.group for i in parts["train"]], config)
    if choice.epochs:
        fit(model, learn, config, choice.strength, choice.epochs, deep=choice.deep)
        model.fusion.temperature *= choice.temperature
    with torch.no_grad():
        new = probabilities(answers(model, test, deep=choice.deep), test)
        kept = guard(learn, answers(model, learn, deep=choice.deep))
    where, old = test.judged, probabilities(test.served, test)
    clips = [parts["held_out"][i].sha256 for i in torch.nonzero(where)[:, 0].tolist()]
    found = gate(
        test.targets[where].numpy(), old[where].numpy(), new[where].numpy(), clips, draws=config.draws, seed=config.seed
    )
    reasons = [] if choice.epochs else ["no way of training helped on the inner folds"]
    return model, {
        "parent": served.id,
        "reasons": [*reasons, *found.pop("reasons"), *kept.pop("reasons")],
        "held_out": found,
        "confident": kept,
        "choice": asdict(choice),
        "trained": ["heads", "fusion", *(["encoders' last layers"] if choice.deep else [])],
        "aggregation": config.aggregation,
        "settings": asdict(config),
        "data": {
            name: {
                "clips": len({i.sha256 for i in part}),
                "groups": len({i.group for i in part}),
                "labels": sum(len(i.label_ids) for i in part),
                "sha256": digest(part),
            }
            for name, part in parts.items()
        },
    }


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
        with store.reading() as session:
            gold = gold_accuracy(session)
        labels = list(store.labels(OUTCOMES))
        items, skipped = gather(labels, config.aggregation, gold=gold, final=final_labels(store))
        missing = too_few(items, config)
        if not missing:
            predictor = Predictor(paths, checkpoint.promoted(paths.checkpoints))
            # Encoders can learn only from what they can look at again.
            deep = len({i.sha256 for i in items}) >= config.deep_from and not any(i.states for i in items)
            items, ex, unread = read(predictor, items, speech=speech, cache=paths.features, deep=deep)
            skipped += unread
            missing = too_few(items, config)
        for one in skipped:
            print(f"skipped {one.name}: {one.reason}", file=sys.stderr)
        left_out = f"; {len(skipped)} clips or segments skipped" if skipped else ""
        if missing:
            return TOO_FEW, f"too few labels: {missing}{left_out}"
        served = predictor.checkpoint
        run = None
        try:
            run = None if dry_run else store.start_run(served.id)
            note(run)
            if run is not None:
                with store.writing() as session:
                    session.get(TrainingRunRecord, run).aggregation = config.aggregation
            model, report = train(served, items, ex, config)
            report["removed"] = [] if run is None else store.removals(run)
            report["skipped"] = dict(Counter(one.reason.split(":")[0] for one in skipped))
            if dry_run:
                return REFUSED if report["reasons"] else PROMOTED, f"dry run: {_line(report)}{left_out}"
            with undisturbed():
                _conclude(paths, store, run, served, model, report, items, skipped)
        except BaseException as error:
            with undisturbed():
                if run is not None:
                    why = f"failed: {type(error).__name__}"  # its message may name a clip
                    store.finish_run(run, "stopped" if isinstance(error, KeyboardInterrupt) else why)
            raise
        return REFUSED if report["reasons"] else PROMOTED, _line(report) + left_out


def _conclude(paths, store, run, served, model, report, items, skipped) -> None:
    """Put the model in use if nothing speaks against it, and record the run."""
    if (now := checkpoint.promoted(paths.checkpoints)) != served.id:
        report["reasons"].append(f"meanwhile {now} was put in use; run again")
    if gone := store.deleted({i.sha256 for i in items}):
        delete_files([paths.features], sorted(gone))  # what this run cached of them since
        report["reasons"].append(f"{len(gone)} of its clips were deleted meanwhile; run again")
    report["verdict"], report["checkpoint"] = ("refused" if report["reasons"] else "promoted"), None
    try:
        if not report["reasons"]:
            meta = {k: report[k] for k in ("parent", "trained", "data", "settings", "choice", "aggregation")}
            meta |= {
                k: served.meta[k] for k in ("training", "stages") if k in served.meta
            }  # how its branches were made
            meta |= {
                "seed": report["settings"]["seed"],
                "temperature": {**dict(zip(MODALITIES, model.temperatures.tolist(), strict=True)), "fused": float(model.fusion.temperature)},
                "abstain": served.meta.get("abstain"),  # calibrated anew, so confidence means what it did
                "metrics": {"held_out": report["held_out"], "confident": report["confident"]},
            }  # fmt: skip
            report["checkpoint"] = checkpoint.save(model, served.config, paths.checkpoints, meta)
        # The files name no clip: a deletion cleans the database's copy of the report, which does.
        _write(paths.home / "runs" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{run}", report)
        held_out = {i.sha256 for i in items if is_held_out(i.group, report["settings"]["held_out"])}
        named = {"skipped_clips": {one.sha256 for one in skipped}, "held_out_clips": held_out}
        ids = [label for i in items for label in i.label_ids]
        store.finish_run(
            run, report["verdict"], checkpoint=report["checkpoint"], report=report, clips=named, label_ids=ids
        )
        if report["checkpoint"]:
            checkpoint.promote(report["checkpoint"], paths.checkpoints)
    except BaseException:
        if report["checkpoint"]:
            shutil.rmtree(paths.checkpoints / report["checkpoint"], ignore_errors=True)
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(RetrainConfig):
        kind = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=f"default {field.default}",
            choices=METHODS if field.name == "aggregation" else None,
        )  # fmt: skip
    parser.add_argument("--home", type=Path, help="in place of MMER_HOME: checkpoints, media, runs and the database")
    parser.add_argument(
        "--database", metavar="URL", help="SQLAlchemy URL or SQLite file, in place of MMER_DATABASE_URL"
    )
    parser.add_argument(
        "--speech", action="store_true", help="transcribe clips whose words nobody kept; else they have none"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; write only the features cache")
    args = parser.parse_args()
    config = RetrainConfig(**{f.name: getattr(args, f.name) for f in fields(RetrainConfig)})
    if not 0 < config.held_out < 1:
        parser.error(f"--held-out {config.held_out} is not between 0 and 1")
    for name in ("min_labels", "min_held_out", "epochs", "lr", "draws"):
        if not getattr(config, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(config, name)} is not above 0")
    if config.seed < 0:
        parser.error(f"--seed {config.seed} is below 0")
    try:
        paths = Paths.from_env()
    except MmerError as error:
        parser.error(str(error))
    if args.home:
        home = args.home.expanduser().resolve()
        paths = replace(paths, home=home, database_url=f"sqlite:///{home / 'mmer.db'}")
    if args.database:
        url = args.database if "://" in args.database else f"sqlite:///{Path(args.database).resolve()}"
        paths = replace(paths, database_url=url)

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        status, line = retrain(paths, config, speech=args.speech, dry_run=args.dry_run)
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "bad_database_url" else 1
    except KeyboardInterrupt:
        print("stopped: nothing was changed", file=sys.stderr)
        return 130
    print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
