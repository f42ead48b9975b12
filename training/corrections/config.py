"""The settings of a retraining."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptConfig:
    steps: int = 400  # at most; cross-validation chooses how many
    lr: float = 1e-3  # Adam; half of it costs strangers 3 points of UAR instead of 2, and other corpora one less
    share: float = 0.25  # of the loss that is the corrections', the rest is rehearsal; half of it costs EMO-DB 5 points
    deep_from: int = 30  # clips: below it only heads and fusion learn, not the branches' last layers
    seed: int = 0


@dataclass(frozen=True)
class RetrainConfig(AdaptConfig):
    min_labels: int = 20  # below it no honest gain can be told from luck
    min_judged: int = 12  # clips that the served model has not learned from
    confidence: float = 0.9  # that the new model is better, before the gate lets it through
    aggregation: str = "soft"  # of several annotators: one of METHODS
