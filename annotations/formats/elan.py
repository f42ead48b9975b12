"""Labels as ELAN's EAF: a tier per annotator and target, an annotation per label with the emotion as value.

Confidence, comment and the like are on dependent tiers. Every ELAN annotation has times, so a label of the whole clip is on
a tier of a type of its own. An EAF does not say when something was judged: what comes from it was judged at the import.
https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf
"""

import mimetypes
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pympi import Eaf

from annotations.db.schema import TARGETS
from annotations.formats import file_per_clip
from annotations.formats.label_row import FIELDS, is_label_value, is_set, to_row
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


def read(path: Path, left_out: Counter) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each annotation with an emotion, of a file or of all in a folder.

    Args:
        left_out: gets the tiers that are about something else, with how many annotations they have.

    Raises:
        LabelError: `unreadable_file`.
    """
    return file_per_clip.read(path, ".eaf", lambda file: _rows(file, left_out))


def _rows(file: Path, left_out: Counter) -> Iterator[tuple[str, dict]]:
    document = _open(file)
    properties = dict(document.properties)
    linked = [unquote(urlsplit(media.get("MEDIA_URL") or "").path) for media in document.media_descriptors]
    clip = {
        "clip": properties.get("clip") or file_per_clip.named_clip(next(iter(linked), ""), file),
        "sha256": properties.get("sha256"),
        "speaker": properties.get("speaker"),
    }
    for name, (annotations, references, about, _) in document.tiers.items():
        kind, _, target = about.get("LINGUISTIC_TYPE_REF", "").partition(" ")
        ours = kind in (WHOLE, PART) and target in TARGETS
        if kind == NOTE and about.get("PARENT_REF"):
            continue  # read with its parent
        if not ours and not any(is_label_value(value) for _, _, value, _ in annotations.values()):
            if n := len(annotations) + len(references):
                left_out[name] += n
            continue
        notes = _notes(document, name)
        for key, (first, last, value, _) in annotations.items():
            row = {
                **clip,
                "annotator": about.get("ANNOTATOR") or name,
                "label": value,
                "target": target if ours else next((word for word in name.lower().split() if word in TARGETS), "all"),
                **notes.get(key, {}),
            }
            if not ours or kind == PART:
                start, end = document.timeslots[first], document.timeslots[last]
                if start is None or end is None:
                    row = LabelError("bad_segment", f"annotation {value!r} is not aligned to times")
                else:
                    row |= {"start_s": start / 1000, "end_s": end / 1000}
            yield f"tier {name!r} annotation {key}", row


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
