"""A retraining from labels to a verdict: collect, train, gate, then promote or refuse, and record it."""

import copy
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from typing import Any

import torch

from annotations.choices import TRAIN
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
from training.corrections.adapt import CrossFit, Examples, answers, cross_fit, fit
from training.corrections.changes import changes
from training.corrections.collect import Skipped, TrainingExample, digest, gather, read, too_few
from training.corrections.config import RetrainConfig
from training.corrections.evidence import Sides, on_base, on_people, on_strangers, sides
from training.corrections.folds import Folds, near_duplicates, of_clips, of_speakers
from training.corrections.gate import Evidence, gate, guard
from training.corrections.history import JUDGED, learned_from, looks
from training.corrections.lock import locked, uninterrupted
from training.corrections.recalibrate import recalibrate
from training.corrections.report import one_line, write_report
from training.learn.exemplars import Exemplars, as_heard, of_checkpoint

PROMOTED, REFUSED, TOO_FEW = 0, 3, 4  # exit statuses


@dataclass(frozen=True)
class Collected:
    """What there is to learn from."""

    items: list[TrainingExample]
    skipped: list[Skipped]
    served: Checkpoint
    examples: Examples
    exemplars: Exemplars | None  # None: nothing is known of what the base learned from
    known: set[str]  # hashes of what the served model and those before it learned from
    looks: Callable[[Collection[str]], float]  # how often clips measured earlier runs

    @cached_property
    def groups(self) -> list[int]:
        """The group of near-duplicates that each clip is in."""
        return near_duplicates([i.likeness for i in self.items], *_clip_states(self.examples))


@dataclass(frozen=True)
class Trained:
    """A new model and what is said of it."""

    model: EmotionModel
    abstain: dict[str, Any] | None  # of its meta.json
    report: dict[str, Any]
    measured: set[str]  # hashes of the clips that the gate judged it by


@dataclass(frozen=True)
class TooFew:
    """Not enough to learn from."""

    missing: str
    skipped: list[Skipped]


def retrain(
    paths: Paths,
    config: RetrainConfig,
    *,
    speech: bool = False,
    dry_run: bool = False,
    force: bool = False,
    by: str | None = None,
) -> tuple[int, str]:
    """Do all of it; return the exit status and one line.

    Args:
        dry_run: write nothing but the cache of features.
        force: put what was learned in use whatever the gate says; the run is recorded as forced.
        by: who started it, for the log of promotions; the name this user has on the machine when None.
    """
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
        left_out = f"; skipped: {len(found.skipped)}" if found.skipped else ""
        if isinstance(found, TooFew):
            return TOO_FEW, f"too few labels: {found.missing}{left_out}"
        if dry_run:
            report = train(found, config).report
            report |= {"removed": [], "skipped": _reasons(found.skipped), "verdict": _verdict(report, force)}
            line = f"dry run: {one_line(report)}"
        else:
            report = _recorded(paths, store, config, found, note, force=force, by=by)
            line = f"{one_line(report)}; run {report['run']}"
        return REFUSED if report["verdict"] == "refused" else PROMOTED, line + left_out


def collect(paths: Paths, store: Store, config: RetrainConfig, *, speech: bool) -> Collected | TooFew:
    """Return the corrections as examples that the served model's heads and fusion can learn from."""
    with store.reading() as session:
        gold = gold_accuracy(session)
    labels = list(store.labels(OUTCOMES))
    final, lines = final_labels(store), store.lines()
    items, skipped = gather(labels, config.aggregation, gold=gold, final=final, lines=lines)
    if missing := too_few(items, config):
        return TooFew(missing, skipped)
    predictor = Predictor(paths, checkpoint.promoted(paths.checkpoints))
    hashes = {item.sha256 for item in items}
    items, examples, unread = read(predictor, items, speech=speech, cache=paths.features)
    skipped += unread
    _deleted_meanwhile(paths, store, hashes)
    missing = too_few(items, config)
    if missing or examples is None:
        return TooFew(missing or "no clip can be read", skipped)
    served = predictor.checkpoint
    exemplars = of_checkpoint(served, paths.checkpoints)
    if exemplars is None:
        print(f"no exemplars fit {served.id}: its corrections will count for all clips, near or far", file=sys.stderr)
    else:
        exemplars = as_heard(exemplars, served.model, share_heard(examples, served.model))
    known, counted = learned_from(store, served.id), partial(looks, store)
    found = Collected(items, skipped, served, examples, exemplars, known, counted)
    if len({g for g, item in zip(found.groups, items, strict=True) if item.side == TRAIN}) < 2:
        alike = "all clips for training are copies, or takes of the same words by one person; label others"
        return TooFew(alike, skipped)
    return found


