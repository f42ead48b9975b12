"""The Label tab: one item after the other, judged blind, by mouse or by keyboard alone."""

import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.db.schema import TARGETS
from annotations.queue import projects
from annotations.queue.assignment import Answer, Progress, Queue, Receipt, Task
from annotations.queue.media_import import import_kept_clips
from annotations.queue.projects import Project
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import result_html
from mmer.ui.auth import allowed
from mmer.ui.handlers import report_errors
from mmer.ui.service import Service

HOTKEYS = Path(__file__).with_name("label_tab.js").read_text(encoding="utf-8")
QUESTIONS = {
    "all": "What do you find, all together?", "face": "What does the face show?", "voice": "How does the voice sound?",
    "text": "What do the words say?",
}  # fmt: skip
_LEVELS = [("Weak", 0.33), ("Medium", 0.66), ("Strong", 1.0)]
_SURE = [("Guessing", 0.3), ("Fairly sure", 0.6), ("Certain", 0.9)]
_VALENCE = [("Very unpleasant", -1), ("Unpleasant", -0.5), ("Neither", 0), ("Pleasant", 0.5), ("Very pleasant", 1)]
_AROUSAL = [("Very calm", -1), ("Calm", -0.5), ("Neither", 0), ("Excited", 0.5), ("Very excited", 1)]
_KEPT = "Clips kept here"  # the project that is made of them


@dataclass
class Sitting:
    """What one browser session is doing."""

    project: str = ""
    name: str = ""
    tasks: list[Task] = field(default_factory=list)  # the one on the screen, then the one that is loaded ahead
    since: float = 0.0  # monotonic: when the first of them was sent

    @property
    def task(self) -> Task:
        if not self.tasks:
            raise LabelError("no_item", "there is no item on the screen; choose a project and press Start")
        return self.tasks[0]


