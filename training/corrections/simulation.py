"""Retraining on true labels that play the annotator: what a model gains label by label, in which order, with errors.

Branch embeddings are computed once and kept; each round is `training.corrections.run.train` and its gate, as a home
would run them, on what was labelled so far.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annotations.choices import HELD_OUT, TRAIN
from annotations.formats.label_row import words_hash
from annotations.queue import priorities
from annotations.sides import SHARE
from mmer import checkpoint
from mmer.branch_states import identity
from mmer.checkpoint import Checkpoint
from mmer.config import Paths
from mmer.errors import TrainingError
from mmer.hashing import content_hash
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.metrics import classification
from mmer.predict import Predictor
from training.corrections.adapt import Examples, answers, probabilities
from training.corrections.collect import TrainingExample, read
from training.corrections.config import RetrainConfig
from training.corrections.evidence import base_uar
from training.corrections.run import Collected, share_heard, train
from training.data.load import save_atomically
from training.data.manifest import Row
from training.learn.exemplars import Exemplars, as_heard, of_checkpoint

ORDERS = ("random", "entropy", "margin", "branches", "diversity")
_ASIDE = 0.5  # of a labelled speaker's clips, which measure and are never labelled
_TENSORS = ("present", "share", "clip", "targets", "labelled", "served")


@dataclass(frozen=True)
class SimulateConfig:
    per_round: int = 50  # labels
    rounds: int = 4  # 200 labels are a session of two hours
    strangers: float = 0.25  # of the speakers, whose clips only measure


@dataclass(frozen=True)
class Pool:
    """Clips whose true labels are known, and their embeddings by the model that begins."""

    served: Checkpoint
    items: list[TrainingExample]
    examples: Examples
    exemplars: Exemplars | None

    @property
    def truth(self) -> np.ndarray:
        """(N,) indices of emotions."""
        return self.examples.targets[:, 0].argmax(1).numpy()


@dataclass(frozen=True)
class Curve:
    """What one session is: its order, its errors, whether there are exemplars of the base."""

    order: str
    wrong: float  # share of labels that name another emotion; 1: all labels are shuffled
    exemplars: bool
    seed: int


def pool(paths: Paths, rows: Sequence[Row], checkpoint_id: str, cache: Path) -> Pool:
    """Return clips with their embeddings, from the cache where they were computed before.

    Raises:
        TrainingError: `too_few_clips`.
    """
    predictor = Predictor(paths, checkpoint_id)
    served = predictor.checkpoint
    items = [_item(row) for row in rows]
    made_from = json.dumps([identity(served.model), served.meta.get("weights_sha256"), [i.key for i in items]])
    file = cache / f"pool-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.pt"
    if file.is_file():
        kept = torch.load(file, weights_only=True)
        ex = Examples(tuple(kept["middles"]), tuple(kept["pooled"]), *(kept[name] for name in _TENSORS))
        items = [items[i] for i in kept["items"]]
    else:
        cache.mkdir(parents=True, exist_ok=True)
        readable, found, _ = read(predictor, items, speech=False, cache=cache)
        if found is None:
            raise TrainingError("too_few_clips", "no clip of the manifest can be read")
        place = {id(item): i for i, item in enumerate(items)}
        kept = {name: getattr(found, name) for name in ("middles", "pooled", *_TENSORS)}
        save_atomically({**kept, "items": [place[id(item)] for item in readable]}, file)
        items, ex = readable, found
    exemplars = of_checkpoint(served, paths.checkpoints)
    if exemplars is not None:
        exemplars = as_heard(exemplars, served.model, share_heard(ex, served.model))
    return Pool(served, items, ex, exemplars)


def _item(row: Row) -> TrainingExample:
    name = words_hash(row.text) if row.path is None else content_hash(row.path)
    held_out = int(hashlib.sha256(f"held out {name}".encode()).hexdigest()[:12], 16) < SHARE * 16**12
    return TrainingExample(
        sha256=name,
        name=row.name,
        media=row.path,
        in_place=True,
        start_s=row.start_s,
        end_s=row.end_s,
        words=row.text or None,
        lines=(),
        speaker=f"{row.corpus} {row.speaker}" if row.speaker else None,
        side=HELD_OUT if held_out else TRAIN,
        targets={"all": row.target},
        label_ids=(),
    )


def session(of: Pool, curve: Curve, config: SimulateConfig) -> list[dict]:
    """Return what a session's rounds came to, beginning with no label at all."""
    rng = np.random.default_rng(curve.seed)
    people, strangers, free = _split(of, config, rng)
    labels = _labels(of.truth, curve.wrong, rng)
    before = base_uar(of.served.model, of.exemplars)
    chosen: list[int] = []
    known: set[str] = set()
    judged: list[set[str]] = []
    found = [_figures(of, curve, 0, people, strangers, before)]
    for _ in range(config.rounds):
        chosen += _next(of, curve.order, free, chosen, config.per_round, rng)
        part = _collected(of, curve.exemplars, chosen, labels, known, judged)
        report, model, measured = _retrain(part, RetrainConfig(seed=curve.seed))
        judged.append(measured)
        if promoted := not report["reasons"]:
            known |= {item.sha256 for item in part.items if item.side == TRAIN}
            of = replace(of, served=replace(of.served, model=model), examples=_answered(model, of.examples))
        now = _figures(of, curve, len(chosen), people, strangers, before)
        found.append({**now, "promoted": promoted, "reasons": report["reasons"]})
    return found


