"""Train the branches on their corpora, then their fusion, calibrate, and write a checkpoint.

    python training/train.py --corpora DIR [--work DIR] [--out DIR] [--stage face voice text fusion]
    python training/train.py --corpora DIR --init base --stage voice --layer-decay 0.7 --unfreeze 3
    accelerate launch --multi_gpu --num_processes 2 training/train.py --corpora DIR

Each stage goes on from its last finished epoch when the command is given again with the same --work. With --init the
branches have a checkpoint's shape and start from its weights; one that is not among the stages and has no state in
--work keeps them. Without a GPU the processes of `accelerate launch` run on the CPU.

The corpora are not paired: no person in them is seen, heard and read at once. Fusion therefore learns from tuples of a
face, a voice and a sentence that carry the same label, with branches left out at random and a share of conflicting
tuples. It learns, and the temperatures are fitted, on a tenth of the training data that the branches have not seen, so
that it knows how far each branch can be trusted on new people.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
from dataclasses import asdict
from pathlib import Path

from mmer.config import Paths
from mmer.labels import MODALITIES
from training.command import run
from training.learn.config import CORPORA, PRECISIONS, TEACHING, TrainConfig


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--work", type=Path, default=Paths.from_env().home / "runs" / "train", help="states and caches")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: the checkpoints folder)")
    parser.add_argument("--name", help="fixed checkpoint id instead of time and hash")
    parser.add_argument("--model", choices=("full", "tiny"), default="full", help="tiny: to see the pipeline run")
    parser.add_argument(
        "--imagenet",
        nargs="?",
        const="",
        metavar="FILE",
        help="let EfficientNet-Lite0 with these ImageNet weights stand beside the face's CNN (default: timm's)",
    )
    parser.add_argument(
        "--whisper",
        metavar="NAME|FILE",
        help="let the voice branch read the encoder of this Whisper too, as base or a .pt file",
    )
    parser.add_argument("--init", metavar="ID", help="checkpoint whose branches training starts from")
    parser.add_argument(
        "--reset-branch",
        nargs="+",
        choices=MODALITIES,
        default=[],
        help="with --init: branches that begin from nothing, in the shape of today's defaults",
    )
    stages = ["face", "face_imagenet", "voice", "voice_whisper", "text", "fusion"]  # the default: all of them
    parser.add_argument(
        "--stage",
        nargs="+",
        choices=[*stages, "abstention"],
        default=stages,
        help="parts to train; face_imagenet and voice_whisper are streams alone that stand beside a branch's CNN; "
        "abstention: only the thresholds of a checkpoint given with --init",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        metavar="CORPUS",
        choices=sorted(c for part in (CORPORA, TEACHING) for names in part.values() for c in names),
        default=[],
        help="leave corpora out, as for their licences or to measure what they teach: %(choices)s",
    )
    for field, value in asdict(TrainConfig()).items():
        option, words = f"--{field.replace('_', '-')}", f"default {value}"
        if isinstance(value, bool):
            parser.add_argument(option, default=value, help=words, action=argparse.BooleanOptionalAction)
        else:
            choices = PRECISIONS if field == "precision" else None
            parser.add_argument(option, default=value, help=words, type=type(value), choices=choices)
    return parser


def main() -> int:
    options_of = parser()
    args = options_of.parse_args()
    if args.reset_branch and not args.init:
        options_of.error("--reset-branch is for --init: without a checkpoint every branch begins from nothing")
    if "abstention" in args.stage and (args.stage != ["abstention"] or not args.init):
        options_of.error("--stage abstention stands alone, with --init: fusion fits thresholds of its own")

    from training.learn.build import BuildOptions, build  # torch: --help does without
    from training.learn.loop import processes

    config = TrainConfig(**{field: getattr(args, field) for field in asdict(TrainConfig())})
    options = BuildOptions(
        corpora=args.corpora,
        work=args.work,
        out=args.out,
        name=args.name,
        tiny=args.model == "tiny",
        imagenet=args.imagenet,
        whisper=args.whisper,
        init=args.init,
        reset=tuple(args.reset_branch),
        stages=tuple(args.stage),
        without=tuple(args.without),
    )
    print(build(options, config))
    processes().destroy_process_group()
    return 0


if __name__ == "__main__":
    run(main)
