"""Real media for tests, made on the spot: a drawn face, a synthesised voice, and clips in every container."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from heapq import merge
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageDraw, ImageFilter

RATE = 16_000
CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".gif": ("gif", None),
    ".wav": (None, "pcm_s16le"),
    ".flac": (None, "flac"),
    ".mp3": (None, "libmp3lame"),
    ".m4a": (None, "aac"),
    ".aac": (None, "aac"),
    ".ogg": (None, "libopus"),
    ".opus": (None, "libopus"),
}
FASTEST = {
    "libx264": {"preset": "ultrafast"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "threads": "1"},
}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
# First four formants (Hz) of five vowels of an adult speaker, after Peterson and Barney 1952.
VOWELS = {
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (270, 2290, 3010, 3600),
    "o": (570, 840, 2410, 3300),
    "u": (300, 870, 2240, 3300),
}
_BANDWIDTHS = (80, 100, 140, 200)


def face(
    *,
    mouth_open: float = 0.2,
    smile: float = 0.0,
    brows: float = 0.0,
    size: int = 320,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    onto: Image.Image | None = None,
) -> Image.Image:
    """Return a drawn face that Face Landmarker finds.

    Args:
        mouth_open, smile, brows: 0 to 1; they move jawOpen, mouthSmile and browInnerUp.
        shift: of the head, in fractions of `size`; scale: of the head.
        onto: a square picture to draw over, for several faces in one; a plain background when None.
    """
    image = onto.copy() if onto else Image.new("RGB", (size, size), (120, 140, 160))
    size = image.width
    draw = ImageDraw.Draw(image)
    unit = size / 320 * scale
    x0, y0 = size * (0.5 + shift[0]), size * (0.5 + shift[1])

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + x * unit, y0 + y * unit

    def ellipse(x: float, y: float, rx: float, ry: float, fill) -> None:
        draw.ellipse((*at(x - rx, y - ry), *at(x + rx, y + ry)), fill=fill)

    width = max(1, round(5 * unit))
    skin, shade, dark = (224, 182, 150), (196, 150, 120), (60, 40, 30)
    draw.rectangle((*at(-30, 70), *at(30, 160)), fill=shade)
    ellipse(0, -25, 92, 112, dark)  # hair
    ellipse(0, 8 * mouth_open, 82, 108 + 8 * mouth_open, skin)  # the chin goes down with the jaw
    for side in (-1, 1):
        ellipse(side * 34, -20, 18, 9, (250, 250, 250))
        ellipse(side * 34, -20, 8, 8, (70, 50, 30))
        ellipse(side * 34, -20, 4, 4, (10, 10, 10))
        lift = 12 * brows
        draw.line(
            [at(side * 56, -42 - 0.3 * lift), at(side * 36, -48 - 0.7 * lift), at(side * 16, -43 - 1.3 * lift)],
            fill=dark,
            width=width,
            joint="curve",
        )
    draw.line([at(-3, -15), at(-10, 22), at(0, 27), at(10, 22)], fill=shade, width=width, joint="curve")
    half, open_, up = 30 + 10 * smile - 8 * mouth_open, 4 + 40 * mouth_open, 16 * smile
    xs = np.linspace(-1, 1, 13)
    corner = 56 + 8 * mouth_open - up * xs**2
    upper = [at(half * x, y - (3 + 8 * mouth_open) * (1 - x * x)) for x, y in zip(xs, corner, strict=True)]
    lower = [at(half * x, y + open_ * (1 - x * x)) for x, y in zip(xs, corner, strict=True)]
    draw.polygon(upper + lower[::-1], fill=(90, 20, 25))
    draw.line(upper, fill=(170, 70, 70), width=width, joint="curve")
    draw.line(lower, fill=(170, 70, 70), width=width, joint="curve")
    return image.filter(ImageFilter.GaussianBlur(0.6 * size / 320))


def voice(
    seconds: float, *, pitch_hz: float = 120.0, rate: float = 4.0, pause_s: float = 0.25, seed: int = 0
) -> np.ndarray:
    """Return (L,) float32 at 16 kHz of a voice saying vowels and fricatives, which silero-vad takes for speech.

    A pulse train with falling and wavering pitch goes through four formant resonators that glide from vowel to vowel.

    Args:
        rate: syllables a second; after every five of them a pause of `pause_s`.
    """
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * RATE)
    out = np.zeros(n_samples + RATE)
    at = 0
    while at < n_samples:
        n_syllables = 5
        n = round(n_syllables / rate * RATE)
        phrase = _phrase(rng, n, n_syllables, pitch_hz)
        out[at : at + n] += phrase[: len(out) - at]
        at += n + round(pause_s * RATE)
    return (0.5 * out[:n_samples] / np.abs(out[:n_samples]).max()).astype(np.float32)


def _phrase(rng, n: int, n_syllables: int, pitch_hz: float) -> np.ndarray:
    t = np.arange(n) / RATE
    pitch = pitch_hz * (1.15 - 0.3 * t / t[-1]) * (1 + 0.02 * np.sin(2 * math.pi * 5 * t))
    pitch *= 1 + 0.01 * np.interp(t, t[::160], rng.standard_normal(len(t[::160])))
    phase = np.cumsum(pitch / RATE)
    cycle = phase % 1
    glottis = np.where(cycle < 0.6, np.sin(math.pi * cycle / 0.6) ** 2, 0.0)  # open 60 % of each period
    source = np.diff(glottis, prepend=0.0) + 0.002 * rng.standard_normal(n)
    syllable = n / n_syllables
    centres = (np.arange(n_syllables) + 0.5) * syllable
    names = rng.choice(list(VOWELS), n_syllables)
    voiced = np.clip(np.sin(math.pi * (np.arange(n) % syllable) / syllable) * 2 - 0.4, 0, 1)
    sound = source * voiced
    for k, bandwidth in enumerate(_BANDWIDTHS):
        track = np.interp(np.arange(n), centres, [VOWELS[name][k] for name in names])
        sound = _resonate(sound, track, bandwidth)
    sound /= np.abs(sound).max()
    hiss = np.diff(
        rng.standard_normal(n), prepend=0.0
    )  # a fricative between syllables: noise that rises with frequency
    return sound + 0.03 * hiss * np.clip(0.5 - voiced, 0, 1)


def _resonate(x: np.ndarray, centre_hz: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return x through a two-pole resonator whose centre moves (Klatt 1980)."""
    r = math.exp(-math.pi * bandwidth / RATE)
    b = (2 * r * np.cos(2 * math.pi * centre_hz / RATE)).tolist()
    c = -r * r
    y1 = y2 = 0.0
    y = np.empty_like(x)
    for i, value in enumerate(x.tolist()):
        y0 = (1 - b[i] - c) * value + b[i] * y1 + c * y2
        y[i] = y0
        y1, y2 = y0, y1
    return y


