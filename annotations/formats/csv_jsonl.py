"""Labels as CSV, which holds the eight columns, and as JSONL, which holds all of a label.

CSV is read with extra columns too: intensity, valence, arousal, lead_time_s, blind, transcript. A row without a clip
may have a sentence under text instead, which then is the clip.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from annotations.clip_files import ClipFiles
from annotations.formats.atomic_write import new_file
from annotations.formats.label_row import COLUMNS, DETAILS, FIELDS, REQUIRED, TASK_TEXT, to_row
from annotations.formats.text_table import open_table, open_text, read_jsonl
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


def read_csv(file: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield each row with where it stands, or what is wrong with it.

    Raises:
        LabelError: `missing_column`, `duplicate_column`, `unreadable_file`.
    """
    with open_table(file, (*COLUMNS, *DETAILS, TASK_TEXT)) as table:
        instead = {"clip": TASK_TEXT}
        if missing := [n for n in REQUIRED if not {n, instead.get(n, n)} & set(table.columns)]:
            raise LabelError("missing_column", f"{file} has no column {', '.join(missing)}; {table.described()}")
        for line, row in table.rows:
            if isinstance(row, LabelError):
                yield f"line {line}", row
            else:
                yield f"line {line}", {**row, "transcript": row.get("transcript") or None}  # CSV has no null


def read_jsonl_labels(file: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield each object with where it stands, or what is wrong with it."""
    with open_text(file) as stream:
        yield from ((f"line {line}", row) for line, row in read_jsonl(stream))


def _with_fragment(label: Label) -> dict:
    row = to_row(label)
    if label.start_s is not None:
        row["clip"] += f"#t={row.pop('start_s')!r},{row.pop('end_s')!r}"
    return row
