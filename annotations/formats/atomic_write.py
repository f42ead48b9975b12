"""Files and folders that appear whole or not at all: who stops an export keeps the old one."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmer.errors import LabelError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


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
        ours: whether an entry of the old folder is of an earlier export; a folder with anything else is not replaced.

    Raises:
        LabelError: `not_an_export`, `unwritable_file`.
    """
    temporary = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
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
            _exchange(temporary, out)
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


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders, on Linux in one step; elsewhere a crash between the two leaves the old one beside as .old."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if swap and swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    old = other.with_name(f".{other.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(other, old)
    os.rename(one, other)
    shutil.rmtree(old)
