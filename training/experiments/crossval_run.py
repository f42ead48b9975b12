"""A cross-validation from the command's options to its tables."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from mmer.config import ModelConfig, Paths
from mmer.errors import TrainingError
from mmer.speech import Transcriber
from training.data import speech_corpora, unpaired
from training.data.load import at_most
from training.data.manifest import Row
from training.experiments.crossval_report import draw, page
from training.experiments.folds import CrossValidation, Fold, emobox, hashed
from training.experiments.run_cache import Runs
from training.learn.config import TrainConfig

HOW = {
    "nested": "",
    "refit": ", trained again with the inner speakers",
    "fixed": ", all of them, on all other speakers",
}
Refuse = Callable[[str], NoReturn]  # a bad option: says why and ends the program


@dataclass(frozen=True)
class Plan:
    rows: list[Row]
    folds: list[Fold]
    unseen: Sequence[Row]
    also: Sequence[str]  # corpora whose training speakers teach beside the folds


def plan(args: argparse.Namespace, refuse: Refuse) -> Plan:
    """Return what is trained on, in which folds, and what else is measured on."""
    read = {
        "ravdess": unpaired.ravdess(args.corpora),
        "emodb": unpaired.emodb(args.corpora),
        "nemo": at_most(speech_corpora.nemo(args.corpora), TrainConfig().voice_most),
    }

    def rows_of(name: str) -> list[Row]:
        if not read.get(name):
            raise TrainingError("no_corpora", f"{args.corpora} holds no {name}; it or its speech is needed")
        return read[name]

    also = [name for name in read if name in args.also]  # one order, whatever was typed
    if args.across:
        if also:
            refuse(f"--also {' '.join(also)} is for folds of one corpus; name all that teach in --across")
        source, _, target = args.across.partition(":")
        sources = source.split("+")
        if target not in read or not set(sources) <= set(read) - {target}:
            refuse(f"--across {args.across!r}: use corpora of {', '.join(read)}, as ravdess+nemo:emodb")
        learned = [r for name in sources for r in rows_of(name)]
        rows, folds = _across(learned, rows_of(target), sources[0], args.across.replace(":", "-"))
    else:
        if args.folds == "emobox" and args.corpus != "ravdess":
            refuse("--folds emobox is for RAVDESS; give a number")
        rows = list(rows_of(args.corpus))
        people = {r.speaker for r in rows}
        folds = emobox(people) if args.folds == "emobox" else hashed(people, int(args.folds))
        if args.corpus in also:
            refuse(f"--also {args.corpus}: its folds are trained on already")
        rows += [r for name in also for r in rows_of(name) if r.split == "train"]
    if args.only:
        unknown = set(args.only) - {f.name for f in folds}
        if unknown:
            refuse(f"--only {' '.join(sorted(unknown))}: there are {', '.join(f.name for f in folds)}")
        folds = [f for f in folds if f.name in args.only]
    if args.unseen in {r.corpus for r in rows}:
        refuse(f"--unseen {args.unseen}: it is trained on")
    return Plan(rows, folds, rows_of(args.unseen) if args.unseen else (), also)


def _across(source: list[Row], target: list[Row], name: str, title: str) -> tuple[list[Row], list[Fold]]:
    """Return one fold that trains on a whole corpus and tests on another."""
    people = {r.speaker for r in source if r.corpus == name}
    inner = emobox(people)[-1].test if name == "ravdess" else hashed(people, 4)[0].test
    return [*source, *target], [Fold(title, frozenset(r.speaker for r in target), inner)]


def crossval(args: argparse.Namespace, refuse: Refuse) -> str:
    """Run every fold with every seed and write tables and figures; return what was found in one line."""
    planned = plan(args, refuse)
    seeds, folds = args.seeds if args.one is None else [args.one], planned.folds
    config = TrainConfig(
        voice_epochs=args.epochs,
        voice_lr=args.lr,
        voice_batch=args.batch,
        speaker_augment_prob=args.speaker_augment_prob,
        voice_whisper_views=args.views,
        precision=args.precision,
    )
    shape, whisper = ModelConfig.tiny() if args.model == "tiny" else ModelConfig(), None
    if args.whisper:
        whisper = Transcriber(args.whisper, download_root=Paths.from_env().assets / "whisper")
        depths, width = whisper.encoder_size()
        shape = replace(shape, whisper_depths=depths, whisper_width=width)
    runs = CrossValidation(
        planned.rows,
        args.classes,
        shape,
        config,
        Runs(args.out / "runs"),
        args.how,
        planned.unseen,
        whisper,
        args.out,
    )
    for seed, fold in (bar := tqdm([(s, f) for s in seeds for f in folds], desc="folds", mininterval=1)):
        bar.set_postfix_str(f"fold {fold.name}, seed {seed}")
        runs.run(fold, seed)
    found = runs.summary(folds, seeds)
    what, also = args.across or args.corpus, f"with {' and '.join(planned.also)}" if planned.also else ""
    folder: Path = args.out / f"{what.replace(':', '-')}-{args.classes}{'-' + also.replace(' ', '-') if also else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    n_folds = f"{len(folds)} fold{'s' if len(folds) > 1 else ''}"
    voice = "voice, by the stream from Whisper alone" if args.whisper and not args.epochs else "voice"
    about = (
        f"{what}, {voice}, {args.classes} classes, {args.epochs} epochs, {n_folds}, seeds "
        f"{', '.join(map(str, seeds))}{', ' + also if also else ''}{HOW[args.how]}. "
        "No test speaker is trained on or chooses an epoch."
    )
    report = {"about": about, "config": asdict(config), **found}
    (folder / "crossval.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "crossval.md").write_text(page(found, about))
    draw(folder, found)
    return f"mean UAR of {n_folds} {found['mean_of_folds']['uar']:.3f}; wrote {folder / 'crossval.md'}"
