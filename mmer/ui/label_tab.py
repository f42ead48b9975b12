"""The Label tab: one item after the other, judged blind, by mouse or by keyboard alone."""

import time
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
from gradio.events import Dependency
from gradio.oauth import OAuthProfile

from annotations.db.schema import TARGETS
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue, Task
from annotations.queue.media_import import import_kept_clips
from annotations.queue.projects import Project
from mmer.checkpoint import promoted
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import label_view, result_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.render import render
from mmer.ui.service import Service

HOTKEYS = Path(__file__).with_name("label_tab.js").read_text(encoding="utf-8")
QUESTIONS = {
    "all": "What do you find, all together?",
    "face": "What does the face show?",
    "voice": "How does the voice sound?",
    "text": "What do the words say?",
}
_LEVELS = [("Weak", 0.33), ("Medium", 0.66), ("Strong", 1.0)]
_SURE = [("Guessing", 0.3), ("Fairly sure", 0.6), ("Certain", 0.9)]
_VALENCE = [("Very unpleasant", -1), ("Unpleasant", -0.5), ("Neither", 0), ("Pleasant", 0.5), ("Very pleasant", 1)]
_AROUSAL = [("Very calm", -1), ("Calm", -0.5), ("Neither", 0), ("Excited", 0.5), ("Very excited", 1)]
_KEPT_CLIPS = "Clips kept here"  # the project that is made of them
# Why an item cannot be answered any more, so that the page has to go on to the next.
_GONE = {
    "already_submitted": "was answered in another window meanwhile, so nothing was stored from here",
    "unknown_assignment": "was deleted meanwhile, so nothing was stored",
}
_QUEUE_EMPTY = "Nothing is left for you in this project. Thank you."
# The page knows which item it shows and since when; the server sees neither.
_ADD_ITEM_AND_SECONDS = "(...inputs) => [...inputs.slice(0, -3), mmerLabel.id(), mmerLabel.seconds(), inputs.at(-1)]"
_ADD_ITEM = "(...inputs) => [...inputs.slice(0, -1), mmerLabel.id()]"


@dataclass
class LabelSession:
    """What one browser session is labelling."""

    project: str = ""
    annotator: str = ""
    tasks: list[Task] = field(default_factory=list)  # the one on the screen, then the one that is loaded ahead
    since: float = 0.0  # monotonic: when the first of them was sent
    answered: Set[int] = (
        frozenset()
    )  # assignments whose answers were given here: who may be anybody takes back no other
    let_in: bool = False  # by the page's owner: they may see consented recordings

    @property
    def task(self) -> Task:
        if not self.tasks:
            raise LabelError("no_item", "there is no item on the screen; choose a project and press Start")
        return self.tasks[0]


class LabelTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.store = service.store
        self._queues: dict[int, Queue] = {}  # by project: a queue remembers where each annotator was
        # By assignment: what was chosen when the model's answer was looked at.
        self._chosen_at_look: dict[int, dict[str, list[str]]] = {}
        self.session = gr.State(None, time_to_live=12 * 3600)  # LabelSession | None
        self._build_start()
        with gr.Column(visible=False, elem_id="label-desk") as self.desk:
            with gr.Accordion("Guidelines", open=False, elem_id="label-guidelines"):
                self.guidelines = gr.Markdown()
            with gr.Row(equal_height=False):
                with gr.Column(scale=6, min_width=320):
                    gr.HTML(render("label_stage.html"), label="Clip", elem_id="label-stage")
                    self.progress = gr.HTML(label="Progress", elem_id="label-progress")
                with gr.Column(scale=5, min_width=320):
                    self._build_answers()
            gr.HTML(render("label_keys.html"), label="Keys")
            with gr.Accordion("Raw", open=False):
                self.feed = gr.JSON(label="Items", open=False)
                self.receipt = gr.JSON(label="Stored", open=False)
        # The page's script fills in its item and the seconds since it showed it.
        self.on_page, self.lead_s = gr.Number(0, visible=False), gr.Number(0, visible=False)
        self._connect()

    def _build_start(self) -> None:
        with gr.Row(equal_height=False):
            self.project = gr.Dropdown(
                [], label="Project", value=None, allow_custom_value=True, elem_id="label-project", min_width=180
            )
            self.annotator = gr.Textbox(
                label="Your name", value="", elem_id="label-name", min_width=140, info="Your labels stand under it."
            )
            self.start_button = gr.Button("Start", variant="primary", elem_id="label-start", min_width=100)
        self.make_button = gr.Button("Make a project of the clips kept here", elem_id="label-make", size="sm")
        self.status = gr.HTML(label="Status", elem_id="label-status")

    def _build_answers(self) -> None:
        self.emotions = {
            target: gr.CheckboxGroup(
                [(f"{i + 1} {e.capitalize()}", e) for i, e in enumerate(EMOTIONS)],
                value=[],
                label=QUESTIONS[target],
                info="The strongest first; press again to take it back.",
                elem_id=f"label-{target}",
                visible=False,
            )
            for target in TARGETS
        }
        self.intensity = gr.Radio(_LEVELS, label="How strong? (Shift+1 to 3)", elem_id="label-intensity")
        with gr.Row():
            self.submit_button = gr.Button("Submit (Enter)", variant="primary", elem_id="label-submit", min_width=120)
            self.cannot_button = gr.Button("Cannot tell (c)", elem_id="label-cannot", min_width=120)
        with gr.Row():
            self.undo_button = gr.Button("Undo (u)", elem_id="label-undo", min_width=80, size="sm")
            self.skip_button = gr.Button("Skip (s)", elem_id="label-skip", min_width=80, size="sm")
            self.broken_button = gr.Button("Broken (x)", elem_id="label-broken", min_width=80, size="sm")
            self.reveal_button = gr.Button("Model (b)", elem_id="label-reveal", min_width=80, size="sm")
        self.told = gr.HTML(label="Told", elem_id="label-told")  # what became of the last answer
        with gr.Accordion("Comment, words, sureness", open=False, elem_id="label-more"):
            self.confidence = gr.Radio(_SURE, label="How sure are you? (optional)", elem_id="label-confidence")
            self.comment = gr.Textbox(label="Comment (optional)", value="", elem_id="label-comment")
            self.transcript = gr.Textbox(
                label="Words, corrected (optional)", value="", lines=2, elem_id="label-transcript"
            )
            # No sliders: one that nobody touched would answer all the same.
            self.valence = gr.Radio(_VALENCE, label="Pleasant? (optional)", elem_id="label-valence")
            self.arousal = gr.Radio(_AROUSAL, label="Excited? (optional)", elem_id="label-arousal")

    def _connect(self) -> None:
        choices = list(self.emotions.values())
        details = [self.intensity, self.confidence, self.comment, self.transcript, self.valence, self.arousal]
        desk = [self.feed, self.session, self.status, self.desk, *choices, *details, self.told]
        started = self._connect_project([*desk, self.guidelines, self.progress, self.receipt])
        form = [*choices, *details, self.on_page, self.lead_s, self.session]
        answered = self._connect_answers(form, [*desk, self.progress, self.receipt])
        for event in (started, *answered):
            event.success(None, self.feed, None, js="(feed) => mmerLabel.feed(feed)")
        for target, group in self.emotions.items():
            group.change(None, group, None, js=f"(chosen) => mmerLabel.rank('{target}', chosen)")
        self.reveal_button.click(
            self.reveal,
            [*choices, self.session],
            [self.told, self.status],
            api_name="label_reveal",
            preprocess=False,
            show_progress="hidden",
        )

    def _connect_project(self, outputs: list) -> Dependency:
        """Connect what leads to a session; return the event that starts one."""
        projects_shown = [self.project, self.make_button, self.status]
        gr.on(
            fn=self.list_projects,
            inputs=[],
            outputs=projects_shown,
            api_name="label_projects",
            show_progress="hidden",
        )
        self.make_button.click(
            self.make_project, [self.annotator], projects_shown, api_name="label_make_project", show_progress="hidden"
        )
        return gr.on(
            [self.start_button.click, self.annotator.submit],
            self.start,
            [self.project, self.annotator, self.on_page],
            outputs,
            api_name="label_start",
            js=_ADD_ITEM,
            show_progress="hidden",
        )

    def _connect_answers(self, form: list, answered: list) -> list[Dependency]:
        """Connect every way to answer an item or to take an answer back; return their events."""
        # Not preprocessed: gradio would speak of a choice that is none before the role is asked for.
        submitted = self.submit_button.click(
            self.submit,
            form,
            answered,
            api_name="label_submit",
            js=_ADD_ITEM_AND_SECONDS,
            preprocess=False,
            show_progress="hidden",
        )
        without_label = [
            button.click(
                handler,
                [self.comment, self.on_page, self.lead_s, self.session],
                answered,
                api_name=name,
                js=_ADD_ITEM_AND_SECONDS,
                show_progress="hidden",
            )
            for button, handler, name in (
                (self.cannot_button, self.cannot_tell, "label_cannot_tell"),
                (self.skip_button, self.skip, "label_skip"),
                (self.broken_button, self.broken, "label_broken"),
            )
        ]
        undone = self.undo_button.click(
            self.undo, [self.session], answered, api_name="label_undo", show_progress="hidden"
        )
        return [submitted, *without_label, undone]

    @report_errors("status")
    def list_projects(self, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "label", request, profile)
        names = [p.name for p in projects.projects(self.store)]
        yield {
            self.project: gr.Dropdown(choices=names, value=next(iter(names), None)),
            self.make_button: gr.Button(visible=not names),
        }

    @report_errors("status")
    def make_project(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        n = import_kept_clips(self.store, _KEPT_CLIPS, actor=person.name or "somebody")
        names = [p.name for p in projects.projects(self.store)]
        yield {
            self.project: gr.Dropdown(choices=names, value=_KEPT_CLIPS),
            self.make_button: gr.Button(visible=False),
            self.status: result_html.status(f"{_KEPT_CLIPS}: {n} clips wait; press Start."),
        }

    @report_errors("status")
    def start(self, request: gr.Request, profile: OAuthProfile | None, project=None, name="", on_page=0):
        person = authorize(self.service, "label", request, profile, name)
        if not project:
            raise LabelError("no_project", "choose a project; where there is none yet, an administrator makes one")
        chosen = projects.project(self.store, project)
        queue = self._queue(chosen)
        session = LabelSession(chosen.name, person.name, queue.next(person.name, 2), let_in=person.let_in)
        # After a restart of the server the item on the page comes back, and what was chosen for it stays.
        same = bool(on_page) and [task.assignment_id for task in session.tasks[:1]] == [on_page]
        yield self._show(session, chosen, loaded={on_page} if same else frozenset(), clear_form=not same) | {
            self.guidelines: chosen.guidelines or "_None were written for this project._",
            self.progress: label_view.progress(queue.progress(person.name)),
            self.receipt: None,
        }

    @report_errors("told")
    def submit(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        all=(),
        face=(),
        voice=(),
        text=(),
        intensity=None,
        confidence=None,
        comment="",
        transcript="",
        valence=None,
        arousal=None,
        on_page=0,
        lead_s=0,
        session: LabelSession | None = None,
    ):
        current, project = self._resume(request, profile, session)
        chosen = _by_target(project, all, face, voice, text)
        missing = [QUESTIONS[t] for t, emotions in chosen.items() if not emotions]
        if missing:
            raise LabelError("no_emotion", f"choose an emotion, 'cannot tell' or skip first: {missing[0]}")
        words = " ".join((transcript or "").split())
        corrected = words if words and words != (current.task.transcript or "") else None
        answers = [
            Answer(
                _rank_weights(emotions),
                target=target,
                confidence=confidence,
                intensity=intensity,
                valence=valence,
                arousal=arousal,
                comment=comment or "",
                transcript=corrected,
            )
            for target, emotions in chosen.items()
        ]
        yield self._store_answers(current, project, "label", answers, on_page, lead_s, chosen)

    @report_errors("told")
    def cannot_tell(
        self, request: gr.Request, profile: OAuthProfile | None, comment="", on_page=0, lead_s=0, session=None
    ):
        yield self._answer_without_label("cannot_tell", request, profile, comment, on_page, lead_s, session)

    @report_errors("told")
    def skip(self, request: gr.Request, profile: OAuthProfile | None, comment="", on_page=0, lead_s=0, session=None):
        yield self._answer_without_label("skip", request, profile, comment, on_page, lead_s, session)

    @report_errors("told")
    def broken(self, request: gr.Request, profile: OAuthProfile | None, comment="", on_page=0, lead_s=0, session=None):
        yield self._answer_without_label("broken", request, profile, comment, on_page, lead_s, session)

    @report_errors("told")
    def undo(self, request: gr.Request, profile: OAuthProfile | None, session: LabelSession | None = None):
        current, project = self._resume(request, profile, session)
        queue = self._queue(project)
        person = authorize(self.service, "label", request, profile, current.annotator)
        task = queue.undo(current.annotator, None if person.logged_in else current.answered)
        if task is None:
            raise LabelError("nothing_to_undo", "there is no answer of yours to take back in this project")
        loaded = {t.assignment_id for t in current.tasks}
        answered = current.answered - {task.assignment_id}
        current = replace(current, tasks=[task, *current.tasks[:1]], answered=answered)
        yield self._show(current, project, loaded=loaded) | {
            self.told: result_html.status(f"Taken back: {label_view.task_name(task)} is here again."),
            self.progress: label_view.progress(queue.progress(current.annotator)),
        }

    @report_errors("told")
    def reveal(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        all=(),
        face=(),
        voice=(),
        text=(),
        session: LabelSession | None = None,
    ):
        current, project = self._resume(request, profile, session)
        # Only what was chosen before and stays is blind.
        self._chosen_at_look.setdefault(current.task.assignment_id, _by_target(project, all, face, voice, text))
        yield {self.told: label_view.model_answer(current.task, promoted(self.service.paths.checkpoints))}

    def _queue(self, project: Project) -> Queue:
        return self._queues.setdefault(project.id, Queue(self.store, project))

    def _resume(
        self, request: gr.Request, profile: OAuthProfile | None, session: LabelSession | None
    ) -> tuple[LabelSession, Project]:
        """Return the session and its project, if the person may still label and is the one who started it."""
        person = authorize(self.service, "label", request, profile, session.annotator if session else "")
        if session is None:
            raise LabelError(
                "no_sitting",
                "the server was started anew since; what you chose is still on the page: press Start, and the same "
                "item comes back",
            )
        if person.name != session.annotator:
            raise LabelError("not_yours", f"this item was lent to {session.annotator}; press Start")
        return session, projects.project(self.store, session.project)

    def _answer_without_label(self, outcome: str, request, profile, comment, on_page, lead_s, session) -> dict:
        current, project = self._resume(request, profile, session)
        answer = Answer(target=project.targets[0], outcome=outcome, comment=comment or "")
        return self._store_answers(current, project, outcome, [answer], on_page, lead_s)

    def _store_answers(
        self, session: LabelSession, project: Project, outcome: str, answers: list[Answer], on_page, lead_s, chosen=None
    ) -> dict:
        """Store the answers to the item on the screen and return the page with the next one."""
        done, queue = session.task, self._queue(project)
        if on_page and on_page != done.assignment_id:
            raise LabelError(
                "other_item", "the page does not show this item yet, so nothing was stored; look at it and answer again"
            )
        blind = project.blind and self._chosen_at_look.get(done.assignment_id, chosen) == chosen
        lead_s = float(lead_s) if lead_s else time.monotonic() - session.since
        receipt = None
        try:
            receipt = queue.submit(
                done.assignment_id, session.annotator, answers, lead_time_s=round(lead_s, 3), blind=blind
            )
            told = label_view.stored(done, outcome, answers, receipt)
        except LabelError as error:
            if error.code not in _GONE:
                raise
            told = result_html.failure(f"{label_view.task_name(done)} {_GONE[error.code]}; here is the next")
        self._chosen_at_look.pop(done.assignment_id, None)
        loaded = {task.assignment_id for task in session.tasks[1:]}
        answered = session.answered | {done.assignment_id}
        session = replace(session, tasks=queue.next(session.annotator, 2), answered=answered)
        page = self._show(session, project, loaded=loaded)
        return page | {
            self.told: told + page.get(self.told, ""),
            self.progress: label_view.progress(receipt.progress if receipt else queue.progress(session.annotator)),
            self.receipt: receipt and label_view.receipt_json(done, receipt),
        }

    def _show(
        self, session: LabelSession, project: Project, *, loaded: Set[int] = frozenset(), clear_form: bool = True
    ) -> dict:
        """Return the page with the session's item and the one after it.

        Args:
            loaded: assignments whose media the page has already.
        """
        session.since = time.monotonic()
        feed = {
            "items": [
                label_view.task_json(
                    task, self.service.player, let_in=session.let_in, with_media=task.assignment_id not in loaded
                )
                for task in session.tasks
            ],
            "targets": list(project.targets),
        }
        shown = {self.feed: feed, self.session: session, self.desk: gr.Column(visible=True)}
        if not session.tasks:
            return {**shown, self.status: result_html.status(_QUEUE_EMPTY)}
        cleared = self._cleared_form(project) if clear_form else {}
        if not project.blind:
            cleared[self.told] = label_view.model_answer(session.task, promoted(self.service.paths.checkpoints))
        return {**shown, self.status: "", **cleared}

    def _cleared_form(self, project: Project) -> dict:
        choices = [(f"{i + 1} {e.capitalize()}", e) for i, e in enumerate(EMOTIONS) if e in project.label_set]
        return {
            **{
                group: gr.CheckboxGroup(value=[], visible=target in project.targets, choices=choices)
                for target, group in self.emotions.items()
            },
            self.intensity: None,
            self.confidence: None,
            self.comment: "",
            self.transcript: "",
            self.valence: None,
            self.arousal: None,
            self.told: "",
        }


def _by_target(project: Project, *chosen) -> dict[str, list[str]]:
    """Return what was chosen for each of the project's targets."""
    return {t: list(c or ()) for t, c in zip(TARGETS, chosen, strict=True) if t in project.targets}


def _rank_weights(chosen: list[str]) -> dict[str, float]:
    """Return shares that fall evenly from the first to the last: 2/3 and 1/3, or 3/6, 2/6 and 1/6."""
    return {e: float(len(chosen) - i) for i, e in enumerate(chosen)}
