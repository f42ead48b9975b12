"""What the server writes to its log: lines for people, or JSON for programs, without what visitors said."""

import json
import logging
import re
import sys
import traceback
from dataclasses import fields
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from mmer.config import Paths

REQUESTS = logging.getLogger("mmer.requests")  # one line for each call of the page
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")  # a URL's user and password
_SECRET = re.compile(r"([?&][^=&]*(?:pass|secret|token|key|sig)[^=&]*=)[^&]*", re.IGNORECASE)


def _went_through(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]


class PlainLines(logging.Formatter):
    """A record as a line; of an error its kind and the lines it went through, not its words.

    An exception's message may quote a file's name or what was typed.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s %(levelname)s %(message)s")

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        return "\n".join([*(f"  {line}" for line in _went_through(trace)), kind.__name__ if kind else ""])


class JsonLines(logging.Formatter):
    """A record as one JSON object; of an error as much as in plain lines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["stack"] = _went_through(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


def set_up(paths: Paths) -> None:
    """Write the log to stderr as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if paths.log == "json" else PlainLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mmer.requests").setLevel(logging.INFO)
    logging.getLogger("mmer.server").setLevel(logging.INFO)


def tell_settings(paths: Paths, **more: str) -> None:
    """Write the settings to the log, secrets left out."""
    told = {name: str(value) for name, value in (shown_settings(paths) | more).items()}
    logging.getLogger("mmer.server").info(
        "settings: %s", ", ".join(f"{k}={v}" for k, v in told.items()), extra={"fields": {"settings": told}}
    )


def shown_settings(paths: Paths) -> dict[str, Any]:
    """Return the settings as they may be read by whoever reads the log."""
    shown: dict[str, Any] = {}
    for each in fields(paths):
        value = getattr(paths, each.name)
        if not each.repr:  # a secret
            shown[each.name] = "(set)" if value else ""
        else:
            shown[each.name] = without_secrets(value) if isinstance(value, str) else value
    return shown


def without_secrets(url: str) -> str:
    """Return a text in which URLs have neither user nor password, nor a secret among their parameters."""
    return _SECRET.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", url))
