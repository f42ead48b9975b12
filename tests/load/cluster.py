"""How long many clips take on many machines, and what saturates first: a calculation from one clip's stages.

    python tests/load/cluster.py CLIP --clips 1000000 --nodes 50 --cores 16 [--transcribe]

Each stage of CLIP is run alone, on one thread, and its seconds of processor time are taken, which other work on this
machine changes little; so are the bytes that are read, and what the driver does for a row: parse, note, write. Every
core is taken to be one worker that is never idle. What is not measured is an option: the cores, and how fast the store
of the clips gives them out. Nothing is said of GPUs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path, metavar="CLIP")
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--cores", type=int, default=16, help="of each node (default 16)")
    parser.add_argument(
        "--store-mb-s", type=float, default=1250, help="of all nodes together (default 1250: 10 Gbit/s)"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--transcribe", action="store_true", help="let Whisper transcribe")
    args = parser.parse_args()

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer import media, voice
from mmer.commands.journal import Journal
from mmer.features import with_text
from mmer.predict import Predictor
from tests.load.floors import TEXT, floors

_ROWS = 2_000  # written to measure one


def processor_s(work: Callable[[], object], repeat: int) -> float:
    """Return the least seconds of processor time that some work took, all threads of this process."""
    used = []
    for _ in range(repeat):
        since = time.process_time()
        work()
        used.append(time.process_time() - since)
    return min(used)


def stages(predictor: Predictor, clip: Path, repeat: int, transcribe: bool) -> tuple[dict[str, float], dict]:
    """Return the processor seconds of each stage of a clip, and its row."""
    result = predictor.analyse(clip, text=None if transcribe else TEXT)
    parts = floors(predictor, clip, result, transcribe)
    found = media.stream(clip, fps=1.0, picture=False)
    samples = media.lay_out([piece for piece in found if isinstance(piece, media.AudioChunk)])

    def hear() -> None:
        voice.speech_spans(samples)
        voice.log_mel(samples)

    if len(samples):
        parts["voice"] = hear
    first, language = result.segments[0].features, predictor.language(predictor.checkpoint)
    parts["text"] = lambda: with_text(first, TEXT, language)
    for part in parts.values():  # what is loaded once
        part()
    return {name: processor_s(part, repeat) for name, part in parts.items()}, result.to_dict()


def driver_s(row: dict) -> float:
    """Return the processor seconds that the one process which writes needs for a row."""
    sent = [json.dumps({"id": f"clip {i}", **row}) for i in range(_ROWS)]
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "rows.jsonl") as journal:
        since = time.process_time()
        for text in sent:
            journal.add([json.loads(text)])
        return (time.process_time() - since) / _ROWS


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    took, row = stages(Predictor(), args.clip, args.repeat, args.transcribe)
    n_bytes, write_s = args.clip.stat().st_size, driver_s(row)
    clip_s, cores = sum(took.values()), args.nodes * args.cores
    print(f"{args.clip.name}: {row['duration_s'] or 0:.1f} s, {n_bytes / 1e6:.2f} MB, {clip_s:.2f} s of processor")
    for name, seconds in sorted(took.items(), key=lambda pair: -pair[1]):
        print(f"  {name:10} {seconds * 1e3:7.0f} ms  {seconds / clip_s:4.0%}")
    limits = {
        f"{cores:,} cores": cores / clip_s,
        f"the store, {args.store_mb_s:g} MB/s": args.store_mb_s * 1e6 / n_bytes,
        f"the driver, {write_s * 1e3:.2f} ms a row": 1 / write_s,
    }
    print(f"{args.clips:,} clips on {args.nodes} nodes of {args.cores} cores:")
    rate = min(limits.values())
    for name, limit in sorted(limits.items(), key=lambda pair: pair[1]):
        print(f"  {name:32} {limit:10,.0f} clips/s  {args.clips / limit / 3600:7.2f} h")
    first = min(limits, key=lambda name: limits[name])
    print(f"{first} come first: {args.clips / rate / 3600:.2f} h; reads {rate * n_bytes / 1e6:,.0f} MB/s then")
    others = [limit for name, limit in limits.items() if name != first]
    if first.endswith("cores"):
        print(f"the next limit is met at {np.floor(min(others) * clip_s / args.cores):,.0f} nodes")
    return 0


if __name__ == "__main__":
    sys.exit(main(args))