def _deleted_meanwhile(paths: Paths, store: Store, hashes: Collection[str]) -> set[str]:
    """Return which clips are on record no more, and delete what a run has cached of them since."""
    gone = store.deleted(hashes)
    delete_files([paths.features], sorted(gone))
    return gone


def share_heard(ex: Examples, model: EmotionModel) -> float:
    """Return in which share of the voices Whisper's encoder listened; 1 where there are none."""
    spoken = ex.present[:, MODALITIES.index("voice")]
    pooled = ex.pooled[MODALITIES.index("voice")][spoken]
    if not len(pooled) or pooled.shape[1] == model.config.state:
        return 1.0
    return float((pooled[:, -1] > 0).float().mean())


def _verdict(report: dict[str, Any], force: bool) -> str:
    if not report["reasons"]:
        return "promoted"
    return "forced" if force and report["choice"]["strength"] else "refused"


def _reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    return dict(Counter(one.reason.split(":")[0] for one in skipped))


def train(found: Collected, config: RetrainConfig) -> Trained:
    """Return a model trained on what may be learned from, and what the gate says of it."""
    items, ex, served = found.items, found.examples, found.served
    groups = found.groups
    who = sides(items, groups, found.known)
    index = torch.nonzero(who.learn).flatten()
    learn, learners = ex.part(index), [items[i] for i in index.tolist()]
    speakers, own_groups = [i.speaker for i in learners], [groups[i] for i in index.tolist()]
    folds = {"people": of_clips(speakers, own_groups)}
    if by_speaker := of_speakers(speakers, own_groups):
        folds["strangers"] = by_speaker
    model = copy.deepcopy(served.model).cpu()
    crossed = cross_fit(model, learn, folds, found.exemplars)
    abstain, base = served.meta.get("abstain"), {}
    if crossed.choice.strength:
        strengths = [crossed.choice.strength]
        fit(model, learn, found.exemplars, strengths)
        abstain = recalibrate(model, learn, crossed.logits["people"], speakers, found.exemplars, abstain, config.seed)

        def without(exemplars: Exemplars) -> EmotionModel:
            other = copy.deepcopy(model)
            fit(other, learn, exemplars, strengths)
            return other

        base = on_base(served.model, model, without, found.exemplars)
    with torch.no_grad():
        new = answers(model, ex)
    people, strangers, measured, changed = _weigh(found, groups, who, folds, index, new, crossed)
    times = found.looks(measured)
    verdict = gate(people, strangers, base, confidence=config.confidence, looks=times)
    confident = guard(people.served, people.new, people.truth)
    nothing = [] if crossed.choice.strength else ["no way of training helped on clips that were left out"]
    parts = {"train": who.learn, "fresh": who.fresh, "held_out": who.held, "strangers": who.strange}
    report = {
        "parent": served.id,
        "reasons": [*nothing, *verdict.reasons, *confident.pop("reasons")],
        **{k: v for k, v in verdict.to_dict().items() if k != "reasons"},
        "looks": times,
        "changed": changed,
        "confident": confident,
        "choice": asdict(crossed.choice),
        "rehearsed": found.exemplars is not None,
        "trained": [f"correction of the {m}" for m in MODALITIES if m in model.corrections],
        "aggregation": config.aggregation,
        "settings": asdict(config),
        "data": {n: _described([i for i, w in zip(items, part, strict=True) if w]) for n, part in parts.items()},
    }
    return Trained(model, abstain, report, measured)


def _weigh(
    found: Collected,
    groups: Sequence[int],
    who: Sides,
    folds: dict[str, Folds],
    index: torch.Tensor,
    new: torch.Tensor,
    crossed: CrossFit,
) -> tuple[Evidence, Evidence | None, set[str], dict[str, Any]]:
    """Return the evidence on the people who were labelled and on strangers, the hashes of the clips it rests on, and
    what changed in their answers.

    What the model learned from is judged by models of the folds that had not seen it.

    Args:
        index: of the items that were learned from.
        new: logits of the new model on all items.
    """
    items, ex = found.items, found.examples
    rows = torch.isin(ex.clip, index)
    unseen = {name: new.clone() for name in folds}
    for name, logits in crossed.logits.items():
        unseen[name][rows] = logits
    judged = {"people": (who.fresh & _judged(folds["people"], index, len(items))) | who.held}
    people = on_people(items, groups, ex, unseen["people"], judged["people"])
    strangers = None
    if "strangers" in folds:
        unheard = torch.tensor([i.speaker not in who.heard_before for i in items])
        judged["strangers"] = (who.fresh & _judged(folds["strangers"], index, len(items)) & unheard) | who.strange
        strangers = on_strangers(items, ex, unseen["strangers"], judged["strangers"])
    elif who.strange.any():
        judged["strangers"] = who.strange
        strangers = on_strangers(items, ex, new, who.strange)
    measured = {items[i].sha256 for where in judged.values() for i in torch.nonzero(where).flatten().tolist()}
    weighed = {"people": people, **({"strangers": strangers} if strangers is not None else {})}
    changed = {name: changes(items, ex, judged[name], evidence) for name, evidence in weighed.items()}
    return people, strangers, measured, changed


