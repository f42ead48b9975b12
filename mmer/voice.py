"""Sound to speech: voice activity, utterances, noise reduction, log-mel."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from threading import Thread

import numpy as np
import torch
from torch import Tensor

from mmer.config import SAMPLE_RATE, VoiceConfig
from mmer.errors import Notice

# Where nobody speaks for longer than this, an utterance ends however short it is: the next words may be another mood.
MAX_PAUSE_S = 1.5

# silero-vad's own 0.5 was set on ordinary talk. On 600 RAVDESS and 243 EMO-DB clips it missed one scream whole and
# found under a second of speech in six clips; 0.35 missed none and left four, and still found nothing in noise, hum or
# chords.
VAD_THRESHOLD = 0.35

# Beyond these the log-mel of real speech (44 clips, 31 speakers) no longer looks like itself.
QUIET_DBFS = -50.0  # correlation with the same speech at -20 dBFS: 0.98 at the median, 0.95 for the worst twentieth
CLIPPED_SHARE = 0.005  # of the speech samples at full scale: about 4 dB too loud; clean corpora stay below 0.0001
NOISY_DB = 10.0  # speech over noise: correlation with the clean speech 0.57 in white noise, 0.76 in pink


@dataclass(frozen=True)
class Span:
    """A stretch of a clip, in seconds from its beginning."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class LogMel:
    """A normalised log-mel spectrogram and the value silence has in it."""

    mel: Tensor  # (T_a, M), zero mean and unit variance over the utterance
    silence: float  # what digital silence maps to: the baseline of an attribution
    deviation: float  # of the log-mel before it was normalised: with `silence` it leads back to the power

    def __repr__(self) -> str:
        return f"LogMel({' x '.join(map(str, self.mel.shape))}, silence {self.silence:.2f})"


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


def speech_bounds(spans: Sequence[Span], duration_s: float, config: VoiceConfig | None = None) -> Span:
    """Return the stretch of a recording known to be one utterance that speech fills; all of it where none was found."""
    if not spans:
        return Span(0.0, duration_s)
    pad_s = (config or VoiceConfig()).pad_s
    return Span(max(spans[0].start_s - pad_s, 0.0), min(spans[-1].end_s + pad_s, duration_s))


def log_mel(samples: np.ndarray | Tensor, config: VoiceConfig | None = None) -> LogMel:
    """Return the log-mel of one utterance, normalised by its own mean and deviation and nothing else.

    Args:
        samples: (L,) mono at `config.sample_rate`, in [-1, 1]; shorter than one window is padded with silence.
    """
    config = config or VoiceConfig()
    x = torch.as_tensor(np.asarray(samples), dtype=torch.float32)
    if x.numel() < config.win_length:
        x = torch.nn.functional.pad(x, (0, config.win_length - x.numel()))
    return of_power(mel_power(x, config), config)


def mel_power(samples: Tensor, config: VoiceConfig) -> Tensor:
    """Return the power (T_a, M) of samples (L,) in each mel bin."""
    return _mel_transform(config)(samples).T


def of_power(power: Tensor, config: VoiceConfig | None = None) -> LogMel:
    """Return the log-mel of the power (T_a, M) in each mel bin."""
    config = config or VoiceConfig()
    mel = power.add(config.floor).log()
    mean, std = mel.mean(), mel.std().clamp_min(1e-3)
    return LogMel((mel - mean) / std, float((np.log(config.floor) - mean) / std), float(std))


def power_of(sound: LogMel, config: VoiceConfig | None = None) -> Tensor:
    """Return the power (T_a, M) that a log-mel was made of."""
    config = config or VoiceConfig()
    return ((sound.mel - sound.silence) * sound.deviation).exp().sub(1).clamp_min(0) * config.floor


# silero-vad keeps its state in the model and crawls when torch splits its tiny operations over threads (60 s of talk:
# 0.7 s on one thread, 8 to 20 s on two while both cores were busy). A thread of its own gives it both: calls wait for
# each other, and its thread count of one is nobody else's.
_vad_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vad")


def _renew_vad_thread() -> None:
    global _vad_thread
    _vad_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vad")
    _vad_model.cache_clear()


os.register_at_fork(after_in_child=_renew_vad_thread)  # a forked worker inherits the executor but not its thread


@lru_cache(maxsize=1)
def _vad_model():
    n_threads = torch.get_num_threads()
    import silero_vad  # sets torch to one thread, here and for every thread that starts using torch later

    torch.set_num_threads(1)
    restore = Thread(target=torch.set_num_threads, args=(n_threads,))  # for later threads, not for this one
    restore.start()
    restore.join()
    return silero_vad.load_silero_vad()


def _detect(x: Tensor) -> list[Span]:
    model = _vad_model()
    from silero_vad import get_speech_timestamps

    stamps = get_speech_timestamps(x, model, sampling_rate=SAMPLE_RATE, threshold=VAD_THRESHOLD)
    return [Span(s["start"] / SAMPLE_RATE, s["end"] / SAMPLE_RATE) for s in stamps]


def speech_spans(samples: np.ndarray) -> list[Span]:
    """Return where somebody speaks, by silero-vad; pauses under 0.1 s do not divide, sounds under 0.25 s do not count.

    Args:
        samples: (L,) mono at 16 kHz, in [-1, 1].
    """
    x = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    return _vad_thread.submit(_detect, x).result()


