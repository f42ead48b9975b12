"""Tables as text, as spreadsheets and scripts save them: any usual separator, Unicode encoding and case of header."""

import csv
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mmer.errors import LabelError

METADATA_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of a dataset folder, one in each split's
SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(
    r'"?sep=([,;\t|:~^ ])"?\r?\n?', re.IGNORECASE
)  # Excel writes and reads it before the header
_NUMBERS = frozenset(
    ("confidence", "intensity", "valence", "arousal", "lead_time_s", "start_s", "end_s", "start", "end")
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx, ods; xls


@dataclass(frozen=True)
class Table:
    """A table that is open."""

    columns: tuple[str, ...]  # in lower case
    separator: str
    rows: Iterator[tuple[int, dict[str, str] | LabelError]]  # with the line each ends on

    def described(self) -> str:
        """Return what its first line was taken for, for an error about it."""
        between = {"\t": "tabs", ",": "commas"}.get(self.separator, repr(self.separator))
        return f"its first line names {', '.join(self.columns) or 'nothing'}, separated by {between}"


@contextmanager
def open_table(file: Path, wanted: Collection[str]) -> Iterator[Table]:
    """Open a table whose first line names its columns.

    Args:
        wanted: columns by which the separator is recognised.

    Raises:
        LabelError: `unreadable_file`, `duplicate_column`.
    """
    with open_text(file) as stream:
        first, n_before, separator = stream.readline(), 0, None
        if match := _SEPARATOR_LINE.fullmatch(first):
            separator, first, n_before = match[1], stream.readline(), 1
        stream.seek(0)
        for _ in range(n_before):
            stream.readline()
        separator = separator or max(
            SEPARATORS, key=lambda s: (len(set(wanted) & set(_names(first, s))), len(_names(first, s)))
        )
        reader = csv.reader(stream, delimiter=separator)
        try:
            columns = tuple(name.strip().lower() for name in next(reader, []))
        except csv.Error as error:
            raise LabelError("unreadable_file", f"{file} is not CSV: {error}") from None
        if twice := sorted({name for name in columns if name in wanted and columns.count(name) > 1}):
            raise LabelError("duplicate_column", f"{file} has the column {', '.join(twice)} more than once")
        yield Table(columns, separator, _rows(reader, columns, separator, n_before))


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """Open a text in UTF-8, UTF-16 or UTF-32; bytes that are no UTF-8 come as lone surrogates, for a row to be refused.

    Raises:
        LabelError: `unreadable_file`.
    """
    with file.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(_WORKBOOKS):
        raise LabelError("unreadable_file", f"{file} is a workbook of a spreadsheet; save the sheet as CSV")
    encoding = _encoding(head)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    with file.open(encoding=encoding, errors=errors, newline="") as text:
        yield text


def read_jsonl(stream: TextIO) -> Iterator[tuple[int, dict | LabelError]]:
    """Yield the object on each line with its number, or what is wrong with the line."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = LabelError("bad_row", f"not JSON: {error}")
        yield number, row if isinstance(row, dict | LabelError) else LabelError("bad_row", "not a JSON object")


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if head[1:2] == b"\0":  # without a mark: the first letter of a header is one of ASCII
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"


def _names(line: str, separator: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _rows(reader, columns: tuple[str, ...], separator: str, n_before: int) -> Iterator[tuple[int, dict | LabelError]]:
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num + n_before, LabelError("bad_row", f"not CSV: {error}")
            continue
        if len(values) == len(columns):
            row = dict(zip(columns, values, strict=True))
            if separator != ",":  # where a comma is the decimal point, it cannot separate values
                row |= {name: _decimal_point(row[name]) for name in _NUMBERS & row.keys()}
            if any(value.strip() for value in values):  # a spreadsheet saves empty rows too
                yield reader.line_num + n_before, row
        elif values:
            problem = f"{len(values)} values for {len(columns)} columns"
            yield reader.line_num + n_before, LabelError("bad_row", problem)


def _decimal_point(value: str) -> str:
    return re.sub(r"^(\s*[-+]?\d*),(\d+\s*)$", r"\1.\2", value)
