"""Media and label files are damaged at random: each has to be read or refused by an error with a code.

    python tests/load/fuzz.py --files 5000 --seed 0

A file is read in a child process as analysing and importing read it: media is probed and decoded to its end, labels are
imported into a database of their own. The child may use so much memory and take so long and no more. Exit status 1 when
a file crashed it, hung it or raised an exception without a code; each such file is kept under --keep, and its number
and the seed make it again.
"""

import argparse
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.formats.import_export import ENDINGS, export_labels, import_labels
from annotations.store import Store
from mmer import media
from mmer.errors import MmerError
from tests import synth

SOUND = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
PICTURES = (".jpg", ".png", ".webp", ".avif", ".tif", ".bmp")
LABELS = ("csv", "jsonl", "labelstudio", "elan", "webvtt")
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x01")
TOKENS = (
    b"",
    b"\0",
    b"\n\n",
    b"\xff",
    b'"',
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b"NaN",
    b"-->",
    b"&x;",
    b"\xed\xa0\x80",
)
READY = "ready"


def make_originals(folder: Path) -> list[Path]:
    """Write one valid file of every kind and return them; the labels are those of a clip beside them."""
    folder.mkdir(parents=True)
    voice, stereo = synth.voice(1.0), np.stack([synth.voice(1.0)] * 2)
    for suffix in SOUND:
        synth.write_clip(folder / f"sound{suffix}", seconds=1, voice=stereo)
    for suffix in FILMS:
        synth.write_clip(folder / f"film{suffix}", seconds=1, size=96, fps=10, voice=voice)
    for suffix in PICTURES:
        synth.write_image(folder / f"picture{suffix}", synth.face(size=96), orientation=6)
    moving = [synth.talking(i / 10, size=96) for i in range(6)]
    for suffix in (".webp", ".avif"):
        moving[0].save(folder / f"moving{suffix}", save_all=True, append_images=moving[1:], duration=100)
    clip = folder / "sound.wav"
    store = Store(f"sqlite:///{folder / 'labels.db'}", folder / "media")
    known = store.register_clip(clip, media.content_hash(clip), name=clip.name, speaker="ann")
    store.add_label(known, "ann", "anger", start_s=0.1, end_s=0.4, comment="loud", confidence=0.5)
    store.add_label(known, "bob", "fear", comment='är, "so"', transcript="leave me alone")
    for format in LABELS:
        export_labels(store, folder / (f"labels.{format}" if format in ("csv", "jsonl") else f"in.{format}"), format)
    store.engine.dispose()
    (folder / "in.labelstudio").rename(folder / "in.json")
    endings = {*SOUND, *FILMS, *PICTURES, *ENDINGS}
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in endings and p.parent.name != "media")


def damaged(data: bytes, other: bytes, is_text: bool, chance: random.Random) -> bytes:
    """Return a file's bytes after one to six accidents."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        # Headers decide more than what follows them: half of the accidents happen there.
        n = len(changed) if chance.random() < 0.5 else min(len(changed), 512)
        at, length = chance.randrange(max(n, 1)), int(2 ** chance.uniform(0, 10))
        match chance.randrange(8):
            case 0 if changed:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + 4] = chance.choice(EXTREMES)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + length] = bytes(length)
            case 5:
                begin = chance.randrange(max(len(other), 1))
                changed[at : at + length] = other[begin : begin + length]
            case 6:
                changed[at : at + length] = chance.randbytes(length)
            case _:
                del changed[max(at, 1) :]
        if is_text:
            at = chance.randrange(max(len(changed), 1))
            changed[at : at + chance.randint(0, 12)] = chance.choice(TOKENS)
    return bytes(changed)


def read(path: Path) -> str:
    """Read a file as analysing or importing does; return "read" or the code of its refusal."""
    try:
        if path.suffix not in ENDINGS:
            media.probe(path)
            for _ in media.stream(path):
                pass
            return "read"
        with tempfile.TemporaryDirectory() as folder:
            store = Store(f"sqlite:///{folder}/mmer.db", Path(folder) / "media")
            try:
                return "read" if import_labels(store, path, ENDINGS[path.suffix]).imported else "no_label"
            finally:
                store.engine.dispose()
    except MmerError as error:
        return error.code


def serve(memory_mb: int) -> None:
    """Read the files named on standard input and print a line of JSON for each: how it ended, and where if badly."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20,) * 2)
    print(READY, flush=True)
    for line in sys.stdin:
        try:
            answer = {"end": "coded", "what": read(Path(line.rstrip("\n")))}
        except Exception as error:  # whatever gets here is what this script looks for
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            answer = {"end": "uncoded", "what": f"{type(error).__name__} at {where}: {str(error)[:100]}"}
        print(json.dumps(answer), flush=True)


