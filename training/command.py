"""How every command ends."""

import sys
from collections.abc import Callable
from typing import NoReturn

from mmer.errors import MmerError, until_pipe_closes


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status; bad input ends it with one line and status 1."""
    try:
        sys.exit(until_pipe_closes(main))
    except MmerError as error:
        sys.exit(f"error: {error}")
