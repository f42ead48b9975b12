"""A server of its own for the scripts that measure one: app.py on an empty home."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Server:
    url: str
    pid: int


@contextmanager
def served(home: Path, **settings: str) -> Iterator[Server]:
    """Run app.py until the block ends; yields it once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "MMER_HOME": str(home), **settings}
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=env, stdout=log, stderr=log
        )
        try:
            wait_for(f"{url}/readyz", server)
            yield Server(url, server.pid)
        finally:
            server.terminate()
            server.wait()


def wait_for(url: str, server: subprocess.Popen) -> None:
    """Return when an address answers with 200."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            with urlopen(url, timeout=_PATIENCE_S):
                return
        except HTTPError:
            time.sleep(0.05)
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"error: {url} does not answer; app.py ended with {server.poll()}")


def figure(url: str, name: str) -> float:
    """Return a figure of /metrics that has no labels."""
    with urlopen(f"{url}/metrics") as reply:
        families = text_string_to_metric_families(reply.read().decode())
    return next(sample.value for family in families for sample in family.samples if sample.name == name)
