"""One visitor who is live: updates a second, how long each takes, and the server's memory minute by minute.

    python tests/load/live.py --minutes 10

A server of its own answers a visitor who sends a drawn face and a voice as the page's script does: the next picture
when the answer to the one before is there, five a second at most. `--browser` has Chromium do it, whose camera and
microphone play them; it shares the machine with the server. Prints JSON; exit status 1 when the face is updated less
often than `--least` a second, or memory grows by more than `--growth-mb` after the first minute.
"""

import argparse
import io
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import numpy as np
from playwright.sync_api import sync_playwright
from tqdm import tqdm

from tests import synth
from tests.browser.live_media import ALLOWED, devices, picture, with_devices
from tests.clients import client_of
from tests.load.memory import resident_mb
from tests.load.served import Server, served

RATE, LOOP_S, FPS = 48_000, 6, 25


@dataclass
class Seen:
    """What came of it."""

    began_s: float = field(default_factory=time.perf_counter)
    face_at_s: list[float] = field(default_factory=list)  # when each update of the face came
    took_s: list[float] = field(default_factory=list)
    n_voice: int = 0  # updates with a voice in them
    dropped: int = 0
    memory_mb: list[float] = field(default_factory=list)  # at the start and after each minute


def send_pictures(server: Server, minutes: float, seen: Seen) -> Iterator[None]:
    """Send pictures and sound; yields after each answer."""
    faces, sound = [], np.repeat(synth.voice(LOOP_S), RATE // synth.RATE)
    for i in range(LOOP_S * FPS):
        jpeg = io.BytesIO()
        small = picture(i / FPS)
        small.thumbnail((512, 512))
        small.save(jpeg, "JPEG", quality=80)
        faces.append(jpeg.getvalue())
    loud = (sound * 32767).astype("<i2")
    ticket, _ = client_of(server.url).predict(["face", "voice"], api_name="/live")
    with httpx.Client(timeout=60) as http:
        said, since = 0, time.perf_counter()
        seen.began_s = since
        while time.perf_counter() - since < 60 * minutes:
            begun = time.perf_counter()
            at = begun - since
            upto = round(at * RATE)
            samples = loud.take(range(said, upto), mode="wrap").tobytes()
            jpeg_now, said = faces[round(at * FPS) % len(faces)], upto
            body = struct.pack("<II", RATE, len(jpeg_now)) + jpeg_now + samples
            reply = http.post(f"{server.url}/live/{ticket['token']}", content=body)
            found = reply.json()
            if reply.status_code == 429:
                seen.dropped += 1
            elif reply.status_code != 200:
                raise SystemExit(f"error: {found['error']['message']}")
            else:
                note(seen, time.perf_counter() - begun, found["face"] is not None, found["voice"] is not None)
            time.sleep(max(found["next_s"] - (time.perf_counter() - begun), 0.01))
            yield
        http.post(f"{server.url}/live/{ticket['token']}/stop")


def watch_browser(server: Server, minutes: float, seen: Seen) -> Iterator[None]:
    """Have Chromium send them; yields every second."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = with_devices(playwright.chromium, [*devices(Path(folder)), ALLOWED])
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_role("tab", name="Live").click()
        page.wait_for_function("document.querySelector('#who [data-may]')")
        page.locator("#live-start").click()
        page.wait_for_function("mmerLive.state.updates.length", timeout=120_000)
        since = seen.began_s = time.perf_counter()
        while time.perf_counter() - since < 60 * minutes:
            page.wait_for_timeout(1000)
            for each in page.evaluate("mmerLive.state.updates.splice(0)"):
                note(seen, each["tookMs"] / 1000, each["seen"], each["heard"])
            yield
        page.locator("#live-stop").click()
        browser.close()


def note(seen: Seen, took_s: float, face: bool, voice: bool) -> None:
    seen.took_s.append(took_s)
    seen.n_voice += voice
    if face:
        seen.face_at_s.append(time.perf_counter() - seen.began_s)


def processor_s(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--browser", action="store_true", help="send them by Chromium")
    parser.add_argument("--least", type=float, default=4.5, help="face updates a second (default 4.5)")
    parser.add_argument("--growth-mb", type=float, default=50.0)
    args = parser.parse_args()
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        before_s = 0.0
        steps = (watch_browser if args.browser else send_pictures)(server, args.minutes, seen)
        with tqdm(total=args.minutes, unit="min", disable=not sys.stderr.isatty()) as bar:
            for _ in steps:
                done = (time.perf_counter() - seen.began_s) / 60
                if done >= len(seen.memory_mb):
                    before_s = before_s or processor_s(server.pid)  # what is loaded once is not counted
                    seen.memory_mb.append(round(resident_mb(server.pid), 1))
                bar.update(round(done, 2) - bar.n)
        seen.memory_mb.append(round(resident_mb(server.pid), 1))
        used_s = processor_s(server.pid) - before_s
        length_s = time.perf_counter() - seen.began_s
    rate = len(seen.face_at_s) / length_s
    p50, p95 = np.percentile(seen.took_s, [50, 95])
    grown = seen.memory_mb[-1] - seen.memory_mb[min(1, len(seen.memory_mb) - 1)]
    told = {
        "seconds": round(length_s, 1),
        "face_updates_per_s": round(rate, 2),
        "with_voice": seen.n_voice,
        "dropped": seen.dropped,
        "latency_ms": {"p50": round(1e3 * p50), "p95": round(1e3 * p95)},
        "server_cores": round(used_s / length_s, 2),  # processor seconds a second
        "load": round(os.getloadavg()[1], 1),  # of the machine, which others may share
        "resident_mb": seen.memory_mb,
        "grown_mb": round(grown, 1),
    }
    print(json.dumps(told, indent=1))
    return 1 if rate < args.least or grown > args.growth_mb else 0


if __name__ == "__main__":
    sys.exit(main())
