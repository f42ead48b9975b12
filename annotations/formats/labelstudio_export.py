"""Labels as Label Studio's JSON: a task per clip, an annotation per label, the model's answers as predictions.

An export is two files, `labels.json` and the labeling config `labels.xml`, from which a Label Studio project
can be made that imports the JSON. https://labelstud.io/guide/tasks#Basic-Label-Studio-JSON-format
"""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import bindparam, select

from annotations.db.schema import OUTCOMES, TARGETS, ClipRecord, PredictionRecord
from annotations.formats.atomic_write import new_file
from annotations.formats.label_row import FIELDS, is_set, to_row
from annotations.label import Label
from annotations.store import Store
from mmer.labels import EMOTIONS

SUPPORTED_FIELDS = FIELDS
NUMBERS = {"confidence": 0, "intensity": 0, "valence": -1, "arousal": -1}  # and where each begins; all end at 1
# Label Studio's own tables have a column "annotator", which would hide a control of this name.
TEXTS = {"transcript": "transcript", "comment": "comment", "annotator": "annotator_name"}
SEGMENT = "segment_"  # begins the names of controls that are about a stretch of the clip
_PREDICTIONS = (  # built once: putting a statement together takes longer than running it
    select(PredictionRecord)
    .join(ClipRecord, PredictionRecord.clip_id == ClipRecord.id)
    .where(ClipRecord.sha256 == bindparam("sha256"))
    .order_by(PredictionRecord.id)
)


def write(labels: Iterable[Label], out: Path, store: Store) -> None:
    """Write tasks one by one; the labels of one clip must follow each other."""
    with new_file(out.with_suffix(".xml")) as stream:
        stream.write(config())
    with new_file(out) as stream:
        separator = "[\n"
        for n, (sha256, group) in enumerate(groupby(labels, key=lambda label: label.sha256), 1):
            stream.write(separator + json.dumps({"id": n, **_task(sha256, list(group), store)}, ensure_ascii=False))
            separator = ",\n"
        stream.write("\n]\n" if separator == ",\n" else "[]\n")


def config() -> str:
    """Return the labeling config of a project that takes an export in."""
    lines = ['<Video name="clip" value="$media" sync="sound"/>', '<Audio name="sound" value="$media" sync="clip"/>']
    for target in TARGETS:
        lines.append(f'<Header value="{target}"/>')
        for tag, item, name, to in (("Choices", "Choice", "emotion_", "clip"), ("Labels", "Label", SEGMENT, "sound")):
            values = "".join(f'<{item} value="{value}"/>' for value in (*EMOTIONS, *OUTCOMES[1:]))
            lines.append(f'<{tag} name="{name}{target}" toName="{to}" choice="multiple">{values}</{tag}>')
    for prefix, to, about in (("", "clip", ""), (SEGMENT, "sound", ' perRegion="true"')):
        for name, low in NUMBERS.items():
            lines.append(f'<Number name="{prefix}{name}" toName="{to}" min="{low}" max="1" step="0.01"{about}/>')
        for name, control in TEXTS.items():
            lines.append(f'<TextArea name="{prefix}{control}" toName="{to}" placeholder="{name}"{about}/>')
    return "<View>\n" + "".join(f"  {line}\n" for line in lines) + "</View>\n"


def _task(sha256: str, labels: list[Label], store: Store) -> dict:
    first = labels[0]
    with store.reading() as session:
        predictions = [_prediction(record) for record in session.scalars(_PREDICTIONS, {"sha256": sha256})]
    # Label Studio serves a file of its own machine under this address when a local storage covers it.
    media = f"/data/local-files/?d={quote(str(first.media.resolve()).lstrip('/'))}" if first.media else ""
    return {
        "data": {
            "media": media,
            "clip": to_row(first)["clip"],
            "sha256": sha256,
            "name": first.name,
            "speaker": first.speaker,
        },
        "annotations": [_annotation(label) for label in labels],
        "predictions": predictions,
    }


def _annotation(label: Label) -> dict:
    # No completed_by: Label Studio refuses a person it does not know. The name is a text control's value instead.
    weights = label.emotions if len(label.emotions) > 1 else None
    meta = {name: value for name, value in (("weights", weights), ("blind", label.blind)) if value is not None}
    key = f"label-{label.id}"
    numbers = ((name, name, "number", "number", getattr(label, name)) for name in NUMBERS)
    texts = ((name, control, "textarea", "text", [getattr(label, name)]) for name, control in TEXTS.items())
    return {
        "id": label.id,
        "created_at": label.created_at.isoformat(),
        "lead_time": label.lead_time_s,
        "was_cancelled": label.outcome == "skip",
        "ground_truth": False,
        "result": [
            _label_result(label, label.target, list(label.emotions) or [label.outcome], key, meta),
            *(_result(label, key, *control) for name, *control in (*numbers, *texts) if is_set(label, name)),
        ],
    }


def _prediction(record: PredictionRecord) -> dict:
    result = _label_result(record, "all", [record.emotion], f"prediction-{record.id}", {"probs": record.probs})
    return {"model_version": record.checkpoint, "score": record.probs.get(record.emotion), "result": [result]}


def _label_result(about: Label | PredictionRecord, target: str, values: list[str], key: str, meta: dict) -> dict:
    kind, name = ("choices", "emotion_") if about.start_s is None else ("labels", "")
    return _result(about, key, name + target, kind, kind, values) | ({"meta": meta} if meta else {})


def _result(about: Label | PredictionRecord, key: str, name: str, kind: str, field: str, value) -> dict:
    """Return one value of one control; those about a segment share the id of its region."""
    region = about.start_s is not None
    span = {"start": about.start_s, "end": about.end_s, "channel": 0} if region else {}
    return {
        "id": key if region else f"{key}-{name}",
        "from_name": SEGMENT + name if region else name,
        "to_name": "sound" if region else "clip",
        "type": kind,
        "value": span | {field: value},
    }
