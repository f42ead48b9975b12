"""A label as a row of names and values: what every file format writes, and the one check of what it reads.

`clip` is the path of a clip registered where it lies, else its sha256. A segment stands in `start_s` and `end_s`, or
follows the clip as a media fragment (`interview.mp4#t=1.5,3.25`, https://www.w3.org/TR/media-frags/). `label` is an
emotion, several with weights (`anger=0.7;fear=0.3`), or skip, cannot_tell, broken. `sha256` says which clip it is where
the file it names is gone, `name` what to call it.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from annotations.clip_files import ClipFiles
from annotations.db.schema import OUTCOMES
from annotations.label import Label, check_label, heaviest, is_lead_time, weights
from mmer.errors import LabelError

COLUMNS = ("clip", "label", "annotator", "target", "confidence", "comment", "created_at", "speaker")
REQUIRED = COLUMNS[:3]
SCALES = ("intensity", "valence", "arousal")
NUMBERS = (*SCALES, "lead_time_s")
DETAILS = (*NUMBERS, "blind", "transcript")  # in a row only when set; a row without one says nothing about it
UNKNOWN_ANNOTATOR = "label-studio user unknown"  # Label Studio forgot who it was: their account was deleted there
TASK_TEXT = "text"  # in a row without a clip: the words that are all of it
FIELDS = frozenset(("speaker", "confidence", "comment", "created_at", *DETAILS))  # what a format may lack a place for


def to_row(label: Label) -> dict:
    """Return the row of a stored label, with the segment in `start_s` and `end_s` when it has one."""
    row = {
        "clip": str(label.media) if label.in_place else label.sha256,
        "label": label_value(label),
        "annotator": label.annotator,
        "target": label.target,
        "confidence": label.confidence,
        "comment": label.comment,
        "created_at": label.created_at.isoformat(),
        "speaker": label.speaker,
    }
    row |= {name: value for name in DETAILS if (value := getattr(label, name)) is not None}
    return row if label.start_s is None else row | {"start_s": label.start_s, "end_s": label.end_s}


def is_set(label: Label, name: str) -> bool:
    """Whether a label says something under one of `FIELDS`; an empty transcript says that nobody speaks."""
    value = getattr(label, name)
    return value is not None and (value != "" or name == "transcript")


def label_value(label: Label) -> str:
    """Return the emotion, the emotions with their weights, or the outcome, as the `label` of a row."""
    if len(label.emotions) == 1:
        return next(iter(label.emotions))
    return ";".join(f"{name}={weight!r}" for name, weight in label.emotions.items()) or label.outcome


@dataclass(frozen=True)
class ParsedRow:
    """A row, checked: the arguments of `Store.register_clip` and of `Store.add_label`."""

    clip: dict
    label: dict  # only what the row speaks of: a column it does not have says nothing
    words: str | None  # what is said in the clip, where words are all of it


class RowReader:
    """Rows of one file -> arguments of the store.

    Args:
        files: finds the clips.
        notes: gets what was changed in rows that are imported nevertheless, with how often.
    """

    def __init__(self, files: ClipFiles, notes: Counter[str]):
        self._files, self._notes = files, notes

    def parse(self, row: dict | LabelError) -> ParsedRow:
        if isinstance(row, LabelError):
            raise row
        values = {name: _text(row.get(name), name) for name in (*COLUMNS, "name", TASK_TEXT) if name != "label"}
        label: dict[str, Any] = {"annotator": values["annotator"], **_emotions(row.get("label"))}
        label["target"] = values["target"].strip().lower() or "all"
        if "confidence" in row:
            label["confidence"] = _number(values["confidence"], "confidence") if values["confidence"].strip() else None
        if "comment" in row:
            label["comment"] = values["comment"]
        if values["created_at"].strip():
            label["created_at"] = _time(values["created_at"].strip())
        label |= {name: _number(_text(row[name], name), name) for name in SCALES if _given(row, name)}
        lead_time_s = _lead_time(row["lead_time_s"]) if _given(row, "lead_time_s") else None
        if lead_time_s is not None:
            label["lead_time_s"] = lead_time_s
        if _given(row, "blind"):
            label["blind"] = _truth(row["blind"])
        if row.get("transcript") is not None:
            label["transcript"] = _text(row["transcript"], "transcript")
        path, sha256, segment = self._clip(values["clip"].strip(), row.get("sha256"), values[TASK_TEXT])
        label |= segment | {
            name: _number(_text(row[name], "segment"), "segment") for name in ("start_s", "end_s") if _given(row, name)
        }
        check_label(**label)
        if path:
            self._files.check_end(path, label.get("end_s"))
        name = values["name"] or (path.name if path else values[TASK_TEXT][:60] or sha256[:12])
        clip = {"path": path, "sha256": sha256, "name": name, "speaker": values["speaker"], "source": "import"}
        if _given(row, "lead_time_s") and lead_time_s is None:
            self._notes["impossible lead times dropped, the labels kept"] += 1
        if re.fullmatch(rf"{UNKNOWN_ANNOTATOR}( \d+)?", values["annotator"]):
            self._notes[f"labels without a known annotator, stored as {UNKNOWN_ANNOTATOR!r}"] += 1
        return ParsedRow(clip, label, values[TASK_TEXT] if path is None and not values["clip"] else None)

    def _clip(self, name: str, sha256: str | None, words: str) -> tuple[Path | None, str, dict]:
        """Return path (None when only the hash is known), sha256 and segment."""
        fragment = re.fullmatch(r"(.+)#t=([\d.]+),([\d.]+)", name)
        segment = {}
        path = self._files.find(name) if name else None
        if fragment and not path:
            name = fragment[1]
            segment = {"start_s": _number(fragment[2], "segment"), "end_s": _number(fragment[3], "segment")}
            path = self._files.find(name)
        if path is not None:
            self._files.check(path)
            return path, self._files.sha256(path), segment
        known = next((text for text in (name, str(sha256 or "")) if re.fullmatch("[0-9a-fA-F]{64}", text)), None)
        if known:
            return None, known.lower(), segment
        if words and not name:
            return None, words_hash(words), segment
        raise LabelError("clip_not_found", f"no clip {name!r} in {self._files.folder} or here, and it is not a sha256")


def words_hash(words: str) -> str:
    """Return the identity of a clip that is words alone: the sha256 of their UTF-8."""
    return hashlib.sha256(words.encode()).hexdigest()


def asks_for_emotion(names: Iterable[str], values: Iterable[str]) -> bool:
    """Whether a tier or a control as a whole is about emotions, by its names or else by most of its values.

    Single values prove nothing: "happy" may be a spoken word, and "neutral" is a sentiment too.

    Args:
        names: its own name and that of its type.
        values: its vocabulary where one is declared, else all values it has.
    """
    words = {word for name in names for word in _words(name)}
    if words & _MEASURES:
        return False
    if any(word.startswith("emo") and not word.startswith("emoj") for word in words) or words & _FEELINGS:
        return True
    if words & _SPEECH:
        return False
    judged = [value for value in values if outcome(value) is None]
    emotions = [found for value in judged if (found := _emotion(value))]
    return 2 * len(emotions) >= len(judged) and bool(set(emotions) - {"neutral"})


def outcome(value: str) -> str | None:
    """Return the outcome that a value names, None when it is none of skip, cannot tell and broken."""
    name = value.strip().lower().replace(" ", "_")
    return name if name in OUTCOMES[1:] else None


_MEASURES = {"intensity", "valence", "arousal", "confidence", "strength", "certainty"}  # of an emotion
_FEELINGS = {"affect", "affective", "feeling", "feelings", "mood"}
_SPEECH = {
    *("word", "words", "token", "tokens", "text", "texts", "transcript", "transcription", "transcriptions", "speech"),
    *("utterance", "utterances", "utt", "sentence", "sentences", "gloss", "translation", "orthography", "lemma", "pos"),
    *("phone", "phones", "phoneme", "phonemes", "caption", "captions", "subtitle", "subtitles", "lyrics", "dialogue"),
    *("comment", "comments", "note", "notes"),
}


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case and without accents: "EmotionFace", "émotion_1"."""
    plain = "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))
    return re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", plain).lower())


