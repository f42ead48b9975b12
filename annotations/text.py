"""What people type: how long it may be, what every database and file holds, and names in one form."""

import unicodedata

from mmer.errors import LabelError

# Characters of what people type or files bring. Names and notes are shown whole; transcripts and words are read by a
# model.
MAX_CHARACTERS = {
    "annotator": 200,
    "speaker": 200,
    "project": 200,
    "account": 200,
    "actor": 200,
    "name": 1_000,  # of a clip: two file names of 255 bytes, and a path inside a dataset
    "password": 1_000,
    "path": 4_096,
    "comment": 5_000,
    "why": 5_000,
    "words": 20_000,  # some two hours of speech
    "transcript": 20_000,
    "consent": 20_000,
    "guidelines": 200_000,
}
_MOST = 200_000  # of any other text
_JOINERS = "\u200c\u200d"  # Persian, Indic and emoji names need them between their letters
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs by their class that show nothing


def check_text(value: str, what: str) -> str:
    """Return text that every database and file format can hold.

    Raises:
        LabelError: `bad_text`, `text_too_long`.
    """
    if not isinstance(value, str):
        raise LabelError("bad_text", f"{what} is {str(value)[:40]!r}; text is needed")
    if len(value) > (most := MAX_CHARACTERS.get(what, _MOST)):
        raise LabelError("text_too_long", f"{what} has {len(value):,} characters; up to {most:,} are accepted")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LabelError("bad_text", f"{what} {value!r} is not valid Unicode; save the file as UTF-8") from None
    if "\0" in value:
        raise LabelError("bad_text", f"{what} has a NUL character")
    return value


def clean_name(value: str, what: str) -> str:
    """Return a name as it is stored: composed (NFC), without space around it; "" for none.

    A file on a Mac and a keyboard on Linux spell the same "Zoë" in different characters.

    Raises:
        LabelError: `bad_text`, `text_too_long`, `invisible_name`.
    """
    name = composed(check_text(value, what))
    hidden = [c for c in name if c in _BLANKS or (c not in _JOINERS and unicodedata.category(c)[0] == "C")]
    if hidden or name[:1] in tuple(_JOINERS) or name[-1:] in tuple(_JOINERS):
        found = ", ".join(f"U+{ord(c):04X}" for c in (hidden or name)[:3])
        raise LabelError(
            "invisible_name", f"{what} {name!r} has characters that nobody can see ({found}); type it anew"
        )
    return name


def composed(name: str) -> str:
    """Return a name in the form in which two spellings of it are equal."""
    return unicodedata.normalize("NFC", name).strip()
