"""`analyse` for many clips: streaming, on several processes or machines, and going on where it was stopped."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mmer import checkpoint
from mmer.commands import tasks as sources
from mmer.commands.answers import Options
from mmer.commands.journal import Journal
from mmer.commands.pool import Pool
from mmer.commands.tasks import Task
from mmer.config import cores
from mmer.errors import CheckpointError

_MOST_WORKERS = 4  # each holds the models: two gigabytes with Whisper


def run(args: argparse.Namespace, options: Options) -> int:
    """Answer what `args.clips` names and is not answered yet; 1 where a clip failed, now or before."""
    if not args.out:
        args.parser.error("many clips need --out R.jsonl or R.parquet; a run that is stopped goes on from there")
    from mmer.predict import Predictor  # with torch, which a wrong call need not wait for

    n_workers = args.workers or min(cores(), _MOST_WORKERS)
    if args.engine == "processes":
        # Every worker would die of it, and each clip's row would say that it crashed: for good, by the journal.
        Predictor.device_of(options.paths.device)
    with Journal(args.out) as journal:
        options = replace(options, checkpoint=_pinned(options, journal))
        before, since = len(journal.done), time.perf_counter()
        asked: set[str] = set()
        todo = _not_done(sources.read(args.clips[0]), journal, asked)
        for answered in _progress(rows(args, todo, options, n_workers), before):
            journal.add(answered)
        seconds, now = time.perf_counter() - since, len(journal.done) - before
        journal.finish()
        _report(journal, before, now, seconds)
        return 1 if sum(n for code, n in journal.codes.items() if code) else 0


def _pinned(options: Options, journal: Journal) -> str:
    """Return the checkpoint that answers all of a run's clips, also those after a stop; it can be loaded.

    Raises:
        CheckpointError: `other_checkpoint`, or why it cannot be loaded.
    """
    root = options.paths.checkpoints
    name = options.checkpoint or journal.checkpoint or checkpoint.promoted(root)
    if journal.checkpoint not in (None, name):
        message = (
            f"{journal.out} holds answers of {journal.checkpoint!r}, not of {name!r}; name another file with --out"
        )
        raise CheckpointError("other_checkpoint", message)
    checkpoint.load(name, root)
    return name


def _not_done(all_tasks: Iterable[Task], journal: Journal, asked: set[str]) -> Iterator[Task]:
    """Yield what has no row yet; what is named twice is answered once."""
    for task in all_tasks:
        if task.id not in journal.done and task.id not in asked:
            asked.add(task.id)
            yield task


def rows(
    args: argparse.Namespace, todo: Iterator[Task], options: Options, n_workers: int
) -> Iterator[list[dict[str, Any]]]:
    if args.engine == "ray":
        from mmer.commands import on_ray

        yield from on_ray.run(todo, options, address=args.address, n_workers=n_workers, batch=args.batch)
        return
    pool = Pool(options, n_workers)
    try:
        yield from pool.run(todo, args.batch)
    finally:
        pool.close()


def _progress(found: Iterator[list[dict[str, Any]]], before: int) -> Iterator[list[dict[str, Any]]]:
    from tqdm import tqdm

    with tqdm(unit="clip", initial=before, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for rows in found:
            yield rows
            bar.update(len(rows))


def _report(journal: Journal, before: int, now: int, seconds: float) -> None:
    failed = {code: n for code, n in sorted(journal.codes.items()) if code}
    why = f" ({', '.join(f'{n} {code}' for code, n in failed.items())})" if failed else ""
    print(
        f"{now} clips in {seconds:.1f} s, {now / max(seconds, 1e-9):.2f} a second; {before} were there before; "
        f"of all {len(journal.done)} in {journal.out} {sum(failed.values())} failed{why}",
        file=sys.stderr,
    )
