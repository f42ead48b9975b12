"""Simulate labelling sessions: true labels play the annotator, each round is a retraining with its gate.

    python training/simulate.py --manifest M.csv --out DIR [--orders random margin] [--wrong 0 0.2] [--seeds N]

The manifest's clips must be of people the checkpoint never learned from: --split says which of its rows are taken. Half
of the clips of each speaker and all of some speakers are never labelled; on them the UAR of the model that serves after
each round is measured, for people who were labelled and for strangers. The rest is labelled in rounds, in an order of
--orders, with a share of --wrong labels (1: all shuffled), with exemplars of what the base learned from and without
them (--without-exemplars).

Branch embeddings are computed once and kept in DIR/cache, so that a curve takes minutes; finished sessions are kept
too, and a run that was stopped goes on. Writes simulation.json (every round of every session, and a summary) and
simulation.svg: mean over the seeds with 90 % intervals.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path

from mmer.config import Paths
from mmer.errors import TrainingError
from training.command import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, nargs="+", metavar="M.csv")
    parser.add_argument("--split", default="val", help="of the manifest; default val")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--checkpoint", metavar="ID", help="that the sessions begin with; default: the one in use")
    parser.add_argument("--orders", nargs="+", default=["random"], help="random entropy margin branches diversity")
    parser.add_argument("--wrong", nargs="+", type=float, default=[0.0], metavar="SHARE", help="default 0")
    parser.add_argument("--without-exemplars", action="store_true", help="each session also without exemplars")
    parser.add_argument("--seeds", type=int, default=5, help="sessions of each kind, default 5")
    parser.add_argument("--per-round", type=int, default=50, help="labels, default 50")
    parser.add_argument("--rounds", type=int, default=4, help="default 4")
    parser.add_argument("--strangers", type=float, default=0.25, help="share of speakers never labelled, default 0.25")
    parser.add_argument("--seed", type=int, default=0, help="the first seed, default 0")
    args = parser.parse_args()

    from training.corrections.simulation import ORDERS, Curve, SimulateConfig, checkpoint_name, pool, session
    from training.corrections.simulation_report import draw, summary
    from training.data.manifest import read  # torch: --help does without

    if unknown := set(args.orders) - set(ORDERS):
        parser.error(f"--orders {' '.join(sorted(unknown))}: there are {' '.join(ORDERS)}")
    if not all(0 <= share <= 1 for share in args.wrong):
        parser.error("--wrong is a share from 0 to 1")
    config = SimulateConfig(**{f.name: getattr(args, f.name) for f in fields(SimulateConfig)})
    rows = [row for file in args.manifest for row in read(file).part(args.split)]
    if not rows:
        raise TrainingError("too_few_clips", f"no row of {args.manifest[0].name} is of the split {args.split!r}")
    paths = Paths.from_env()
    found = pool(paths, rows, checkpoint_name(paths, args.checkpoint), args.out / "cache")
    kinds = product(args.orders, args.wrong, [True, False] if args.without_exemplars else [True])
    file, rounds, digest = args.out / "simulation.json", [], _digest(config, [i.key for i in found.items])
    for (order, wrong, exemplars), seed in product(list(kinds), range(args.seed, args.seed + args.seeds)):
        curve = Curve(order, wrong, exemplars, seed)
        kept = args.out / "cache" / f"{order}-{wrong:g}-{exemplars:d}-{seed}-{found.served.id}-{digest}.json"
        if not kept.is_file():
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(session(found, curve, config)))
            part.replace(kept)
        rounds += json.loads(kept.read_text())
        last = rounds[-1]
        print(
            f"{order}, {wrong:.0%} wrong, seed {seed}: UAR {last['people']:.3f} after {last['labels']} labels",
            flush=True,
        )
    about = {"checkpoint": found.served.id, "clips": len(found.items), "settings": asdict(config)}
    file.write_text(json.dumps({**about, "summary": summary(rounds), "rounds": rounds}, indent=1) + "\n")
    (args.out / "simulation.svg").write_bytes(draw(rounds))
    print(file)
    return 0


def _digest(config, clips: list[str]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps([asdict(config), clips]).encode()).hexdigest()[:8]


if __name__ == "__main__":
    run(main)
