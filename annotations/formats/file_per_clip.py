"""A folder of one file per clip, for formats that annotate a recording."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from sqlalchemy import bindparam, select

from annotations.db.schema import ClipRecord
from annotations.formats.atomic_write import new_folder
from annotations.label import Label
from annotations.store import Store
from mmer.errors import LabelError

UNKNOWN_LENGTH_S = 1.0  # of a clip whose length nobody recorded: a whole-clip annotation needs an end

_LENGTH = select(ClipRecord.duration_s).where(ClipRecord.sha256 == bindparam("sha256"))


def write(
    labels: Iterable[Label], out: Path, store: Store, ending: str, save: Callable[[list[Label], float, Path], None]
) -> None:
    """Write a folder, all or nothing; the labels of one clip must follow each other.

    Args:
        save: gets a clip's labels in order of time, its length in seconds and the file to write.
    """
    with new_folder(out, lambda entry: entry.suffix == ending) as folder:
        for sha256, group in groupby(labels, key=lambda label: label.sha256):
            of_clip = sorted(group, key=lambda label: (label.start_s or 0.0, label.end_s or 0.0, label.id))
            with store.reading() as session:
                length_s = session.scalar(_LENGTH, {"sha256": sha256})
            length_s = max([length_s or UNKNOWN_LENGTH_S, *(label.end_s or 0.0 for label in of_clip)])
            name = re.sub(r"[^\w.-]+", "_", Path(of_clip[0].name).stem)[:60]
            save(of_clip, length_s, folder / f"{name}-{sha256[:12]}{ending}")


def read(
    path: Path, ending: str, parse: Callable[[Path], Iterator[tuple[str, dict | LabelError]]]
) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield the rows of a file or of every file in a folder; a file of a folder that cannot be read is one bad row.

    Raises:
        LabelError: `unreadable_file`.
    """
    if not path.is_dir():
        yield from _without_rivals(parse(path))
        return
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ending)
    if not files:
        raise LabelError("unreadable_file", f"{path} holds no {ending} file")
    for file in files:
        try:
            for where, row in _without_rivals(parse(file)):
                yield f"{file.name} {where}", row
        except LabelError as error:
            yield file.name, error


def _without_rivals(rows: Iterable[tuple[str, dict | LabelError]]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield the rows of a file; a second answer to one question is named, and does not replace the first."""
    answers: dict[tuple, str] = {}
    for where, row in rows:
        if not isinstance(row, LabelError):
            question = tuple(row.get(name) for name in ("annotator", "target", "start_s", "end_s"))
            first = answers.setdefault(question, row["label"])
            if first != row["label"]:
                row = LabelError("two_labels", f"{row['annotator']!r} says {row['label']!r} where they said {first!r}")
        yield where, row