def _emotion(value: str) -> str | None:
    """Return the heaviest emotion of a `label` of a row, None when it names none."""
    try:
        return heaviest(weights(_emotions(value).get("emotions") or {}))
    except LabelError:
        return None


def _given(row: dict, name: str) -> bool:
    return row.get(name) not in (None, "")


def _text(value, column: str) -> str:
    if value is None or isinstance(value, bool | list | dict):
        if value is None:
            return ""
        raise LabelError("bad_value", f"{column} is {value!r}; text or a number is needed")
    return str(value)


def _number(value: str, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise LabelError(f"bad_{column}", f"{column} {value!r} is not a number") from None


def _lead_time(value) -> float | None:
    """Return seconds, None for what no work takes: the answer stands, however odd the clock was."""
    try:
        seconds = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return seconds if is_lead_time(seconds) and not isinstance(value, bool) else None


def _truth(value) -> bool:
    if str(value).strip().lower() not in ("true", "false", "1", "0"):
        raise LabelError("bad_blind", f"blind is {value!r}; true or false is needed")
    return str(value).strip().lower() in ("true", "1")


def _time(value: str) -> datetime:
    try:
        time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
    except ValueError:
        raise LabelError("bad_time", f"time {value!r} is not ISO 8601, as in 2026-03-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _emotions(value) -> dict:
    if isinstance(value, dict):
        return {"emotions": value}
    value = _text(value, "label").strip()
    if value.lower() in OUTCOMES[1:]:
        return {"outcome": value.lower()}
    if "=" in value:
        pairs = [part.partition("=") for part in value.split(";")]
        return {"emotions": {name: _number(weight, "weight") for name, _, weight in pairs}}
    if not value:
        raise LabelError("no_label", "the label is empty; name an emotion, or skip, cannot_tell, broken")
    return {"emotions": value}
