"""Speaker-disjoint folds of a corpus, and the voice branch trained and tested on them."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmer.config import Config, ModelConfig
from mmer.errors import TrainingError
from mmer.labels import EMOTIONS, RAVDESS_CODES
from mmer.metrics import bootstrap, by_group, classification, headline
from mmer.model import EmotionModel
from mmer.speech import Transcriber
from training.data.load import Voices, load_every_voice, load_voices, save_atomically
from training.data.manifest import Row, data_hash
from training.data.unpaired import RAVDESS_TEST, RAVDESS_VAL
from training.experiments.run_cache import Run, Runs, without
from training.learn.branches import branch_module, train_statistics, train_voice
from training.learn.config import TrainConfig
from training.learn.fusion import encode_voices
from training.learn.whisper_stream import train_whisper, weigh_whisper

EMOBOX = ({1, 11, 20, 21}, {4, 10, 12, 14}, {8, 9, 19, 23}, {3, 5, 7, 24}, RAVDESS_VAL, RAVDESS_TEST)
CALM = "calm"


@dataclass(frozen=True)
class Fold:
    name: str
    test: frozenset[str]  # speakers
    inner: frozenset[str]  # speakers who choose the epoch


def emobox(speakers: set[str]) -> list[Fold]:
    """Return the folds of EmoBox of which every actor is there."""
    named = [frozenset(f"ravdess-{a:02d}" for a in actors) for actors in EMOBOX]
    here = [(str(i + 1), actors) for i, actors in enumerate(named) if actors <= speakers]
    return _rotated(here, "EmoBox's folds of RAVDESS")


def hashed(speakers: set[str], n: int) -> list[Fold]:
    """Return `n` folds of about as many speakers each, drawn by a hash of their names."""
    order = sorted(speakers, key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    parts = [(str(i + 1), frozenset(order[i::n])) for i in range(n)]
    return _rotated([p for p in parts if p[1]], f"{n} folds")


def _rotated(parts: list[tuple[str, frozenset[str]]], what: str) -> list[Fold]:
    if len(parts) < 3:  # one to test on, one to choose the epoch on, one to learn from
        raise TrainingError(
            "too_few_folds", f"{what}: {len(parts)} can be made of the speakers here; at least 3 are needed"
        )
    return [Fold(name, test, parts[(i + 1) % len(parts)][1]) for i, (name, test) in enumerate(parts)]


def labels(rows: Sequence[Row], classes: int) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the classes' names and the rows' targets (N, classes), calm apart from neutral where there are eight."""
    if classes == 7:
        return EMOTIONS, torch.tensor([r.target for r in rows])
    names = (*EMOTIONS, CALM)
    index = [names.index(CALM) if _is_calm(r) else r.label for r in rows]
    return names, nn.functional.one_hot(torch.tensor(index), len(names)).float()


def _is_calm(row: Row) -> bool:
    return row.corpus == "ravdess" and row.path is not None and RAVDESS_CODES[row.path.stem.split("-")[2]] == CALM


