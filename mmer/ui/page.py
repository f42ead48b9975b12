"""The whole page, and how it is served."""

import os
import shutil
import time
from typing import Any

import gradio as gr

from mmer.config import MediaLimits
from mmer.ui.analyse_tab import AnalyseTab
from mmer.ui.label_tab import HOTKEYS, LabelTab
from mmer.ui.render import render
from mmer.ui.review_tab import ReviewTab
from mmer.ui.service import Service
from mmer.ui.theme import CSS, THEME

_HELD_S = 3600  # how long an upload may lie on this server's disk before the sweep, which comes as often


# What `launch` gets. Uploads can be fetched by who knows their path; nothing else on the disk can.
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "head": f"<script>{HOTKEYS}</script>",
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
        gr.HTML(render("page_head.html"))
        if service.paths.space:
            gr.LoginButton(size="sm", elem_id="login")
        elif service.closed:
            gr.Button("Log out", link="/logout", size="sm", elem_id="logout")
        with gr.Tabs():
            with gr.Tab("Analyse"):
                AnalyseTab(service)
            with gr.Tab("Label"):
                LabelTab(service)
            with gr.Tab("Review"):
                ReviewTab(service)
        gr.HTML(render("page_foot.html"))
        gr.api(service.health, api_name="health", api_description="Which checkpoint answers, and on what device.")
    return page.queue(max_size=32, default_concurrency_limit=4)


def _sweep(service: Service) -> None:
    """Put uploads in a folder of their own, and delete there what a killed server left behind."""
    uploads = service.paths.home / "uploads"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    for upload in uploads.glob("*"):
        if time.time() - upload.stat().st_mtime > _HELD_S:
            shutil.rmtree(upload, ignore_errors=True)
