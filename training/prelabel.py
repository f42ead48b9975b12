"""Let the served model answer a project's items, so that its queue can begin where a person is needed most.

    python training/prelabel.py --project NAME [--again] [--speech]
    python training/prelabel.py --all

Each item gets a prediction, the embedding that the order `diversity` goes by and, with --speech, a transcript. Items
the checkpoint in use has answered already are left as they are, so the command goes on where it was stopped, and
answers anew after a retraining. Items without media are answered by their transcript.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import sys
from collections.abc import Sequence

from mmer.config import Paths
from training.command import run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--project", metavar="NAME")
    which.add_argument("--all", action="store_true", help="every project of which a model has answered items already")
    parser.add_argument("--again", action="store_true", help="answer also what this checkpoint has answered")
    parser.add_argument("--speech", action="store_true", help="transcribe items without a transcript (Whisper)")
    args = parser.parse_args(arguments)

    from training.corrections.prelabelling import answered_projects, prelabel  # torch: --help does without

    paths, n_failed = Paths.from_env(), 0
    for name in answered_projects(paths) if args.all else [args.project]:
        n_done, failed = prelabel(paths, name, again=args.again, speech=args.speech)
        for line in failed:
            print(line, file=sys.stderr)
        print(f"{n_done} items answered, {len(failed)} could not be read; the queue of {name} is in order")
        n_failed += len(failed)
    return 1 if n_failed else 0


if __name__ == "__main__":
    run(main)
