"""Every error a user can cause. Each names the thing, what was found and what would work, and has a stable code."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

PIPE_CLOSED = 141  # the status a shell gives for a program that the signal of a closed pipe ended


@dataclass(frozen=True)
class Notice:
    """A quality warning that goes with a result: nothing failed, but the reader should know."""

    code: str
    message: str


class MmerError(Exception):
    """An error with a stable `code` for programs and a `message` for people."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class ClipError(MmerError):
    """A clip cannot be read or is beyond the limits."""


class AssetError(MmerError):
    """A weight file is missing, damaged or cannot be fetched."""


class CheckpointError(MmerError):
    """A checkpoint is missing, damaged or does not fit this version."""


class LabelError(MmerError):
    """A label, an annotator or a store operation is not acceptable."""


class TrainingError(MmerError):
    """Training cannot start or go on with what it was given."""


def until_pipe_closes(main: Callable[[], int]) -> int:
    """Return a command's exit status; where nobody reads its output any more, as after `| head`, it ends in silence."""
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written when Python ends
        return PIPE_CLOSED
