"""Many annotators at once, from several processes: nothing lost, nothing doubled, every lease unique; and how fast.

    python tests/load/annotators.py --annotators 50 --processes 4 --seconds 60

Each annotator asks for an item, answers and asks again, with `--think` seconds between; a few items are skipped or
given back. Exit status 1 when a check fails.
"""

import argparse
import hashlib
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy import func, insert, select

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.db.schema import (
    AssignmentRecord,
    ClipRecord,
    CurrentLabelRecord,
    ItemRecord,
    LabelRecord,
    UtteranceRecord,
)
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.labels import EMOTIONS

PROJECT = "load"


@dataclass
class Said:
    """What the store told one annotator."""

    leases: set[int] = field(default_factory=set)
    labels: list[int] = field(default_factory=list)
    n_skips: int = 0
    next_s: list[float] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Report:
    seconds: float
    n_labels: int
    next_ms: tuple[float, float]  # median, 95th percentile
    submit_ms: tuple[float, float]
    problems: list[str]


def fill(store: Store, n_items: int, *, n_gold: int = 0, **settings) -> projects.Project:
    """Return a new project with so many items, each the whole of a clip of its own without media."""
    project = projects.create(store, PROJECT, actor="load", **settings)
    with store.writing() as session:
        for first in range(1, n_items + 1, 5000):
            ids = range(first, min(first + 5000, n_items + 1))
            hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in ids]
            session.execute(insert(ClipRecord), [{"sha256": h, "name": h[:8], "source": "load"} for h in hashes])
            clips = list(session.scalars(select(ClipRecord.id).order_by(ClipRecord.id.desc()).limit(len(hashes))))
            session.execute(insert(UtteranceRecord), [{"clip_id": clip} for clip in reversed(clips)])
        utterances = list(session.scalars(select(UtteranceRecord.id).order_by(UtteranceRecord.id)))
        projects.add_items(store, project, utterances, session=session)
    with store.reading() as session:
        gold = list(session.scalars(select(ItemRecord.id).order_by(ItemRecord.id).limit(n_gold)))
    for item_id in gold:
        projects.set_gold(store, project, item_id, "anger", actor="load")
    return project


