"""Labels in and out of the store, in every format.

CSV and JSONL, Label Studio's JSON, a folder that is a Hugging Face dataset, and ELAN's EAF and WebVTT with one file per
clip in a folder. An export holds the current labels, not those they replaced.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from annotations.choices import FORMATS
from annotations.db.schema import OUTCOMES, AnnotatorRecord, CurrentLabelRecord, LabelRecord
from annotations.formats import csv_jsonl, elan, huggingface, labelstudio_export, labelstudio_import, webvtt
from annotations.formats.label_row import FIELDS, NUMBERS, RowReader, content_hash, is_set
from annotations.label import Label, check_label
from annotations.store import Store
from mmer.errors import LabelError

__all__ = ["FORMATS", "ExportReport", "ImportReport", "content_hash", "export_labels", "format_of", "import_labels"]

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".json": "labelstudio", ".eaf": "elan", ".vtt": "webvtt"}
BATCH = 200  # rows per transaction: the disk is waited for once, and other writers wait for one batch at most


@dataclass
class ImportReport:
    """What became of each row."""

    imported: int = 0
    present: int = 0  # stored already: importing a file again adds nothing
    bad: list[str] = field(default_factory=list)  # "labels.csv line 3: unknown_label: ..."
    left_out: Counter = field(default_factory=Counter)  # {"scene": 3}: what the file has and a label has no place for


@dataclass
class ExportReport:
    """What was written."""

    labels: int = 0
    left_out: Counter = field(default_factory=Counter)  # {"transcript": 3}: what the format has no place for


def format_of(file: Path) -> str:
    """Return the format that a file or a folder looks like.

    Raises:
        LabelError: `unknown_format`.
    """
    if (file / huggingface.METADATA).is_file():
        return "hf"
    inside = next((path for path in file.iterdir() if path.suffix in ENDINGS), file) if file.is_dir() else file
    if inside.suffix.lower() not in ENDINGS:
        raise LabelError("unknown_format", f"{file} ends in none of {', '.join(ENDINGS)}; say --format")
    return ENDINGS[inside.suffix.lower()]


def import_labels(
    store: Store,
    file: Path,
    format: str,
    *,
    consent_text: str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> ImportReport:
    """Add the labels of a file or folder; good rows go in, bad ones are named in the report.

    Args:
        consent_text: takes the media in under this consent; without it clips are registered where they lie.

    Raises:
        LabelError: `unreadable_file`, `missing_column`: nothing was imported then.
    """
    report = ImportReport()
    reader = RowReader(file if file.is_dir() else file.parent)
    rows = iter(progress(_read(file, format, report.left_out)))
    while batch := _take(rows, file):
        parsed = []
        for where, row in batch:
            with _recording_bad_row(report, file, where):
                clip, label = reader.parse(row)
                if consent_text and clip["path"]:  # before the transaction: copying would keep writers waiting
                    store.register_clip(**clip, consent_text=consent_text)
                parsed.append((where, clip | {"in_place": not consent_text}, label))
        with store.writing() as session:
            last = None  # the clip before, with its id: rows of one clip mostly follow each other
            for where, clip, label in parsed:
                with _recording_bad_row(report, file, where), session.begin_nested():
                    clip_id = last[1] if last and last[0] == clip else store.register_clip(**clip, session=session)
                    if _is_present(session, clip_id, label):
                        report.present += 1
                    else:
                        store.add_label(clip_id, **_inherited_fields(session, clip_id, label), **label, session=session)
                        report.imported += 1
                    last = clip, clip_id  # not before: a bad row takes back the clip it registered
    return report


def export_labels(
    store: Store, out: Path, format: str, *, progress: Callable[[Iterable], Iterable] = iter
) -> ExportReport:
    """Write the current labels, all or none.

    Raises:
        LabelError: `unwritable_file`, `not_an_export` (a folder of something else is in the way).
    """
    report = ExportReport()

    def labels(*, by_clip: bool = False, supported: frozenset = FIELDS) -> Iterator[Label]:
        for label in progress(store.labels(OUTCOMES, by_clip=by_clip)):
            report.labels += 1
            report.left_out.update(name for name in FIELDS - supported if is_set(label, name))
            yield label

    if format in csv_jsonl.SUPPORTED_FIELDS:
        csv_jsonl.write(labels(supported=csv_jsonl.SUPPORTED_FIELDS[format]), out, format)
    else:
        module = {"labelstudio": labelstudio_export, "hf": huggingface, "elan": elan, "webvtt": webvtt}[format]
        module.write(labels(by_clip=True, supported=module.SUPPORTED_FIELDS), out, store)
    return report


def _read(file: Path, format: str, left_out: Counter) -> Iterator[tuple[str, dict | LabelError]]:
    if format in csv_jsonl.SUPPORTED_FIELDS:
        return csv_jsonl.read(file, format)
    return {"labelstudio": labelstudio_import, "hf": huggingface, "elan": elan, "webvtt": webvtt}[format].read(
        file, left_out
    )


def _take(rows: Iterator, file: Path) -> list:
    try:
        return list(islice(rows, BATCH))
    except OSError as error:
        raise LabelError("unreadable_file", f"cannot read {file}: {error.strerror}") from None


@contextmanager
def _recording_bad_row(report: ImportReport, file: Path, where: str) -> Iterator[None]:
    """Enter a row's LabelError in the report and go on."""
    try:
        yield
    except LabelError as error:
        if error.code == "database_unavailable":
            raise  # not the row's fault
        report.bad.append(f"{file.name} {where}: {error.code}: {error.message}")


