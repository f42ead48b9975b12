"""The settings of a retraining."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetrainConfig:
    seed: int = 0  # of the tuples on which the thresholds of abstention are chosen
    min_labels: int = 20  # below it no honest gain can be told from luck
    min_judged: int = 12  # clips to learn from; left out in turn, they measure too
    confidence: float = 0.9  # that the new model is better, before the gate lets it through
    aggregation: str = "soft"  # of several annotators: one of METHODS
