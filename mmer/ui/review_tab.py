"""The Review tab: how far annotators agree, what they differ about, and the final word on it."""

from dataclasses import asdict
from html import escape

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.db.schema import TARGETS
from annotations.queue.projects import projects
from annotations.review import adjudication
from annotations.review import agreement as measured
from annotations.review.adjudication import AnnotatorLabel, DisputedItem, Event, Filters, Item
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import agreement_html, result_html
from mmer.ui.auth import allowed
from mmer.ui.handlers import report_errors
from mmer.ui.service import Service

_PAGE = 12  # items: what a phone shows without losing the detail below
_FLAGS = {"undecided": "Only undecided", "model_differs": "Model disagrees", "commented": "Has a comment"}
_OUTCOMES = {"": "Any", "cannot_tell": "Somebody cannot tell", "broken": "Clip said to be broken"}
_KINDS = {
    "prediction": "The model answered", "lease": "Lent to", "label": "Label by", "undo": "Taken back by",
    "gold": "Known answer by", "decision": "Decided by",
}  # fmt: skip
_EMPTY = (
    '<p class="mm-hint">How far the annotators of a project agree, and the items they differ about, appear here.</p>'
)


def tab(service: Service) -> None:
    """Lay out the tab in the page being built, and wire it."""
    store = service.store
    offset, opened = gr.State(0), gr.State(None)
    with gr.Row(equal_height=False):
        # Which projects there are the store says: there may be more since the page was opened.
        project = gr.Dropdown(
            [], label="Project", value=None, allow_custom_value=True, elem_id="review-project", min_width=180
        )
        target = gr.Radio(
            [(agreement_html.TARGETS[t], t) for t in TARGETS],
            value="all",
            label="What was judged",
            elem_id="review-target",
        )
        name = gr.Textbox(
            label="Your name", value="", elem_id="review-name", min_width=140, info="Where nobody logs in, it stands by what you decide."
        )  # fmt: skip
    with gr.Accordion("Filter the items", open=False), gr.Row():
        emotion = gr.Dropdown(
            [("Any", ""), *((e.capitalize(), e) for e in EMOTIONS)], value="", label="Somebody chose", min_width=140
        )
        annotator = gr.Textbox(label="Judged by", value="", placeholder="an annotator's name", min_width=140)
        outcome = gr.Dropdown([(v, k) for k, v in _OUTCOMES.items()], value="", label="Somebody said", min_width=140)
        flags = gr.CheckboxGroup([(v, k) for k, v in _FLAGS.items()], value=[], label="Only", min_width=200)
    show = gr.Button("Show", variant="primary", elem_id="review-show")
    status = gr.HTML(label="Status", elem_id="review-status")
    agreed = gr.HTML(_EMPTY, label="Agreement", elem_id="review-agreement")
    with gr.Column(visible=False) as listed:
        items = gr.Radio(
            [], label="Items, those annotators differ most about first", elem_id="review-items",
            info="Choose one to see its clip, its labels and its history.",
        )  # fmt: skip
        with gr.Row():
            previous = gr.Button("Previous", min_width=100, elem_id="review-previous")
            following = gr.Button("Next", min_width=100, elem_id="review-next")
    doing = gr.HTML(label="Status", elem_id="review-doing")
    with gr.Column(visible=False, elem_id="review-panel") as panel:
        detail = gr.HTML(label="Item", elem_id="review-detail")
        with gr.Group():
            final = gr.Radio([(e.capitalize(), e) for e in EMOTIONS], label="Final label", elem_id="review-final")
            comment = gr.Textbox(label="Why (optional)", value="", elem_id="review-comment")
        with gr.Row():
            decide = gr.Button("Decide", variant="primary", elem_id="review-decide", min_width=100)
            take_back = gr.Button("Take back", elem_id="review-take-back", min_width=100)
        decided = gr.HTML(label="Decision", elem_id="review-decided")
        past = gr.HTML(label="History", elem_id="review-history")
    with gr.Accordion("Raw figures", open=False):
        raw = gr.JSON(label="Agreement", open=False)
        raw_items = gr.JSON(label="Items", open=False)
        raw_item = gr.JSON(label="Item", open=False)

    asked = [project, target, emotion, annotator, outcome, flags, name]
    lines = [items, listed, offset, raw_items]

    def page(at: int, project, target, emotion, annotator, outcome, flags) -> dict:
        if not project:
            raise LabelError("no_project", "choose a project; where there is none yet, an administrator makes one")
        filters = Filters(
            emotion or None, (annotator or "").strip() or None, outcome or None, **{flag: True for flag in flags or ()}
        )
        at = max(at, 0)
        found = adjudication.disagreements(store, project, target, filters=filters, offset=at, limit=_PAGE + 1)
        shown = found[:_PAGE]
        return {
            items: gr.Radio(choices=[(_line(d), d.item_id) for d in shown], value=None),
            listed: gr.Column(visible=True),
            previous: gr.Button(interactive=at > 0),
            following: gr.Button(interactive=len(found) > _PAGE),
            offset: at,
            raw_items: [asdict(d) for d in shown],
            status: result_html.status(
                f"Items {at + 1} to {at + len(shown)}" if shown else "No item fits; nothing was labelled, or the filters leave none."
            ),
        }  # fmt: skip

    @report_errors(status)
    def known(request: gr.Request, profile: OAuthProfile | None):
        allowed(service, "review", request, profile)
        names = [p.name for p in projects(store)]
        yield {project: gr.Dropdown(choices=names, value=next(iter(names), None))}

    @report_errors(status)
    def showing(
        request: gr.Request, profile: OAuthProfile | None,
        project=None, target="all", emotion="", annotator="", outcome="", flags=(), name="",
    ):  # fmt: skip
        allowed(service, "review", request, profile, name)
        first = page(0, project, target, emotion, annotator, outcome, flags)
        yield first | {panel: gr.Column(visible=False), opened: None, doing: ""}
        found = measured.agreement(store, project, target)
        # The last answer is all that a caller of the API gets; the list itself stays, somebody may have chosen from it.
        yield {agreed: agreement_html.agreement(found, target), raw: _plain(found), raw_items: first[raw_items]}

    def turning(step: int):
        @report_errors(status)
        def turn(
            request: gr.Request, profile: OAuthProfile | None, at,
            project=None, target="all", emotion="", annotator="", outcome="", flags=(), name="",
        ):  # fmt: skip
            allowed(service, "review", request, profile, name)
            yield page((at or 0) + step * _PAGE, project, target, emotion, annotator, outcome, flags)

        return turn

    def look(item_id: int, target: str) -> dict:
        found, events = adjudication.item(store, item_id, target), adjudication.history(store, item_id)
        return {
            detail: _item(found),
            past: _history(events),
            raw_item: {
                "item_id": found.item_id, "name": found.name, "final": found.final, "gold": found.gold,
                "labels": [{**asdict(g), "created_at": g.created_at.isoformat()} for g in found.labels],
                "history": [
                    {"at": e.at.isoformat(), "kind": e.kind, "who": e.who, "target": e.target, "what": e.what, "counts": e.counts}
                    for e in events
                ],
            },
            panel: gr.Column(visible=True),
            final: next(iter(found.final), None),
            opened: (item_id, target),
        }  # fmt: skip

    @report_errors(doing)
    def opening(request: gr.Request, profile: OAuthProfile | None, item_id=None, target="all", name=""):
        allowed(service, "review", request, profile, name)
        if not isinstance(item_id, int):
            raise LabelError("no_item", "choose an item from the list")
        yield look(item_id, target) | {comment: "", decided: "", doing: ""}

    def judge(who: str, place: tuple[int, str] | None, emotion: str | None, why: str) -> dict:
        if not place:
            raise LabelError("no_item", "open an item first")
        found = adjudication.item(store, *place)
        adjudication.adjudicate(store, found.clip_id, found.start_s, found.end_s, found.target, emotion, who, why or "")
        told = f"Decided: {emotion}." if emotion else "The decision is taken back; the annotators' labels count again."
        return look(*place) | {decided: result_html.status(told), comment: ""}

    @report_errors(decided)
    def deciding(request: gr.Request, profile: OAuthProfile | None, emotion=None, comment="", name="", opened=None):
        person = allowed(service, "review", request, profile, name)
        if not emotion:
            raise LabelError("no_emotion", "choose the final label")
        yield judge(person.name, opened, emotion, comment)

    @report_errors(decided)
    def taking_back(request: gr.Request, profile: OAuthProfile | None, comment="", name="", opened=None):
        person = allowed(service, "review", request, profile, name)
        yield judge(person.name, opened, None, comment)

    quiet = {"show_progress": "hidden"}
    turned = [*lines, previous, following, status]
    seen = [detail, past, raw_item, panel, final, opened]
    gr.on(fn=known, inputs=[], outputs=[project, status], api_name="review_projects", **quiet)  # when the page opens
    show.click(showing, asked, [*turned, agreed, raw, panel, opened, doing], api_name="review", show_progress="minimal", show_progress_on=[agreed])  # fmt: skip
    previous.click(turning(-1), [offset, *asked], turned, api_name="review_previous", **quiet)
    following.click(turning(+1), [offset, *asked], turned, api_name="review_next", **quiet)
    # Not preprocessed: gradio would take only what its last list had, and say so before the role is asked for.
    turn_to = items.input(
        opening,
        [items, target, name],
        [*seen, comment, decided, doing],
        api_name="review_open",
        preprocess=False,
        **quiet,
    )
    turn_to.success(None, js=_SHOW)  # on a phone the item is below the fold
    decide.click(deciding, [final, comment, name, opened], [*seen, comment, decided], api_name="review_decide", **quiet)
    take_back.click(
        taking_back, [comment, name, opened], [*seen, comment, decided], api_name="review_take_back", **quiet
    )