def calm_is_neutral(probs: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 7) of the emotions from those of seven or eight classes (N, 7 or 8)."""
    merged = probs[:, : len(EMOTIONS)].copy()
    merged[:, EMOTIONS.index("neutral")] += probs[:, len(EMOTIONS) :].sum(1)
    return merged


def _seven(truth: np.ndarray) -> np.ndarray:
    return np.where(truth == len(EMOTIONS), EMOTIONS.index("neutral"), truth)


def _uar_of_seven(run: Run) -> float:
    return classification(_seven(run.arrays["truth"]), calm_is_neutral(run.arrays["probs"]), EMOTIONS)["uar"]


def _spread(uars: np.ndarray) -> dict[str, float | None]:
    """Return the mean of UARs (folds, seeds) and their deviations."""
    over = uars.mean(0)
    return {
        "uar": float(over.mean()),
        "sd_over_folds": float(uars.mean(1).std(ddof=1)) if len(uars) > 1 else None,
        "sd_over_seeds": float(over.std(ddof=1)) if len(over) > 1 else None,
    }


def new_model(config: ModelConfig, classes: int, seed: int) -> EmotionModel:
    torch.manual_seed(seed)
    model = EmotionModel(config, Config().voice.n_mels)
    model.heads["voice"] = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.state, classes))
    return model


def _uar(model: EmotionModel, voices: Voices, names: Sequence[str]) -> float:
    probs = encode_voices(model, voices).logits.softmax(1).numpy()
    return classification(voices.targets.argmax(1).numpy(), probs, names)["uar"]


def train(
    voices: Voices,
    inner: Voices | None,
    names: Sequence[str],
    shape: ModelConfig,
    config: TrainConfig,
    work: Path,
    stop: int,
) -> tuple[EmotionModel, int, dict[str, float]]:
    """Train a branch and return it, the epoch its CNN stopped at, and the CNN's UAR on `inner` after each epoch.

    Epochs are counted from 1; `config.voice_epochs` + 1 is the weights training ends with, the average where one is
    kept. The statistics and the stream from Whisper's encoder learn after the CNN that was chosen; the stream decides
    alone, but where the inner speakers say how much the others count beside it.

    Args:
        inner: speakers who choose the epoch; None: it is `stop`.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = new_model(shape, len(names), config.seed)
    watched = new_model(replace(shape, voice_statistics=0, whisper_depths=0), len(names), config.seed)
    module, best, note = branch_module(model, "voice"), work / "best.pt", work / "curve.json"
    curve = json.loads(note.read_text()) if note.is_file() else {}

    def look(epoch: int) -> str:
        """Keep the weights if no earlier epoch was better."""
        streams = ("encoder.statistics", "encoder.whisper")
        state = {k: v.detach().cpu() for k, v in module.state_dict().items() if not k.startswith(streams)}
        if inner is None:
            better, words = epoch == stop, ""
        else:
            branch_module(watched, "voice").load_state_dict(state)
            score = _uar(watched.eval(), inner, names)
            better = score >= max([v for k, v in curve.items() if k != str(epoch)], default=0.0)
            curve[str(epoch)] = score
            words = f"UAR of the inner speakers {score:.3f}"
        if better:
            save_atomically(state, best)
        note.with_suffix(".part").write_text(json.dumps(curve))
        os.replace(note.with_suffix(".part"), note)
        return words

    train_voice(model, voices, config, work, report=lambda epoch: look(epoch + 1))
    look(config.voice_epochs + 1)
    module.load_state_dict(module.state_dict() | torch.load(best, weights_only=True))
    # A CNN that learned nothing counts for nothing, and the statistics, which learn through its head, neither.
    stream_alone = voices.whisper is not None and not config.voice_epochs
    if not stream_alone:
        train_statistics(model, voices, config, work)
    train_whisper(model, voices, config, work)
    model.eval()
    if inner is not None and inner.whisper is not None and not stream_alone:
        weigh_whisper(model, inner, encode_voices(model, inner, with_whisper=False).top)
    chosen = stop if inner is None else max(map(int, curve), key=lambda epoch: (curve[str(epoch)], epoch))
    return model.eval(), chosen, curve


