"""Clips in: probe, and decode once as a stream of upright pictures and mono sound, within limits."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from PIL import Image

from mmer.config import SAMPLE_RATE, MediaLimits
from mmer.errors import ClipError
from mmer.hashing import content_hash

# Only containers that hold their own media: a playlist (hls, dash, concat, sdp) would make FFmpeg open other files and
# addresses, and its text demuxers take any renamed text for a film.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,wav,w64,flac,mp3,aac,ogg,aiff,caf,amr,au,mpegts,mpeg,flv,asf,gif,apng"
)
Image.init()  # without it Pillow knows five formats only
_PICTURES: list[str] = [
    name for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF") if name in Image.OPEN
]
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")  # FFmpeg shows one tile of such a photograph
_WORKS = "video (mp4, webm, mov, mkv, avi), sound (wav, flac, mp3, m4a, ogg, opus) and pictures (jpg, png, webp) work"
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art
_EXIF_ORIENTATION = 0x0112
_EXIF_DEGREES = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
_EXIF_TURN = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))
# What Pillow raises for damaged data; for AVIF a bare RuntimeError.
_DAMAGED = (OSError, ValueError, TypeError, SyntaxError, struct.error, RuntimeError)
_GUESSED = ("aac", "mp3")  # bare streams, whose length FFmpeg guesses from their first bits: off by a factor of 30
_SLACK_S = 0.1  # encoders pad the end by up to one frame: 64 ms for aac at 16 kHz
_LOST_POWER = 0.1  # of a channel that is left in the mean; one live channel of two leaves a quarter
_GAP_S = 0.1  # sound timestamps jitter by a millisecond in webm; a real gap is longer
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # of FFmpeg's formats
_PREROLL_S = 0.5  # mp3 and opus need up to 0.3 s of earlier packets before they sound right
_N_THREADS = min(4, os.cpu_count() or 1)  # each decoder thread holds whole frames
_BURST_S = 2.0  # a camera that stalled gives a second's pictures at once
_UNTIMED_S = 0.1  # browsers show a picture of an animation that says nothing of its time for so long
_MAX_FPS = 480  # a webm without timing claims 1000


@dataclass(frozen=True)
class MediaInfo:
    """What a clip is. A stream it does not have is None here, not an error."""

    path: str
    name: str
    sha256: str
    size_bytes: int
    kind: str  # "video" | "audio" | "image"
    duration_s: float | None  # None for an image, or when the container does not say: decoding finds out
    width: int | None  # upright
    height: int | None
    fps: float | None
    rotation: int  # degrees clockwise that make it upright
    sample_rate: int | None
    channels: int | None

    @property
    def has_picture(self) -> bool:
        return self.width is not None

    @property
    def has_sound(self) -> bool:
        return self.sample_rate is not None


@dataclass(frozen=True)
class VideoFrame:
    time_s: float
    rgb: np.ndarray  # (H, W, 3) uint8, upright


@dataclass(frozen=True)
class AudioChunk:
    start_s: float
    samples: np.ndarray  # (L,) float32 mono in [-1, 1]


def probe(path: str | os.PathLike, limits: MediaLimits | None = None, *, whole: bool = True) -> MediaInfo:
    """Return what a clip is, from its headers and its first picture.

    Args:
        whole: all of it will be read: then the limit on seconds holds for what its header says.

    Raises:
        ClipError: `not_found`, `not_a_file`, `not_readable`, `empty_file`, `too_large`, `not_media`, `no_streams`,
            `zero_length`, `too_long`, `too_many_pixels`, `too_many_frames`, `bad_sample_rate` or `undecodable`.
    """
    limits = limits or MediaLimits()
    path, size_bytes = _checked(path, limits)
    if (image := _open_image(path, limits)) is None:
        with _open(path) as container:
            return _describe(path, size_bytes, container, limits, whole)
    with image:
        orientation = _orientation(image)
        width, height = image.size if orientation < 5 else image.size[::-1]
        duration_s: float | None = None
        fps: float | None = None
        if _animated(image):
            duration_s, n_pictures = 0.0, 0
            for at_s, length_s in _showings(path, image, limits):
                duration_s, n_pictures = at_s + length_s, n_pictures + 1
                if whole and duration_s > limits.max_seconds + _SLACK_S:
                    raise _too_long(path, duration_s, limits, "at least ")
            fps = n_pictures / duration_s
    return MediaInfo(
        path=str(path),
        name=path.name,
        sha256=content_hash(path),
        size_bytes=size_bytes,
        kind="image" if duration_s is None else "video",
        duration_s=duration_s,
        width=width,
        height=height,
        fps=fps,
        rotation=_EXIF_DEGREES.get(orientation, 0),
        sample_rate=None,
        channels=None,
    )


def stream(
    path: str | os.PathLike,
    *,
    fps: float = 5.0,
    sample_rate: int = SAMPLE_RATE,
    start_s: float | None = None,
    end_s: float | None = None,
    picture: bool = True,
    sound: bool = True,
    limits: MediaLimits | None = None,
) -> Iterator[VideoFrame | AudioChunk]:
    """Yield a clip's pictures (at most `fps` of them a second) and sound in one pass, in the order of the file.

    Times count from the clip's own beginning, also when only a range is asked for. A stream that the clip does not have
    yields nothing; an image yields one frame at 0.0. A damaged packet costs its own frames and nothing else.

    Args:
        start_s, end_s: the range to yield, [start_s, end_s) in seconds; the limit on seconds then holds for the range.

    Raises:
        ClipError: as `probe` does, and `too_long` the moment decoded time passes the limit.
    """
    limits = limits or MediaLimits()
    path, _ = _checked(path, limits)
    if (image := _open_image(path, limits)) is not None:
        with image:
            if picture and _animated(image):
                yield from _animation(path, image, limits, fps, start_s, end_s)
            elif picture:
                yield VideoFrame(0.0, _decode_image(path, image, limits))
        return
    whole = not start_s and end_s is None
    stretch = start_s or 0.0, math.inf if end_s is None else end_s
    with _open(path) as container:
        decoders = _decoders(path, container, limits, stretch, fps if picture else None, sample_rate if sound else None)
        if whole:
            _duration(path, container, limits, whole)
        if decoders:
            yield from _decode(container, decoders)
        if decoders and whole and not any(each.n_frames for each in decoders):
            raise next((each for each in decoders if each.n_bad), decoders[0]).nothing()


def _decoders(
    path: Path,
    container,
    limits: MediaLimits,
    stretch: tuple[float, float],
    fps: float | None,
    sample_rate: int | None,
) -> "list[_Decoder]":
    """Return a decoder for each of the streams that are wanted and there; None for a rate: not wanted."""
    video, audio = _streams(path, container, limits)
    decoders: list[_Decoder] = []
    if fps is not None and video is not None:
        decoders.append(_Picture(path, video, limits, *stretch, fps))
    if sample_rate is not None and audio is not None:
        decoders.append(_Sound(path, audio, limits, *stretch, sample_rate))
    return decoders


def _decode(container, decoders: "list[_Decoder]") -> Iterator[VideoFrame | AudioChunk]:
    """Yield what the decoders make of the packets of the stretch they are for, in the order of the file."""
    start_s, end_s = decoders[0].start_s, decoders[0].end_s
    zero_s = None if container.start_time is None else container.start_time / av.time_base
    if isinstance(decoders[0], _Picture) and start_s > _PREROLL_S:
        # Sound alone is not sought: it decodes 140 times as fast as it plays, and mp3 cannot seek exactly.
        _seek(container, start_s - _PREROLL_S + (zero_s or 0.0))
    for decoder, packet in _packets(container, decoders):
        if decoder.time_s >= end_s:  # this stream is through, another may lag behind
            if all(each.time_s >= end_s for each in decoders):
                break
            continue
        for frame in decoder.decode(packet):
            if zero_s is None:
                zero_s = frame.time or 0.0
            yield from decoder.pieces(frame, zero_s)
    for decoder in decoders:
        yield from decoder.rest()


def read_audio(
    path: str | os.PathLike,
    *,
    sample_rate: int = SAMPLE_RATE,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: MediaLimits | None = None,
) -> np.ndarray:
    """Return a clip's sound as one (L,) float32 array that begins at `start_s`; gaps in the recording are silence.

    Raises:
        ClipError: as `stream` does, and `no_sound` when the clip has none, or none in that range.
    """
    pieces = stream(path, sample_rate=sample_rate, start_s=start_s, end_s=end_s, picture=False, limits=limits)
    chunks = [piece for piece in pieces if isinstance(piece, AudioChunk)]
    if not any(len(chunk.samples) for chunk in chunks):
        raise ClipError("no_sound", f"{Path(path).name} has no sound in it; give a clip with a sound track")
    return lay_out(chunks, sample_rate, start_s or 0.0)


def lay_out(chunks: list[AudioChunk], sample_rate: int = SAMPLE_RATE, start_s: float = 0.0) -> np.ndarray:
    """Return chunks as (L,) float32 on one time line from `start_s` on; where nothing was recorded is silence."""
    starts = [max(0, round((chunk.start_s - start_s) * sample_rate)) for chunk in chunks]
    samples = np.zeros(
        max((at + len(chunk.samples) for at, chunk in zip(starts, chunks, strict=True)), default=0), np.float32
    )
    for at, chunk in zip(starts, chunks, strict=True):
        samples[at : at + len(chunk.samples)] = chunk.samples
    return samples


class _Decoder:
    """Turns the packets of one stream into frames and knows how far on the time line it is."""

    def __init__(self, path: Path, stream, limits: MediaLimits, start_s: float, end_s: float):
        self.path, self.stream, self.limits, self.start_s, self.end_s = path, stream, limits, start_s, end_s
        self.time_s, self.n_frames, self.n_bad = -math.inf, 0, 0

    def decode(self, packet) -> list:
        try:
            frames = self.stream.decode(packet)
        except av.FFmpegError:
            self.n_bad += 1
            return []
        self.n_frames += len(frames)
        return frames

    def pieces(self, frame, zero_s: float) -> Iterator[VideoFrame | AudioChunk]:
        """Yield what a frame gives; the clip's time line begins at `zero_s` of the file's clock."""
        return iter(())

    def rest(self) -> Iterator[VideoFrame | AudioChunk]:
        """Yield what is left when the last frame has come."""
        return iter(())

    def nothing(self) -> ClipError:
        """Return the error of a clip of which not one frame came out."""
        if self.n_bad == 0:
            return _zero_length(self.path)
        return ClipError("undecodable", f"{self.path.name} cannot be decoded: all its data is damaged; export it again")

    def advance(self, time_s: float) -> None:
        self.time_s = time_s
        if time_s - self.start_s > self.limits.max_seconds + _SLACK_S:
            raise _too_long(self.path, time_s - self.start_s, self.limits, "at least ")


class _Picture(_Decoder):
    def __init__(self, path: Path, stream, limits: MediaLimits, start_s: float, end_s: float, fps: float):
        super().__init__(path, stream, limits, start_s, end_s)
        self.fps, self.period_s = fps, float(1 / (stream.average_rate or 25))
        self.slot: int | None = None
        self.turn: tuple[bool, int, int] | None = None
        self.first_s: float | None = None
        stream.thread_type, stream.codec_context.thread_count = "AUTO", _N_THREADS

    def pieces(self, frame, zero_s: float) -> Iterator[VideoFrame]:
        """Yield the frame when it is the first of its 1/fps second, so that any frame rate thins evenly.

        The clock never goes back: avi has no order of presentation and gives h264 as 0.04, 0.16, 0.12, 0.20, 0.08.
        """
        time_s = -math.inf if frame.time is None else max(0.0, frame.time - zero_s)
        self.advance(time_s if time_s > self.time_s + 1e-4 else max(0.0, self.time_s) + self.period_s)
        self.first_s = self.time_s if self.first_s is None else self.first_s
        decoded_s = self.time_s - self.first_s + _BURST_S  # what its header says of the rate need not be so
        if self.n_frames * frame.width * frame.height > self.limits.max_pixel_rate * decoded_s:
            raise _too_many_frames(self.path, frame.width, frame.height, self.n_frames / decoded_s, self.limits)
        slot = math.floor(self.time_s * self.fps + 1e-3)
        if self.start_s <= self.time_s < self.end_s and slot != self.slot:
            self.slot = slot
            self.turn = self.turn or _turn(frame)
            yield VideoFrame(self.time_s, _upright(self.path, self.stream, frame, self.turn, self.limits))


class _Sound(_Decoder):
    def __init__(self, path: Path, stream, limits: MediaLimits, start_s: float, end_s: float, sample_rate: int):
        super().__init__(path, stream, limits, start_s, end_s)
        self.sample_rate, self.anchor_s, self.n_out = sample_rate, 0.0, 0
        self.resampler: av.AudioResampler | None = None
        self.shape: tuple[str, str, int] | None = None
        self.powers = np.zeros(0)  # of the channels' mean, then of each channel

    def pieces(self, frame, zero_s: float) -> Iterator[AudioChunk]:
        """Yield the frame's sound, with a new resampler wherever the format changes or time jumps."""
        _check_rate(self.path, frame.sample_rate, self.limits)
        time_s = math.nan if frame.time is None else frame.time - zero_s
        if not time_s > self.time_s - _GAP_S:
            time_s = max(0.0, self.time_s)  # a clock that went back is a clock that was reset: go on from here
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self.resampler is None or shape != self.shape or abs(time_s - self.time_s) > _GAP_S:
            yield from self.rest()
            self.resampler = av.AudioResampler("flt", "mono", self.sample_rate)
            self.anchor_s = round(time_s * self.sample_rate) / self.sample_rate
            self.shape, self.n_out, self.time_s = shape, 0, time_s
        self.advance(self.time_s + frame.samples / frame.sample_rate)
        yield from self._chunks(self.resampler, frame)

    def rest(self) -> Iterator[AudioChunk]:
        if self.resampler is not None:
            yield from self._chunks(self.resampler, None)
            self.resampler = None

    def _chunks(self, resampler: av.AudioResampler, frame) -> Iterator[AudioChunk]:
        for out in resampler.resample(frame and self._mono(frame)):
            samples = np.nan_to_num(out.to_ndarray()[0]).clip(-1.0, 1.0)
            at_s = self.anchor_s + self.n_out / self.sample_rate
            self.n_out += len(samples)
            first, last = (
                int(np.clip(np.ceil((edge_s - at_s) * self.sample_rate - 1e-3), 0, len(samples)))
                for edge_s in (self.start_s, self.end_s)
            )
            if first < last:
                yield AudioChunk(at_s + first / self.sample_rate, samples[first:last])

    def _mono(self, frame):
        """Return an audio frame as a mono float frame: its channels' mean, or one channel where the mean loses it.

        Channels that cancel each other and a voice on one of many are far below the loudest channel in the mean.
        Power adds up from the beginning, so that pauses change nothing.

        FFmpeg's own mix to float mono is not normalised (two equal channels come out at 1.41, 5.1 at 3.41: it clips)
        and refuses nine channels and more.
        """
        n_channels = len(frame.layout.channels)
        if frame.format.is_planar:
            # `to_ndarray` takes what lies behind the last of more than eight channels for further ones, and crashes.
            dtype, L = _SAMPLE_TYPES[frame.format.packed.name], frame.samples
            samples = np.stack([np.frombuffer(plane, dtype, L) for plane in frame.planes[:n_channels]])  # (C, L)
        else:
            samples = frame.to_ndarray().reshape(-1, n_channels).T
        if samples.dtype == np.uint8:
            samples = (samples - 128.0) / 128.0
        elif samples.dtype.kind == "i":
            samples = samples / float(2 ** (8 * samples.dtype.itemsize - 1))
        mono = samples.mean(0, keepdims=True, dtype=np.float64)
        if n_channels > 1:
            powers = np.square(np.nan_to_num(np.concatenate([mono, samples]))).sum(1, dtype=np.float64)
            self.powers = powers if len(self.powers) != len(powers) else self.powers + powers
            loudest = int(self.powers[1:].argmax())
            if self.powers[0] < _LOST_POWER * self.powers[1 + loudest]:
                mono = samples[loudest : loudest + 1]
        mixed = av.AudioFrame.from_ndarray(mono.astype(np.float32), "flt", "mono")
        mixed.sample_rate = frame.sample_rate
        return mixed


