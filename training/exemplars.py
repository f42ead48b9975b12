"""Write the exemplars of a checkpoint: branch embeddings of a sample of what it learned from.

    python training/exemplars.py --corpora DIR --work DIR [--checkpoint ID] [--whisper NAME|FILE]

training/train.py does the same when it writes a checkpoint. Give the Whisper that it was trained with; corpora that it
was trained without are left out here too. The file, exemplars.safetensors beside the checkpoint, holds numbers alone:
no face, voice or name.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
from pathlib import Path

from mmer.config import Paths
from training.command import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--work", type=Path, default=Paths.from_env().home / "runs" / "train", help="caches")
    parser.add_argument("--checkpoint", default="base", metavar="ID", help="default base")
    parser.add_argument("--whisper", metavar="NAME|FILE", help="whose encoder the voice branch reads")
    args = parser.parse_args()

    from training.learn.build import BuildOptions, write_exemplars  # torch: --help does without

    options = BuildOptions(corpora=args.corpora, work=args.work, whisper=args.whisper)
    print(write_exemplars(options, checkpoint_id=args.checkpoint))
    return 0


if __name__ == "__main__":
    run(main)
