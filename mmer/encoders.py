"""The three branches: residual CNNs over face crops and log-mel, convolutions and recurrence over words.

Every encoder returns its state at two depths, `middle` and `top`, because fusion attends to both. `pool` is the part
that costs time, `project` the few layers behind it, which corrections can teach without seeing or hearing a clip again.
All of them are exact under padding: a row's result does not depend on how long the other rows of its batch are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmer.config import ModelConfig
from mmer.efficientnet import TOP, EfficientNetLite0


@dataclass(frozen=True)
class BranchState:
    middle: Tensor  # (B, C_middle) from inside the branch
    pooled: Tensor  # (B, C_pooled) over time, before the last layers
    top: Tensor  # (B, state) what the branch's own head reads


class Encoder(nn.Module):
    """A branch up to its head: an expensive `pool` and a cheap `project`, which each branch has of its own.

    `pool` returns (B, middle_size) from inside the branch and (B, pooled_size) over time; `project` makes (B, state) of
    the latter.
    """

    middle_size: int
    pooled_size: int
    pool: Callable[..., tuple[Tensor, Tensor]]
    project: Callable[[Tensor], Tensor]
    projecting: tuple[str, ...] = ()  # names of the parts that only `project` reads

    def is_pooling(self, name: str) -> bool:
        """Whether `pool` reads the weight of this name."""
        return not name.startswith(tuple(f"{part}." for part in self.projecting)) and name not in self.projecting

    def forward(self, *inputs: Tensor) -> BranchState:
        """Return the branch's states; the inputs are those of `pool`."""
        middle, pooled = self.pool(*inputs)
        return BranchState(middle, pooled, self.project(pooled))


class SqueezeExcitation(nn.Module):
    """Channel gates from the (masked) mean of the map. https://arxiv.org/abs/1709.01507"""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 8, 4)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mean = x.mean((2, 3)) if mask is None else (x * mask).sum((2, 3)) / (mask.sum((2, 3)) * x.shape[3])
        return x * self.gate(mean)[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-excitation and a skip connection. https://arxiv.org/abs/1512.03385

    `mask` (B, 1, H, 1) says which rows of the map are real; the others stay zero, as beyond the edge of the map.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, skip: bool):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.excite = SqueezeExcitation(c_out)
        self.skip: nn.Module | None = None
        if skip:
            self.skip = nn.Identity()
            if stride != 1 or c_in != c_out:
                self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        out_mask = mask if mask is None or self.stride == 1 else mask[:, :, :: self.stride]
        y = relu(self.norm1(self.conv1(x)))
        if out_mask is not None:
            y = y * out_mask
        y = self.excite(self.norm2(self.conv2(y)), out_mask)
        if self.skip is not None:
            y = y + self.skip(x)
        y = relu(y)
        return (y if out_mask is None else y * out_mask), out_mask


class ResidualStages(nn.Module):
    """A stem and stages of residual blocks; every stage after the first halves the map."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], stem_stride: int, skip: bool):
        super().__init__()
        self.stem_stride = stem_stride
        self.stem = nn.Conv2d(1, widths[0], 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList()
        c_in = widths[0]
        for i, (width, n_blocks) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.ModuleList()
            for j in range(n_blocks):
                stage.append(ResidualBlock(c_in, width, 2 if i > 0 and j == 0 else 1, skip))
                c_in = width
            self.stages.append(stage)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Return the map (B, C, H, W) and its mask after each stage."""
        mask = None if mask is None else mask[:, :, :: self.stem_stride]
        x = relu(self.norm(self.stem(x)))
        x = x if mask is None else x * mask
        maps = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x, mask = block(x, mask)
            maps.append((x, mask))
        return maps


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, float("-inf")).softmax(1)


def standardised(crops: Tensor) -> Tensor:
    """Return crops (N, 1, H, W), each by its own mean and deviation: lighting and skin tone go, expression stays."""
    return (crops - crops.mean((2, 3), keepdim=True)) / crops.std((2, 3), keepdim=True).clamp_min(0.02)


class ImageNetStream(nn.Module):
    """What a network that starts from ImageNet sees in a crop, and a layer on it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.net = EfficientNetLite0()
        self.embed = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(TOP, config.state), nn.ReLU())
        self.rest = nn.Parameter(torch.zeros(()))  # how much the branch's own CNN and the blendshapes count beside it

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, state) of standardised crops (N, 1, H, W)."""
        return self.embed(self.net(x).mean((2, 3)))


