"""Many visitors at once: no error, nobody gets another's result, and how long they wait against one alone.

    python tests/load/visitors.py --visitors 20 --seconds 60

Each visitor has a clip and words of their own and analyses them again and again; every answer has to name their clip's
hash and their words. Exit status 1 on an error, a mixed result, or a 95th percentile above `--visitors` single calls.
"""

import argparse
import hashlib
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clip-seconds", type=float, default=3, help="of each visitor's sound (default 3)")
    parser.add_argument("--alone", type=int, default=10, metavar="N", help="calls of one visitor alone, before")
    args = parser.parse_args()

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gradio_client import Client, handle_file

from tests import synth
from tests.clients import client_of
from tests.load.served import served


@dataclass
class Visitor:
    """One browser session and what it was told."""

    client: Client
    clip: Path
    words: str
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def ask(self) -> None:
        """Analyse once and look whose result came."""
        since = time.perf_counter()
        raw = self.client.predict(audio=handle_file(self.clip), text=self.words, api_name="/analyse")
        self.seconds.append(time.perf_counter() - since)
        if raw["sha256"] != hashlib.sha256(self.clip.read_bytes()).hexdigest():
            self.problems.append(f"{self.clip.name}: the result is of another clip, {raw['clip']}")
        if raw["transcript"]["text"] != self.words:
            self.problems.append(f"{self.clip.name}: the words are another's, {raw['transcript']['text']!r}")

    def keep_asking(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                self.ask()
            except Exception as error:  # whatever it is, it is what this looks for
                self.problems.append(f"{self.clip.name}: {type(error).__name__}: {error}")


def visitor(url: str, folder: Path, number: int, clip_s: float) -> Visitor:
    clip = folder / f"visitor {number}.wav"
    synth.write_clip(clip, seconds=clip_s, voice=synth.voice(clip_s, seed=number))
    return Visitor(client_of(url), clip, f"these are the words of visitor {number}")


def main(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        visitors = [visitor(server.url, Path(folder), number, args.clip_seconds) for number in range(args.visitors)]
        for _ in range(args.alone + 1):
            visitors[0].ask()
        single_s = float(np.median(visitors[0].seconds[1:]))  # the first waits for what is loaded once
        visitors[0].seconds.clear()
        until = time.monotonic() + args.seconds
        threads = [threading.Thread(target=each.keep_asking, args=(until,)) for each in visitors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = [s for each in visitors for s in each.seconds]
    problems = [problem for each in visitors for problem in each.problems]
    median, p95 = np.percentile(seconds or [0.0], (50, 95))
    served_each = [len(each.seconds) for each in visitors]
    print(
        f"one alone: {single_s:.2f} s\n"
        f"{args.visitors} visitors for {args.seconds:.0f} s: {len(seconds)} answers, {min(served_each)} to "
        f"{max(served_each)} each\n"
        f"p50 {median:.2f} s, p95 {p95:.2f} s: {p95 / single_s:.1f} single calls\n"
        f"problems: {len(problems)}"
    )
    print(*problems[:20], sep="\n", file=sys.stderr)
    return 1 if problems or p95 > args.visitors * single_s else 0


if __name__ == "__main__":
    sys.exit(main(args))
