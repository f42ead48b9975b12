"""What the rows of an ablation share: one branch trained, branches joined, fusion fitted and measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mmer import assets
from mmer.config import Paths
from mmer.errors import TrainingError
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import AttentionFusion, BranchStates, EmotionModel
from training.data.load import save_atomically
from training.data.manifest import class_counts
from training.experiments.ablation_data import Data
from training.experiments.ablation_grid import BranchRow
from training.experiments.fusion_baselines import fusion_of
from training.learn.branches import branch_module, text_encoder, train_face, train_statistics, train_text, train_voice
from training.learn.config import TrainConfig
from training.learn.fusion import (
    N_TUPLES,
    N_VIEWS,
    Encoded,
    Tuples,
    calibrate,
    encode_through_whisper,
    encode_views,
    train_fusion,
)
from training.learn.losses import Loss, adjusted
from training.learn.warm_start import adopt_layers


def train_branch(row: BranchRow, data: Data, config: TrainConfig, work: Path, init: dict | None) -> EmotionModel:
    """Train the row's branch, going on from its last finished epoch, and keep its weights in `work`/branch.pt."""
    torch.manual_seed(config.seed)
    model = EmotionModel(replace(data.settings.model, skip=row.skip), data.settings.voice.n_mels)
    module, m = branch_module(model, row.modality), row.modality
    kept = work / "branch.pt"
    if kept.is_file():
        module.load_state_dict(torch.load(kept, weights_only=True))
        return model.eval()
    if m == "text":
        adopt_layers(text_encoder(model), assets.find("text_encoder", Paths.from_env()))
    if init is not None:
        module.load_state_dict(init)
    rows = data.rows(m, "train", row.corpus)
    loss, epochs = None, getattr(config, f"{m}_epochs")
    if row.loss:
        loss = Loss(row.loss, torch.tensor(class_counts(rows)))
        states = work / f"{m}.state.pt"  # a killed run goes on: the loss has to know from where
        loss.begin(torch.load(states, weights_only=True)["epoch"] + 1 if states.is_file() else 0, epochs)

    def report(epoch: int) -> str:
        if loss:
            loss.begin(epoch + 1, epochs)
        return ""

    if m == "text":
        texts = data.texts(model, "train", row.corpus)
        train_text(model, texts, rows, config, work, loss=loss, report=report)
    elif m == "face":
        faces = data.faces("train", row.corpus)
        train_face(model, faces, config, work, loss=loss, report=report, augmented=row.augmented)
    else:
        voices = data.voices("train", row.corpus)
        train_voice(model, voices, config, work, loss=loss, report=report, augmented=row.augmented)
        train_statistics(model, voices, config, work, loss=loss, augmented=row.augmented)
    save_atomically(module.state_dict(), kept)
    for state in work.glob("*.state.pt"):
        state.unlink()
    return model.eval()


def calibration_views(model: EmotionModel, data: Data, seed: int) -> dict[str, Encoded]:
    """Return what fusion learns from: branch embeddings of the calibration split."""
    voices = data.voices("calibration")
    views = encode_views(model, data.faces("calibration"), voices, data.texts(model, "calibration"), seed)
    return replace(views, voices=encode_through_whisper(model, voices)).joined()


