"""Augmented views of an utterance for networks too large to hear every epoch anew: a few, drawn once."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmer.config import SAMPLE_RATE
from training.data import augment

VERSION = 2  # of the views: what is cached of another one is not used


def telephone(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Return an utterance (L,) as a telephone would pass it on: 300 to 3400 Hz, eight bits on the mu-law scale."""
    low, high = (
        200 + 200 * float(torch.rand((), generator=generator)),
        3000 + 900 * float(torch.rand((), generator=generator)),
    )
    spectrum = torch.fft.rfft(samples)
    hz = torch.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    x = torch.fft.irfft(spectrum * ((hz > low) & (hz < high)), len(samples))
    peak = x.abs().max().clamp_min(1e-6)
    companded = torch.sign(x) * torch.log1p(255 * (x / peak).abs()) / np.log(256)
    companded = (companded * 127).round() / 127
    return torch.sign(companded) * torch.expm1(companded.abs() * np.log(256)) / 255 * peak


def microphone(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Return an utterance (L,) through another microphone: a smooth curve of up to about 10 dB over the frequencies."""
    spectrum = torch.fft.rfft(samples)
    knots = torch.randn(1, 1, 8, generator=generator) * 4  # dB
    curve = interpolate(knots, size=len(spectrum), mode="linear", align_corners=True)[0, 0]
    return torch.fft.irfft(spectrum * 10 ** (curve / 20), len(samples))


def babble(samples: Tensor, others: Sequence[np.ndarray], snr_db: float, generator: torch.Generator) -> Tensor:
    """Return an utterance (L,) with several others talking behind it, their level `snr_db` below its own."""
    crowd = torch.zeros(len(samples))
    for _ in range(4):
        other = torch.from_numpy(others[int(torch.randint(len(others), (), generator=generator))]).float()
        other = other / other.pow(2).mean().sqrt().clamp_min(1e-6)
        crowd += other.repeat(-(-len(samples) // max(len(other), 1)))[: len(samples)]
    level = samples.pow(2).mean().sqrt() / crowd.pow(2).mean().sqrt().clamp_min(1e-6)
    return samples + crowd * level * 10 ** (-snr_db / 20)


def view(samples: np.ndarray, others: Sequence[np.ndarray], generator: torch.Generator) -> np.ndarray:
    """Return an utterance (L,) at another speed and pitch, and often in another room, in noise or over another line.

    Args:
        others: utterances that may talk in the background, as `crowds` gives them.
    """
    x = augment.waveform(samples, len(samples) * 2, generator)
    room, line, crowd, phone, snr = torch.rand(5, generator=generator).tolist()
    if room < 0.3:
        x = augment.reverberate(x, generator)
    if line < 0.5:
        x = microphone(x, generator)
    if crowd < 0.2:
        x = babble(x, others, 20 * snr, generator)
    if phone < 0.15:
        x = telephone(x, generator)
    return (x / x.abs().max().clamp_min(1.0)).numpy()


def crowds(samples: Sequence[np.ndarray], speakers: Sequence[str]) -> list[list[np.ndarray]]:
    """Return for each utterance those that may talk behind it: its own speaker's.

    Another's would carry a voice that is to be new from one side of a split to the other.
    """
    own: dict[str, list[np.ndarray]] = {}
    for x, speaker in zip(samples, speakers, strict=True):
        own.setdefault(speaker, []).append(x)
    return [own[speaker] for speaker in speakers]


def views(samples: np.ndarray, others: Sequence[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield an utterance as it is and `n` views of it, the same ones at each call with the same others."""
    seed = int.from_bytes(hashlib.sha256(samples.tobytes()).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    yield samples
    for _ in range(n):
        yield view(samples, others, generator)