def _checked(path: str | os.PathLike, limits: MediaLimits) -> tuple[Path, int]:
    """Return a clip's path and size; errors name it without its folder, which may say what it shows and where it lies.

    Annotators read them of a clip that is registered in place.
    """
    path = Path(path)
    name = path.name or str(path)  # of "." or "/"
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise ClipError("not_found", f"{name} does not exist; give the path of a clip")
    if not path.is_file():
        raise ClipError("not_a_file", f"{name} is a folder or a device; give the path of a clip")
    if not os.access(path, os.R_OK):
        raise ClipError("not_readable", f"{name} may not be read by this user; change its permissions")
    size = path.stat().st_size
    if size == 0:
        raise ClipError("empty_file", f"{name} is empty (0 bytes); record or export it again")
    if size > limits.max_bytes:
        most = limits.max_bytes / 2**20
        raise ClipError("too_large", f"{name} has {size / 2**20:.1f} MB; clips up to {most:.1f} MB are accepted")
    return path, size


@contextmanager
def _open(path: Path):
    with path.open("rb") as file:
        if file.read(12)[4:] in _HEIC:
            raise ClipError("not_media", f"{path.name} is a HEIC photograph; save it as jpg: {_WORKS}")
    try:
        # "file:" keeps FFmpeg from reading "12:30.mp4" or "http:..." as an address.
        container = av.open(
            f"file:{path.absolute()}", options={"format_whitelist": _CONTAINERS}, metadata_errors="ignore"
        )
    except (av.FFmpegError, ValueError) as error:
        raise ClipError(
            "not_media",
            f"{path.name} cannot be read: it is something else under that name, or its recording was cut off; {_WORKS}",
        ) from error
    with container:
        yield container


