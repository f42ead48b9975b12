"""Sound to speech: voice activity, utterances, noise reduction, log-mel."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mmer.config import VoiceConfig


@dataclass(frozen=True)
class LogMel:
    """A normalised log-mel spectrogram and the value silence has in it."""

    mel: Tensor  # (T_a, M), zero mean and unit variance over the utterance
    silence: float  # what digital silence maps to: the baseline of an attribution


@lru_cache(maxsize=4)
def _mel_transform(config: VoiceConfig):
    import torchaudio

    return torchaudio.transforms.MelSpectrogram(
        config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        f_min=config.f_min_hz,
        f_max=config.f_max_hz,
        n_mels=config.n_mels,
    )


def log_mel(samples: np.ndarray | Tensor, config: VoiceConfig | None = None) -> LogMel:
    """Return the log-mel of one utterance, normalised by its own mean and deviation and nothing else.

    Args:
        samples: (L,) mono at `config.sample_rate`, in [-1, 1]; shorter than one window is padded with silence.
    """
    config = config or VoiceConfig()
    x = torch.as_tensor(np.asarray(samples), dtype=torch.float32)
    if x.numel() < config.win_length:
        x = torch.nn.functional.pad(x, (0, config.win_length - x.numel()))
    mel = _mel_transform(config)(x).add(config.floor).log().T  # (T_a, M)
    mean, std = mel.mean(), mel.std().clamp_min(1e-3)
    return LogMel((mel - mean) / std, float((np.log(config.floor) - mean) / std))
