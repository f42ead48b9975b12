"""Label Studio's JSON export, of any project, as rows.

A control as a whole is about emotions or not: by its name, by the choices its labeling config declares, else by what
was chosen. It is about the face, the voice or the text if its name says so; ratings and numbers named confidence,
intensity, valence or arousal and texts named transcript or comment go with it. JSON_MIN does not say what a value is:
it is refused. https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from annotations.clip_files import ClipFiles
from annotations.db.schema import TARGETS
from annotations.formats.label_row import TASK_TEXT, UNKNOWN_ANNOTATOR, asks_for_emotion, outcome
from annotations.formats.labelstudio_export import NUMBERS, SEGMENT, TEXTS
from annotations.media_file import ENDINGS
from mmer.errors import LabelError

FRAME_RATE = 24.0  # what Label Studio assumes for a <Video> without frameRate
CHUNK = 2**20
CHOICES = ("choices", "labels", "timelinelabels")  # kinds of controls whose values can be emotions
TEXT_KEYS = ("text", "transcript", "transcription", "utterance", "sentence", "words")
Span = tuple[float | None, float | None]  # in seconds; None and None: the whole clip
WHOLE: Span = (None, None)
_MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # what JSON of another shape runs into


@dataclass(frozen=True)
class Project:
    """What a whole export says about its controls."""

    attributes: dict[str, dict[str, str]] = field(default_factory=dict)  # of the config's tags by name
    choices: dict[str, dict[str, str]] = field(default_factory=dict)  # {control: {as exported: what it means}}
    emotional: frozenset[str] = frozenset()  # the controls that are about emotions


def read(file: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each thing that was judged, with the annotation it is of.

    Args:
        left_out: gets the controls whose values are nothing that a label holds, with how often.

    Raises:
        LabelError: `unreadable_file`.
    """
    project = _project(file)
    for n, task in enumerate(_tasks(file), 1):
        if isinstance(task, LabelError):
            yield f"task {n}", task
            continue
        if n == 1 and isinstance(task, dict) and "annotation_id" in task:
            raise LabelError(
                "unreadable_file", f"{file} is JSON_MIN, which does not say what its values are; export JSON"
            )
        if not isinstance(task, dict) or not isinstance(task.get("annotations"), list):
            yield f"task {n}", LabelError("bad_row", "a task has data and a list of annotations")
            continue
        n_unknown = 0  # annotators of this task whom Label Studio forgot: each has a vote of their own
        for annotation in task["annotations"]:
            where = f"task {task.get('id', n)}"
            try:
                where += f" annotation {annotation.get('id')}"
                person = _person(annotation)
                if person is None:
                    n_unknown += 1
                    person = UNKNOWN_ANNOTATOR if n_unknown == 1 else f"{UNKNOWN_ANNOTATOR} {n_unknown}"
                rows = list(_rows(task["data"], annotation, person, files, project, left_out))
            except _MALFORMED as error:
                rows = [_malformed(error)]
            yield from ((where, row) for row in rows)


def _rows(
    data: dict, annotation: dict, person: str, files: ClipFiles, project: Project, left_out: Counter[str]
) -> Iterator[dict | LabelError]:
    judged: dict[tuple[Span, str], dict] = {}
    side_fields: dict[Span, dict] = {}
    skipped = bool(annotation.get("was_cancelled"))
    regions = _regions(annotation["result"], data, project)
    for result in annotation["result"]:
        name = str(result.get("from_name"))
        try:
            kind = str(result["type"]).lower()
            spans = _spans_of(result, regions, data, project)
            if kind not in CHOICES or name not in project.emotional:
                _read_side_field(result, spans, project, side_fields, left_out)
                continue
            if not spans:
                left_out[f"{name} of what is no stretch of time"] += 1
            for row in _judgements(result, spans, skipped, project):
                key = (row["start_s"], row["end_s"]), row["target"]
                if judged.setdefault(key, row)["label"] != row["label"]:
                    yield LabelError("two_labels", f"{name} {row['label']!r} is about what {judged[key]['label']!r} is")
        except LabelError as error:
            yield error
        except _MALFORMED as error:
            yield _malformed(error)
    if skipped and not judged:
        judged[WHOLE, "all"] = {"target": "all", "label": "skip", "start_s": None, "end_s": None}
    if not annotation["result"] and not skipped:
        left_out["empty annotation"] += 1
    for span in side_fields.keys() - {span for span, _ in judged}:
        left_out.update(side_fields[span].keys() - {"annotator"})
    about = _about(data, annotation, person, files)
    yield from ({**about, **row, **side_fields.get(span, {})} for (span, _), row in judged.items())


def _about(data: dict, annotation: dict, person: str, files: ClipFiles) -> dict:
    """Return what all rows of an annotation have in common."""
    return {
        **_clip(data, files),
        "annotator": person,
        "created_at": annotation.get("updated_at") or annotation.get("created_at"),
        "lead_time_s": annotation.get("lead_time"),
        "sha256": data.get("sha256"),
        "speaker": data.get("speaker"),
        "name": data.get("name"),
    }


