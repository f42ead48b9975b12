"""The whole page, and how it is served."""

import os
from typing import Any

import gradio as gr

from mmer.config import MediaLimits
from mmer.ui import housekeeping
from mmer.ui.analyse_tab import AnalyseTab
from mmer.ui.label_tab import HOTKEYS, LabelTab
from mmer.ui.render import render
from mmer.ui.review_tab import ReviewTab
from mmer.ui.service import Service
from mmer.ui.theme import CSS, THEME

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


class Page(gr.Blocks):
    """The page; however it is launched, its service's guards are with it."""

    service: Service

    def launch(self, *args: Any, **options: Any) -> Any:
        options["app_kwargs"] = {"lifespan": housekeeping.every_hour(self.service), **(options.get("app_kwargs") or {})}
        return super().launch(*args, **options)


def build(service: Service) -> Page:
    """Return the page; `.launch(**LAUNCH)` serves it."""
    os.environ["GRADIO_TEMP_DIR"] = str(service.paths.uploads)  # a folder of their own; nothing in it grows old
    housekeeping.tidy(service)
    held_s = housekeeping.HELD_S
    with Page(title="Emotion in face, voice and words", analytics_enabled=False, delete_cache=(held_s, held_s)) as page:
        page.service = service
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
    page.queue(max_size=32, default_concurrency_limit=4)
    return page
