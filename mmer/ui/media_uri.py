"""Recordings inside the page: a file of their own would lie where its address can be fetched."""

import base64


def data_uri(data: bytes, kind: str) -> str:
    """Return a file inside the page, where nothing of it lies on the disk."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
