"""Media import: a folder, a table of clips or a Hugging Face dataset folder becomes clips, utterances and items.

Clips are registered where they lie, or copied in with the consent of the recorded people. A table is a manifest (`path,
text, start, end, label, speaker, ...`) as CSV, JSONL or parquet; `file_name` stands for `path` and `transcription` for
`text`, as datasets name them (https://huggingface.co/docs/datasets/audio_dataset). Its labels are not those of
annotators and are not imported.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.db.schema import ClipRecord, PredictionRecord
from annotations.formats.label_row import content_hash
from annotations.label import check_segment
from annotations.queue.projects import Project, add_items, create, project, projects
from annotations.store import Store
from annotations.text import check_text
from mmer.errors import LabelError

MEDIA = frozenset(
    f".{ending}"
    for ending in (
        *("mp4", "webm", "mov", "mkv", "avi", "m4v", "mpg", "mpeg", "ts", "flv", "3gp", "wmv"),
        *("wav", "flac", "mp3", "m4a", "aac", "ogg", "opus", "aiff", "caf", "amr"),
        *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"),
    )
)
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of a dataset folder, one in each split's folder
PATHS, TEXTS = ("path", "file_name", "clip"), ("text", "transcription", "transcript")
_COLUMNS = (*PATHS, *TEXTS, "start", "end", "start_s", "end_s", "speaker")
_PREDICTION = ("sha256", "emotion", "probs", "present", "checkpoint")
_WORKS = "a folder of media, or a CSV, JSONL or parquet table of clips,"
BATCH = 200  # rows a transaction: the disk is waited for once, and other writers wait for one batch at most


@dataclass
class MediaImportReport:
    """What became of each row."""

    items: int = 0  # new ones
    present: int = 0  # there already: taking a folder in again adds nothing
    bad: list[str] = field(default_factory=list)  # "clips.csv line 3: no_file: ..."


@dataclass(frozen=True)
class _Row:
    path: Path | None  # None: only words
    text: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    speaker: str = ""


def import_media(
    store: Store,
    project: Project,
    source: Path,
    *,
    consent_text: str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> MediaImportReport:
    """Put a folder's or a table's clips in the queue of a project; rows that cannot be are named in the report.

    Args:
        source: a folder of media, a dataset folder with metadata, or a CSV, JSONL or parquet table.
        consent_text: what the recorded people agreed to: the media is copied in; without it, registered where it lies.

    Raises:
        LabelError: `no_file, no_media, missing_column, bad_file`: the source as a whole cannot be used.
    """
    report = MediaImportReport()
    batch: list[tuple[str, _Row, str]] = []
    for place, row in progress(_rows(Path(source))):
        try:
            if isinstance(row, LabelError):
                raise row
            sha256 = content_hash(row.path) if row.path else hashlib.sha256((row.text or "").encode()).hexdigest()
            if consent_text and row.path:  # before the transaction: copying would keep writers waiting
                _register(store, row, sha256, consent_text=consent_text)
            batch.append((place, row, sha256))
        except LabelError as error:
            _record_bad_row(report, place, error)
        if len(batch) == BATCH:
            _store(store, project, batch, not consent_text, report)
            batch = []
    _store(store, project, batch, not consent_text, report)
    return report


def import_kept_clips(store: Store, name: str, *, actor: str) -> int:
    """Put every clip whose media is kept or registered here in a project, new or not; return how many are new in it."""
    if name not in {project.name for project in projects(store)}:
        create(store, name, actor=actor)
    chosen = project(store, name)
    with store.writing() as session:
        query = select(ClipRecord.id).where(ClipRecord.media.is_not(None) | ClipRecord.path.is_not(None))
        utterances = [
            store.utterance(clip_id, session=session) for clip_id in session.scalars(query.order_by(ClipRecord.id))
        ]
        return add_items(store, chosen, utterances, session)


def import_predictions(
    store: Store, file: Path, *, progress: Callable[[Iterable], Iterable] = iter
) -> MediaImportReport:
    """Store what `python -m mmer analyse --out FILE` found about clips that are on record.

    Raises:
        LabelError: `no_file`, `bad_file`.
    """
    if not file.is_file():
        raise LabelError("no_file", f"{file} does not exist; what `python -m mmer analyse --out FILE` wrote is needed")
    report = MediaImportReport()
    for line, result in progress(_jsonl(file)):
        try:
            if isinstance(result, LabelError):
                raise result
            if missing := [name for name in _PREDICTION if not result.get(name)]:
                raise LabelError(
                    "no_prediction", f"it has no {', '.join(missing)}: {result.get('error') or 'not analysed'}"
                )
            with store.reading() as session:
                clip_id = session.scalar(select(ClipRecord.id).filter_by(sha256=result["sha256"]))
                there = select(PredictionRecord.id).filter_by(clip_id=clip_id, checkpoint=result["checkpoint"])
                there = session.scalar(there.where(PredictionRecord.start_s.is_(None)))
            if clip_id is None:
                raise LabelError("unknown_clip", f"{result.get('clip')} is not on record; import it first")
            if there is None:
                store.add_prediction(clip_id, result)
            report.items += there is None
            report.present += there is not None
        except LabelError as error:
            _record_bad_row(report, f"{file.name} {line}", error)
    return report


def _store(store: Store, project: Project, batch: list, in_place: bool, report: MediaImportReport) -> None:
    with store.writing() as session:
        utterances = []
        for place, row, sha256 in batch:
            try:
                with session.begin_nested():
                    clip_id = _register(store, row, sha256, in_place=in_place, session=session)
                    utterance = store.utterance(clip_id, row.start_s, row.end_s, transcript=row.text, session=session)
                utterances.append(utterance)
            except LabelError as error:
                _record_bad_row(report, place, error)
        new = add_items(store, project, utterances, session=session)
    report.items += new
    report.present += len(utterances) - new


def _register(
    store: Store,
    row: _Row,
    sha256: str,
    *,
    consent_text: str | None = None,
    in_place: bool = False,
    session: Session | None = None,
) -> int:
    name = row.path.name if row.path else (row.text or "")[:60]
    return store.register_clip(
        row.path,
        sha256,
        name=name,
        speaker=row.speaker,
        source="import",
        consent_text=consent_text,
        in_place=in_place,
        session=session,
    )


def _record_bad_row(report: MediaImportReport, place: str, error: LabelError) -> None:
    if error.code == "database_unavailable":
        raise error  # not the row's fault
    report.bad.append(f"{place}: {error.code}: {error.message}")


def _rows(source: Path) -> Iterator[tuple[str, _Row | LabelError]]:
    if source.is_file():
        yield from _table(source)
    elif not source.is_dir():
        raise LabelError("no_file", f"{source} does not exist; {_WORKS} is needed")
    elif tables := sorted(path for name in TABLES for path in source.rglob(name)):
        for table in tables:
            yield from _table(table)
    else:
        yield from _folder(source)


def _folder(folder: Path) -> Iterator[tuple[str, _Row | LabelError]]:
    found = False
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() in MEDIA and not any(part.startswith(".") for part in inside.parts) and path.is_file():
            found = True
            yield str(inside), _checked(_Row(path))
    if not found:
        raise LabelError("no_media", f"{folder} holds no video, sound or picture, and none of {', '.join(TABLES)}")


def _table(file: Path) -> Iterator[tuple[str, _Row | LabelError]]:
    read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}.get(file.suffix.lower())
    if read is None:
        raise LabelError("bad_file", f"{file} is no table; {_WORKS} is needed")
    name = f"{file.parent.name}/{file.name}" if file.name in TABLES else file.name
    try:
        for line, cells in read(file):
            try:
                row = cells if isinstance(cells, LabelError) else _checked(_parse(cells, file.parent))
            except LabelError as error:
                row = error
            yield f"{name} {line}", row
    except (OSError, ValueError, csv.Error) as error:
        raise LabelError("bad_file", f"{file} cannot be read: {str(error).splitlines()[0]}") from None


def _csv(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or ()
        _require_columns(file, columns)
        for cells in reader:
            fits = None not in cells and None not in cells.values()
            problem = LabelError("bad_row", f"its values do not fit the {len(columns)} columns")
            yield f"line {reader.line_num}", cells if fits else problem


def _jsonl(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except ValueError as error:
                cells = LabelError("bad_row", f"not JSON: {error}")
            yield (
                f"line {number}",
                cells if isinstance(cells, dict | LabelError) else LabelError("bad_row", "no object"),
            )


def _parquet(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    from pyarrow import ArrowInvalid, parquet  # takes half a second that only this format is worth

    try:
        table = parquet.ParquetFile(file)
    except ArrowInvalid as error:
        raise LabelError("bad_file", f"{file} is no parquet: {str(error).splitlines()[0]}") from None
    with table:
        _require_columns(file, table.schema_arrow.names)
        wanted = [name for name in table.schema_arrow.names if name in _COLUMNS]
        number = 0
        for part in table.iter_batches(batch_size=1000, columns=wanted):
            for cells in part.to_pylist():
                number += 1
                yield f"row {number}", cells


def _require_columns(file: Path, names: Iterable[str]) -> None:
    if not {*PATHS, *TEXTS} & set(names):
        raise LabelError(
            "missing_column",
            f"{file} has the columns {', '.join(names) or 'none'}; path (or file_name) or text is needed",
        )


def _parse(cells: dict, folder: Path) -> _Row:
    values = {name.strip(): "" if cells[name] is None else str(cells[name]).strip() for name in cells}
    path = next((values[name] for name in PATHS if values.get(name)), "")
    text = next((values[name] for name in TEXTS if values.get(name)), "")
    start, end = (_seconds(values.get(name) or values.get(f"{name}_s") or "", name) for name in ("start", "end"))
    for value in (path, text):
        check_text(value, "row")
    return _Row(folder / path if path else None, text or None, start, end, values.get("speaker", ""))


def _checked(row: _Row) -> _Row | LabelError:
    if row.path is None:
        return row if row.text else LabelError("empty_row", "neither path nor text is given")
    try:
        if not row.path.is_file():
            return LabelError("no_file", f"{row.path} does not exist")
        if row.path.suffix.lower() not in MEDIA:
            return LabelError("not_media", f"{row.path.name} is no video, sound or picture by its ending")
        if row.path.stat().st_size == 0:
            return LabelError("empty_file", f"{row.path.name} holds nothing")
        check_segment(row.start_s, row.end_s)
    except (OSError, LabelError) as error:  # a name longer than the file system takes
        return error if isinstance(error, LabelError) else LabelError("no_file", f"cannot read it: {error.strerror}")
    return row


def _seconds(value: str, name: str) -> float | None:
    try:
        return float(value) if value else None
    except ValueError:
        raise LabelError("bad_segment", f"{name} {value!r} is not a number of seconds") from None
