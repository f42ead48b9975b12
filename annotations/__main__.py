"""The command line of the labels database: `python -m annotations COMMAND`.

Exit status: 0 done, 1 refused or some rows were bad (each is named on stderr), 2 bad usage.
"""

import argparse
import sys
from pathlib import Path

from annotations.choices import FORMATS, GOLD_SHARE, LEASE_S, ORDERS, PER_ITEM, ROLES, TARGETS
from mmer.errors import until_pipe_closes
from mmer.labels import EMOTIONS


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.command == "import" and args.copy != bool(args.consent):
        parser.error("--copy and --consent TEXT go together: media is taken in only with a recorded consent")
    if args.command == "export" and args.push and args.format != "hf":
        parser.error("--push REPO goes with --format hf")
    from annotations import commands  # with SQLAlchemy and the formats: seconds that --help need not wait for

    return until_pipe_closes(lambda: commands.run(args))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `command` and, where there are several, `action` name what `annotations.commands` runs."""
    parser = argparse.ArgumentParser(
        prog="python -m annotations",
        description="Labels database.",
        epilog=(__doc__ or "").strip().splitlines()[-1],
    )
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument(
        "--database",
        metavar="URL",
        help="SQLAlchemy URL or SQLite file (default: MMER_DATABASE_URL, MMER_HOME/mmer.db)",
    )
    database.add_argument(
        "--media", type=Path, metavar="DIR", help="media folder (default: media/ beside the database)"
    )
    commands = _Subcommands(parser, "command", database)
    _add_transfer(commands)
    sub = commands.add("project", "create, change, fill and rank what is to be labelled", parents=())
    _add_project_actions(_Subcommands(sub, "action", database))
    commands.add("stats", "print how much there is, as JSON")
    _add_retention(commands)
    _add_upkeep(commands)
    sub = commands.add("account", "keep the page's accounts in MMER_HOME: who may log in, and as what", parents=())
    _add_account_actions(_Subcommands(sub, "action"))
    return parser


class _Subcommands:
    """Adds subcommands to a parser; each has the options of the parents, and the help as its description too."""

    def __init__(self, parser: argparse.ArgumentParser, name: str, *parents: argparse.ArgumentParser):
        self._subparsers = parser.add_subparsers(dest=name, required=True, metavar=name.upper())
        self._parents = parents

    def add(
        self, name: str, help: str, parents: tuple[argparse.ArgumentParser, ...] | None = None
    ) -> argparse.ArgumentParser:
        shared = self._parents if parents is None else parents
        return self._subparsers.add_parser(name, parents=list(shared), help=help, description=help)


def _add_transfer(commands: _Subcommands) -> None:
    sub = commands.add("import", "add labels from a file, or clips to a project; importing it twice adds nothing")
    sub.add_argument("file", type=Path, help="with --project also a folder of media or a dataset folder with metadata")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--format", choices=FORMATS, help="default: what it looks like")
    what.add_argument("--project", metavar="NAME", help="put the clips of FILE in this project's queue")
    sub.add_argument("--copy", action="store_true", help="take the media in instead of registering it where it lies")
    sub.add_argument("--consent", metavar="TEXT", help="what the recorded people agreed to; needed for --copy")
    where = sub.add_mutually_exclusive_group()
    where.add_argument(
        "--media-root", type=Path, metavar="FOLDER", help="only clips in it may be registered (default: FILE's folder)"
    )
    where.add_argument("--allow-outside", action="store_true", help="register clips wherever they lie: you trust FILE")
    sub = commands.add("export", "write the current labels")
    sub.add_argument("--format", choices=FORMATS, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="PATH", help="file; folder for hf, elan, webvtt")
    sub.add_argument("--push", metavar="REPO", help="upload the hf folder to this private Hugging Face dataset")


def _add_project_actions(actions: _Subcommands) -> None:
    sub = actions.add("create", "make a project")
    sub.add_argument("name")
    sub.add_argument("--order", choices=ORDERS, default=ORDERS[0], help="what comes first (default: %(default)s)")
    _add_project_settings(sub, "default: ")
    sub.add_argument("--not-blind", action="store_true", help="show the model's answer before the choice")
    sub = actions.add("change", "change a project's settings; what is not named stays")
    sub.add_argument("name")
    sub.add_argument("--rename", metavar="NAME", help="the project's new name")
    _add_project_settings(sub)
    blind = sub.add_mutually_exclusive_group()
    blind.add_argument(
        "--blind", action="store_true", default=None, help="show the model's answer only after the choice"
    )
    blind.add_argument(
        "--not-blind", action="store_false", dest="blind", default=None, help="show it before the choice"
    )
    actions.add("list", "print each project with its counts, one JSON object a line")
    sub = actions.add("rank", "recompute which items come first")
    sub.add_argument("name")
    sub.add_argument("--order", choices=ORDERS, help="what comes first from now on (default: as it is)")
    sub.add_argument("--seed", type=int, default=0, help="for the orders random and diversity")
    sub.add_argument(
        "--predictions", type=Path, metavar="FILE", help="first store what `python -m mmer analyse --out FILE` wrote"
    )
    sub = actions.add("gold", "say the right answer to an item, which then tests annotators")
    sub.add_argument("name")
    sub.add_argument("--clip", metavar="CLIP", help="file or sha256")
    sub.add_argument(
        "--start", type=float, metavar="S", help="where the utterance begins, if the item is not the whole clip"
    )
    sub.add_argument(
        "--right", nargs="*", choices=EMOTIONS, metavar="EMOTION", help="right answers; none takes the gold back"
    )
    sub.add_argument(
        "--target", choices=TARGETS, default=TARGETS[0], help="what was asked about (default: %(default)s)"
    )
    sub.add_argument("--why", default="", help="what the annotator reads afterwards")
    sub = actions.add("release", "give back the items that an annotator holds and has not answered")
    sub.add_argument("name")
    sub.add_argument("annotator")


def _add_project_settings(sub: argparse.ArgumentParser, default: str = "") -> None:
    """Add the settings that `create` and `change` share.

    Args:
        default: begins the words about a setting's default; empty where a setting that is not named stays as it is.
    """

    def number(value: float) -> str:
        return f" ({default}{value})" if default else ""

    sub.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown that annotators can open")
    sub.add_argument(
        "--labels", nargs="+", metavar="EMOTION", help="to choose from" + (f" ({default}all)" if default else "")
    )
    sub.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        help="asked about each item" + (f" ({default}{TARGETS[0]})" if default else ""),
    )
    sub.add_argument("--per-item", type=int, metavar="N", help="annotators for each item" + number(PER_ITEM))
    sub.add_argument("--gold-share", type=float, metavar="P", help="share of gold items" + number(GOLD_SHARE))
    sub.add_argument("--lease-s", type=int, metavar="S", help="how long an item stays lent" + number(LEASE_S))


def _add_retention(commands: _Subcommands) -> None:
    sub = commands.add("delete", "delete media, features, predictions and labels, and check that no trace is left")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--clip", metavar="CLIP", help="file or sha256")
    which.add_argument("--speaker", metavar="NAME", help="all clips of this speaker")
    sub.add_argument(
        "--labels",
        choices=("drop", "anonymise"),
        default="drop",
        help="anonymise: labels stay, of a clip without hash, name, speaker, words or comments",
    )
    sub = commands.add("expire", "delete media and features whose retention period is over; labels stay")
    sub.add_argument("--days", type=float, metavar="N", help="also those whose consents are all older than N days")


def _add_upkeep(commands: _Subcommands) -> None:
    commands.add("vacuum", "delete media that no clip needs and compact the database")
    commands.add("upgrade", "create the tables, or bring an older database to this version; a backup is kept beside it")
    sub = commands.add("backup", "copy the live database (media not included) to a file")
    sub.add_argument("file", type=Path)
    sub = commands.add("restore", "check a backup and put it in the database's place; the old one is kept beside")
    sub.add_argument("file", type=Path)
    sub = commands.add(
        "recover", "make the database and its files anew from MMER_BACKUP, as a server does at its start"
    )
    sub.add_argument("--allow-missing", action="store_true", help="go on without events that are missing or damaged")


def _add_account_actions(actions: _Subcommands) -> None:
    sub = actions.add("add", "let somebody log in; the password is asked for on the terminal, or read from stdin")
    sub.add_argument("name")
    sub.add_argument("role", nargs="?", choices=ROLES, default="annotator", help="default: %(default)s")
    sub.add_argument("--hub", action="store_true", help="without a password: they log in with Hugging Face")
    sub = actions.add("role", "give somebody another role")
    sub.add_argument("name")
    sub.add_argument("role", choices=ROLES)
    sub = actions.add("remove", "let somebody log in no longer; their labels stay")
    sub.add_argument("name")
    actions.add("list", "print who may log in, and as what")


if __name__ == "__main__":
    sys.exit(main())
