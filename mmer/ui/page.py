"""The whole page, and how it is served."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from mmer.config import MediaLimits
from mmer.ui import housekeeping, language, live_sessions
from mmer.ui.analyse_tab import AnalyseTab
from mmer.ui.api import Endpoints
from mmer.ui.data_tab import DataTab
from mmer.ui.door import Door
from mmer.ui.first_paint import TITLE
from mmer.ui.identity import Identity
from mmer.ui.label_tab import HOTKEYS, LabelTab
from mmer.ui.language import label, part
from mmer.ui.live_tab import LiveTab
from mmer.ui.mcp_tools import Tools
from mmer.ui.model_tab import ModelTab
from mmer.ui.projects_tab import ProjectsTab
from mmer.ui.render import render
from mmer.ui.retraining import watch
from mmer.ui.review_tab import KEYS, ReviewTab
from mmer.ui.service import Service
from mmer.ui.theme import CSS, SCRIPT, THEME

_LOG_OUT = "() => fetch('logout', {method: 'POST'}).then(() => location.reload())"
# What `launch` gets. Uploads can be fetched by who knows their path; nothing else on the disk can.
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "head": "".join(
        f"<script>{script}</script>" for script in (language.script_texts(SCRIPT, HOTKEYS, KEYS), SCRIPT, HOTKEYS, KEYS)
    ),
    "show_error": False,
    "share": False,  # a tunnel would make everybody a person at this machine
    "ssr_mode": False,
    "run_history": False,  # it keeps faces and voices in the annotator's browser
    "enable_monitoring": False,
    "state_session_capacity": 1000,  # how long the clips may be whose results they hold, the door says
    "max_file_size": MediaLimits().max_bytes,
    "footer_links": ["api", "settings"],
}


class Page(gr.Blocks):
    """The page; however it is launched, its service's guards are with it."""

    service: Service
    stopping = False  # nothing new comes in
    loop: asyncio.AbstractEventLoop | None = None  # the server's, once somebody has come

    def waiting(self) -> list[Any]:
        """Return the calls that wait for their turn."""
        return [event for each in self._queue.event_queue_per_concurrency_id.values() for event in each.queue]

    def get_api_info(self, *args: Any, **options: Any) -> Any:
        """Return what programs are told of the page, the names of its fields in English."""
        return _in_english(super().get_api_info(*args, **options))

    def running(self) -> list[Any]:
        """Return the calls that are being answered."""
        return [event for job in self._queue.active_jobs if job for event in job]

    def launch(self, *args: Any, **options: Any) -> Any:
        guards = {"lifespan": self._lifespan, "middleware": [Middleware(Door, page=self)]}
        options["app_kwargs"] = {**guards, **(options.get("app_kwargs") or {})}
        if self.service.closed:
            options["auth"] = options.get("auth") or self.service.knows
        options["i18n"] = language.catalogue()
        options["mcp_server"] = False  # said, or gradio would ask a variable of its own, and offer every call
        if self.service.paths.mcp and not self.service.closed:  # gradio's own calls of the page cannot log in
            self.mcp_server_obj = Tools(self)
        return super().launch(*args, **options)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        """Run beside the server what tidies up and what starts retrainings by itself."""
        async with AsyncExitStack() as stack:
            if self.mcp_server_obj:
                await stack.enter_async_context(self.mcp_server_obj.lifespan(app))
            await stack.enter_async_context(housekeeping.every_hour(self.service)(app))
            await stack.enter_async_context(live_sessions.freeing(self.service.live)(app))
            await stack.enter_async_context(watch(self.service.retraining)(app))
            yield


def _in_english(told: Any) -> Any:
    if isinstance(told, dict):
        return {key: _in_english(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_in_english(value) for value in told]
    return language.english(told) if isinstance(told, str) else told


def build(service: Service) -> Page:
    """Return the page; `.launch(**LAUNCH)` serves it."""
    os.environ["GRADIO_TEMP_DIR"] = str(service.paths.uploads)  # a folder of their own; nothing in it grows old
    housekeeping.tidy(service)
    held_s = housekeeping.HELD_S
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(held_s, held_s)) as page:
        page.service = service
        service.line.page = page
        service.monitor.queue_length = lambda: (len(page.waiting()), len(page.running()))
        gr.HTML(part(lambda: render("page_head.html")), elem_id="head")
        identity = Identity(service)
        if service.paths.space:
            gr.LoginButton(size="sm", elem_id="login")
        elif service.closed:
            gr.Button(label("Log out"), size="sm", elem_id="logout").click(None, js=_LOG_OUT)
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab(label("Analyse"), elem_id="tab-analyse"):
                analyse = AnalyseTab(service)
            with gr.Tab(label("Live"), elem_id="tab-live"):
                LiveTab(service)
            with gr.Tab(label("Label"), elem_id="tab-label"):
                LabelTab(service)
            with gr.Tab(label("Review"), elem_id="tab-review"):
                ReviewTab(service)
            # Tabs that start hidden can be shown: not the other way round.
            with gr.Tab(label("Model"), visible=False, elem_id="tab-model") as model:
                ModelTab(service, model)
            with gr.Tab(label("Projects"), visible=False, elem_id="tab-projects") as managing:
                ProjectsTab(service, managing)
            with gr.Tab(label("Your data"), elem_id="tab-your-data") as data:
                DataTab(service, data, analyse.form.own)
        identity.connect(page, {"review": model, "manage": managing})
        gr.HTML(part(lambda: render("page_foot.html", contact=service.paths.contact)))
        Endpoints(service, analyse.session)
        gr.api(service.health, api_name="health", api_description="Which checkpoint answers, and on what device.")
    # How many may wait is the door's to say; and nobody may call the model past the queue.
    page.queue(max_size=1000, default_concurrency_limit=4, api_open=False)
    return page