def tab(service: Service) -> None:
    """Lay out the tab in the page being built, and wire it."""
    store = service.store
    queues: dict[int, Queue] = {}  # by project: a queue remembers where each annotator was
    looked: dict[int, dict[str, list[str]]] = {}  # by lent item: what was chosen when the model's answer was looked at
    sitting = gr.State(None, time_to_live=12 * 3600)

    with gr.Row(equal_height=False):
        project = gr.Dropdown(
            [], label="Project", value=None, allow_custom_value=True, elem_id="label-project", min_width=180
        )
        name = gr.Textbox(
            label="Your name", value="", elem_id="label-name", min_width=140, info="Your labels stand under it."
        )
        start = gr.Button("Start", variant="primary", elem_id="label-start", min_width=100)
    make = gr.Button("Make a project of the clips kept here", elem_id="label-make", size="sm")
    status = gr.HTML(label="Status", elem_id="label-status")
    with gr.Column(visible=False, elem_id="label-desk") as desk:
        with gr.Accordion("Guidelines", open=False, elem_id="label-guidelines"):
            guidelines = gr.Markdown()
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                gr.HTML(_STAGE, label="Clip", elem_id="label-stage")
                progress = gr.HTML(label="Progress", elem_id="label-progress")
            with gr.Column(scale=5, min_width=320):
                said = [
                    gr.CheckboxGroup(
                        [(f"{i + 1} {e.capitalize()}", e) for i, e in enumerate(EMOTIONS)], value=[], label=QUESTIONS[target],
                        info="The strongest first; press again to take it back.", elem_id=f"label-{target}", visible=False,
                    )
                    for target in TARGETS
                ]  # fmt: skip
                intensity = gr.Radio(_LEVELS, label="How strong? (Shift+1 to 3)", elem_id="label-intensity")
                with gr.Row():
                    submit = gr.Button("Submit (Enter)", variant="primary", elem_id="label-submit", min_width=120)
                    cannot = gr.Button("Cannot tell (c)", elem_id="label-cannot", min_width=120)
                with gr.Row():
                    undo = gr.Button("Undo (u)", elem_id="label-undo", min_width=80, size="sm")
                    skip = gr.Button("Skip (s)", elem_id="label-skip", min_width=80, size="sm")
                    broken = gr.Button("Broken (x)", elem_id="label-broken", min_width=80, size="sm")
                    reveal = gr.Button("Model (b)", elem_id="label-reveal", min_width=80, size="sm")
                told = gr.HTML(label="Told", elem_id="label-told")
                with gr.Accordion("Comment, words, sureness", open=False, elem_id="label-more"):
                    confidence = gr.Radio(_SURE, label="How sure are you? (optional)", elem_id="label-confidence")
                    comment = gr.Textbox(label="Comment (optional)", value="", elem_id="label-comment")
                    transcript = gr.Textbox(
                        label="Words, corrected (optional)", value="", lines=2, elem_id="label-transcript"
                    )
                    # No sliders: one that nobody touched would answer all the same.
                    valence = gr.Radio(_VALENCE, label="Pleasant? (optional)", elem_id="label-valence")
                    arousal = gr.Radio(_AROUSAL, label="Excited? (optional)", elem_id="label-arousal")
        with gr.Accordion("Keys (?)", open=False, elem_id="label-help"):
            gr.HTML(_KEYS)
        with gr.Accordion("Raw", open=False):
            feed = gr.JSON(label="Items", open=False)
            receipt = gr.JSON(label="Stored", open=False)
    on_page, lead = (
        gr.Number(0, visible=False),
        gr.Number(0, visible=False),
    )  # the page fills in its item and the seconds

    def queue(chosen: Project) -> Queue:
        return queues.setdefault(chosen.id, Queue(store, chosen))

    def sight(now: Sitting, chosen: Project, *, known: set[int] = frozenset()) -> dict:
        """Return the feed of a sitting: the item on the screen and the one after it, with media the page has not got."""
        now.since = time.monotonic()
        return {
            "items": [_shown(task, with_media=task.assignment_id not in known) for task in now.tasks],
            "targets": list(chosen.targets),
        }

    def fresh(chosen: Project) -> dict:
        return {
            **{group: gr.CheckboxGroup(value=[], visible=t in chosen.targets, choices=_choices(chosen))
               for t, group in zip(TARGETS, said, strict=True)},
            intensity: None, confidence: None, comment: "", transcript: "", valence: None, arousal: None, told: "",
        }  # fmt: skip

    def go_on(now: Sitting, chosen: Project, *, known: set[int] = frozenset(), form: bool = True) -> dict:
        found = sight(now, chosen, known=known)
        if not now.tasks:
            return {feed: found, sitting: now, status: result_html.status(_EMPTY_QUEUE), desk: gr.Column(visible=True)}
        emptied = fresh(chosen) if form else {}
        if not chosen.blind:
            emptied[told] = _model(now.task)
        return {feed: found, sitting: now, status: "", desk: gr.Column(visible=True), **emptied}

    @report_errors(status)
    def known(request: gr.Request, profile: OAuthProfile | None):
        allowed(service, "label", request, profile)
        names = [p.name for p in projects.projects(store)]
        yield {project: gr.Dropdown(choices=names, value=next(iter(names), None)), make: gr.Button(visible=not names)}

    @report_errors(status)
    def making(request: gr.Request, profile: OAuthProfile | None, name=""):
        person = allowed(service, "manage", request, profile, name)
        n = import_kept_clips(store, _KEPT, actor=person.name or "somebody")
        names = [p.name for p in projects.projects(store)]
        yield {project: gr.Dropdown(choices=names, value=_KEPT), make: gr.Button(visible=False),
               status: result_html.status(f"{_KEPT}: {n} clips wait; press Start.")}  # fmt: skip

    @report_errors(status)
    def starting(request: gr.Request, profile: OAuthProfile | None, project=None, name="", on_page=0):
        person = allowed(service, "label", request, profile, name)
        if not project:
            raise LabelError("no_project", "choose a project; where there is none yet, an administrator makes one")
        chosen = projects.project(store, project)
        now = Sitting(chosen.name, person.name, queue(chosen).next(person.name, 2))
        # After a restart of the server the item on the page comes back, and what was chosen for it stays.
        same = bool(on_page) and [task.assignment_id for task in now.tasks[:1]] == [on_page]
        yield go_on(now, chosen, known={on_page} if same else frozenset(), form=not same) | {
            guidelines: chosen.guidelines or "_None were written for this project._",
            progress: _progress(queue(chosen).progress(person.name)),
            receipt: None,
        }

    def current(request, profile, now: Sitting | None) -> tuple[Sitting, Project]:
        """Return the sitting and its project, if the person may still label and is the one who sat down."""
        person = allowed(service, "label", request, profile, now.name if now else "")
        if now is None:
            raise LabelError(
                "no_sitting", "the server was started anew since; what you chose is still on the page: press Start, and the same item comes back"
            )  # fmt: skip
        if person.name != now.name:
            raise LabelError("not_yours", f"this item was lent to {now.name}; press Start")
        return now, projects.project(store, now.project)

    def answered(request, profile, now, outcome: str, answers: list[Answer], on_page, lead_s, said=None) -> dict:
        now, chosen = current(request, profile, now)
        done = now.task
        if on_page and on_page != done.assignment_id:
            raise LabelError(
                "other_item", "the page does not show this item yet, so nothing was stored; look at it and answer again"
            )
        blind = chosen.blind and looked.get(done.assignment_id, said) == said
        lead_s = float(lead_s) if lead_s else time.monotonic() - now.since
        left = queue(chosen).submit(done.assignment_id, now.name, answers, lead_time_s=round(lead_s, 3), blind=blind)
        looked.pop(done.assignment_id, None)
        known = {task.assignment_id for task in now.tasks[1:]}
        now = Sitting(now.project, now.name, queue(chosen).next(now.name, 2))
        return go_on(now, chosen, known=known) | {
            told: _told(done, outcome, answers, left),
            progress: _progress(left.progress),
            receipt: _plain(done, left),
        }

    @report_errors(told)
    def submitting(
        request: gr.Request, profile: OAuthProfile | None,
        all=(), face=(), voice=(), text=(), intensity=None, confidence=None, comment="", transcript="", valence=None,
        arousal=None, on_page=0, lead_s=0, now=None,
    ):  # fmt: skip
        now, chosen = current(request, profile, now)
        chose = {t: c for t, c in zip(TARGETS, (all, face, voice, text), strict=True) if t in chosen.targets}
        missing = [QUESTIONS[t] for t, c in chose.items() if not c]
        if missing:
            raise LabelError("no_emotion", f"choose an emotion, 'cannot tell' or skip first: {missing[0]}")
        was = now.task.transcript or ""
        words = " ".join((transcript or "").split())
        answers = [
            Answer(_weights(c), target=t, confidence=confidence, intensity=intensity, valence=valence, arousal=arousal,
                   comment=comment or "", transcript=words if words and words != was else None)
            for t, c in chose.items()
        ]  # fmt: skip
        yield answered(request, profile, now, "label", answers, on_page, lead_s, chose)

    def saying(outcome: str):
        @report_errors(told)
        def say(request: gr.Request, profile: OAuthProfile | None, comment="", on_page=0, lead_s=0, now=None):
            target = current(request, profile, now)[1].targets[0]
            answer = Answer(target=target, outcome=outcome, comment=comment or "")
            yield answered(request, profile, now, outcome, [answer], on_page, lead_s)

        return say

    @report_errors(told)
    def undoing(request: gr.Request, profile: OAuthProfile | None, now=None):
        now, chosen = current(request, profile, now)
        back = queue(chosen).undo(now.name)
        if back is None:
            raise LabelError("nothing_to_undo", "there is no answer of yours to take back in this project")
        held = {task.assignment_id for task in now.tasks}
        now = Sitting(now.project, now.name, [back, *now.tasks[:1]])
        shown = go_on(now, chosen, known=held)
        yield shown | {
            told: result_html.status(f"Taken back: {back.name}. It is here again."),
            progress: _progress(queue(chosen).progress(now.name)),
        }

    @report_errors(told)
    def revealing(request: gr.Request, profile: OAuthProfile | None, all=(), face=(), voice=(), text=(), now=None):
        now, chosen = current(request, profile, now)
        chose = {t: c for t, c in zip(TARGETS, (all, face, voice, text), strict=True) if t in chosen.targets}
        # Only what was chosen before and stays is blind.
        looked.setdefault(now.task.assignment_id, {t: list(c or ()) for t, c in chose.items()})
        yield {told: _model(now.task)}

    quiet = {"show_progress": "hidden"}
    shown = [feed, sitting, status, desk, *said, intensity, confidence, comment, transcript, valence, arousal, told]
    more = [progress, receipt]
    gr.on(fn=known, inputs=[], outputs=[project, make, status], api_name="label_projects", **quiet)
    make.click(making, [name], [project, make, status], api_name="label_make_project", **quiet)
    form = [*said, intensity, confidence, comment, transcript, valence, arousal, on_page, lead, sitting]
    # Not preprocessed: gradio would speak of a choice that is none before the role is asked for.
    events = [
        gr.on([start.click, name.submit], starting, [project, name, on_page], [*shown, guidelines, *more], api_name="label_start", js=_SEEN, **quiet),
        submit.click(submitting, form, [*shown, *more], api_name="label_submit", js=_TIMED, preprocess=False, **quiet),
        *(
            button.click(saying(outcome), [comment, on_page, lead, sitting], [*shown, *more], api_name=f"label_{outcome}", js=_TIMED, **quiet)
            for button, outcome in ((cannot, "cannot_tell"), (skip, "skip"), (broken, "broken"))
        ),
        undo.click(undoing, [sitting], [*shown, *more], api_name="label_undo", **quiet),
    ]  # fmt: skip
    for event in events:
        event.success(None, feed, None, js="(feed) => mmerLabel.feed(feed)")
    reveal.click(revealing, [*said, sitting], [told, status], api_name="label_reveal", preprocess=False, **quiet)


