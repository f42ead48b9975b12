"""What the Label tab shows of items and answers: JSON for the page's script, HTML for its reader."""

from annotations.queue.assignment import Answer, Progress, Receipt, Task
from mmer.numerals import percent, stretch
from mmer.ui.media_uri import data_uri, media_type, too_large
from mmer.ui.render import render
from mmer.ui.result_html import status


def task_name(task: Task) -> str:
    """Return what an annotator may know an item by: in most corpora the name of a file tells its emotion."""
    return f"Item {task.item_id}" + ("" if task.start_s is None else f", {stretch(task.start_s, task.end_s)}")


def task_json(task: Task, *, with_media: bool) -> dict:
    """Return what the page needs of an item, and nothing that tells what the model, a gold answer or its file says."""
    kind, media, note = "text", None, ""
    if task.media is not None:
        mime = media_type(task.media)
        kind = mime.split("/")[0]
        refused = too_large(task.media.stat().st_size)
        if refused:
            note = f"{refused} Skip it."
        elif with_media:
            media = data_uri(task.media.read_bytes(), mime)
    elif not task.transcript:
        note = "There is nothing to see or hear: the recording is not here any more. Say that it is broken."
    return {
        "id": task.assignment_id,
        "item_id": task.item_id,
        "name": task_name(task),
        "kind": kind,
        "media": media,
        "note": note,
        "start_s": task.start_s,
        "end_s": task.end_s,
        "transcript": task.transcript or "",
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


def model_answer(task: Task) -> str:
    """Return the model's answer to an item."""
    if not task.prediction:
        return status("The model has not answered this item.")
    emotion, per_modality = task.prediction["emotion"], task.prediction["per_modality"]
    channels = ", ".join(f"{m} {branch['emotion']}" for m, branch in per_modality.items() if branch)
    sure = task.prediction["probs"].get(emotion, 0.0)
    return status(f"Model: {emotion}, {percent(sure)}. By channel: {channels}.")


def stored(task: Task, outcome: str, answers: list[Answer], receipt: Receipt) -> str:
    """Return what was stored, and how it compares with a known answer.

    It stands beside the next item, so what the model said of this one is not in it.
    """
    answer = ", ".join(answers[0].emotions or ()) if outcome == "label" else outcome.replace("_", " ")
    parts = [f"{task_name(task)} stored: {answer}."]
    if receipt.gold:
        right = "as you said" if receipt.gold.right else ", ".join(receipt.gold.emotions)
        parts.append(f"This item's answer was known: {right}. {receipt.gold.why}".strip())
    return status(" ".join(parts))


def progress(of: Progress) -> str:
    """Return how far an annotator is."""
    return render("label_progress.html", progress=of)
