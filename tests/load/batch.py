"""Many clips by one or more processes, against a plain loop, measured in turn in one run.

    python tests/load/batch.py [CLIP...] --clips 40 --workers 1 2 --rounds 3

Each of the clips differs: stretches of the named clips, or a drawn face and a synthesised voice. In each round a loop
in this process answers all of them, then the engine does with each number of workers, until the last row is written.
All are warm: loading the model is not measured. The loop and every worker have `--threads` threads. Other work on the
machine slows whatever runs, so the medians of the rounds are compared and the seconds of processor time are told
beside them, which it changes less.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, metavar="CLIP", help="films to cut the clips from")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--clip-seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of the loop's model and of each worker's (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transcribe", action="store_true", help="let Whisper transcribe")
    args = parser.parse_args()

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer import media
from mmer.commands import tasks
from mmer.commands.answers import Options, answer_all, predictor_of
from mmer.commands.journal import Journal
from mmer.commands.pool import Pool
from mmer.commands.tasks import Task
from mmer.config import Paths, cores
from tests import synth

FPS = 25


def stretch(source: Path, clip: Path, start_s: float, seconds: float) -> None:
    """Write a stretch of a film as a film of its own."""
    pieces = list(media.stream(source, fps=FPS, start_s=start_s, end_s=start_s + seconds))
    pictures = [Image.fromarray(piece.rgb) for piece in pieces if isinstance(piece, media.VideoFrame)]
    sounds = [piece.samples for piece in pieces if isinstance(piece, media.AudioChunk)]
    synth.write_clip(
        clip,
        seconds=seconds,
        fps=FPS,
        face=(lambda t: pictures[min(round(t * FPS), len(pictures) - 1)]) if pictures else False,
        voice=np.concatenate(sounds) if sounds else False,
    )


def make_clips(folder: Path, sources: list[Path], n_clips: int, seconds: float) -> list[Task]:
    """Return clips that all differ: of each source one stretch after the other, each begun a little later."""
    for number in range(n_clips):
        clip = folder / f"{number:03}.mp4"
        if sources:
            source, turn = sources[number % len(sources)], number // len(sources)
            room_s = max((media.probe(source).duration_s or 0.0) - seconds, 0.0)
            stretch(source, clip, room_s * turn * len(sources) / n_clips, seconds)
        else:
            synth.write_clip(clip, seconds=seconds, size=320, voice=synth.voice(seconds, seed=number))
    return list(tasks.read(str(folder)))


def cpu_s(pids: list[int]) -> float:
    """Return the processor time that processes have used, all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def timed(pids: list[int], work: Callable[[], int], n_clips: int) -> tuple[float, float]:
    """Return clips a second and processor seconds a clip of some work that answers `n_clips`."""
    since, used = time.perf_counter(), cpu_s(pids)
    n_done = work()
    if n_done != n_clips:
        raise SystemExit(f"error: {n_done} of {n_clips} clips were answered")
    return n_clips / (time.perf_counter() - since), (cpu_s(pids) - used) / n_clips


def drain(pool: Pool, some: list[Task], out: Path) -> int:
    """Let a pool answer tasks into a new file; return how many it did without an error."""
    with Journal(out) as journal:
        for rows in pool.run(iter(some), 1):
            journal.add(rows)
        return journal.codes[""]


def main(args: argparse.Namespace) -> int:
    options = Options(Paths.from_env(), speech=args.transcribe)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        clips = make_clips(folder / "clips", args.sources, args.clips, args.clip_seconds)
        torch.set_num_threads(args.threads)
        predictor = predictor_of(options)
        pools = {n: Pool(options, n, args.threads) for n in args.workers}
        found: dict[str, list[tuple[float, float]]] = {"loop": [], **{f"{n} workers": [] for n in pools}}
        try:
            answer_all(predictor, clips[:2], options)
            for n, pool in pools.items():  # each worker loads the model with its first clip
                drain(pool, clips[: 2 * n], folder / f"warm {n}.jsonl")
            for turn in range(args.rounds):

                def loop() -> int:
                    return sum("error" not in row for row in answer_all(predictor, clips, options))

                found["loop"].append(timed([os.getpid()], loop, len(clips)))
                for n, pool in pools.items():
                    out = folder / f"{n} {turn}.jsonl"
                    pids = [os.getpid(), *(worker.process.pid for worker in pool._workers)]
                    found[f"{n} workers"].append(
                        timed(pids, lambda pool=pool, out=out: drain(pool, clips, out), len(clips))
                    )
        finally:
            for pool in pools.values():
                pool.close()
    print(f"{len(clips)} clips of {args.clip_seconds:g} s, {args.rounds} rounds, {cores()} cores, medians:")
    loop_cpu = float(np.median([used for _, used in found["loop"]]))
    for what, rounds in found.items():
        rates, used = zip(*rounds, strict=True)
        ratios = [rate / first for (rate, _), (first, _) in zip(rounds, found["loop"], strict=True)]
        print(
            f"{what:9}  {np.median(rates):.2f} clips/s ({np.median(ratios):.2f} x the loop), "
            f"{np.median(used):.2f} s of processor a clip ({np.median(used) / loop_cpu:.2f} x)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(args))