class CrossValidation:
    def __init__(
        self,
        rows: Sequence[Row],
        classes: int,
        shape: ModelConfig,
        config: TrainConfig,
        runs: Runs,
        how: str,
        unseen: Sequence[Row] = (),
        whisper: Transcriber | None = None,
        work: Path = Path(),
    ):
        """
        Args:
            how: nested, refit or fixed: what the inner speakers are for.
            unseen: recordings of another corpus, which every fold's branch is measured on too.
            whisper: whose encoder the branch reads too; its states are kept in `work`.
        """
        self.whisper, self.work = whisper, work
        self.rows, self.classes, self.shape, self.config = rows, classes, shape, config
        self.runs, self.how, self.unseen = runs, how, unseen
        self.speakers = np.array([r.speaker for r in rows])
        self.names, self.targets = labels(rows, classes)

    @cached_property
    def voices(self) -> Voices:
        """The recordings, read at first use: a finished experiment needs none."""
        voices = load_every_voice(self.rows, self.whisper, self.work, self.config.voice_whisper_views)
        return replace(voices, targets=self.targets)

    @cached_property
    def others(self) -> Voices:
        return load_voices(self.unseen, self.whisper, self.work)

    def run(self, fold: Fold, seed: int) -> Run:
        decided = {"model": asdict(self.shape), "config": asdict(self.config)}
        settings = {
            "fold": [sorted(fold.test), sorted(fold.inner)],
            "classes": self.classes,
            "seed": seed,
            "how": self.how,
            **without(decided, ("face", "text", "fusion")),
            "data": data_hash(tuple(self.rows)),
            "unseen": data_hash(tuple(self.unseen)),
        }
        return self.runs.get(f"fold-{fold.name}-seed-{seed}", settings, lambda work: self._run(fold, seed, work))

    def _run(self, fold: Fold, seed: int, work: Path) -> Run:
        config = replace(self.config, seed=seed)
        test, inner = (np.isin(self.speakers, sorted(part)) for part in (fold.test, fold.inner))
        learned = ~test if self.how == "fixed" else ~test & ~inner
        watch = None if self.how == "fixed" else self.voices.part(inner)
        stop = config.voice_epochs + 1  # the weights training ends with
        model, chosen, curve = train(
            self.voices.part(learned), watch, self.names, self.shape, config, work / self.how, stop
        )
        if self.how == "refit":
            learned = ~test
            model, _, _ = train(self.voices.part(learned), None, self.names, self.shape, config, work / "again", chosen)
        held = self.voices.part(test)
        probs = encode_voices(model, held).logits.softmax(1).numpy()
        truth = held.targets.argmax(1).numpy()
        found = {
            **headline(classification(truth, probs, self.names)),
            "epoch": chosen,
            "inner": curve,
            "trained_on": sorted(set(self.speakers[learned])),
        }
        arrays = {"probs": probs, "truth": truth, "rows": np.flatnonzero(test)}
        if self.unseen:
            other = self.others
            arrays["unseen_truth"] = other.targets.argmax(1).numpy()
            arrays["unseen_probs"] = calm_is_neutral(encode_voices(model, other).logits.softmax(1).numpy())
            found["unseen"] = headline(classification(arrays["unseen_truth"], arrays["unseen_probs"], EMOTIONS))
        return Run(found, arrays)

    def summary(self, folds: Sequence[Fold], seeds: Sequence[int]) -> dict:
        """Return figures per fold, over folds, and over all test rows together with intervals by speaker."""
        parts = [
            {
                "fold": f.name,
                "speakers": sorted(f.test),
                "inner": sorted(f.inner),
                "runs": [self.run(f, s).figures for s in seeds],
            }
            for f in folds
        ]
        per_seed = []
        for seed in seeds:
            runs = [self.run(f, seed) for f in folds]
            truth = np.concatenate([r.arrays["truth"] for r in runs])
            probs = np.concatenate([r.arrays["probs"] for r in runs])
            rows = [self.rows[i] for r in runs for i in r.arrays["rows"]]
            speakers = [r.speaker for r in rows]
            whole = classification(truth, probs, self.names)
            whole["ci95"] = bootstrap(truth, probs.argmax(1), speakers, n_classes=len(self.names), seed=seed)
            whole["gaps"] = by_group(truth, probs, speakers, [r.group for r in rows], names=self.names, seed=seed)
            whole["by_speaker"] = {
                s: float((probs.argmax(1) == truth)[np.array(speakers) == s].mean()) for s in sorted(set(speakers))
            }
            per_seed.append({"seed": seed, **whole})
        by_fold = [[self.run(f, s) for s in seeds] for f in folds]
        uars = np.array([[r.figures["uar"] for r in part] for part in by_fold])  # (folds, seeds)
        found: dict[str, Any] = {
            "classes": list(self.names),
            "folds": parts,
            "mean_of_folds": _spread(uars),
            "pooled": per_seed,
        }
        if self.classes == 8:
            merged = [[_uar_of_seven(r) for r in part] for part in by_fold]
            found["calm_as_neutral"] = {**_spread(np.array(merged)), "folds": merged}
        if self.unseen:
            other = [[r.figures["unseen"]["uar"] for r in part] for part in by_fold]
            together = np.mean([r.arrays["unseen_probs"] for part in by_fold for r in part], axis=0)
            found["unseen"] = {
                **_spread(np.array(other)),
                "folds": other,
                "together": classification(by_fold[0][0].arrays["unseen_truth"], together, EMOTIONS),
            }
        return found
