"""A result as WebVTT captions: what is said, when, and what each utterance was judged to be."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmer.labels import SIGNS
from mmer.ui.names import emotion
from mmer.ui.numbers import likely

if TYPE_CHECKING:
    from mmer.predict import EmotionResult, Segment
    from mmer.speech import Word

_LONGEST_S, _MOST_LETTERS = 4.0, 42  # of one caption: what subtitles keep to


def webvtt(result: "EmotionResult") -> str:
    """Return the captions of a clip, https://www.w3.org/TR/webvtt1/; the words where they have times, the verdicts."""
    cues = [
        f"{_time(start_s)} --> {_time(end_s)}\n{text}"
        for segment in result.segments
        if segment.end_s > segment.start_s
        for start_s, end_s, text in _cues(result, segment)
    ]
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def _cues(result: "EmotionResult", segment: "Segment") -> Iterator[tuple[float, float, str]]:
    """Yield start, end and text of an utterance's captions; its verdict stands under each."""
    verdict = ""
    if segment.emotion is not None:
        verdict = f"({SIGNS[segment.emotion].symbol} {emotion(segment.emotion)} {likely(float(segment.probs.max()))})"
    inside = result.transcript.words_in(segment.start_s, segment.end_s)
    if not inside:
        said = " ".join(segment.features.words)
        yield segment.start_s, segment.end_s, "\n".join(filter(None, (_escape(said), verdict)))
        return
    groups = list(_groups(inside))
    for i, group in enumerate(groups):
        start_s = segment.start_s if i == 0 else group[0].start_s
        end_s = groups[i + 1][0].start_s if i + 1 < len(groups) else segment.end_s
        said = " ".join(w.text.strip() for w in group)
        yield start_s, max(end_s, start_s + 0.05), "\n".join(filter(None, (_escape(said), verdict)))


def _groups(words: Sequence["Word"]) -> Iterator[list["Word"]]:
    """Yield words that stand in one caption together."""
    group: list[Word] = []
    for word in words:
        letters = sum(len(w.text.strip()) + 1 for w in group) + len(word.text.strip())
        if group and (letters > _MOST_LETTERS or word.end_s - group[0].start_s > _LONGEST_S):
            yield group
            group = []
        group.append(word)
    yield group


def _escape(text: str) -> str:
    """Return text as a cue may hold it: no markup, no arrow and no blank line."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(at_s: float) -> str:
    ms = round(at_s * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
