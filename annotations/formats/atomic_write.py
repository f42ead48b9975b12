"""Files and folders that appear whole or not at all: an export that is stopped leaves the old one."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmer.errors import LabelError


@contextmanager
def new_file(out: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file that takes the place of `out` at the end of the block.

    Raises:
        LabelError: `unwritable_file`.
    """
    temporary = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, out)
    except OSError as error:
        raise LabelError("unwritable_file", f"cannot write {out}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `out` at the end of the block.

    Args:
        ours: whether an entry of the old folder was written by an export; a folder with anything else is not replaced.

    Raises:
        LabelError: `not_an_export`, `unwritable_file`.
    """
    temporary = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _put_back(out)
        if foreign := _foreign(out, ours):
            raise LabelError("not_an_export", f"{out} holds {foreign}, which no export wrote; name a new folder")
        temporary.mkdir()
        yield temporary
        if not out.exists():
            os.rename(temporary, out)
        else:
            if foreign := _foreign(out, ours):
                raise LabelError(
                    "not_an_export", f"{out} holds {foreign} now, which no export wrote; name a new folder"
                )
            _replace_folder(temporary, out)
    except OSError as error:
        raise LabelError("unwritable_file", f"cannot write {out}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.{os.getpid()}.tmp")


def _foreign(out: Path, ours: Callable[[Path], bool]) -> str | None:
    if out.exists() and not out.is_dir():
        return "a file"
    return next((entry.name for entry in out.iterdir() if not ours(entry)), None) if out.exists() else None


def _replace_folder(new: Path, out: Path) -> None:
    """Put a folder in the place of another; killed between the renames, the old one stands aside for `_put_back`."""
    aside = _aside(out)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(out, aside)
    try:
        os.rename(new, out)
    except OSError:
        os.rename(aside, out)
        raise
    shutil.rmtree(aside)


def _put_back(out: Path) -> None:
    if not out.exists() and _aside(out).is_dir():
        os.rename(_aside(out), out)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")
