"""What an explanation points at, taken from the recording again: the pictures of its frames, the sound of its moments.

Neither is kept with a result: pictures of a clip are many times what the model reads of them.
"""

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmer import media
from mmer.config import SAMPLE_RATE
from mmer.errors import ClipError
from mmer.explanation import Explanation
from mmer.media import VideoFrame
from mmer.predict import EmotionResult

N_SOUNDS = 3  # stretches of the voice that can be played
_AROUND_S = 0.25  # a frame is looked for this long after its time: the clock of a track has single precision


@dataclass(frozen=True)
class Excerpts:
    """Empty where the recording is gone, or has no picture or sound."""

    frames: dict[int, np.ndarray]  # (H, W, 3) uint8 of the frames that have a map, by their index
    sounds: tuple[tuple[float, float, float, bytes], ...]  # start and end in seconds, score, wav


def excerpts(result: EmotionResult, why: Explanation) -> Excerpts:
    """Return the pictures and sounds that an explanation marks."""
    files = [Path(info.path) for info in result.observation.files]
    with_picture = [f for f, info in zip(files, result.observation.files, strict=True) if info.has_picture]
    with_sound = [f for f, info in zip(files, result.observation.files, strict=True) if info.has_sound]
    try:
        frames = _frames(with_picture[0], why) if with_picture and why.face_map is not None else {}
        sounds = _sounds(with_sound[0], why) if with_sound and why.voice_bands else ()
    except ClipError:  # what was uploaded may be gone by now
        return Excerpts({}, ())
    return Excerpts(frames, sounds)


def _frames(path: Path, why: Explanation) -> dict[int, np.ndarray]:
    if why.face_map is None:
        return {}
    mapped = (~why.face_map.isnan().any(2).any(1)).nonzero().flatten().tolist()
    found: dict[int, np.ndarray] = {}
    for i in mapped:
        time_s = why.face_moments[i][0]
        wanted = (max(time_s - 1e-3, 0.0), time_s + _AROUND_S)
        pieces = media.stream(path, fps=1000.0, start_s=wanted[0], end_s=wanted[1], sound=False)
        frame = next((piece for piece in pieces if isinstance(piece, VideoFrame)), None)
        if frame is not None:
            found[i] = frame.rgb
    return found


def _sounds(path: Path, why: Explanation) -> tuple[tuple[float, float, float, bytes], ...]:
    """Return the stretches whose bands together count most, whatever their sign."""
    scores: dict[tuple[float, float], float] = {}
    for band in why.voice_bands:
        at = band["start_s"], band["end_s"]
        scores[at] = scores.get(at, 0.0) + band["score"]
    best = sorted(sorted(scores, key=lambda at: -abs(scores[at]))[:N_SOUNDS])
    return tuple((*at, scores[at], wav(media.read_audio(path, start_s=at[0], end_s=at[1]))) for at in best)


def wav(samples: np.ndarray) -> bytes:
    """Return samples (L,) in [-1, 1] at 16 kHz as a file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
