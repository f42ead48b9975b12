"""The time of an explanation, in forward passes of the same utterance: the channels' shares, each map, all together.

    python tests/load/explain.py CLIP... [--repeat 3]

A forward pass is the model on what was perceived, Whisper's encoder included where the voice branch reads it. Both are
measured in turn, so that other work of the machine costs them alike, and medians are compared. What is explained is the
first utterance, another emotion each time: an explanation that was made before would be remembered.
"""

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--repeat", type=int, default=3, choices=range(1, 8), help="emotions to explain (default 3)")
    args = parser.parse_args()

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer.attribution import explain
from mmer.explanation import Explanation
from mmer.features import Features, collate
from mmer.labels import EMOTIONS
from mmer.predict import Predictor
from tests.load.floors import TEXT, tell_of_each


@torch.no_grad()
def forward(predictor: Predictor, features: Features) -> None:
    """Run the model once on what was perceived."""
    if features.heard:
        predictor.transcriber.encode_heard(features.heard)
    loaded = predictor.checkpoint
    loaded.model(collate([features], loaded.config).to(predictor.device))


def measure(predictor: Predictor, clip: Path, repeat: int) -> tuple[Features, dict[str, float]]:
    """Return the first utterance and median milliseconds of a forward pass and of each part of an explanation."""
    features = predictor.analyse(clip, text=TEXT).segments[0].features
    times: dict[str, list[float]] = {"forward pass": []}
    loaded = predictor.checkpoint
    forward(predictor, features)
    for emotion in EMOTIONS[:repeat]:
        since = time.perf_counter()
        forward(predictor, features)
        times["forward pass"].append(time.perf_counter() - since)
        before = begun = time.perf_counter()
        waits: list[str] = []

        def told(found: Explanation, waits: list[str] = waits) -> None:
            nonlocal before
            now = time.perf_counter()
            times.setdefault(waits[0] if waits else "shares", []).append(now - before)
            before, waits[:] = now, found.pending

        last = explain(
            loaded,
            features,
            emotion,
            predictor.language(loaded),
            transcriber=predictor.transcriber,
            report=told,
        )
        told(last)
        times.setdefault("all", []).append(time.perf_counter() - begun)
    return features, {name: 1e3 * float(np.median(each)) for name, each in times.items()}


def main(args: argparse.Namespace) -> int:
    def line_of(predictor: Predictor, clip: Path) -> str:
        features, ms = measure(predictor, clip, args.repeat)
        unit = ms.pop("forward pass")
        parts = ", ".join(f"{name} {value:.0f} ms = {value / unit:.1f}" for name, value in ms.items())
        length = features.end_s - features.start_s
        return f"{clip.name}, {length:.1f} s: forward pass {unit:.0f} ms; in passes: {parts}"

    return tell_of_each(args.clips, line_of)


if __name__ == "__main__":
    sys.exit(main(args))
