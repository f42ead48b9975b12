"""Labels as WebVTT: a cue per label, its voice the annotator, its text the emotion.

The voice's class says what was judged: `<v.face Ann>anger</v>`; a label of the whole clip has the class `clip` too,
since every cue has times. Players show who saw what; confidence, comments and the like have no place. Files are read by
the standard's algorithm, so what a player shows is what is imported. https://www.w3.org/TR/webvtt1/#file-parsing
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from annotations.clip_files import ClipFiles
from annotations.db.schema import TARGETS
from annotations.formats import file_per_clip
from annotations.formats.label_row import to_row
from annotations.label import Label
from annotations.store import Store
from mmer.errors import LabelError

SUPPORTED_FIELDS = frozenset({"speaker"})
WHOLE = "clip"
ARROW = "-->"
_NOTE = re.compile(r"NOTE (clip|sha256|speaker): (.*)")
_TIMESTAMP = re.compile(
    r"(?:(?P<hours>\d{1,9}):)?(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)\.(?P<ms>\d{3})(?!\d)", re.ASCII
)
_SPACE = re.compile(r"[ \t\f]*")
_TAG = re.compile(r"<(?P<close>/?)(?P<name>[^\s.>/]*)(?P<classes>(?:\.[^\s.>]*)*)(?P<annotation>[^>]*)(?:>|\Z)")


@dataclass(frozen=True)
class Block:
    """What stands between two blank lines, or before the next cue where somebody forgot the blank line."""

    text: str  # of a cue: its text; else all lines
    timing: str | None = None  # the line with the arrow, when there is one: then it is a cue


@dataclass(frozen=True)
class Voice:
    """Who says what in a cue."""

    name: str
    classes: tuple[str, ...]
    text: str


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
            f"{_clock(row.get('start_s', 0.0))} {ARROW} {_clock(row.get('end_s', length_s))}\n"
            f"<v{classes} {_escape(annotator)}>{_escape(row['label'])}</v>"
        )
    file.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="")


def _escape(text: str) -> str:
    return html.escape(text, quote=False).replace("\n", "&#10;").replace("\r", "&#13;")


def _clock(time_s: float) -> str:
    minutes, ms = divmod(round(1000 * time_s), 60_000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours:02}:" if hours else "") + f"{minutes:02}:{ms // 1000:02}.{ms % 1000:03}"


def read(path: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each voice of each cue, of a file or of all in a folder.

    Args:
        left_out: gets the files without a cue.

    Raises:
        LabelError: `unreadable_file`.
    """
    return file_per_clip.read(path, ".vtt", lambda file: _rows(file, files, left_out))


def _rows(file: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    found = list(blocks(_decoded(file), file.name))
    notes = {note[1]: html.unescape(note[2]) for block in found if (note := _NOTE.fullmatch(block.text.strip()))}
    clip = {"clip": notes.get("clip") or files.beside(file), "sha256": notes.get("sha256")}
    clip["speaker"] = notes.get("speaker")
    cues = [block for block in found if block.timing is not None]
    if not cues:
        left_out[f"{file.name} without a cue"] += 1
    for n, cue in enumerate(cues, 1):
        times = cue_times(cue.timing or "")
        spoken = voices(cue.text)
        if times is None:
            yield f"cue {n}", LabelError("bad_segment", f"{cue.timing!r} is not two WebVTT times")
        elif not spoken:
            yield f"cue {n}", LabelError("no_annotator", "the cue has no voice: <v Name>emotion</v>")
        else:
            for voice in spoken:
                row: dict[str, object] = {**clip, "annotator": voice.name, "label": voice.text}
                row["target"] = next((name for name in voice.classes if name in TARGETS), "all")
                if WHOLE not in voice.classes:
                    row |= {"start_s": times[0], "end_s": times[1]}
                yield f"cue {n}", row


def _decoded(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError("unreadable_file", f"{file} is not UTF-8, as WebVTT has to be") from None


def blocks(text: str, name: str) -> Iterator[Block]:
    """Yield the blocks of a file, as the standard's parser cuts them.

    A line with an arrow begins a cue when it is the first or second of its block, else it ends the block before it.

    Raises:
        LabelError: `unreadable_file`.
    """
    lines = re.sub(r"\r\n?", "\n", text.replace("\0", "\ufffd")).split("\n")
    if not re.match(r"WEBVTT(?:[ \t]|\Z)", lines[0]):
        raise LabelError("unreadable_file", f"{name} is not WebVTT: its first line is not WEBVTT")
    at = 1
    if at < len(lines) and lines[at]:
        _, at = _block(lines, at, in_header=True)
    while at < len(lines):
        if lines[at]:
            block, at = _block(lines, at, in_header=False)
            yield block
        else:
            at += 1


def _block(lines: list[str], at: int, *, in_header: bool) -> tuple[Block, int]:
    """Return a block that begins at a line, and the line after it."""
    collected: list[str] = []
    timing = None
    for n in range(at, len(lines)):
        line = lines[n]
        if ARROW in line:
            if in_header or timing is not None or n > at + 1:
                return Block("\n".join(collected), timing), n
            timing, collected = line, []  # a line before it is the cue's name
        elif not line:
            return Block("\n".join(collected), timing), n + 1
        else:
            collected.append(line)
    return Block("\n".join(collected), timing), len(lines)


def cue_times(line: str) -> tuple[float, float] | None:
    """Return start and end in seconds of a cue's timing line, settings behind them ignored; None when it has none."""
    start = _TIMESTAMP.match(line, _after_space(line, 0))
    if not start:
        return None
    arrow = _after_space(line, start.end())
    end = _TIMESTAMP.match(line, _after_space(line, arrow + len(ARROW)))
    return (_seconds(start), _seconds(end)) if line.startswith(ARROW, arrow) and end else None


def _after_space(line: str, at: int) -> int:
    match = _SPACE.match(line, at)
    return match.end() if match else at


def _seconds(time: re.Match[str]) -> float:
    minutes = 60 * int(time["hours"] or 0) + int(time["minutes"])
    return round(60 * minutes + int(time["seconds"]) + int(time["ms"]) / 1000, 3)


def voices(text: str) -> list[Voice]:
    """Return the voices of a cue's text; one that is not closed ends where the next begins."""
    found: list[Voice] = []
    is_open, at = False, 0
    for tag in [*_TAG.finditer(text), None]:
        if is_open:
            found[-1] = replace(found[-1], text=found[-1].text + text[at : tag.start() if tag else None])
        if tag is None:
            break
        at = tag.end()
        if tag["name"] == "v":  # other tags are italics, a language, a time: what is inside is said too
            is_open = not tag["close"]
            if is_open:
                name = " ".join(html.unescape(tag["annotation"]).split())
                found.append(Voice(name, tuple(filter(None, tag["classes"].split("."))), ""))
    return [replace(voice, text=html.unescape(voice.text).strip()) for voice in found]
