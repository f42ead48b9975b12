"""The same labelling through this program's server and through Label Studio's: labels a second, memory, start time.

    python tests/load/label_studio.py --label-studio /path/to/label-studio

Both run on this machine with SQLite and get the same tasks; clients ask for the next task and answer it, each as a
person of its own, over HTTP. Ours is `app.py` with its weights and the endpoints of its Label tab. Memory is the
proportional share (PSS) of the server's processes after the labels are in.
"""

import argparse
import contextlib
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

import requests
from gradio_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from annotations.queue import projects
from annotations.store import Store
from mmer.config import ROOT
from mmer.labels import EMOTIONS

PROJECT = "load"
CONFIG = (
    '<View><Video name="clip" value="$video"/><Choices name="emotion" toName="clip">'
    + "".join(f'<Choice value="{name}"/>' for name in EMOTIONS)
    + "</Choices></View>"
)


@dataclass
class Figures:
    first_start_s: float  # with an empty folder: the database is made
    start_s: float
    labels_per_s: float
    next_and_submit_ms: float  # median over the labels of all clients
    memory_mb: float


class Server:
    """A server in a session of its own, stopped at the end of the block."""

    def __init__(self, command: list, port: int, ready: str, environment: dict, log: Path):
        self.url, self._ready = f"http://127.0.0.1:{port}", ready
        self._start = lambda: subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **environment},
            stdout=log.open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
        )

    def __enter__(self) -> "Server":
        began = time.perf_counter()
        self._process = self._start()
        while True:
            with contextlib.suppress(requests.RequestException):  # it does not listen yet
                if requests.get(self.url + self._ready, timeout=5).ok:
                    break
            if self._process.poll() is not None:
                sys.exit(f"{self._process.args[0]} ended with status {self._process.returncode} before it answered")
            time.sleep(0.05)
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(self, *_):
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def memory_mb(self) -> float:
        """Memory of all processes of the session; pages that several share are divided among them."""
        total_kb = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rpartition(")")[2].split()[3]) == self._process.pid:
                    total_kb += int(re.search(r"^Pss:\s+(\d+)", (stat.parent / "smaps_rollup").read_text(), re.M)[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
        return total_kb / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def at_once(clients: list, n_labels: int) -> tuple[float, float]:
    """Let each client label `n_labels` tasks, all at once; return labels a second and the median time of one in ms."""
    took, failed = [], []

    def work(client):
        try:
            for _ in range(n_labels):
                began = time.perf_counter()
                client()
                took.append(time.perf_counter() - began)
        except Exception as error:  # a client that died must not pass for a slow one
            failed.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return len(took) / (time.perf_counter() - began), 1000 * statistics.median(took)


def label_studio(command: str, folder: Path, n_clients: int, n_labels: int) -> Figures:
    port, token = free_port(), secrets.token_hex(20)
    environment = {
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    arguments = (
        f"start -b --data-dir {folder} -p {port} --internal-host 127.0.0.1 --username 0@example.org "
        f"--password secret-of-0 --user-token {token} --enable-legacy-api-token --log-level ERROR"
    )
    server = Server([command, *arguments.split()], port, "/health", environment, folder.parent / "label-studio.log")
    with server:
        first_start_s = server.start_s
    with server:
        admin = {"Authorization": f"Token {token}"}
        body = {
            "title": "emotions",
            "label_config": CONFIG,
            "maximum_annotations": 1,
            "sampling": "Sequential sampling",
        }
        project = asked(requests.post(server.url + "/api/projects", headers=admin, json=body))["id"]
        tasks = [{"data": {"video": f"/data/upload/{n}.mp4"}} for n in range(n_clients * n_labels)]
        asked(requests.post(f"{server.url}/api/projects/{project}/import", headers=admin, json=tasks))
        clients = [_label_studio_person(server.url, project, n) for n in range(1, n_clients + 1)]
        rate, median_ms = at_once(clients, n_labels)
        exported = asked(requests.get(f"{server.url}/api/projects/{project}/export?exportType=JSON", headers=admin))
        n_stored = sum(len(task["annotations"]) for task in exported)
        if n_stored != n_clients * n_labels:
            raise RuntimeError(f"Label Studio has {n_stored} annotations of {n_clients * n_labels}")
        return Figures(first_start_s, server.start_s, rate, median_ms, server.memory_mb())


def _label_studio_person(url: str, project: int, n: int):
    """Sign a person up; return a function that labels one task as this person."""
    session = requests.Session()
    page = session.get(url + "/user/signup/").text
    csrf = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    form = {
        "csrfmiddlewaretoken": csrf,
        "email": f"{n}@example.org",
        "password": f"secret-of-{n}",
        "allow_newsletters": "false",
    }
    session.post(url + "/user/signup/", data=form, headers={"Referer": url}).raise_for_status()

    def label() -> None:
        task = asked(session.get(f"{url}/api/projects/{project}/next"))["id"]
        value = {"choices": [EMOTIONS[task % 7]]}
        result = [{"from_name": "emotion", "to_name": "clip", "type": "choices", "value": value}]
        headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": url}
        body = {"result": result, "lead_time": 1.5}
        asked(session.post(f"{url}/api/tasks/{task}/annotations/", headers=headers, json=body))

    return label


def asked(response: requests.Response):
    if not response.ok:
        raise RuntimeError(
            f"{response.request.method} {response.url} answered {response.status_code}: {response.text[:300]}"
        )
    return response.json()


def ours(folder: Path, n_clients: int, n_labels: int) -> Figures:
    port = free_port()
    environment = {"MMER_HOME": str(folder)}
    command = [sys.executable, "app.py", "--port", port]
    server = Server(command, port, "/gradio_api/info", environment, folder.parent / "ours.log")
    with server:
        first_start_s = server.start_s
    store = Store(f"sqlite:///{folder / 'mmer.db'}", folder / "media")
    project = projects.create(store, PROJECT, per_item=1, gold_share=0, order="random", actor="admin")
    with store.writing() as session:
        clips = [
            store.register_clip(None, f"{n:064x}", name=f"{n}.mp4", source="import", session=session)
            for n in range(n_clients * (n_labels + 1))  # each page holds one more, loaded ahead
        ]
        utterances = [store.utterance(clip, transcript="what a day", session=session) for clip in clips]
        projects.add_items(store, project, utterances, session=session)
    with server:
        clients = [_our_person(server.url, f"person {n}") for n in range(n_clients)]
        rate, median_ms = at_once(clients, n_labels)
        n_stored = store.counts()["labels"]
        if n_stored != n_clients * n_labels:
            raise RuntimeError(f"{n_stored} labels are stored of {n_clients * n_labels}")
        return Figures(first_start_s, server.start_s, rate, median_ms, server.memory_mb())


def _our_person(url: str, name: str):
    """Return a function that labels one task as this person."""
    client = Client(url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 120})
    feed = client.predict(PROJECT, name, api_name="/label_start")[0]

    def label() -> None:
        nonlocal feed
        emotion = EMOTIONS[feed["items"][0]["item_id"] % 7]
        feed = client.predict([emotion], lead_s=1.5, api_name="/label_submit")[0]

    return label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-studio", metavar="COMMAND", help="label-studio of an environment of its own")
    parser.add_argument("--clients", type=int, default=4, help="people who label at once (default: 4)")
    parser.add_argument("--labels", type=int, default=50, help="labels of each of them (default: 50)")
    args = parser.parse_args()
    if not args.label_studio:
        parser.error("--label-studio COMMAND is needed")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("theirs", "ours"):
            (Path(folder) / name).mkdir()
        load = os.getloadavg()[0]
        mine = ours(Path(folder) / "ours", args.clients, args.labels)
        print(mine, flush=True)
        theirs = label_studio(args.label_studio, Path(folder) / "theirs", args.clients, args.labels)
    print(f"{args.clients} people label {args.labels} tasks each, at once; load average before: {load:.1f}")
    print(f"{'':>24}{'this program':>14}{'Label Studio':>14}{'ratio':>8}")
    for field in fields(Figures):
        one, other = getattr(mine, field.name), getattr(theirs, field.name)
        print(f"{field.name:>24}{one:>14.2f}{other:>14.2f}{one / other:>8.2f}")


if __name__ == "__main__":
    main()
