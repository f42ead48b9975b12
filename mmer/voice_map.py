"""What in a voice counts, by time and pitch."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mmer.config import SAMPLE_RATE, VoiceConfig
from mmer.features import Features
from mmer.integrated_gradients import slopes
from mmer.occlusion import occluded, regressed
from mmer.speech import ENCODER_S, Transcriber
from mmer.target_logit import TargetLogit
from mmer.trust import Kept, UnitScores, off_by
from mmer.voice import LogMel

# So that a map and its test take at most 60 runs of Whisper's encoder over the utterance: 2 and two for each stretch
# and each of five bands to find it, 18 to test it.
_FINE_S, _MOST_TIMES = 4.0, 15
WHISPER_HOP = 160  # samples between the frames of Whisper's spectrogram

# What is told apart in a voice, by the upper edge in Hz: pitch, the first and the second formant, the higher ones,
# hiss.
VOICE_EDGES_HZ = (300.0, 1_000.0, 2_500.0, 4_000.0)


def voice_edges(config: VoiceConfig) -> tuple[tuple[float, ...], Tensor]:
    """Return the edges in Hz of the bands a voice is told apart in, and the band of each mel bin (M,)."""

    edges = (config.f_min_hz, *(e for e in VOICE_EDGES_HZ if config.f_min_hz < e < config.f_max_hz), config.f_max_hz)
    return edges, torch.bucketize(mel_centres(config), torch.tensor(edges[1:-1]))


def mel_centres(config: VoiceConfig) -> Tensor:
    """Return the centre (M,) of each mel bin in Hz, on the scale `torchaudio` uses by default."""
    low, high = (2595 * torch.tensor(1 + f / 700).log10() for f in (config.f_min_hz, config.f_max_hz))
    return 700 * (10 ** (torch.linspace(float(low), float(high), config.n_mels + 2)[1:-1] / 2595) - 1)


def whisper_centres(n_mels: int) -> Tensor:
    """Return where each of Whisper's mel bands (n_mels,) lets most through, in Hz."""
    from whisper.audio import mel_filters

    filters = mel_filters("cpu", n_mels)  # (n_mels, F) from 0 Hz to half the sample rate
    return torch.linspace(0, SAMPLE_RATE / 2, filters.shape[1])[filters.argmax(1)]


class VoiceLogit:
    """The target as a function of the voice: of our spectrogram and of those that Whisper's encoder read.

    There are none of the latter where the branch reads no Whisper, or where there is none to ask again: then what it
    heard stays as it is. Both are divided into the same cells, a quarter or half a second long and a band high, longer
    ones in what is longer than an utterance; a cell that is taken away falls silent, to the floor of the logarithm.
    """

    def __init__(
        self,
        target: TargetLogit,
        features: Features,
        sound: LogMel,
        config: VoiceConfig,
        transcriber: Transcriber | None,
    ):
        self.target, self.encoder, self.transcriber = target, target.model.encoders["voice"], transcriber
        mel, self.mask, *self.held = target.model.inputs("voice", target.batch)
        # A checkpoint without the stream ignores what was heard for another one.
        self.heard = features.heard if transcriber is not None and self.held else ()
        self.deaf = features.whisper is not None and bool(self.held) and not self.heard  # Whisper's part stays
        self.sounds = (mel, *(h.mel.T[None].to(mel.device) for h in self.heard))  # (1, T, M) each
        # Whisper cuts off what is 80 dB below the loudest moment, and its second of silence lies there.
        self.silences = (
            torch.full_like(mel, sound.silence),
            *(torch.full_like(x, float(x.min())) for x in self.sounds[1:]),
        )
        self.start_s = features.start_s
        self.seconds = max(mel.shape[1] - 1, 1) * config.hop_length / config.sample_rate  # frames are centred
        fine = self.seconds <= _FINE_S
        self.n_times = min(max(round(self.seconds / (0.25 if fine else 0.5)), 1), _MOST_TIMES)
        self._divide(config)
        self.kept = Kept(self._run)

    def _divide(self, config: VoiceConfig) -> None:
        """Say of each value of each spectrogram which cell it is in: (T, M) int."""
        mel = self.sounds[0]
        self.edges, band = voice_edges(config)
        self.n_bands = len(self.edges) - 1
        moment = torch.arange(mel.shape[1]) * self.n_times // mel.shape[1]
        self.cells = [(moment[:, None] * self.n_bands + band).to(mel.device)]
        for i, whisper in enumerate(self.sounds[1:]):
            _, T, n_mels = whisper.shape
            times = i * (ENCODER_S - 1) + torch.arange(T) * WHISPER_HOP / SAMPLE_RATE
            frames = (times * config.sample_rate / config.hop_length).round().long().clamp_max(len(moment) - 1)
            at = torch.bucketize(whisper_centres(n_mels), torch.tensor(self.edges[1:-1]))
            self.cells.append((moment[frames][:, None] * self.n_bands + at).to(mel.device))

    @property
    def n_units(self) -> int:
        return self.n_times * self.n_bands

    def logit(self, mel: Tensor, *whispers: Tensor) -> Tensor:
        """Return the logits (B,) for other spectrograms (B, T, M)."""
        return self.target.asked(self.logits(mel, *whispers))

    def logits(self, mel: Tensor, *whispers: Tensor) -> Tensor:
        """Return the logits (B, K) for other spectrograms (B, T, M)."""
        self.target.go_on()
        held = [x.expand(len(mel), *x.shape[1:]) for x in (self.mask, *self.held)]
        if whispers and self.transcriber is not None:
            mels = [x.transpose(1, 2) for x in whispers]
            states = self.transcriber.pooled_states(mels, [h.n_frames for h in self.heard])
            held[1] = states.to(mel.device)
        state = self.encoder(mel, *held)
        return self.target.logits_of(1, state.middle, state.top, state.pooled)

    @torch.no_grad()
    def _run(self, kept: Tensor) -> Tensor:
        """Return the logits (R,) with all but the kept cells (R, n) silent."""
        return self.target.asked(self.kept_logits(kept))

    @torch.no_grad()
    def kept_logits(self, kept: Tensor) -> Tensor:
        """As `kept`, of all emotions (R, K)."""

        def mixed(rows: Tensor) -> list[Tensor]:
            return [
                torch.where(rows[:, cell], x, silence)
                for cell, x, silence in zip(self.cells, self.sounds, self.silences, strict=True)
            ]

        # 5 s as (B, 24, 250, 32) maps: more rows at once only leave the cache. Whisper's take longer, and whoever wants
        # to stop waits for them.
        parts = kept.split(4 if self.heard else 8)
        return torch.cat([self.logits(*mixed(rows)) for rows in parts])

    def bands(self, scores: Tensor) -> tuple[dict[str, float], ...]:
        """Return the cells with their times, their pitch and their scores (n,)."""
        starts = [self.start_s + self.seconds * i / self.n_times for i in range(self.n_times + 1)]
        rows = scores.view(self.n_times, self.n_bands).tolist()
        return tuple(
            {"start_s": start, "end_s": end, "low_hz": low, "high_hz": high, "score": score}
            for (start, end), row in zip(pairwise(starts), rows, strict=True)
            for (low, high), score in zip(pairwise(self.edges), row, strict=True)
        )

    def spread(self, found: UnitScores) -> Tensor:
        """Return a map (T_a, M) over our spectrogram; scores of cells are equal within a cell."""
        if found.shares is not None:
            return found.shares
        scores = found.scores
        sizes = self.cells[0].flatten().bincount(minlength=len(scores)).clamp_min(1)
        return (scores / sizes)[self.cells[0]]


