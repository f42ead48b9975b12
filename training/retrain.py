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
import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from annotations.db.schema import OUTCOMES, TrainingRunRecord
from annotations.label import Label
from annotations.retention import delete_files
from annotations.review.adjudication import finals
from annotations.review.aggregate import METHODS, Key, aggregate
from annotations.review.agreement import gold_accuracy
from annotations.store import Store
from mmer import checkpoint, media
from mmer.branch_states import load as load_states
from mmer.checkpoint import Checkpoint
from mmer.config import Paths
from mmer.errors import ClipError, LabelError, MmerError, TrainingError
from mmer.features import collate
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.model import Batch, BranchStates, EmotionModel
from mmer.predict import Predictor
from training.adapt import OUTPUTS, AdaptConfig, Examples, answers, choose, examples, fit, probabilities
from training.gate import gate, guard
from training.loop import save_atomically

PROMOTED, REFUSED, TOO_FEW = 0, 3, 4
_CACHE = 1  # version of the cached features


@dataclass(frozen=True)
class RetrainConfig(AdaptConfig):
    min_labels: int = 20  # below it a third of the labels cannot tell a better model from a lucky one
    held_out: float = 0.3  # share of the groups that measure and are never trained on
    min_held_out: int = 6  # clips: with fewer, no honest difference passes the gate
    draws: int = 2000  # of the gate's bootstrap
    aggregation: str = "soft"  # of several annotators: one of METHODS


@dataclass(frozen=True)
class Judged:
    """What people said of one clip or segment."""

    sha256: str
    name: str
    media: Path | None  # None: only words
    in_place: bool
    start_s: float | None
    end_s: float | None
    words: str | None  # as an annotator left them
    group: str  # never on both sides of a split
    targets: dict[str, list[float]]  # output -> (K,) shares, what the annotators' labels come to
    label_ids: tuple[int, ...]
    states: Path | None = None  # where no media was kept: what the branches made of it

    @property
    def key(self) -> str:
        return f"{self.sha256} {self.start_s} {self.end_s} {self.words}"


@dataclass(frozen=True)
class Skipped:
    """A clip or segment that nothing can be learnt from."""

    sha256: str
    name: str
    reason: str  # "code: words"


def gather(
    labels: Sequence[Label],
    method: str = "soft",
    *,
    gold: Mapping[str, tuple[int, int]] | None = None,
    final: Mapping[Key, Mapping[str, float]] | None = None,
) -> tuple[list[Judged], list[Skipped]]:
    """Return what can be trained on, and each clip or segment that cannot.

    Args:
        labels: of any outcome: a reviewer may have decided where nobody could tell.
        method: of `annotations.review.aggregate`, as `gold` and `final` are.
    """
    made = aggregate(labels, method, gold=gold, final=final)
    found: dict[tuple, list[Label]] = {}
    for label in labels:
        found.setdefault((label.sha256, label.start_s, label.end_s), []).append(label)
    judged, skipped = [], []
    for (sha256, start_s, end_s), rows in found.items():
        first = rows[0]
        words = next((r.transcript for r in reversed(rows) if r.transcript is not None), first.words)
        targets = {}
        for output in OUTPUTS:
            shares = made.get((sha256, start_s, end_s, output))
            if shares:
                targets[output] = [shares.get(e, 0.0) for e in EMOTIONS]
        if not targets:
            continue  # nobody could tell
        states = first.states if first.media is None else None
        if first.media is None and states is None:
            # Of a recording that was not kept, words can be judged only by a label about the words.
            typed = words and hashlib.sha256(words.encode()).hexdigest() == sha256
            targets = targets if typed else {k: v for k, v in targets.items() if k == "text" and (words or "").strip()}
            if not targets:
                skipped.append(
                    Skipped(sha256, first.name, "media_missing: the recording was not kept, or is no longer there")
                )
                continue
        group = f"speaker {first.speaker}" if first.speaker else f"clip {sha256}"
        ids = tuple(r.id for r in rows if r.target in targets and r.outcome == "label")
        judged.append(
            Judged(sha256, first.name, first.media, first.in_place, start_s, end_s, words, group, targets, ids, states)
        )
    return judged, skipped


