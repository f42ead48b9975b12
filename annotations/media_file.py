"""Files of clips: what counts as one, by its ending and its first bytes, and how long it lasts."""

import re
from pathlib import Path

from mmer import hashing
from mmer.errors import LabelError

ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("mp4", "m4v", "mp4v", "f4v", "mov", "qt", "3gp", "3gpp", "3g2", "mj2", "webm", "mkv", "mk3d", "avi", "divx"),
        *(
            "mpg",
            "mpeg",
            "mpe",
            "vob",
            "mod",
            "ts",
            "mts",
            "m2t",
            "m2ts",
            "tod",
            "flv",
            "wmv",
            "asf",
            "ogv",
            "ogm",
            "ogx",
        ),
        *("wav", "wave", "bwf", "rf64", "w64", "flac", "mp3", "mp2", "mpga", "m4a", "m4b", "m4r", "f4a", "aac", "adts"),
        *("ogg", "oga", "opus", "spx", "weba", "mka", "wma", "aif", "aiff", "aifc", "caf", "amr", "awb", "au", "snd"),
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "avif", "bmp", "dib", "tif", "tiff", "gif"),
    )
)
PICTURE = "picture"
# What a file begins with, and FFmpeg's name of the container. None of them is text: no table or settings file passes.
_BEGINNINGS = (
    (b"RIFF....WAVE", "wav"),
    (b"RF64....WAVE", "wav"),
    (b"riff\x2e\x91\xcf\x11", "w64"),
    (b"RIFF....AVI ", "avi"),
    (b"RIFF....WEBP", PICTURE),
    (b"\0...(?:ftyp|moov|wide|free|skip|pnot)|....mdat", "mov"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"FORM....AIF[FC]", "aiff"),
    (b"caff\0", "caf"),
    (b"#!AMR", "amr"),
    (b"\\.snd", "au"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"G.{187}G|.{4}G.{191}G", "mpegts"),
    (
        b"ID3[\x02-\x04]|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]",
        "mp3",
    ),  # a sync word of layer II or III; FF FE begins UTF-16 text
    (b"\xff[\xf0\xf1\xf8\xf9]", "aac"),
    (b"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|II[\x2a\x2b]\0|MM\0[\x2a\x2b]", PICTURE),
)
_HEIC = re.compile(b"....ftyp(?:heic|heix|mif1|msf1)(?!.{4}(?:.{4})*avif)", re.DOTALL)
_LENGTH_IS_GUESSED = ("mp3", "aac")  # bare streams: FFmpeg reckons from their first bits, off by a factor of 30


def check_media(path: Path) -> None:
    """Refuse a file that is no video, sound or picture.

    Raises:
        LabelError: `not_media`, `empty_file`, `clip_unreadable`.
    """
    head = _head(path)
    if path.suffix.lower() in (".heic", ".heif") or _HEIC.match(head):
        raise LabelError("not_media", f"{path.name} is a HEIC photograph; save it as jpg")
    if path.suffix.lower() not in ENDINGS:
        raise LabelError("not_media", f"{path.name} is no video, sound or picture by its ending")
    if not head:
        raise LabelError("empty_file", f"{path.name} holds nothing")
    if _container(head) is None:
        raise LabelError("not_media", f"{path.name} is something else under that name: no video, sound or picture")


def duration_s(path: Path) -> float | None:
    """Return how many seconds a recording says it lasts; None for a picture, and where it does not say."""
    container = _container(_head(path))
    if container is None or container == PICTURE or container in _LENGTH_IS_GUESSED:
        return None
    import av  # takes a quarter of a second that only labels of a segment are worth

    try:
        with av.open(f"file:{path.absolute()}", format=container, metadata_errors="ignore") as recording:
            return recording.duration / av.time_base if recording.duration and recording.duration > 0 else None
    except (av.FFmpegError, ValueError):
        return None


def content_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal, or say that it cannot be read."""
    try:
        return hashing.content_hash(path)
    except OSError as error:
        raise LabelError("clip_unreadable", f"cannot read {path}: {error.strerror}") from None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise LabelError("clip_unreadable", f"cannot read {path}: {error.strerror}") from None


def _container(head: bytes) -> str | None:
    return next((name for begins, name in _BEGINNINGS if re.match(begins, head, re.DOTALL)), None)


def ending_of(content: bytes) -> str:
    """Return an ending for media without a name."""
    container = _container(content[:512]) or ""
    return "." + {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv", PICTURE: "png"}.get(
        container, container
    )
