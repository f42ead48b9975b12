"""Inter-annotator agreement (Krippendorff's alpha, Cohen's kappa), accuracy on gold items, confusion with the model.

A rating is the heaviest emotion of a current label. "Cannot tell", "broken" and "skip" are no ratings but missing
values: they say that the clip does not show what was asked, not that it shows an eighth emotion, and two annotators who
both cannot tell would else count as agreeing about an emotion. How many there are is a figure of its own.

A unit is a segment of a clip; the same segment in two projects is one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import krippendorff
import numpy as np
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from annotations.choices import TARGETS
from annotations.db.schema import (
    AnnotatorRecord,
    CurrentLabelRecord,
    GoldRecord,
    ItemRecord,
    LabelRecord,
    PredictionRecord,
    ProjectRecord,
    UtteranceRecord,
)
from annotations.item_summary import model_emotion
from annotations.queue.projects import project_record
from annotations.store import Store
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, N_EMOTIONS

_CODE = {name: i for i, name in enumerate(EMOTIONS)}
_PART = 500  # rows at a time: so few that the garbage collector is not woken, which took as long as the rows
_MS = 2**31  # above any time in a clip, in milliseconds


@dataclass(frozen=True)
class AnnotatorStats:
    """What one annotator did, for one target."""

    name: str
    n: int  # labels that name an emotion
    cannot_tell: int
    gold_right: int
    gold_n: int
    median_lead_s: float | None  # from an item's first sight to the answer; None when nobody measured


@dataclass(frozen=True)
class Agreement:
    """Agreement on one target; an alpha is 1 when all agree, 0 by chance, below 0 worse than chance, None undefined."""

    alpha: float | None  # nominal, over the emotions
    per_emotion: dict[str, float | None]  # one emotion against the rest
    per_target: dict[str, float | None]  # alpha of every target
    kappas: dict[tuple[str, str], tuple[float | None, int]]  # two annotators -> Cohen's kappa, segments both rated
    annotators: tuple[AnnotatorStats, ...]  # by name
    confusion: np.ndarray  # (K, K) labels: what annotators chose by what the model had answered then
    n_items: int  # segments with a rating
    n_shared: int  # of these, with two or more: only they tell about agreement
    n_labels: int  # ratings
    n_cannot_tell: int
    interval: tuple[float, float] | None = None  # of alpha, 95 %, by resampling the segments
    shared_by_target: dict[str, int] = field(default_factory=dict)  # as n_shared, of every target


@dataclass(frozen=True)
class Ratings:
    """The ratings of a target as columns."""

    unit: np.ndarray  # (N,) which segment, from 0
    rater: np.ndarray  # (N,) annotator ids
    value: np.ndarray  # (N,) index into EMOTIONS
    lead_s: np.ndarray  # (N,) NaN where not measured
    answer: np.ndarray  # (N,) index of the model's emotion beside the label, -1 without
    could_not: np.ndarray  # the annotator id of every "cannot tell"

    @property
    def n_units(self) -> int:
        return int(self.unit.max()) + 1 if self.unit.size else 0

    def counts(self) -> np.ndarray:
        """Return (units, K): how many chose each emotion."""
        flat = np.bincount(self.unit * N_EMOTIONS + self.value, minlength=self.n_units * N_EMOTIONS)
        return flat.reshape(-1, N_EMOTIONS)


_NONE = Ratings(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.int64, float, np.int64, np.int64)))


def agreement(store: Store, project: str | None = None, target: str = "all") -> Agreement:
    """Return how far the annotators of a project agree on a target; without a project, all labels count.

    Raises:
        LabelError: `unknown_project, bad_target`.
    """
    if target not in TARGETS:
        raise LabelError("bad_target", f"target {target!r} is none of {', '.join(TARGETS)}")
    with store.reading() as session:
        project_id = project_id_of(session, project)
        judged = set(session.scalars(select(CurrentLabelRecord.target).distinct()))  # each reading scans all labels
        every = {
            one: _read(session, project_id, one, full=one == target) if one in judged else _NONE for one in TARGETS
        }
        names = {key: name for key, name in session.execute(select(AnnotatorRecord.id, AnnotatorRecord.name))}
        right = gold_accuracy(session, project_id, target)
    ratings = every[target]
    counts = ratings.counts()
    shared = counts[counts.sum(1) > 1]
    overall = alpha(shared)
    tables = {one: counts if one == target else every[one].counts() for one in TARGETS}
    kappas = {(names[a], names[b]): value for (a, b), value in cohen_kappas(ratings).items()}
    predicted = ratings.answer >= 0
    cells = ratings.value[predicted] * N_EMOTIONS + ratings.answer[predicted]
    confusion = np.bincount(cells, minlength=N_EMOTIONS**2).reshape(N_EMOTIONS, N_EMOTIONS)
    return Agreement(
        alpha=overall,
        per_emotion=dict(zip(EMOTIONS, one_against_rest(shared), strict=True)),
        per_target={one: overall if one == target else alpha(tables[one]) for one in TARGETS},
        kappas=dict(sorted(kappas.items())),
        annotators=_annotator_stats(ratings, names, right),
        confusion=confusion,
        n_items=ratings.n_units,
        n_shared=len(shared),
        n_labels=len(ratings.unit),
        n_cannot_tell=len(ratings.could_not),
        interval=alpha_interval(shared),
        shared_by_target={one: int((tables[one].sum(1) > 1).sum()) for one in TARGETS},
    )


def alpha(counts: np.ndarray) -> float | None:
    """Return Krippendorff's alpha for nominal data; None where nothing was rated twice or only one value was ever used.

    K. Krippendorff, Computing Krippendorff's Alpha-Reliability, https://repository.upenn.edu/asc_papers/43

    Args:
        counts: (units, values) how many raters gave a unit each value; raters who did not rate it are left out.
    """
    pairable = counts[counts.sum(1) > 1].astype(float)  # in integers the library takes three times as long
    if (pairable.sum(0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=pairable, level_of_measurement="nominal"))


def alpha_interval(counts: np.ndarray, seed: int = 0, n_resamples: int = 1000) -> tuple[float, float] | None:
    """Return the 95 % interval of `alpha`: the percentiles of alphas of segments drawn anew, with replacement.

    A draw in which all gave one value has no alpha and is left out; None where there is no alpha at all.

    Args:
        counts: as `alpha` takes them.
    """
    pairable = counts[counts.sum(1) > 1]
    if (pairable.sum(0) > 0).sum() < 2:
        return None
    # Segments with the same votes are one pattern: a million of them are a few hundred.
    patterns, n_each = np.unique(pairable, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(pairable), n_each / len(pairable), n_resamples)
    raters = patterns.sum(1)
    agreeing = (patterns * (patterns - 1)).sum(1) / (raters - 1)  # pairs of the same value, as the coincidences have it
    values = draws @ patterns  # (draws, K) how often each value was given
    total = values.sum(1)
    chance = total.astype(float) ** 2 - (values.astype(float) ** 2).sum(1)
    defined = chance > 0
    alphas = 1 - (total - 1)[defined] * (total - draws @ agreeing)[defined] / chance[defined]
    low, high = np.percentile(alphas, [2.5, 97.5]).tolist()
    return low, high


def one_against_rest(counts: np.ndarray) -> list[float | None]:
    """Return the alpha of each value against all others, as `alpha` of two columns would.

    Joining values joins the cells of the coincidence matrix, so all of them come from one: the library would go through
    a million labels once for each.
    """
    pairable = counts[counts.sum(1) > 1].astype(float)
    weighted = pairable / (pairable.sum(1, keepdims=True) - 1)
    pairs = weighted.T @ pairable - np.diag(weighted.sum(0))  # (K, K) how often one value stands beside another
    n_each, n = pairs.sum(1), pairs.sum()
    alphas: list[float | None] = []
    for k, n_k in enumerate(n_each):
        expected = 2 * n_k * (n - n_k)
        alphas.append(float(1 - (n - 1) * 2 * (n_k - pairs[k, k]) / expected) if expected > 1e-9 else None)
    return alphas


def cohen_kappas(ratings: Ratings) -> dict[tuple[int, int], tuple[float | None, int]]:
    """Return Cohen's kappa of every two raters who share a unit, and how many they share.

    None where both always gave the same single value, so that chance alone would agree as often.
    https://doi.org/10.1177/001316446002000104
    """
    order = np.lexsort((ratings.rater, ratings.unit))
    unit, value = ratings.unit[order], ratings.value[order]
    ids, rater = np.unique(ratings.rater[order], return_inverse=True)
    tables: dict[int, np.ndarray] = {}
    distance = 1
    while True:  # sorted by unit, the pairs of a unit lie 1, 2, ... rows apart
        same = np.flatnonzero(unit[distance:] == unit[:-distance])
        if not same.size:
            break
        a, b = same, same + distance
        code = ((rater[a] * len(ids) + rater[b]) * N_EMOTIONS + value[a]) * N_EMOTIONS + value[b]
        for key, n in zip(*(x.tolist() for x in np.unique(code, return_counts=True)), strict=True):
            pair, cell = divmod(key, N_EMOTIONS**2)
            tables.setdefault(pair, np.zeros(N_EMOTIONS**2))[cell] += n
        distance += 1
    kappas = {}
    for pair, table in tables.items():
        one, other = divmod(pair, len(ids))
        kappas[int(ids[one]), int(ids[other])] = kappa(table.reshape(N_EMOTIONS, -1)), int(table.sum())
    return kappas


def kappa(table: np.ndarray) -> float | None:
    """Return Cohen's kappa of a square table of joint counts, None where chance explains everything."""
    share = table / table.sum()
    by_chance = float(share.sum(1) @ share.sum(0))
    return None if by_chance > 1 - 1e-12 else (float(np.trace(share)) - by_chance) / (1 - by_chance)