def _streams(path: Path, container, limits: MediaLimits):
    """Return the main video and audio stream, None for one that is not there or that nothing here can decode."""
    usable = [each for each in container.streams if each.type in ("video", "audio") and each.codec_context is not None]
    usable.sort(key=lambda each: not each.disposition & Disposition.default)
    video = next((each for each in usable if each.type == "video" and not each.disposition & _NOT_VIDEO), None)
    audio = next((each for each in usable if each.type == "audio" and each.codec_context.channels), None)
    if video is None and audio is None:
        kinds = ", ".join(sorted({each.type for each in container.streams})) or "no streams"
        raise ClipError("no_streams", f"{path.name} has no picture or sound to decode (found: {kinds}); {_WORKS}")
    if video is not None:
        width, height = video.codec_context.width, video.codec_context.height
        _check_pixels(path, width, height, limits.max_pixels)
        rate = float(video.average_rate or 0)
        if rate <= _MAX_FPS and rate * width * height > limits.max_pixel_rate * 1.01:  # 59.94 is 60 to some
            raise _too_many_frames(path, width, height, rate, limits)
    if audio is not None:
        _check_rate(path, audio.codec_context.sample_rate, limits)
    return video, audio


def _describe(path: Path, size_bytes: int, container, limits: MediaLimits, whole: bool) -> MediaInfo:
    """Return what a video or a sound is."""
    video, audio = _streams(path, container, limits)
    duration_s, fps, rotation, width, height = _duration(path, container, limits, whole), None, 0, None, None
    main = _Decoder(path, audio if video is None else video, limits, 0.0, math.inf)
    frame = next((frame for _, packet in _packets(container, [main]) for frame in main.decode(packet)), None)
    if frame is None and (video is None or audio is None):
        raise main.nothing()
    if video is not None and frame is not None:
        rate = video.average_rate or video.guessed_rate
        fps = float(rate) if rate and rate <= _MAX_FPS else None
        height, width = _upright(path, video, frame, _turn(frame), limits).shape[:2]
        rotation = -frame.rotation % 360  # FFmpeg counts the other way round
    return MediaInfo(
        path=str(path),
        name=path.name,
        sha256=content_hash(path),
        size_bytes=size_bytes,
        kind="audio" if video is None else "video",
        duration_s=duration_s,
        width=width,
        height=height,
        fps=fps,
        rotation=rotation,
        sample_rate=None if audio is None else audio.codec_context.sample_rate,
        channels=None if audio is None else audio.codec_context.channels,
    )


