"""Results as HTML: every bar has its number, and colour is never alone."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from annotations.retention import Removal
from mmer.labels import EMOTIONS, MODALITIES
from mmer.messages import marked
from mmer.ui.language import Texts, gettext, ngettext
from mmer.ui.names import CHANNELS, IN_SENTENCE, emotion
from mmer.ui.numbers import likely
from mmer.ui.render import render
from mmer.ui.service import Saved

if TYPE_CHECKING:
    from mmer.predict import EmotionResult

_ALONE_DECIDED = Texts(
    {
        "face": marked("The face alone decided."),
        "voice": marked("The voice alone decided."),
        "text": marked("The words alone decided."),
    }
)
_MOST_FROM = Texts(
    {
        "face": marked("Most of what speaks for {emotion} comes from the face, which alone says {other}"),
        "voice": marked("Most of what speaks for {emotion} comes from the voice, which alone says {other}"),
        "text": marked("Most of what speaks for {emotion} comes from the words, which alone say {other}"),
    }
)
# The share of the probability from which the headline says so.
_CERTAINTY = ((0.75, marked("Clearly")), (0.5, marked("Probably")), (0.0, marked("Perhaps")))
_CLOSE = 0.15  # the runner-up is named when it comes this near
_BY_MODALITY = {"face": ("no_face", "face_unavailable"), "voice": ("no_speech",), "text": ("text_unavailable",)}


def status(text: str, seconds: float | None = None, session: str | None = None) -> str:
    """Return the line under a button: what is going on and for how long, or what has ended.

    Args:
        session: whose call waits for its turn; the page's script asks where it stands.
    """
    return render("status.html", text=text, seconds=seconds, session=session)


def failure(message: str, *, here: bool = False) -> str:
    """Return that something did not work, and why.

    Args:
        here: the reason is the page's own, so that it is in its language already.
    """
    return render("failure.html", message=message, here=here)


def empty(title: str = "", told: str = "") -> str:
    """Return what stands in the result's place while there is none: what it will hold."""
    told = told or gettext("Give a clip or some words on this page and press Analyse, or try an example. You get:")
    return render("empty.html", title=title or gettext("The answer appears here"), told=told)


def result(verdict: "EmotionResult", before: "EmotionResult | None" = None, *, over_time: bool = False) -> str:
    """Return the verdict: headline, votes, contributions, utterances, warnings and who answered.

    Args:
        before: the verdict on the words as they were before somebody edited them.
        over_time: the utterances are shown elsewhere, so that their table is folded.
    """
    used = [m for m, present in verdict.present.items() if present]
    n = len(verdict.segments)
    return render(
        "result.html",
        result=verdict,
        before=before,
        over_time=over_time,
        certainty=_certainty(verdict),
        confidence=_confidence(verdict),
        contradiction=_contradiction(verdict),
        columns=[(gettext("Together"), True), *((CHANNELS[m], present) for m, present in verdict.present.items())],
        votes=_votes(verdict),
        absent=[(CHANNELS[m], why) for m, why in why_absent(verdict).items()],
        used=used,
        alone_decided=_ALONE_DECIDED[used[0]] if used else "",
        contributions=[
            (CHANNELS[m], value)
            for m, value in zip(MODALITIES, verdict.contribution, strict=True)
            if verdict.present[m]
        ],
        utterances=[
            (segment, [IN_SENTENCE[m] for m, here in zip(MODALITIES, segment.present, strict=True) if here])
            for segment in verdict.segments
        ],
        parts_are=ngettext("{n} utterance", "{n} utterances", n)
        if verdict.present["voice"] or verdict.present["text"]
        else ngettext("{n} part", "{n} parts", n),
        notices=list(_notices(verdict)),
    )


def _certainty(verdict: "EmotionResult") -> str:
    if verdict.abstain:
        return gettext("No reliable answer; the best guess is")
    return next(gettext(word) for share, word in _CERTAINTY if verdict.probs.max() >= share)


def _confidence(verdict: "EmotionResult") -> str:
    first, second = np.argsort(verdict.probs)[::-1][:2]
    line = gettext("Confidence {likely}", likely=likely(verdict.probs[first]))
    if verdict.probs[first] < 0.5:
        line += gettext(": no emotion reaches half, so take it as a guess")
    if verdict.probs[first] - verdict.probs[second] < _CLOSE:
        named = emotion(EMOTIONS[second], capital=True)
        line += gettext(
            ". {emotion} is close behind with {likely}", emotion=named, likely=likely(verdict.probs[second])
        )
    return line


