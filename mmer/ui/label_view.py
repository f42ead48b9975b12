"""What the Label tab shows of items and answers: JSON for the page's script, HTML for its reader."""

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from annotations.queue.assignment import Answer, Progress, Receipt, Task
from annotations.queue.own_answers import OwnAnswer
from mmer.errors import ClipError
from mmer.messages import capital, marked
from mmer.ui.label_session import Work
from mmer.ui.language import Texts, gettext, pattern, told
from mmer.ui.names import IN_SENTENCE, emotion
from mmer.ui.numbers import percent, stretch
from mmer.ui.playable import Player
from mmer.ui.render import in_text, render, sign, signs
from mmer.ui.result_html import status

_OUTCOMES = Texts(
    {
        "label": marked("labelled"),
        "cannot_tell": marked("cannot tell"),
        "broken": marked("broken"),
        "skip": marked("skipped"),
    }
)


def task_name(task: Task) -> str:
    """Return what an annotator may know an item by: in most corpora the name of a file tells its emotion."""
    name = gettext("Item {id}", id=task.item_id)
    return name if task.start_s is None else f"{name}, {stretch(task.start_s, task.end_s)}"


def task_json(task: Task, player: Player, address: Callable[[Task, Path], str], *, let_in: bool) -> dict:
    """Return what the page needs of an item, and nothing that tells what the model, a gold answer or its file says.

    Args:
        address: of the item's recording, which lies there.
        let_in: whether the page's owner let the annotator in: nobody else sees what was given with a consent.
    """
    kind, media, note, transcript = "text", None, "", task.transcript or ""
    if task.media is not None and player.store.was_consented(task.media) and not let_in:
        transcript = ""
        note = gettext(
            "This recording is only for the people whom the owner of this page lets in. Ask for an account, or skip it."
        )
    elif task.media is not None:
        try:
            kind = player.kind(task.media, task.sha256)
            media = address(task, task.media)
        except ClipError as error:
            remedy = gettext("Skip it.") if error.code == "too_large" else gettext("Say that it is broken.")
            message = error.message.replace(task.media.name, "the recording")  # whose name may tell its emotion
            message = told(message) or message
            note = f"{capital(message)}. {remedy}"
    elif not task.transcript:
        note = gettext("There is nothing to see or hear: the recording is not here any more. Say that it is broken.")
    return {
        "id": task.assignment_id,
        "item_id": task.item_id,
        "name": task_name(task),
        "kind": kind,
        "media": media,
        "note": note,
        "start_s": task.start_s,
        "end_s": task.end_s,
        "transcript": transcript,
    }


def receipt_json(task: Task, receipt: Receipt) -> dict:
    """Return what was stored of an answer."""
    gold = receipt.gold and {"right": receipt.gold.right, "emotions": receipt.gold.emotions, "why": receipt.gold.why}
    return {
        "item_id": task.item_id,
        "label_ids": list(receipt.label_ids),
        "gold": gold,
        "progress": vars(receipt.progress),
    }


def model_answer(task: Task, serves: str) -> str:
    """Return the model's answer to an item, and whether another checkpoint than the one that serves gave it."""
    if not task.prediction:
        return status(gettext("The model has not answered this item."))
    first, per_modality = task.prediction["emotion"], task.prediction["per_modality"]
    votes = [
        Markup("{} {}").format(IN_SENTENCE[m], sign(branch["emotion"])) for m, branch in per_modality.items() if branch
    ]
    sure = task.prediction["probs"].get(first, 0.0)
    by = task.prediction.get("checkpoint", serves)
    older = ""
    if by != serves:
        older = gettext(" This answer is of an older checkpoint, {by}; {serves} serves now.", by=by, serves=serves)
    words = Markup(pattern("Model: {sign}, {share}. By channel: {votes}.{older}"))
    return status(words.format(sign=sign(first), share=percent(sure), votes=Markup(", ").join(votes), older=older))


def stored(task: Task, outcome: str, answers: list[Answer], receipt: Receipt, *, changed: bool = False) -> str:
    """Return what was stored, and how it compares with a known answer.

    It stands beside the next item, so what the model said of this one is not in it.
    """
    answer = signs(answers[0].emotions or ()) if outcome == "label" else emotion(outcome)
    words = pattern("{item} changed: {answer}.") if changed else pattern("{item} stored: {answer}.")
    parts = [Markup(words).format(item=task_name(task), answer=answer)]
    if receipt.gold:
        right = gettext("as you said") if receipt.gold.right else signs(receipt.gold.emotions)
        known = Markup(pattern("This item's answer was known: {answer}.")).format(answer=right)
        parts.append(Markup("{} <bdi>{}</bdi>").format(known, receipt.gold.why) if receipt.gold.why else known)
    return status(Markup(" ").join(parts))


def progress(of: Progress) -> str:
    """Return how far an annotator is."""
    return render("label_progress.html", progress=of)


def answer_line(answer: OwnAnswer) -> str:
    """Return an answered item in one line of text."""
    place = "" if answer.start_s is None else f", {stretch(answer.start_s, answer.end_s)}"
    given = [sorted(emotions.items(), key=lambda pair: -pair[1]) for emotions in answer.emotions.values() if emotions]
    said = [", ".join(in_text(*pair) for pair in pairs) for pairs in given]
    what = "; ".join(said) or emotion(answer.outcome)
    return f"{gettext('Item {id}', id=answer.item_id)}{place}: {what} · {answer.finished_at:%H:%M} UTC"


def summary(work: Work, told: str) -> str:
    """Return what was done in a session, under a line about why it ends."""
    outcomes = [(_OUTCOMES[outcome], n) for outcome, n in work.outcomes.items()]
    return render("label_summary.html", work=work, told=told, outcomes=outcomes)


def rank_weights(chosen: Sequence[str]) -> dict[str, float]:
    """Return shares that fall evenly from the first to the last: 2/3 and 1/3, or 3/6, 2/6 and 1/6."""
    return {e: float(len(chosen) - i) for i, e in enumerate(chosen)}