def _duration(path: Path, container, limits: MediaLimits, whole: bool) -> float | None:
    """Return the seconds the container claims, None when it does not say. Of a bare stream FFmpeg only guesses them."""
    if container.duration is None:
        return None
    duration_s = container.duration / av.time_base
    if duration_s <= 0:
        raise _zero_length(path)
    if whole and duration_s > limits.max_seconds + _SLACK_S and container.format.name not in _GUESSED:
        raise _too_long(path, duration_s, limits)
    return duration_s


def _seek(container, time_s: float) -> None:
    try:
        container.seek(max(0, round(time_s * av.time_base)))
    except av.FFmpegError:
        return  # no index: decode from the beginning and drop what comes before


def _packets(container, decoders: list[_Decoder]) -> Iterator[tuple]:
    """Yield (decoder, packet), and at the end, however it comes, an empty packet for each to flush it."""
    by_index = {decoder.stream.index: decoder for decoder in decoders}
    try:
        for packet in container.demux([decoder.stream for decoder in decoders]):
            if packet.size:
                yield by_index[packet.stream_index], packet
    except av.FFmpegError:  # the file ends in damage: what came before stands
        for decoder in decoders:
            decoder.n_bad += 1
    for decoder in decoders:
        last = av.Packet()
        last.time_base = decoder.stream.time_base  # without it the last frames come out at 0 s
        yield decoder, last


