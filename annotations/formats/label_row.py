"""A label as a row of names and values: what every file format writes, and the one check of what it reads.

`clip` is the path of a clip registered where it lies, else its sha256. A segment stands in `start_s` and `end_s`, or
follows the clip as a media fragment (`interview.mp4#t=1.5,3.25`, https://www.w3.org/TR/media-frags/). `label` is an
emotion, several with weights (`anger=0.7;fear=0.3`), or skip, cannot_tell, broken. `sha256` says which clip it is where
the file it names is gone, `name` what to call it.
"""

import re
from datetime import datetime, timezone
from pathlib import Path

from annotations.db.schema import OUTCOMES
from annotations.label import Label, check_label, weights
from annotations.text import check_text
from mmer import hashing
from mmer.errors import LabelError

COLUMNS = ("clip", "label", "annotator", "target", "confidence", "comment", "created_at", "speaker")
REQUIRED = COLUMNS[:3]
NUMBERS = ("intensity", "valence", "arousal", "lead_time_s")
DETAILS = (*NUMBERS, "blind", "transcript")  # in a row only when set; a row without one says nothing about it
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


def is_label_value(value: str) -> bool:
    """Whether a value can be the `label` of a row."""
    try:
        label = _emotions(value)
        return "outcome" in label or bool(weights(label["emotions"]))
    except LabelError:
        return False


class RowReader:
    """Rows of one file -> arguments of the store.

    Args:
        folder: where the file lies: clips are sought there first, then in the working directory.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._hashes: dict[Path, str] = {}

    def parse(self, row: dict | LabelError) -> tuple[dict, dict]:
        """Return the arguments of `Store.register_clip` and of `Store.add_label`, checked.

        The second holds only what the row speaks of: a column it does not have says nothing.
        """
        if isinstance(row, LabelError):
            raise row
        values = {name: _text(row.get(name), name) for name in (*COLUMNS, "name") if name != "label"}
        label = {"annotator": values["annotator"], **_emotions(row.get("label"))}
        label["target"] = values["target"].strip() or "all"
        if "confidence" in row:
            label["confidence"] = _number(values["confidence"], "confidence") if values["confidence"].strip() else None
        if "comment" in row:
            label["comment"] = values["comment"]
        if values["created_at"].strip():
            label["created_at"] = _time(values["created_at"].strip())
        label |= {name: _number(_text(row[name], name), name) for name in NUMBERS if _given(row, name)}
        if _given(row, "blind"):
            label["blind"] = _truth(row["blind"])
        if row.get("transcript") is not None:
            label["transcript"] = _text(row["transcript"], "transcript")
        path, sha256, segment = self._clip(values["clip"].strip(), row.get("sha256"))
        label |= segment | {
            name: _number(_text(row[name], "segment"), "segment") for name in ("start_s", "end_s") if _given(row, name)
        }
        check_label(**label)
        name = values["name"] or (path.name if path else sha256[:12])
        clip = {"path": path, "sha256": sha256, "name": name, "speaker": values["speaker"], "source": "import"}
        return clip, label

    def _clip(self, value: str, sha256: str | None) -> tuple[Path | None, str, dict]:
        """Return path (None when only the hash is known), sha256 and segment."""
        fragment = re.fullmatch(r"(.+)#t=([\d.]+),([\d.]+)", value)
        segment = {}
        path = find_clip(value, self._folder)
        if fragment and not path:
            value = fragment[1]
            segment = {"start_s": _number(fragment[2], "segment"), "end_s": _number(fragment[3], "segment")}
            path = find_clip(value, self._folder)
        known = next((text for text in (value, str(sha256 or "")) if re.fullmatch("[0-9a-fA-F]{64}", text)), None)
        if path is None and known:
            return None, known.lower(), segment
        if path is None:
            raise LabelError("clip_not_found", f"no clip {value!r} in {self._folder} or here, and it is not a sha256")
        if path not in self._hashes:
            self._hashes[path] = content_hash(path)
        return path, self._hashes[path], segment


def find_clip(value: str, folder: Path) -> Path | None:
    """Return the file, sought in the folder first and then in the working directory."""
    try:
        check_text(value, "clip")
        return next((path for path in (folder / value, Path(value)) if path.is_file()), None)
    except OSError:  # a name longer than the file system takes
        return None


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal, or say that it cannot be read."""
    try:
        return hashing.content_hash(path)
    except OSError as error:
        raise LabelError("clip_unreadable", f"cannot read {path}: {error.strerror}") from None


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