def annotate(url: str, media_dir: Path, names: list[str], seconds: float, think_s: float, ready, results) -> None:
    """One process: a thread for each annotator until the time is over."""
    store = Store(url, media_dir)
    queue = Queue(store, projects.project(store, PROJECT))
    said = {name: Said() for name in names}
    ready.wait(120)
    until = time.time() + seconds
    threads = [threading.Thread(target=_annotate, args=(queue, name, until, think_s, said[name])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.engine.dispose()
    results.put(said)


def _annotate(queue: Queue, name: str, until: float, think_s: float, said: Said) -> None:
    chance = random.Random(name)
    try:
        while time.time() < until:
            started = time.perf_counter()
            tasks = queue.next(name, 2)
            said.next_s.append(time.perf_counter() - started)
            if not tasks:
                return
            said.leases.update(task.assignment_id for task in tasks)
            time.sleep(think_s)
            draw = chance.random()
            if draw < 0.02:
                queue.release(tasks[0].assignment_id, name)
                continue
            answer = Answer(outcome="skip") if draw < 0.04 else Answer(chance.choice(EMOTIONS), confidence=0.5)
            started = time.perf_counter()
            receipt = queue.submit(tasks[0].assignment_id, name, answer, lead_time_s=think_s, blind=True)
            said.submit_s.append(time.perf_counter() - started)
            said.labels += receipt.label_ids
            said.n_skips += answer.outcome == "skip"
    except Exception as error:  # whatever it is, it is what this looks for
        said.errors.append(f"{name}: {type(error).__name__}: {error}")


def measure(
    url: str,
    media_dir: Path,
    *,
    n_annotators: int,
    n_processes: int,
    seconds: float,
    n_items: int,
    lease_s: int,
    think_s: float = 0.0,
    n_gold: int = 10,
) -> Report:
    """Fill an empty database, let the annotators loose on it, and check every row against what they were told."""
    store = Store(url, media_dir)
    fill(store, n_items, n_gold=n_gold, lease_s=lease_s, order="random")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    names = [f"annotator {i}" for i in range(n_annotators)]
    ready = context.Barrier(n_processes + 1)
    processes = [
        context.Process(target=annotate, args=(url, media_dir, names[i::n_processes], seconds, think_s, ready, results))
        for i in range(n_processes)
    ]
    for process in processes:
        process.start()
    ready.wait(120)
    started = time.perf_counter()
    said = {}
    for _ in processes:
        said |= results.get(timeout=seconds + 120)
    took_s = time.perf_counter() - started
    for process in processes:
        process.join()
    problems = check(store, said)
    store.engine.dispose()
    next_s, submit_s = ([t for one in said.values() for t in getattr(one, what)] for what in ("next_s", "submit_s"))
    n_labels = sum(len(one.labels) for one in said.values())
    return Report(took_s, n_labels, _times(next_s), _times(submit_s), problems)


def check(store: Store, said: dict[str, Said]) -> list[str]:
    """Return what is wrong between the rows and what the annotators were told."""
    problems = [error for one in said.values() for error in one.errors]
    leases = Counter(lease for one in said.values() for lease in one.leases)
    told = Counter(label for one in said.values() for label in one.labels)
    problems += [f"lease {lease} was given to {n} annotators" for lease, n in leases.items() if n > 1]
    problems += [f"label id {label} was given {n} times" for label, n in told.items() if n > 1]
    with store.reading() as session:
        stored = set(session.scalars(select(LabelRecord.id)))
        current = set(session.scalars(select(CurrentLabelRecord.label_id)))
        owners = session.execute(
            select(AssignmentRecord.item_id, AssignmentRecord.annotator_id, func.count())
            .where(AssignmentRecord.state.in_(("leased", "done")))
            .group_by(AssignmentRecord.item_id, AssignmentRecord.annotator_id)
            .having(func.count() > 1)
        ).all()
        doubled = session.execute(
            select(LabelRecord.item_id, LabelRecord.annotator_id, func.count())
            .group_by(LabelRecord.item_id, LabelRecord.annotator_id)
            .having(func.count() > 1)
        ).all()
        taken = Counter(
            session.scalars(select(AssignmentRecord.item_id).filter_by(state="leased", gold=False))
        ) + Counter(
            session.scalars(
                select(LabelRecord.item_id)
                .join(AssignmentRecord, AssignmentRecord.id == LabelRecord.assignment_id)
                .where(LabelRecord.outcome != "skip", ~AssignmentRecord.gold)
            )
        )
        per_item = session.execute(select(ItemRecord.id, ItemRecord.open_slots).where(~ItemRecord.gold)).all()
    wanted = projects.project(store, PROJECT).per_item
    problems += [f"item {item} is held twice by annotator {person}" for item, person, _ in owners]
    problems += [f"item {item} has {n} labels of annotator {person}" for item, person, n in doubled]
    problems += [f"acknowledged label {label} is lost" for label in told.keys() - stored]
    problems += [f"label {label} was stored but not acknowledged" for label in stored - told.keys()]
    problems += [f"label {label} does not count" for label in stored - current]
    problems += [
        f"item {i} has {taken[i]} of {wanted} slots taken, {n} open" for i, n in per_item if taken[i] + n != wanted
    ]
    return problems


def _times(seconds: list[float]) -> tuple[float, float]:
    return tuple(round(float(t) * 1000, 1) for t in np.percentile(seconds or [0.0], (50, 95)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--think", type=float, default=0.0, metavar="S", help="pause before each answer (default 0)")
    parser.add_argument("--url", help="an empty database (default: a new SQLite file)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(
            args.url or f"sqlite:///{folder}/load.db",
            Path(folder),
            n_annotators=args.annotators,
            n_processes=args.processes,
            seconds=args.seconds,
            n_items=args.items,
            lease_s=900,
            think_s=args.think,
        )
    print(
        f"{args.annotators} annotators, {args.processes} processes, think time {args.think} s: "
        f"{report.n_labels} labels in {report.seconds:.1f} s, {report.n_labels / report.seconds:.1f} a second\n"
        f"next   p50 {report.next_ms[0]} ms, p95 {report.next_ms[1]} ms\n"
        f"submit p50 {report.submit_ms[0]} ms, p95 {report.submit_ms[1]} ms\n"
        f"problems: {len(report.problems)}"
    )
    print(*report.problems[:20], sep="\n", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