def _judgements(result: dict, spans: list[Span], skipped: bool, project: Project) -> Iterator[dict]:
    name, kind = str(result["from_name"]), str(result["type"]).lower()
    values = (result.get("value") or {}).get(kind)
    if not values or not isinstance(values, list):
        raise LabelError("no_label", f"{name} has no value; choose an emotion in it")
    meanings = project.choices.get(name, {})
    meta = result.get("meta") or {}
    label = "skip" if skipped else _label([meanings.get(value) or value for value in values], meta.get("weights"))
    for start_s, end_s in spans:
        target = _meaning(name)[0]
        yield {"target": target, "label": label, "blind": meta.get("blind"), "start_s": start_s, "end_s": end_s}


def _read_side_field(
    result: dict, spans: list[Span], project: Project, side_fields: dict[Span, dict], left_out: Counter[str]
) -> None:
    """Enter what goes with a label; what is empty says nothing, and what cannot be read costs nothing but itself."""
    name, kind = str(result.get("from_name")), str(result.get("type")).lower()
    _, field_name = _meaning(name)
    value = (result.get("value") or {}).get("text" if kind == "textarea" else kind)
    if value is None or value == []:
        return
    said: object = None
    if kind == "textarea" and field_name in TEXTS:
        lines = [value] if isinstance(value, str) else value
        said = "\n".join(lines) if all(isinstance(line, str) for line in lines) else None
    elif kind in ("number", "rating") and field_name in NUMBERS and isinstance(value, int | float):
        most = float(project.attributes.get(name, {}).get("maxRating", 5)) if kind == "rating" else 1.0
        said = value / most if NUMBERS[field_name] <= value / most <= 1 else None
    if said is None or field_name is None or not spans:
        left_out[name] += 1
        return
    for span in spans:
        side_fields.setdefault(span, {})[field_name] = said


def _meaning(control: str) -> tuple[str, str | None]:
    """Return the target and the field that a control's name speaks of."""
    words = re.findall("[a-z]+", control.lower())
    target = next((word for word in words if word in TARGETS), "all")
    return target, next((word for word in words if word in NUMBERS or word in TEXTS), None)


def _label(values: list[str], weights: dict | None) -> str | dict:
    found = next(filter(None, map(outcome, values)), None)
    if found or len(values) == 1:
        return found or values[0]
    # Weights are of a label that we wrote; who changed the choice since, gave none.
    return weights if weights and weights.keys() == set(values) else dict.fromkeys(values, 1.0)


def _regions(results: list[dict], data: dict, project: Project) -> dict[str, list[Span] | LabelError]:
    """Return {id: the stretches of a region}, none for a region of a picture or a text."""
    regions: dict[str, list[Span] | LabelError] = {}
    for result in results:
        kind, value = str(result.get("type")).lower(), result.get("value") or {}
        if result.get("id") is not None and (kind.endswith("labels") or kind in ("rectangle", "ellipse", "polygon")):
            try:
                regions[str(result["id"])] = _spans(value, data, project) or []
            except LabelError as error:
                regions[str(result["id"])] = error
            except _MALFORMED as error:
                regions[str(result["id"])] = _malformed(error)
    return regions


def _spans_of(result: dict, regions: dict[str, list[Span] | LabelError], data: dict, project: Project) -> list[Span]:
    """Return the stretches a value is about: those of its region, its own, or the whole clip."""
    spans = regions.get(str(result.get("id")))
    if isinstance(spans, LabelError):
        raise spans
    if spans is not None:
        return spans
    value = dict(result.get("value") or {})
    if str(result["type"]).lower() == "textarea":
        value.pop("text", None)
    spans = _spans(value, data, project)
    return [WHOLE] if spans is None else spans


def _spans(value: dict, data: dict, project: Project) -> list[Span] | None:
    """Return the stretches a value gives, in seconds; none for letters of a text, None where it gives nothing."""
    if "ranges" in value:  # frames of a video, from 1
        rates = (tag["frameRate"] for tag in project.attributes.values() if "frameRate" in tag)
        declared = next(rates, str(FRAME_RATE))
        if not project.attributes:
            raise LabelError("bad_segment", "times are in frames; save the project's labeling config beside, as .xml")
        rate = float(data[declared[1:]] if declared.startswith("$") else declared)
        return [((frames["start"] - 1) / rate, frames["end"] / rate) for frames in value["ranges"]]
    if "start" not in value and "end" not in value:
        return None
    start, end = value.get("start"), value.get("end")
    if "text" in value or not isinstance(start, int | float) or not isinstance(end, int | float):
        return []
    return [(float(start), float(end))]