_SHOW = "() => document.getElementById('review-detail').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


def _when(start_s: float | None, end_s: float | None) -> str:
    return "whole clip" if start_s is None else f"{start_s:.1f}–{end_s:.1f} s"


def _line(found: DisputedItem) -> str:
    """Return an item in one line; the words say what colours would."""
    said = ", ".join(f"{e} {n}" for e, n in sorted(found.counts.items(), key=lambda pair: -pair[1])) or "no emotion"
    marks = [
        *(["decided"] if found.decided else []),
        *(["model disagrees"] if found.model_differs else []),
        *(["cannot tell"] if found.cannot_tell else []),
        *(["broken"] if found.broken else []),
        *(["comment"] if found.commented else []),
    ]
    return f"{found.name}, {_when(found.start_s, found.end_s)}: {said}" + "".join(f" · {m}" for m in marks)


def _item(found: Item) -> str:
    """Return the clip, what is known of it, and the annotators' labels side by side."""
    facts = [f"Final label: <strong>{escape(_shares(found.final))}</strong>." if found.final else "Not decided yet."]
    if found.gold:
        facts.append(f"Known answer: {escape(_shares(found.gold))}.")
    if found.transcript:
        facts.append(f"Words: “{escape(found.transcript)}”")
    columns = "".join(f"<li>{_given(g)}</li>" for g in found.labels)
    return (
        f'<section class="mm-card mm-review" aria-label="Item"><h2 class="mm-emotion">{escape(found.name)}, '
        f"{_when(found.start_s, found.end_s)}</h2>{_media(found)}<p>{' '.join(facts)}</p>"
        f"<h3>{len(found.labels)} labels, {agreement_html.TARGETS[found.target].lower()}</h3>"
        f'<ul class="mm-beside">{columns}</ul></section>'
    )


