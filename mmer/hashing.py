"""The identity of a file: the sha256 of its bytes."""

import hashlib
import os


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes in hex: the identity of a clip, whatever it is called."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
