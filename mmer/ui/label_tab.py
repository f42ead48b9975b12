"""The Label tab: one item after the other, judged blind, by mouse or by keyboard alone."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from gradio.oauth import OAuthProfile

from annotations.accounts import Person, may
from annotations.db.schema import TARGETS
from annotations.queue import own_answers, projects
from annotations.queue.assignment import Answer, Queue, Receipt
from annotations.queue.media_import import import_kept_clips
from annotations.queue.projects import Project
from mmer.checkpoint import promoted
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.messages import marked
from mmer.ui import label_view, result_html
from mmer.ui.auth import authorize
from mmer.ui.correction_form import CONFIDENCE
from mmer.ui.handlers import page_being_built, remember_name, report_errors
from mmer.ui.identity import gate
from mmer.ui.label_session import LabelSession
from mmer.ui.language import gettext, label, part
from mmer.ui.media_links import Viewer, viewer
from mmer.ui.names import choice, emotion
from mmer.ui.render import hint, render
from mmer.ui.service import Service

HOTKEYS = "".join(Path(__file__).with_name(f"label_{n}.js").read_text(encoding="utf-8") for n in ("wave", "tab"))
QUESTIONS = {
    "all": marked("What do you find, all together?"),
    "face": marked("What does the face show?"),
    "voice": marked("How does the voice sound?"),
    "text": marked("What do the words say?"),
}
_LEVELS = [(label("Weak"), 0.33), (label("Medium"), 0.66), (label("Strong"), 1.0)]
_VALENCE = [
    (label("Very unpleasant"), -1),
    (label("Unpleasant"), -0.5),
    (label("Neither"), 0),
    (label("Pleasant"), 0.5),
    (label("Very pleasant"), 1),
]
_AROUSAL = [
    (label("Very calm"), -1),
    (label("Calm"), -0.5),
    (label("Neither"), 0),
    (label("Excited"), 0.5),
    (label("Very excited"), 1),
]
_DETAILS = ("intensity", "confidence", "comment", "transcript", "valence", "arousal")
_KEPT_CLIPS = "Clips kept here"  # the project that is made of them
# Why an item cannot be answered any more, so that the page has to go on to the next.
_GONE = {
    "already_submitted": marked(
        "{item} was answered in another window meanwhile, so nothing was stored from here; here is the next"
    ),
    "unknown_assignment": marked("{item} was deleted meanwhile, so nothing was stored; here is the next"),
    "not_answered": marked("{item} was taken back meanwhile, so nothing was stored; here is the next"),
}
_QUEUE_EMPTY = marked("Nothing is left for you in this project. Thank you.")
# The page knows which item it shows and since when; the server sees neither.
_LEAVE = "(...inputs) => [...inputs.slice(0, -3), ...mmerLabel.leave(), inputs.at(-1)]"
_LEAVE_CHOSEN = "(...inputs) => [...inputs.slice(0, -3), ...mmerLabel.leave(inputs.slice(0, 4)), inputs.at(-1)]"
_ADD_ITEM = "(...inputs) => [...inputs.slice(0, -3), mmerLabel.id(), inputs.at(-2), mmerLabel.looked()]"
# A server that was started anew since has forgotten the look.
_LOOK = "(...inputs) => { mmerLabel.remember('looked', true); return inputs; }"


class LabelTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.store = service.store
        self._queues: dict[int, Queue] = {}  # by project: a queue remembers where each annotator was
        # By assignment: what was chosen when the model's answer was looked at.
        self._chosen_at_look: dict[int, dict[str, list[str]]] = {}
        self.session = gr.State(None, time_to_live=12 * 3600)  # LabelSession | None
        gr.HTML(part(lambda: gate("label", gettext("label"))), label="Labelling")
        with gr.Column(elem_classes="mm-needs-label"):
            self._build()
        # The page's script fills in its item and the seconds since it showed it, and what it remembers after a reload.
        self.on_page, self.lead_s = gr.Number(0, visible=False), gr.Number(0, visible=False)
        self.place, self.draft = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
        self.from_page = gr.Checkbox(False, visible=False)
        self.looked = gr.Checkbox(False, visible=False)  # the page has shown the model's answer on its item
        self._connect()

    def _build(self) -> None:
        self._build_start()
        with gr.Column(visible=False, elem_id="label-desk") as self.desk:
            with gr.Row(equal_height=False):
                with gr.Column(scale=6, min_width=320):
                    self.progress = gr.HTML(label="Progress", elem_id="label-progress")
                    gr.HTML(part(lambda: render("label_stage.html")), label="Clip", elem_id="label-stage")
                    self.told = gr.HTML(label="Told", elem_id="label-told")  # what became of the last answer
                with gr.Column(scale=5, min_width=320, elem_id="label-form"):
                    self._build_answers()
            with gr.Accordion(label("Your answers"), open=False, elem_id="label-answers") as self.answers:
                self.given = gr.Radio(
                    [],
                    label=label("Your last answers, the newest first"),
                    info=label("Choose one to change it. Where the right answer was told with it, it stays."),
                    elem_id="label-given",
                )
                self.given_told = gr.HTML(label="Told", elem_id="label-given-told")
            with gr.Accordion(label("Guidelines"), open=False, elem_id="label-guidelines"):
                self.guidelines = gr.Markdown()
            gr.HTML(part(lambda: render("label_keys.html")), label="Keys", elem_id="label-keys")
            with gr.Accordion(label("Raw"), open=False):
                self.feed = gr.JSON(label=label("Items"), open=False)
                self.receipt = gr.JSON(label=label("Stored"), open=False)

    def _build_start(self) -> None:
        with gr.Row(equal_height=False, elem_id="label-start-row"):
            self.project = gr.Dropdown(
                [], label=label("Project"), value=None, allow_custom_value=True, elem_id="label-project", min_width=180
            )
            self.annotator = gr.Textbox(
                label=label("Your name"),
                value="",
                elem_id="label-name",
                min_width=140,
                info=label("Your labels stand under it."),
            )
            self.start_button = gr.Button(label("Start"), variant="primary", elem_id="label-start", min_width=100)
        self.make_button = gr.Button(label("Make a project of the clips kept here"), elem_id="label-make", size="sm")
        self.status = gr.HTML(label="Status", elem_id="label-status")

    def _build_answers(self) -> None:
        self.emotions = {
            target: gr.CheckboxGroup(
                [choice(e) for e in EMOTIONS],
                value=[],
                label=label(QUESTIONS[target]),
                info=label("The strongest first; press again to take it back."),
                elem_id=f"label-{target}",
                elem_classes="mm-emotions",
                visible=False,
            )
            for target in TARGETS
        }
        self.intensity = gr.Radio(_LEVELS, label=label("How strong? (optional)"), elem_id="label-intensity")
        # The keys beside the names are the style sheet's: on a phone there are none.
        with gr.Row(elem_classes="mm-buttons"):
            self.submit_button = gr.Button(label("Submit"), variant="primary", elem_id="label-submit", min_width=120)
            self.cannot_button = gr.Button(label("Cannot tell"), elem_id="label-cannot", min_width=120)
        with gr.Row(elem_classes="mm-buttons"):
            small: dict[str, Any] = {"min_width": 60, "size": "sm"}
            self.undo_button = gr.Button(label("Undo"), elem_id="label-undo", **small)
            self.skip_button = gr.Button(label("Skip"), elem_id="label-skip", **small)
            self.broken_button = gr.Button(label("Broken"), elem_id="label-broken", **small)
            self.reveal_button = gr.Button(label("Model"), elem_id="label-reveal", **small)
            self.pause_button = gr.Button(label("Pause"), elem_id="label-pause", **small)
        # The words are corrected where they stand, beneath the clip; the page's script writes them in here too.
        self.transcript = gr.Textbox(label="Words", value="", elem_id="label-transcript", elem_classes="mm-hidden")
        with gr.Accordion(label("Comment, sureness"), open=False, elem_id="label-more"):
            self.confidence = gr.Radio(
                CONFIDENCE, label=label("How sure are you? (optional)"), elem_id="label-confidence"
            )
            self.comment = gr.Textbox(label=label("Comment (optional)"), value="", elem_id="label-comment")
            # No sliders: one that nobody touched would answer all the same.
            self.valence = gr.Radio(_VALENCE, label=label("Pleasant? (optional)"), elem_id="label-valence")
            self.arousal = gr.Radio(_AROUSAL, label=label("Excited? (optional)"), elem_id="label-arousal")

    def _connect(self) -> None:
        choices = list(self.emotions.values())
        details: list[Any] = [
            self.intensity,
            self.confidence,
            self.comment,
            self.transcript,
            self.valence,
            self.arousal,
        ]
        for name, detail in zip(_DETAILS, details, strict=True):
            detail.change(None, detail, None, js=f"(value) => mmerLabel.remember('{name}', value)")
        remember_name(self.annotator)
        self.project.change(None, self.project, None, js="(name) => mmerPage.address('label', name)")
        desk = [self.feed, self.session, self.status, self.desk, *choices, *details, self.told]
        resumed, started = self._connect_project([*desk, self.guidelines, self.progress, self.receipt])
        form = [*choices, *details, self.on_page, self.lead_s, self.session]
        answered = self._connect_answers(form, [*desk, self.progress, self.receipt])
        for event in (resumed, started, *answered):
            event.success(None, self.feed, None, js="(feed) => mmerLabel.feed(feed)")
        for target, group in self.emotions.items():
            group.change(None, group, None, js=f"(chosen) => mmerLabel.rank('label-{target}', chosen)")
        self.reveal_button.click(
            self.reveal,
            [*choices, self.session],
            [self.told, self.status],
            api_name="label_reveal",
            js=_LOOK,
            preprocess=False,
            show_progress="hidden",
        )

    def _connect_project(self, outputs: list) -> tuple[Dependency, Dependency]:
        """Connect what leads to a session; return the events that go on with one and that start one."""
        projects_shown = [self.project, self.make_button, self.status]
        resumed = page_being_built().load(
            self.list_projects,
            [self.place, self.annotator, self.draft, self.from_page],
            [*projects_shown, *(block for block in outputs if block not in projects_shown)],
            js="() => mmerLabel.remembered()",
            api_name="label_projects",
            show_progress="hidden",
        )
        self.make_button.click(
            self.make_project, [self.annotator], projects_shown, api_name="label_make_project", show_progress="hidden"
        )
        started = gr.on(
            [self.start_button.click, self.annotator.submit],
            self.start,
            [self.project, self.annotator, self.on_page, self.session, self.looked],
            outputs,
            api_name="label_start",
            js=_ADD_ITEM,
            show_progress="hidden",
        )
        return resumed, started

    def _connect_answers(self, form: list, answered: list) -> list[Dependency]:
        """Connect every way to answer an item or to take an answer back; return their events."""
        # Not preprocessed: gradio would speak of a choice that is none before the role is asked for.
        submitted = self.submit_button.click(
            self.submit,
            form,
            answered,
            api_name="label_submit",
            js=_LEAVE_CHOSEN,
            preprocess=False,
            show_progress="hidden",
        )
        without_label = [
            button.click(
                handler,
                [self.comment, self.on_page, self.lead_s, self.session],
                answered,
                api_name=name,
                js=_LEAVE,
                show_progress="hidden",
            )
            for button, handler, name in (
                (self.cannot_button, self.cannot_tell, "label_cannot_tell"),
                (self.skip_button, self.skip, "label_skip"),
                (self.broken_button, self.broken, "label_broken"),
            )
        ]
        for event in (submitted, *without_label):
            event.failure(None, js="() => mmerLabel.back()")
        undone = self.undo_button.click(
            self.undo, [self.session], answered, api_name="label_undo", show_progress="hidden"
        )
        paused = self.pause_button.click(
            self.pause, [self.session], answered, api_name="label_pause", show_progress="hidden"
        )
        listed = [self.given, self.given_told]
        self.answers.expand(self.list_answers, [self.session], listed, api_name="label_answers", show_progress="hidden")
        # Not preprocessed: gradio would take only what its last list had.
        revisited = self.given.input(
            self.revisit,
            [self.given, self.session],
            [*answered, *listed],
            api_name="label_revisit",
            preprocess=False,
            show_progress="hidden",
        )
        return [submitted, *without_label, undone, paused, revisited]

    @report_errors("status")
    def list_projects(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        project="",
        name="",
        draft="",
        from_page=False,
    ):
        """Offer the projects; after a reload, go on where the page was.

        Args:
            draft: JSON of what the page had of an item that was not submitted yet; empty where nobody was labelling.
            from_page: where one may not label, the page says so in a gate, and shows no error when it is opened.
        """
        try:
            person = authorize(self.service, "label", request, profile, name)
        except LabelError:
            if not from_page:
                raise
            yield {self.status: ""}
            return
        names = [p.name for p in projects.projects(self.store)]
        chosen = project if project in names else next(iter(names), None)
        page = {
            self.project: gr.Dropdown(choices=names, value=chosen),
            self.make_button: gr.Button(visible=not names and may(person.role, "manage")),
            self.status: "",
        }
        held = _draft(draft)
        if held and chosen == project and person.name:
            page |= self._start(chosen, person, held, viewer(request, person))
        yield page

    @report_errors("status")
    def make_project(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        person = authorize(self.service, "manage", request, profile, name)
        n = import_kept_clips(self.store, _KEPT_CLIPS, actor=person.name or "somebody")
        names = [p.name for p in projects.projects(self.store)]
        yield {
            self.project: gr.Dropdown(choices=names, value=_KEPT_CLIPS),
            self.make_button: gr.Button(visible=False),
            self.status: result_html.status(
                gettext("{project}: {n} clips wait; press Start.", project=_KEPT_CLIPS, n=n)
            ),
        }

    @report_errors("status")
    def start(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        project=None,
        name="",
        on_page=0,
        session=None,
        looked=False,
    ):
        person = authorize(self.service, "label", request, profile, name)
        if not project:
            raise LabelError("no_project", "choose a project; where there is none yet, an administrator makes one")
        held = {"id": on_page, "looked": looked} if on_page else {}
        yield self._start(project, person, held, viewer(request, person), session)

    def _start(
        self, project: str, person: Person, held: dict, whose: Viewer, before: LabelSession | None = None
    ) -> dict:
        """Return the page with what the annotator holds, or with new items.

        Args:
            before: the session that was paused, or is started again.
            held: `id` of the assignment on the page, whether the model's answer on it was `looked` at there, and what
                was chosen for it where the page has lost it.
        """
        chosen = projects.project(self.store, project)
        queue = self._queue(chosen)
        tasks = queue.next(person.name, 2)
        session = LabelSession(chosen.name, person.name)
        if before and (before.project, before.annotator) == (chosen.name, person.name):
            session = before
        session = replace(session, tasks=tasks, let_in=person.let_in, viewer=whose, revising=None)
        # After a restart of the server the item on the page comes back, and what was chosen for it stays.
        same = bool(held) and [task.assignment_id for task in session.tasks[:1]] == [held.get("id")]
        lost = bool(held.keys() - {"id", "looked"})
        if same and held.get("looked"):  # what was chosen before the look is not known any more
            self._chosen_at_look.setdefault(session.task.assignment_id, {})
        page = self._show(session, chosen, clear_form=lost or not same)
        if same and lost and session.tasks:
            page |= self._refilled_form(chosen, held)
        return page | {
            self.guidelines: chosen.guidelines or gettext("_None were written for this project._"),
            self.progress: label_view.progress(queue.progress(person.name)),
            self.receipt: None,
        }

    def _refilled_form(self, project: Project, held: dict) -> dict:
        """Return the form as somebody had filled it in before the page was loaded again."""
        form = self._cleared_form(project)
        for target, group in self.emotions.items():
            chosen = [e for e in _list(held.get(target)) if e in project.label_set]
            form[group] = gr.CheckboxGroup(value=chosen, visible=target in project.targets, choices=_choices(project))
        scales = (_LEVELS, CONFIDENCE, _VALENCE, _AROUSAL)
        fields = (self.intensity, self.confidence, self.valence, self.arousal)
        for block, name, scale in zip(fields, ("intensity", "confidence", "valence", "arousal"), scales, strict=True):
            form[block] = next((value for _, value in scale if value == held.get(name)), None)
        form |= {self.comment: str(held.get("comment") or ""), self.transcript: str(held.get("transcript") or "")}
        return form

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
                label_view.rank_weights(emotions),
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
        yield self._show(current.taken_back(task), project) | {
            self.told: result_html.status(
                gettext("Taken back: {item} is here again.", item=label_view.task_name(task))
            ),
            self.progress: label_view.progress(queue.progress(current.annotator)),
        }

    @report_errors("status")
    def pause(self, request: gr.Request, profile: OAuthProfile | None, session: LabelSession | None = None):
        """Leave the item as it is, and say what was done so far; Start brings the item back."""
        current, _ = self._resume(request, profile, session)
        yield {
            self.feed: {"items": [], "targets": []},
            self.session: replace(current, tasks=[], revising=None),
            self.desk: gr.Column(visible=False),
            self.status: label_view.summary(current.work, gettext("Paused. Press Start to go on.")),
        }

    @report_errors("given_told")
    def list_answers(self, request: gr.Request, profile: OAuthProfile | None, session: LabelSession | None = None):
        current, project = self._resume(request, profile, session)
        person = authorize(self.service, "label", request, profile, current.annotator)
        given = None if person.logged_in else current.answered
        answers = own_answers.own_answers(self.store, self._queue(project), current.annotator, given)
        told = "" if answers else hint(marked("Nothing that you could change was answered here yet."))
        choices = [(label_view.answer_line(answer), answer.assignment_id) for answer in answers]
        yield {self.given: gr.Radio(choices=choices, value=None), self.given_told: told}

    @report_errors("given_told")
    def revisit(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        assignment_id=None,
        session: LabelSession | None = None,
    ):
        """Show an answered item with its answer, to be changed; the item on the screen waits."""
        current, project = self._resume(request, profile, session)
        person = authorize(self.service, "label", request, profile, current.annotator)
        queue, given = self._queue(project), None if person.logged_in else current.answered
        answers = own_answers.own_answers(self.store, queue, current.annotator, given)
        answer = next((one for one in answers if one.assignment_id == assignment_id), None)
        if answer is None:
            raise LabelError("not_yours", "choose one of your answers from the list")
        task = own_answers.task_again(self.store, queue, answer.assignment_id, current.annotator)
        waiting = current.tasks[1:] if current.revising else current.tasks
        current = replace(current, tasks=[task, *waiting], revising=task.assignment_id)
        held = {t: sorted(shares, key=lambda e: -shares[e]) for t, shares in answer.emotions.items()}
        page = self._show(current, project) | self._refilled_form(project, {**answer.details, **held})
        told = gettext("Your answer is here again: change it and submit, or skip to leave it as it is.")
        yield page | {self.told: result_html.status(told), self.given: None, self.given_told: ""}

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
        session = replace(session, let_in=person.let_in, viewer=viewer(request, person))
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
        receipt, work = None, session.work
        try:
            if session.revising:
                receipt, told = self._revise(session, queue, answers)
            else:
                receipt = queue.submit(
                    done.assignment_id, session.annotator, answers, lead_time_s=round(lead_s, 3), blind=blind
                )
                told, work = label_view.stored(done, outcome, answers, receipt), work.after(outcome, lead_s, receipt)
        except LabelError as error:
            if error.code not in _GONE:
                raise
            told = result_html.failure(gettext(_GONE[error.code], item=label_view.task_name(done)), here=True)
        self._chosen_at_look.pop(done.assignment_id, None)
        answered = session.answered | {done.assignment_id}
        session = replace(session, tasks=queue.next(session.annotator, 2), answered=answered, work=work, revising=None)
        page = self._show(session, project)
        return page | {
            self.told: told + page.get(self.told, ""),
            self.progress: label_view.progress(receipt.progress if receipt else queue.progress(session.annotator)),
            self.receipt: receipt and label_view.receipt_json(done, receipt),
        }

    def _revise(self, session: LabelSession, queue: Queue, answers: list[Answer]) -> tuple[Receipt, str]:
        """Put answers in the place of earlier ones; return what was stored and what is said of it."""
        done, progress = session.task, queue.progress(session.annotator)
        if answers[0].outcome == "skip":
            return Receipt((), None, progress), result_html.status(
                gettext("{item} stays as it was.", item=label_view.task_name(done))
            )
        label_ids = own_answers.revise(self.store, queue, done.assignment_id, session.annotator, answers)
        receipt = Receipt(label_ids, None, progress)
        return receipt, label_view.stored(done, answers[0].outcome, answers, receipt, changed=True)

    def _show(self, session: LabelSession, project: Project, *, clear_form: bool = True) -> dict:
        """Return the page with the session's item and the one after it."""
        session.since = time.monotonic()
        player, links = self.service.player, self.service.links
        feed = {
            "items": [
                label_view.task_json(
                    task, player, lambda t, _: links.link(t.clip_id, "label", session.viewer), let_in=session.let_in
                )
                for task in session.tasks
            ],
            "targets": list(project.targets),
        }
        shown = {self.feed: feed, self.session: session, self.desk: gr.Column(visible=True)}
        if not session.tasks:
            return {**shown, self.status: label_view.summary(session.work, gettext(_QUEUE_EMPTY))}
        cleared = self._cleared_form(project) if clear_form else {}
        if not project.blind:
            cleared[self.told] = label_view.model_answer(session.task, promoted(self.service.paths.checkpoints))
        return {**shown, self.status: "", **cleared}

    def _cleared_form(self, project: Project) -> dict:
        return {
            **{
                group: gr.CheckboxGroup(value=[], visible=target in project.targets, choices=_choices(project))
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


def _choices(project: Project) -> list[tuple[str, str]]:
    """Return a project's emotions, each with its name."""
    return [(emotion(e, capital=True), e) for e in EMOTIONS if e in project.label_set]


def _draft(sent: str | None) -> dict:
    """Return what a page remembers of its item; {} where it does not, or where it was not written by its script."""
    try:
        held = json.loads(sent or "{}")
    except (ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) and isinstance(held.get("id"), int) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _by_target(project: Project, *chosen) -> dict[str, list[str]]:
    """Return what was chosen for each of the project's targets."""
    return {t: list(c or ()) for t, c in zip(TARGETS, chosen, strict=True) if t in project.targets}
