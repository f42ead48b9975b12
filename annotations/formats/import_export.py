"""Labels in and out of the store, in every format.

CSV and JSONL, Label Studio's JSON, a folder that is a Hugging Face dataset, and ELAN's EAF and WebVTT with one file per
clip in a folder. An export holds the current labels, not those they replaced.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from annotations.choices import FORMATS
from annotations.clip_files import ClipFiles
from annotations.db.schema import OUTCOMES, ClipRecord, CurrentLabelRecord, LabelRecord
from annotations.formats import csv_jsonl, elan, huggingface, labelstudio_export, labelstudio_import, webvtt
from annotations.formats.label_row import FIELDS, NUMBERS, ParsedRow, RowReader, is_set
from annotations.formats.text_table import METADATA_TABLES
from annotations.label import Label, check_label
from annotations.media_file import content_hash
from annotations.store import Store, find_annotator
from mmer.errors import LabelError

__all__ = ["FORMATS", "ExportReport", "ImportReport", "content_hash", "export_labels", "format_of", "import_labels"]

ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".json": "labelstudio", ".eaf": "elan", ".vtt": "webvtt"}
_FOLDERS = {".eaf": "elan", ".vtt": "webvtt"}  # formats of one file per clip
_READERS = {
    "csv": csv_jsonl.read_csv,
    "jsonl": csv_jsonl.read_jsonl_labels,
    "labelstudio": labelstudio_import.read,
    "hf": huggingface.read,
    "elan": elan.read,
    "webvtt": webvtt.read,
}
Row = TypeVar("Row")
BATCH = 200  # rows per transaction: the disk is waited for once, and other writers wait for one batch at most


@dataclass
class ImportReport:
    """What became of each row."""

    imported: int = 0
    present: int = 0  # stored already: importing a file again adds nothing
    bad: list[str] = field(default_factory=list)  # "labels.csv line 3: unknown_label: ..."
    left_out: Counter[str] = field(default_factory=Counter)  # {"scene": 3}: what a label has no place for
    notes: Counter[str] = field(default_factory=Counter)  # {"impossible lead time dropped": 2}: of rows that went in


@dataclass
class ExportReport:
    """What was written."""

    labels: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # {"transcript": 3}: what the format has no place for


def format_of(file: Path) -> str:
    """Return the format that a file or a folder looks like.

    Raises:
        LabelError: `unknown_format`.
    """
    if file.is_dir():
        if any(next(file.rglob(name), None) for name in METADATA_TABLES):
            return "hf"
        endings = {path.suffix.lower() for path in file.iterdir()}
        if found := next((format for ending, format in _FOLDERS.items() if ending in endings), None):
            return found
        raise LabelError(
            "unknown_format",
            f"{file} is a folder without {', '.join((*_FOLDERS, *METADATA_TABLES))}; name a file of labels, or say "
            "--project NAME to take its clips in",
        )
    if file.suffix.lower() not in ENDINGS:
        raise LabelError("unknown_format", f"{file} ends in none of {', '.join(ENDINGS)}; say --format")
    return ENDINGS[file.suffix.lower()]


def import_labels(
    store: Store,
    file: Path,
    format: str,
    *,
    consent_text: str | None = None,
    media_root: Path | None = None,
    allow_outside: bool = False,
    progress: Callable[[Iterable], Iterable] = iter,
) -> ImportReport:
    """Add the labels of a file or folder; good rows go in, bad ones are named in the report.

    Args:
        consent_text: takes the media in under this consent; without it clips are registered where they lie.
        media_root: the folder whose files may be registered (default: where the file lies).
        allow_outside: files outside of it may be registered too: for a file whose maker one trusts.

    Raises:
        LabelError: `unreadable_file`, `missing_column`: nothing was imported then; where rows before were read, the
            report has it.
    """
    report = ImportReport()
    files = clip_files(store, file, media_root=media_root, allow_outside=allow_outside)
    reader = RowReader(files, report.notes)
    rows = iter(progress(rows_before_damage(_read(file, format, files, report))))
    while batch := list(islice(rows, BATCH)):
        parsed = []
        for where, row in batch:
            with _recording_bad_row(report, file, where):
                one = reader.parse(row)
                if consent_text and one.clip["path"]:  # before the transaction: copying would keep writers waiting
                    said = one.words or one.label.get("transcript")
                    store.register_clip(**one.clip, consent_text=consent_text, words=said)
                parsed.append((where, one))
        _add(store, file, parsed, not consent_text, report)
    return report


def clip_files(store: Store, source: Path, *, media_root: Path | None, allow_outside: bool) -> ClipFiles:
    """Return the finder of the clips that an import names; its own export may name what the store registered."""

    def is_registered(path: Path) -> bool:
        with store.reading() as session:
            return session.scalar(select(ClipRecord.id).filter_by(path=str(path)).limit(1)) is not None

    folder = source if source.is_dir() else source.parent
    private = (store.media_dir, store.features_dir, store.uploads_dir)
    return ClipFiles(folder, root=media_root, allow_outside=allow_outside, private=private, is_registered=is_registered)


def _add(store: Store, file: Path, parsed: list[tuple[str, ParsedRow]], in_place: bool, report: ImportReport) -> None:
    """Store a batch in one transaction."""
    with store.writing() as session:
        last = None  # the clip before, with its id: rows of one clip mostly follow each other
        for where, row in parsed:
            with _recording_bad_row(report, file, where), session.begin_nested():
                if last and last[0] == row.clip:
                    clip_id = last[1]
                else:
                    said = row.words or row.label.get("transcript")
                    clip_id = store.register_clip(**row.clip, in_place=in_place, words=said, session=session)
                if row.words:
                    store.utterance(clip_id, transcript=row.words, session=session)
                if _is_present(session, clip_id, row.label):
                    report.present += 1
                else:
                    inherited = _inherited_fields(session, clip_id, row.label)
                    store.add_label(clip_id, **inherited, **row.label, session=session)
                    report.imported += 1
                last = row.clip, clip_id  # not before: a bad row takes back the clip it registered


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


def rows_before_damage(rows: Iterable[tuple[str, Row | LabelError]]) -> Iterator[tuple[str, Row | LabelError]]:
    """Yield the rows of a source; one that turns out damaged after some of them ends with the error as a row.

    Readers look at a part at a time, so rows before are stored by then, and their report must not be lost.
    """
    last = None
    try:
        for last, row in rows:
            yield last, row
    except LabelError as error:
        if last is None:
            raise
        yield f"after {last}", error


def _read(file: Path, format: str, files: ClipFiles, report: ImportReport) -> Iterator[tuple[str, dict | LabelError]]:
    try:
        yield from _READERS[format](file, files, report.left_out)
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
    stated = {name: values[name] for name in values if name in label or name in _ALWAYS_COMPARED}
    created_at = stated.pop("created_at", None)
    return any(
        all(getattr(row, name) == stated[name] for name in stated)
        for row in _stored_labels(session, clip_id, annotator, created_at)
    )


def _inherited_fields(session: Session, clip_id: int, label: dict) -> dict:
    """Return what a row that corrects the annotator's current label says nothing about, as it is there.

    What described the answer itself (how strong, how long, whether blind) stays only with the same answer.
    """
    annotator, values = check_label(**label)
    for row in _stored_labels(session, clip_id, annotator):
        newer = values["created_at"] is None or values["created_at"] >= row.created_at
        if newer and all(getattr(row, name) == values[name] for name in ("target", "start_s", "end_s")):
            same = (row.emotions, row.outcome) == (values["emotions"], values["outcome"])
            kept = _INHERITED_BY_SEGMENT + (_INHERITED_BY_SAME_ANSWER if same else ())
            return {name: value for name in kept if name not in label and (value := getattr(row, name)) is not None}
    return {}


def _stored_labels(
    session: Session, clip_id: int, annotator: str, created_at: datetime | None = None
) -> Iterable[LabelRecord]:
    """Return an annotator's labels of a clip that are current or of the given time."""
    person = find_annotator(session, annotator)
    key = {"clip_id": clip_id, "annotator_id": person, "created_at": created_at}
    return () if person is None else session.scalars(_STORED_LABELS, key)


_INHERITED_BY_SEGMENT = ("transcript", "prediction_id", "item_id", "assignment_id")
_INHERITED_BY_SAME_ANSWER = ("confidence", "comment", *NUMBERS, "blind")
_ALWAYS_COMPARED = ("emotions", "outcome", "target", "start_s", "end_s")  # what a row that lacks them still says
_STORED_LABELS = (  # built once: putting a statement together takes longer than running it
    select(LabelRecord)
    .outerjoin(CurrentLabelRecord, CurrentLabelRecord.label_id == LabelRecord.id)
    .where(LabelRecord.clip_id == bindparam("clip_id"), LabelRecord.annotator_id == bindparam("annotator_id"))
    .where(CurrentLabelRecord.label_id.is_not(None) | (LabelRecord.created_at == bindparam("created_at")))
)
