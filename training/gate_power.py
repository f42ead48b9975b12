"""How often the gate of retraining lets a true gain through, and how often noise: by simulation.

    python training/gate_power.py [--runs N] [--speakers N]

Draws labels of speakers who differ in how well they are read (standard deviation 1 in log odds) and in what the new
model gains for each (a third of that), judged by a served model that is right 60 % of the time and by a new one that
changes a quarter of the answers, and asks the gate about them as training/retrain.py does.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse

import numpy as np

from mmer.labels import N_EMOTIONS
from training.command import run
from training.corrections.gate import Evidence, gate

LABELS, GAINS = (50, 100, 200, 400), (0.0, 0.05, 0.10)
RIGHT, CHANGED = 0.6, 0.25
SPEAKER, SPEAKER_GAIN = 1.0, 0.33  # standard deviations in log odds


def draw(n: int, n_speakers: int, gain: float, rng: np.random.Generator) -> tuple[Evidence, Evidence]:
    """Return the evidence of one session of `n` labels, on the people who were labelled and on strangers."""
    speaker = rng.integers(n_speakers, size=n)
    label = rng.integers(N_EMOTIONS, size=n)
    odds = np.log(RIGHT / (1 - RIGHT)) + rng.normal(0, SPEAKER, n_speakers)[speaker]
    served = 1 / (1 + np.exp(-odds))
    wanted = np.clip(served + gain, 0.02, 0.98)
    if gain:  # without one the two models are alike for everybody
        wanted = 1 / (1 + np.exp(-(np.log(wanted / (1 - wanted)) + rng.normal(0, SPEAKER_GAIN, n_speakers)[speaker])))
    right = rng.random(n) < served
    # Answers change in both directions, so many that the new model is right as often as it should be.
    better = np.clip((CHANGED + wanted - served) / 2, 0, 1 - served)
    worse = np.clip(better - (wanted - served), 0, served)
    chance = rng.random(n)
    after = np.where(right, chance >= worse / served, chance < better / (1 - served))
    people, strangers = (
        Evidence(np.eye(N_EMOTIONS)[label], _answers(label, right, rng), _answers(label, after, rng), clusters, strata)
        for clusters, strata in ((list(range(n)), speaker.tolist()), (speaker.tolist(), [0] * n))
    )
    return people, strangers


def _answers(label: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    other = (label + rng.integers(1, N_EMOTIONS, size=len(label))) % N_EMOTIONS
    return np.eye(N_EMOTIONS)[np.where(right, label, other)]


def promoted(n: int, n_speakers: int, gain: float, runs: int, seed: int) -> float:
    """Return the share of sessions after which the gate promotes."""
    rng = np.random.default_rng(seed)
    verdicts = (gate(*draw(n, n_speakers, gain, rng), {}, confidence=0.9) for _ in range(runs))
    return sum(not verdict.reasons for verdict in verdicts) / runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="sessions for each cell, default 500")
    parser.add_argument("--speakers", type=int, default=4, help="in a session, default 4")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    args = parser.parse_args()
    print("| labels | noise | 5 points | 10 points |\n|---|---|---|---|")
    for n in LABELS:
        cells = [promoted(n, args.speakers, gain, args.runs, args.seed) for gain in GAINS]
        print(f"| {n} | {' | '.join(f'{cell:.0%}' for cell in cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