class Reader:
    """A child process that reads files, and a new one wherever it was lost."""

    def __init__(self, memory_mb: int, limit_s: float):
        self.memory_mb, self.limit_s = memory_mb, limit_s
        self._child: subprocess.Popen | None = None

    def read(self, path: Path) -> tuple[str, str]:
        """Return how reading a file ended (coded, uncoded, crash, hang) and what is to say of it."""
        if self._child is None:
            command = [sys.executable, __file__, "--serve", "--memory-mb", str(self.memory_mb)]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
            if self._line(120.0) != READY:
                raise SystemExit("the reading process does not start; give it more with --memory-mb")
        assert self._child.stdin is not None
        self._child.stdin.write(f"{path}\n")
        self._child.stdin.flush()
        line = self._line(self.limit_s)
        if line is None:
            self.close()
            return "hang", f"not read after {self.limit_s:.0f} s"
        if not line:
            status = self._child.wait()
            self.close()
            return "crash", f"ended with {status}"
        answer = json.loads(line)
        return answer["end"], answer["what"]

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _line(self, within_s: float) -> str | None:
        """Return what the child says next, "" when it ended, None when it says nothing in time."""
        assert self._child is not None
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], within_s)
        return self._child.stdout.readline().strip() if ready else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first file: to make one again")
    parser.add_argument("--limit-s", type=float, default=20.0, help="a file that takes longer hangs")
    parser.add_argument("--memory-mb", type=int, default=3072, help="address space of the reading process")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where files that failed are kept")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.memory_mb)
        return 0
    ends: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    slowest_s, since = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        originals = make_originals(Path(name) / "originals")
        data = [p.read_bytes() for p in originals]
        reader = Reader(args.memory_mb, args.limit_s)
        for path in originals:
            if (end := reader.read(path)) != ("coded", "read"):
                raise SystemExit(f"{path.name} is not damaged, but reading it ends with {end}")
        print(f"seed {args.seed}: {len(originals)} kinds of files", flush=True)
        for n in tqdm(range(args.first, args.first + args.files), unit="file", mininterval=5):
            chance = random.Random(f"{args.seed}:{n}")
            i, j = chance.randrange(len(originals)), chance.randrange(len(originals))
            suffix = originals[i].suffix
            path = originals[i].parent / f"{n}-{originals[i].stem}{suffix}"  # labels name the clip that lies there
            path.write_bytes(damaged(data[i], data[j], suffix in ENDINGS, chance))
            begun = time.monotonic()
            end, what = reader.read(path)
            slowest_s = max(slowest_s, time.monotonic() - begun)
            ends[end] += 1
            codes[what] += end == "coded"
            if end != "coded":
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.seed}-{path.name}").write_bytes(path.read_bytes())
                tqdm.write(f"seed {args.seed} file {n} ({originals[i].name}): {end}: {what}")
            path.unlink()
        reader.close()
    took_s = time.monotonic() - since
    print(f"{args.files} files in {took_s:.0f} s ({args.files / took_s:.1f} a second), the slowest {slowest_s:.1f} s")
    print(", ".join(f"{name} {codes[name]}" for name, _ in codes.most_common()))
    print(f"crashes {ends['crash']}, hangs {ends['hang']}, uncoded exceptions {ends['uncoded']}")
    return int(ends.total() != ends["coded"])


if __name__ == "__main__":
    sys.exit(main())