def _contradiction(verdict: "EmotionResult") -> str:
    """Return how it can be that the verdict is not the first choice of the channel that spoke most for it.

    The fusion reads each channel's states, not its votes, so it can favour what no channel puts first; and a Shapley
    value says what a channel's presence added to the verdict, not what the channel alone would have said.
    """
    present = [m for m in MODALITIES if verdict.present[m]]
    if verdict.emotion is None or len(present) < 2:
        return ""
    first = {m: EMOTIONS[int(verdict.branch_probs[MODALITIES.index(m)].argmax())] for m in present}
    strongest = max(present, key=lambda m: verdict.contribution[MODALITIES.index(m)])
    if first[strongest] == verdict.emotion:
        return ""
    if verdict.emotion in first.values():
        opening = _MOST_FROM[strongest].format(emotion=emotion(verdict.emotion), other=emotion(first[strongest]))
    else:
        alone = ", ".join(f"{IN_SENTENCE[m]} {emotion(said)}" for m, said in first.items())
        opening = gettext(
            "No channel alone puts {emotion} first ({alone})", emotion=emotion(verdict.emotion), alone=alone
        )
    return gettext(
        "{opening}: the model does not count their votes but reads them together, and the bars below say what each one "
        "added to {emotion} in that reading. Channels that contradict each other make an answer less certain.",
        opening=opening,
        emotion=emotion(verdict.emotion),
    )


def _votes(verdict: "EmotionResult") -> list[tuple[str, list[tuple[float | None, bool]]]]:
    """Return for each emotion its share together and by each channel, and whether it is that column's highest."""
    columns: list[np.ndarray | None] = [verdict.probs]
    for present, probs in zip(verdict.present.values(), verdict.branch_probs, strict=True):
        columns.append(probs if present else None)
    return [
        (emotion, [(None, False) if c is None else (float(c[k]), k == c.argmax()) for c in columns])
        for k, emotion in enumerate(EMOTIONS)
    ]


def why_absent(verdict: "EmotionResult") -> dict[str, str]:
    """Return, for each channel that was not used, the reason in words."""
    files, notices = verdict.observation.files, {n.code: n.message for n in verdict.quality}
    nothing = {
        "face": "no face was found" if any(f.has_picture for f in files) else "no picture was given",
        "voice": "nobody was heard speaking" if any(f.has_sound for f in files) else "no sound was given",
        "text": verdict.transcript.message or "nothing was said or typed",
    }
    if verdict.transcript.status == "unavailable":  # why is in the raw result
        nothing["text"] = "speech cannot be transcribed here, so type what is said"
    reasons = {}
    for modality, present in verdict.present.items():
        if not present:
            noticed = [notices[code] for code in _BY_MODALITY[modality] if code in notices]
            reasons[modality] = (noticed or [nothing[modality]])[0].rstrip(".")
    return reasons


def _notices(verdict: "EmotionResult") -> Iterable[str]:
    """Yield what to keep in mind, but for what is said of an absent channel already."""
    told = {"nothing_readable", *(code for modality in why_absent(verdict) for code in _BY_MODALITY[modality])}
    yield from (n.message for n in verdict.quality if n.code not in told)
    yield from _unused_files(verdict)
    if verdict.transcript.status == "low_confidence":
        yield f"the words may be wrong: {verdict.transcript.message}"


def _unused_files(verdict: "EmotionResult") -> Iterable[str]:
    files = verdict.observation.files
    seen = next((f for f in files if f.has_picture), None)
    heard = next((f for f in files if f.has_sound), None)
    for file in files:
        if file not in (seen, heard):
            kind, source = ("picture", seen) if file.has_picture else ("sound", heard)
            yield f"{file.name} was not used: the {kind} comes from {source.name if source else 'another file'}"


def lines(verdict: "EmotionResult") -> str:
    """Return the words, a line for each utterance where the times tell which belong to it."""
    by_utterance = [" ".join(s.features.words) for s in verdict.segments]
    timed = len(by_utterance) > 1 and verdict.transcript.words and any(by_utterance)
    return "\n".join(by_utterance) if timed else verdict.transcript.text


def word_times(verdict: "EmotionResult") -> str:
    """Return when each word was said; empty without times."""
    words = verdict.transcript.words
    return render("word_times.html", words=words) if words else ""


def saved(what: Saved, contact: str = "") -> str:
    """Return what was stored and what was not, and how it can be deleted.

    Args:
        contact: whom to ask where a code does not help.
    """
    kept = [gettext("your label (no. {id})", id=what.label_id)]
    if what.prediction_id is not None:
        kept.append(gettext("the model's answer, by checkpoint {id}", id=what.checkpoint))
    kept += [gettext("the words")] * what.words + [gettext("the recording")] * what.media
    kept += [gettext("the model's numbers")] * what.numbers
    return render("saved.html", kept=kept, saved=what, contact=contact)


def removed(removal: Removal) -> str:
    """Return what a deletion took away; where the owner's files and copies lie is not for visitors."""
    return render("removed.html", removal=removal)
