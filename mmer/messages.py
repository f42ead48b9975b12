"""Texts that the page also shows in other languages: marked where they are written, and said in English here."""

from collections.abc import Callable

Say = Callable[..., str]  # a marked text and its fields -> the text in some language


def marked(message: str) -> str:
    """Return a text as it is; it is in the page's catalogues, and translated where it is shown."""
    return message


def plain(message: str, /, **fields: object) -> str:
    """Return a text with its {fields} filled in, in English."""
    return message.format(**fields)
