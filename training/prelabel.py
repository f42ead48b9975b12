"""Let the served model answer a project's items, so that its queue can begin where a person is needed most.

    python training/prelabel.py --project NAME [--again] [--speech]

Each item gets a prediction, the embedding that the order `diversity` goes by and, with --speech, a transcript. Items the
checkpoint in use has answered already are left as they are, so the command goes on where it was stopped, and answers
anew after a retraining. Items without media are answered by their transcript.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

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
    bounds = {"start_s": item.start_s, "end_s": item.end_s, "whole": True} if item.start_s is not None else {}
    result = predictor.analyse(*files, name=item.name, text=item.transcript, speech=speech, **bounds)
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", required=True, metavar="NAME")
    parser.add_argument("--again", action="store_true", help="answer also what this checkpoint has answered")
    parser.add_argument("--speech", action="store_true", help="transcribe items without a transcript (Whisper)")
    args = parser.parse_args(arguments)
    n_done, failed = prelabel(Paths.from_env(), args.project, again=args.again, speech=args.speech)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"{n_done} items answered, {len(failed)} could not be read; the queue of {args.project} is in order")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
