"""Measure face and voice of the same takes: what fusion is worth where errors are not independent.

    python training/paired_takes.py --corpora DIR --out results/paired --whisper base

RAVDESS' pictures are not needed: a small regression on OpenFace's action units of them (a table with the columns
`clip`, `AU01_r` ... below --corpora) stands in for the face branch. It learns from the actors the voice branch learned
from; those set aside for the fusion, and for the training actors other folds' models, say how votes are to be joined;
the validation actors are measured, as true pairs and as label-matched ones. Writes paired.json and paired.md.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
from pathlib import Path

from mmer.config import Paths
from mmer.errors import TrainingError
from training.command import run
from training.learn.config import TrainConfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds RAVDESS and the action units")
    parser.add_argument(
        "--out", type=Path, default=Path("results/paired"), help="tables, and what is kept for next time"
    )
    parser.add_argument("--checkpoint", default="base", metavar="ID", help="whose voice and fusion (default: base)")
    parser.add_argument("--whisper", default="base", metavar="NAME|FILE", help="whose encoder the voice reads")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from mmer import checkpoint  # and torch: --help does without
    from mmer.speech import Transcriber
    from training.experiments.paired_fusion import PairedTakes, page
    from training.learn import exemplars

    paths = Paths.from_env()
    served = checkpoint.load(args.checkpoint, paths.checkpoints)
    if not served.model.config.whisper_depths:
        raise TrainingError("no_whisper", f"the voice branch of {args.checkpoint} does not read Whisper's encoder")
    known = exemplars.of_checkpoint(served, paths.checkpoints)
    if known is None:
        raise TrainingError("no_exemplars", f"{args.checkpoint} has no exemplars; training/exemplars.py writes them")
    args.out.mkdir(parents=True, exist_ok=True)
    whisper = Transcriber(args.whisper, download_root=paths.assets / "whisper")
    found = PairedTakes(args.corpora, served, known, whisper, TrainConfig(seed=args.seed), args.out).report()
    (args.out / "paired.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "paired.md").write_text(page(found))
    print(page(found))
    return 0


if __name__ == "__main__":
    run(main)
