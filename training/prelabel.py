"""Let the served model answer a project's items, so that its queue can begin where a person is needed most.

    python training/prelabel.py --project NAME [--again] [--speech]

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
    parser.add_argument("--project", required=True, metavar="NAME")
    parser.add_argument("--again", action="store_true", help="answer also what this checkpoint has answered")
    parser.add_argument("--speech", action="store_true", help="transcribe items without a transcript (Whisper)")
    args = parser.parse_args(arguments)

    from training.corrections.prelabelling import prelabel  # torch: --help does without

    n_done, failed = prelabel(Paths.from_env(), args.project, again=args.again, speech=args.speech)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"{n_done} items answered, {len(failed)} could not be read; the queue of {args.project} is in order")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
