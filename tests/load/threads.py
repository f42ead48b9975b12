"""Threads predict and explain at once on one model: no call may fail, no figure change.

    python tests/load/threads.py --threads 8 --calls 500 [--checkpoint ID]

Without a checkpoint a small random model answers. Each utterance is judged and explained once alone; then the threads
draw from both, and what they get is compared. Exit status 1 when a call failed or a figure changed.
"""

import argparse
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer.attribution import explain
from mmer.checkpoint import Checkpoint
from mmer.config import Config, ModelConfig, Paths
from mmer.features import Features, corpus_face
from mmer.labels import EMOTIONS
from mmer.predict import Predictor
from mmer.voice import log_mel
from tests import synth
from tests.test_model import make_model


def utterances() -> list[Features]:
    """Return a face, two voices and a face with a voice, all made here."""
    faces = [corpus_face(np.asarray(synth.face(smile=s, size=96)), 48) for s in (0.0, 1.0)]
    voices = [log_mel(synth.voice(s)) for s in (0.5, 0.7)]
    return [
        Features(0.0, 0.0, face=faces[0], landmarks=False),
        Features(0.0, 0.5, sound=voices[0]),
        Features(0.0, 0.7, sound=voices[1]),
        Features(0.0, 0.5, face=faces[1], landmarks=False, sound=voices[0]),
    ]


def figures(predictor: Predictor, loaded: Checkpoint, item: Features, target: str | None) -> np.ndarray:
    """Return the probabilities of an utterance or, with a target, its explanation as numbers."""
    if target is None:
        return predictor.judge([item], loaded)[0].probs
    found = explain(loaded, item, target)
    scores = [b["score"] for b in found.voice_bands] + [s for _, s in found.face_moments]
    trust = [x for t in found.trust.values() if t is not None for x in (t.delta, t.deletion, t.insertion)]
    return np.array([found.logit, *scores, *trust])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", metavar="ID", help="explain this one instead of a small random model")
    args = parser.parse_args(arguments)
    predictor = Predictor(replace(Paths.from_env(), device="cpu"), args.checkpoint)
    loaded = (
        # Without weights_sha256 nothing is remembered, so that each call does the work.
        replace(predictor.checkpoint, meta={})
        if args.checkpoint
        else Checkpoint("random", Path(), make_model().eval(), Config(model=ModelConfig.tiny()), {})
    )
    questions = [(item, target) for item in utterances() for target in (None, None, *EMOTIONS[:2])]
    alone = [figures(predictor, loaded, *question) for question in questions]
    chance = random.Random(args.seed)
    drawn = [chance.randrange(len(questions)) for _ in range(args.calls)]
    errors: list[str] = []
    changed: list[int] = []
    lock = threading.Lock()

    def call(i: int) -> None:
        try:
            found = figures(predictor, loaded, *questions[i])
        except Exception as error:  # whatever it is, it is what is looked for here
            with lock:
                errors.append(f"{type(error).__name__}: {error}")
            return
        if found.shape != alone[i].shape or not np.allclose(found, alone[i], atol=1e-4):
            with lock:
                changed.append(i)

    since = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as pool:
        list(pool.map(call, drawn))
    seconds = time.perf_counter() - since
    print(f"{args.calls} calls, {len(errors)} errors, {len(changed)} changed figures in {seconds:.1f} s")
    for error in sorted(set(errors)):
        print(error)
    return 1 if errors or changed else 0


if __name__ == "__main__":
    sys.exit(main())
