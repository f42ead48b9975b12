"""Media import: a folder, a table of clips or a Hugging Face dataset folder becomes clips, utterances and items.

Clips are registered where they lie, or copied in with the consent of the recorded people. A table is a manifest (`path,
text, start, end, label, speaker, ...`) as CSV, JSONL or parquet; `file_name` stands for `path` and `transcription` for
`text`, as datasets name them (https://huggingface.co/docs/datasets/audio_dataset). Its labels are not those of
annotators and are not imported.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.clip_files import ClipFiles
from annotations.db.schema import ClipRecord, PredictionRecord
from annotations.formats.import_export import clip_files, rows_before_damage
from annotations.formats.label_row import words_hash
from annotations.formats.text_table import METADATA_TABLES, open_table, open_text, read_jsonl
from annotations.label import check_segment
from annotations.media_file import ENDINGS, check_media, content_hash, ending_of
from annotations.queue.projects import Project, add_items, create, project, projects
from annotations.store import Store
from annotations.text import check_text
from mmer.errors import LabelError

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
    left_out: list[str] = field(default_factory=list)  # files of a folder that are no media, or that its table misses


@dataclass(frozen=True)
class _Row:
    path: Path | None  # None: only words
    name: str = ""  # of the file, where it lies under another
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
    media_root: Path | None = None,
    allow_outside: bool = False,
    progress: Callable[[Iterable], Iterable] = iter,
) -> MediaImportReport:
    """Put a folder's or a table's clips in the queue of a project; rows that cannot be are named in the report.

    Args:
        source: a folder of media, a dataset folder with metadata, or a CSV, JSONL or parquet table.
        consent_text: what the recorded people agreed to: the media is copied in; without it, registered where it lies.
        media_root: the folder whose files may be registered (default: the source's).
        allow_outside: files outside of it may be registered too: for a table whose maker one trusts.

    Raises:
        LabelError: `no_file, no_media, missing_column, bad_file, embedded_media`: the source as a whole cannot be used;
            where rows before were read, the report has it.
    """
    report = MediaImportReport()
    source = Path(source)
    files = clip_files(store, source, media_root=media_root, allow_outside=allow_outside)
    reader = _Source(files, report, store.media_dir if consent_text else None)
    batch: list[tuple[str, _Row, str]] = []
    try:
        for place, row in progress(rows_before_damage(reader.rows(source))):
            try:
                if isinstance(row, LabelError):
                    raise row
                sha256 = content_hash(row.path) if row.path else words_hash(row.text or "")
                if consent_text and row.path:  # before the transaction: copying would keep writers waiting
                    _register(store, row, sha256, consent_text=consent_text)
                batch.append((place, row, sha256))
            except LabelError as error:
                _record_bad_row(report, place, error)
            if len(batch) == BATCH:
                _store(store, project, batch, not consent_text, report)
                batch = []
        _store(store, project, batch, not consent_text, report)
    finally:
        reader.close()
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
    name = row.name or (row.path.name if row.path else (row.text or "")[:60])
    return store.register_clip(
        row.path,
        sha256,
        name=name,
        speaker=row.speaker,
        source="import",
        consent_text=consent_text,
        in_place=in_place,
        words=row.text,
        session=session,
    )


def _record_bad_row(report: MediaImportReport, place: str, error: LabelError) -> None:
    if error.code == "database_unavailable":
        raise error  # not the row's fault
    report.bad.append(f"{place}: {error.code}: {error.message}")


class _Source:
    """What a folder or a table holds, row by row.

    Args:
        files: finds the clips.
        report: gets the files that are left out.
        media_dir: where media that a table holds itself is laid down on its way in; None: such a table is refused.
    """

    def __init__(self, files: ClipFiles, report: MediaImportReport, media_dir: Path | None):
        self._files, self._report, self._media_dir = files, report, media_dir
        self._laid_down: Path | None = None

    def close(self) -> None:
        if self._laid_down:
            self._laid_down.unlink(missing_ok=True)

    def rows(self, source: Path) -> Iterator[tuple[str, _Row | LabelError]]:
        if source.is_file():
            yield from self._table(source)
        elif not source.is_dir():
            raise LabelError("no_file", f"{source} does not exist; {_WORKS} is needed")
        elif tables := sorted(path for name in METADATA_TABLES for path in source.rglob(name)):
            named: set[Path] = set()
            for table in tables:
                for place, row in self._table(table):
                    named.update([row.path.resolve()] if isinstance(row, _Row) and row.path else [])
                    yield place, row
            unnamed = [path for path in _visible(source) if path.resolve() not in named and path not in tables]
            self._report.left_out += [str(path.relative_to(source)) for path in unnamed]
        else:
            yield from self._folder(source)

    def _folder(self, folder: Path) -> Iterator[tuple[str, _Row | LabelError]]:
        n_media = 0
        for path in _visible(folder):
            inside = str(path.relative_to(folder))
            if path.suffix.lower() in ENDINGS:
                n_media += 1
                yield inside, self._checked(_Row(path))
            else:
                self._report.left_out.append(inside)
        if not n_media:
            tables = ", ".join(METADATA_TABLES)
            raise LabelError("no_media", f"{folder} holds no video, sound or picture, and none of {tables}")

    def _table(self, file: Path) -> Iterator[tuple[str, _Row | LabelError]]:
        read = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}.get(file.suffix.lower())
        if read is None:
            raise LabelError("bad_file", f"{file} is no table; {_WORKS} is needed")
        name = f"{file.parent.name}/{file.name}" if file.name in METADATA_TABLES else file.name
        try:
            for line, cells in read(file):
                try:
                    row = cells if isinstance(cells, LabelError) else self._checked(self._parse(cells, file))
                except LabelError as error:
                    if error.code == "embedded_media":
                        raise  # every row has it
                    row = error
                yield f"{name} {line}", row
        except (OSError, ValueError, csv.Error) as error:
            raise LabelError("bad_file", f"{file} cannot be read: {str(error).splitlines()[0]}") from None

    def _parse(self, cells: dict, table: Path) -> _Row:
        held = [value for value in cells.values() if isinstance(value, dict) and {"bytes", "path"} <= value.keys()]
        values = {
            name.strip().lower(): "" if value is None else str(value).strip()
            for name, value in cells.items()
            if not isinstance(value, dict | list | bytes)
        }
        columns = (*PATHS, *(name for name in values if name.endswith("_file_name")))
        linked = (value["path"] for value in held if not value["bytes"])
        name = next(filter(None, (*map(values.get, columns), *linked)), "")
        text = next((values[name] for name in TEXTS if values.get(name)), "")
        start, end = (_seconds(values.get(name) or values.get(f"{name}_s") or "", name) for name in ("start", "end"))
        for value in (name, text):
            check_text(value, "row")
        media = next((value for value in held if value["bytes"]), None)
        path = self._lay_down(media["bytes"], media["path"] or "", table) if media else None
        if media:
            name = re.split(r"[/\\]", media["path"] or "")[-1] or "clip"
        elif name:  # a table of a dataset may lie deeper than the folder that is imported
            path = self._files.find(str(table.parent / name)) or self._files.find(name) or table.parent / name
        return _Row(path, name if media else "", text or None, start, end, values.get("speaker", ""))

    def _lay_down(self, content: bytes, name: str, table: Path) -> Path:
        """Write out what a parquet file holds itself, as `datasets` saves sound and pictures with their bytes.

        Under its hash in the media folder: should the process die here, `vacuum` finds it.
        """
        if self._media_dir is None:
            raise LabelError(
                "embedded_media", f"{table} holds its media itself; --copy --consent TEXT takes it in with the words"
            )
        self.close()
        self._media_dir.mkdir(parents=True, exist_ok=True)
        ending = Path(name).suffix.lower() or ending_of(content)
        self._laid_down = self._media_dir / f".{hashlib.sha256(content).hexdigest()}{ending}"
        self._laid_down.write_bytes(content)
        return self._laid_down

    def _checked(self, row: _Row) -> _Row | LabelError:
        if row.path is None:
            return row if row.text else LabelError("empty_row", "neither path nor text is given")
        try:
            if not row.path.is_file():
                return LabelError("no_file", f"{row.path} does not exist")
            if row.path == self._laid_down:
                check_media(row.path)
            else:
                self._files.check(row.path)
            check_segment(row.start_s, row.end_s)
            self._files.check_end(row.path, row.end_s)
        except LabelError as error:
            return error
        except OSError as error:  # a name longer than the file system takes
            return LabelError("no_file", f"cannot read it: {error.strerror}")
        return row


def _visible(folder: Path) -> list[Path]:
    """Return the files in a folder and the folders in it, but for hidden ones."""
    paths = sorted(folder.rglob("*"))
    return [
        path
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]


def _csv(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    with open_table(file, _COLUMNS) as table:
        if not {*PATHS, *TEXTS} & set(table.columns) and not any(name.endswith("_file_name") for name in table.columns):
            _refuse_columns(file, table.columns)
        yield from ((f"line {line}", row) for line, row in table.rows)


def _jsonl(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    with open_text(file) as stream:
        yield from ((f"line {number}", row) for number, row in read_jsonl(stream))


def _parquet(file: Path) -> Iterator[tuple[str, dict | LabelError]]:
    import pyarrow as pa  # takes half a second that only this format is worth
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pa.ArrowException as error:
        raise LabelError("bad_file", f"{file} is no parquet: {str(error).splitlines()[0]}") from None
    with table:
        schema = table.schema_arrow
        held = [f.name for f in schema if pa.types.is_struct(f.type) and {"bytes", "path"} <= {g.name for g in f.type}]
        wanted = [name for name in schema.names if name.strip().lower() in _COLUMNS or name.endswith("_file_name")]
        if not held and not {*PATHS, *TEXTS} & {name.strip().lower() for name in wanted}:
            _refuse_columns(file, schema.names)
        number, parts = 0, table.iter_batches(batch_size=1 if held else 1000, columns=[*wanted, *held])
        while True:
            try:
                rows = next(parts).to_pylist()
            except StopIteration:
                return
            except (pa.ArrowException, OverflowError) as error:
                raise LabelError("bad_file", f"{file} is damaged: {str(error).splitlines()[0]}") from None
            for cells in rows:
                number += 1
                yield f"row {number}", cells


def _refuse_columns(file: Path, names: Iterable[str]) -> NoReturn:
    raise LabelError(
        "missing_column",
        f"{file} has the columns {', '.join(names) or 'none'}; path (or file_name) or text is needed",
    )


def _seconds(value: str, name: str) -> float | None:
    try:
        return float(value) if value else None
    except ValueError:
        raise LabelError("bad_segment", f"{name} {value!r} is not a number of seconds") from None