def gold_accuracy(
    session: Session, project_id: int | None = None, target: str | None = None
) -> dict[str, tuple[int, int]]:
    """Return, for each annotator who answered gold items, how many answers were right and how many there were.

    The newest known answer counts, unless it was taken back; an answer is right when its heaviest emotion is one of the
    known ones, so one that names none is not. Without a target, all count.
    """
    newest = select(func.max(GoldRecord.id)).group_by(GoldRecord.item_id, GoldRecord.target)
    query = (
        select(AnnotatorRecord.name, CurrentLabelRecord.top, GoldRecord.emotions)
        .join(CurrentLabelRecord, CurrentLabelRecord.annotator_id == AnnotatorRecord.id)
        .join(GoldRecord, GoldRecord.item_id == CurrentLabelRecord.item_id)
        .where(
            GoldRecord.id.in_(newest),
            GoldRecord.target == CurrentLabelRecord.target,
            CurrentLabelRecord.outcome != "skip",
        )
    )
    if target is not None:
        query = query.where(CurrentLabelRecord.target == target)
    accuracy: dict[str, tuple[int, int]] = {}
    for annotator, top, known in session.execute(_in_project(query, project_id)):
        if not known:
            continue
        right, n = accuracy.get(annotator, (0, 0))
        accuracy[annotator] = (right + (top in known), n + 1)
    return accuracy