def two_folds(
    calibration: dict[str, Encoded], speakers: Sequence[str]
) -> tuple[dict[str, Encoded], dict[str, Encoded]] | None:
    """Return the calibration split in two folds, voices by speaker, faces and sentences evenly; None with one speaker.

    All views of an example are in the same fold.

    Args:
        calibration: of `calibration_views`.
        speakers: of the voices once.
    """
    names = sorted(set(speakers))
    if len(names) < 2:
        return None
    first = {}
    for m, e in calibration.items():
        n_views = N_VIEWS[m]
        if m == "voice":  # how many views there are depends on whether Whisper's encoder listened
            own, n_views = (
                torch.from_numpy(np.isin(np.array(speakers), names[: len(names) // 2])),
                len(e.targets) // len(speakers),
            )
        else:
            own = torch.randperm(len(e.targets) // N_VIEWS[m], generator=torch.Generator().manual_seed(0)) % 2 == 0
        first[m] = own.tile(n_views)

    def fold(side: bool) -> dict[str, Encoded]:
        return {m: Encoded(**{k: v[first[m] == side] for k, v in vars(e).items()}) for m, e in calibration.items()}

    return fold(True), fold(False)


def fit_fusion(
    model: EmotionModel, kind: str, encoded: dict[str, Encoded], config: TrainConfig, work: Path, steps: int
) -> None:
    """Put an untrained fusion of a kind into the model, train it for `steps` and calibrate it, all on `encoded`."""
    torch.manual_seed(config.seed)
    model.fusion = cast(AttentionFusion, fusion_of(kind, model.config, model.middle_sizes))  # called like one
    tuples = Tuples(encoded, model.temperatures, config.conflict)
    if any(p.requires_grad for p in model.fusion.parameters()) and steps:
        work.mkdir(parents=True, exist_ok=True)
        train_fusion(model, tuples, replace(config, fusion_steps=steps), work)
    model.fusion.eval()
    calibrate(model, Tuples(encoded, model.temperatures, 0.0), config.seed + 1)


def chosen_steps(
    model: EmotionModel,
    kind: str,
    calibration: dict[str, Encoded],
    speakers: Sequence[str],
    config: TrainConfig,
    work: Path,
    choices: Sequence[int],
) -> tuple[int, dict[int, float]]:
    """Return for how many steps this kind of fusion should learn, two-fold on the calibration split.

    Every kind chooses for itself, so that none is measured with steps that suit another.
    """
    folds, usual = two_folds(calibration, speakers), min(config.fusion_steps, max(choices))
    if folds is None or kind in ("average", "product"):
        return usual, {}
    accuracy: dict[int, float] = {}
    for steps in choices:
        scores = []
        for side, (fit, test) in enumerate((folds, folds[::-1])):
            try:
                tuples = Tuples(test, model.temperatures, 0.0)
                fit_fusion(model, kind, fit, config, work / f"{steps}-{side}", steps)
            except TrainingError as error:
                if error.code != "no_tuples":
                    raise
                return usual, {}
            states, present, targets = tuples.draw(N_TUPLES, torch.Generator().manual_seed(7))
            with torch.no_grad():
                right = model.fusion(states, present)[0].argmax(1) == targets.argmax(1)
            scores.append(float(right.float().mean()))
        accuracy[steps] = float(np.mean(scores))
    return max(accuracy, key=lambda steps: accuracy[steps]), accuracy


@dataclass(frozen=True)
class Drawn:
    """Label-matched tuples of validation examples: the same ones for every model and every condition."""

    states: BranchStates
    truth: np.ndarray  # (N,)
    picks: np.ndarray  # (N, 3) which example of each branch


def drawn(held: dict[str, Encoded], temperatures: Tensor, n: int = N_TUPLES) -> Drawn:
    g = torch.Generator()
    states, _, targets = Tuples(held, temperatures, 0.0).draw(n, g.manual_seed(2), subsets=False)
    # The same draw of examples that hold nothing but their own number.
    numbered = {}
    for m, e in held.items():
        number = torch.arange(len(e.targets))[:, None].double()
        numbered[m] = Encoded(number, number, number, e.targets, number)
    picks, _, _ = Tuples(numbered, torch.ones(len(MODALITIES)), 0.0).draw(n, g.manual_seed(2), subsets=False)
    return Drawn(states, targets.argmax(1).numpy(), torch.cat(picks.middles, 1).long().numpy())


def probabilities(row: BranchRow, logits: Tensor, counts: Tensor) -> Tensor:
    """Return what a branch row answers (N, K), before any temperature."""
    if row.adjust:
        return adjusted(logits, counts, row.adjust).softmax(1)
    return Loss(row.loss or "cross_entropy", torch.ones(N_EMOTIONS)).probabilities(logits)