def _split(of: Pool, config: SimulateConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[int]]:
    """Return the clips that measure on labelled people and on strangers, and those that may be labelled."""
    speakers = sorted({item.speaker or "" for item in of.items})
    n_strange = max(round(config.strangers * len(speakers)), 1) if len(speakers) > 3 else 0
    strange = set(rng.permutation(speakers)[:n_strange].tolist())
    aside: list[int] = []
    apart: list[int] = []
    free: list[int] = []
    for speaker in speakers:
        own = rng.permutation([i for i, item in enumerate(of.items) if (item.speaker or "") == speaker]).tolist()
        cut = round(_ASIDE * len(own))
        if speaker in strange:
            apart += own
        else:
            aside += own[:cut]
            free += own[cut:]
    return torch.tensor(sorted(aside)), torch.tensor(sorted(apart), dtype=torch.long), sorted(free)


def _labels(truth: np.ndarray, wrong: float, rng: np.random.Generator) -> np.ndarray:
    """Return what the annotator says of each clip."""
    if wrong >= 1:
        return rng.permutation(truth)
    other = (truth + rng.integers(1, N_EMOTIONS, size=len(truth))) % N_EMOTIONS
    return np.where(rng.random(len(truth)) < wrong, other, truth)


def _next(
    of: Pool, order: str, free: Sequence[int], chosen: Sequence[int], n: int, rng: np.random.Generator
) -> list[int]:
    """Return the clips that are labelled next."""
    left = rng.permutation(sorted({*free} - {*chosen})).tolist()
    if order == "random" or not left:
        return left[:n]
    if order == "diversity":
        states = _clip_states(of)
        covered = states[list(chosen)] if chosen else None
        picks, _ = priorities.k_center(states[left], n, covered)
        return [left[pick] for pick in picks]
    probs = probabilities(of.examples.served, of.examples).numpy()
    score = {
        "entropy": lambda i: priorities.uncertainty(_named(probs[i, 0])),
        "margin": lambda i: priorities.margin(_named(probs[i, 0])),
        "branches": lambda i: priorities.branches(_branches(probs[i])),
    }[order]
    return sorted(left, key=lambda i: -score(i))[:n]


def _named(probs: np.ndarray) -> dict[str, float]:
    return dict(zip(EMOTIONS, probs.tolist(), strict=True))


def _branches(probs: np.ndarray) -> dict[str, dict | None]:
    return {m: {"probs": _named(p)} if p.any() else None for m, p in zip(MODALITIES, probs[1:], strict=True)}


def _clip_states(of: Pool) -> np.ndarray:
    """Return the branch states of each clip side by side (N, 3 D), mean over its utterances."""
    ex, model = of.examples, of.served.model
    with torch.no_grad():
        tops = model.project(list(ex.pooled), ex.present).flatten(1)
    sums = torch.zeros(len(ex.targets), tops.shape[1]).index_add_(0, ex.clip, tops * ex.share[:, None])
    return sums.numpy().astype(np.float32)


def _collected(
    of: Pool, beside: bool, chosen: Sequence[int], labels: np.ndarray, known: set[str], judged: list[set[str]]
) -> Collected:
    """Return what a home would learn from: the chosen clips with what the annotator said."""
    index = torch.tensor(chosen)
    eye = torch.eye(N_EMOTIONS)
    ex = of.examples.part(index)
    targets = ex.targets.clone()
    targets[:, 0] = eye[torch.from_numpy(labels[list(chosen)])]
    items = [
        replace(of.items[i], targets={"all": targets[n, 0].tolist()}, label_ids=(n + 1,)) for n, i in enumerate(chosen)
    ]

    def looks(clips) -> float:
        return sum(clip in before for before in judged for clip in clips) / max(len(clips), 1)

    exemplars = of.exemplars if beside else None
    return Collected(items, [], of.served, replace(ex, targets=targets), exemplars, known, looks)


def _retrain(part: Collected, config: RetrainConfig):
    """Return the report of a run, its model, and the clips that measured it."""
    trained = train(part, config)
    return trained.report, trained.model, trained.measured


@torch.no_grad()
def _answered(model, ex: Examples) -> Examples:
    return replace(ex, served=answers(copy.deepcopy(model).cpu(), ex))


def _figures(of: Pool, curve: Curve, n: int, people: Tensor, strangers: Tensor, before: dict[str, float]) -> dict:
    """Return the UAR of the model that serves after a round."""
    probs, truth = probabilities(of.examples.served, of.examples).numpy()[:, 0], of.truth
    after = base_uar(of.served.model, of.exemplars)
    parts = {"people": people.numpy(), "strangers": strangers.numpy()}
    uar = {k: classification(truth[i], probs[i])["uar"] if len(i) else None for k, i in parts.items()}
    worst = min((after[m] - before[m] for m in before), default=None)
    return {**asdict(curve), "labels": n, **uar, "base_change": worst, "promoted": False, "reasons": []}


def checkpoint_name(paths: Paths, name: str | None) -> str:
    return name or checkpoint.promoted(paths.checkpoints)
