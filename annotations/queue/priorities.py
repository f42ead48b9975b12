"""Active learning: the priority of each item under an order (uncertainty, margin, diversity and the like)."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations, groupby

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from annotations.db.schema import CurrentLabelRecord, ItemRecord, PredictionRecord, UtteranceRecord
from annotations.item_summary import entropy, same_segment
from mmer.labels import EMOTIONS, N_EMOTIONS

PREDICTED = ("uncertainty", "margin", "branches")  # orders that rest on the model's newest prediction
UNKNOWN = -1.0  # priority of an item without a prediction, or without an embedding: after all others
POOL, PICKS = 20_000, 1000  # of k-center: items looked at, and items chosen among them
_PART = 1000  # rows a fetch


def uncertainty(probs: Mapping[str, float]) -> float:
    """Return the entropy of a prediction as a share of the highest there can be: 0 to 1."""
    return entropy(probs.values()) / math.log2(N_EMOTIONS)


def margin(probs: Mapping[str, float]) -> float:
    """Return how close the second emotion comes to the first: 1 for a tie, 0 for certainty."""
    first, second = sorted((*probs.values(), 0.0), reverse=True)[:2]
    return 1 - (first - second)


def branches(per_modality: Mapping[str, Mapping | None]) -> float:
    """Return how far the branches contradict each other: the mean Jensen-Shannon divergence of their pairs, 0 to 1 bit.

    0 when fewer than two branches were present.
    """
    probs = [[branch["probs"].get(e, 0.0) for e in EMOTIONS] for branch in per_modality.values() if branch]
    pairs = list(combinations(probs, 2))
    return sum(map(_divergence, *zip(*pairs, strict=True))) / len(pairs) if pairs else 0.0


def k_center(points: np.ndarray, n_picks: int, centers: np.ndarray | None = None) -> tuple[list[int], np.ndarray]:
    """Choose points one after the other, each the farthest from all chosen before, https://arxiv.org/abs/1708.00489.

    Args:
        points: (N, D) float32.
        centers: (M, D) what is covered already; without any, the first choice is the point nearest to the mean.

    Returns:
        Indices of at most `n_picks` points in the order of choice, and the (N,) distance of each point to the nearest
        center or chosen point.
    """
    N, _ = points.shape
    norms = np.einsum("nd,nd->n", points, points)

    def squared(center: np.ndarray) -> np.ndarray:
        return np.maximum(norms - 2 * (points @ center) + center @ center, 0)

    nearest = np.full(N, np.inf, np.float32)
    for center in centers if centers is not None else ():
        nearest = np.minimum(nearest, squared(center))
    picks: list[int] = []
    for _ in range(min(n_picks, N)):
        pick = int(nearest.argmax()) if np.isfinite(nearest[0]) else int(squared(points.mean(0)).argmin())
        picks.append(pick)
        nearest = np.minimum(nearest, squared(points[pick]))
        nearest[pick] = -1.0  # a chosen point is not chosen again where others lie on it
    nearest[picks] = 0.0
    return picks, np.sqrt(nearest)


def priorities(
    session: Session, project_id: int, order: str, seed: int = 0, *, since: int | None = None, upto: int | None = None
) -> Iterator[tuple[int, float]]:
    """Yield the id and the priority of each item of a project.

    Args:
        seed: for "random", and for the samples of "diversity".
        since: only the items with a prediction newer than this id, for the orders that rest on predictions.
        upto: the last prediction that counts.
    """
    if order in PREDICTED:
        return _by_prediction(session, project_id, order, since, upto)
    if order == "annotators":
        return _by_label_entropy(session, project_id)
    items = np.array(
        list(session.scalars(select(ItemRecord.id).filter_by(project_id=project_id).order_by(ItemRecord.id)))
    )
    drawn = np.random.default_rng(seed).permutation(len(items)) / max(1, len(items))
    priority = dict(zip(items.tolist(), drawn.tolist(), strict=True))
    if order == "diversity":
        priority = {key: UNKNOWN for key in priority} | _by_diversity(session, project_id, seed)
    return iter(priority.items())


def without_majority(session: Session, item_ids: Iterable[int], most: int) -> set[int]:
    """Return the items on which no emotion has more than half of the annotators, and fewer than `most` have judged."""
    contested = set()
    item_ids = sorted(item_ids)
    for i in range(0, len(item_ids), _PART):
        condition = CurrentLabelRecord.item_id.in_(item_ids[i : i + _PART])
        for item_id, targets in _votes(session, condition):
            split = any(max(votes.values()) * 2 <= votes.total() for votes, _ in targets if votes.total() > 1)
            if split and max(n_people for _, n_people in targets) < most:
                contested.add(item_id)
    return contested


def _divergence(p: list[float], q: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(_relative(one, middle) for one in (p, q)) / 2


def _relative(p: list[float], middle: list[float]) -> float:
    return sum(a * math.log2(a / m) for a, m in zip(p, middle, strict=True) if a > 0)


def _by_prediction(
    session: Session, project_id: int, order: str, since: int | None, upto: int | None
) -> Iterator[tuple[int, float]]:
    answer = PredictionRecord.per_modality if order == "branches" else PredictionRecord.probs
    scores: dict[str, Callable[[Mapping], float]] = {
        "uncertainty": uncertainty,
        "margin": margin,
        "branches": branches,
    }
    score = scores[order]
    query = (
        select(ItemRecord.id, answer)
        .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
        .join(PredictionRecord, same_segment(PredictionRecord, UtteranceRecord), isouter=since is None)
        .where(ItemRecord.project_id == project_id)
        .order_by(ItemRecord.id, PredictionRecord.id)
        .execution_options(yield_per=_PART)
    )
    if since is not None:
        query = query.where(PredictionRecord.id > since, PredictionRecord.id <= upto)
    for item_id, rows in groupby(session.execute(query), key=lambda row: row[0]):
        *_, (_, newest) = rows
        yield item_id, UNKNOWN if newest is None else score(newest)


def _by_label_entropy(session: Session, project_id: int) -> Iterator[tuple[int, float]]:
    own = select(ItemRecord.id).filter_by(project_id=project_id)
    votes = _votes(session, CurrentLabelRecord.item_id.in_(own))
    spread = {item_id: max(entropy(v.values()) for v, _ in targets) for item_id, targets in votes}
    for item_id in session.scalars(own.order_by(ItemRecord.id).execution_options(yield_per=_PART)):
        yield item_id, spread.get(item_id, 0.0)


def _votes(session: Session, condition) -> Iterator[tuple[int, list[tuple[Counter, int]]]]:
    """Yield each item with, for each target, its votes and how many people judged it: who could not tell included."""
    current = CurrentLabelRecord
    query = select(current.item_id, current.target, current.top).where(condition, current.outcome != "skip")
    query = query.order_by(current.item_id, current.target).execution_options(yield_per=_PART)
    for item_id, rows in groupby(session.execute(query), key=lambda row: row.item_id):
        targets = [[row.top for row in group] for _, group in groupby(rows, key=lambda row: row.target)]
        yield item_id, [(Counter(top for top in tops if top), len(tops)) for tops in targets]


def _by_diversity(session: Session, project_id: int, seed: int) -> dict[int, float]:
    """Return priorities of the items with an embedding: the choices of k-center above 1, the others by their distance.

    Of more than `POOL` items, a sample is looked at, and the others come after it at random; of more than `PICKS`
    labelled ones, so many at random count as covered.
    """
    rng = np.random.default_rng(seed)
    judged = select(CurrentLabelRecord.item_id).where(CurrentLabelRecord.item_id.is_not(None))
    query = (
        select(ItemRecord.id, ItemRecord.id.in_(judged))
        .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
        .where(ItemRecord.project_id == project_id, UtteranceRecord.embedding.is_not(None))
        .order_by(ItemRecord.id)
    )
    labelled: list[int] = []
    fresh: list[int] = []
    for item_id, has_label in session.execute(query.execution_options(yield_per=_PART)):
        (labelled if has_label else fresh).append(item_id)
    if not fresh:
        return dict.fromkeys(labelled, 0.0)
    fresh, labelled = rng.permutation(fresh).tolist(), rng.permutation(labelled).tolist()
    pool, centers = _embeddings(session, fresh[:POOL]), _embeddings(session, labelled[:PICKS])
    width = Counter(len(e) for e in pool.values()).most_common(1)[0][0]  # of another checkpoint's: not comparable
    pool = {key: e for key, e in sorted(pool.items()) if len(e) == width}
    covered = [e for e in centers.values() if len(e) == width]
    keys = list(pool)
    picks, distance = k_center(np.stack(list(pool.values())), PICKS, np.stack(covered) if covered else None)
    scale = float(distance.max()) or 1.0
    priority = {key: -(i + 1) / (len(fresh) + 1) for i, key in enumerate(fresh)} | dict.fromkeys(labelled, 0.0)
    priority |= {key: float(d) / scale for key, d in zip(keys, distance, strict=True)}
    return priority | {keys[pick]: 2 - i / len(picks) for i, pick in enumerate(picks)}


def _embeddings(session: Session, item_ids: list[int]) -> dict[int, np.ndarray]:
    embeddings = {}
    for i in range(0, len(item_ids), _PART):
        query = select(ItemRecord.id, UtteranceRecord.embedding).join(
            UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id
        )
        for item_id, blob in session.execute(query.where(ItemRecord.id.in_(item_ids[i : i + _PART]))):
            if blob is not None:
                embeddings[item_id] = np.frombuffer(blob, np.float32)
    return embeddings