def _is_present(session: Session, clip_id: int, label: dict) -> bool:
    """Whether all that a row says is stored: at the row's own time, or in the annotator's current label."""
    annotator, values = check_label(**label)
    said = {name: values[name] for name in values if name in label or name in _ALWAYS_COMPARED}
    created_at = said.pop("created_at", None)
    key = {"clip_id": clip_id, "annotator": annotator, "created_at": created_at}
    return any(all(getattr(row, name) == said[name] for name in said) for row in session.scalars(_STORED_LABELS, key))


def _inherited_fields(session: Session, clip_id: int, label: dict) -> dict:
    """Return what a row that corrects the annotator's current label says nothing about, as it is there.

    What described the answer itself (how strong, how long, whether blind) stays only with the same answer.
    """
    annotator, values = check_label(**label)
    key = {"clip_id": clip_id, "annotator": annotator, "created_at": None}
    for row in session.scalars(_STORED_LABELS, key):
        newer = values["created_at"] is None or values["created_at"] >= row.created_at
        if newer and all(getattr(row, name) == values[name] for name in ("target", "start_s", "end_s")):
            same = (row.emotions, row.outcome) == (values["emotions"], values["outcome"])
            kept = _INHERITED_BY_SEGMENT + (_INHERITED_BY_SAME_ANSWER if same else ())
            return {name: value for name in kept if name not in label and (value := getattr(row, name)) is not None}
    return {}


_INHERITED_BY_SEGMENT = ("transcript", "prediction_id", "item_id", "assignment_id")
_INHERITED_BY_SAME_ANSWER = ("confidence", "comment", *NUMBERS, "blind")
_ALWAYS_COMPARED = ("emotions", "outcome", "target", "start_s", "end_s")  # what a row that lacks them still says
_STORED_LABELS = (  # built once: putting a statement together takes longer than running it
    select(LabelRecord)
    .join(AnnotatorRecord, LabelRecord.annotator_id == AnnotatorRecord.id)
    .outerjoin(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
    .where(LabelRecord.clip_id == bindparam("clip_id"), AnnotatorRecord.name == bindparam("annotator"))
    .where(CurrentLabelRecord.label_id.is_not(None) | (LabelRecord.created_at == bindparam("created_at")))
)
