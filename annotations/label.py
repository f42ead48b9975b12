"""Labels: the checks one passes before it is stored, and which of an annotator's stored rows are current."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from annotations.choices import OUTCOMES, TARGETS, TRAIN
from annotations.db.schema import UNDO, now
from annotations.text import check_text, clean_name
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, emotion

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MAX_WEIGHT = 1e9  # beyond it the other emotions of a label would vanish
_MAX_LEAD_TIME_S = 7 * 86400  # a tab left open over a week says nothing about the work


@dataclass(frozen=True)
class Label:
    """One current label with what retraining needs of its clip."""

    id: int
    sha256: str
    name: str
    media: Path | None  # stored with consent, or the owner's file where it lies; None when there is no such file
    in_place: bool  # whether `media` is the owner's file
    start_s: float | None  # both None: the whole clip
    end_s: float | None
    outcome: str
    emotions: dict[str, float]  # weights sum to 1; empty unless the outcome is "label"
    target: str
    annotator: str
    speaker: str | None
    confidence: float | None
    comment: str
    transcript: str | None
    prediction_id: int | None
    created_at: datetime
    intensity: float | None = None  # 0 to 1
    valence: float | None = None  # -1 to 1
    arousal: float | None = None  # -1 to 1
    lead_time_s: float | None = None  # from the item's first sight to the answer
    blind: bool | None = None  # whether the model's answer was hidden until the choice
    item_id: int | None = None  # in a project's queue
    words: str | None = None  # what is said in it, as it came or was transcribed; `transcript` is the annotator's
    states: Path | None = None  # file of the clip's branch embeddings, kept with consent instead of the media
    side: str = TRAIN  # one of SIDES: what the clip is for in retraining


def check_label(
    annotator: str,
    emotions: str | Mapping[str, float] | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    target: str = "all",
    outcome: str = "label",
    confidence: float | None = None,
    intensity: float | None = None,
    valence: float | None = None,
    arousal: float | None = None,
    comment: str = "",
    transcript: str | None = None,
    lead_time_s: float | None = None,
    blind: bool | None = None,
    created_at: datetime | None = None,
) -> tuple[str, dict]:
    """Return the annotator's name and the columns of a LabelRecord.

    Args:
        confidence, intensity: 0 to 1.
        valence, arousal: -1 to 1.
        lead_time_s: one that no work takes is dropped: the answer stands, however odd the clock was.

    Raises:
        LabelError: `no_annotator, unknown_label, bad_weight, bad_outcome, bad_target, bad_segment, bad_confidence,
            bad_intensity, bad_valence, bad_arousal, bad_time, bad_text, text_too_long, invisible_name`.
    """
    annotator = clean_name(annotator, "annotator")
    if not annotator:
        raise LabelError("no_annotator", "a label needs the name of its annotator")
    if target not in TARGETS:
        raise LabelError("bad_target", f"target {target!r} is none of {', '.join(TARGETS)}")
    if outcome not in OUTCOMES or (outcome == "label") != bool(emotions):
        raise LabelError(
            "bad_outcome",
            f"outcome {outcome!r} with emotions {emotions!r}; "
            f"`label` takes one or more, {', '.join(OUTCOMES[1:])} take none",
        )
    start_s, end_s = check_segment(start_s, end_s)
    shares = weights(emotions) if emotions else {}
    return annotator, {
        "emotions": shares,
        "top": heaviest(shares),
        "start_s": start_s,
        "end_s": end_s,
        "target": target,
        "outcome": outcome,
        "confidence": _check_range("confidence", confidence, 0, 1),
        "intensity": _check_range("intensity", intensity, 0, 1),
        "valence": _check_range("valence", valence, -1, 1),
        "arousal": _check_range("arousal", arousal, -1, 1),
        "lead_time_s": lead_time_s if is_lead_time(lead_time_s) else None,
        "blind": blind,
        "comment": check_text(comment, "comment"),
        "transcript": None if transcript is None else check_text(transcript, "transcript"),
        "created_at": _check_time(created_at),
    }


def is_lead_time(value: object) -> bool:
    """Whether a value is a number of seconds that a label can have taken."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_LEAD_TIME_S


def _check_range(name: str, value: float | None, low: float, high: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise LabelError(f"bad_{name}", f"{name} {value!r} is not between {low} and {high}")
    return value


def _check_time(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if value.tzinfo is None or not _EPOCH <= value <= now() + timedelta(days=1):
        raise LabelError("bad_time", f"time {value} has no zone, is before 1970 or in the future")
    return value.astimezone(timezone.utc)


def weights(emotions: str | Mapping[str, float]) -> dict[str, float]:
    """Return the share of each emotion, sum 1, in the order of `EMOTIONS`.

    Raises:
        LabelError: `unknown_label`, `bad_weight`.
    """
    shares: dict[str, float] = {}
    for name, weight in ({emotions: 1.0} if isinstance(emotions, str) else emotions).items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= _MAX_WEIGHT:
            raise LabelError("bad_weight", f"weight {weight!r} of {name!r} is not a positive number")
        shares[emotion(name)] = shares.get(emotion(name), 0.0) + weight
    total = sum(shares.values())
    total = 1.0 if math.isclose(total, 1.0) else total  # shares that come back from a file stay as they are
    return {name: shares[name] / total for name in EMOTIONS if name in shares}


def heaviest(shares: Mapping[str, float]) -> str | None:
    """Return the emotion with the most weight, of equal ones the first; None of none."""
    return max(shares, key=shares.__getitem__, default=None)


def check_segment(start_s: float | None, end_s: float | None) -> tuple[float | None, float | None]:
    """Return a segment's bounds in whole milliseconds, None and None for the whole clip."""
    if start_s is None and end_s is None:
        return None, None
    if start_s is None or end_s is None or not 0 <= start_s < end_s < math.inf or round(start_s, 3) == round(end_s, 3):
        raise LabelError("bad_segment", f"segment {start_s} to {end_s} s; a segment starts at 0 or later, then ends")
    return round(start_s, 3), round(end_s, 3)


def current_rows(rows: Iterable) -> list:
    """Return those of one annotator's rows of one clip that count: not undone, not corrected, the newest of their key.

    A skip says nothing about the clip, so it takes no judgement's place.

    Args:
        rows: have `id, supersedes, outcome, start_s, end_s, target, created_at` of a LabelRecord.
    """
    rows = list(rows)
    undone = {row.supersedes for row in rows if row.outcome == UNDO}
    living = [row for row in rows if row.outcome != UNDO and row.id not in undone]
    corrected = {row.supersedes for row in living}
    newest = {}
    for row in sorted(living, key=lambda row: (row.outcome != "skip", row.created_at, row.id)):
        newest[row.start_s, row.end_s, row.target] = row
    return [row for row in newest.values() if row.id not in corrected]
