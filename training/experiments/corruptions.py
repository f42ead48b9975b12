"""Worse input: noise over voices, blur and cover over faces, wrong words; and what is left of fusion then."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

NOISES = ("white", "babble")
COVERS = ("eyes", "mouth")


def noisy(
    samples: np.ndarray, snr_db: float, rng: np.random.Generator, babble: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Return an utterance (L,) under noise at a signal-to-noise ratio over its whole length.

    Args:
        babble: other people's utterances; four of them, drawn at random, are the noise. Without any it is white.
    """
    if len(babble):
        noise = np.zeros(len(samples))
        for i in rng.choice(len(babble), 4):
            other = np.resize(babble[i], len(samples)).astype(float)  # repeated where it is shorter
            noise += other / max(float(np.sqrt((other**2).mean())), 1e-6)
    else:
        noise = rng.standard_normal(len(samples))
    power, of_noise = float((samples.astype(float) ** 2).mean()), float((noise**2).mean())
    gain = math.sqrt(power / max(of_noise, 1e-12) / 10 ** (snr_db / 10))
    return (samples + gain * noise).astype(np.float32)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return images (N, H, W) uint8 under a Gaussian blur of `sigma` pixels."""
    n = math.ceil(3 * sigma)
    at = torch.arange(-n, n + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = pad(images[:, None].float(), (n, n, n, n), mode="replicate")
    x = conv2d(conv2d(x, kernel[None, None, None, :]), kernel[None, None, :, None])
    return x[:, 0].round().clamp(0, 255).to(torch.uint8)


def covered(images: Tensor, what: str) -> Tensor:
    """Return face crops (N, H, W) uint8 with a dark patch over the eyes (sunglasses) or a light one over the mouth."""
    _, H, W = images.shape
    y0, y1, shade = (0.25, 0.5, 20) if what == "eyes" else (0.58, 1.0, 220)
    x = images.clone()
    x[:, round(y0 * H) : round(y1 * H), round(0.08 * W) : round(0.92 * W)] = shade
    return x


def misheard(text: str, rate: float, words: Sequence[str], rng: np.random.Generator) -> str:
    """Return a sentence with word errors at `rate`: replaced, dropped and added words, a third each.

    Args:
        words: what replaces and is added, drawn evenly; the corpus' own words, as often as they are said.
    """
    out = []
    for word in text.split():
        draw = rng.random()
        if draw < rate * 2 / 3:  # replaced, or dropped
            if draw < rate / 3:
                out.append(str(rng.choice(words)))
        else:
            out.append(word)
            if draw < rate:
                out.append(str(rng.choice(words)))
    return " ".join(out) or text.split()[0]  # something was said
