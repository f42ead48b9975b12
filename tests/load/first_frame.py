"""How long an annotator waits for a clip, and how much is sent for it, in a real browser.

    python tests/load/first_frame.py CLIP [--items 6]

Serves a project of copies of the clip, each with a hash of its own; starts to label, and submits item after item.
Prints one JSON object.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright

from annotations.queue import projects
from annotations.store import Store
from mmer import media
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.test_label_tab import paths_in

# Milliseconds from a press of Enter until a picture of the item after `id` is there, or its sound can be played.
SHOWN = """([id, since]) => new Promise((done) => {
  const look = () => {
    const clip = document.querySelector("#mm-screen :is(video, audio)");
    if (clip && mmerLabel.id() !== id && clip.readyState >= 2) done(performance.now() - since);
    else setTimeout(look, 2);
  };
  look();
})"""


def fill(folder: Path, clip: Path, n: int) -> None:
    """Put copies of a clip into a project; a copy ends in an empty box of MP4, so that its hash is its own."""
    paths = paths_in(folder)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "voices", gold_share=0, order="random", actor="ada")
    for i in range(n):
        copy = folder / f"{i}{clip.suffix}"
        copy.write_bytes(clip.read_bytes() + (16).to_bytes(4, "big") + b"free" + i.to_bytes(8, "big"))
        found = store.register_clip(copy, media.content_hash(copy), name=copy.name, in_place=True, source="import")
        projects.add_items(store, project, [store.utterance(found)])
    store.engine.dispose()


def measure(url: str, n: int) -> dict:
    """Return times in ms and the bytes that reached the browser."""
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
        page.goto(url)
        page.get_by_role("tab", name="Label").click()
        page.wait_for_function("document.querySelector('#label-project input')?.value === 'voices'")
        page.locator("#label-name textarea, #label-name input").fill("bea")
        received = [0]
        network = page.context.new_cdp_session(page)
        network.on("Network.dataReceived", lambda chunk: received.__setitem__(0, received[0] + chunk["dataLength"]))
        network.send("Network.enable")
        page.wait_for_timeout(1000)
        received[0] = 0
        since = page.evaluate("performance.now()")
        page.keyboard.press("Enter")
        first_ms = page.evaluate(SHOWN, [0, since])
        sent, next_ms = received[0], []
        page.wait_for_timeout(5000)
        after = received[0]
        for _ in range(n - 2):
            shown = page.evaluate("mmerLabel.id()")
            page.keyboard.press("1")
            page.wait_for_timeout(1500)  # they look; the item after this one is loaded meanwhile
            since = page.evaluate("performance.now()")
            page.keyboard.press("Enter")
            next_ms.append(page.evaluate(SHOWN, [shown, since]))
        page.context.browser.close()
    return {
        "first_frame_ms": round(first_ms),
        "bytes_at_first_frame": sent,
        "bytes_5_s_later": after,
        "next_ms_median": round(statistics.median(next_ms)),
        "next_ms_worst": round(max(next_ms)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, help="an mp4 that browsers play")
    parser.add_argument("--items", type=int, default=6)
    options = parser.parse_args()
    if CHROMIUM is None or not shutil.which(CHROMIUM):
        sys.exit("error: there is no Chromium here")
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), options.clip, options.items)
        page = build(Service(paths_in(Path(folder))))
        url = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, _frontend=False)[1]
        time.sleep(1)
        try:
            print(json.dumps({"clip_bytes": options.clip.stat().st_size, **measure(url, options.items)}))
        finally:
            page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
