"""How long a short clip waits beside a long one: a 5 s clip alone, then while a 60 s clip is analysed.

    python tests/load/beside.py talk-60s.mp4

The short clip is made here unless `--short` names one. Both go through the page's queue, each from a session of its
own, as two visitors would send them.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gradio_client import Client, handle_file

from tests import synth
from tests.load.served import served


def seconds(client: Client, clip: Path) -> float:
    since = time.perf_counter()
    client.predict(video=handle_file(clip), api_name="/analyse")
    return time.perf_counter() - since


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("long", type=Path, help="the clip that is analysed meanwhile")
    parser.add_argument("--short", type=Path, help="the clip that waits (default: 5 s, made here)")
    parser.add_argument("--after", type=float, default=2.0, help="seconds the long one has run when it comes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        short = args.short or synth.write_clip(Path(folder) / "short.mp4", seconds=5)
        first, second = (Client(server.url, verbose=False) for _ in range(2))
        seconds(first, short)  # it waits for what is loaded once
        alone = min(seconds(first, short) for _ in range(3))
        took: list[float] = []
        long_one = threading.Thread(target=lambda: took.append(seconds(second, args.long)))
        long_one.start()
        time.sleep(args.after)
        beside = seconds(first, short)
        long_one.join()
        long_alone = seconds(second, args.long)
    print(
        f"short clip alone {alone:.1f} s, beside the long one {beside:.1f} s\n"
        f"long clip alone {long_alone:.1f} s, beside the short one {took[0]:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
