"""The command line: `analyse` prints one JSON object per clip, `checkpoint` shows and changes which checkpoint serves,
`doctor` says what this installation lacks, `whatif` judges a changed clip again.

torch takes seconds to import, so each command imports what it needs.
"""

import argparse
import json
import sys

from mmer import checkpoint, hub, versions
from mmer.commands import analyse, whatif
from mmer.config import Paths
from mmer.errors import MmerError, until_pipe_closes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmer", description="Multimodal emotion recognition.")
    commands = parser.add_subparsers(dest="command", required=True)
    analyse.add(commands)
    _add_checkpoint(commands)
    _add_doctor(commands)
    whatif.add(commands)
    return parser


def _add_checkpoint(commands) -> None:
    about = "list, show, promote or roll back checkpoints"
    actions = commands.add_parser("checkpoint", help=about, description=about).add_subparsers(required=True)
    listed = actions.add_parser(
        "list",
        help="a line each: id, when it was made, parent, figures, what it learned from, who put it in use; * serves",
    )
    listed.set_defaults(run=_list_checkpoints)
    show = actions.add_parser("show", help="print a checkpoint's meta.json and who put it in use when")
    show.add_argument("id", nargs="?", metavar="ID", help="default: the one that serves")
    show.set_defaults(run=_show_checkpoint)
    promote = actions.add_parser("promote", help="let a checkpoint serve; an open page takes it with the next clip")
    promote.add_argument("id", metavar="ID", help="or hf:namespace/name@revision, which is fetched from the hub")
    promote.set_defaults(run=_promote_checkpoint)
    rollback = actions.add_parser("rollback", help="let the parent of the one that serves do so again")
    rollback.set_defaults(run=_roll_back)


def _add_doctor(commands) -> None:
    about = "say of weights, database, disk, device and versions how they are, and what to do; exit status 1: not well"
    doctor = commands.add_parser("doctor", help=about, description=about)
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from mmer.commands import doctor

    return doctor.run()


def _list_checkpoints(args: argparse.Namespace) -> int:
    for version in versions.versions(Paths.from_env().checkpoints):
        mark = "*" if version.serves else " "
        if version.problem:
            print(f"{mark} {version.id}  {version.problem}")
            continue
        put = [f"put in use {p.at} by {p.by}" for p in version.promotions[-1:]]
        told = [f"from {version.parent or 'nothing'}", *version.figures, *version.learned, *put]
        print(f"{mark} {version.id}  {version.created_at or 'no time'}  {'  '.join(told)}")
    return 0


def _show_checkpoint(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    name = args.id or checkpoint.promoted(root)
    put = [{"at": p.at, "by": p.by, "before": p.before} for p in versions.promotions(root) if p.checkpoint == name]
    print(json.dumps({**checkpoint.read_meta(name, root), "promotions": put}, indent=1))
    return 0


def _promote_checkpoint(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    name = hub.fetch(args.id, root) if hub.is_address(args.id) else args.id
    checkpoint.load(name, root)  # one that cannot be read must not serve
    before = checkpoint.promoted(root)
    checkpoint.promote(name, root)
    print(f"{name} serves; before it did {before}")
    return 0


def _roll_back(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    before = checkpoint.promoted(root)
    print(f"{checkpoint.roll_back(root)} serves again; before it did {before}")
    return 0


def main() -> int:
    args = _parser().parse_args()
    try:
        return until_pipe_closes(lambda: args.run(args))
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