def project_id_of(session: Session, name: str | None) -> int | None:
    """Return a project's id, None for no project; raise `unknown_project`."""
    return None if name is None else project_record(session, name).id


def _in_project(query: Select, project_id: int | None) -> Select:
    """Keep the current labels of a project's items."""
    if project_id is None:
        return query
    return query.join(ItemRecord, ItemRecord.id == CurrentLabelRecord.item_id).where(
        ItemRecord.project_id == project_id
    )


def _read(session: Session, project_id: int | None, target: str, *, full: bool) -> Ratings:
    """Return a target's ratings; only the full ones have times and the model's answers."""
    current = CurrentLabelRecord
    columns: list[Any] = [current.annotator_id, current.top]
    kinds: list[type | None] = [np.int64, None]
    if full:
        columns += [LabelRecord.lead_time_s, model_emotion(target)]
        kinds += [float, None]

    def rows(*place) -> Select:
        query = select(*place, *columns).join(LabelRecord, LabelRecord.id == current.label_id)
        if full:
            query = query.join(PredictionRecord, PredictionRecord.id == LabelRecord.prediction_id, isouter=True)
        return query.where(current.target == target, current.outcome.in_(("label", "cannot_tell")))

    queued = _in_project(rows(current.item_id).where(current.item_id.is_not(None)), project_id)
    unit, *values = _columns(session, queued, [np.int64, *kinds])
    if project_id is None:
        loose = rows(current.clip_id, LabelRecord.start_s, LabelRecord.end_s).where(current.item_id.is_(None))
        clip, start, end, *others = _columns(session, loose, [np.int64, float, float, *kinds])
        # Within one project an item is a segment. Only else are segments compared, which takes a second for a million.
        n_projects = session.execute(select(func.count()).select_from(ProjectRecord)).scalar_one()
        if clip.size or n_projects > 1:
            places = zip(_segments_of(session, unit), (clip, start, end), strict=True)
            unit = _unit_of(*(np.concatenate(both) for both in places))
            values = [np.concatenate(both) for both in zip(values, others, strict=True)]
    rater, value, lead, answer = values if full else (*values, *(np.full(len(unit), x) for x in (np.nan, -1)))
    rated = value >= 0
    unit = np.unique(unit[rated], return_inverse=True)[1]
    return Ratings(unit, rater[rated], value[rated], lead[rated], answer[rated], could_not=rater[~rated])


