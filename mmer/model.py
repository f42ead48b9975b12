"""The multi-branch network: a head per branch, attention fusion at two depths, masked by what is present."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mmer.config import ModelConfig
from mmer.correction import Correction
from mmer.encoders import Encoder, FaceEncoder, TextEncoder, VoiceEncoder
from mmer.labels import MODALITIES, N_EMOTIONS


@dataclass(frozen=True)
class Batch:
    """Padded model input. Rows without a modality hold zeros there, and `present` says so."""

    crops: Tensor  # (B, T_f, 1, H, W) luma in [0, 1]
    crop_mask: Tensor  # (B, T_f) bool
    blendshapes: Tensor  # (B, T_f, 52) in [0, 1]
    blend_mask: Tensor  # (B, T_f) bool: the crop has a landmark fit
    log_mel: Tensor  # (B, T_a, M)
    mel_mask: Tensor  # (B, T_a) bool
    text_states: Tensor  # (B, S, 384) from the frozen language model
    text_mask: Tensor  # (B, S) bool
    present: Tensor  # (B, 3) bool: face, voice, text
    whisper: Tensor | None = None  # (B, depths, 2 * width) of Whisper's encoder, where the model reads it
    whisper_mask: Tensor | None = None  # (B,) bool: Whisper listened

    def to(self, device: str | torch.device) -> "Batch":
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in held.items() if x is not None})


@dataclass(frozen=True)
class BranchStates:
    """What fusion reads. Zeros where a branch is absent."""

    middles: tuple[Tensor, Tensor, Tensor]  # (B, C_middle) of each branch
    tops: Tensor  # (B, 3, state)
    logits: Tensor  # (B, 3, K) calibrated: already divided by the branch's temperature
    pooled: tuple[Tensor, Tensor, Tensor] | None = None  # (B, C_pooled) of each branch: what `project` reads


@dataclass(frozen=True)
class Output:
    logits: Tensor  # (B, K) fused and calibrated
    branch_logits: Tensor  # (B, 3, K) calibrated; zeros where absent
    weights: Tensor  # (B, 3) how strongly fusion takes each branch's vote; 0 where absent


class FusionLayer(nn.Module):
    """Self-attention over the query and the modality tokens, absent ones masked. https://arxiv.org/abs/1706.03762"""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * size, size))

    def forward(self, tokens: Tensor, absent: Tensor) -> Tensor:
        x = self.norm1(tokens)
        x, _ = self.attention(x, x, x, key_padding_mask=absent, need_weights=False)
        tokens = tokens + x
        return tokens + self.mlp(self.norm2(tokens))


class AttentionFusion(nn.Module):
    """Attends to the branches' middle states, then to their top states, and combines the branches' votes.

    The fused logits are a weighted sum of the branches' calibrated logits (a product of experts whose weights the
    attention decides) plus a correction the attention computes. One branch alone is passed through unchanged, no
    branch gives zero logits: all emotions equally likely.
    """

    def __init__(self, config: ModelConfig, middle_sizes: tuple[int, int, int]):
        super().__init__()
        D = config.fusion
        self.query = nn.Parameter(torch.randn(D) * 0.02)
        self.names = nn.Parameter(torch.randn(len(MODALITIES), D) * 0.02)
        self.middles = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, D)) for c in middle_sizes)
        self.tops = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.state + N_EMOTIONS), nn.Linear(config.state + N_EMOTIONS, D))
            for _ in MODALITIES
        )
        self.layers = nn.ModuleList(FusionLayer(D, config.fusion_heads, config.dropout) for _ in range(2))
        self.norm = nn.LayerNorm(D)
        self.weigh = nn.Linear(D, len(MODALITIES))
        self.correct = nn.Linear(D, N_EMOTIONS)
        for layer in (self.weigh, self.correct):  # starts as the plain product of experts
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("temperature", torch.ones(()))

    temperature: Tensor  # () of the fused logits

    def forward(self, states: BranchStates, present: Tensor) -> tuple[Tensor, Tensor]:
        B = len(present)
        here = present[..., None].to(states.tops.dtype)  # (B, 3, 1)
        absent = torch.cat([present.new_zeros(B, 1), ~present], 1)  # the query is always a key
        middle = torch.stack([f(m) for f, m in zip(self.middles, states.middles, strict=True)], 1) + self.names
        tokens = torch.cat([self.query.expand(B, 1, -1), middle * here], 1)  # (B, 4, D)
        tokens = self.layers[0](tokens, absent)
        votes = torch.cat([states.tops, states.logits], -1)
        top = torch.stack([f(votes[:, i]) for i, f in enumerate(self.tops)], 1)
        tokens = torch.cat([tokens[:, :1], (tokens[:, 1:] + top) * here], 1)
        h = self.norm(self.layers[1](tokens, absent)[:, 0])  # (B, D)
        weights = softplus(self.weigh(h) + 0.5413) * here[..., 0]  # softplus(0.5413) = 1
        several = (present.sum(1, keepdim=True) > 1).to(h.dtype)
        weights = several * weights + (1 - several) * here[..., 0]
        temperature = several * self.temperature + (1 - several)
        logits = (weights[..., None] * states.logits).sum(1) + several * self.correct(h)
        return logits / temperature, weights


def layout(module: nn.Module) -> torch.memory_format:
    """Return the memory format that suits the module's convolutions.

    Channels last takes a quarter to a third of the time away on CPUs, forth and back; but torch's backward pass has
    crashed in it on maps of 8 channels.
    """
    narrow = any(isinstance(m, nn.Conv2d) and m.out_channels < 16 for m in module.modules())
    return torch.contiguous_format if narrow else torch.channels_last