def gradients(voice: VoiceLogit) -> UnitScores:
    """Attribute to our spectrogram by integrated gradients; what Whisper heard stays as it is."""
    mel, silence = voice.sounds[0], voice.silences[0]
    with torch.no_grad():
        gap = float(voice.logit(mel) - voice.logit(silence))
    (found,), delta = slopes(voice.logit, (mel,), (silence,))
    shares = ((mel - silence) * found)[0]  # (T_a, M)
    scores = mel.new_zeros(voice.n_units).index_add(0, voice.cells[0].flatten(), shares.flatten())
    method = "integrated gradients against silence"
    if voice.deaf or voice.heard:
        method += "; what Whisper heard stays as it is"
    return UnitScores(method, scores, gap, delta, shares)


def occlusion(voice: VoiceLogit) -> UnitScores:
    """Silence each stretch of time and each band once.

    Integrated gradients do not add up through Whisper's encoder: 4 and 8 steps gave -1.2 and 0.3 for a part of 0.2. On
    real voices this finds what counts better than they do, and as well as silencing every cell, in a third of the runs.
    """
    return _occluded(voice, "occlusion of times and bands by silence", both_ways=False)


def two_way_occlusion(voice: VoiceLogit) -> UnitScores:
    """Silence each stretch of time and each band once, and all but it once: on real voices better than once, see the
    card.
    """
    return _occluded(voice, "occlusion of times and bands, and of all but them, by silence", both_ways=True)


def _occluded(voice: VoiceLogit, method: str, *, both_ways: bool) -> UnitScores:
    cell = torch.arange(voice.n_units, device=voice.sounds[0].device)
    times_and_bands = cell // voice.n_bands, cell % voice.n_bands
    scores, gap = occluded(voice.kept, times_and_bands, both_ways=both_ways)
    return UnitScores(method, scores, gap, off_by(float(scores.sum()), gap))


def regression(voice: VoiceLogit) -> UnitScores:
    """As `occlusion`, from all that was silenced: cells of one time and of one band are expected to be alike."""
    cell = torch.arange(voice.n_units)
    time, band = cell // voice.n_bands, cell % voice.n_bands
    prior = (time[:, None] == time).float() + (band[:, None] == band).float() + torch.eye(len(cell))
    device = voice.sounds[0].device
    scores, gap = regressed(voice.kept, (time.to(device), band.to(device)), prior)
    return UnitScores("regression on silenced times and bands", scores, gap, off_by(float(scores.sum()), gap))


METHODS: dict[str, Callable[[VoiceLogit], UnitScores]] = {
    "integrated gradients": gradients,
    "occlusion": occlusion,
    "two-way occlusion": two_way_occlusion,
    "regression": regression,
}
DEFAULT, DEFAULT_DEAF = "two-way occlusion", "integrated gradients"  # with Whisper's encoder, and without
