"""The Review tab: how far annotators agree, what they differ about, and the final word on it."""

from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.accounts import Person
from annotations.db.schema import TARGETS
from annotations.queue.projects import projects
from annotations.review import adjudication
from annotations.review.adjudication import DisputedItem, Event, Filters, Item
from annotations.review.agreement import Agreement, agreement
from mmer.checkpoint import promoted
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.messages import marked
from mmer.ui import agreement_html, result_html, review_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import page_being_built, remember_name, report_errors
from mmer.ui.identity import gate
from mmer.ui.label_view import rank_weights
from mmer.ui.language import gettext, label, part
from mmer.ui.media_links import viewer
from mmer.ui.names import choice, emotion
from mmer.ui.render import choice_in_text, hint, in_words, render
from mmer.ui.service import Service

_PAGE = 12  # items: what a phone shows without losing the detail below
_FLAGS = {
    "undecided": label("Only undecided"),
    "model_differs": label("Model disagrees"),
    "commented": label("Has a comment"),
}
KEYS = Path(__file__).with_name("review_tab.js").read_text(encoding="utf-8")
_OUTCOMES = {
    "": label("Any"),
    "cannot_tell": label("Somebody cannot tell"),
    "broken": label("Clip said to be broken"),
}
_EMPTY = marked("How far the annotators of a project agree, and the items they differ about, appear here.")
_FAR = 50 * _PAGE  # items beyond the list in which the next undecided one is looked for
_ADDRESS = "(project, item) => mmerPage.address('review', project, item)"
_SCROLL = "() => document.getElementById('review-detail').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


class ReviewTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.store = service.store
        self.offset, self.opened = gr.State(0), gr.State(None)  # of the list; (item id, target) of the open item
        self.shown = gr.State(())  # ids of the items in the list
        gr.HTML(part(lambda: gate("review", gettext("review"))), label="Reviewing")
        with gr.Column(elem_classes="mm-needs-review"):
            self._build()
        # What the address names, and that the page asks: the page's script fills them in.
        self.place, self.item = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
        self.from_page = gr.Checkbox(False, visible=False)
        self._connect()

    def _build(self) -> None:
        self._build_question()
        with gr.Row(equal_height=False):
            with gr.Column(visible=False, scale=5, min_width=320) as self.listed:
                self._build_list()
            with gr.Column(visible=False, scale=7, min_width=320, elem_id="review-panel") as self.panel:
                self._build_decision()
        self.agreed = gr.HTML(part(lambda: hint(_EMPTY)), label="Agreement", elem_id="review-agreement")
        gr.HTML(part(lambda: render("review_keys.html")), label="Keys")
        with gr.Accordion(label("Raw figures"), open=False):
            self.raw = gr.JSON(label=label("Agreement"), open=False)
            self.raw_items = gr.JSON(label=label("Items"), open=False)
            self.raw_item = gr.JSON(label=label("Item"), open=False)

    def _build_question(self) -> None:
        with gr.Row(equal_height=False):
            # Which projects there are the store says: there may be more since the page was opened.
            self.project = gr.Dropdown(
                [], label=label("Project"), value=None, allow_custom_value=True, elem_id="review-project", min_width=180
            )
            self.target = gr.Radio(
                [(label(agreement_html.TARGETS.marked(t)), t) for t in TARGETS],
                value="all",
                label=label("What was judged"),
                elem_id="review-target",
            )
            self.show_button = gr.Button(label("Show"), variant="primary", elem_id="review-show", min_width=100)
        with gr.Accordion(label("Filter the items"), open=False, elem_id="review-filters"), gr.Row():
            emotions = [(label("Any"), ""), *(choice_in_text(e) for e in EMOTIONS)]
            self.emotion = gr.Dropdown(
                emotions, value="", label=label("Somebody chose"), min_width=140, elem_id="review-emotion"
            )
            self.annotator = gr.Textbox(
                label=label("Judged by"),
                value="",
                placeholder=label("an annotator's name"),
                min_width=140,
                elem_id="review-by",
            )
            self.outcome = gr.Dropdown(
                [(v, k) for k, v in _OUTCOMES.items()], value="", label=label("Somebody said"), min_width=140
            )
            self.flags = gr.CheckboxGroup(
                [(v, k) for k, v in _FLAGS.items()],
                value=[],
                label=label("Only"),
                min_width=200,
                elem_id="review-flags",
            )
        self.status = gr.HTML(label="Status", elem_id="review-status")
        self.item_status = gr.HTML(label="Status", elem_id="review-doing")

    def _build_list(self) -> None:
        self.items = gr.Radio(
            [],
            label=label("Items, those annotators differ most about first"),
            elem_id="review-items",
            info=label("Choose one to see its clip, its labels and its history."),
        )
        with gr.Row():
            self.previous_button = gr.Button(
                label("Earlier items"), min_width=100, elem_id="review-previous", size="sm"
            )
            self.next_button = gr.Button(label("Further items"), min_width=100, elem_id="review-next", size="sm")

    def _build_decision(self) -> None:
        self.decided = gr.HTML(label="Decision", elem_id="review-decided")
        self.detail = gr.HTML(label="Item", elem_id="review-detail")
        self.final = gr.CheckboxGroup(
            [choice(e) for e in EMOTIONS],
            value=[],
            label=label("Final label"),
            info=label("Of a mixture the strongest first; press again to take it back."),
            elem_id="review-final",
            elem_classes="mm-emotions",
        )
        with gr.Row():
            self.decide_button = gr.Button(label("Decide"), variant="primary", elem_id="review-decide", min_width=110)
            self.cannot_button = gr.Button(label("Cannot tell"), elem_id="review-cannot", min_width=110)
            self.broken_button = gr.Button(label("Broken"), elem_id="review-broken", min_width=100)
            self.take_back_button = gr.Button(label("Take back"), elem_id="review-take-back", min_width=100)
        with gr.Row():
            self.comment = gr.Textbox(label=label("Why (optional)"), value="", elem_id="review-comment", min_width=180)
            self.reviewer = gr.Textbox(
                label=label("Your name"),
                value="",
                elem_id="review-name",
                min_width=140,
                info=label("It stands by what you decide."),
            )
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
        page += [self.previous_button, self.next_button, self.status, self.shown]
        item = [self.detail, self.history, self.raw_item, self.panel, self.final, self.opened]
        everything = [*page, self.agreed, self.raw, self.panel, self.opened, self.item_status]
        page_being_built().load(
            self.list_projects,
            [self.place, self.item, self.from_page],
            [self.project, self.status, *(b for b in [*everything, *item] if b is not self.status)],
            js="() => mmerReview.remembered()",
            api_name="review_projects",
            show_progress="hidden",
        )
        self.show_button.click(
            self.show,
            question,
            everything,
            api_name="review",
            show_progress="minimal",
            show_progress_on=[self.agreed],
        )
        gr.on(
            [self.emotion.input, self.annotator.submit, self.outcome.input, self.flags.input, self.target.input],
            self.filter,
            question,
            [*page, self.panel, self.opened],
            api_name="review_filter",
            show_progress="hidden",
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
        opened.success(None, [self.project, self.items], None, js=_ADDRESS)
        self.project.change(None, self.project, None, js="(name) => mmerReview.chose(name)")
        self.final.change(None, self.final, None, js="(chosen) => mmerLabel.rank('review-final', chosen)")
        remember_name(self.reviewer)
        self._connect_decisions(question, page, [*item, self.comment, self.decided])

    def _connect_decisions(self, question: list, page: list, outputs: list) -> None:
        """Connect the final words; after one the list is brought up to date and the next item opens."""
        about = [self.comment, self.reviewer, self.opened]
        ways = (
            (self.decide_button, self.decide, [self.final, *about], "review_decide"),
            (self.cannot_button, self.cannot_tell, about, "review_cannot_tell"),
            (self.broken_button, self.broken, about, "review_broken"),
        )
        for button, handler, given, name in ways:
            said = button.click(handler, given, outputs, api_name=name, preprocess=False, show_progress="hidden")
            followed = said.success(
                self.open_next,
                [self.offset, self.shown, self.opened, *question],
                [*page, *(b for b in outputs if b is not self.comment)],
                api_name=f"{name}_next",
                api_visibility="undocumented",
                show_progress="hidden",
            )
            followed.success(None, js=_SCROLL)
            followed.success(None, [self.project, self.items], None, js=_ADDRESS)
        self.take_back_button.click(self.take_back, about, outputs, api_name="review_take_back", show_progress="hidden")

    @report_errors("status")
    def list_projects(self, request: gr.Request, profile: OAuthProfile | None, project="", item="", from_page=False):
        """Offer the projects; after a reload, show again what the address names.

        Args:
            from_page: where one may not review, the page says so in a gate, and shows no error when it is opened.
        """
        try:
            person = authorize(self.service, "review", request, profile)
        except LabelError:
            if not from_page:
                raise
            yield {self.status: ""}
            return
        names = [p.name for p in projects(self.store)]
        chosen = project if project in names else next(iter(names), None)
        yield {self.project: gr.Dropdown(choices=names, value=chosen), self.status: ""}
        if project and chosen == project:
            page = self._page(0, project, "all", "", "", "", ())
            if (item or "").isdecimal() and len(item) < 19:  # as the database's numbers
                item_id = int(item)
                rows = [DisputedItem(**row) for row in page[self.raw_items]]
                listed = item_id if item_id in page[self.shown] else None
                page |= self._item(item_id, "all", request, person) | {self.items: _radio(rows, listed)}
            yield page
            yield self._agreement(project, "all", page)

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
        # The last answer is all that a caller of the API gets; the list itself stays, somebody may have chosen from it.
        yield self._agreement(project, target, page)

    @report_errors("status")
    def filter(
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
        yield page | {self.panel: gr.Column(visible=False), self.opened: None}

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
        person = authorize(self.service, "review", request, profile, name)
        if not isinstance(item_id, int):
            raise LabelError("no_item", "choose an item from the list")
        yield self._item(item_id, target, request, person) | {self.comment: "", self.decided: "", self.item_status: ""}

    @report_errors("decided")
    def decide(self, request: gr.Request, profile: OAuthProfile | None, emotion=(), comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        if not emotion:
            raise LabelError("no_emotion", "choose the final label, or say that nobody can tell or the clip is broken")
        yield self._decide(request, person, opened, list(emotion), "label", comment)

    @report_errors("decided")
    def cannot_tell(self, request: gr.Request, profile: OAuthProfile | None, comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        yield self._decide(request, person, opened, [], "cannot_tell", comment)

    @report_errors("decided")
    def broken(self, request: gr.Request, profile: OAuthProfile | None, comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        yield self._decide(request, person, opened, [], "broken", comment)

    @report_errors("decided")
    def take_back(self, request: gr.Request, profile: OAuthProfile | None, comment="", name="", opened=None):
        person = authorize(self.service, "review", request, profile, name)
        yield self._decide(request, person, opened, [], "label", comment)

    @report_errors("decided")
    def open_next(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        at,
        shown,
        opened,
        project=None,
        target="all",
        emotion="",
        annotator="",
        outcome="",
        flags=(),
        name="",
    ):
        """Bring the list up to date after a final word, and open the next item that has none."""
        person = authorize(self.service, "review", request, profile, name)
        if not opened:
            raise LabelError("no_item", "open an item first")
        question = (project, target, emotion, annotator, outcome, flags)
        word = _word_of(adjudication.item(self.store, *opened))
        page, item_id = self._next_undecided(at or 0, list(shown or ()), opened[0], question)
        if item_id is None:
            yield page | {
                self.decided: result_html.status(
                    gettext("Decided: {word}. No undecided item is left in this list.", word=word)
                )
            }
        else:
            told = result_html.status(gettext("Decided: {word}. Here is the next.", word=word))
            yield page | self._item(item_id, target, request, person) | {self.decided: told}

    def _next_undecided(self, at: int, shown: list[int], opened: int, question: tuple) -> tuple[dict, int | None]:
        """Return the list from which on the next undecided item stands in it, and that item; None when there is none.

        Args:
            shown: ids of the items in the list as it was, `opened` the one that was decided.
        """
        passed = set(shown[: shown.index(opened) + 1]) if opened in shown else set()
        first = page = self._page(at, *question)
        for start in range(at + _PAGE, at + _FAR, _PAGE):
            if (found := self._undecided(page, passed)) is not None or not page[self.raw_items]:
                break
            page, passed = self._page(start, *question), set()
        if found is None:  # but those that were passed over on the way
            page = self._page(0, *question)
            found = self._undecided(page, set())
        if found is None:
            return first, None
        rows = [DisputedItem(**row) for row in page[self.raw_items]]
        return page | {self.items: _radio(rows, found)}, found

    def _undecided(self, page: dict, passed: Set[int]) -> int | None:
        """Return the first item in the list without a final word, but for those passed."""
        ids = (row["item_id"] for row in page[self.raw_items] if not row["decided"])
        return next((item_id for item_id in ids if item_id not in passed), None)

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
        told = gettext("Items {first} to {last}", first=at + 1, last=at + len(items))
        if not items:
            told = gettext("No item fits; nothing was labelled, or the filters leave none.")
        return {
            self.items: _radio(items),
            self.shown: tuple(i.item_id for i in items),
            self.listed: gr.Column(visible=True),
            self.previous_button: gr.Button(interactive=at > 0),
            self.next_button: gr.Button(interactive=len(rows) > _PAGE),
            self.offset: at,
            self.raw_items: [asdict(i) for i in items],
            self.status: result_html.status(told),
        }

    def _item(self, item_id: int, target: str, request: gr.Request, person: Person) -> dict:
        """Return the page with an item open, its recording by a link for who asks."""
        item, events = adjudication.item(self.store, item_id, target), adjudication.history(self.store, item_id)
        link = self.service.links.link(item.clip_id, "review", viewer(request, person))
        return {
            self.detail: review_html.item(item, self.service.player, link, let_in=person.let_in),
            self.history: review_html.history(events, promoted(self.service.paths.checkpoints)),
            self.raw_item: _item_json(item, events),
            self.panel: gr.Column(visible=True),
            self.final: sorted(item.final, key=lambda e: -item.final[e]),
            self.opened: (item_id, target),
        }

    def _agreement(self, project: str, target: str, page: dict) -> dict:
        """Return the page with the figures: at a glance beside the list, and all of them beneath it."""
        measured = agreement(self.store, project, target)
        return {
            self.agreed: agreement_html.agreement(measured, target),
            self.raw: _agreement_json(measured),
            self.raw_items: page[self.raw_items],
            self.status: result_html.status(agreement_html.summary(measured)),
        }

    def _decide(
        self,
        request: gr.Request,
        person: Person,
        opened: tuple[int, str] | None,
        emotions: list[str],
        outcome: str,
        why: str,
    ) -> dict:
        """Record the final word on the open item, or take it back, and return the page with it."""
        if not opened:
            raise LabelError("no_item", "open an item first")
        item = adjudication.item(self.store, *opened)
        place = (item.clip_id, item.start_s, item.end_s, item.target)
        weights = rank_weights(emotions) or None
        adjudication.adjudicate(self.store, *place, weights, person.name, why or "", outcome=outcome)
        told = gettext("The decision is taken back; the annotators' labels count again.")
        if emotions or outcome != "label":
            told = gettext("Decided: {word}.", word=_word_of(adjudication.item(self.store, *opened)))
        return self._item(*opened, request, person) | {self.decided: result_html.status(told), self.comment: ""}


def _radio(items: Sequence[DisputedItem], chosen: int | None = None) -> gr.Radio:
    """Return the list of items."""
    return gr.Radio(choices=[(review_html.item_line(i), i.item_id) for i in items], value=chosen)


def _word_of(item: Item) -> str:
    """Return the final word on an item, in words."""
    largest_first = sorted(item.final.items(), key=lambda pair: -pair[1])
    return ", ".join(in_words(*pair) for pair in largest_first) or emotion(item.final_outcome or "nothing")


def _agreement_json(measured: Agreement) -> dict:
    plain = ("alpha", "per_emotion", "per_target", "n_items", "n_shared", "n_labels", "n_cannot_tell", "interval")
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
        "final_outcome": item.final_outcome,
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
