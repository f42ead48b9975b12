"""Receipts: codes with which people have everything of a clip deleted that was stored of it, without an account."""

import hashlib
import re
import secrets

from sqlalchemy import select

from annotations.db.schema import ClipRecord, ReceiptRecord
from annotations.retention import Removal
from annotations.store import Store
from annotations.text import check_text
from mmer.errors import LabelError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O and U, which are read as others
_GROUPS, _LENGTH = 5, 5  # 125 bits: nobody guesses one
_READ_AS = str.maketrans("ILO", "110")


def new_code() -> str:
    """Return a code that nobody has, in groups that can be written down."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def blank() -> str:
    """Return what a code looks like, without being one: where one is typed in."""
    return "-".join(["·" * _LENGTH] * _GROUPS)


def hash_of(code: str) -> str:
    """Return what is stored of a code; capitals, spaces and hyphens do not matter, nor O for 0 and I or L for 1.

    Raises:
        LabelError: `bad_receipt`.
    """
    plain = re.sub(r"[\s\-\u2010-\u2015]", "", check_text(code, "receipt")).upper().translate(_READ_AS)
    if len(plain) != _GROUPS * _LENGTH or set(plain) - set(_ALPHABET):
        raise LabelError(
            "bad_receipt",
            f"this is no receipt code: one has {_GROUPS} groups of {_LENGTH} letters and digits, with hyphens between",
        )
    return hashlib.sha256(plain.encode()).hexdigest()


def may_be_given(store: Store, sha256: str) -> bool:
    """Return whether a code for this clip may be given out: not for recordings that the server's owner brought in."""
    with store.reading() as session:
        clip = session.execute(select(ClipRecord.source, ClipRecord.path).filter_by(sha256=sha256.lower())).first()
    return clip is None or (clip.source == "upload" and not clip.path)


def delete(store: Store, code: str) -> Removal:
    """Delete everything of the clip that a code was given for, as `Store.delete_clip` does.

    Raises:
        LabelError: `bad_receipt`, `unknown_receipt`, `trace_left`.
    """
    with store.reading() as session:
        query = select(ClipRecord.sha256).join(ReceiptRecord).where(ReceiptRecord.code_hash == hash_of(code))
        sha256 = session.scalar(query)
    if sha256 is None:
        raise LabelError("unknown_receipt", "nothing is stored under this code: it was deleted, or the code is another")
    return store.delete_clip(sha256, actor="receipt")
