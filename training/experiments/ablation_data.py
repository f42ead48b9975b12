"""The data that the rows of the ablation share."""

from pathlib import Path

import numpy as np

from mmer import assets
from mmer.config import Config, Paths
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from mmer.speech import Transcriber
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

    def __init__(self, folder: Path, work: Path, budget: Budget, whisper: Transcriber | None = None, n_views: int = 0):
        """
        Args:
            whisper: whose encoder listens to the voices too.
            n_views: augmented ones that it hears of each utterance of the calibration split.
        """
        self.work, self.budget, self.whisper, self.n_views = work, budget, whisper, n_views
        self.settings = Config(model=budget.model)
        found = corpora.read_all(folder, work / "corpora")
        self._faces: dict[tuple, Faces] = {}
        self._voices: dict[tuple, Voices] = {}
        self._texts: dict[tuple, Texts] = {}
        self._languages: dict[int, LanguageModel] = {}
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

    def language(self, model: EmotionModel) -> LanguageModel:
        """Return the text encoder as the model's branch reads it, loaded once."""
        without = model.config.text_layers
        if without not in self._languages:
            self._languages[without] = LanguageModel(assets.find("text_encoder", Paths.from_env()), without=without)
        return self._languages[without]

    def faces(self, part: str, corpus: str | None = None) -> Faces:
        """Return a part's crops, loaded once."""
        key, size = (part, corpus), self.settings.face.crop_size
        if key not in self._faces:
            self._faces[key] = load_faces(self.rows("face", part, corpus), self.work, size)
        return self._faces[key]

    def voices(self, part: str, corpus: str | None = None) -> Voices:
        """Return a part's utterances, loaded once."""
        key = (part, corpus)
        if key not in self._voices:
            n_views = self.n_views if part == "calibration" else 0
            self._voices[key] = load_every_voice(self.rows("voice", part, corpus), self.whisper, self.work, n_views)
        return self._voices[key]

    def texts(self, model: EmotionModel, part: str, corpus: str | None = None) -> Texts:
        """Return the token states of a part's sentences as the model's branch reads them, loaded once."""
        key = (part, corpus, model.config.text_layers)
        if key not in self._texts:
            self._texts[key] = load_texts(self.rows("text", part, corpus), self.work, self.language(model))
        return self._texts[key]

    def load(self, model: EmotionModel, modality: str, part: str, corpus: str | None = None) -> Faces | Voices | Texts:
        """Return a part as the model's branch takes it, loaded once."""
        if modality == "face":
            return self.faces(part, corpus)
        return self.voices(part, corpus) if modality == "voice" else self.texts(model, part, corpus)


def _sample(rows: tuple[Row, ...], most: int) -> tuple[Row, ...]:
    """Return at most `most` rows, the same ones each time; rows stay in their order."""
    if not most or len(rows) <= most:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return tuple(rows[i] for i in sorted(chosen))
