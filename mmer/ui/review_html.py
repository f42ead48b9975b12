"""A reviewed item as HTML: its clip, the annotators' labels side by side, and its history."""

from annotations.review.adjudication import AnnotatorLabel, DisputedItem, Event, Item
from mmer.errors import ClipError
from mmer.messages import marked
from mmer.ui.agreement_html import IN_SENTENCE
from mmer.ui.language import Texts, gettext, isolated
from mmer.ui.names import emotion
from mmer.ui.numbers import percent, seconds, stretch
from mmer.ui.playable import Player
from mmer.ui.render import in_text, render

_KINDS = Texts(
    {
        "prediction": marked("The model answered"),
        "lease": marked("Lent to"),
        "label": marked("Label by"),
        "undo": marked("Taken back by"),
        "gold": marked("Known answer by"),
        "decision": marked("Decided by"),
    }
)


def item_line(item: DisputedItem) -> str:
    """Return an item in one line of text; the words say what colours would."""
    counts = sorted(item.counts.items(), key=lambda pair: -pair[1])
    labels = ", ".join(f"{in_text(e)} {n}" for e, n in counts) or gettext("no emotion")
    marks = {
        gettext("decided"): item.decided,
        gettext("model disagrees"): item.model_differs,
        gettext("cannot tell"): item.cannot_tell,
        gettext("broken"): item.broken,
        gettext("comment"): item.commented,
    }
    place = f"{isolated(item.name)}, {stretch(item.start_s, item.end_s)}"
    return f"{place}: {labels}" + "".join(f" · {mark}" for mark, applies in marks.items() if applies)


def item(shown: Item, player: Player, link: str, *, let_in: bool) -> str:
    """Return the clip, what is known of it, and the annotators' labels side by side.

    Args:
        link: to its recording.
        let_in: whether the page's owner let the reviewer in: nobody else sees what was given with a consent.
    """
    kind, media, why_no_media = "", "", "the recording was not kept, so only its labels can be seen"
    if shown.media is not None and player.store.was_consented(shown.media) and not let_in:
        why_no_media = "this recording is only for the people whom the owner of this page lets in"
    elif shown.media is not None:
        try:
            kind, media = player.kind(shown.media, shown.sha256), link
        except ClipError as error:
            why_no_media = error.message
    return render(
        "review_item.html",
        item=shown,
        when=stretch(shown.start_s, shown.end_s),
        target=IN_SENTENCE[shown.target],
        kind=kind,
        media=media,
        why_no_media=why_no_media,
        facts=[_facts(label) for label in shown.labels],
    )


def history(events: list[Event], serves: str) -> str:
    """Return everything that happened to an item, the oldest first; answers of other checkpoints are marked."""
    return render("review_history.html", events=events, kinds=_KINDS, targets=IN_SENTENCE, serves=serves)


def _facts(label: AnnotatorLabel) -> list[str]:
    """Return how an annotator came to a label."""
    return [
        *([gettext("sure {share}", share=percent(label.confidence))] if label.confidence is not None else []),
        *([gettext("intensity {share}", share=percent(label.intensity))] if label.intensity is not None else []),
        *([gettext("after {time}", time=seconds(label.lead_time_s))] if label.lead_time_s is not None else []),
        *([] if label.blind is None else [gettext("blind") if label.blind else gettext("saw the model's answer")]),
        *([gettext("model: {emotion}", emotion=emotion(label.model))] if label.model else []),
    ]
