"""Addresses of what the page shows: of small things all of them, of an upload where it lies."""

import base64
from pathlib import Path
from urllib.parse import quote


def data_uri(data: bytes, kind: str) -> str:
    """Return a file inside the page, where nothing of it lies on the disk."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def upload_uri(path: Path) -> str:
    """Return the address of an upload, as the page that was served from the same place asks for it."""
    return f"gradio_api/file={quote(str(path))}"
