"""The file of results of a long run: written line by line, so that a run that was killed goes on where it was."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmer.errors import ClipError
from mmer.labels import EMOTIONS, MODALITIES

_PARQUET = ".parquet"
_ROWS = 5_000  # of a row group: what is in memory at once


class Journal:
    """Rows of results, each of them whole or not there at all.

    JSONL is its own journal. Parquet is written at the end from one beside it, `R.parquet.jsonl`, which goes with it.

    Raises:
        ClipError: `bad_output`, `output_in_use`.
    """

    def __init__(self, out: Path):
        if out.suffix not in (".jsonl", _PARQUET):
            raise ClipError("bad_output", f"{out} names no kind of file that is written here; use .jsonl or .parquet")
        self.out = out
        self.file = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        self.done: set[str] = set()
        self.codes: Counter[str] = Counter()  # of rows: "" or why a clip failed
        self.checkpoint: str | None = None  # that answered the rows which are there
        out.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock, Timeout  # as huggingface-hub has it

        self._lock = FileLock(self.file.with_name(f".{self.file.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ClipError(
                "output_in_use", f"another run writes to {out}; wait for it, or name another file"
            ) from None
        try:
            if self.out != self.file and self.out.is_file() and not self.file.is_file():
                self._reopen_parquet()
            self.file.touch()
            whole = self._read()
        except BaseException:
            self._let_go()
            raise
        self._to = self.file.open("ab")
        self._to.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._let_go()

    def _let_go(self) -> None:
        with suppress(FileNotFoundError):  # before it is released: nobody waits for it, the next makes it anew
            os.unlink(self._lock.lock_file)
        self._lock.release()

    def add(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._note(row)
        self._to.write(b"".join(_line(row) for row in rows))
        self._to.flush()

    def finish(self) -> None:
        """Write what has to be whole at the end."""
        if self.out == self.file:
            return
        part = self.out.with_name(f".{self.out.name}.part")
        _write_parquet(self._rows(), part)
        os.replace(part, self.out)
        self.file.unlink()

    def _note(self, row: dict[str, Any]) -> None:
        self.done.add(row["id"])
        self.codes[(row.get("error") or {}).get("code", "")] += 1
        self.checkpoint = row.get("checkpoint") or self.checkpoint

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.file.open("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def _read(self) -> int:
        """Take note of the rows that are there; return where the last whole one ends."""
        end = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):  # half a row: the run was killed while it wrote
                    break
                try:
                    row = json.loads(line)
                    self._note(row)
                except (ValueError, KeyError, TypeError, AttributeError):
                    message = f"{self.file}: line {number} is no row of such a run; name another file with --out"
                    raise ClipError("bad_output", message) from None
                end += len(line)
        return end

    def _reopen_parquet(self) -> None:
        from pyarrow import ArrowInvalid, parquet

        part = self.file.with_name(f".{self.file.name}.part")
        try:
            with part.open("wb") as to:
                for batch in parquet.ParquetFile(self.out).iter_batches(_ROWS, columns=["json"]):
                    to.writelines(text.encode("utf-8") + b"\n" for text in batch["json"].to_pylist())
        except (ArrowInvalid, KeyError) as error:
            part.unlink()
            raise ClipError("bad_output", f"{self.out} is no file of such a run ({error}); name another") from None
        os.replace(part, self.file)


def _line(row: dict[str, Any]) -> bytes:
    # A name that is not UTF-8 holds halves of characters: they are written as JSON escapes them.
    return (json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")) + b"\n"


def _write_parquet(rows: Iterator[dict[str, Any]], file: Path) -> None:
    """Write rows as columns, with all of each as JSON beside them."""
    import pyarrow as pa
    from pyarrow import parquet

    text, number, flag = pa.string(), pa.float64(), pa.bool_()
    schema = pa.schema(
        [
            *((name, text) for name in ("id", "clip", "sha256")),
            ("duration_s", number),
            ("emotion", text),
            ("abstain", flag),
            *((f"prob_{e}", number) for e in EMOTIONS),
            *((f"has_{m}", flag) for m in MODALITIES),
            *((name, text) for name in ("transcript", "language", "checkpoint", "error_code", "error_message", "json")),
        ]
    )
    with parquet.ParquetWriter(file, schema) as writer:
        block: list[dict[str, Any]] = []
        for row in rows:
            block.append(_flat(row))
            if len(block) == _ROWS:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        writer.write_table(pa.Table.from_pylist(block, schema))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    said, error = row.get("transcript") or {}, row.get("error") or {}
    flat = {name: row.get(name) for name in ("id", "clip", "sha256", "duration_s", "emotion", "abstain", "checkpoint")}
    flat |= {f"prob_{e}": p for e, p in (row.get("probs") or {}).items()}
    flat |= {f"has_{m}": here for m, here in (row.get("present") or {}).items()}
    flat |= {"transcript": said.get("text"), "language": said.get("language")}
    flat |= {"error_code": error.get("code"), "error_message": error.get("message")}
    written = {name: _whole(value) if isinstance(value, str) else value for name, value in flat.items()}
    return {**written, "json": json.dumps(row)}


def _whole(text: str) -> str:
    """Return a text with halves of characters, as names that are not UTF-8 have them, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