def _turn(frame) -> tuple[bool, int, int]:
    """Return what a frame's display matrix asks for: transpose or not, then the step (1 or -1) along rows and columns.

    Once for a stream: asking a frame for its side data ties it into a reference cycle, and frames waiting for the
    garbage collector came to 115 MB for a minute of 480 x 480.
    """
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y, y pointing down
    across, down = (c, b) if abs(b) > abs(a) else (a, d)
    return abs(b) > abs(a), -1 if down < 0 else 1, -1 if across < 0 else 1


def _upright(path: Path, stream, frame, turn: tuple[bool, int, int], limits: MediaLimits) -> np.ndarray:
    """Return a frame as (H, W, 3) RGB with square pixels, turned and mirrored."""
    aspect = stream.codec_context.sample_aspect_ratio or 1
    width = round(frame.width * aspect) if 0.25 < aspect < 4 else frame.width
    _check_pixels(path, width, frame.height, limits.max_pixels)
    rgb = frame.to_ndarray(format="rgb24", width=width)
    transpose, down, across = turn
    return np.ascontiguousarray((rgb.swapaxes(0, 1) if transpose else rgb)[::down, ::across])


def _open_image(path: Path, limits: MediaLimits) -> Image.Image | None:
    """Return the picture in a file, not yet decoded, or None when the file is not a still picture."""
    try:
        image = Image.open(path, formats=_PICTURES)
    except Image.DecompressionBombError as error:
        most = limits.max_image_pixels / 1e6
        raise ClipError(
            "too_many_pixels", f"{path.name} is larger than any photograph; up to {most:.1f} megapixels are accepted"
        ) from error
    except (OSError, ValueError, RuntimeError):
        return None
    if image.format in ("GIF", "PNG") and getattr(image, "is_animated", False):
        image.close()
        return None
    _check_pixels(path, *image.size, limits.max_image_pixels)
    if max(image.size) > limits.max_image_side:
        width, height = image.size
        raise ClipError(
            "too_many_pixels", f"{path.name} is {width} x {height}; up to {limits.max_image_side:,} a side are accepted"
        )
    return image


