"""The Model tab: versions and their figures, and retraining in a process of its own."""

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.accounts import Person
from annotations.training_runs import fresh_labels, outdated_answers, recent
from mmer import checkpoint, versions
from mmer.messages import marked
from mmer.ui import model_html, result_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.language import gettext, label, part
from mmer.ui.render import hint
from mmer.ui.service import Service

_RUNS = 10  # that are listed
_TICK_S = 2.0  # between two looks at a run
_EMPTY = marked("Versions of the model, their figures and what the gate said of them appear here.")


class ModelTab:
    """Lays the tab out in the page being built, and answers its events.

    Who may review sees it; who may manage starts, cancels and rolls back. Every handler asks.
    """

    def __init__(self, service: Service, tab: gr.Tab):
        self.service = service
        self.retraining = service.retraining
        self.name = gr.Textbox(
            label=label("Your name"),
            value="",
            elem_id="model-name",
            info=label("Where nobody logs in, it stands by what you put in use."),
        )
        with gr.Row(equal_height=False):
            self.show_button = gr.Button(label("Show"), elem_id="model-show", min_width=120)
            self.start_button = gr.Button(label("Retrain"), variant="primary", elem_id="model-start", min_width=120)
            self.cancel_button = gr.Button(label("Cancel"), elem_id="model-cancel", min_width=120)
            self.refresh_button = gr.Button(label("Answer anew"), elem_id="model-refresh", min_width=120)
            self.roll_back_button = gr.Button(label("Roll back"), elem_id="model-roll-back", min_width=120)
        self.status = gr.HTML(label="Status", elem_id="model-status")
        self.progress = gr.HTML(label="Progress", elem_id="model-progress")
        self.overview = gr.HTML(part(lambda: hint(_EMPTY)), label="Versions", elem_id="model-overview")
        with gr.Accordion(label("Log of the run (in English)"), open=False, elem_id="model-log-panel"):
            self.log = gr.HTML(label="Log", elem_id="model-log")
        self.timer = gr.Timer(_TICK_S, active=False)
        self._connect(tab)

    def _connect(self, tab: gr.Tab) -> None:
        whole = [self.status, self.overview, self.progress, self.log, self.timer]
        gr.on([tab.select, self.show_button.click], self.show, self.name, whole, api_name="model")
        for button, handler in (
            (self.start_button, self.start),
            (self.cancel_button, self.cancel),
            (self.refresh_button, self.answer_anew),
            (self.roll_back_button, self.roll_back),
        ):
            button.click(handler, self.name, whole, api_name=f"model_{handler.__name__}", show_progress="hidden")
        self.timer.tick(self.watch, self.name, whole, api_name="model_watch", show_progress="hidden")

    @report_errors("status")
    def show(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "review", request, profile, name)
        yield self._page(person) | {self.status: ""}

    @report_errors("status")
    def start(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        self.retraining.start(person.name)
        yield self._page(person) | {self.status: result_html.status(gettext("A retraining has started."))}

    @report_errors("status")
    def cancel(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        self.retraining.cancel()
        self.retraining.wait(_TICK_S)
        yield self._page(person) | {self.status: result_html.status(gettext("The run was asked to stop."))}

    @report_errors("status")
    def answer_anew(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        self.retraining.start(person.name, only_refresh=True)
        yield self._page(person) | {
            self.status: result_html.status(gettext("The items of all projects are answered anew."))
        }

    @report_errors("status")
    def roll_back(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        root = self.service.paths.checkpoints
        before = checkpoint.promoted(root)
        now = checkpoint.roll_back(root, by=person.name or None)
        told = gettext(
            "{now} serves again; `python -m mmer checkpoint promote {before}` would undo that.", now=now, before=before
        )
        yield self._page(person) | {self.status: result_html.status(told)}

    @report_errors("status")
    def watch(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        page = self._page(person)
        if self.retraining.progress().running:
            page.pop(self.overview)  # it is the same until the run ends, and somebody may be reading it
        yield page

    def _page(self, person: Person) -> dict:
        """Return all there is to see for somebody; a log names clips, so it is for who manages."""
        store, root = self.service.store, self.service.paths.checkpoints
        now, manages = self.retraining.progress(), person.role == "admin"
        return {
            self.overview: model_html.overview(
                versions.versions(root),
                recent(store, _RUNS),
                fresh=fresh_labels(store),
                outdated=outdated_answers(store, checkpoint.promoted(root)),
                automatic=self.service.paths.retrain_after,
            ),
            self.progress: model_html.progress(now),
            self.log: model_html.log(now) if manages else "",
            self.timer: gr.Timer(active=now.running and manages),
        }
