"""How long a short clip waits beside long ones: a 5 s clip alone, then while 60 s clips are analysed.

    python tests/load/beside.py talk-60s.mp4 --visitors 2

The short clip is made here unless `--short` names one. All go through the page's queue, each from a session of its
own, as visitors would send them.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gradio_client import Client, handle_file

from tests import synth
from tests.clients import client_of
from tests.load.served import served


def seconds(client: Client, clip: Path) -> float:
    since = time.perf_counter()
    client.predict(video=handle_file(clip), api_name="/analyse")
    return time.perf_counter() - since


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("long", type=Path, help="the clip that is analysed meanwhile")
    parser.add_argument("--short", type=Path, help="the clip that waits (default: 5 s, made here)")
    parser.add_argument("--visitors", type=int, default=2, help="who send the long one at once (default 2)")
    parser.add_argument("--after", type=float, default=2.0, help="seconds the long ones have run when it comes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        short = args.short or synth.write_clip(Path(folder) / "short.mp4", seconds=5)
        first, *others = (client_of(server.url) for _ in range(1 + args.visitors))
        seconds(first, short)  # it waits for what is loaded once
        alone = min(seconds(first, short) for _ in range(3))
        long_alone = seconds(first, args.long)
        with ThreadPoolExecutor(args.visitors) as pool:
            long_ones = [pool.submit(seconds, client, args.long) for client in others]
            time.sleep(args.after)
            beside = seconds(first, short)
            ended = sum(each.done() for each in long_ones)
        took = ", ".join(f"{each.result():.1f}" for each in long_ones)
    print(
        f"short clip alone {alone:.1f} s, beside {args.visitors} long ones {beside:.1f} s ({ended} had ended by then)\n"
        f"long clip alone {long_alone:.1f} s, together with the short one {took} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
