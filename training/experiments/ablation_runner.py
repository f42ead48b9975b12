"""Rows of the ablation made into runs: what a row needs is run first, and what is finished is read back."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mmer import checkpoint
from mmer.labels import MODALITIES
from mmer.metrics import classification, headline
from mmer.model import EmotionModel
from training.data.load import Faces, Texts, Voices, load_texts, save_atomically, whisper_states
from training.data.manifest import class_counts, data_hash
from training.experiments import ablation_stages, corruptions
from training.experiments.ablation_data import Data
from training.experiments.ablation_grid import BranchRow, FusedRow, RobustRow, all_rows
from training.experiments.ablation_stages import Drawn
from training.experiments.run_cache import Run, Runs, without
from training.learn.branches import branch_module
from training.learn.config import TrainConfig
from training.learn.fusion import Encoded, encoded, subset_probs
from training.learn.loop import timed
from training.learn.losses import fit_temperature


class Ablation:
    """Runs rows on demand: a row that another one needs is run first."""

    def __init__(self, data: Data, config: TrainConfig, runs: Runs, served: checkpoint.Checkpoint | None):
        self.data, self.runs, self.served = data, runs, served
        epochs = {m: getattr(config, f"{m}_epochs") for m in MODALITIES} | (data.budget.epochs or {})
        self.config = replace(
            config,
            face_epochs=epochs["face"],
            voice_epochs=epochs["voice"],
            text_epochs=epochs["text"],
        )
        self.rows = all_rows()
        self._models: dict[tuple, EmotionModel] = {}
        self._held: dict[tuple, dict[str, Encoded]] = {}
        self._drawn: dict[tuple, Drawn] = {}

    def _settings(self, row, seed: int, *modalities: str) -> dict:
        """Return all that decides a run; what only concerns other branches does not."""
        others = [m for m in MODALITIES if m not in modalities]
        decided = {"budget": asdict(self.data.budget), "config": asdict(self.config)}
        whole = {"row": asdict(row), "seed": seed, **without(decided, others)}
        if self.served and not isinstance(row, BranchRow):
            whole["branches"] = self.served.meta["weights_sha256"]
            if self.data.whisper:
                whole["whisper"] = [*self.data.whisper.encoder_size(), self.data.n_views]
        for m in modalities:
            whole[m] = [data_hash(self.data.rows(m, part)) for part in ("train", "calibration", "val")]
        return whole

    def run(self, name: str, seed: int) -> Run:
        row = self.rows[name]
        if isinstance(row, BranchRow):
            return self.runs.get(
                name, self._settings(row, seed, row.modality), lambda work: self._branch(row, seed, work)
            )

        def make(work: Path) -> Run:
            return self._fused(row, seed, work) if isinstance(row, FusedRow) else self._robust(row, seed, work)

        return self.runs.get(name, self._settings(row, seed, *MODALITIES), make)

    def _branch_row(self, name: str) -> BranchRow:
        row = self.rows[name]
        assert isinstance(row, BranchRow), name
        return row

    def _branch_model(self, row: BranchRow, seed: int) -> EmotionModel:
        if row.adjust:  # nothing of its own to train
            row = self._branch_row(f"{row.modality}-{row.loss}")
        init = None
        if row.init:
            init = branch_module(self._branch_model(self._branch_row(row.init), seed), row.modality).state_dict()
        work = self.runs.work(row.name, self._settings(row, seed, row.modality))
        return ablation_stages.train_branch(row, self.data, replace(self.config, seed=seed), work, init)

    def _branch(self, row: BranchRow, seed: int, work: Path) -> Run:
        m = row.modality
        trained: list[EmotionModel] = []
        took = timed(lambda: trained.append(self._branch_model(row, seed)))
        held = encoded(trained[0], self.data.load(trained[0], m, "val", row.measured))
        counts = torch.tensor(class_counts(self.data.rows(m, "train", row.corpus)))
        probs = ablation_stages.probabilities(row, held.logits, counts).numpy()
        rows = self.data.rows(m, "val", row.measured)
        truth = held.targets.argmax(1).numpy()
        by_corpus = {}
        for corpus in sorted({r.corpus for r in rows}):
            own = np.array([r.corpus == corpus for r in rows])
            by_corpus[corpus] = headline(classification(truth[own], probs[own]))
        whole = classification(truth, probs)
        kept = {**headline(whole), "per_class": whole["per_class"], "by_corpus": by_corpus, **took}
        return Run(kept, {"probs": probs.astype(np.float16), "truth": truth})

    def _model(self, variant: str, seed: int) -> tuple[EmotionModel, tuple]:
        """Return a model with its branches and what it is known by."""
        if self.served:
            return self.served.model, ("served",)
        key = (variant, seed)
        if key not in self._models:
            model = EmotionModel(
                replace(self.data.settings.model, skip=variant != "no-skip"), self.data.settings.voice.n_mels
            )
            for m in MODALITIES:
                name = f"{m}-{variant}" if f"{m}-{variant}" in self.rows else m
                self.run(name, seed)
                branch_module(model, m).load_state_dict(
                    branch_module(self._branch_model(self._branch_row(name), seed), m).state_dict()
                )
            self._models[key] = model.eval()
        return self._models[key], key

    def _states(self, part: str, model: EmotionModel, key: tuple, seed: int) -> dict[str, Encoded]:
        """Return branch embeddings of a part, kept once computed; the calibration split also sets the temperatures."""
        name = "_".join(map(str, ("states", part, *key)))
        settings = self._settings(FusedRow("states", ""), 0 if self.served else seed, *MODALITIES)
        path = self.runs.work(name, settings) / "states.pt"
        known = (part, *key)
        if known not in self._held:
            if path.is_file():
                kept = torch.load(path, weights_only=True)
                self._held[known] = {m: Encoded(*kept[m]) for m in MODALITIES}
            else:
                if part == "calibration":
                    held = ablation_stages.calibration_views(model, self.data, 0 if self.served else seed)
                else:
                    held = {m: encoded(model, self.data.load(model, m, part)) for m in MODALITIES}
                self._held[known] = held
                save_atomically({m: [e.middle, e.top, e.logits, e.targets, e.pooled] for m, e in held.items()}, path)
        held = self._held[known]
        if part == "calibration" and not self.served:
            for i, m in enumerate(MODALITIES):
                model.temperatures[i] = fit_temperature(held[m].logits, held[m].targets)
        return held

    def _fused(self, row: FusedRow, seed: int, work: Path) -> Run:
        model, key = self._model(row.variant, seed)
        own, config = model.fusion, replace(self.config, seed=seed)
        calibration = self._states("calibration", model, key, seed)
        speakers = [r.speaker for r in self.data.rows("voice", "calibration")]
        try:
            first = replace(config, seed=0)  # steps are chosen once, not for each seed

            def choose(at: Path) -> Run:
                steps, accuracy = ablation_stages.chosen_steps(
                    model, row.kind, calibration, speakers, first, at, self.data.budget.steps
                )
                return Run({"steps": steps, "tried": accuracy})

            choice = self.runs.get(
                f"steps-{row.kind}-{'_'.join(map(str, key))}",
                self._settings(row, 0 if self.served else seed, *MODALITIES),
                choose,
            ).figures
            took = timed(
                lambda: ablation_stages.fit_fusion(model, row.kind, calibration, config, work, choice["steps"])
            )
            given = self._tuples(model, key, seed)
            probs = subset_probs(model, given.states)
            subsets = {name: headline(classification(given.truth, p)) for name, p in probs.items()}
            found = {**subsets["face+voice+text"], "subsets": subsets, **choice, **took}
            found["weights"] = sum(p.numel() for p in model.fusion.parameters())
        finally:
            model.fusion = own
        return Run(
            found, {"probs": probs["face+voice+text"].astype(np.float16), "truth": given.truth, "picks": given.picks}
        )

    def _tuples(self, model: EmotionModel, key: tuple, seed: int) -> Drawn:
        if key not in self._drawn:
            held = self._states("val", model, key, seed)
            self._drawn[key] = ablation_stages.drawn(held, model.temperatures)
        return self._drawn[key]

    def _robust(self, row: RobustRow, seed: int, work: Path) -> Run:
        model, key = self._model("", seed)
        own = model.fusion
        calibration = None if self.served else self._states("calibration", model, key, seed)
        held = dict(self._states("val", model, key, seed))
        if row.how != "clean":
            held[row.modality] = encoded(model, self.worse(model, row, work))
        given = ablation_stages.drawn(held, model.temperatures)
        try:
            if calibration is not None:
                steps = min(self.config.fusion_steps, max(self.data.budget.steps))
                ablation_stages.fit_fusion(
                    model, "attention", calibration, replace(self.config, seed=seed), work, steps
                )
            probs = subset_probs(model, given.states)
        finally:
            model.fusion = own
        subsets = {name: headline(classification(given.truth, p)) for name, p in probs.items()}
        arrays = {name: (p.argmax(1) == given.truth) for name, p in probs.items()}
        return Run({**subsets["face+voice+text"], "subsets": subsets}, {**arrays, "picks": given.picks})

    def worse(self, model: EmotionModel, row: RobustRow, work: Path) -> Faces | Voices | Texts:
        """Return the validation part of a branch under a condition, read again as in use: landmark fits, states."""
        rng = np.random.default_rng(1)
        if row.modality == "voice":
            voices = self.data.voices("val")
            babble = voices.samples if row.how == "babble" else ()
            samples = [corruptions.noisy(x, row.level, rng, babble) for x in voices.samples]
            whisper, nothing = self.data.whisper, [0] * len(samples)
            states = None if whisper is None else whisper_states(samples, voices.speakers, whisper, work, nothing)
            return replace(voices, samples=samples, whisper=states)
        if row.modality == "face":
            return _worse_faces(self.data.faces("val"), row)
        rows = self.data.rows("text", "val")
        words = [w for r in rows for w in r.text.split()]
        misheard = tuple(replace(r, text=corruptions.misheard(r.text, row.level, words, rng)) for r in rows)
        return load_texts(misheard, work, self.data.language(model))

    def speakers(self, row, run: Run) -> list[str]:
        if isinstance(row, BranchRow):
            return [r.speaker for r in self.data.rows(row.modality, "val", row.measured)]
        voices = self.data.rows("voice", "val")
        return [voices[i].speaker for i in run.arrays["picks"][:, 1]]


def _worse_faces(faces: Faces, row: RobustRow) -> Faces:
    from mmer.face import fit_crops

    if row.how == "blur":
        images = corruptions.blurred(faces.images, row.level)
    else:
        images = corruptions.covered(faces.images, row.how)
    crops = tqdm(images, desc=f"fits, {row.name}", leave=False, mininterval=5)
    fits = [np.full(52, np.nan) if x is None else x for x in fit_crops(x.numpy() for x in crops)]
    blendshapes = torch.from_numpy(np.stack(fits).astype(np.float32))
    fitted = ~blendshapes.isnan().any(1)
    return replace(faces, images=images, blendshapes=blendshapes.nan_to_num(), fitted=fitted)