# The page knows which item it shows and since when; the server sees neither.
_TIMED = "(...inputs) => [...inputs.slice(0, -3), mmerLabel.id(), mmerLabel.seconds(), inputs.at(-1)]"
_SEEN = "(...inputs) => [...inputs.slice(0, -1), mmerLabel.id()]"
_EMPTY_QUEUE = "Nothing is left for you in this project. Thank you."
_STAGE = """<section class="mm-stage" aria-label="Clip to judge" tabindex="-1">
<p class="mm-hint" id="mm-name"></p>
<div id="mm-screen"></div>
<p class="mm-said" id="mm-words"></p>
<div class="mm-modes" role="toolbar" aria-label="How to play">
<button type="button" data-mm="play">Play (space)</button>
<button type="button" data-mm="whole" aria-pressed="false">Whole clip</button>
<button type="button" data-mm="slow" aria-pressed="false">Half speed</button>
<button type="button" data-mm="face" aria-pressed="false">Face only</button>
<button type="button" data-mm="voice" aria-pressed="false">Voice only</button>
<button type="button" data-mm="text" aria-pressed="false">Words only</button>
</div>
<p class="mm-live" id="mm-live" role="status" aria-live="polite"></p>
</section>"""
_KEYS = """<dl class="mm-keys">
<dt>1–7</dt><dd>an emotion; again takes it back; the first is the strongest</dd>
<dt>Shift+1–3</dt><dd>weak, medium, strong</dd>
<dt>t</dt><dd>the next question, where a project asks several</dd>
<dt>Enter</dt><dd>submit, and on to the next item</dd>
<dt>Space</dt><dd>play and pause</dd>
<dt>w, h, f, v, o</dt><dd>whole clip, half speed, face only, voice only, words only</dd>
<dt>c, x, s</dt><dd>cannot tell, broken clip, skip</dd>
<dt>u</dt><dd>undo: the last item comes back</dd>
<dt>b</dt><dd>show the model's answer; before you chose, the label is no longer blind</dd>
<dt>?</dt><dd>this list</dd>
</dl><p class="mm-hint">Keys do nothing while you write in a field; Escape leaves it.</p>"""


