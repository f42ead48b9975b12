"""Augmentation: rotate, scale, crop, flip, erase and blur faces; speed, rooms, noise, lines and mixtures for voices."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from mmer.config import SAMPLE_RATE


def faces(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augment a batch of crops (B, 1, H, W) in [0, 1], each in its own way."""
    B, _, H, W = images.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*(shape or (B,)), generator=generator) * (high - low) + low

    angle = uniform(-20, 20) * math.pi / 180
    scale = uniform(0.8, 1.15)  # below 1 zooms in: corpus crops are looser than ours
    flip = (uniform(0, 1) < 0.5).float() * -2 + 1
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos() * flip, -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin() * flip, scale * angle.cos()
    theta[:, :, 2] = uniform(-0.15, 0.15, B, 2)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    x = grid_sample(images, grid, padding_mode="border", align_corners=False)
    x = (x - 0.5) * uniform(0.7, 1.3)[:, None, None, None] + 0.5 + uniform(-0.15, 0.15)[:, None, None, None]
    soft = avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.where((uniform(0, 1) < 0.15)[:, None, None, None], soft, x).clamp(0, 1)
    # Erase one rectangle in a third of the crops with the crop's own mean: a hand, a microphone, hair.
    rows, cols = torch.arange(H)[None, :], torch.arange(W)[None, :]
    top, left = uniform(0, H)[:, None], uniform(0, W)[:, None]
    tall, wide = uniform(4, H / 2.5)[:, None], uniform(4, W / 2.5)[:, None]
    hole = ((rows >= top) & (rows < top + tall))[:, :, None] & ((cols >= left) & (cols < left + wide))[:, None, :]
    hole &= (uniform(0, 1) < 0.35)[:, None, None]
    return torch.where(hole[:, None], x.mean((2, 3), keepdim=True), x)


def waveform(samples: np.ndarray, longest: int, generator: torch.Generator, *, noise: bool = True) -> Tensor:
    """Return an utterance at another speed (and with it pitch), cut to at most `longest` samples, noise on some.

    A short utterance stays short: silence around it would enter its normalisation, which no utterance in use has.

    Args:
        samples: (L,) mono in [-1, 1].
    """

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    x = torch.from_numpy(samples).float()
    speed = 0.88 + 0.24 * draw()
    x = interpolate(x[None, None], size=max(int(len(x) / speed), 1), mode="linear", align_corners=False)[0, 0]
    if noise and draw() < 0.35:
        white = torch.randn(len(x), generator=generator)
        if draw() < 0.5:  # brownish: hum and rooms lie low
            walk = torch.cumsum(white, 0)
            white = walk - interpolate(walk[None, None, ::400], size=len(x), mode="linear")[0, 0]
        snr_db = 8 + 30 * draw()
        gain = x.pow(2).mean().sqrt() / white.pow(2).mean().sqrt().clamp_min(1e-6) * 10 ** (-snr_db / 20)
        x = x + gain * white
    start = int(draw() * (max(len(x) - longest, 0) + 1))
    return x[start : start + longest]


def reverberate(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Return an utterance (L,) as a room of 0.1 to 0.6 s would give it back: an echo of decaying noise, same length."""
    t60_s, level = (torch.rand(2, generator=generator) * torch.tensor([0.5, 0.6]) + torch.tensor([0.1, 0.1])).tolist()
    n = int(t60_s * SAMPLE_RATE)
    tail = torch.randn(n, generator=generator) * 10 ** (-3 * torch.arange(n) / n)  # 60 dB down at its end
    tail = tail * level / tail.norm()
    tail[0] = 1.0  # what comes straight
    size = len(samples) + n
    return torch.fft.irfft(torch.fft.rfft(samples, size) * torch.fft.rfft(tail, size), size)[: len(samples)]


def other_speaker(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Return a normalised log-mel (T_a, M) as of a longer or shorter throat, at another pace, over another microphone.

    Frequency is stretched (https://www.cs.toronto.edu/~hinton/absps/perturb.pdf), time is stretched without the pitch,
    a smooth curve is added over the bands, and a few lose what a telephone loses. It is normalised again at the end.
    """
    T_a, M = mel.shape

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    n_frames = max(int(T_a * draw(0.85, 1.2)), 1)
    rows = torch.linspace(-1, 1, n_frames) if n_frames > 1 else torch.zeros(1)
    columns = ((torch.arange(M) + 0.5) * draw(0.88, 1.12) * 2 / M - 1)[None].expand(n_frames, M)
    grid = torch.stack([columns, rows[:, None].expand(n_frames, M)], -1)[None]
    x = grid_sample(mel[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    knots = torch.randn(1, 1, 6, generator=generator) * 0.35  # of a deviation of the log-mel, which is about 13 dB
    x = x + interpolate(knots, size=M, mode="linear", align_corners=True)[0, 0]
    if draw(0, 1) < 0.15:
        high = int(M * draw(0.65, 0.9))  # 0.7 of 64 bands is 3.6 kHz
        x[:, high:] = x.min()
    return (x - x.mean()) / x.std().clamp_min(1e-3)


def spec_augment(mels: Tensor, generator: torch.Generator, *, time: int = 25, bands: int = 10) -> Tensor:
    """Blank up to two stretches of time and two of frequency per clip (B, T_a, M). https://arxiv.org/abs/1904.08779"""
    B, T_a, M = mels.shape
    for size, limit, axis in ((T_a, time, 1), (T_a, time, 1), (M, bands, 2), (M, bands, 2)):
        width = torch.rand(B, generator=generator) * limit
        start = torch.rand(B, generator=generator) * (size - width)
        where = torch.arange(size)[None]
        hole = (where >= start[:, None]) & (where < (start + width)[:, None])
        mels = mels.masked_fill(hole[:, :, None] if axis == 1 else hole[:, None, :], 0.0)  # 0 is the clip's mean
    return mels


def mixup(
    x: Tensor, targets: Tensor, generator: torch.Generator, *, alpha: float = 0.2
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Blend each example and its target with another of the batch, and say with which (B,) and how much it keeps.

    https://arxiv.org/abs/1710.09412
    """
    share = float(np.random.default_rng(int(torch.randint(2**31, (), generator=generator))).beta(alpha, alpha))
    share = max(share, 1 - share)
    other = torch.randperm(len(x), generator=generator)
    return share * x + (1 - share) * x[other], share * targets + (1 - share) * targets[other], other, share
