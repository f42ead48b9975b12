"""A server is killed with SIGKILL and its disk is gone: every label it acknowledged has to come out of its backup.

    python tests/load/lost_disk.py --kills 20 --writers 2

Each round begins on an empty disk, filled from the backup. Writers add labels, take some back, decide some and keep
recordings, and say so on a pipe once the store has returned, while snapshots are made all the time. All are killed at
the same moment; on another empty disk the backup is opened and compared with all that was said until then.
Exit status 1 when anything is missing or changed, or a row is there that nobody wrote.
"""

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.bucket.backup import Backup
from annotations.bucket.place import open_place
from annotations.db.schema import AdjudicationRecord
from annotations.review.adjudication import adjudicate
from annotations.store import Store
from mmer.config import Paths, sqlite_url
from mmer.labels import EMOTIONS
from tests.load import kill

ROOT = Path(__file__).resolve().parents[2]
PER_CLIP = 20  # labels before the next clip
LINES = 60  # at most, that the last writer says before the kill, and then some
SNAPSHOT_S = 0.3  # so that kills come in the middle of snapshots too


@dataclass
class Measured:
    """What a series of kills showed."""

    n_said: int = 0
    n_rows: int = 0
    n_media: int = 0
    problems: list[str] = field(default_factory=list)
    label_ms: list[float] = field(default_factory=list)  # of each acknowledged label
    start_s: list[float] = field(default_factory=list)  # from an empty disk to a database that can be written to


def open_store(home: Path, bucket: str) -> Store:
    paths = Paths(home=home, assets=home / "assets", database_url=sqlite_url(home / "mmer.db"), backup=bucket)
    backup = Backup(open_place(bucket), home / "mmer.db", paths, snapshot_s=SNAPSHOT_S, tick_s=0.1)
    return Store(paths.database_url, paths.media, paths.features, backup=backup)


def write(home: Path, bucket: str, annotator: str) -> None:
    """Write until killed; print a line of JSON for what was acknowledged, as `kill.py` does, and what else was kept."""
    store = open_store(home, bucket)
    chance = random.Random(annotator)
    n = 0

    def say(*what) -> None:
        print(json.dumps(what), flush=True)

    while True:
        if n % PER_CLIP == 0:
            recording = home / f"{annotator}.wav"
            recording.write_bytes(chance.randbytes(20_000))
            sha256 = hashlib.sha256(recording.read_bytes()).hexdigest()
            clip = store.register_clip(recording, sha256, name=f"{annotator} {n}", consent_text="for this test")
            say("media", sha256)
        n += 1
        emotion, start_s = chance.choice(EMOTIONS), chance.randrange(5)  # few segments, so that labels replace others
        since = time.perf_counter()
        label_id = store.add_label(clip, annotator, emotion, start_s=start_s, end_s=start_s + 1)
        say(label_id, "label", emotion, 1000 * (time.perf_counter() - since))
        if chance.random() < 0.2:
            say(store.undo(label_id, annotator), "undo", label_id, 0)
        if chance.random() < 0.1:
            say(store.add_label(clip, annotator, outcome="skip", start_s=start_s, end_s=start_s + 1), "skip", None, 0)
        if chance.random() < 0.1:
            say("final", adjudicate(store, clip, start_s, start_s + 1, "all", emotion, annotator))


def round_of(home: Path, bucket: str, names: list[str], chance: random.Random, problems: list[str]) -> dict[str, list]:
    """Let writers work on an empty disk and kill them at some moment; return what each of them said."""
    command = [sys.executable, __file__, "--write", "--home", str(home), "--bucket", bucket, "--annotator"]
    writers, first = [], []
    for name in names:  # the first takes the backup, the others find it taken by their own machine
        writers.append(subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, cwd=ROOT))
        first.append([writers[-1].stdout.readline()])
    first[-1] += [writers[-1].stdout.readline() for _ in range(chance.randrange(1, LINES))]
    time.sleep(chance.uniform(0, 0.2))
    for writer in writers:
        writer.kill()
    said = {}
    for name, begun, writer in zip(names, first, writers, strict=True):
        lines = [*begun, *writer.communicate()[0].split("\n")]
        said[name] = [json.loads(one) for one in lines if one.endswith(("]", "]\n"))]
        if writer.returncode != -9:
            problems.append(f"{name} ended by itself with status {writer.returncode}")
    return said