def _choices(chosen: Project) -> list[tuple[str, str]]:
    return [(f"{i + 1} {e.capitalize()}", e) for i, e in enumerate(EMOTIONS) if e in chosen.label_set]


def _weights(chosen: list[str]) -> dict[str, float]:
    """Return shares that fall evenly from the first to the last: 2/3 and 1/3, or 3/6, 2/6 and 1/6."""
    return {e: float(len(chosen) - i) for i, e in enumerate(chosen)}


def _shown(task: Task, *, with_media: bool) -> dict:
    """Return what the page needs of an item, and nothing that tells what the model or a gold answer says."""
    kind = "text"
    media, note = None, ""
    if task.media is not None:
        guessed = result_html.media_type(task.media)
        kind = guessed.split("/")[0]
        size = task.media.stat().st_size
        if size > result_html.SHOWN_BYTES:
            note = f"{result_html.too_large(size)} Skip it."
        elif with_media:
            media = result_html.data_uri(task.media.read_bytes(), guessed)
    elif not task.transcript:
        note = "There is nothing to see or hear: the recording is not here any more. Say that it is broken."
    return {
        "id": task.assignment_id, "item_id": task.item_id, "name": task.name, "kind": kind, "media": media, "note": note,
        "start_s": task.start_s, "end_s": task.end_s, "transcript": task.transcript or "",
    }  # fmt: skip