def tone(seconds: float, hz: float = 440.0, *, rate: int = RATE) -> np.ndarray:
    """Return (L,) of a sine at half amplitude."""
    return (0.5 * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def silence(seconds: float, *, rate: int = RATE) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.float32)


def talking(t: float, **features) -> Image.Image:
    """Return the drawn face at second t of a talk: the mouth opens and closes four times a second."""
    return face(**{"mouth_open": 0.5 - 0.5 * math.cos(2 * math.pi * 4 * t), **features})


def write_clip(
    path: Path,
    *,
    seconds: float = 2.0,
    face: Image.Image | Callable[[float], Image.Image] | bool = True,
    voice: np.ndarray | bool = True,
    size: int = 320,
    fps: float = 25,
    rate: int = RATE,
    times: Sequence[float] | None = None,
    rotation: int = 0,
    face_at_s: float = 0.0,
    voice_at_s: float = 0.0,
    cover: Image.Image | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip in the container its suffix names and return its path.

    Args:
        face: a picture, a function of the second, True for a talking face, False for none.
        voice: (L,) or (C, L) samples at `rate`, True for a synthesised voice, False for none.
        times: seconds of each frame, for a variable frame rate; `fps` is then only nominal.
        rotation: degrees clockwise a player turns the picture by; it is stored turned the other way, so that it shows
            upright.
        face_at_s, voice_at_s: when the stream starts.
        cover: art attached to a sound file.
        options: of the muxer; {"live": "1"} makes a webm without duration, as browsers record it.
    """
    path = Path(path)
    video_codec, audio_codec = CODECS[path.suffix]
    draw = (lambda t: talking(t, size=size)) if face is True else face if callable(face) else lambda t: face
    samples = globals()["voice"](seconds) if voice is True else voice
    times = np.arange(round(seconds * fps)) / fps if times is None else times
    frames = []
    container = "mp4" if path.suffix == ".m4a" else None  # FFmpeg's own m4a refuses cover art
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        if cover is not None:
            art = out.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = *cover.size, "yuvj420p"
            art.disposition = Disposition.attached_pic
            frames.append([(-1.0, 0, art, av.VideoFrame.from_image(cover))])
        if face is not False and video_codec:
            frames.append(_pictures(out, video_codec, draw, [t + face_at_s for t in times], fps, rotation))
        if samples is not False and audio_codec:
            frames.append(_sounds(out, audio_codec, np.atleast_2d(samples), rate, voice_at_s))
        for _, _, stream, frame in merge(*frames, key=lambda item: item[0]):
            out.mux(stream.encode(frame))
        for stream in out.streams:
            out.mux(stream.encode(None))
    return path


def _pictures(out, codec: str, draw, times: Sequence[float], fps: float, rotation: int):
    stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
    first = np.rot90(np.asarray(draw(0.0).convert("RGB")), rotation // 90)
    stream.height, stream.width = first.shape[:2]
    stream.options = FASTEST.get(codec, {})
    stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    stream.codec_context.time_base = (
        Fraction(1, 1000) if codec != "mpeg4" else 1 / Fraction(fps).limit_denominator(1000)
    )
    if rotation:
        stream.set_display_rotation(-rotation)

    def frames():
        for i, t in enumerate(times):
            rgb = np.rot90(np.asarray(draw(t).convert("RGB")), rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
            frame.time_base = Fraction(1, 90_000)
            frame.pts = round(t * 90_000)
            yield t, i, stream, frame

    return frames()


def _sounds(out, codec: str, samples: np.ndarray, rate: int, at_s: float):
    layout = LAYOUTS[len(samples)]
    stream = out.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout=layout)

    def frames():
        for at in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, at : at + 1024], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = at + round(at_s * rate)
            yield at_s + at / rate, 0, stream, frame

    return frames()


def write_image(path: Path, picture: Image.Image, *, orientation: int = 1) -> Path:
    """Write a picture in the format its suffix names, stored so that `orientation` (EXIF, 1 to 8) shows it upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation in undo else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    return Path(path)
