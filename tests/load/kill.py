"""Writers are killed with SIGKILL in the middle of their writes: every label the store acknowledged has to be there.

    python tests/load/kill.py --kills 20 --writers 2

Each writer adds labels, corrects some and takes some back, and says so on a pipe once the store has returned. All
writers of a round are killed at the same moment, then the database is opened again and compared with what they said.
Exit status 1 when a row is missing or changed, a row that nobody wrote is there, or the labels that count are not those
that follow from the rows.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import select, text

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.db.schema import AnnotatorRecord, CurrentLabelRecord, LabelRecord
from annotations.label import current_rows
from annotations.store import Store
from mmer.labels import EMOTIONS

ROOT = Path(__file__).resolve().parents[2]
PER_CLIP = 20  # labels before the next clip


def write(url: str, media_dir: Path, annotator: str) -> None:
    """Write until killed; print a line of JSON for each acknowledged row: [id, kind, emotion or superseded id]."""
    store = Store(url, media_dir)
    chance = random.Random(annotator)
    n = 0
    while True:
        if n % PER_CLIP == 0:
            clip = store.register_clip(None, f"{chance.getrandbits(256):064x}", name=f"{annotator} {n}")
        n += 1
        emotion, start_s = chance.choice(EMOTIONS), chance.randrange(5)  # few segments, so that labels replace others
        label_id = store.add_label(clip, annotator, emotion, start_s=start_s, end_s=start_s + 1)
        print(json.dumps([label_id, "label", emotion]), flush=True)
        if chance.random() < 0.2:
            print(json.dumps([store.undo(label_id, annotator), "undo", label_id]), flush=True)


def check(url: str, media_dir: Path, said: dict[str, list]) -> tuple[int, list[str]]:
    """Return how many rows the store holds and what is wrong with them.

    Args:
        said: what each annotator's writers acknowledged, in order.
    """
    store = Store(url, media_dir)
    problems = []
    with store.reading() as session:
        names = dict(session.execute(select(AnnotatorRecord.id, AnnotatorRecord.name)).all())
        stored: dict[str, dict] = {name: {} for name in said}
        groups: dict[tuple, list] = {}
        for row in session.scalars(select(LabelRecord).order_by(LabelRecord.id)):
            stored[names[row.annotator_id]][row.id] = row
            groups.setdefault((row.clip_id, row.annotator_id), []).append(row)
        for name, acknowledged in said.items():
            for key, outcome, what in acknowledged:
                row = stored[name].get(key)
                if row is None:
                    problems.append(f"{name}: {outcome} {key} was acknowledged and is gone")
                elif (row.outcome, row.supersedes if outcome == "undo" else row.top) != (outcome, what):
                    problems.append(f"{name}: row {key} is not the {outcome} of {what} that was acknowledged")
            # What was on its way at the kill may be there or not, but nothing else.
            if len(extra := stored[name].keys() - {key for key, *_ in acknowledged}) > 1:
                problems.append(f"{name}: {len(extra)} rows that were never acknowledged")
        counting = set(session.scalars(select(CurrentLabelRecord.label_id)))
        wanted = {row.id for rows in groups.values() for row in current_rows(rows)}
        if counting != wanted:
            problems.append(f"{len(counting ^ wanted)} labels count that should not, or the other way round")
        if store.engine.dialect.name == "sqlite":
            for pragma in ("integrity_check", "foreign_key_check"):
                found = [tuple(row) for row in session.execute(text(f"PRAGMA {pragma}"))]
                if found not in ([("ok",)], []):
                    problems.append(f"{pragma}: {found[:3]}")
    store.engine.dispose()
    return sum(map(len, stored.values())), problems


def measure(url: str, media_dir: Path, *, n_kills: int, n_writers: int, seed: int = 0) -> tuple[int, int, list[str]]:
    """Kill a round of writers `n_kills` times; return the rows acknowledged, the rows stored, and what is wrong."""
    chance = random.Random(seed)
    Store(url, media_dir).engine.dispose()
    said: dict[str, list] = {}
    n_rows, problems = 0, []
    for kill in range(n_kills):
        names = [f"writer {kill}.{i}" for i in range(n_writers)]
        command = [sys.executable, __file__, "--write", "--url", url, "--media", str(media_dir), "--annotator"]
        writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, cwd=ROOT) for name in names]
        first = [writer.stdout.readline() for writer in writers]  # all of them are writing now
        time.sleep(chance.uniform(0.02, 0.3))
        for writer in writers:
            writer.kill()
        for name, line, writer in zip(names, first, writers, strict=True):
            lines = [line, *writer.communicate()[0].split("\n")]
            said[name] = [json.loads(one) for one in lines if one.endswith(("]", "]\n"))]
            if writer.returncode != -9:
                problems.append(f"{name} ended by itself with status {writer.returncode}")
        n_rows, found = check(url, media_dir, said)
        problems += [f"after kill {kill + 1}: {problem}" for problem in found]
    return sum(map(len, said.values())), n_rows, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writers", type=int, default=2, help="processes that are killed at once (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="for the moments of the kills")
    parser.add_argument("--url", help="an empty database (default: a new SQLite file)")
    for internal in ("--write", "--media", "--annotator"):
        parser.add_argument(
            internal, help=argparse.SUPPRESS, **({"action": "store_true"} if internal == "--write" else {})
        )
    args = parser.parse_args()
    if args.write:
        write(args.url, Path(args.media), args.annotator)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        url = args.url or f"sqlite:///{folder}/kill.db"
        n_said, n_rows, problems = measure(
            url, Path(folder), n_kills=args.kills, n_writers=args.writers, seed=args.seed
        )
    print(
        f"{args.kills} kills of {args.writers} writers in {time.perf_counter() - started:.0f} s: "
        f"{n_said} rows acknowledged, {n_rows} stored ({n_rows - n_said} were on their way), {len(problems)} problems"
    )
    print(*problems[:20], sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
