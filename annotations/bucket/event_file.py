"""Events as lines of JSON, each with a checksum: a line that was written by half is told from a whole one."""

import base64
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from annotations.bucket.changes import Event

_SUM = ',"sha256":"'
_LOG = logging.getLogger(__name__)


def to_line(event: Event) -> bytes:
    """Return an event as a line that ends with the checksum of what is before it."""
    rows = [[table, {name: _to_json(value) for name, value in row.items()}] for table, row in event.rows]
    content = json.dumps(
        {
            "schema": event.schema,
            "first": event.first,
            "last": event.last,
            "rows": rows,
            "gone": event.gone,
            "ids": event.ids,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).removesuffix("}")
    return f'{content}{_SUM}{hashlib.sha256(content.encode()).hexdigest()}"}}\n'.encode()


def events_in(data: bytes, name: str) -> Iterator[Event]:
    """Yield the events of a file; a line that is not whole is left out, and the log says so."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        content, _, end = line.rpartition(_SUM.encode())
        if end != f'{hashlib.sha256(content).hexdigest()}"}}'.encode():
            what = "the last line, of a write that was broken off," if number == len(lines) else f"line {number}"
            _LOG.warning("backup: %s of %s is not whole and is ignored", what, name)
            continue
        found = json.loads(content + b"}")
        rows = tuple((table, {name: _of_json(value) for name, value in row.items()}) for table, row in found["rows"])
        gone = tuple((table, key) for table, key in found["gone"])
        yield Event(found["schema"], found["first"], found["last"], rows, gone, found["ids"])


def _to_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _of_json(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
