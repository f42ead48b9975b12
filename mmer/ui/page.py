"""The whole page, and how it is served."""

import os
import shutil
import time

import gradio as gr

from mmer.config import MediaLimits
from mmer.ui import analyse_tab, label_tab, review_tab
from mmer.ui.service import Service
from mmer.ui.theme import CSS, THEME

_HELD_S = 3600  # how long an upload may lie on this server's disk before the sweep, which comes as often

_HEAD = """<header class="mm-head"><h1>What emotion does this clip show?</h1>
<p>A model reads the face, the voice and the words, and shows what each of them voted and why. It learned from acted
speech and little data: it is no lie detector, does not know what anybody feels, and must not decide about people.</p>
</header>"""
_FOOT = """<p class="mm-hint">Nothing is kept without consent: an upload is deleted from this server within two hours,
and nothing is sent elsewhere. Saving a correction stores your label, what you typed beside it and the model's answer; the
recording and its words only when you tick the box.</p>"""

# What `launch` gets. Uploads can be fetched by who knows their path; nothing else on the disk can.
LAUNCH = {
    "theme": THEME,
    "css": CSS,
    "head": f"<script>{label_tab.HOTKEYS}</script>",
    "show_error": False,
    "share": False,  # a tunnel would make everybody a person at this machine
    "ssr_mode": False,
    "run_history": False,  # it keeps faces and voices in the annotator's browser
    "enable_monitoring": False,
    "state_session_capacity": 100,  # a session holds one result: 6 MB for each minute of clip
    "max_file_size": MediaLimits().max_bytes,
    "footer_links": ["api", "settings"],
}


def build(service: Service) -> gr.Blocks:
    """Return the page; `.launch(**LAUNCH)` serves it."""
    _sweep(service)
    with gr.Blocks(
        title="Emotion in face, voice and words", analytics_enabled=False, delete_cache=(_HELD_S, _HELD_S)
    ) as page:
        gr.HTML(_HEAD)
        if service.paths.space:
            gr.LoginButton(size="sm", elem_id="login")
        elif service.closed:
            gr.Button("Log out", link="/logout", size="sm", elem_id="logout")
        with gr.Tabs():
            with gr.Tab("Analyse"):
                analyse_tab.tab(service)
            with gr.Tab("Label"):
                label_tab.tab(service)
            with gr.Tab("Review"):
                review_tab.tab(service)
        gr.HTML(_FOOT)
        gr.api(service.health, api_name="health", api_description="Which checkpoint answers, and on what device.")
    return page.queue(max_size=32, default_concurrency_limit=4)


def _sweep(service: Service) -> None:
    """Put uploads in a folder of their own, and delete there what a killed server left behind."""
    uploads = service.paths.home / "uploads"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    for left in uploads.glob("*"):
        if time.time() - left.stat().st_mtime > _HELD_S:
            shutil.rmtree(left, ignore_errors=True)
