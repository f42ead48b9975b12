"""Texts that the page also shows in other languages: marked where they are written, and said in English here."""

from collections.abc import Callable, Sequence

Say = Callable[..., str]  # a marked text and its fields -> the text in some language


def marked(message: str) -> str:
    """Return a text as it is; it is in the page's catalogues, and translated where it is shown."""
    return message


def plain(message: str, /, **fields: object) -> str:
    """Return a text with its {fields} filled in, in English."""
    return message.format(**fields)


def listed(parts: Sequence[str], say: Say = plain) -> str:
    """Return parts with commas and, before the last one, `and`."""
    if len(parts) < 2:
        return "".join(parts)
    return say(marked("{first} and {last}"), first=", ".join(parts[:-1]), last=parts[-1])


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
