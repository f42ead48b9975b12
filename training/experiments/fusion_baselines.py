"""The fusion baselines: seven mainstream ways to fuse what the branches give, beside attention at depth.

All of them read the same states of the same branches. The learned ones read, of each branch, its middle state, its top
state and its calibrated votes, and are trained alike on the same tuples with branches left out. One branch alone needs
no fusion: every model passes it through, so a table of subsets differs only where there is something to fuse.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmer.config import ModelConfig
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import AttentionFusion, BranchStates

N = len(MODALITIES)
Middles = tuple[int, int, int]  # channels of each branch's middle state


def _one_by_one(make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in MODALITIES)


class Average(nn.Module):
    """The mean of the probabilities of the branches that are there: late fusion by the sum rule, nothing learned.

    https://doi.org/10.1109/34.667881
    """

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        here = present[..., None]
        mean = (states.logits.softmax(-1) * here).sum(1) / here.sum(1).clamp_min(1)
        return mean.clamp_min(1e-9).log()


class Product(nn.Module):
    """The product of the calibrated experts that are there, nothing learned. An absent one is a factor of 1.

    https://doi.org/10.1162/089976602760128018
    """

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        return (states.logits.log_softmax(-1) * present[..., None]).sum(1)


class Embedding(nn.Module):
    """Each branch's states and votes as one vector (B, 3, D); zeros where a branch is absent."""

    def __init__(self, config: ModelConfig, middles: Middles, size: int):
        super().__init__()
        widths = [c + config.state + N_EMOTIONS for c in middles]
        self.embed = nn.ModuleList(nn.Sequential(nn.LayerNorm(w), nn.Linear(w, size)) for w in widths)

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        parts = zip(self.embed, states.middles, states.tops.unbind(1), states.logits.unbind(1), strict=True)
        x = torch.stack([f(torch.cat(part, 1)) for f, *part in parts], 1)
        return x * present[..., None]


class Concatenation(nn.Module):
    """The branches side by side through an MLP: feature fusion. https://icml.cc/2011/papers/399_icmlpaper.pdf

    An absent branch is zeros after its embedding, and the MLP is told by three flags which are there.
    """

    def __init__(self, config: ModelConfig, middles: Middles):
        super().__init__()
        D = config.fusion
        self.embed = Embedding(config, middles, D)
        self.mlp = nn.Sequential(
            nn.Linear(N * D + N, D), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(D, N_EMOTIONS)
        )

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        x = self.embed(states, present)
        return self.mlp(torch.cat([x.flatten(1), present.to(x.dtype)], 1))


class Gated(nn.Module):
    """Gated multimodal units: gates read off all branches weigh each one's tanh. https://arxiv.org/abs/1702.01992

    An absent branch has a gate of 0, so nothing of it is added.
    """

    def __init__(self, config: ModelConfig, middles: Middles):
        super().__init__()
        D = config.fusion
        self.embed = Embedding(config, middles, D)
        self.gate = nn.Linear(N * D, N * D)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(D, N_EMOTIONS))

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        x = self.embed(states, present)  # (B, 3, D)
        gates = self.gate(x.flatten(1)).sigmoid().view_as(x) * present[..., None]
        return self.head((gates * x.tanh()).sum(1))


class LowRank(nn.Module):
    """Low-rank multimodal fusion: a sum over ranks of the product of each branch's factor. https://arxiv.org/abs/1806.00064

    The factor of an absent branch is left out of the product, as if it were 1.
    """

    def __init__(self, config: ModelConfig, middles: Middles, rank: int = 4, size: int = 32):
        super().__init__()
        self.rank = rank
        self.embed = Embedding(config, middles, size)
        factors = [nn.Linear(size, rank * N_EMOTIONS) for _ in MODALITIES]  # the bias is the paper's appended 1
        self.factors = nn.ModuleList(factors)
        self.weights = nn.Parameter(torch.full((rank,), 1 / rank))
        self.bias = nn.Parameter(torch.zeros(N_EMOTIONS))
        for factor in factors:
            nn.init.normal_(factor.bias, 1.0, 0.1)  # near 1, so that a product of three has a gradient from the start

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        x = self.embed(states, present)
        factors = torch.stack([f(x[:, i]) for i, f in enumerate(self.factors)], 1)
        factors = factors.view(len(x), N, self.rank, N_EMOTIONS)
        product = torch.where(present[:, :, None, None], factors, 1.0).prod(1)  # (B, rank, K)
        return (self.weights[:, None] * product).sum(1) + self.bias


