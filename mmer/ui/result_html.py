"""Results as HTML: every bar has its number, colour is never alone, and what comes from outside is escaped."""

import base64
import mimetypes
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np

from mmer.labels import EMOTIONS, MODALITIES
from mmer.predict import EmotionResult
from mmer.ui.service import Saved

# Of a clip, which travels inside the answer: a file would lie where its address can be fetched.
SHOWN_BYTES = 32 * 2**20
_VIDEO = (".3gp", ".3g2")  # taken for sound by their names' list
NAMES = {"face": "Face", "voice": "Voice", "text": "Words"}
# The share of the probability from which the headline says so.
_CERTAINTY = ((0.75, "Clearly"), (0.5, "Probably"), (0.0, "Perhaps"))
_CLOSE = 0.15  # the runner-up is named when it comes this near
_BY_MODALITY = {"face": ("no_face", "face_unavailable"), "voice": ("no_speech",), "text": ("text_unavailable",)}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def likely(probability: float) -> str:
    """Return a probability in percent; a model is never certain, so none is shown as all of it."""
    return "over 99 %" if probability > 0.99 else percent(probability)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a true minus; what rounds to zero is not negative."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def media_type(path: Path) -> str:
    """Return how a browser is told of a clip, by the ending of its name; what is neither sound nor picture is video."""
    found = mimetypes.guess_type(path.name)[0] or ""
    if path.suffix.lower() in _VIDEO or not found.startswith(("audio/", "image/", "video/")):
        return found if found.startswith("video/") else "video/mp4"
    return found


