"""Services that the browser's tests open pages of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotations.queue import projects
from annotations.store import Store
from mmer import media
from mmer.config import Paths
from mmer.ui.service import Service
from tests.test_app import new_checkpoint
from tests.test_label_tab import PREDICTION, paths_in


def analysing(paths: Paths) -> Service:
    """Return a service with a small model and its examples made."""
    new_checkpoint(paths, 1)
    made = Service(paths)
    made.examples.warm()
    return made


def labelling(folder: Path, files: Sequence[Path], *, predicted: bool = False, **utterance: Any) -> Service:
    """Return a service with the project `voices`, in which each file is an item.

    Args:
        predicted: whether the model has answered them.
        utterance: what `Store.utterance` takes: a stretch, words.
    """
    paths = paths_in(folder)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "voices", gold_share=0, order="random", actor="ada")
    for file in files:
        clip = store.register_clip(file, media.content_hash(file), name=file.name, in_place=True, source="import")
        if predicted:
            store.add_prediction(clip, PREDICTION)
        projects.add_items(store, project, [store.utterance(clip, **utterance)])
    store.engine.dispose()
    return Service(paths)
