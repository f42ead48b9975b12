"""Recordings inside the page: a file of their own would lie where its address can be fetched."""

import base64
import mimetypes
from pathlib import Path

SHOWN_BYTES = 32 * 2**20  # of a clip, which travels inside the answer
_VIDEO = (".3gp", ".3g2")  # taken for sound by their names' list


def media_type(path: Path) -> str:
    """Return how a browser is told of a clip, by the ending of its name; what is neither sound nor picture is video."""
    guessed = mimetypes.guess_type(path.name)[0] or ""
    if path.suffix.lower() in _VIDEO or not guessed.startswith(("audio/", "image/", "video/")):
        return guessed if guessed.startswith("video/") else "video/mp4"
    return guessed


def data_uri(data: bytes, kind: str) -> str:
    """Return a file inside the page, where nothing of it lies on the disk."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def too_large(size: int) -> str:
    """Return why a recording of this many bytes is not shown; empty when it is."""
    if size <= SHOWN_BYTES:
        return ""
    return f"The recording has {size / 2**20:.0f} MB; up to {SHOWN_BYTES >> 20} MB are shown here."
