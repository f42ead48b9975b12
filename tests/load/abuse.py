"""Twenty visitors beside one who takes all he can: `python tests/load/abuse.py` prints how long their calls take.

The abuser sends, from one address and under ever new sessions, calls of the model, bodies of a megabyte, uploads of
many files and guesses of passwords, without a pause.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from gradio_client import Client

from annotations.queue import projects
from annotations.store import Store
from mmer.config import Paths
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests.clients import client_of


def call_times_s(clients: list[Client], n_rounds: int, words: bool) -> list[float]:
    """Return how long each call took when every client works at once."""

    def work(client: Client) -> list[float]:
        times = []
        for i in range(n_rounds):
            since = time.perf_counter()
            if words and i == 0:
                client.predict(text="I did not expect that", api_name="/analyse")
            else:
                client.predict(api_name="/label_projects")
            times.append(time.perf_counter() - since)
        return times

    with ThreadPoolExecutor(len(clients)) as pool:
        return [each for times in pool.map(work, clients) for each in times]


def abuse(url: str, page, done: threading.Event, answers: dict[int, int]) -> None:
    fn = next(number for number, fn in page.fns.items() if fn.api_name == "analyse")
    headers, i = {"x-forwarded-for": "203.0.113.9"}, 0
    with httpx.Client(headers=headers, timeout=60) as line:
        while not done.is_set():
            i += 1
            session = f"{threading.get_ident()}-{i}"
            join = {"data": [None, None, None, "words " * 2000, None], "fn_index": fn, "session_hash": session}
            for send in (
                lambda join=join: line.post(f"{url}/gradio_api/queue/join", json=join),
                lambda: line.post(f"{url}/gradio_api/queue/join", content=b"x" * 2**21),
                lambda: line.post(f"{url}/gradio_api/upload", files=[("files", ("a", b"x"))] * 50),
                lambda: line.post(f"{url}/login", data={"username": "ada", "password": "guess"}),
            ):
                try:
                    status = send().status_code
                except httpx.HTTPError:
                    status = 0
                answers[status] = answers.get(status, 0) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--words", action="store_true", help="each visitor's first call is one of the model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        paths = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu")
        projects.create(Store(paths.database_url, paths.media, paths.features), "voices", actor="ada")
        page = build(Service(paths))
        _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
        clients = [client_of(url) for _ in range(args.visitors)]
        call_times_s(clients[:1], 2, args.words)  # what is loaded at first use
        alone = np.percentile(call_times_s(clients, args.rounds, args.words), 95)
        done, answers = threading.Event(), {}
        abusers = [threading.Thread(target=abuse, args=(url.rstrip("/"), page, done, answers)) for _ in range(4)]
        for each in abusers:
            each.start()
        beside = np.percentile(call_times_s(clients, args.rounds, args.words), 95)
        done.set()
        for each in abusers:
            each.join()
        page.close()
    found = {"p95_alone_s": round(alone, 3), "p95_beside_abuse_s": round(beside, 3), "times": round(beside / alone, 2)}
    print(json.dumps(found | {"the_abuser_was_told": answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