def check(home: Path, said: dict[str, list]) -> tuple[int, int, list[str]]:
    """Return how many label rows and recordings a restored disk has, and what is wrong with it."""
    labels = {name: [line[:3] for line in lines if len(line) == 4] for name, lines in said.items()}
    n_rows, problems = kill.check(sqlite_url(home / "mmer.db"), home / "media", labels)
    others = [line for lines in said.values() for line in lines if len(line) == 2]
    store = Store(sqlite_url(home / "mmer.db"), home / "media")
    with store.reading() as session:
        decided = set(session.scalars(select(AdjudicationRecord.id)))
    store.engine.dispose()
    media = [what for kind, what in others if kind == "media"]
    for kind, what in others:
        if kind == "final" and what not in decided:
            problems.append(f"final label {what} was acknowledged and is gone")
        file = home / "media" / f"{what}.wav"
        if kind == "media" and not (file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == what):
            problems.append(f"recording {what[:8]} was acknowledged and is gone or damaged")
    return n_rows, len(media), problems


def measure(folder: Path, bucket: str, *, n_kills: int, n_writers: int, seed: int = 0) -> Measured:
    """Kill a round of writers `n_kills` times, each time with the loss of their disk."""
    chance, found = random.Random(seed), Measured()
    said: dict[str, list] = {}
    for n in range(n_kills):
        names = [f"writer {n}.{i}" for i in range(n_writers)]
        said |= round_of(folder / f"disk {n}a", bucket, names, chance, found.problems)
        since = time.perf_counter()
        store = open_store(home := folder / f"disk {n}b", bucket)
        found.start_s.append(time.perf_counter() - since)
        with closing(store.backup):
            store.engine.dispose()
        found.n_rows, found.n_media, problems = check(home, said)
        found.problems += [f"after kill {n + 1}: {problem}" for problem in problems]
    lines = [line for lines in said.values() for line in lines if len(line) == 4]
    found.n_said, found.label_ms = len(lines), [line[3] for line in lines if line[1] == "label"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writers", type=int, default=2, help="processes that are killed at once (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="for the moments of the kills")
    parser.add_argument("--bucket", help="an empty folder or fsspec URL (default: a new folder)")
    for internal in ("--write", "--home", "--annotator"):
        parser.add_argument(
            internal, help=argparse.SUPPRESS, **({"action": "store_true"} if internal == "--write" else {})
        )
    args = parser.parse_args()
    if args.write:
        write(Path(args.home), args.bucket, args.annotator)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bucket = args.bucket or str(Path(folder) / "bucket")
        if not args.bucket:
            Path(bucket).mkdir()
        found = measure(Path(folder), bucket, n_kills=args.kills, n_writers=args.writers, seed=args.seed)
    bad = len({problem.split(":")[0] for problem in found.problems})
    ordered = sorted(found.label_ms)
    print(
        f"{args.kills} kills of {args.writers} writers and their disk in {time.perf_counter() - started:.0f} s: "
        f"{args.kills - bad} of {args.kills} with every acknowledged label there; {found.n_said} rows acknowledged, "
        f"{found.n_rows} restored ({found.n_rows - found.n_said} were on their way), {found.n_media} recordings; "
        f"a label took {statistics.median(ordered):.1f} ms (95 % under {ordered[int(0.95 * len(ordered))]:.1f}), "
        f"a start on an empty disk {max(found.start_s):.1f} s at most"
    )
    print(*found.problems[:20], sep="\n", file=sys.stderr)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
