"""Recordings as browsers play them: what they cannot is made into mp4, m4a or png once, kept as long as its clip."""

import os
import tempfile
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from annotations.store import Store
from mmer import media
from mmer.errors import ClipError
from mmer.ui.media_uri import data_uri

INSIDE_BYTES = 32 * 2**20  # of a clip that travels inside an answer
_FPS, _MAX_AREA = 25, 640 * 480  # of a film that is made here: faces stay readable, and a phone's line carries it
_SAMPLE_RATE = 44_100
_PREVIEW_S = 120.0  # of a recording that is made playable while somebody waits
_MADE, _FILM = {"image": (".png", "image/png"), "audio": (".m4a", "audio/mp4")}, (".mp4", "video/mp4")
_PICTURES = {name: f"image/{name.lower()}" for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")} | {
    "MPO": "image/jpeg"
}
# (containers as FFmpeg calls them, endings of their names, video codecs, audio codecs, type): what Chromium, Firefox
# and Safari all play. A Matroska file plays in some of them only.
_PLAYS: tuple[tuple[str, tuple[str, ...], set[str], set[str], str], ...] = (
    ("mov,mp4", (".mp4", ".m4v", ".mov", ".m4a"), {"h264", "av1"}, {"aac", "mp3"}, "mp4"),
    ("matroska,webm", (".webm",), {"vp8", "vp9", "av1"}, {"opus", "vorbis"}, "webm"),
    ("wav", (), set(), {"pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le"}, "wav"),
    ("mp3", (), set(), {"mp3"}, "mpeg"),
    ("flac", (), set(), {"flac"}, "flac"),
    ("ogg", (), set(), {"opus", "vorbis", "flac"}, "ogg"),
    ("aac", (), set(), {"aac"}, "aac"),
)


@dataclass(frozen=True)
class Playable:
    """A file that a browser plays."""

    path: Path
    type: str  # MIME


class Player:
    """Finds or makes what a browser plays of a registered clip; any thread may call.

    Args:
        store: whose features folder holds what is made here, under the clip's hash: it goes with the clip.
    """

    def __init__(self, store: Store):
        self.store = store
        # By path, time of change, size and hash: what the file is, and the type of one that browsers play as it is.
        self._known: dict[tuple[Path, int, int, str], tuple[media.MediaInfo, str | None]] = {}
        self._making = threading.Lock()  # one film at a time: it takes both cores

    def kind(self, path: Path, sha256: str) -> str:
        """Return video, audio or image: what a registered clip is shown as; nothing is made for it.

        Raises:
            ClipError: as `mmer.media.probe` when the file is no recording; `changed` when it is not the registered one.
        """
        info, plays = self._look(path, sha256)
        return plays.split("/")[0] if plays else info.kind

    def ready(self, path: Path, sha256: str) -> Playable | None:
        """Return what a browser plays of a registered clip, None where it has to be made first.

        Raises:
            ClipError: as `kind`.
        """
        info, plays = self._look(path, sha256)
        if plays:
            return Playable(path, plays)
        made, kind = self._place(info)
        return Playable(made, kind) if made.is_file() else None

    def of(self, path: Path, sha256: str) -> Playable:
        """Return what a browser plays of a registered clip; it is made if need be.

        Raises:
            ClipError: as `kind`; what decoding it raises.
        """
        return self.ready(path, sha256) or self._converted(path, self._look(path, sha256)[0])

    def inside(self, path: Path, sha256: str) -> str:
        """Return what a browser plays of a registered clip as a data: URI.

        Raises:
            ClipError: as `of`; `too_large`.
        """
        found = self.of(path, sha256)
        if (size := found.path.stat().st_size) > INSIDE_BYTES:
            raise ClipError(
                "too_large", f"the recording has {size / 2**20:.0f} MB; up to {INSIDE_BYTES >> 20} MB are sent here"
            )
        return data_uri(found.path.read_bytes(), found.type)

    def _look(self, path: Path, sha256: str) -> tuple[media.MediaInfo, str | None]:
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size, sha256)
        known = self._known.get(key)
        if known is None:
            info = media.probe(path, whole=False)  # never anything but a recording, whatever was registered
            if info.sha256 != sha256:
                raise ClipError("changed", f"{path.name} is not the recording that was registered under its name")
            known = (info, _browser_type(path, info))
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = known
        return known

    def preview(self, path: Path, info: media.MediaInfo, folder: Path) -> Playable | None:
        """Return what a browser plays of an upload, made into `folder` if need be; None where that would take long."""
        if kind := _browser_type(path, info):
            return Playable(path, kind)
        if (info.duration_s or 0.0) > _PREVIEW_S:
            return None
        ending, kind = _MADE.get(info.kind, _FILM)
        made = folder / f"{info.sha256}-play{ending}"
        with self._making:
            if not made.is_file():
                part = made.with_name(f".{made.name}")
                try:
                    _convert(path, info, part)
                    os.replace(part, made)
                except (ClipError, av.FFmpegError, OSError):
                    return None  # what is wrong with it, its analysis says; a full disk is no reason to show no list
                finally:
                    part.unlink(missing_ok=True)  # half a film of somebody
        return Playable(made, kind)

    def _place(self, info: media.MediaInfo) -> tuple[Path, str]:
        """Return where what is made of a clip lies, and its type."""
        folder = self.store.features_dir
        if folder is None:
            raise ClipError("not_playable", f"a browser cannot play {info.name}, and there is no folder for one it can")
        ending, kind = _MADE.get(info.kind, _FILM)
        return folder / f"{info.sha256}-play{ending}", kind

    def _converted(self, path: Path, info: media.MediaInfo) -> Playable:
        made, kind = self._place(info)
        with self._making:
            if not made.is_file():
                made.parent.mkdir(mode=0o700, exist_ok=True)
                handle, name = tempfile.mkstemp(".tmp", f".{info.sha256}.", made.parent)
                os.close(handle)
                try:
                    _convert(path, info, Path(name))
                    os.replace(name, made)
                except av.FFmpegError as error:
                    raise ClipError("not_playable", f"{info.name} cannot be made into what browsers play") from error
                finally:
                    Path(name).unlink(missing_ok=True)
                if self.store.deleted([info.sha256]):  # while it was made
                    made.unlink()
        return Playable(made, kind)


