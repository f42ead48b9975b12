"""The served model's answers to a project's items: predictions, embeddings, transcripts."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from sqlalchemy import select
from tqdm import tqdm

from annotations.db.schema import ItemRecord, PredictionRecord, ProjectRecord, UtteranceRecord
from annotations.queue.assignment import Queue
from annotations.queue.projects import Pending, pending, project
from annotations.store import Store
from mmer.config import Paths
from mmer.errors import ClipError, MmerError
from mmer.features import collate
from mmer.predict import EmotionResult, Predictor

_BATCH = 32  # items looked at before the next are asked for


def answer(predictor: Predictor, item: Pending, *, speech: bool) -> tuple[EmotionResult, bytes]:
    """Return the verdict on an item and its embedding: the branches' states, zeros where one is absent, as float32.

    Raises:
        ClipError: it cannot be read, or shows nothing (`nothing_readable`).
    """
    files = [item.media] if item.media else []
    result = predictor.analyse(
        *files,
        name=item.name,
        text=item.transcript,
        speech=speech,
        start_s=item.start_s,
        end_s=item.end_s if item.start_s is not None else None,
        whole=item.start_s is not None,
    )
    if result.emotion is None:
        reasons = "; ".join(n.message for n in result.quality) or "it has none of these streams"
        raise ClipError("nothing_readable", f"{item.name}: no face, voice or words to read: {reasons}")
    loaded, features = predictor.checkpoint_of(result), [s.features for s in result.segments]
    with torch.no_grad():
        tops = loaded.model.branches(collate(features, loaded.config).to(predictor.device)).tops.flatten(1)  # (U, 3 D)
    weights = np.array([f.weight for f in features])
    mean = (tops.cpu().numpy() * (weights / weights.sum())[:, None]).sum(0)
    return result, mean.astype(np.float32).tobytes()


def keep(store: Store, item: Pending, result: EmotionResult, embedding: bytes) -> None:
    """Store an item's prediction, its embedding and, where it had none, its transcript."""
    words = result.transcript.text if item.transcript is None and result.transcript.words else None
    found = result.to_dict() | {"start_s": item.start_s, "end_s": item.end_s}
    store.add_prediction(item.clip_id, found)
    store.utterance(item.clip_id, item.start_s, item.end_s, transcript=words, embedding=embedding)


def answered_projects(paths: Paths) -> list[str]:
    """Return the names of the projects of which a model has answered an item."""
    store = Store(paths.database_url, paths.media, paths.features, create=False)
    names = (
        select(ProjectRecord.name)
        .join(ItemRecord, ItemRecord.project_id == ProjectRecord.id)
        .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
        .join(PredictionRecord, PredictionRecord.clip_id == UtteranceRecord.clip_id)
        .distinct()
        .order_by(ProjectRecord.name)
    )
    with store.reading() as session:
        return list(session.scalars(names))


def prelabel(paths: Paths, name: str, *, again: bool = False, speech: bool = False) -> tuple[int, list[str]]:
    """Answer a project's items; return how many were, and one line for each that could not be."""
    store, predictor = Store(paths.database_url, paths.media, paths.features, create=False), Predictor(paths)
    chosen = project(store, name)
    waiting = iter(pending(store, chosen, None if again else predictor.checkpoint.id))

    def one(item: Pending) -> tuple[Pending, tuple[EmotionResult, bytes] | MmerError]:
        try:
            return item, answer(predictor, item, speech=speech)
        except MmerError as error:
            return item, error

    n_done, failed = 0, []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, tqdm(unit="item", mininterval=1) as bar:
        while batch := list(islice(waiting, _BATCH)):
            for item, found in pool.map(one, batch):
                try:
                    if isinstance(found, MmerError):
                        raise found
                    keep(store, item, *found)
                    n_done += 1
                except MmerError as error:  # keep: it was deleted meanwhile
                    failed.append(f"{item.name}: {error}")
                bar.update()
    Queue(store, chosen).rank()
    return n_done, failed
