"""What a long run is to answer: the clips of a folder, the rows of a manifest, or the lines of standard input."""

import csv
import hashlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmer.errors import ClipError

STDIN = "-"
_MANIFESTS = (".csv", ".tsv")


@dataclass(frozen=True)
class Task:
    """A clip, or a stretch of one, and what is said in it."""

    id: str  # the same in every run: a run that was stopped knows by it what is done
    path: str  # empty: words alone
    text: str | None = None  # None: transcribe
    start_s: float | None = None
    end_s: float | None = None
    problem: str = ""  # why the row it comes from cannot be read


def is_source(name: str) -> bool:
    """Whether an argument names many clips rather than one."""
    return name == STDIN or Path(name).suffix.lower() in _MANIFESTS or os.path.isdir(name)


def read(source: str) -> Iterator[Task]:
    """Yield what there is to do, one after the other; a row that names nothing readable is a task with a problem.

    Raises:
        ClipError: `bad_manifest`, `no_clips`.
    """
    if source == STDIN:
        yield from (of(path=line) for line in (raw.rstrip("\r\n") for raw in sys.stdin) if line.strip())
    elif os.path.isdir(source):
        yield from _of_folder(Path(source))
    else:
        yield from _of_manifest(Path(source))


def of(path: str = "", text: str | None = None, start_s: float | None = None, end_s: float | None = None) -> Task:
    """Return a task with its id: the path, with the stretch and a hash of the words where these are given."""
    name = path or "text"
    if start_s is not None or end_s is not None:
        name += f"@{start_s or 0:g}-{'' if end_s is None else f'{end_s:g}'}"
    if text:
        name += f"~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    return Task(name, path, text or None, start_s, end_s)


def _of_folder(folder: Path) -> Iterator[Task]:
    from annotations.media_file import ENDINGS

    found = 0
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in ENDINGS and not name.startswith("."):
                found += 1
                yield of(os.path.join(where, name))
    if not found:
        raise ClipError("no_clips", f"{folder} holds no video, sound or picture; name the folder of the recordings")


def _of_manifest(file: Path) -> Iterator[Task]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            if not {"path", "text"} & set(rows.fieldnames or ()):
                named = ", ".join(rows.fieldnames or ()) or "nothing"
                raise ClipError("bad_manifest", f"{file} has neither a column path nor text (found: {named})")
            for row in rows:
                yield _of_row(row, file.parent, rows.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ClipError("bad_manifest", f"{file} is no CSV in UTF-8: {error}") from error


def _of_row(row: dict, folder: Path, line: int) -> Task:
    path, text = ((row.get(name) or "").strip() for name in ("path", "text"))
    if not path and not text:
        return Task(f"line {line}", "", problem=f"line {line} has neither a path nor a text")
    times: dict[str, float | None] = {"start": None, "end": None}
    for name in times:
        if given := (row.get(name) or "").strip():
            try:
                times[name] = float(given)
            except ValueError:
                times[name] = math.nan
            if not math.isfinite(times[name] or 0.0) or (times[name] or 0.0) < 0:
                return Task(f"line {line}", path, problem=f"line {line}: {name} is {given!r}; seconds are needed")
    return of(str(folder / path) if path else "", text, times["start"], times["end"])
