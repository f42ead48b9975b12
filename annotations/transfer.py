"""Labels in and out of the store as CSV and JSONL rows of the same eight columns.

`clip` is the path of a clip registered where it lies, else its sha256; a segment follows as a media fragment
(`interview.mp4#t=1.5,3.25`, https://www.w3.org/TR/media-frags/). `label` is an emotion, several with weights
(`anger=0.7;fear=0.3`), or skip, cannot_tell, broken. JSONL also has `transcript` where an annotator corrected it.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.label import Label, check_label, check_text, is_current
from annotations.schema import OUTCOMES, AnnotatorRecord, LabelRecord
from annotations.store import Store
from mmer.errors import LabelError

FORMATS = ("csv", "jsonl")
COLUMNS = ("clip", "label", "annotator", "target", "confidence", "comment", "created_at", "speaker")
REQUIRED = COLUMNS[:3]
BATCH = 200  # rows per transaction: the disk is waited for once, and other writers wait for one batch at most


@dataclass
class ImportReport:
    """What became of each row."""

    imported: int = 0
    present: int = 0  # stored already: importing a file again adds nothing
    bad: list[str] = field(default_factory=list)  # "labels.csv line 3: unknown_label: ..."


def import_labels(
    store: Store,
    file: Path,
    format: str,
    *,
    consent_text: str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> ImportReport:
    """Add a file's labels; good rows go in, bad ones are named in the report.

    Args:
        consent_text: takes the media in under this consent; without it clips are registered where they lie.

    Raises:
        LabelError: `unreadable_file`, `missing_column`: nothing was imported then.
    """
    report = ImportReport()
    hashes: dict[Path, str] = {}
    try:
        stream = file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise LabelError("unreadable_file", f"cannot read {file}: {error.strerror}") from None
    with stream:
        rows = iter(progress(_read_csv(stream) if format == "csv" else _read_jsonl(stream)))
        while batch := list(islice(rows, BATCH)):
            parsed = []
            for line, row in batch:
                with _naming(report, file, line):
                    clip, label = _parse(row, file.parent, hashes)
                    if consent_text and clip["path"]:  # before the transaction: copying would keep writers waiting
                        store.register_clip(**clip, consent_text=consent_text)
                    parsed.append((line, clip | {"in_place": not consent_text}, label))
            with store.writing() as session:
                for line, clip, label in parsed:
                    with _naming(report, file, line), session.begin_nested():
                        clip_id = store.register_clip(**clip, session=session)
                        if _is_present(session, clip_id, label):
                            report.present += 1
                        else:
                            store.add_label(clip_id, **label, session=session)
                            report.imported += 1
    return report


def export_labels(
    store: Store, out: Path, format: str, *, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[int, int]:
    """Write the current labels, all or none; return how many, and how many corrected transcripts CSV had no place for."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    n_labels = n_left_out = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
            if format == "csv":
                table.writeheader()
            for label in progress(store.labels(OUTCOMES)):
                if format == "csv":
                    table.writerow(_row(label))
                    n_left_out += label.transcript is not None
                else:
                    stream.write(json.dumps(_row(label), ensure_ascii=False) + "\n")
                n_labels += 1
        os.replace(temporary, out)
    except OSError as error:
        raise LabelError("unwritable_file", f"cannot write {out}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return n_labels, n_left_out


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise LabelError("clip_unreadable", f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


@contextmanager
def _naming(report: ImportReport, file: Path, line: int) -> Iterator[None]:
    """Enter a row's LabelError in the report and go on."""
    try:
        yield
    except LabelError as error:
        if error.code == "database_unavailable":
            raise  # not the row's fault
        report.bad.append(f"{file.name} line {line}: {error.code}: {error.message}")


def _read_csv(stream) -> Iterator[tuple[int, dict | LabelError]]:
    reader = csv.reader(stream)
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in REQUIRED if name not in header]:
        raise LabelError(
            "missing_column", f"{stream.name} has no column {', '.join(missing)}; its first line must name the columns"
        )
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, LabelError("bad_row", f"not CSV: {error}")
            continue
        if len(values) == len(header):
            yield reader.line_num, dict(zip(header, values, strict=True))
        elif values:
            yield reader.line_num, LabelError("bad_row", f"{len(values)} values for {len(header)} columns")


def _read_jsonl(stream) -> Iterator[tuple[int, dict | LabelError]]:
    for line, text in enumerate(stream, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            row = LabelError("bad_row", f"not JSON: {error}")
        yield line, row if isinstance(row, dict | LabelError) else LabelError("bad_row", "not a JSON object")


def _parse(row: dict | LabelError, folder: Path, hashes: dict[Path, str]) -> tuple[dict, dict]:
    """Return the arguments of `register_clip` and of `add_label`, checked."""
    if isinstance(row, LabelError):
        raise row
    values = {name: _text(row.get(name), name) for name in COLUMNS if name != "label"}
    label = {
        "annotator": values["annotator"],
        "target": values["target"].strip() or "all",
        "confidence": _number(values["confidence"], "confidence") if values["confidence"].strip() else None,
        "comment": values["comment"],
        "transcript": _text(row["transcript"], "transcript") if row.get("transcript") is not None else None,
        "created_at": _time(values["created_at"].strip()),
        **_emotions(row.get("label")),
    }
    path, sha256, segment = _clip(values["clip"].strip(), folder, hashes)
    label |= segment
    check_label(**label)
    name = path.name if path else sha256[:12]
    return {"path": path, "sha256": sha256, "name": name, "speaker": values["speaker"], "source": "import"}, label


def _text(value, column: str) -> str:
    if value is None or isinstance(value, bool | list | dict):
        if value is None:
            return ""
        raise LabelError("bad_value", f"{column} is {value!r}; text or a number is needed")
    return str(value)


def _number(value: str, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise LabelError(f"bad_{column}", f"{column} {value!r} is not a number") from None


def _time(value: str) -> datetime | None:
    if not value:
        return None
    try:
        time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
    except ValueError:
        raise LabelError("bad_time", f"time {value!r} is not ISO 8601, as in 2026-03-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _emotions(value) -> dict:
    if isinstance(value, dict):
        return {"emotions": value}
    value = _text(value, "label").strip()
    if value.lower() in OUTCOMES[1:]:
        return {"outcome": value.lower()}
    if "=" in value:
        pairs = [part.partition("=") for part in value.split(";")]
        return {"emotions": {name: _number(weight, "weight") for name, _, weight in pairs}}
    if not value:
        raise LabelError("no_label", "the label is empty; name an emotion, or skip, cannot_tell, broken")
    return {"emotions": value}


def _clip(value: str, folder: Path, hashes: dict[Path, str]) -> tuple[Path | None, str, dict]:
    """Return path (None for a bare hash), sha256 and segment."""
    fragment = re.fullmatch(r"(.+)#t=([\d.]+),([\d.]+)", value)
    segment = {}
    path = _find(value, folder)
    if fragment and not path:
        value = fragment[1]
        segment = {"start_s": _number(fragment[2], "segment"), "end_s": _number(fragment[3], "segment")}
        path = _find(value, folder)
    if path is None and re.fullmatch("[0-9a-fA-F]{64}", value):
        return None, value.lower(), segment
    if path is None:
        raise LabelError("clip_not_found", f"no clip {value!r} in {folder} or here, and it is not a sha256")
    if path not in hashes:
        hashes[path] = content_hash(path)
    return path, hashes[path], segment


def _find(value: str, folder: Path) -> Path | None:
    """Return the file, sought beside the table first and then in the working directory."""
    try:
        check_text(value, "clip")
        return next((path for path in (folder / value, Path(value)) if path.is_file()), None)
    except OSError:  # a name longer than the file system takes
        return None


def _is_present(session: Session, clip_id: int, label: dict) -> bool:
    """Whether this very label is stored: at its own time, or as the current one when the row has no time."""
    annotator, values = check_label(**label)
    created_at = values.pop("created_at")
    if values["transcript"] is None:
        del values["transcript"]  # a row without one says nothing about it
    query = (
        select(LabelRecord)
        .join(AnnotatorRecord, LabelRecord.annotator_id == AnnotatorRecord.id)
        .where(LabelRecord.clip_id == clip_id, AnnotatorRecord.name == annotator)
        .where(*([LabelRecord.created_at == created_at] if created_at else is_current()))
    )
    return any(all(getattr(row, name) == values[name] for name in values) for row in session.scalars(query))


def _row(label: Label) -> dict:
    clip = str(label.media) if label.in_place else label.sha256
    if label.start_s is not None:
        clip += f"#t={label.start_s!r},{label.end_s!r}"
    emotions = label.emotions
    row = {
        "clip": clip,
        "label": ";".join(emotions if len(emotions) == 1 else (f"{name}={emotions[name]!r}" for name in emotions))
        or label.outcome,
        "annotator": label.annotator,
        "target": label.target,
        "confidence": label.confidence,
        "comment": label.comment,
        "created_at": label.created_at.isoformat(),
        "speaker": label.speaker,
    }
    return row if label.transcript is None else row | {"transcript": label.transcript}
