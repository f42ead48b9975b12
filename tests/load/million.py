"""A database of a million labels: the time of the next item, the agreement report and an export, and their memory.

    python tests/load/million.py --out /tmp/million.db

500,000 items with two labels each, 20,000 that only one annotator has judged and that come first, and 30,000 nobody
has. The rows go straight into the tables; what is measured goes through the program. Exit status 1 when a goal is
missed: `next` 95th percentile under 20 ms, also for that one annotator; agreement under 5 s; a flat export, within
100 MB.
"""

import argparse
import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import case, func, insert, literal, select, text, update

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.db.schema import (
    AnnotatorRecord,
    AssignmentRecord,
    ClipRecord,
    CurrentLabelRecord,
    ItemRecord,
    LabelRecord,
    now,
)
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.review.agreement import agreement
from annotations.store import Store
from mmer.labels import EMOTIONS
from tests.load.annotators import PROJECT, fill

ROOT = Path(__file__).resolve().parents[2]
N_PEOPLE = 50
PIONEER = "pioneer"  # who did many items that nobody else has done yet
PART = 5000


def build(store: Store, n_full: int, n_pioneered: int, n_fresh: int) -> None:
    """Fill an empty database; item ids run from 1: full ones, then the pioneer's, then fresh ones."""
    chance = random.Random(0)
    fill(store, n_full + n_pioneered + n_fresh, order="random")
    with store.writing() as session:
        names = [f"annotator {i}" for i in range(N_PEOPLE)] + [PIONEER]
        session.execute(insert(AnnotatorRecord), [{"name": name} for name in names])
        people = dict(session.execute(select(AnnotatorRecord.name, AnnotatorRecord.id)).all())
        project_id = session.scalar(select(ItemRecord.project_id).limit(1))
        clip_of = select(ItemRecord.id, ClipRecord.id).join_from(
            ItemRecord, ClipRecord, ItemRecord.utterance_id == ClipRecord.id
        )
        clips = dict(session.execute(clip_of).all())
        left = case((ItemRecord.id <= n_full, 0), (ItemRecord.id <= n_full + n_pioneered, 1), else_=2)
        first = case((ItemRecord.id <= n_full, 0.0), (ItemRecord.id <= n_full + n_pioneered, 2.0), else_=1.0)
        spread = literal(1e-7) * ItemRecord.id
        session.execute(update(ItemRecord).values(open_slots=left, priority=first - spread))
    ordinary = [people[name] for name in names[:-1]]
    pairs = [(item, person) for item in range(1, n_full + 1) for person in chance.sample(ordinary, 2)]
    pairs += [(item, people[PIONEER]) for item in range(n_full + 1, n_full + n_pioneered + 1)]
    at = now() - timedelta(days=30)
    for start in range(0, len(pairs), PART):
        assignments, labels = [], []
        for i, (item, person) in enumerate(pairs[start : start + PART], start + 1):
            top = EMOTIONS[item % 7] if chance.random() < 0.7 else chance.choice(EMOTIONS)
            then = at + timedelta(seconds=i)
            assignments.append(
                {
                    "id": i,
                    "project_id": project_id,
                    "item_id": item,
                    "annotator_id": person,
                    "state": "done",
                    "gold": False,
                    "leased_at": then,
                    "expires_at": then,
                    "finished_at": then,
                }
            )
            labels.append(
                {
                    "id": i,
                    "clip_id": clips[item],
                    "annotator_id": person,
                    "target": "all",
                    "outcome": "label",
                    "emotions": {top: 1.0},
                    "top": top,
                    "comment": "",
                    "item_id": item,
                    "assignment_id": i,
                    "lead_time_s": 4.0,
                    "blind": True,
                    "created_at": then,
                }
            )
        with store.writing() as session:
            session.execute(insert(AssignmentRecord), assignments)
            session.execute(insert(LabelRecord), labels)
            columns = ("clip_id", "annotator_id", "item_id", "target", "top", "outcome")
            rows = select(LabelRecord.id, *(getattr(LabelRecord, name) for name in columns)).where(
                LabelRecord.id > start
            )
            session.execute(insert(CurrentLabelRecord).from_select(["label_id", *columns], rows))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if store.engine.dialect.name == "postgresql":
            for table in ("assignments", "labels", "items"):  # ids were given, not drawn
                connection.execute(text(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"))
            connection.execute(text("ANALYZE"))


def time_next(store: Store, name: str, n: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each `next` and `submit` of an annotator who labels n items."""
    queue, next_ms, submit_ms = Queue(store, projects.project(store, PROJECT)), [], []
    for _ in range(n):
        started = time.perf_counter()
        (task,) = queue.next(name)
        lent = time.perf_counter()
        queue.submit(task.assignment_id, name, Answer("anger"), lead_time_s=1.0, blind=True)
        next_ms.append((lent - started) * 1000)
        submit_ms.append((time.perf_counter() - lent) * 1000)
    return next_ms, submit_ms


def export_memory(url: str, out: Path) -> tuple[float, float]:
    """Return seconds and the highest MB of an export to JSONL in a process of its own."""
    arguments = ["export", "--database", url, "--format", "jsonl", "--out", str(out)]
    # The kernel's own high-water mark: what `wait4` tells of a child starts from its parent's.
    program = (
        f"from annotations.__main__ import main; assert main({arguments!r}) == 0; "
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="SQLite file; used as it is when it is there")
    parser.add_argument("--url", help="an empty database instead of the SQLite file")
    parser.add_argument("--items", type=int, default=500_000, help="with two labels each")
    parser.add_argument("--calls", type=int, default=300, help="of next and submit, for each annotator")
    args = parser.parse_args()
    url = args.url or f"sqlite:///{args.out}"
    store = Store(url, args.out.parent / "media")
    with store.reading() as session:
        empty = session.scalar(select(func.count()).select_from(ItemRecord)) == 0
    if empty:
        started = time.perf_counter()
        build(store, args.items, args.items // 25, args.items // 16)
        print(f"built in {time.perf_counter() - started:.0f} s")
    with store.reading() as session:
        counts = [session.scalar(select(func.count()).select_from(r)) for r in (ItemRecord, CurrentLabelRecord)]
    print(f"{counts[0]:,} items, {counts[1]:,} labels that count")
    missed = []
    for name in ("annotator 7", PIONEER, "newcomer"):
        next_ms, submit_ms = time_next(store, name, args.calls)
        n, s = (np.percentile(values, (50, 95)) for values in (next_ms, submit_ms))
        print(
            f"{name:12} next p50 {n[0]:.1f} ms, p95 {n[1]:.1f} ms, first {next_ms[0]:.1f} ms, "
            f"longest {max(next_ms):.1f} ms; submit p50 {s[0]:.1f} ms, p95 {s[1]:.1f} ms"
        )
        missed += [f"next of {name}: p95 {n[1]:.1f} ms"] * int(n[1] >= 20)
    started = time.perf_counter()
    report = agreement(store)
    took_s = time.perf_counter() - started
    print(f"agreement: alpha {report.alpha:.3f} of {report.n_labels:,} labels in {took_s:.2f} s")
    missed += [f"agreement: {took_s:.1f} s"] * int(took_s >= 5)
    small = Store(f"sqlite:///{args.out.parent / 'small.db'}", args.out.parent / "media")
    with small.reading() as session:
        if session.scalar(select(func.count()).select_from(ItemRecord)) == 0:
            build(small, 500, 20, 30)
    _, small_mb = export_memory(str(small.engine.url), args.out.parent / "small.jsonl")
    took_s, big_mb = export_memory(url, args.out.parent / "million.jsonl")
    print(f"export: {took_s:.0f} s, {big_mb:.0f} MB at most; {small_mb:.0f} MB for 1,020 labels")
    missed += [f"export: {big_mb - small_mb:.0f} MB more than for a small database"] * int(big_mb - small_mb >= 100)
    print(*(f"missed: {line}" for line in missed), sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