class FaceEncoder(Encoder):
    """Residual CNN per crop, blendshapes beside it, attention over time.

    With `config.face_imagenet`, what a network that starts from ImageNet sees stands beside both.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.cnn = ResidualStages(config.face_widths, config.face_blocks, config.face_stride, config.skip)
        self.middle_size, c_top = config.face_widths[-2:]
        self.pooled_size = config.state
        self.embed = nn.Linear(c_top, config.state)
        self.blend = nn.Sequential(
            nn.Linear(config.n_blendshapes, 64), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(64, config.state)
        )
        self.score = nn.Linear(config.state, 1)
        self.imagenet = ImageNetStream(config) if config.face_imagenet else None

    def pool(self, crops: Tensor, crop_mask: Tensor, blendshapes: Tensor, blend_mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            crops: (B, T_f, 1, H, W) luma in [0, 1].
            crop_mask: (B, T_f) bool, at least one true per row.
            blendshapes: (B, T_f, 52) in [0, 1].
            blend_mask: (B, T_f) bool; false where a crop came without a landmark fit.
        """
        B, T_f = crop_mask.shape
        # Padding is never computed.
        middle, frame, scores = self.frames(crops[crop_mask], blendshapes[crop_mask], blend_mask[crop_mask])
        frames = frame.new_zeros(B, T_f, frame.shape[1]).masked_scatter(crop_mask[..., None], frame)
        middles = middle.new_zeros(B, T_f, middle.shape[1]).masked_scatter(crop_mask[..., None], middle)
        scores = scores.new_zeros(B, T_f).masked_scatter(crop_mask, scores)
        weights = _masked_softmax(scores, crop_mask)[..., None]  # (B, T_f, 1)
        return (middles * weights).sum(1), (frames * weights).sum(1)

    def frames(self, crops: Tensor, blendshapes: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states (N, C_middle) and (N, state) of frames, and what attention over time weighs each by (N,).

        Args:
            crops: (N, 1, H, W) luma in [0, 1].
            blendshapes: (N, 52) in [0, 1].
            fitted: (N,) bool; false where a crop came without a landmark fit.
        """
        x = standardised(crops)
        maps = self.cnn(x)
        middle, top = maps[-2][0].mean((2, 3)), maps[-1][0].mean((2, 3))
        frame = relu(self.embed(top))
        # A blendshape is mostly below 0.1 and its root spreads it; the gradient of a plain root at 0 is infinite.
        roots = (blendshapes.clamp(0, 1) + 1e-3).sqrt()
        frame = frame + self.blend(roots) * fitted[:, None]
        scores = self.score(frame.tanh()).squeeze(-1)
        if self.imagenet is not None:
            frame = frame * self.imagenet.rest + self.imagenet(x)
        return middle, frame, scores

    @staticmethod
    def over_time(middle: Tensor, frame: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pool` does, (1, C_middle) and (1, state), of what `frames` returned of one utterance."""
        weights = scores.softmax(0)[:, None]
        return (middle * weights).sum(0, keepdim=True), (frame * weights).sum(0, keepdim=True)

    def project(self, pooled: Tensor) -> Tensor:
        return pooled


class StatisticsStream(nn.Module):
    """What an utterance is like as a whole: statistics over time of log-mel, MFCC and their slopes, and two layers on
    them.

    The classical features of the field (https://doi.org/10.1109/TAFFC.2015.2457417), computed from what the CNN reads.
    """

    dct: Tensor  # (M, 24)
    N_MFCC = 24
    QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

    def __init__(self, config: ModelConfig, n_mels: int):
        super().__init__()
        from torchaudio.functional import create_dct

        self.register_buffer("dct", create_dct(self.N_MFCC, n_mels, "ortho"), persistent=False)  # (M, 24)
        size, hidden = (2 + len(self.QUANTILES)) * (n_mels + 3 * self.N_MFCC), config.voice_statistics
        self.scale = nn.BatchNorm1d(size, affine=False)
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(size, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(min(2.5 * config.dropout, 0.9)),
            nn.Linear(hidden, config.state),
            nn.ReLU(),
        )

    def read(self, log_mel: Tensor, mel_mask: Tensor) -> Tensor:
        """Return (B, n): mean, deviation and quantiles of each contour over the real frames."""
        T_a, n = log_mel.shape[1], mel_mask.sum(1)[:, None]  # (B, 1)
        last = torch.minimum(torch.arange(T_a, device=n.device)[None], n - 1)[:, None]  # (B, 1, T_a)
        padded = not bool(mel_mask.all())

        def held(x: Tensor) -> Tensor:
            """Go on with a row's last frame behind its end, so that a slope there is that of the row alone."""
            return x.gather(2, last.expand(-1, x.shape[1], -1)) if padded else x

        def slope(x: Tensor) -> Tensor:
            y = nn.functional.pad(x, (2, 2), mode="replicate")
            return held((2 * (y[..., 4:] - y[..., :-4]) + y[..., 3:-1] - y[..., 1:-3]) / 10)

        mel = held(log_mel.transpose(1, 2))  # (B, M, T_a)
        mfcc = self.dct.T @ mel
        delta = slope(mfcc)
        contours = torch.cat([mel, mfcc, delta, slope(delta)], 1)  # (B, C, T_a)
        real = mel_mask[:, None]
        mean = (contours * real).sum(2) / n
        variance = ((contours - mean[..., None]).square() * real).sum(2) / n
        ordered = contours.masked_fill(~real, float("inf")).sort(2).values
        statistics = [mean, (variance + 1e-4).sqrt()]
        for q in self.QUANTILES:
            place = q * (n - 1)  # (B, 1)
            low, high = (p.long()[:, None].expand(-1, contours.shape[1], 1) for p in (place.floor(), place.ceil()))
            statistics.append(
                torch.lerp(ordered.gather(2, low), ordered.gather(2, high), (place % 1)[..., None])[..., 0]
            )
        return torch.cat(statistics, 1)

    def forward(self, statistics: Tensor) -> Tensor:
        """Return (B, state). No number counts beyond six deviations: a strange recording must not drown the rest."""
        return self.layers(self.scale(statistics).clamp(-6, 6))


class WhisperStream(nn.Module):
    """Learned weighted sums over the depths of Whisper's frozen encoder and two layers on them.

    Weighing the depths is from https://arxiv.org/abs/2105.01051; several sums keep apart what pitch and words tell.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        H, D = config.whisper_sums, config.whisper_depths
        self.depths = nn.Parameter(0.5 * torch.randn(H, 2, D))  # of means, of deviations
        self.norm = nn.LayerNorm(config.whisper_width, elementwise_affine=False)  # the last layers are ten times larger
        self.size = 2 * H * config.whisper_width
        self.layers = nn.Sequential(
            nn.BatchNorm1d(self.size, affine=False),
            nn.Dropout(config.dropout),
            nn.Linear(self.size, config.whisper_hidden),
            nn.ReLU(),
            nn.Dropout(2 * config.dropout),
            nn.Linear(config.whisper_hidden, config.state),
            nn.ReLU(),
        )
        self.rest = nn.Parameter(torch.zeros(()))  # how much the other streams count beside it

    def weigh(self, states: Tensor) -> Tensor:
        """Return (B, size): the weighted sums of means and deviations over time (B, depths, 2 * width)."""
        B, depths, _ = states.shape
        x = self.norm(states.view(B, depths, 2, -1))  # (B, depths, 2, width)
        return torch.einsum("bdsw,hsd->bhsw", x, self.depths.softmax(2)).flatten(1)

    def forward(self, states: Tensor) -> Tensor:
        """Return (B, state) of means and deviations over time (B, depths, 2 * width)."""
        return self.layers(self.weigh(states))


class VoiceEncoder(Encoder):
    """Residual CNN on log-mel with attentive statistics pooling. https://arxiv.org/abs/1803.10963

    Beside it, statistics over the whole utterance and, with `config.whisper_depths`, what Whisper's encoder made of it.
    """

    projecting = ("whisper.layers", "whisper.rest")

    def __init__(self, config: ModelConfig, n_mels: int):
        super().__init__()
        self.cnn = ResidualStages(config.voice_widths, config.voice_blocks, 2, config.skip)
        self.middle_size, c_top = config.voice_widths[-2], config.voice_widths[-1]
        bands = -(-n_mels // 2 ** len(config.voice_widths))  # mel bands left after the stem and the stages
        self.mix = nn.Linear(c_top * bands, 256)
        self.score = nn.Sequential(nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 1))
        self.embed = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(512, config.state), nn.ReLU())
        self.statistics = StatisticsStream(config, n_mels) if config.voice_statistics else None
        self.whisper = WhisperStream(config) if config.whisper_depths else None
        self.state = config.state
        self.pooled_size = config.state + (self.whisper.size + 1 if self.whisper is not None else 0)

    def pool(
        self,
        log_mel: Tensor,
        mel_mask: Tensor,
        whisper: Tensor | None = None,
        whisper_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            log_mel: (B, T_a, M), normalised per utterance.
            mel_mask: (B, T_a) bool.
            whisper: (B, depths, 2 * width) from `Transcriber.encode`; only read with `config.whisper_depths`.
            whisper_mask: (B,) bool; false where Whisper did not listen.
        """
        mask = None if bool(mel_mask.all()) else mel_mask[:, None, :, None].to(log_mel.dtype)
        x = log_mel[:, None] if mask is None else log_mel[:, None] * mask
        maps = self.cnn(x, mask)  # (B, C, T', M')
        (mid, mid_mask), (top, top_mask) = maps[-2], maps[-1]
        middle = mid.mean((2, 3)) if mid_mask is None else mid.sum((2, 3)) / (mid_mask.sum((2, 3)) * mid.shape[3])
        x = relu(self.mix(top.permute(0, 2, 1, 3).flatten(2)))  # (B, T', 256)
        valid = x.new_ones(x.shape[:2], dtype=torch.bool) if top_mask is None else top_mask[:, 0, :, 0] > 0
        w = _masked_softmax(self.score(x).squeeze(-1), valid)[..., None]
        mean = (w * x).sum(1)
        std = ((w * (x - mean[:, None]) ** 2).sum(1) + 1e-5).sqrt()
        state = self.embed(torch.cat([mean, std], 1))
        if self.statistics is not None:
            state = state + self.statistics(self.statistics.read(log_mel, mel_mask))
        if self.whisper is None:
            return middle, state
        if whisper is None or whisper_mask is None:
            return middle, nn.functional.pad(state, (0, self.pooled_size - self.state))
        here = whisper_mask[:, None].to(state.dtype)
        return middle, torch.cat([state, self.whisper.weigh(whisper) * here, here], 1)

    def project(self, pooled: Tensor) -> Tensor:
        if self.whisper is None:
            return pooled
        state, weighed, here = pooled.split([self.state, pooled.shape[1] - self.state - 1, 1], 1)
        return torch.where(here > 0, state * self.whisper.rest + self.whisper.layers(weighed), state)


class TextEncoder(Encoder):
    """Token states -> convolutions of several widths -> BiGRU -> attention and maximum over time.

    With `config.text_layers` so many of the language model's last layers stand in front, trained with the branch.
    """

    projecting = ("embed",)

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.layers = None
        if config.text_layers:
            width = config.text_input
            layer = nn.TransformerEncoderLayer(
                width, width // 32, 4 * width, 0.1, "gelu", layer_norm_eps=1e-12, batch_first=True
            )
            self.layers = nn.TransformerEncoder(layer, config.text_layers, enable_nested_tensor=False)
        c = config.text_channels * len(config.text_widths)
        self.convs = nn.ModuleList(
            nn.Conv1d(config.text_input, config.text_channels, w, padding=w // 2) for w in config.text_widths
        )
        self.skip = nn.Linear(config.text_input, c) if config.skip else None
        self.gru = nn.GRU(c, config.text_hidden, batch_first=True, bidirectional=True)
        d = 2 * config.text_hidden
        self.middle_size, self.pooled_size = c, 2 * d
        self.score = nn.Linear(d, 1)
        self.drop = nn.Dropout(config.dropout)
        self.embed = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(2 * d, config.state), nn.ReLU())

    def pool(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            states: (B, S, 384) token states of the frozen language model without the layers that are this encoder's.
            mask: (B, S) bool, true on a prefix of each row.
        """
        x = states if self.layers is None else self.layers(states, src_key_padding_mask=~mask)
        x = self.drop(x) * mask[..., None]
        y = torch.cat([conv(x.transpose(1, 2)) for conv in self.convs], 1).transpose(1, 2)  # (B, S, C)
        y = relu(y) if self.skip is None else relu(y + self.skip(x))
        y = y * mask[..., None]  # not negative, so zero never wins a maximum over real tokens
        packed = pack_padded_sequence(y, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=mask.shape[1])  # (B, S, D)
        w = _masked_softmax(self.score(h).squeeze(-1), mask)[..., None]
        peak = h.masked_fill(~mask[..., None], float("-inf")).amax(1)
        return y.amax(1), torch.cat([(w * h).sum(1), peak], 1)

    def project(self, pooled: Tensor) -> Tensor:
        return self.embed(pooled)