class EmotionModel(nn.Module):
    """Face, voice and text branches with a head each, and their fusion."""

    temperatures: Tensor  # (3,) of the branches' logits

    def __init__(self, config: ModelConfig | None = None, n_mels: int = 64):
        super().__init__()
        self.config = config = config or ModelConfig()
        face, voice, text = FaceEncoder(config), VoiceEncoder(config, n_mels), TextEncoder(config)
        self.encoders = nn.ModuleDict({"face": face, "voice": voice, "text": text})
        self.middle_sizes = face.middle_size, voice.middle_size, text.middle_size
        self.pooled_sizes = face.pooled_size, voice.pooled_size, text.pooled_size
        self.heads = nn.ModuleDict(
            {m: nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.state, N_EMOTIONS)) for m in MODALITIES}
        )
        self.corrections = nn.ModuleDict()  # of the branches whose votes people corrected
        self.fusion = AttentionFusion(config, self.middle_sizes)
        self.register_buffer("temperatures", torch.ones(len(MODALITIES)))

    def encoder(self, modality: str) -> Encoder:
        """Return a branch up to its head."""
        return cast(Encoder, self.encoders[modality])

    def inputs(self, modality: str, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the branch's encoder takes from a batch."""
        if modality == "face":
            return batch.crops, batch.crop_mask, batch.blendshapes, batch.blend_mask
        if modality == "voice":
            if batch.whisper is None or batch.whisper_mask is None:
                return batch.log_mel, batch.mel_mask
            return batch.log_mel, batch.mel_mask, batch.whisper, batch.whisper_mask
        return batch.text_states, batch.text_mask

    def branch_logits(self, modality: str, *inputs: Tensor) -> Tensor:
        """Return one branch's calibrated logits (B, K) for rows that all have the modality."""
        state = self.encoders[modality](*inputs)
        return self.vote_of(modality, state.top, state.pooled)

    def vote_of(self, modality: str, top: Tensor, pooled: Tensor) -> Tensor:
        """Return one branch's calibrated logits (B, K), as people corrected them, of its states."""
        vote = self.heads[modality](top) / self.temperatures[MODALITIES.index(modality)]
        return vote + self.corrections[modality](pooled) if modality in self.corrections else vote

    def correct(self, modality: str) -> Correction:
        """Return a correction of one branch's vote that changes nothing yet, in place of the one it has."""
        size = self.pooled_sizes[MODALITIES.index(modality)]
        self.corrections[modality] = correction = Correction(size).to(self.temperatures.device)
        return correction

    def branches(self, batch: Batch) -> BranchStates:
        """Run each branch on the rows that have it."""
        B = len(batch.present)
        middles, pooled, tops, logits = [], [], [], []
        for i, modality in enumerate(MODALITIES):
            encoder, rows, weight = self.encoders[modality], batch.present[:, i], self.temperatures
            middle, pool = weight.new_zeros(B, self.middle_sizes[i]), weight.new_zeros(B, self.pooled_sizes[i])
            top, vote = weight.new_zeros(B, self.config.state), weight.new_zeros(B, N_EMOTIONS)
            if bool(rows.any()):
                state = encoder(*(x[rows] for x in self.inputs(modality, batch)))
                scores = self.vote_of(modality, state.top, state.pooled)
                middle, pool, top, vote = (
                    zeros.masked_scatter(rows[:, None], x.to(weight.dtype))
                    for zeros, x in ((middle, state.middle), (pool, state.pooled), (top, state.top), (vote, scores))
                )
            middles.append(middle)
            pooled.append(pool)
            tops.append(top)
            logits.append(vote)
        face, voice, text = middles
        at_face, at_voice, at_text = pooled
        return BranchStates(
            (face, voice, text), torch.stack(tops, 1), torch.stack(logits, 1), (at_face, at_voice, at_text)
        )

    def project(self, pooled: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return the top states (B, 3, state) of what the branches' `pool` gave, zeros where a branch is absent."""
        tops = []
        for i, (modality, x) in enumerate(zip(MODALITIES, pooled, strict=True)):
            rows = present[:, i]
            top = x.new_zeros(len(x), self.config.state)
            if bool(rows.any()):
                top = top.masked_scatter(rows[:, None], self.encoder(modality).project(x[rows]))
            tops.append(top)
        return torch.stack(tops, 1)

    def vote(self, tops: Tensor, pooled: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return the calibrated logits (B, 3, K) of the branches' states, zeros where a branch is absent."""
        votes = [self.vote_of(m, tops[:, i], pooled[i]) for i, m in enumerate(MODALITIES)]
        return torch.stack(votes, 1) * present[..., None]

    def pool_weights(self) -> dict[str, Tensor]:
        """Return the weights that decide what `pool` gives: what corrections teach is not among them."""
        return {
            f"{modality}.{name}": weight
            for modality in MODALITIES
            for name, weight in self.encoder(modality).state_dict().items()
            if self.encoder(modality).is_pooling(name)
        }

    def fuse(self, states: BranchStates, present: Tensor) -> Output:
        """Fuse branch states under an availability mask (B, 3) bool, which may hide branches that were computed."""
        logits, weights = self.fusion(states, present)
        return Output(logits, states.logits * present[..., None], weights)

    def forward(self, batch: Batch) -> Output:
        return self.fuse(self.branches(batch), batch.present)