def _animated(image: Image.Image) -> bool:
    """Return whether a picture moves; GIF and PNG that do are FFmpeg's, which does not read WebP and AVIF that do."""
    return image.format in ("WEBP", "AVIF") and getattr(image, "is_animated", False)


def _showings(path: Path, image: Image.Image, limits: MediaLimits) -> Iterator[tuple[float, float]]:
    """Decode an animation picture by picture; yield when each begins to show and for how long."""
    at_s = 0.0
    for i in range(getattr(image, "n_frames", 1)):
        try:
            image.seek(i)
            image.load()
        except _DAMAGED as error:
            if i:
                return  # what came before the damage stands, as in a film
            raise _damaged(path, error) from error
        length_s = image.info.get("duration", 0) / 1000 or _UNTIMED_S
        decoded_s = at_s + length_s + _BURST_S
        if (i + 1) * image.width * image.height > limits.max_pixel_rate * decoded_s:
            raise _too_many_frames(path, image.width, image.height, (i + 1) / decoded_s, limits)
        yield at_s, length_s
        at_s += length_s


def _animation(
    path: Path, image: Image.Image, limits: MediaLimits, fps: float, start_s: float | None, end_s: float | None
) -> Iterator[VideoFrame]:
    """Yield the pictures of a stretch, at most `fps` a second."""
    begin_s = start_s or 0.0
    slot: int | None = None
    for at_s, _ in _showings(path, image, limits):
        if at_s >= (math.inf if end_s is None else end_s):
            return
        if at_s - begin_s > limits.max_seconds + _SLACK_S:
            raise _too_long(path, at_s - begin_s, limits, "at least ")
        if at_s < begin_s or slot == math.floor(at_s * fps + 1e-3):
            continue
        slot = math.floor(at_s * fps + 1e-3)
        yield VideoFrame(at_s, _decode_image(path, image.copy(), limits))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where the EXIF is missing, damaged or says something else.

    A TIFF is turned by Pillow when it is loaded, and its size is that of the turned picture.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return value if value in range(1, 9) else 1


