"""Examples to try without a recording of anybody: a face that is drawn and a voice that is synthesised here."""

import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from annotations.db.engine import private_folder
from mmer.messages import marked

_SIZE, _FPS, _RATE, _SECONDS = 320, 10, 16_000, 3.0
# First four formants (Hz) of vowels of an adult (Peterson and Barney 1952), and their bandwidths.
_VOWELS = ((730, 1090, 2440, 3400), (270, 2290, 3010, 3600), (570, 840, 2410, 3300), (530, 1840, 2480, 3500))
_BANDWIDTHS = (80, 100, 140, 200)


@dataclass(frozen=True)
class Example:
    """Something to try: a sentence, a file that is made here, or both."""

    id: str
    title: str
    words: str = ""  # given with a voice too: it says vowels only, in which Whisper would hear what is not there
    file: str = ""  # its name


EXAMPLES = (
    Example(
        "talk",
        marked("A drawn face that talks"),
        words="I am so glad that you are here!",
        file="drawn face talking.mp4",
    ),
    Example("smile", marked("A drawn face that smiles"), file="drawn smile.png"),
    Example("voice", marked("A synthesised voice"), words="It is eleven o’clock.", file="synthesised voice.wav"),
    Example("surprise", "“I did not expect that at all!”", words="I did not expect that at all!"),
    Example("anger", "“Leave me alone, I hate this.”", words="Leave me alone, I hate this."),
)


class ExampleFiles:
    """Makes the files once, in memory; `place` puts one among the uploads, from where it goes as they do."""

    def __init__(self, uploads: Path):
        self._uploads = uploads
        self._made: dict[str, bytes] = {}
        self._making = threading.Lock()

    def warm(self) -> None:
        """Make every file, so that nobody waits for one."""
        for example in EXAMPLES:
            self._bytes(example)

    def place(self, example: Example) -> list[str]:
        """Return the files of an example, in a folder of their own."""
        if not example.file:
            return []
        private_folder(self._uploads)
        folder = self._uploads / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        file = folder / example.file
        file.write_bytes(self._bytes(example))
        return [str(file)]

    def _bytes(self, example: Example) -> bytes:
        with self._making:
            if example.file and example.id not in self._made:
                private_folder(self._uploads)
                part = self._uploads / f"{secrets.token_hex(8)}{Path(example.file).suffix}"
                try:
                    _MAKERS[example.id](part)
                    self._made[example.id] = part.read_bytes()
                finally:
                    part.unlink(missing_ok=True)
            return self._made.get(example.id, b"")


def draw_face(mouth_open: float, smile: float, brows: float) -> Image.Image:
    """Return a face that Face Landmarker finds; each argument goes from 0 to 1."""
    image = Image.new("RGB", (_SIZE, _SIZE), (150, 170, 190))
    draw = ImageDraw.Draw(image)
    skin, shade, dark, lips = (224, 182, 150), (196, 150, 120), (60, 40, 30), (170, 70, 70)

    def at(x: float, y: float) -> tuple[float, float]:
        return _SIZE / 2 + x, _SIZE / 2 + y

    def oval(x: float, y: float, rx: float, ry: float, fill: tuple[int, int, int]) -> None:
        draw.ellipse((*at(x - rx, y - ry), *at(x + rx, y + ry)), fill=fill)

    draw.rectangle((*at(-30, 70), *at(30, 160)), fill=shade)
    oval(0, -25, 92, 112, dark)
    oval(0, 8 * mouth_open, 82, 108 + 8 * mouth_open, skin)
    for side in (-1, 1):
        for rx, ry, fill in ((18, 9, (250, 250, 250)), (8, 8, (70, 50, 30)), (4, 4, (10, 10, 10))):
            oval(side * 34, -20, rx, ry, fill)
        lift = 12 * brows
        brow = [at(side * 56, -42 - 0.3 * lift), at(side * 36, -48 - 0.7 * lift), at(side * 16, -43 - 1.3 * lift)]
        draw.line(brow, fill=dark, width=5, joint="curve")
    draw.line([at(-3, -15), at(-10, 22), at(0, 27), at(10, 22)], fill=shade, width=5, joint="curve")
    x = np.linspace(-1, 1, 13)
    half, corner = 30 + 10 * smile - 8 * mouth_open, 56 + 8 * mouth_open - 16 * smile * x**2
    bulge = 1 - x * x
    upper = [at(half * a, b) for a, b in zip(x, corner - (3 + 8 * mouth_open) * bulge, strict=True)]
    lower = [at(half * a, b) for a, b in zip(x, corner + (4 + 40 * mouth_open) * bulge, strict=True)]
    draw.polygon([*upper, *lower[::-1]], fill=(90, 20, 25))
    for edge in (upper, lower):
        draw.line(edge, fill=lips, width=5, joint="curve")
    return image