def _clip(data: dict, files: ClipFiles) -> dict:
    """Return `clip`, what the clip is called where it is found, or the words that are all of it."""
    if "clip" in data:
        return {"clip": data["clip"]}
    addresses = [value for value in data.values() if isinstance(value, str) and value]
    places = [place for address in addresses for place in _places(address)]
    if found := files.first(places):
        return {"clip": found}
    if named := next((value for value in addresses if _is_address(value)), None):
        return {"clip": named}
    words = next((data[key] for key in TEXT_KEYS if isinstance(data.get(key), str) and data[key].strip()), None)
    return {"clip": "", TASK_TEXT: words.strip()} if words else {"clip": next(iter(addresses), "")}


def _places(address: str) -> Iterator[str]:
    """Yield where the file of an address may lie: beside the export, or at the path that Label Studio names."""
    try:
        parts = urlsplit(address)
        path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    except ValueError:  # words that happen to begin as an address
        return
    name = re.split(r"[/\\]", path)[-1]
    uploaded = re.sub("^[0-9a-f]{8}-", "", name)  # Label Studio puts eight digits before the name of an upload
    yield from (place for place in (path, f"/{path}", name, uploaded) if "\0" not in place)


def _is_address(value: str) -> bool:
    """Whether a value of a task is where its media lies, rather than its words."""
    ending = Path(re.split(r"[?#]", value)[0]).suffix.lower()
    return re.match(r"[a-z][a-z0-9+.-]*://|/data/|/?[A-Za-z]:[\\/]", value) is not None or ending in ENDINGS


def _person(annotation: dict) -> str | None:
    """Return the annotator: one person whether the export has a number or an object; None when it has them no more."""
    by: Any = annotation.get("completed_by", "")
    if isinstance(by, dict):
        by = by["id"] if by.get("id") is not None else by.get("email") or None
    if by is None:
        return None
    return f"label-studio user {by}" if re.fullmatch(r"\d+", str(by)) else str(by)


def _project(file: Path) -> Project:
    """Return what the labeling config beside an export and all its values say about its controls."""
    attributes, choices = _config(file.with_suffix(".xml"))
    values: dict[str, Counter[str]] = {}
    for task in _tasks(file):
        for name, chosen in _chosen(task):
            values.setdefault(name, Counter()).update(map(str, chosen))
    ours = {f"{SEGMENT}{target}" for target in TARGETS}
    emotional = {
        name
        for name in values
        if name in ours or asks_for_emotion([name], list(choices.get(name, {}).values()) or values[name].elements())
    }
    return Project(attributes, choices, frozenset(emotional))


def _chosen(task: object) -> Iterator[tuple[str, list]]:
    """Yield (control, values) of all choices in a task; what has another shape is named when it is read."""
    annotations = task.get("annotations") if isinstance(task, dict) else None
    for annotation in annotations if isinstance(annotations, list) else ():
        results = annotation.get("result") if isinstance(annotation, dict) else None
        for result in results if isinstance(results, list) else ():
            if not isinstance(result, dict):
                continue
            kind, value = str(result.get("type")).lower(), result.get("value")
            chosen = value.get(kind) if isinstance(value, dict) else None
            if kind in CHOICES:
                yield str(result.get("from_name")), chosen if isinstance(chosen, list) else []


def _config(file: Path) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Return {name: attributes} and {name: {as exported: value}} of a labeling config, {} when there is none."""
    try:
        tags = [tag for tag in ElementTree.parse(file).iter() if tag.get("name")]
    except FileNotFoundError:
        return {}, {}
    except ElementTree.ParseError as error:
        raise LabelError("unreadable_file", f"{file} is not XML: {error}") from None
    attributes = {str(tag.get("name")): dict(tag.attrib) for tag in tags}
    choices = {
        str(tag.get("name")): {
            each.get("alias") or value: value for each in tag.iter() if each is not tag and (value := each.get("value"))
        }
        for tag in tags
    }
    return attributes, choices


def _malformed(error: Exception) -> LabelError:
    return LabelError("bad_row", f"not as Label Studio writes it: {type(error).__name__} {error}")


def _tasks(file: Path) -> Iterator[object]:
    """Yield the elements of a JSON array one by one: memory holds one task, not the file."""
    decode = json.JSONDecoder().raw_decode
    between = re.compile(r"[\s,]*")
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        text, at, n_tasks = stream.read(CHUNK).lstrip(), 1, 0
        if not text.startswith("["):
            raise LabelError("unreadable_file", f"{file} is not a JSON list of tasks; export JSON from Label Studio")
        while True:
            at += len(between.match(text, at)[0])  # type: ignore[index]  # it matches nothing too
            if text.startswith("]", at):
                return
            try:
                task, at = decode(text, at)
            except (ValueError, RecursionError) as error:
                text, at = text[at:], 0
                if more := stream.read(max(CHUNK, len(text))):
                    text += more
                    continue
                problem = LabelError("unreadable_file", f"{file.name} is not JSON after task {n_tasks}: {error}")
                if not n_tasks:
                    raise problem from None
                yield problem
                return
            n_tasks += 1
            yield task
