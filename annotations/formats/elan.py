"""Labels as ELAN's EAF: a tier per annotator and target, an annotation per label with the emotion as value.

Confidence, comment and the like are on dependent tiers. Every ELAN annotation has times, so a label of the whole clip
is on a tier of a type of its own. An EAF does not say when something was judged: that is then the time of the import.
https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf
"""

import mimetypes
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from pympi import Eaf

from annotations.clip_files import ClipFiles
from annotations.db.schema import TARGETS
from annotations.formats import file_per_clip
from annotations.formats.label_row import FIELDS, asks_for_emotion, is_set, to_row
from annotations.label import Label
from annotations.store import Store
from mmer.errors import LabelError

SUPPORTED_FIELDS = FIELDS - {"created_at", "lead_time_s", "blind"}
NOTES = ("confidence", "intensity", "valence", "arousal", "comment", "transcript")  # each on a dependent tier, if set
WHOLE, PART, NOTE = "clip", "segment", "note"  # a tier's type: "segment face", "clip all", "note comment"


def write(labels: Iterable[Label], out: Path, store: Store) -> None:
    """Write a folder of one .eaf per clip; the labels of one clip must follow each other."""
    file_per_clip.write(labels, out, store, ".eaf", _save)


def _save(labels: list[Label], length_s: float, file: Path) -> None:
    document, media, row = Eaf(author="mmer"), labels[0].media, to_row(labels[0])
    document.remove_tier("default")
    if media:
        kind = mimetypes.guess_type(media)[0] or "application/octet-stream"
        document.add_linked_file(media.resolve().as_uri(), f"./{media.name}", kind)
    for name, value in (("clip", row["clip"]), ("sha256", labels[0].sha256), ("speaker", labels[0].speaker)):
        if value:
            document.add_property(name, _text(value))
    ends: dict[str, int] = {}  # of the last annotation on a tier: one tier's annotations may not overlap
    for label in labels:
        row = to_row(label)
        start, end = round(1000 * row.get("start_s", 0)), round(1000 * row.get("end_s", length_s))
        tier = _tier(document, ends, label, start)
        ends[tier] = end
        document.add_annotation(tier, start, end, _text(row["label"]))
        for name in NOTES:
            if is_set(label, name):
                note = f"{tier} {name}"
                if note not in document.tiers:
                    document.add_linguistic_type(f"{NOTE} {name}", "Symbolic_Association", timealignable=False)
                    document.add_tier(note, f"{NOTE} {name}", parent=tier, ann=_text(label.annotator))
                document.add_ref_annotation(note, tier, (start + end) // 2, _text(str(row[name])))
    document.to_file(file)


def _tier(document: Eaf, ends: dict[str, int], label: Label, start: int) -> str:
    """Return the name of the label's tier, made when there is none that is free at `start`."""
    kind = f"{WHOLE if label.start_s is None else PART} {label.target}"
    annotator = _text(label.annotator)
    n, name = 1, f"{annotator} {kind}"
    while name in document.tiers and (document.tiers[name][2]["ANNOTATOR"] != annotator or ends[name] > start):
        n += 1
        name = f"{annotator} {kind} {n}"
    if name not in document.tiers:
        if kind not in document.linguistic_types:
            document.add_linguistic_type(kind)
        document.add_tier(name, kind, ann=annotator, part=_text(label.speaker or "") or None)
    return name


def _text(value: str) -> str:
    """Return text that XML 1.0 can hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value)


def read(path: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each annotation of the tiers that are about emotions, of a file or of all in a folder.

    Args:
        left_out: gets the tiers that are about something else, with how many annotations they have.

    Raises:
        LabelError: `unreadable_file`.
    """
    return file_per_clip.read(path, ".eaf", lambda file: _rows(file, files, left_out))


def _rows(file: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    document = _open(file)
    clip, spans = _clip(document, file, files), _spans(document)
    origin_ms = clip.pop("origin_ms")
    for name, (annotations, references, about, _) in document.tiers.items():
        values = {key: value for key, (_, _, value, _) in annotations.items()}
        values |= {key: value for key, (_, value, _, _) in references.items()}
        kind, _, target = about.get("LINGUISTIC_TYPE_REF", "").partition(" ")
        ours = kind in (WHOLE, PART) and target in TARGETS
        if kind == NOTE and about.get("PARENT_REF"):
            continue  # read with its parent
        if not ours and not _is_about_emotions(document, name, list(values.values())):
            if values:
                left_out[name] += len(values)
            continue
        if not ours:
            target = next((word for word in name.lower().split() if word in TARGETS), "all")
        notes = _notes(document, name)
        for key, value in values.items():
            row = {
                **clip,
                "annotator": about.get("ANNOTATOR") or name,
                "label": value,
                "target": target,
                **notes.get(key, {}),
            }
            timed = not ours or kind == PART
            yield f"tier {name!r} annotation {key}", _with_times(row, spans.get(key), origin_ms) if timed else row


def _is_about_emotions(document: Eaf, tier: str, values: list[str]) -> bool:
    kind = document.tiers[tier][2].get("LINGUISTIC_TYPE_REF", "")
    vocabulary = document.linguistic_types.get(kind, {}).get("CONTROLLED_VOCABULARY_REF")
    _, entries, _ = document.controlled_vocabularies.get(vocabulary, ([], {}, None))
    declared = [value for texts, _ in entries.values() for value, *_ in texts if value]
    return asks_for_emotion((tier, kind), declared or [value for value in values if value.strip()])


def _with_times(row: dict, span: tuple[float, float] | None, origin_ms: int) -> dict | LabelError:
    if span is None:
        return LabelError("bad_segment", f"annotation {row['label']!r} is not aligned to times")
    try:
        start_s, end_s = ((time_ms + origin_ms) / 1000 for time_ms in span)
    except OverflowError:
        return LabelError("bad_segment", f"annotation {row['label']!r} has times beyond all reckoning")
    return {**row, "start_s": start_s, "end_s": end_s}


def _clip(document: Eaf, file: Path, files: ClipFiles) -> dict:
    """Return the columns that say which clip a file is about, and `origin_ms`: where in its media the times begin.

    Of several linked media it is the first that lies here: cameras and sound of one recording share their times.
    """
    properties = dict(document.properties)
    named = [(name, media) for media in document.media_descriptors for name in _media_names(media)]
    about: dict[str, str] = next(iter(document.media_descriptors), {})
    clip = properties.get("clip")
    if not clip:
        names = [name for name, _ in named]
        clip = files.first(names) or files.beside(file) or next(iter(names), "")
        about = next((media for name, media in named if name == clip), about)
    try:
        origin_ms = int(about.get("TIME_ORIGIN") or 0)
    except ValueError:
        raise LabelError("unreadable_file", f"{file} has TIME_ORIGIN {about['TIME_ORIGIN']!r}, not a number") from None
    if document.header.get("TIME_UNITS", "milliseconds") != "milliseconds":
        raise LabelError(
            "unreadable_file", f"{file} has times in {document.header['TIME_UNITS']}; save it in ELAN anew"
        )
    known = {name: properties.get(name) for name in ("sha256", "speaker")}
    return {"clip": clip, "origin_ms": origin_ms, **known}


def _media_names(media: dict[str, str]) -> Iterator[str]:
    """Yield what a linked file may be called here: beside the EAF, where it was, and there under its own name."""
    relative = media.get("RELATIVE_MEDIA_URL") or ""
    absolute = re.sub(r"^file:/*", "/", media.get("MEDIA_URL") or "")
    absolute = re.sub(r"^/(?=[A-Za-z]:)", "", absolute)  # file:///C:/...
    for name in (relative, absolute):
        for written in filter(None, (unquote(name), name)):
            yield written
            yield re.split(r"[/\\]", written)[-1]


def _spans(document: Eaf) -> dict[str, tuple[float, float]]:
    """Return {annotation: its times in milliseconds}; one on a dependent tier has those of its parent.

    Where a dependent tier cuts its parent into several, each gets an even share, as ELAN shows it.
    """
    slots, spans = document.timeslots, {}
    parts: dict[tuple[str, str], dict[str | None, str]] = {}  # {(tier, parent): {the one before: annotation}}
    for name, (annotations, references, _, _) in document.tiers.items():
        for key, (first, last, _, _) in annotations.items():
            if slots.get(first) is not None and slots.get(last) is not None:
                spans[key] = (slots[first], slots[last])
        for key, (parent, _, before, _) in references.items():
            parts.setdefault((name, parent), {})[before] = key
    for _ in document.tiers:  # a parent may be on a dependent tier itself
        for (_, parent), following in parts.items():
            if parent in spans:
                start, end = spans[parent]
                step, key = (end - start) / len(following), following.get(None)
                for n in range(len(following)):
                    if key is not None:
                        spans[key] = (start + n * step, start + (n + 1) * step)
                        key = following.get(key)
    return spans


def _notes(document: Eaf, parent: str) -> dict[str, dict]:
    """Return {annotation: {name: value}} of the tiers that depend on a tier."""
    notes: dict[str, dict] = {}
    for _, references, about, _ in document.tiers.values():
        kind, _, name = about.get("LINGUISTIC_TYPE_REF", "").partition(" ")
        if about.get("PARENT_REF") == parent and kind == NOTE and name in NOTES:
            for key, value, _, _ in references.values():
                notes.setdefault(key, {})[name] = value
    return notes


def _open(file: Path) -> Eaf:
    try:
        return Eaf(str(file), suppress_version_warning=True)
    except OSError:
        raise
    except Exception as error:  # pympi raises whatever its parsing ran into
        raise LabelError("unreadable_file", f"{file} is not an EAF of ELAN: {error}") from None