def _model(task: Task) -> str:
    """Return the model's answer to an item."""
    if not task.prediction:
        return result_html.status("The model has not answered this item.")
    branches = ", ".join(f"{m} {found['emotion']}" for m, found in task.prediction["per_modality"].items() if found)
    sure = task.prediction["probs"].get(task.prediction["emotion"], 0.0)
    return result_html.status(
        f"Model: {task.prediction['emotion']}, {result_html.percent(sure)}. By channel: {branches}."
    )


def _told(done: Task, outcome: str, answers: list[Answer], left: Receipt) -> str:
    """Return what was stored, what the model said, and how it compares with a known answer."""
    said = ", ".join(answers[0].emotions) if outcome == "label" else outcome.replace("_", " ")
    parts = [f"Stored: {said}."]
    if done.prediction:
        parts.append(f"The model said {done.prediction['emotion']}.")
    if left.gold:
        right = "as you said" if left.gold.right else f"{', '.join(left.gold.emotions)}"
        parts.append(f"This item's answer was known: {right}. {left.gold.why}".strip())
    return result_html.status(" ".join(parts))


def _progress(found: Progress) -> str:
    total = found.done + found.remaining
    gold = f" · {found.gold_right} of {found.gold_seen} known answers right" if found.gold_seen else ""
    return (
        f'<div class="mm-progress"><span class="mm-bar" style="--share:{found.done / max(total, 1):.3f}"></span>'
        f"<small>{found.done} done, {found.remaining} left for you{escape(gold)}</small></div>"
    )


def _plain(done: Task, left: Receipt) -> dict:
    gold = left.gold and {"right": left.gold.right, "emotions": left.gold.emotions, "why": left.gold.why}
    return {"item_id": done.item_id, "label_ids": list(left.label_ids), "gold": gold, "progress": vars(left.progress)}
