"""How long a start takes: the import of mmer.predict, a first page, and being ready for a clip.

    python tests/load/startup.py --repeat 3

Each from a process of its own, the fastest of `--repeat` tries: the files are then in memory. With `--imports` it says
which modules the import of mmer.predict waits for.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.load.served import ROOT, wait_for


def import_s(module: str) -> float:
    code = f"import time; since = time.perf_counter(); import {module}; print(time.perf_counter() - since)"
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout)


def slowest_imports(module: str, n: int) -> list[tuple[float, str]]:
    """Return the milliseconds and names of the modules whose import takes longest, what they import included."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True
    )
    found = re.findall(r"import time:\s+\d+ \|\s+(\d+) \| +(\S+)", run.stderr)
    return sorted(((int(us) / 1e3, name) for us, name in found), reverse=True)[:n]


def start_s(home: Path) -> tuple[float, float]:
    """Return the seconds from the start of app.py to a first page, and to being ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    since = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "MMER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/", server)
        page_s = time.perf_counter() - since
        wait_for(f"http://127.0.0.1:{port}/readyz", server)
        return page_s, time.perf_counter() - since
    finally:
        server.kill()
        server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--imports", type=int, default=0, metavar="N", help="also name the N slowest imports")
    args = parser.parse_args()
    print(f"import mmer.predict: {min(import_s('mmer.predict') for _ in range(args.repeat)):.2f} s")
    print(f"of it import torch:  {min(import_s('torch') for _ in range(args.repeat)):.2f} s")
    for ms, name in slowest_imports("mmer.predict", args.imports) if args.imports else ():
        print(f"  {ms:7.0f} ms  {name}")
    with tempfile.TemporaryDirectory() as home:
        starts = [start_s(Path(home)) for _ in range(args.repeat)]
    print(f"app.py to a first page: {min(page for page, _ in starts):.2f} s")
    print(f"app.py to ready:        {min(ready for _, ready in starts):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
