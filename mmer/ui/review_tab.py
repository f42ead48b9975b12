"""The Review tab: how far annotators agree, what they differ about, and the final word on it."""

from dataclasses import asdict

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.db.schema import TARGETS
from annotations.queue.projects import projects
from annotations.review import adjudication
from annotations.review.adjudication import Event, Filters, Item
from annotations.review.agreement import Agreement, agreement
from mmer.checkpoint import promoted
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import agreement_html, result_html, review_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.service import Service

_PAGE = 12  # items: what a phone shows without losing the detail below
_FLAGS = {"undecided": "Only undecided", "model_differs": "Model disagrees", "commented": "Has a comment"}
_OUTCOMES = {"": "Any", "cannot_tell": "Somebody cannot tell", "broken": "Clip said to be broken"}
_EMPTY = (
    '<p class="mm-hint">How far the annotators of a project agree, and the items they differ about, appear here.</p>'
)
_SCROLL = "() => document.getElementById('review-detail').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


class ReviewTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.store = service.store
        self.offset, self.opened = gr.State(0), gr.State(None)  # of the list; (item id, target) of the open item
        self._build_question()
        self.agreed = gr.HTML(_EMPTY, label="Agreement", elem_id="review-agreement")
        self._build_list()
        with gr.Column(visible=False, elem_id="review-panel") as self.panel:
            self._build_decision()
        with gr.Accordion("Raw figures", open=False):
            self.raw = gr.JSON(label="Agreement", open=False)
            self.raw_items = gr.JSON(label="Items", open=False)
            self.raw_item = gr.JSON(label="Item", open=False)
        self._connect()

    def _build_question(self) -> None:
        with gr.Row(equal_height=False):
            # Which projects there are the store says: there may be more since the page was opened.
            self.project = gr.Dropdown(
                [], label="Project", value=None, allow_custom_value=True, elem_id="review-project", min_width=180
            )
            self.target = gr.Radio(
                [(agreement_html.TARGETS[t], t) for t in TARGETS],
                value="all",
                label="What was judged",
                elem_id="review-target",
            )
            self.reviewer = gr.Textbox(
                label="Your name",
                value="",
                elem_id="review-name",
                min_width=140,
                info="Where nobody logs in, it stands by what you decide.",
            )
        with gr.Accordion("Filter the items", open=False), gr.Row():
            emotions = [("Any", ""), *((e.capitalize(), e) for e in EMOTIONS)]
            self.emotion = gr.Dropdown(emotions, value="", label="Somebody chose", min_width=140)
            self.annotator = gr.Textbox(label="Judged by", value="", placeholder="an annotator's name", min_width=140)
            self.outcome = gr.Dropdown(
                [(v, k) for k, v in _OUTCOMES.items()], value="", label="Somebody said", min_width=140
            )
            self.flags = gr.CheckboxGroup([(v, k) for k, v in _FLAGS.items()], value=[], label="Only", min_width=200)
        self.show_button = gr.Button("Show", variant="primary", elem_id="review-show")
        self.status = gr.HTML(label="Status", elem_id="review-status")

    def _build_list(self) -> None:
        with gr.Column(visible=False) as self.listed:
            self.items = gr.Radio(
                [],
                label="Items, those annotators differ most about first",
                elem_id="review-items",
                info="Choose one to see its clip, its labels and its history.",
            )
            with gr.Row():
                self.previous_button = gr.Button("Previous", min_width=100, elem_id="review-previous")
                self.next_button = gr.Button("Next", min_width=100, elem_id="review-next")
        self.item_status = gr.HTML(label="Status", elem_id="review-doing")

    def _build_decision(self) -> None:
        self.detail = gr.HTML(label="Item", elem_id="review-detail")
        with gr.Group():
            self.final = gr.Radio([(e.capitalize(), e) for e in EMOTIONS], label="Final label", elem_id="review-final")
            self.comment = gr.Textbox(label="Why (optional)", value="", elem_id="review-comment")
        with gr.Row():
            self.decide_button = gr.Button("Decide", variant="primary", elem_id="review-decide", min_width=100)
            self.take_back_button = gr.Button("Take back", elem_id="review-take-back", min_width=100)
        self.decided = gr.HTML(label="Decision", elem_id="review-decided")
        self.history = gr.HTML(label="History", elem_id="review-history")

    def _connect(self) -> None:
        question = [
            self.project,
            self.target,
            self.emotion,
            self.annotator,
            self.outcome,
            self.flags,
            self.reviewer,
        ]
        page = [self.items, self.listed, self.offset, self.raw_items]
        page += [self.previous_button, self.next_button, self.status]
        item = [self.detail, self.history, self.raw_item, self.panel, self.final, self.opened]
        gr.on(
            fn=self.list_projects,
            inputs=[],
            outputs=[self.project, self.status],
            api_name="review_projects",
            show_progress="hidden",
        )
        self.show_button.click(
            self.show,
            question,
            [*page, self.agreed, self.raw, self.panel, self.opened, self.item_status],
            api_name="review",
            show_progress="minimal",
            show_progress_on=[self.agreed],
        )
        self.previous_button.click(
            self.previous_page, [self.offset, *question], page, api_name="review_previous", show_progress="hidden"
        )
        self.next_button.click(
            self.next_page, [self.offset, *question], page, api_name="review_next", show_progress="hidden"
        )
        # Not preprocessed: gradio would take only what its last list had, and say so before the role is asked for.
        opened = self.items.input(
            self.open,
            [self.items, self.target, self.reviewer],
            [*item, self.comment, self.decided, self.item_status],
            api_name="review_open",
            preprocess=False,
            show_progress="hidden",
        )
        opened.success(None, js=_SCROLL)  # on a phone the item is below the fold
        self.decide_button.click(
            self.decide,
            [self.final, self.comment, self.reviewer, self.opened],
            [*item, self.comment, self.decided],
            api_name="review_decide",
            show_progress="hidden",
        )
        self.take_back_button.click(
            self.take_back,
            [self.comment, self.reviewer, self.opened],
            [*item, self.comment, self.decided],
            api_name="review_take_back",
            show_progress="hidden",
        )

    @report_errors("status")
    def list_projects(self, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "review", request, profile)
        names = [p.name for p in projects(self.store)]
        yield {self.project: gr.Dropdown(choices=names, value=next(iter(names), None))}

    @report_errors("status")
    def show(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        project=None,
        target="all",
        emotion="",
        annotator="",
        outcome="",
        flags=(),
        name="",
    ):
        authorize(self.service, "review", request, profile, name)
        page = self._page(0, project, target, emotion, annotator, outcome, flags)
        yield page | {self.panel: gr.Column(visible=False), self.opened: None, self.item_status: ""}
        measured = agreement(self.store, project, target)
        # The last answer is all that a caller of the API gets; the list itself stays, somebody may have chosen from it.
        yield {
            self.agreed: agreement_html.agreement(measured, target),
            self.raw: _agreement_json(measured),
            self.raw_items: page[self.raw_items],
        }

    @report_errors("status")
    def previous_page(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        at,
        project=None,
        target="all",
        emotion="",
        annotator="",
        outcome="",
        flags=(),
        name="",
    ):
        authorize(self.service, "review", request, profile, name)
        yield self._page((at or 0) - _PAGE, project, target, emotion, annotator, outcome, flags)

    @report_errors("status")
    def next_page(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        at,
        project=None,
        target="all",
        emotion="",
        annotator="",
        outcome="",
        flags=(),
        name="",
    ):
        authorize(self.service, "review", request, profile, name)
        yield self._page((at or 0) + _PAGE, project, target, emotion, annotator, outcome, flags)

    @report_errors("item_status")
    def open(self, request: gr.Request, profile: OAuthProfile | None, item_id=None, target="all", name=""):
        authorize(self.service, "review", request, profile, name)
        if not isinstance(item_id, int):
            raise LabelError("no_item", "choose an item from the list")
        yield self._item(item_id, target) | {self.comment: "", self.decided: "", self.item_status: ""}

    @report_errors("decided")
    def decide(self, request: gr.Request, profile: OAuthProfile | None, emotion=None, comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        if not emotion:
            raise LabelError("no_emotion", "choose the final label")
        yield self._decide(person.name, opened, emotion, comment)

    @report_errors("decided")
    def take_back(self, request: gr.Request, profile: OAuthProfile | None, comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        yield self._decide(person.name, opened, None, comment)

    def _page(self, at: int, project, target, emotion, annotator, outcome, flags) -> dict:
        """Return the list from an offset on."""
        if not project:
            raise LabelError("no_project", "choose a project; where there is none yet, an administrator makes one")
        filters = Filters(
            emotion or None, (annotator or "").strip() or None, outcome or None, **{flag: True for flag in flags or ()}
        )
        at = max(at, 0)
        rows = adjudication.disagreements(self.store, project, target, filters=filters, offset=at, limit=_PAGE + 1)
        items = rows[:_PAGE]
        told = f"Items {at + 1} to {at + len(items)}"
        if not items:
            told = "No item fits; nothing was labelled, or the filters leave none."
        return {
            self.items: gr.Radio(choices=[(review_html.item_line(i), i.item_id) for i in items], value=None),
            self.listed: gr.Column(visible=True),
            self.previous_button: gr.Button(interactive=at > 0),
            self.next_button: gr.Button(interactive=len(rows) > _PAGE),
            self.offset: at,
            self.raw_items: [asdict(i) for i in items],
            self.status: result_html.status(told),
        }

    def _item(self, item_id: int, target: str) -> dict:
        """Return the page with an item open."""
        item, events = adjudication.item(self.store, item_id, target), adjudication.history(self.store, item_id)
        return {
            self.detail: review_html.item(item, self.service.player),
            self.history: review_html.history(events, promoted(self.service.paths.checkpoints)),
            self.raw_item: _item_json(item, events),
            self.panel: gr.Column(visible=True),
            self.final: next(iter(item.final), None),
            self.opened: (item_id, target),
        }

    def _decide(self, reviewer: str, opened: tuple[int, str] | None, emotion: str | None, why: str) -> dict:
        """Record the final word on the open item, or take it back, and return the page with it."""
        if not opened:
            raise LabelError("no_item", "open an item first")
        item = adjudication.item(self.store, *opened)
        adjudication.adjudicate(
            self.store, item.clip_id, item.start_s, item.end_s, item.target, emotion, reviewer, why or ""
        )
        told = f"Decided: {emotion}." if emotion else "The decision is taken back; the annotators' labels count again."
        return self._item(*opened) | {self.decided: result_html.status(told), self.comment: ""}


def _agreement_json(measured: Agreement) -> dict:
    plain = ("alpha", "per_emotion", "per_target", "n_items", "n_shared", "n_labels", "n_cannot_tell")
    rows = zip(EMOTIONS, measured.confusion.tolist(), strict=True)
    return {
        **{name: getattr(measured, name) for name in plain},
        "kappas": [{"a": a, "b": b, "kappa": kappa, "n": n} for (a, b), (kappa, n) in measured.kappas.items()],
        "annotators": [asdict(a) for a in measured.annotators],
        "confusion": {e: dict(zip(EMOTIONS, row, strict=True)) for e, row in rows},
    }


def _item_json(item: Item, events: list[Event]) -> dict:
    return {
        "item_id": item.item_id,
        "name": item.name,
        "final": item.final,
        "gold": item.gold,
        "labels": [{**asdict(label), "created_at": label.created_at.isoformat()} for label in item.labels],
        "history": [
            {
                "at": event.at.isoformat(),
                "kind": event.kind,
                "who": event.who,
                "target": event.target,
                "what": event.what,
                "counts": event.counts,
            }
            for event in events
        ],
    }
