"""Train on the corrections people made, and serve the result only if it is better on clips it has not seen.

    python training/retrain.py [--dry-run] [--min-labels N] [--aggregation METHOD] [--home DIR] [--database URL]
    python training/retrain.py --explain-run ID
    python training/retrain.py --push NAMESPACE/NAME [--public] [--checkpoint ID]

Uses the current labels whose clip can be read: media kept with consent, a registered file that still has the same
hash, a clip's branch embeddings where only these were kept (while they are of the same branches), or a typed
sentence. Several annotators of one clip or segment make one target, by --aggregation: the mean of their labels
(soft), the majority, the mean weighted by their answers to gold items, or Dawid and Skene's model of their
confusions. A reviewer's final label stands alone. The held-out labels are made into targets in the same way.

A clip is for learning or for measuring from the moment it is first seen (annotations/sides.py). The base model stays
as it is. What its branches pool is computed once; on it two linear layers learn for each branch that labels are about:
how the vote changes, and, against exemplars of what the base learned from, which clips are near the corrected ones.
Far from them the base's answer stands. How large a change may be is chosen by cross-validation over clips and over
speakers. Every run begins with the base and all labels there are: what was deleted is forgotten.

The gate asks two questions: is the new model better for the people who were labelled, on other clips of theirs, and for
strangers? Held-out clips and clips that were left out in turn answer them; the new model is promoted when one answer is
yes with --confidence, and neither the other nor any corpus of the base has likely lost more than a point of UAR. The
more often the same clips have measured a run, the more confidence is asked for. --force puts it in use all the same,
and the run says so.

--explain-run writes what a run came from, learned from and changed, as explained.md and explained.html beside its
report: label ids, hashes, settings, scores, confusion before and after, the answers that flipped. No name, no file name
and no word of a clip is in it.

--push uploads what was promoted, with a card, to a model repository of the Hugging Face hub: a private one unless
--public is given. With --checkpoint it uploads that checkpoint and trains nothing.

Exit status: 0 promoted, 3 refused by the gate, 4 too few labels, 2 bad usage, 1 another error.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

from annotations.choices import METHODS
from mmer.checkpoint import promoted
from mmer.config import Paths, sqlite_url
from mmer.errors import MmerError
from training.corrections.config import RetrainConfig

FORMER = ("--steps", "--lr", "--share", "--deep-from")  # of gradient descent, which corrections no longer need


class Former(argparse.Action):
    """An option that older calls give: they go on, and are told that it changes nothing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(f"{option_string} changes nothing any more: what corrections teach has one best answer", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(RetrainConfig):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=f"default {field.default}",
            choices=METHODS if field.name == "aggregation" else None,
        )
    for former in FORMER:
        parser.add_argument(former, action=Former, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help="in place of MMER_HOME: checkpoints, media, runs and the database")
    parser.add_argument(
        "--database", metavar="URL", help="SQLAlchemy URL or SQLite file, in place of MMER_DATABASE_URL"
    )
    parser.add_argument(
        "--speech", action="store_true", help="transcribe clips whose words nobody kept; else they have none"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; write only the features cache")
    parser.add_argument("--force", action="store_true", help="put the new model in use although the gate refuses it")
    parser.add_argument("--by", metavar="NAME", help="who starts it, for the log of promotions; default: this user")
    parser.add_argument("--explain-run", type=int, metavar="ID", help="explain a run that is over, and train nothing")
    parser.add_argument("--push", metavar="NAMESPACE/NAME", help="upload what is promoted to the Hugging Face hub")
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    parser.add_argument("--checkpoint", metavar="ID", help="with --push: upload this one, and train nothing")
    return parser


def settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[RetrainConfig, Paths]:
    """Return the settings and places that the options name; a bad one ends the program with status 2."""
    config = RetrainConfig(**{f.name: getattr(args, f.name) for f in fields(RetrainConfig)})
    if not 0 < config.confidence < 1:
        parser.error(f"--confidence {config.confidence} is not between 0 and 1")
    for name in ("min_labels", "min_judged"):
        if not getattr(config, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(config, name)} is not above 0")
    if args.checkpoint and not args.push:
        parser.error("--checkpoint says what to --push; retraining starts from the checkpoint that serves")
    if config.seed < 0:
        parser.error(f"--seed {config.seed} is below 0")
    try:
        paths = Paths.from_env()
    except MmerError as error:
        parser.error(str(error))
    if args.home:
        home = args.home.expanduser().resolve()
        paths = replace(paths, home=home, database_url=sqlite_url(home / "mmer.db"))
    if args.database:
        url = args.database if "://" in args.database else sqlite_url(Path(args.database).resolve())
        paths = replace(paths, database_url=url)
    return config, paths


def explain(paths: Paths, run: int) -> int:
    """Write the explanation of a run and say where it lies."""
    from annotations.store import Store
    from training.corrections.explain import explained, write

    store = Store(paths.database_url, paths.media, paths.features, create=False)
    for file in write(paths, explained(paths, store, run)):
        print(file)
    return 0


def push(paths: Paths, args: argparse.Namespace, name: str) -> int:
    """Upload a checkpoint and say where it is."""
    from training.corrections.push import push

    print(f"pushed {name} as {push(paths, name, args.push, public=args.public)}")
    return 0


def main() -> int:
    options = parser()
    args = options.parse_args()
    config, paths = settings(options, args)

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        if args.explain_run is not None:
            return explain(paths, args.explain_run)
        if args.checkpoint:
            return push(paths, args, args.checkpoint)
        from training.corrections.run import retrain  # torch: --help does without

        status, line = retrain(
            paths, config, speech=args.speech, dry_run=args.dry_run, force=args.force, by=args.by or None
        )
        print(line)
        if args.push and status == 0 and not args.dry_run:
            push(paths, args, promoted(paths.checkpoints))
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "bad_database_url" else 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: nothing was changed", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
