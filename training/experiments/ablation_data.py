"""The data that the rows of the ablation share."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mmer import assets
from mmer.config import Config, Paths
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from training import corpora
from training.data.load import Faces, Texts, Voices, load_every_voice, load_faces, load_texts, split_calibration
from training.data.manifest import Row
from training.experiments.budgets import Budget
from training.learn.config import CORPORA


class Data:
    """The corpora's rows in three parts: `train` for branches, `calibration` for fusion and temperatures, `val`.

    No speaker is in two parts, but for MELD, whose own split has the sitcom's main characters in all of them.
    Everything is measured on `val` and nothing is chosen on it.
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
