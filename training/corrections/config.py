"""The settings of a retraining."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptConfig:
    epochs: int = 60  # at most; cross-validation chooses how many
    lr: float = 5e-3  # Adam, heads and fusion; a tenth for the encoders' last layers
    deep_from: int = 300  # clips: below it the encoders' last layers fit the few faces and voices by heart
    seed: int = 0


@dataclass(frozen=True)
class RetrainConfig(AdaptConfig):
    min_labels: int = 20  # below it a third of the labels cannot tell a better model from a lucky one
    held_out: float = 0.3  # share of the groups that measure and are never trained on
    min_held_out: int = 6  # clips: with fewer, no honest difference passes the gate
    draws: int = 2000  # of the gate's bootstrap
    aggregation: str = "soft"  # of several annotators: one of METHODS