def _clip_states(ex: Examples) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what each branch pooled of a clip (N, C), mean over its utterances, and which it has (N, 3)."""
    n = len(ex.targets)
    present = torch.zeros(n, len(MODALITIES)).index_add_(0, ex.clip, ex.present.float())
    sums = [torch.zeros(n, x.shape[1]).index_add_(0, ex.clip, x) for x in ex.pooled]
    return [x / present[:, i : i + 1].clamp_min(1) for i, x in enumerate(sums)], present > 0


def _judged(folds: Folds, index: torch.Tensor, n: int) -> torch.Tensor:
    """Return which of all clips a fold judged, as a mask (n,); the folds are of the clips in `index`."""
    judged = torch.zeros(n, dtype=torch.bool)
    for part in folds.parts:
        judged[index[part]] = True
    return judged


def _described(part: Sequence[TrainingExample]) -> dict[str, Any]:
    return {
        "clips": len({i.sha256 for i in part}),
        "speakers": len({i.speaker for i in part if i.speaker}),
        "labels": sum(len(i.label_ids) for i in part),
        "sha256": digest(part),
    }


def _recorded(
    paths: Paths,
    store: Store,
    config: RetrainConfig,
    found: Collected,
    note: Callable[[int | None], None],
    *,
    force: bool,
    by: str | None,
) -> dict[str, Any]:
    """Train, decide and record it as a run of the database; a run that fails or is stopped is closed as such."""
    run = store.start_run(found.served.id)
    try:
        note(run)
        with store.writing() as session:
            session.get_one(TrainingRunRecord, run).aggregation = config.aggregation
        trained = train(found, config)
        trained.report.update(run=run, removed=store.removals(run), skipped=_reasons(found.skipped))
        with uninterrupted():
            _conclude(paths, store, run, found, trained, force=force, by=by)
    except BaseException as error:
        with uninterrupted():
            why = f"failed: {type(error).__name__}"  # its message may name a clip
            store.finish_run(run, "stopped" if isinstance(error, KeyboardInterrupt) else why)
        raise
    return trained.report


def _conclude(
    paths: Paths, store: Store, run: int, found: Collected, trained: Trained, *, force: bool, by: str | None
) -> None:
    """Put the model in use if nothing speaks against it, and record the run."""
    served, items, report = found.served, found.items, trained.report
    report["verdict"], report["checkpoint"] = _verdict(report, force), None
    if (now := checkpoint.promoted(paths.checkpoints)) != served.id:
        report["reasons"].append(f"meanwhile {now} was put in use; run again")
        report["verdict"] = "refused"
    if gone := _deleted_meanwhile(paths, store, {i.sha256 for i in items}):
        report["reasons"].append(f"{len(gone)} of its clips were deleted meanwhile; run again")
        report["verdict"] = "refused"
    folder = paths.home / "runs" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{run}"
    try:
        if report["verdict"] != "refused":
            report["checkpoint"] = _save(paths, served, trained)
        # The files name no clip: a deletion cleans the database's copy of the report, which does.
        write_report(folder, report)
        clips = {"skipped_clips": {one.sha256 for one in found.skipped}, JUDGED: trained.measured}
        ids = [label for i in items for label in i.label_ids]
        store.finish_run(
            run, report["verdict"], checkpoint=report["checkpoint"], report=report, clips=clips, label_ids=ids
        )
        if report["checkpoint"]:
            checkpoint.promote(report["checkpoint"], paths.checkpoints, by=by)
    except BaseException:
        if report["checkpoint"] and report["checkpoint"] != checkpoint.promoted(paths.checkpoints):
            shutil.rmtree(paths.checkpoints / report["checkpoint"], ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # it would tell of a promotion
        raise


def _save(paths: Paths, served: Checkpoint, trained: Trained) -> str:
    model, report = trained.model, trained.report
    meta = {k: report[k] for k in ("run", "parent", "trained", "data", "settings", "choice", "aggregation", "verdict")}
    # How its branches were made.
    meta |= {k: served.meta[k] for k in ("training", "stages", "whisper", "streams") if k in served.meta}
    temperatures = dict(zip(MODALITIES, model.temperatures.tolist(), strict=True))
    meta |= {
        "seed": report["settings"]["seed"],
        "temperature": {**temperatures, "fused": float(model.fusion.temperature)},
        "abstain": trained.abstain,
        "metrics": {k: report[k] for k in ("people", "strangers", "base", "confident")},
    }
    return checkpoint.save(model, served.config, paths.checkpoints, meta)
