"""Labels as CSV, which holds the eight columns, and as JSONL, which holds all of a label.

CSV is read with extra columns too: intensity, valence, arousal, lead_time_s, blind, transcript.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from annotations.formats.atomic_write import new_file
from annotations.formats.label_row import COLUMNS, DETAILS, FIELDS, REQUIRED, to_row
from annotations.label import Label
from mmer.errors import LabelError

SUPPORTED_FIELDS = {"csv": FIELDS - set(DETAILS), "jsonl": FIELDS}


def write(labels: Iterable[Label], out: Path, format: str) -> None:
    with new_file(out) as stream:
        table = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        if format == "csv":
            table.writeheader()
        for row in map(_with_fragment, labels):
            if format == "csv":
                table.writerow(row)
            else:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(file: Path, format: str) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield each row with where it stands, or what is wrong with it.

    Raises:
        LabelError: `missing_column`.
    """
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        for line, row in _read_csv(stream) if format == "csv" else _read_jsonl(stream):
            yield f"line {line}", row


def _with_fragment(label: Label) -> dict:
    row = to_row(label)
    if label.start_s is not None:
        row["clip"] += f"#t={row.pop('start_s')!r},{row.pop('end_s')!r}"
    return row


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
            row = dict(zip(header, values, strict=True))
            yield reader.line_num, row | {"transcript": row.get("transcript") or None}  # CSV has no null
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