def data_uri(data: bytes, kind: str) -> str:
    """Return a file inside the page, where nothing of it lies on the disk."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def too_large(size: int) -> str:
    """Return why a recording of this many bytes is not shown."""
    return f"The recording has {size / 2**20:.0f} MB; up to {SHOWN_BYTES >> 20} MB are shown here."


def status(text: str, seconds: float | None = None) -> str:
    """Return the line under a button: what is going on and for how long, or what has ended."""
    if seconds is None:
        return f'<div class="mm-status" role="status">{escape(text)}</div>'
    return (
        f'<div class="mm-status mm-busy"><span role="status">{escape(text)} …</span>'
        f'<span aria-hidden="true">{seconds:.0f} s</span></div>'
    )


def failure(message: str) -> str:
    return f'<div class="mm-status mm-failed" role="alert">That did not work: {escape(message)}.</div>'


def result(found: EmotionResult) -> str:
    """Return the verdict: headline, votes, contributions, utterances, warnings and who answered."""
    parts = [_headline(found), _absences(found), _notices(found), _footer(found)]
    if found.emotion is not None:
        parts.insert(1, _votes(found))
        parts.insert(3, _contributions(found))
        parts.insert(4, _utterances(found) if len(found.segments) > 1 else "")
    return f'<section class="mm-card" aria-label="Result">{"".join(parts)}</section>'


def _headline(found: EmotionResult) -> str:
    if found.emotion is None:
        return (
            '<h2 class="mm-emotion">No emotion can be given</h2>'
            "<p>Neither a face, nor a voice, nor words could be read from this clip.</p>"
        )
    first, second = np.argsort(found.probs)[::-1][:2]
    certainty = next(word for share, word in _CERTAINTY if found.probs[first] >= share)
    certainty = "No reliable answer; the best guess is" if found.abstain else certainty
    line = f"Confidence {likely(found.probs[first])}"
    if found.probs[first] < 0.5:
        line += ": no emotion reaches half, so take it as a guess"
    if found.probs[first] - found.probs[second] < _CLOSE:
        line += f". {EMOTIONS[second].capitalize()} is close behind with {likely(found.probs[second])}"
    return f'<h2 class="mm-emotion">{certainty} <strong>{found.emotion}</strong></h2><p>{line}.</p>'


def _votes(found: EmotionResult) -> str:
    head, columns = '<th scope="col">Together</th>', [found.probs]
    for name, present, probs in zip(NAMES.values(), found.present.values(), found.branch_probs, strict=True):
        head += f'<th scope="col">{name}{"" if present else "<small>not used</small>"}</th>'
        columns.append(probs if present else None)
    rows = []
    for k, emotion in enumerate(EMOTIONS):
        cells = ["<td>–</td>" if c is None else _bar(c[k], top=k == c.argmax()) for c in columns]
        rows.append(f'<tr><th scope="row">{emotion.capitalize()}</th>{"".join(cells)}</tr>')
    return (
        '<table class="mm-votes"><caption>How likely each emotion is: all channels together, then each alone</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _absences(found: EmotionResult) -> str:
    lines = [f"<li><strong>{NAMES[m]}</strong> not used: {escape(why)}.</li>" for m, why in why_absent(found).items()]
    return f'<ul class="mm-absences">{"".join(lines)}</ul>' if lines else ""


def _bar(share: float, *, top: bool = False) -> str:
    return f'<td{" class=mm-top" if top else ""}><span class="mm-bar" style="--share:{share:.3f}" aria-hidden="true"></span>{likely(share)}</td>'


def why_absent(found: EmotionResult) -> dict[str, str]:
    """Return, for each channel that was not used, the reason in words."""
    files, notices = found.observation.files, {n.code: n.message for n in found.quality}
    nothing = {
        "face": "no face was found" if any(f.has_picture for f in files) else "no picture was given",
        "voice": "nobody was heard speaking" if any(f.has_sound for f in files) else "no sound was given",
        "text": found.transcript.message or "nothing was said or typed",
    }
    if found.transcript.status == "unavailable":  # what is missing where is in the raw result, for who runs this
        nothing["text"] = "speech cannot be transcribed here, so type what is said"
    reasons = {}
    for modality, present in found.present.items():
        if not present:
            told = [notices[code] for code in _BY_MODALITY[modality] if code in notices]
            reasons[modality] = (told or [nothing[modality]])[0].rstrip(".")
    return reasons


def _contributions(found: EmotionResult) -> str:
    used = [NAMES[m].lower() for m, present in found.present.items() if present]
    if len(used) == 1:
        return f"<p>The {used[0]} alone decided.</p>"
    rows = []
    for name, value in zip(MODALITIES, found.contribution, strict=True):
        if not found.present[name]:
            continue
        side = "for" if value >= 0 else "against"
        rows.append(
            f'<tr><th scope="row">{NAMES[name]}</th><td class="mm-pull" aria-hidden="true"><span class="mm-{side}" '
            f'style="--share:{abs(value):.3f}"></span></td><td>{signed(100 * value, 0)} %</td><td>{side}</td></tr>'
        )
    return (
        f'<table class="mm-pulls"><caption>What spoke for or against {found.emotion} (Shapley values, as shares of the '
        f"whole pull)</caption><tbody>{''.join(rows)}</tbody></table>"
    )


def _utterances(found: EmotionResult) -> str:
    rows = []
    for segment in found.segments:
        used = [NAMES[m].lower() for m, here in zip(MODALITIES, segment.present, strict=True) if here]
        rows.append(
            f'<tr><th scope="row">{segment.start_s:.1f}–{segment.end_s:.1f} s</th><td>{segment.emotion or "–"}</td>'
            + (_bar(segment.probs.max()) if segment.emotion else "<td>–</td>")
            + f"<td>{', '.join(used) or 'nothing'}</td></tr>"
        )
    return (
        f"<details open><summary>{len(rows)} utterances</summary><div class='mm-scroll' tabindex='0'>"
        '<table class="mm-list"><thead><tr><th scope="col">Time</th><th scope="col">Emotion</th>'
        '<th scope="col">Confidence</th><th scope="col">Read from</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _notices(found: EmotionResult) -> str:
    told = {"nothing_readable", *(code for modality in why_absent(found) for code in _BY_MODALITY[modality])}
    notes = [n.message for n in found.quality if n.code not in told]
    notes += _unused(found)
    if found.transcript.status == "low_confidence":
        notes.append(f"the words may be wrong: {found.transcript.message}")
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(_sentence(n))}</li>" for n in notes)
    return f'<div class="mm-notes" role="note"><strong>Keep in mind</strong><ul>{lines}</ul></div>'


def _unused(found: EmotionResult) -> Iterable[str]:
    files = found.observation.files
    seen = next((f for f in files if f.has_picture), None)
    heard = next((f for f in files if f.has_sound), None)
    for file in files:
        if file not in (seen, heard):
            source = seen.name if file.has_picture else heard.name
            yield f"{file.name} was not used: the {'picture' if file.has_picture else 'sound'} comes from {source}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _footer(found: EmotionResult) -> str:
    length = "" if found.duration_s is None else f", {found.duration_s:.1f} s long"
    clip = found.clip if found.observation.files else "Words only"
    return (
        f'<p class="mm-footer">{escape(clip)}{length}. Answered by checkpoint '
        f"<code>{escape(found.checkpoint)}</code> in {found.timing_ms.get('total', 0) / 1e3:.1f} s.</p>"
    )


def lines(found: EmotionResult) -> str:
    """Return the words, a line for each utterance where the times tell which belong to it."""
    told = [" ".join(s.features.words) for s in found.segments]
    timed = len(told) > 1 and found.transcript.words and any(told)
    return "\n".join(told) if timed else found.transcript.text


def word_times(found: EmotionResult) -> str:
    """Return when each word was said; empty without times."""
    if not found.transcript.words:
        return ""
    words = "".join(
        f"<li>{escape(w.text.strip())} <small>{w.start_s:.2f}–{w.end_s:.2f} s</small></li>"
        for w in found.transcript.words
    )
    return f'<details><summary>When each word was said</summary><ol class="mm-words">{words}</ol></details>'


def saved(what: Saved) -> str:
    """Return what was stored and what was not."""
    kept = [f"your label (no. {what.label_id})"]
    if what.prediction_id is not None:
        kept.append(f"the model's answer, by checkpoint {what.checkpoint}")
    kept += ["the words"] * what.words + ["the recording"] * what.media + ["the model's numbers"] * what.numbers
    lines = f"<p><strong>Stored:</strong> {escape('; '.join(kept))}.</p>"
    if what.why_not:
        lines += f"<p><strong>Not stored:</strong> the recording{'' if what.words else ' and the words'}, because {escape(what.why_not)}.</p>"
    return f'<div class="mm-status mm-done" role="status">{lines}</div>'
