"""How much of the full training a row of the ablation gets."""

from dataclasses import dataclass

from mmer.config import ModelConfig


@dataclass(frozen=True)
class Budget:
    """How much of the full training a row gets. Rows are comparable within a budget, not across budgets."""

    model: ModelConfig
    epochs: dict[str, int] | None  # per branch; None: those of the full recipe
    rows: dict[str, int]  # most training rows per branch, drawn once and evenly; 0: all
    measured: int = 0  # most validation rows per branch, four times as many to calibrate on; 0: all
    steps: tuple[int, ...] = (100, 300, 1000)  # of a fusion: each kind chooses one


BUDGETS = {
    "full": Budget(ModelConfig(), None, {}),
    # One core: about 2 minutes for a face row, 16 for a voice row, 1 for a text row, once their data is read.
    "small": Budget(
        ModelConfig(text_layers=0),
        {"face": 5, "voice": 20, "text": 2},
        {"face": 8000, "text": 12_000},
        1000,
        (100, 300),
    ),
    "tiny": Budget(ModelConfig.tiny(), {"face": 1, "voice": 1, "text": 1}, {"face": 64, "text": 64}, 40, (5, 10)),
}