def is_held_out(group: str, share: float) -> bool:
    """Whether a group only ever measures; a larger share keeps those of a smaller one."""
    return int(hashlib.sha256(f"held out {group}".encode()).hexdigest()[:12], 16) < share * 16**12


def perceive(predictor: Predictor, item: Judged, *, speech: bool, cache: Path | None) -> tuple[Batch, Tensor]:
    """Return a clip's utterances as model input and the share of each in the clip's verdict.

    Raises:
        ClipError: it cannot be read, has changed, or shows nothing (`nothing_readable`).
    """
    config = predictor.checkpoint.config
    if item.media is not None and media.content_hash(item.media) != item.sha256:
        raise ClipError("clip_changed", "the file is no longer the one that was labelled")
    heard_by = predictor.perceiver.transcriber.model_name if speech and item.words is None else None
    reading = json.dumps([_CACHE, asdict(config), item.start_s, item.end_s, item.words, heard_by])
    file = cache / f"{item.sha256}-{hashlib.sha256(reading.encode()).hexdigest()[:16]}.pt" if cache else None
    if file is not None and file.is_file():
        try:
            kept = torch.load(file, weights_only=True)
            return Batch(**{f.name: kept[f.name] for f in fields(Batch)}), kept["share"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
            file.unlink(missing_ok=True)  # a damaged cache costs a second look
    files = [item.media] if item.media is not None else []
    segment = item.start_s is not None
    seen = predictor.observe(
        *files, text=item.words, speech=speech and item.words is None, start_s=item.start_s, end_s=item.end_s, whole=segment
    )  # fmt: skip
    share = torch.tensor([f.weight for f in seen.features])
    if not share.sum() > 0:
        raise ClipError("nothing_readable", "neither a face, nor a voice, nor words were found")
    batch, share = collate(seen.features, config), share / share.sum()
    if file is not None and not any(n.code.endswith("_unavailable") for n in seen.quality):
        cache.mkdir(parents=True, exist_ok=True)
        save_atomically({f.name: getattr(batch, f.name) for f in fields(Batch)} | {"share": share}, file)
    return batch, share


def read(
    predictor: Predictor, items: Sequence[Judged], *, speech: bool, cache: Path | None, deep: bool
) -> tuple[list[Judged], Examples | None, list[tuple[str, str]]]:
    """Return the clips that can be read, what the branches make of them, and (name, reason) of the others."""

    loaded, device = predictor.checkpoint, predictor.device

    def one(item: Judged) -> tuple[BranchStates, Tensor, Tensor, Batch | None] | str:
        try:
            if item.states:
                return *load_states(item.states, loaded.model, item.start_s, item.end_s), None
            batch, share = perceive(predictor, item, speech=speech, cache=cache)
        except MmerError as error:
            return f"{error.code}: {error.message}"
        except OSError as error:
            return f"clip_unreadable: {error.strerror}"
        with torch.no_grad():
            states = loaded.model.branches(batch.to(device))
        return states, batch.present, share, batch if deep else None  # a 2 s clip has 150 kB of crops and log-mel

    kept, found, skipped = [], [], []
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        stream = tqdm(pool.map(one, items), total=len(items), desc="clips", unit="clip", mininterval=1)
        for item, seen in zip(items, stream, strict=True):
            if isinstance(seen, str):
                skipped.append(Skipped(item.sha256, item.name, seen))
            else:
                kept.append(item)
                found.append(seen)
    finally:
        pool.shutdown(cancel_futures=True)
    if not kept:
        return [], None, skipped
    states, present, share, batches = zip(*found, strict=True)
    ex = examples(
        loaded.model,
        tuple(torch.cat([s.middles[i].cpu() for s in states]) for i in range(len(MODALITIES))),
        torch.cat([s.tops.cpu() for s in states]),
        torch.cat(present),
        torch.cat(share),
        torch.repeat_interleave(torch.arange(len(kept)), torch.tensor([len(s) for s in share])),
        torch.tensor([[item.targets.get(o, [0.0] * N_EMOTIONS) for o in OUTPUTS] for item in kept]),
        batches if deep else (),
    )
    useful = ex.judged.any(1)
    skipped += [
        Skipped(item.sha256, item.name, "nothing_to_teach: what the label is about was not found in it")
        for item, use in zip(kept, useful, strict=True)
        if not use
    ]
    return [i for i, use in zip(kept, useful, strict=True) if use], ex.part(torch.nonzero(useful).flatten()), skipped


def too_few(items: Sequence[Judged], config: RetrainConfig) -> str | None:
    """Return what is missing before training can start, None when it can."""
    n_labels = sum(len(i.label_ids) for i in items)
    if n_labels < config.min_labels:
        return f"{n_labels} labels can be trained on, {config.min_labels} are needed"
    held = [i for i in items if is_held_out(i.group, config.held_out)]
    rest = [i for i in items if not is_held_out(i.group, config.held_out)]
    for part, use in ((held, "measuring"), (rest, "training")):
        n_clips, n_groups = len({i.sha256 for i in part}), len({i.group for i in items})
        if n_clips < config.min_held_out:
            return (
                f"{n_clips} clips are for {use}, {config.min_held_out} are needed; speakers are never split "
                f"(there are {n_groups} speakers or clips without one): label more of them"
            )
        named = {e for i in part for t in i.targets.values() if (e := _majority(t)) is not None}
        if len(named) < 2:
            return f"the clips for {use} name fewer than two emotions; label clips with other emotions too"
    return None


def _majority(target: Sequence[float]) -> int | None:
    first, second = sorted(target)[:-3:-1]
    return list(target).index(first) if first > second + 1e-9 else None


def digest(items: Sequence[Judged]) -> str:
    """Return a hash of which clips with which labels; it names no clip, so a deletion need not find it."""
    lines = sorted(f"{i.key} {json.dumps(i.targets, sort_keys=True)}" for i in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
        items, skipped = gather(labels, config.aggregation, gold=gold, final=finals(store))
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


def _line(report: dict) -> str:
    """Return the run in one line."""
    held, data = report["held_out"], report["data"]
    figures = f"UAR {held['served']['uar']:.3f} -> {held['new']['uar']:.3f} on {held['clips']} held-out clips"
    learnt = f"learnt from {data['train']['clips']} clips"
    if report["reasons"]:
        return f"refused, {report['parent']} stays in use: {'; '.join(report['reasons'])} ({figures}, {learnt})"
    return f"promoted {report.get('checkpoint') or 'nothing yet'}: {figures}, {learnt}"


def _write(folder: Path, report: dict) -> None:
    """Write report.json, and report.md for people."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    held, data, choice = report["held_out"], report["data"], report["choice"]
    lines = [
        f"# Retraining: {report['verdict']}",
        "",
        *[f"- {reason}" for reason in report["reasons"]],
        f"- served: {report['parent']}; new: {report['checkpoint'] or 'not kept'}",
        f"- trained: {', '.join(report['trained'])}; {choice['epochs']} epochs, held to the served model by {choice['strength']}",
        f"- inside the training part the loss went from {choice['served_nll']:.3f} to {choice['nll']:.3f}",
        f"- several annotators made one target by: {report['aggregation']}",
        *[
            f"- removed since the last run: {r['clips']} clips, {r['labels']} labels "
            + ("stayed, anonymous" if r["labels_kept"] else "went with them")
            for r in report["removed"]
        ],
        f"- skipped: {', '.join(f'{n} {code}' for code, n in report['skipped'].items()) or 'nothing'}",
        "",
        f"| {held['clips']} held-out clips | UAR | accuracy | NLL | ECE |",
        "|---|---|---|---|---|",
        *[f"| {who} | " + " | ".join(f"{held[who][k]:.3f}" for k in ("uar", "accuracy", "nll", "ece")) + " |" for who in ("served", "new")],
        "",
        f"Better in {held['better_in']:.0%} of the bootstrap draws, better than naming one emotion in {held['informed_in']:.0%}; "
        f"{report['confident']['kept']} of {report['confident']['confirmed']} sure and confirmed answers are kept.",
        "",
        "| part | clips | speakers or clips without one | labels |",
        "|---|---|---|---|",
        *[f"| {name} | {part['clips']} | {part['groups']} | {part['labels']} |" for name, part in data.items()],
    ]  # fmt: skip
    (folder / "report.md").write_text("\n".join(lines) + "\n")


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
