"""What a first-time visitor waits for, in a real browser: the first paint, and the result of each example.

    python tests/load/first_visit.py

A server of its own with the checkpoint that ships, ready and warm. One press of an example analyses it: from there on
the seconds count, until its verdict stands on the page.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer.ui.examples import EXAMPLES
from tests.load.served import served

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SHIFT = """() => new Promise((done) => {
  let sum = 0;
  const add = (list) => list.getEntries().forEach((each) => { if (!each.hadRecentInput) sum += each.value; });
  new PerformanceObserver(add).observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done(sum), 300);
})"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--browser", help="the program (default: Debian's Chromium)")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    program = args.browser or shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        browser.new_page().goto(server.url)  # what the server makes for its first visitor
        page = browser.new_page()
        page.goto(server.url)
        page.locator("#example-talk").wait_for()
        page.wait_for_function("document.querySelector('#who [data-may]')")
        print(f"first paint {page.evaluate(PAINT) / 1000:.2f} s, layout shift {page.evaluate(SHIFT):.3f}")
        for example in EXAMPLES:
            since = time.perf_counter()
            page.locator(f"#example-{example.id}").click()
            page.locator("#result .mm-emotion").wait_for(state="detached")
            page.locator("#result .mm-emotion").wait_for(timeout=240_000)
            told = page.locator("#result .mm-emotion").inner_text()
            print(f"{example.title}: {' '.join(told.split())}, {time.perf_counter() - since:.1f} s after the press")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