def _segments_of(session: Session, item: np.ndarray) -> list[np.ndarray]:
    """Return clip, start and end of each item."""
    kinds = [np.int64, np.int64, float, float]
    if not item.size:
        return [np.empty(0, kind) for kind in kinds[1:]]
    columns = (ItemRecord.id, UtteranceRecord.clip_id, UtteranceRecord.start_s, UtteranceRecord.end_s)
    known = select(*columns).join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
    ids, *places = _columns(session, known.order_by(ItemRecord.id), kinds)
    where = np.searchsorted(ids, item)
    return [place[where] for place in places]


def _columns(session: Session, query: Select, kinds: Sequence[type | None]) -> list[np.ndarray]:
    """Return a query's columns; a kind of None is an emotion, read as its index, -1 for none."""
    connection = session.connection()
    statement = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
    # The driver's own rows: SQLAlchemy's take two to three times as long.
    cursor = connection.connection.cursor()
    cursor.execute(str(statement))
    parts: list[list[np.ndarray]] = [[np.empty(0, kind or np.int64)] for kind in kinds]
    while rows := cursor.fetchmany(_PART):
        for column, kind, part in zip(zip(*rows, strict=True), kinds, parts, strict=True):
            # None becomes NaN where the kind is a float.
            part.append(np.array(column, kind) if kind else np.array([_CODE.get(name, -1) for name in column]))
    cursor.close()
    return [np.concatenate(part) for part in parts]


def _unit_of(clip: np.ndarray, start_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """Return which of the segments, counted from 0, each row is about."""
    start, end = (np.where(np.isnan(t), -1, np.round(t * 1000)).astype(np.int64) + 1 for t in (start_s, end_s))
    _, begins = np.unique(clip * _MS + start, return_inverse=True)
    return np.unique(begins * _MS + end, return_inverse=True)[1]


def _annotator_stats(
    ratings: Ratings, names: dict[int, str], right: dict[str, tuple[int, int]]
) -> tuple[AnnotatorStats, ...]:
    n, could_not = Counter(ratings.rater.tolist()), Counter(ratings.could_not.tolist())
    measured = ~np.isnan(ratings.lead_s)
    rater, lead = ratings.rater[measured], ratings.lead_s[measured]
    order = np.argsort(rater, kind="stable")
    timed, first = np.unique(rater[order], return_index=True)
    medians = dict(zip(timed.tolist(), map(np.median, np.split(lead[order], first[1:])), strict=False))
    stats = []
    for key in sorted(n.keys() | could_not.keys(), key=names.__getitem__):
        gold_right, gold_n = right.get(names[key], (0, 0))
        median = float(medians[key]) if key in medians else None
        stats.append(AnnotatorStats(names[key], n[key], could_not[key], gold_right, gold_n, median))
    return tuple(stats)