def _browser_type(path: Path, info: media.MediaInfo) -> str | None:
    """Return the type of a file that browsers play as it is, None for any other."""
    try:
        with Image.open(path) as image:
            if info.kind == "image" or image.format in _PICTURES:
                return _PICTURES.get(image.format or "")
    except (OSError, ValueError):
        pass  # not a picture: a film or a sound
    with av.open(f"file:{path.absolute()}", metadata_errors="ignore") as container:
        video = {each.codec_context.codec.canonical_name for each in container.streams.video if each.codec_context}
        audio = {each.codec_context.codec.canonical_name for each in container.streams.audio if each.codec_context}
        tall = any("10" in (each.pix_fmt or "") for each in container.streams.video)  # ten bits a colour
        for names, endings, films, sounds, kind in _PLAYS:
            fits = container.format.name.startswith(names) and (not endings or path.suffix.lower() in endings)
            if fits and video <= films and audio <= sounds and not tall:
                return f"{'video' if info.kind == 'video' else 'audio'}/{kind}"
    return None


def _convert(path: Path, info: media.MediaInfo, target: Path) -> None:
    """Write a small png, m4a or mp4 of a recording, upright and with the sound of all its channels."""
    if info.kind == "image":
        frame = next(each for each in media.stream(path) if isinstance(each, media.VideoFrame))
        Image.fromarray(frame.rgb).save(target, "PNG")
        return
    with av.open(str(target), "w", format="mp4") as out:
        film = _film(out, info) if info.kind == "video" else None
        sound = out.add_stream("aac", rate=_SAMPLE_RATE, layout="mono") if info.has_sound else None
        chunks = []
        for piece in media.stream(path, fps=_FPS, sample_rate=_SAMPLE_RATE):
            if isinstance(piece, media.AudioChunk):
                chunks.append(piece)
            elif film is not None:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(piece.rgb), "rgb24")
                picture = picture.reformat(film.width, film.height, "yuv420p")
                picture.pts, picture.time_base = round(piece.time_s * 1000), Fraction(1, 1000)
                out.mux(film.encode(picture))
        if film is not None:
            out.mux(film.encode(None))
        if sound is not None and chunks:
            samples = media.lay_out(chunks, _SAMPLE_RATE)
            for at in range(0, len(samples), _SAMPLE_RATE):
                block = av.AudioFrame.from_ndarray(samples[None, at : at + _SAMPLE_RATE], "fltp", "mono")
                block.sample_rate, block.pts, block.time_base = _SAMPLE_RATE, at, Fraction(1, _SAMPLE_RATE)
                out.mux(sound.encode(block))
            out.mux(sound.encode(None))


def _film(out, info: media.MediaInfo):
    stream = out.add_stream("libx264", rate=_FPS)
    width, height = info.width or 2, info.height or 2
    scale = min(1.0, (_MAX_AREA / (width * height)) ** 0.5)
    stream.width, stream.height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast", "crf": "26"}
    stream.codec_context.time_base = Fraction(1, 1000)
    return stream