def _quietest(span: Span, samples: np.ndarray | None) -> float:
    """Return the moment in the middle third of a span where 50 ms are quietest; its middle when there is no sound."""
    third = span.duration_s / 3
    frame = SAMPLE_RATE // 20
    start = int((span.start_s + third) * SAMPLE_RATE)
    middle = np.zeros(0) if samples is None else samples[start : int((span.end_s - third) * SAMPLE_RATE)]
    if len(middle) < frame:
        return span.start_s + span.duration_s / 2
    power = np.convolve(np.square(middle, dtype=np.float64), np.ones(frame), mode="valid")
    return (start + int(power.argmin()) + frame // 2) / SAMPLE_RATE


def _halve(span: Span, limit_s: float, samples: np.ndarray | None) -> list[Span]:
    if span.duration_s <= limit_s:
        return [span]
    cut = _quietest(span, samples)
    return _halve(Span(span.start_s, cut), limit_s, samples) + _halve(Span(cut, span.end_s), limit_s, samples)


def utterances(
    spans: list[Span], duration_s: float, config: VoiceConfig | None = None, *, samples: np.ndarray | None = None
) -> list[Span]:
    """Return the utterances of a clip in order: speech spans joined over their shortest pauses first, so that what
    stays divided is divided at the longest ones; each at most `config.max_utterance_s`, padding included.

    Args:
        spans: in order, apart from each other.
        duration_s: of the clip; nothing reaches beyond it.
        samples: (L,) at 16 kHz; speech without a pause for longer than the limit is then cut where it is quietest.
    """
    config = config or VoiceConfig()
    limit_s = config.max_utterance_s - 2 * config.pad_s
    parts = [part for span in spans for part in _halve(span, limit_s, samples)]
    while len(parts) > 1:
        pairs = [
            (b.start_s - a.end_s, i)
            for i, (a, b) in enumerate(pairwise(parts))
            if b.end_s - a.start_s <= limit_s and b.start_s - a.end_s <= MAX_PAUSE_S
        ]
        if not pairs:
            break
        i = min(pairs)[1]
        parts[i : i + 2] = [Span(parts[i].start_s, parts[i + 1].end_s)]
    parts = [part for part in parts if part.duration_s >= config.min_utterance_s]
    edges = [0.0, *((a.end_s + b.start_s) / 2 for a, b in pairwise(parts)), duration_s]
    return [
        Span(max(part.start_s - config.pad_s, left), min(part.end_s + config.pad_s, right))
        for part, left, right in zip(parts, edges, edges[1:], strict=False)
    ]


def denoise(samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Return the samples with steady noise turned down by noisereduce's spectral gate, learnt from the clip's own
    quietest tenth.

    On seven voices in white noise it raised the signal-to-noise ratio by 9, 6 and 3 dB at 0, 10 and 20 dB (pink: 7, 6
    and 3); on clean speech it only takes away, so it is off unless asked for. Music and other voices are not noise to
    it.

    Args:
        samples: (L,) mono in [-1, 1]; under 0.3 s they come back as they are.
    """
    samples = np.asarray(samples, dtype=np.float32)
    blocks = samples[: len(samples) - len(samples) % (sample_rate // 10)].reshape(-1, sample_rate // 10)
    if len(blocks) < 3 or not samples.any():
        return samples
    from noisereduce import reduce_noise  # 1.5 s to import

    n_quiet = max(3, len(blocks) // 10)
    quiet = blocks[np.sort(np.square(blocks).sum(1).argsort()[:n_quiet])].ravel()
    cleaned = reduce_noise(
        y=samples,
        sr=sample_rate,
        y_noise=quiet,
        stationary=True,
        prop_decrease=0.9,  # 20 dB: a full cut leaves musical noise and gains nothing
        n_fft=512,
        freq_mask_smooth_hz=70,  # the library's 500 Hz and 50 ms smear the gate over speech: 3 to 5 dB less gain
        time_mask_smooth_ms=34,
    )
    return cleaned.astype(np.float32)


def _dbfs(power: float) -> float:
    return 10 * float(np.log10(max(power, 1e-12)))


def voice_notices(samples: np.ndarray, spans: list[Span]) -> list[Notice]:
    """Return what makes this sound hard to judge: `no_speech`, `too_quiet`, `clipped`, `noisy`.

    Args:
        samples: (L,) mono at 16 kHz, in [-1, 1].
        spans: where `speech_spans` found speech in them.
    """
    samples = np.asarray(samples, dtype=np.float32)
    speech = samples
    notices = []
    if spans:
        speech = np.concatenate([samples[int(s.start_s * SAMPLE_RATE) : int(s.end_s * SAMPLE_RATE)] for s in spans])
    else:
        length_s = len(samples) / SAMPLE_RATE
        notices.append(Notice("no_speech", f"nobody was heard speaking in {length_s:.1f} s of sound"))
    if speech.size == 0:
        return notices
    power = float(np.mean(np.square(speech, dtype=np.float64)))
    if _dbfs(power) < QUIET_DBFS:
        measured = f"{_dbfs(power):.0f} dBFS, fine from {QUIET_DBFS:.0f}"
        notices.append(Notice("too_quiet", f"the sound is very quiet ({measured}): go closer to the microphone"))
    clipped = float(np.mean(np.abs(speech) >= 0.999))
    if clipped > CLIPPED_SHARE:
        measured = f"{clipped:.1%} of it at full scale"
        notices.append(Notice("clipped", f"the sound is too loud and clipped ({measured}): lower the input level"))
    frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)  # 25 ms
    if spans and len(frames):
        noise = float(np.percentile(np.square(frames, dtype=np.float64).mean(1), 5))
        ratio = _dbfs(max(power - noise, 0)) - _dbfs(noise)
        if ratio < NOISY_DB:
            measured = f"speech about {max(ratio, 0):.0f} dB above it, fine from {NOISY_DB:.0f}"
            notices.append(Notice("noisy", f"there is much noise ({measured}): record in a quieter place"))
    return notices
