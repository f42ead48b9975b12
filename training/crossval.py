"""Cross-validate the voice branch over speakers who are never trained on, the epoch chosen without them.

    python training/crossval.py --corpora DIR --out results/crossval [--classes 8] [--folds emobox] [--epochs N]
    python training/crossval.py --corpora DIR --out results/crossval --classes 8 --fixed --unseen emodb
    python training/crossval.py --corpora DIR --out results/crossval --across ravdess:emodb

RAVDESS has the folds of EmoBox (https://arxiv.org/abs/2406.07162) by name; a fold is left out when one of its actors is
missing. Any other corpus is cut into --folds parts by a hash of its speakers' names. In each fold the speakers of the
next fold are kept out of training too, and the epoch is the one that serves them best; the test speakers are read once.
--refit then trains again on those speakers as well and stops at that epoch; --fixed chooses nothing and trains on all
other speakers for all epochs. The branch has a head of its own for the experiment, so that RAVDESS can keep calm apart
from neutral (--classes 8); the same answers are then also measured with calm counted as neutral. --across trains on one
whole corpus and tests on another; --unseen measures every fold's branch on another corpus as well.

What is finished is never run again, and a killed fold goes on from its last epoch.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
from pathlib import Path

from training.command import run
from training.learn.config import TrainConfig


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/crossval"), help="tables, figures and finished runs")
    parser.add_argument("--corpus", choices=("ravdess", "emodb"), default="ravdess")
    parser.add_argument(
        "--classes", type=int, choices=(7, 8), default=7, help="8: RAVDESS with calm apart from neutral"
    )
    parser.add_argument("--folds", default="emobox", help="emobox, or how many to make (default: emobox)")
    parser.add_argument("--only", nargs="+", metavar="FOLD", help="run these folds only")
    parser.add_argument(
        "--across", metavar="TRAIN:TEST", help="train on corpora and test on another, as ravdess+nemo:emodb"
    )
    parser.add_argument(
        "--unseen", choices=("ravdess", "emodb", "nemo"), help="measure every fold's branch on this corpus too"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        choices=("ravdess", "emodb", "nemo"),
        help="train on the training speakers of these corpora too",
    )
    _add_training(parser)
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how each fold learns."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--refit",
        dest="how",
        action="store_const",
        const="refit",
        default="nested",
        help="train again with the inner speakers, up to the chosen epoch",
    )
    how.add_argument(
        "--fixed",
        dest="how",
        action="store_const",
        const="fixed",
        help="choose nothing: all other speakers, all epochs",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument(
        "--epochs",
        type=int,
        default=TrainConfig().voice_epochs,
        help="default %(default)s; fewer are another experiment",
    )
    parser.add_argument("--batch", type=int, default=TrainConfig().voice_batch)
    parser.add_argument("--lr", type=float, default=TrainConfig().voice_lr)
    parser.add_argument(
        "--speaker-augment-prob",
        type=float,
        default=TrainConfig().speaker_augment_prob,
        help="of an utterance to be made another speaker's, default %(default)s",
    )
    parser.add_argument(
        "--whisper",
        metavar="NAME|FILE",
        help="let the branch read the encoder of this Whisper too; with --epochs 0 it alone decides",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=TrainConfig().voice_whisper_views,
        help="augmented ones of each utterance that Whisper's encoder hears, default %(default)s",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--model", choices=("full", "tiny"), default="full", help="tiny: to see it run")


def main() -> int:
    options = parser()
    args = options.parse_args()
    if args.folds != "emobox" and not (args.folds.isdigit() and int(args.folds) > 2):
        options.error(f"--folds {args.folds!r}: give emobox or a number from 3")

    from training.experiments.crossval_run import crossval  # torch: --help does without

    print(crossval(args, options.error))
    return 0


if __name__ == "__main__":
    run(main)
