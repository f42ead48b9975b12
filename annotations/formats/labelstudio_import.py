"""Label Studio's JSON export, of any project, as rows.

A control is known by what it holds and by its name. Choices and labels are emotions, of the face, the voice or the text
if the name says so; ratings and numbers named confidence, intensity, valence or arousal and texts named transcript or
comment go with them. JSON_MIN does not say what a value is, so it is refused.
https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from annotations.db.schema import OUTCOMES, TARGETS
from annotations.formats.label_row import find_clip, is_label_value
from annotations.formats.labelstudio_export import NUMBERS, SEGMENT, TEXTS
from mmer.errors import LabelError

FRAME_RATE = 24.0  # what Label Studio assumes for a <Video> without frameRate
CHUNK = 2**20


def read(file: Path, left_out: Counter) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield a row for each thing that was judged, with the annotation it is of.

    Args:
        left_out: gets the controls whose values are nothing that a label holds, with how often.

    Raises:
        LabelError: `unreadable_file`.
    """
    controls = _controls(file.with_suffix(".xml"))
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
        for annotation in task["annotations"]:
            where = f"task {task.get('id', n)}"
            try:
                where += f" annotation {annotation.get('id')}"
                rows = _rows(task["data"], annotation, file.parent, controls, left_out)
            except LabelError as error:
                rows = [error]
            except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of any other shape
                rows = [LabelError("bad_row", f"not as Label Studio writes it: {type(error).__name__} {error}")]
            yield from ((where, row) for row in rows)


def _rows(data: dict, annotation: dict, folder: Path, controls: dict, left_out: Counter) -> list[dict]:
    skipped = bool(annotation.get("was_cancelled"))
    judged, said, unused = [], {}, Counter()
    for result in annotation["result"]:
        name, value, kind = str(result.get("from_name")), result.get("value", {}), str(result["type"]).lower()
        target, field = _meaning(name)
        for span in _spans(value, data, controls):
            if kind in ("choices", "labels", "timelinelabels") and "text" not in value and _is_about(name, value[kind]):
                meta = result.get("meta") or {}
                label = "skip" if skipped else _label(value[kind], meta.get("weights"))
                judged.append((span, {"target": target, "label": label, "blind": meta.get("blind")}))
            elif kind == "textarea" and field in TEXTS:
                text = value["text"]
                said.setdefault(span, {})[field] = text if isinstance(text, str) else "\n".join(text)
            elif kind in ("number", "rating") and field in NUMBERS:
                most = float(controls.get(name, {}).get("maxRating", 5)) if kind == "rating" else 1
                said.setdefault(span, {})[field] = value[kind] / most
            else:
                unused[name] += 1
    if skipped and not judged:
        judged.append(((None, None), {"target": "all", "label": "skip"}))
    for span in said.keys() - {span for span, _ in judged}:
        unused.update(said[span].keys() - {"annotator"})
    if not annotation["result"] and not skipped:
        unused["empty annotation"] += 1
    left_out.update(unused)
    row = {
        "clip": _clip(data, folder),
        "annotator": _person(annotation.get("completed_by")),
        "created_at": annotation.get("updated_at") or annotation.get("created_at"),
        "lead_time_s": annotation.get("lead_time"),
        "sha256": data.get("sha256"),
        "speaker": data.get("speaker"),
        "name": data.get("name"),
    }
    return [row | about | said.get(span, {}) | {"start_s": span[0], "end_s": span[1]} for span, about in judged]


def _meaning(control: str) -> tuple[str, str | None]:
    """Return the target and the field that a control's name speaks of."""
    words = re.findall("[a-z]+", control.lower())
    target = next((word for word in words if word in TARGETS), "all")
    return target, next((word for word in words if word in NUMBERS or word in TEXTS), None)


def _is_about(control: str, values: list[str]) -> bool:
    """Whether choices are about emotions: a project may ask for other things too."""
    return "emotion" in control.lower() or control.startswith(SEGMENT) or any(map(is_label_value, values))


def _label(values: list[str], weights: dict | None) -> str | dict:
    outcome = next((name for value in values if (name := value.lower().replace(" ", "_")) in OUTCOMES[1:]), None)
    if outcome or len(values) == 1:
        return outcome or values[0]
    # Weights are of a label that we wrote; who changed the choice since, gave none.
    return weights if weights and weights.keys() == set(values) else dict.fromkeys(values, 1.0)


def _spans(value: dict, data: dict, controls: dict) -> Iterator[tuple[float | None, float | None]]:
    """Yield the stretches a value is about, in seconds; None and None for the whole clip."""
    if "ranges" in value:  # frames of a video, from 1
        declared = next((control["frameRate"] for control in controls.values() if "frameRate" in control), FRAME_RATE)
        if not controls:
            raise LabelError("bad_segment", "times are in frames; save the project's labeling config beside, as .xml")
        rate = float(data[declared[1:]] if str(declared).startswith("$") else declared)
        for frames in value["ranges"]:
            yield (frames["start"] - 1) / rate, frames["end"] / rate
    elif isinstance(value.get("start"), int | float) and isinstance(value.get("end"), int | float):
        yield value["start"], value["end"]
    else:
        yield None, None


def _clip(data: dict, folder: Path) -> str:
    """Return what the clip is called where it is found: beside the file, or at the path that Label Studio names."""
    if "clip" in data:
        return data["clip"]
    addresses = [value for value in data.values() if isinstance(value, str)]
    for address in addresses:
        parts = urlsplit(address)
        path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
        name = path.rpartition("/")[2]
        uploaded = re.sub("^[0-9a-f]{8}-", "", name)  # Label Studio puts eight digits before the name of an upload
        for place in (path, f"/{path}", name, uploaded):
            if place and find_clip(place, folder):
                return place
    return addresses[0] if addresses else ""


def _person(completed_by) -> str:
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or "")
    return f"label-studio user {completed_by}" if isinstance(completed_by, int) else str(completed_by or "")


def _controls(config: Path) -> dict[str, dict]:
    """Return {name: attributes} of the tags in a labeling config, {} when there is none."""
    try:
        return {tag.get("name"): tag.attrib for tag in ElementTree.parse(config).iter() if tag.get("name")}
    except FileNotFoundError:
        return {}
    except ElementTree.ParseError as error:
        raise LabelError("unreadable_file", f"{config} is not XML: {error}") from None


def _tasks(file: Path) -> Iterator[object]:
    """Yield the elements of a JSON array one by one: memory holds one task, not the file."""
    decode = json.JSONDecoder().raw_decode
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        text, place, n_tasks = stream.read(CHUNK).lstrip(), 1, 0
        if not text.startswith("["):
            raise LabelError("unreadable_file", f"{file} is not a JSON list of tasks; export JSON from Label Studio")
        while True:
            place = re.compile(r"[\s,]*").match(text, place).end()
            if text.startswith("]", place):
                return
            try:
                task, place = decode(text, place)
            except (ValueError, RecursionError) as error:
                text, place = text[place:], 0
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