def _media(found: Item) -> str:
    if found.media is None:
        return '<p class="mm-hint">The recording was not kept, so only its labels can be seen.</p>'
    kind = result_html.media_type(found.media)
    size = found.media.stat().st_size
    if size > result_html.SHOWN_BYTES:
        return f'<p class="mm-hint">{result_html.too_large(size)}</p>'
    data = result_html.data_uri(found.media.read_bytes(), kind)
    if kind.startswith("image/"):
        return f'<img class="mm-clip" src="{data}" alt="The picture that was judged">'
    part = "" if found.start_s is None else f"#t={found.start_s:.3f},{found.end_s:.3f}"
    tag = "audio" if kind.startswith("audio/") else "video"
    note = (
        ""
        if found.start_s is None
        else f'<p class="mm-footer">Of it, {_when(found.start_s, found.end_s)} is to be judged, and plays.</p>'
    )
    return (
        f'<{tag} class="mm-clip" controls playsinline preload="auto" src="{data}{part}" aria-label="The clip that was judged">'
        f"This browser cannot play {escape(kind)}.</{tag}>{note}"
    )


def _given(given: AnnotatorLabel) -> str:
    """Return one annotator's word."""
    said = _shares(given.emotions) or given.outcome.replace("_", " ")
    facts = [
        *([f"sure {result_html.percent(given.confidence)}"] if given.confidence is not None else []),
        *([f"intensity {result_html.percent(given.intensity)}"] if given.intensity is not None else []),
        *([f"after {given.lead_time_s:.1f} s"] if given.lead_time_s is not None else []),
        *([] if given.blind is None else ["blind" if given.blind else "saw the model's answer"]),
        *([f"model: {given.model}"] if given.model else []),
    ]
    note = f"<q>{escape(given.comment)}</q>" if given.comment else ""
    return f"<small>{escape(given.annotator)}</small><strong>{escape(said)}</strong><small>{escape(', '.join(facts))}</small>{note}"