class TensorFusion(nn.Module):
    """The outer product of all branches, each with a 1 appended, through an MLP. https://arxiv.org/abs/1707.07250

    An absent branch is zeros before its 1, so only products without it are left.
    """

    def __init__(self, config: ModelConfig, middles: Middles, size: int = 12):
        super().__init__()
        self.embed = Embedding(config, middles, size)
        self.mlp = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear((size + 1) ** N, 64), nn.ReLU(), nn.Linear(64, N_EMOTIONS)
        )

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        x = self.embed(states, present)
        a, b, c = torch.cat([x, x.new_ones(len(x), N, 1)], 2).unbind(1)
        return self.mlp(torch.einsum("bi,bj,bk->bijk", a, b, c).flatten(1))


class CrossModal(nn.Module):
    """Each branch attends to each other branch, then to what it found there: after MulT. https://arxiv.org/abs/1906.00295

    The paper attends over time; our branches have already pooled it, so a branch is a sequence of two, its middle and
    its top state. An absent branch is never attended to and its own summary is zeros.
    """

    def __init__(self, config: ModelConfig, middles: Middles):
        super().__init__()
        D, dropout = config.fusion // 2, config.dropout
        self.middles = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, D)) for c in middles)
        votes = config.state + N_EMOTIONS
        self.tops = _one_by_one(lambda: nn.Sequential(nn.LayerNorm(votes), nn.Linear(votes, D)))
        self.cross = nn.ModuleDict(
            {
                f"{i}{j}": nn.MultiheadAttention(D, config.fusion_heads, dropout, batch_first=True)
                for i in range(N)
                for j in range(N)
                if i != j
            }
        )
        self.norms = _one_by_one(lambda: nn.LayerNorm(D))
        self.own = _one_by_one(
            lambda: nn.TransformerEncoderLayer(
                2 * D, config.fusion_heads, 2 * D, dropout, batch_first=True, norm_first=True
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(2 * N * D), nn.Dropout(dropout), nn.Linear(2 * N * D, N_EMOTIONS))

    def forward(self, states: BranchStates, present: Tensor) -> Tensor:
        votes = torch.cat([states.tops, states.logits], -1)
        sequences = [
            norm(torch.stack([f(m), g(votes[:, i])], 1))
            for i, (f, g, norm, m) in enumerate(zip(self.middles, self.tops, self.norms, states.middles, strict=True))
        ]  # each (B, 2, D)
        summaries = []
        for i, own in enumerate(self.own):
            found = []
            for j in range(N):
                if j != i:
                    x, _ = self.cross[f"{i}{j}"](sequences[i], sequences[j], sequences[j], need_weights=False)
                    found.append(sequences[i] + x * present[:, j, None, None])
            summaries.append(own(torch.cat(found, 2))[:, -1] * present[:, i, None])
        return self.head(torch.cat(summaries, 1))


BASELINES = {
    "average": Average,
    "product": Product,
    "concatenation": Concatenation,
    "gated": Gated,
    "low_rank": LowRank,
    "tensor": TensorFusion,
    "cross_modal": CrossModal,
}
KINDS = (*BASELINES, "attention")


class Fusion(nn.Module):
    """A baseline in the place of `EmotionModel.fusion`: calibrated; one branch is passed through, none gives zeros."""

    def __init__(self, baseline: nn.Module):
        super().__init__()
        self.baseline = baseline
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, states: BranchStates, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and even weights (B, 3): a baseline has no votes to weigh."""
        here = present.to(states.logits.dtype)
        alone = (states.logits * here[..., None]).sum(1)
        several = here.sum(1, keepdim=True) > 1
        logits = torch.where(several, self.baseline(states, present) / self.temperature, alone)
        return logits, here / here.sum(1, keepdim=True).clamp_min(1)


def fusion_of(kind: str, config: ModelConfig, middles: Middles) -> nn.Module:
    """Return an untrained fusion by its name in `KINDS`; "attention" is ours."""
    if kind == "attention":
        return AttentionFusion(config, middles)
    made = BASELINES[kind]
    return Fusion(made() if kind in ("average", "product") else made(config, middles))
