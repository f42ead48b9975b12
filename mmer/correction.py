"""What people's corrections change in a branch's vote: near what was corrected, and nothing elsewhere."""

import torch
from torch import Tensor, nn

from mmer.labels import N_EMOTIONS

FAR = 6.0  # deviations: no number of a clip counts beyond


class Correction(nn.Module):
    """A linear change of a branch's calibrated logits, times how near a clip is to those that were corrected.

    Both read what the branch pools, in the deviations of what the base learned from. The base itself stays as it is
    beneath: where nothing near was corrected, its answer stands. Of a mixture of experts
    (https://doi.org/10.1162/neco.1991.3.1.79) it is the second expert and the gate.
    """

    mean: Tensor  # (C,)
    scale: Tensor  # (C,) one over the deviation; 0 for what never varies
    heard: Tensor  # () share of what was corrected that Whisper heard; NaN where no column says so

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.zeros(size))
        self.register_buffer("heard", torch.tensor(torch.nan))
        self.change, self.likeness = nn.Linear(size, N_EMOTIONS), nn.Linear(size, 1)
        for layer in (self.change, self.likeness):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def standard(self, pooled: Tensor) -> Tensor:
        """Return what a branch pooled (B, C) in deviations, divided by the root of their number."""
        return ((pooled - self.mean) * self.scale).clamp(-FAR, FAR) / pooled.shape[1] ** 0.5

    def near(self, pooled: Tensor) -> Tensor:
        """Return how near each clip is to those that were corrected (B, 1), from 0 to 1.

        A clip that Whisper did not hear is not near those that it heard, nor the other way round.
        """
        otherwise = (pooled[:, -1:] - self.heard).abs() >= 1  # never of NaN
        return self.likeness(self.standard(pooled)).sigmoid() * ~otherwise

    def forward(self, pooled: Tensor) -> Tensor:
        """Return what is added to the calibrated logits (B, K) of clips whose branch pooled (B, C)."""
        return self.near(pooled) * self.change(self.standard(pooled))
