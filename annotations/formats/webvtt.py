"""Labels as WebVTT: a cue per label, its voice the annotator, its text the emotion.

The voice's class says what was judged: `<v.face Ann>anger</v>`; a label of the whole clip has the class `clip` too, since
every cue has times. Players show who saw what; confidence, comments and the like have no place.
https://www.w3.org/TR/webvtt1/
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from annotations.db.schema import TARGETS
from annotations.formats import file_per_clip
from annotations.formats.label_row import to_row
from annotations.label import Label
from annotations.store import Store
from mmer.errors import LabelError

SUPPORTED_FIELDS = frozenset({"speaker"})
WHOLE = "clip"
_TIME = r"(?:(\d{2,}):)?([0-5]\d):([0-5]\d\.\d{3})"
_TIMING = re.compile(rf"{_TIME}[ \t]+-->[ \t]+{_TIME}(?:[ \t].*)?")
_VOICE = re.compile(r"<v((?:\.[^\s.>]+)*)[ \t\n]+([^>]*)>(.*?)(?=<v[.\s]|</v>|\Z)", re.DOTALL)


def write(labels: Iterable[Label], out: Path, store: Store) -> None:
    """Write a folder of one .vtt per clip; the labels of one clip must follow each other."""
    file_per_clip.write(labels, out, store, ".vtt", _save)


def _save(labels: list[Label], length_s: float, file: Path) -> None:
    first = labels[0]
    notes = (("clip", to_row(first)["clip"]), ("sha256", first.sha256), ("speaker", first.speaker))
    blocks = ["WEBVTT", *(f"NOTE {name}: {_escape(value)}" for name, value in notes if value)]
    for label in labels:
        row = to_row(label)
        classes = f".{label.target}" if "start_s" in row else f".{label.target}.{WHOLE}"
        annotator = " ".join(label.annotator.split())  # a player makes one space of several
        blocks.append(
            f"{_clock(row.get('start_s', 0.0))} --> {_clock(row.get('end_s', length_s))}\n"
            f"<v{classes} {_escape(annotator)}>{_escape(row['label'])}</v>"
        )
    file.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="")


def _escape(text: str) -> str:
    return html.escape(text, quote=False).replace("\n", "&#10;").replace("\r", "&#13;")


def _clock(time_s: float) -> str:
    minutes, ms = divmod(round(1000 * time_s), 60_000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours:02}:" if hours else "") + f"{minutes:02}:{ms // 1000:02}.{ms % 1000:03}"


def read(path: Path, left_out: Counter) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each voice of each cue, of a file or of all in a folder.

    Raises:
        LabelError: `unreadable_file`.
    """
    return file_per_clip.read(path, ".vtt", _rows)


def _rows(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError("unreadable_file", f"{file} is not UTF-8, as WebVTT has to be") from None
    blocks = re.split(r"\n{2,}", re.sub(r"\r\n?", "\n", text))
    if not re.match(r"WEBVTT(?:[ \t\n]|\Z)", blocks[0]):
        raise LabelError("unreadable_file", f"{file} is not WebVTT: its first line is not WEBVTT")
    found = (re.fullmatch(r"NOTE (clip|sha256|speaker): (.*)", block.strip()) for block in blocks)
    notes = {note[1]: html.unescape(note[2]) for note in found if note}
    clip = {"clip": notes.get("clip") or file_per_clip.named_clip("", file)}
    clip |= {name: notes.get(name) for name in ("sha256", "speaker")}
    n_cues = 0
    for block in blocks[1:]:
        lines = block.strip("\n").split("\n")
        if not any("-->" in line for line in lines[:2]):
            continue  # a note, a style, a region
        n_cues += 1
        timing = "-->" not in lines[0]  # the place of the timing: a cue may have a name before
        match = _TIMING.fullmatch(lines[timing].strip())
        if not match:
            yield f"cue {n_cues}", LabelError("bad_segment", f"{lines[timing]!r} is not two WebVTT times")
            continue
        voices = _VOICE.findall("\n".join(lines[timing + 1 :]))
        if not voices:
            yield f"cue {n_cues}", LabelError("no_annotator", "the cue has no voice: <v Name>emotion</v>")
        for classes, annotator, said in voices:
            classes = classes.split(".")
            row = clip | {
                "annotator": " ".join(html.unescape(annotator).split()),
                "label": html.unescape(re.sub("<[^>]*>", "", said)).strip(),
                "target": next((name for name in classes if name in TARGETS), "all"),
            }
            if WHOLE not in classes:
                row |= {"start_s": _seconds(*match.groups()[:3]), "end_s": _seconds(*match.groups()[3:])}
            yield f"cue {n_cues}", row


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(seconds), 3)
