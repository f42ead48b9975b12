"""The memory of a server over many clips: flat, and below a limit.

    python tests/load/memory.py --clips 200 --seconds 3 --limit-gb 2.5

Every clip is another one, a drawn face with a voice of its own, or a stretch of the films that are named. Words are
given, so that Whisper does not transcribe; its encoder is loaded where the checkpoint's voice branch reads it. Exit
status 1 when the server ever holds more than the limit, or grows by more than `--growth-mb` from the first quarter of
the clips to the last.
"""

import argparse
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, metavar="CLIP", help="films to cut the clips from")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each clip (default 3)")
    parser.add_argument("--limit-gb", type=float, default=2.5)
    parser.add_argument("--growth-mb", type=float, default=100.0)
    args = parser.parse_args()

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gradio_client import handle_file
from tqdm import tqdm

from tests.clients import client_of
from tests.load.batch import make_clips
from tests.load.served import served


def resident_mb(pid: int, what: str = "VmRSS") -> float:
    """Return how much memory a process holds, or (`VmHWM`) the most that it ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def main(args: argparse.Namespace) -> int:
    held: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        clips = make_clips(folder / "clips", args.sources, args.clips, args.seconds)
        with served(folder) as server:
            client = client_of(server.url)
            for number, task in enumerate(tqdm(clips, unit="clip", disable=not sys.stderr.isatty())):
                found = client.predict(
                    video=handle_file(task.path), text=f"these are words {number}", api_name="/analyse"
                )
                if not found["emotion"]:
                    raise SystemExit(f"error: nothing was said of {task.path}")
                held.append(resident_mb(server.pid))
            most = resident_mb(server.pid, "VmHWM")
    quarter = max(1, len(held) // 4)
    first, last = np.median(held[:quarter]), np.median(held[-quarter:])
    print(
        f"{len(held)} clips of {args.seconds:g} s: {first:.0f} MB in the first quarter, {last:.0f} MB in the last, "
        f"at most {most:.0f} MB"
    )
    return 1 if most > args.limit_gb * 1024 or last - first > args.growth_mb else 0


if __name__ == "__main__":
    sys.exit(main(args))