def _shares(emotions: dict[str, float]) -> str:
    heaviest = sorted(emotions.items(), key=lambda pair: -pair[1])
    return ", ".join(e if share > 0.999 else f"{e} {result_html.percent(share)}" for e, share in heaviest)


def _history(events: list[Event]) -> str:
    rows = ""
    for event in events:
        about = f" ({agreement_html.TARGETS[event.target].lower()})" if event.target else ""
        what = f": {escape(event.what)}" if event.what else ""
        gone = "" if event.counts or event.kind == "undo" else " <em>no longer counts</em>"
        note = f" <q>{escape(event.comment)}</q>" if event.comment else ""
        rows += (
            f'<li><time datetime="{event.at.isoformat()}">{event.at:%Y-%m-%d %H:%M:%S}</time> {_KINDS[event.kind]} '
            f"<strong>{escape(event.who) or 'somebody'}</strong>{about}{what}{gone}{note}</li>"
        )
    return (
        f'<details class="mm-card"><summary>History, {len(events)} entries (UTC)</summary>'
        f'<ol class="mm-history">{rows}</ol></details>'
    )


def _plain(found: measured.Agreement) -> dict:
    """Return the figures as JSON holds them."""
    return {
        **{k: getattr(found, k) for k in ("alpha", "per_emotion", "per_target", "n_items", "n_shared", "n_labels", "n_cannot_tell")},
        "kappas": [{"a": a, "b": b, "kappa": kappa, "n": n} for (a, b), (kappa, n) in found.kappas.items()],
        "annotators": [asdict(a) for a in found.annotators],
        "confusion": {e: dict(zip(EMOTIONS, row, strict=True)) for e, row in zip(EMOTIONS, found.confusion.tolist(), strict=True)},
    }  # fmt: skip
