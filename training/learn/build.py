"""A model trained from corpora: its branches, then their fusion, calibrated, measured and written as a checkpoint."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mmer import assets, checkpoint
from mmer.config import Config, ModelConfig, Paths
from mmer.errors import TrainingError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.metrics import DEAF_VOICE
from mmer.model import EmotionModel
from mmer.speech import Transcriber
from training import corpora
from training.data.load import (
    Faces,
    Texts,
    Voices,
    at_most,
    load_every_voice,
    load_faces,
    load_texts,
    load_voices,
    split_calibration,
    targets_of,
)
from training.data.manifest import Row, data_hash
from training.learn import exemplars
from training.learn.branches import (
    face_encoder,
    text_encoder,
    train_face,
    train_statistics,
    train_text,
    train_voice,
)
from training.learn.config import CORPORA, TEACHING, TrainConfig, config_of
from training.learn.fusion import (
    N_TUPLES,
    Encoded,
    Judged,
    Tuples,
    Views,
    blurred,
    by_corpus,
    calibrate,
    encode_faces,
    encode_through_whisper,
    encode_views,
    encoded,
    fit_abstention,
    judged,
    subset_probs,
    subset_table,
    train_fusion,
)
from training.learn.imagenet_stream import train_imagenet, weigh_imagenet
from training.learn.loop import processes, timed
from training.learn.losses import fit_temperature
from training.learn.warm_start import adopt_imagenet, adopt_layers, assemble, of_branches, shape_of, start_from
from training.learn.whisper_stream import answers_left_out, train_whisper, weigh_whisper

Rows = dict[str, tuple[Row, ...]]  # of each branch
Alone = dict[str, list[Judged]]  # of each branch, by corpus


@dataclass(frozen=True)
class BuildOptions:
    """What a run starts from and where it leaves what; how it learns is said by TrainConfig."""

    corpora: Path
    work: Path  # states and caches
    out: Path | None = None  # None: the checkpoints folder
    name: str | None = None  # None: time and hash
    tiny: bool = False  # a model to see the pipeline run with
    imagenet: str | None = None  # EfficientNet-Lite0 beside the face's CNN, from this file; empty: fetched
    whisper: str | None = None  # let the voice read the encoder of this Whisper too
    init: str | None = None  # the checkpoint whose branches training starts from
    reset: tuple[str, ...] = ()  # branches that begin from nothing all the same
    stages: tuple[str, ...] = (*MODALITIES, "fusion")
    without: tuple[str, ...] = ()  # corpora that are left out, though they are there


def build(options: BuildOptions, config: TrainConfig) -> str:
    """Run the stages asked for; return what was done in one line."""
    run = _Run(options, config)
    run.train_branches()
    if options.stages == ("abstention",):
        return run.fit_thresholds()
    if "fusion" not in options.stages:
        return f"trained {', '.join(options.stages)}; give --stage fusion to write a checkpoint"
    return run.train_fusion()


def write_exemplars(options: BuildOptions, *, checkpoint_id: str) -> str:
    """Write the exemplars of a checkpoint beside it, of the corpora it was trained with and as it drew from them.

    Returns:
        What was done, in one line.
    """
    root = Paths.from_env().checkpoints
    meta = checkpoint.read_meta(checkpoint_id, root)
    without = tuple(meta.get("without", ()))
    run = _Run(replace(options, init=checkpoint_id, stages=("fusion",), without=without), config_of(meta))
    return run.write_exemplars(checkpoint.folder_of(checkpoint_id, root))


class _Run:
    """One run: the rows of each part, the model, and the frozen models beside it."""

    def __init__(self, options: BuildOptions, config: TrainConfig):
        self.options, self.config, self.paths = options, config, Paths.from_env()
        self.team = processes()  # the first fills the caches, all train, the first writes
        options.work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.loaded = self._start(options.init) if options.init else None
        self.whisper = self._transcriber()
        self.settings = Config(model=self._shape())
        self.fuses = bool({"fusion", "abstention"} & set(options.stages))
        if self.settings.model.whisper_depths and self.whisper is None and self.fuses:
            message = f"the voice branch of {options.init} reads Whisper's encoder; give --whisper base or its .pt file"
            raise TrainingError("no_whisper", message)
        self.train, self.calibration, self.val = self._read()
        self.model = EmotionModel(self.settings.model, self.settings.voice.n_mels)
        if self.fuses or "text" in options.stages:
            folder = assets.find("text_encoder", self.paths)  # found now, not after hours
            adopt_layers(text_encoder(self.model), folder)
        stream = face_encoder(self.model).imagenet
        if options.imagenet is not None and stream is not None:
            adopt_imagenet(stream.net, options.imagenet)
        self.fresh = of_branches(self.model)  # names of the tensors that do not start from the checkpoint
        if self.loaded:
            kept = ("encoders.face.imagenet.",) if options.imagenet is not None else ()
            self.fresh -= start_from(self.model, self.loaded.model, options.reset, kept)
            n = len(of_branches(self.model))
            print(f"all but {len(self.fresh)} of the branches' {n} tensors start from {options.init}")

    def _start(self, name: str) -> checkpoint.Checkpoint:
        loaded = checkpoint.load(name, self.paths.checkpoints)
        if corrected := ", ".join(loaded.model.corrections):
            hint = f"start from {loaded.meta.get('parent')}, then run retrain.py: it has all labels still"
            raise TrainingError("corrected", f"people corrected {corrected} of {name}, as those branches are; {hint}")
        return loaded

    def _transcriber(self) -> Transcriber | None:
        if not self.options.whisper:
            return None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Transcriber(self.options.whisper, device, self.paths.assets / "whisper")

    def _shape(self) -> ModelConfig:
        shape = shape_of(self.loaded, self.options.reset, ModelConfig.tiny() if self.options.tiny else ModelConfig())
        if self.whisper is not None:
            depths, width = self.whisper.encoder_size()
            shape = replace(shape, whisper_depths=depths, whisper_width=width)
        from_imagenet = self.options.imagenet is not None or shape.face_imagenet
        return replace(shape, face_imagenet=from_imagenet)

    def _read(self) -> tuple[Rows, Rows, Rows]:
        """Return what branches learn from, what fusion and temperatures do, and what is measured on."""
        with self.team.main_process_first():
            found = corpora.read_all(self.options.corpora, self.options.work / "corpora")
        found = {name: part for name, part in found.items() if name not in self.options.without}
        rows = {m: tuple(r for c in CORPORA[m] for r in found.get(c, ())) for m in MODALITIES}
        rows["voice"] = tuple(r for c in CORPORA["voice"] for r in at_most(found.get(c, ()), self.config.voice_most))
        split = {m: split_calibration(tuple(r for r in rows[m] if r.split == "train")) for m in MODALITIES}
        more = {
            m: tuple(r for c in TEACHING.get(m, ()) for r in found.get(c, ()) if r.split == "train") for m in MODALITIES
        }
        val = {m: tuple(r for r in rows[m] if r.split == "val") for m in MODALITIES}
        needed = MODALITIES if self.fuses else {stage.split("_")[0] for stage in self.options.stages}
        for m in MODALITIES:
            if m in needed and not rows[m]:
                message = f"nothing is there that the {m} branch could learn from; it needs {' or '.join(CORPORA[m])}"
                raise TrainingError("no_corpora", message)
        return {m: part + more[m] for m, (part, _) in split.items()}, {m: part for m, (_, part) in split.items()}, val

    @cached_property
    def language(self) -> LanguageModel:
        folder = assets.find("text_encoder", self.paths)
        return LanguageModel(folder, without=self.settings.model.text_layers)

    def _faces(self, rows: Rows) -> Faces:
        with self.team.main_process_first():
            return load_faces(rows["face"], self.options.work, self.settings.face.crop_size)

    def _voices(self, rows: Rows, n_views: int = 0) -> Voices:
        with self.team.main_process_first():
            return load_voices(rows["voice"], self.whisper, self.options.work, n_views)

    def _texts(self, rows: Rows) -> Texts:
        with self.team.main_process_first():
            return load_texts(rows["text"], self.options.work, self.language)

    def _stage(self, name: str, make: Callable[[], None]) -> None:
        """Train a stage and say what it took."""
        took = timed(make)
        if self.team.is_main_process:
            minutes, peak = took["seconds"] / 60, took["peak_mb"] / 1024
            print(f"{name}: {minutes:.1f} minutes in this run, {peak:.1f} GB at most so far")

    def train_branches(self) -> None:
        model, config, work, stages = self.model, self.config, self.options.work, self.options.stages
        if {"face", "face_imagenet"} & set(stages):
            faces = self._faces(self.train)
            if "face" in stages:
                self._stage("face", lambda: train_face(model, faces, config, work))
            if "face_imagenet" in stages and self.settings.model.face_imagenet:
                voted = replace(faces, targets=targets_of(self.train["face"], config.face_imagenet_votes))
                self._stage("face, from ImageNet", lambda: train_imagenet(model, voted, config, work))
        if {"voice", "voice_whisper"} & set(stages):
            voices = self._voices(self.train, config.voice_whisper_views)
            if "voice" in stages:
                self._stage("voice", lambda: train_voice(model, voices, config, work))
                self._stage("voice statistics", lambda: train_statistics(model, voices, config, work))
            if self.whisper is not None:
                self._stage("voice, Whisper's encoder", lambda: train_whisper(model, voices, config, work))
        if "text" in stages:
            texts = self._texts(self.train)
            self._stage("text", lambda: train_text(model, texts, self.train["text"], config, work))

    def train_fusion(self) -> str:
        """Join the branches, train and calibrate their fusion, and write the checkpoint."""
        model, config = self.model, self.config
        trained_with = assemble(
            model, self.options.work, config, self.loaded, self.fresh, self.options.reset, self.train
        )
        voices = self._voices(self.calibration, config.voice_whisper_views)
        faces = self._faces(self.calibration)
        trained_with["streams"] = dict(self.loaded.meta.get("streams", {})) if self.loaded else {}
        if self._learned("face_imagenet"):
            trained_with["streams"]["face"] = weigh_imagenet(model, faces)
        views = encode_views(model, faces, voices, self._texts(self.calibration), config.seed)
        for i, alone in enumerate((views.faces[0], views.deaf[0], views.texts)):
            if self._learned(MODALITIES[i]):
                model.temperatures[i] = fit_temperature(alone.logits, alone.targets)
            elif self.loaded is not None:  # its CNN or recurrence is as it was
                model.temperatures[i] = self.loaded.model.temperatures[i]
        if self.whisper is not None and self._learned("voice_whisper"):
            temperature = float(model.temperatures[MODALITIES.index("voice")])
            trained_with["streams"]["voice"] = weigh_whisper(model, voices, views.deaf[0].top, temperature)
        if trained_with["streams"]:
            print(f"streams: {trained_with['streams']}")
        views = replace(views, voices=encode_through_whisper(model, voices))
        worse = encode_faces(model, blurred(faces, config.seed), fits=False)
        learned_from = replace(views, faces=[*views.faces, worse]).joined()
        tuples = Tuples(learned_from, model.temperatures, config.conflict)
        self._stage("fusion", lambda: train_fusion(model, tuples, config, self.options.work))
        held: dict[str, Faces | Voices | Texts] = {
            "face": self._faces(self.val),
            "voice": self._voices(self.val),
            "text": self._texts(self.val),
        }
        if not self.team.is_main_process:
            return "the first process writes the checkpoint"
        parts = views.joined()
        calibrate(model, Tuples(parts, model.temperatures, 0.0), config.seed + 1)
        threshold = self._thresholds(parts, self._alone(views, voices))
        table = self._measure({m: encoded(model, part) for m, part in held.items()})
        return self._write(trained_with, threshold, table)

    def fit_thresholds(self) -> str:
        """Fit anew below which confidence a checkpoint abstains, and write it; nothing else of it changes."""
        loaded = self.loaded
        if loaded is None:
            raise TrainingError("no_checkpoint", "there is no checkpoint to fit thresholds of; name one with --init")
        self.model = model = loaded.model
        voices = self._voices(self.calibration)
        views = encode_views(model, self._faces(self.calibration), voices, self._texts(self.calibration), 0)
        views = replace(views, voices=encode_through_whisper(model, voices))
        if not self.team.is_main_process:
            return "the first process writes the checkpoint"
        abstain = self._thresholds(views.joined(), self._alone(views, voices))
        own = {k: v for k, v in loaded.meta.items() if k not in ("id", "created_at")}
        out = self.options.out or self.paths.checkpoints
        name = checkpoint.save(model, loaded.config, out, {**own, "abstain": abstain}, name=self.options.name)
        if (kept := loaded.folder / exemplars.FILE).is_file():
            shutil.copyfile(kept, out / name / exemplars.FILE)
        return f"wrote {out / name}"

    def _thresholds(self, parts: dict[str, Encoded], alone: Alone) -> dict:
        """Return the confidences below which the model abstains."""
        generator = torch.Generator().manual_seed(self.config.seed + 3)
        agreeing = Tuples(parts, self.model.temperatures, 0.0)
        states, _, targets = agreeing.draw(N_TUPLES, generator, subsets=False)
        return fit_abstention(subset_probs(self.model, states), targets.argmax(1).numpy(), alone)

    def _learned(self, stage: str) -> bool:
        """Whether the work folder holds what a stage learned."""
        return (self.options.work / f"{stage}.state.pt").is_file()

    def _alone(self, views: Views, voices: Voices) -> Alone:
        """Return what each branch alone answers to every corpus, to rows that taught it nothing."""
        of = {
            m: ([r.corpus for r in self.calibration[m]], [r.speaker for r in self.calibration[m]]) for m in MODALITIES
        }
        of["voice"] = (list(voices.corpora), list(voices.speakers))
        heard = judged(self.model, "voice", (views.voices or views.deaf)[0], *of["voice"])
        return {
            "face": [part for view in views.faces for part in judged(self.model, "face", view, *of["face"])],
            "voice": [*heard, *self._voices_left_out(voices)],
            DEAF_VOICE: judged(self.model, "voice", views.deaf[0], *of["voice"]),
            "text": judged(self.model, "text", views.texts, *of["text"]),
        }

    def _voices_left_out(self, calibration: Voices) -> list[Judged]:
        """Return what the stream from Whisper's encoder answers to the speakers it learns from, left out in turn.

        The calibration split has a speaker or two of a corpus. How far a voice can be relied on differs by people.
        """
        if self.whisper is None:
            return []
        voices = self._voices(self.train)
        probs = answers_left_out(self.model, voices, calibration, self.config, self.options.work)
        return by_corpus(probs, voices.targets, voices.corpora, voices.speakers)

    def _measure(self, held: dict[str, Encoded]) -> dict[str, dict]:
        table = subset_table(self.model, Tuples(held, self.model.temperatures, 0.0), self.config.seed + 2)
        for name, line in table.items():
            print(f"{name:16} " + "  ".join(f"{k} {v:.3f}" for k, v in line.items()))
        return table

    def _write(self, trained_with: dict[str, dict], threshold: dict, table: dict[str, dict]) -> str:
        options, loaded = self.options, self.loaded
        data = {
            m: {
                "train": data_hash(self.train[m]),
                "fusion": data_hash(self.calibration[m]),
                "val": data_hash(self.val[m]),
                "n": [len(self.train[m]), len(self.calibration[m]), len(self.val[m])],
            }
            for m in MODALITIES
        }
        temperatures = dict(zip(MODALITIES, self.model.temperatures.tolist(), strict=True))
        meta: dict[str, Any] = {
            "parent": None,
            "init": loaded and {"id": options.init, "weights_sha256": loaded.meta.get("weights_sha256")},
            "seed": self.config.seed,
            "whisper": options.whisper and Path(options.whisper).name,
            "without": sorted(options.without),
            **trained_with,
            "data": data,
            "temperature": {**temperatures, "fused": float(self.model.fusion.temperature)},
            "abstain": threshold,
            "metrics": {"label_matched_validation_tuples": table},
        }
        out = options.out or self.paths.checkpoints
        name = checkpoint.save(self.model, self.settings, out, meta, name=options.name)
        return f"wrote {out / name}; {self.write_exemplars(out / name)}"

    @torch.no_grad()
    def write_exemplars(self, folder: Path) -> str:
        """Write a sample of what the branches learned from, as they pool it, and of the calibration split."""
        self.model.eval()
        branches = {}
        for m in MODALITIES:
            sets = (self.train, exemplars.TRAINING), (self.calibration, exemplars.CALIBRATION)
            chosen = [exemplars.balanced(rows[m], n) for rows, n in sets]
            rows = tuple(r for part in chosen for r in part)
            found = encoded(self.model, self._loaded(m, rows))
            branches[m] = exemplars.Exemplar(
                found.middle,
                found.pooled,
                found.targets,
                tuple(r.corpus for r in rows),
                tuple(exemplars.speaker_hash(r.corpus, r.speaker) for r in rows),
                torch.arange(len(rows)) >= len(chosen[0]),
            )
        exemplars.save(folder / exemplars.FILE, self.model, exemplars.Exemplars(branches))
        counts = ", ".join(f"{len(part.targets)} of {m}" for m, part in branches.items())
        return f"its exemplars are {counts}"

    def _loaded(self, modality: str, rows: tuple[Row, ...]) -> Faces | Voices | Texts:
        one = {modality: rows}
        if modality == "face":
            return self._faces(one)
        if modality == "text":
            return self._texts(one)
        return load_every_voice(rows, self.whisper, self.options.work)
