"""How a voice runs, in a phonetician's terms: its pitch, its loudness, its pauses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmer import voice
from mmer.config import VoiceConfig
from mmer.voice import LogMel

PITCH_HZ = (75.0, 600.0)  # from a deep man's voice to a scream
PAUSE_DB, PAUSE_S = -35.0, 0.15  # below the loudest moment, and for so long: nobody speaks
_ROOM_DB, _LOUDEST_ROOM_DB = 8.0, -25.0  # nor does anybody so little above the quietest twentieth, where that is quiet
LOUDER_DB = 3.0  # from here on one part of an utterance is louder than its voiced rest
HIGHER = 2 ** (2 / 12)  # and higher: by two semitones
_VOICED_DB = -25.0  # below the loudest moment no pitch is told: it would be that of the room
_VOICED = 0.45  # of the autocorrelation: what repeats itself less is hiss
_OCTAVE_COST = 0.05  # for each octave down: twice a period is a period too
_MEDIAN = 5  # frames, of 10 ms each
_SPARSE = 5  # each fifth frame is told to programs


@dataclass(frozen=True)
class Prosody:
    """The contours of one utterance, a value for each frame of its log-mel."""

    times_s: Tensor  # (T,) from the clip's beginning
    loudness_db: Tensor  # (T,) relative to the loudest moment, at most 0
    pitch_hz: Tensor  # (T,) NaN where no voice sounds; all NaN where nobody measured it
    pauses: tuple[tuple[float, float], ...]  # start and end in seconds

    def louder(self, start_s: float, end_s: float) -> bool:
        """Whether a stretch is louder than the utterance is where it is voiced."""
        own, rest = self._medians(self.loudness_db, self.loudness_db > _VOICED_DB, start_s, end_s)
        return own - rest >= LOUDER_DB

    def higher(self, start_s: float, end_s: float) -> bool:
        """Whether the pitch of a stretch lies above that of the rest."""
        own, rest = self._medians(self.pitch_hz, ~self.pitch_hz.isnan(), start_s, end_s)
        return own >= HIGHER * rest

    def to_dict(self) -> dict:
        """Return 20 values a second as lists; a pitch is null where no voice sounds."""
        pitch = [None if hz != hz else round(hz, 1) for hz in self.pitch_hz[::_SPARSE].tolist()]
        return {
            "times_s": [round(t, 3) for t in self.times_s[::_SPARSE].tolist()],
            "loudness_db": [round(db, 1) for db in self.loudness_db[::_SPARSE].tolist()],
            "pitch_hz": pitch,
            "pauses": [{"start_s": round(start, 3), "end_s": round(end, 3)} for start, end in self.pauses],
        }

    def _medians(self, contour: Tensor, voiced: Tensor, start_s: float, end_s: float) -> tuple[float, float]:
        """Return the medians of what is voiced in a stretch and beside it; NaN, which compares to nothing, of none."""
        inside = (self.times_s >= start_s) & (self.times_s < end_s)
        own, rest = (float(contour[where & voiced].median()) for where in (inside, ~inside))
        return own, rest


def pitch(samples: np.ndarray | Tensor, config: VoiceConfig, n_frames: int) -> Tensor:
    """Return the pitch (n_frames,) in Hz at each frame of a log-mel of these samples; NaN where no voice sounds.

    By the autocorrelation of a window divided by that of the window's shape, the higher of two candidates a little
    preferred, as https://www.fon.hum.uva.nl/paul/papers/Proceedings_1993.pdf has it; then a median over time.

    Args:
        samples: (L,) mono at `config.sample_rate`.
    """
    rate, size = config.sample_rate, int(3 * config.sample_rate / PITCH_HZ[0])
    size += size % 2
    window = torch.hann_window(size, periodic=False)
    x = torch.as_tensor(samples, dtype=torch.float32)
    around = torch.nn.functional.pad(x, (size // 2, size // 2 + config.hop_length))
    frames = around.unfold(0, size, config.hop_length)[:n_frames]
    frames = (frames - frames.mean(1, keepdim=True)) * window
    short, long = int(rate / PITCH_HZ[1]), int(rate / PITCH_HZ[0])
    found = _autocorrelation(frames)[:, : long + 2]
    found = found / _autocorrelation(window[None])[:, : long + 2]
    lags = torch.arange(long + 2)
    peak = (found[:, 1:-1] > found[:, :-2]) & (found[:, 1:-1] >= found[:, 2:]) & (lags[1:-1] >= short)
    worth = found[:, 1:-1] - _OCTAVE_COST * (lags[1:-1] * PITCH_HZ[0] / rate).log2()
    at = worth.masked_fill(~peak, -torch.inf).argmax(1) + 1
    before, own, after = (found.gather(1, (at + step)[:, None])[:, 0] for step in (-1, 0, 1))
    # The peak lies between samples: the top of a parabola through three of them.
    lag = at + 0.5 * (before - after) / (before - 2 * own + after).clamp_max(-1e-9)
    hz = (rate / lag).masked_fill(~peak.any(1) | (own < _VOICED), torch.nan)
    beside = torch.nn.functional.pad(hz[None], (_MEDIAN // 2, _MEDIAN // 2), value=torch.nan)[0].unfold(0, _MEDIAN, 1)
    steady = (~beside.isnan()).sum(1) > _MEDIAN // 2
    hz = beside.nanmedian(1).values.masked_fill(hz.isnan() | ~steady, torch.nan)
    return torch.nn.functional.pad(hz, (0, n_frames - len(hz)), value=torch.nan)


def _autocorrelation(frames: Tensor) -> Tensor:
    """Return the autocorrelation (T, L) of frames (T, L), 1 without a lag; that of silence is 0 elsewhere."""
    power = torch.fft.rfft(frames, 2 * frames.shape[1]).abs().square()
    found = torch.fft.irfft(power)[:, : frames.shape[1]]
    return found / found[:, :1].clamp_min(1e-9)


def prosody(sound: LogMel, pitch_hz: Tensor | None, start_s: float, config: VoiceConfig) -> Prosody:
    """Return the contours of an utterance.

    Args:
        pitch_hz: (T,) as `pitch` returned it; None where it was not measured.
        start_s: of the utterance.
    """
    power = voice.power_of(sound, config).sum(1)
    loudness = 10 * (power / power.max().clamp_min(config.floor)).clamp_min(1e-10).log10()
    hop_s = config.hop_length / config.sample_rate
    times = start_s + hop_s * torch.arange(len(power))
    if pitch_hz is None:
        pitch_hz = torch.full_like(loudness, torch.nan)
    return Prosody(
        times, loudness, pitch_hz.masked_fill(loudness < _VOICED_DB, torch.nan), _pauses(loudness, times, hop_s)
    )


def _pauses(loudness: Tensor, times: Tensor, hop_s: float) -> tuple[tuple[float, float], ...]:
    room = float(loudness.quantile(0.05)) + _ROOM_DB
    quiet = torch.nn.functional.pad((loudness < min(max(room, PAUSE_DB), _LOUDEST_ROOM_DB)).int(), (1, 1))
    begins, ends = ((quiet.diff() == step).nonzero().flatten().tolist() for step in (1, -1))
    spans = ((float(times[b]), float(times[e - 1]) + hop_s) for b, e in zip(begins, ends, strict=True))
    return tuple(span for span in spans if span[1] - span[0] >= PAUSE_S)