def _decode_image(path: Path, image: Image.Image, limits: MediaLimits) -> np.ndarray:
    """Return a picture as (H, W, 3) RGB, turned as its EXIF says and scaled down to a video frame's limit."""
    turn = _EXIF_TURN.get(_orientation(image))
    try:
        scale = math.sqrt(limits.max_pixels / (image.width * image.height))
        if scale < 1:
            image.thumbnail((int(image.width * scale), int(image.height * scale)))
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        return np.array((image if turn is None else image.transpose(turn)).convert("RGB"))
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ClipError:
    return ClipError("undecodable", f"{path.name} is a damaged picture ({error}); export it again")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a deeper grey picture with 256 levels; where its mode does not say what white is, over its range."""
    grey = np.nan_to_num(np.array(image, np.float32))
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (float(grey.min()), float(grey.max()))
    return Image.fromarray(((grey - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8))


def _check_pixels(path: Path, width: int, height: int, most: int) -> None:
    if width * height > most:
        raise ClipError(
            "too_many_pixels", f"{path.name} is {width} x {height}; up to {most / 1e6:.1f} megapixels are accepted"
        )


def _check_rate(path: Path, rate: int, limits: MediaLimits) -> None:
    if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
        raise ClipError(
            "bad_sample_rate",
            f"{path.name} has {rate:,} samples a second; "
            f"{limits.min_sample_rate:,} to {limits.max_sample_rate:,} are accepted",
        )


def _too_many_frames(path: Path, width: int, height: int, rate: float, limits: MediaLimits) -> ClipError:
    most = limits.max_pixel_rate / (width * height)
    return ClipError(
        "too_many_frames",
        f"{path.name} has {rate:.0f} pictures of {width} x {height} a second; "
        f"up to {most:.0f} of that size are accepted",
    )


def _zero_length(path: Path) -> ClipError:
    return ClipError("zero_length", f"{path.name} lasts 0 s; record or export it again")


def _too_long(path: Path, seconds: float, limits: MediaLimits, least: str = "") -> ClipError:
    return ClipError(
        "too_long", f"{path.name} lasts {least}{seconds:.0f} s; clips up to {limits.max_seconds:.0f} s are accepted"
    )
