"""How much of the training a row of the ablation gets, and the data that its rows share."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mmer import assets
from mmer.config import Config, ModelConfig, Paths
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training import corpora
from training.data.load import Faces, Texts, Voices, load_every_voice, load_faces, load_texts, split_calibration
from training.data.manifest import Row
from training.learn.config import CORPORA


@dataclass(frozen=True)
class Budget:
    """How much of the full training a row gets. Rows of one budget are comparable with each other, not across budgets."""

    model: ModelConfig
    epochs: dict[str, int] | None  # per branch; None: those of the full recipe
    rows: dict[str, int]  # most training rows per branch, drawn once and evenly; 0: all
    measured: int = 0  # most validation rows per branch, four times as many to calibrate on; 0: all
    steps: tuple[int, ...] = (100, 300, 1000)  # of a fusion: each kind chooses one
    text_tuned: bool = False  # whether MiniLM's last layers learn with the text branch


BUDGETS = {
    "full": Budget(ModelConfig(), None, {}, text_tuned=True),
    # One core: about 2 minutes for a face row, 16 for a voice row, 1 for a text row, once their data is read.
    "small": Budget(
        ModelConfig(), {"face": 5, "voice": 20, "text": 2}, {"face": 8000, "text": 12_000}, 1000, (100, 300)
    ),
    "tiny": Budget(ModelConfig.tiny(), {"face": 1, "voice": 1, "text": 1}, {"face": 64, "text": 64}, 40, (5, 10)),
}


class Data:
    """The corpora's rows in three parts: `train` for branches, `calibration` for fusion and temperatures, `val`.

    No speaker is in two parts, but for MELD, whose own split has the sitcom's main characters in all of them. Everything is
    measured on `val` and nothing is chosen on it.
    """

    def __init__(self, folder: Path, work: Path, budget: Budget):
        self.work, self.budget = work, budget
        self.settings = Config(model=replace(budget.model, text_tuned=budget.text_tuned))
        found = corpora.read_all(folder, work / "corpora")
        self._loaded: dict[tuple, Faces | Voices | Texts] = {}
        self._parts: dict[tuple[str, str], tuple[Row, ...]] = {}
        for m in MODALITIES:
            rows = tuple(r for c in CORPORA[m] for r in found.get(c, ()))
            train, calibration = split_calibration(tuple(r for r in rows if r.split == "train"))
            held = tuple(r for r in rows if r.split == "val" and len(r.emotions) == 1)
            self._parts[m, "train"] = _sample(train, budget.rows.get(m, 0))
            self._parts[m, "calibration"] = _sample(calibration, 4 * budget.measured)
            self._parts[m, "val"] = _sample(held, budget.measured)

    def rows(self, modality: str, part: str, corpus: str | None = None) -> tuple[Row, ...]:
        """Return a part's rows, of one corpus if asked."""
        rows = tuple(r for r in self._parts[modality, part] if corpus in (None, r.corpus))
        if not rows:
            raise TrainingError(
                "no_rows", f"there is no {part} row for the {modality} branch{f' in {corpus}' if corpus else ''}"
            )
        return rows

    @cached_property
    def language(self) -> LanguageModel:
        return LanguageModel(assets.find("text_encoder", Paths.from_env()))

    def load(self, model: EmotionModel, modality: str, part: str, corpus: str | None = None) -> Faces | Voices | Texts:
        """Return a part as the model's branch takes it, loaded once."""
        encoder = model.encoders["text"]
        key = (modality, part, corpus, encoder.layers is not None)
        if key not in self._loaded:
            rows = self.rows(modality, part, corpus)
            if modality == "face":
                self._loaded[key] = load_faces(rows, self.work, self.settings.face.crop_size)
            elif modality == "text":
                self._loaded[key] = load_texts(rows, self.work, self.language, encoder)
            else:
                self._loaded[key] = load_every_voice(rows)
        return self._loaded[key]


def _sample(rows: tuple[Row, ...], most: int) -> tuple[Row, ...]:
    """Return at most `most` rows, the same ones each time; rows stay in their order."""
    if not most or len(rows) <= most:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return tuple(rows[i] for i in sorted(chosen))