def speak(seconds: float, pitch_hz: float) -> np.ndarray:
    """Return (L,) float32 at 16 kHz of a voice saying vowels: pulses of falling pitch through gliding resonators."""
    from scipy.signal import lfilter  # takes half a second, which the first page does not wait for

    n, block = round(seconds * _RATE), _RATE // 100
    t = np.arange(n) / _RATE
    phrase = t % 1.5  # falls in each phrase, and is silent at its end
    pitch = pitch_hz * (1.15 - 0.2 * phrase) * (1 + 0.02 * np.sin(2 * math.pi * 5 * t))
    cycle = np.cumsum(pitch / _RATE) % 1
    glottis = np.where(cycle < 0.6, np.sin(math.pi * cycle / 0.6) ** 2, 0.0)
    syllable = np.clip(np.sin(math.pi * (t * 4 % 1)) * 2 - 0.4, 0, 1) * (phrase < 1.25)
    noise = np.random.default_rng(0).standard_normal(n)
    sound = (np.diff(glottis, prepend=0.0) + 0.002 * noise) * syllable
    centres = np.arange(0, seconds + 0.25, 0.25)
    for k, bandwidth in enumerate(_BANDWIDTHS):
        track = np.interp(t, centres, [_VOWELS[i % len(_VOWELS)][k] for i in range(len(centres))])
        r, state, pieces = math.exp(-math.pi * bandwidth / _RATE), np.zeros(2), []
        for at in range(0, n, block):
            b, c = 2 * r * math.cos(2 * math.pi * track[at] / _RATE), -r * r
            piece, state = lfilter([1 - b - c], [1, -b, -c], sound[at : at + block], zi=state)
            pieces.append(piece)
        sound = np.concatenate(pieces)
    hiss = 0.03 * np.diff(noise, prepend=0.0) * np.clip(0.5 - syllable, 0, 1) * (phrase < 1.25)
    sound = sound / np.abs(sound).max() + hiss
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def _talk(path: Path) -> None:
    with av.open(str(path), "w") as out:
        film, track = out.add_stream("libx264", rate=_FPS), out.add_stream("aac", rate=_RATE, layout="mono")
        film.width = film.height = _SIZE
        film.pix_fmt, film.options = "yuv420p", {"preset": "veryfast"}
        for i in range(round(_SECONDS * _FPS)):
            t = i / _FPS
            face = draw_face(0.25 - 0.25 * math.cos(2 * math.pi * 4 * t), min(t, 1.0), min(t / 2, 1.0))
            out.mux(film.encode(av.VideoFrame.from_image(face)))
        out.mux(film.encode(None))
        _add_sound(out, track, speak(_SECONDS, 190.0))


def _voice(path: Path) -> None:
    with av.open(str(path), "w") as out:
        _add_sound(out, out.add_stream("pcm_s16le", rate=_RATE, layout="mono"), speak(_SECONDS, 120.0))


def _smile(path: Path) -> None:
    draw_face(0.15, 1.0, 0.2).save(path)


def _add_sound(out, track, samples: np.ndarray) -> None:
    for at in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, at : at + 1024], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, at, Fraction(1, _RATE)
        out.mux(track.encode(frame))
    out.mux(track.encode(None))


_MAKERS: dict[str, Callable[[Path], None]] = {"talk": _talk, "smile": _smile, "voice": _voice}
