"""The command line of the labels database: `python -m annotations COMMAND`.

Exit status: 0 done, 1 refused or some rows were bad (each is named on stderr), 2 bad usage.
"""

import argparse
import getpass
import inspect
import json
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from annotations import retention
from annotations.accounts import Accounts
from annotations.db import backup
from annotations.db.engine import sqlite_file
from annotations.db.schema import ORDERS, ROLES, TARGETS, now
from annotations.db.upgrade import upgrade
from annotations.formats import huggingface
from annotations.formats.import_export import FORMATS, content_hash, export_labels, format_of, import_labels
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.queue.media_import import MediaImportReport, import_media, import_predictions
from annotations.store import Store
from mmer.config import Paths
from mmer.errors import LabelError, MmerError
from mmer.labels import EMOTIONS

_ACTOR = "command line"  # in the audit log


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command == "import" and args.copy != bool(args.consent):
        parser.error("--copy and --consent TEXT go together: media is taken in only with a recorded consent")
    if args.command == "export" and args.push and args.format != "hf":
        parser.error("--push REPO goes with --format hf")
    try:
        return args.run(args)
    except MmerError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
    except (SQLAlchemyError, OSError) as error:
        print(f"failed: {str(error).splitlines()[0]}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--database",
        metavar="URL",
        help="SQLAlchemy URL or SQLite file (default: MMER_DATABASE_URL, MMER_HOME/mmer.db)",
    )
    common.add_argument("--media", type=Path, metavar="DIR", help="media folder (default: media/ beside the database)")
    parser = argparse.ArgumentParser(
        prog="python -m annotations", description="Labels database.", epilog=__doc__.splitlines()[2]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = command("import", _import, "add labels from a file, or clips to a project; importing it twice adds nothing")
    sub.add_argument("file", type=Path, help="with --project also a folder of media or a dataset folder with metadata")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--format", choices=FORMATS, help="default: what it looks like")
    what.add_argument("--project", metavar="NAME", help="put the clips of FILE in this project's queue")
    sub.add_argument("--copy", action="store_true", help="take the media in instead of registering it where it lies")
    sub.add_argument("--consent", metavar="TEXT", help="what the recorded people agreed to; needed for --copy")
    sub = command("export", _export, "write the current labels")
    sub.add_argument("--format", choices=FORMATS, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="PATH", help="file; folder for hf, elan, webvtt")
    sub.add_argument("--push", metavar="REPO", help="upload the hf folder to this private Hugging Face dataset")
    _add_project_options(command("project", _project, "create, list or rank what is to be labelled"))
    command("stats", _stats, "print how much there is, as JSON")
    sub = command("delete", _delete, "delete media, features, predictions and labels, and check that no trace is left")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--clip", metavar="CLIP", help="file or sha256")
    which.add_argument("--speaker", metavar="NAME", help="all clips of this speaker")
    sub.add_argument(
        "--labels", choices=("drop", "anonymise"), default="drop",
        help="anonymise: labels stay, of a clip without hash, name, speaker, words or comments",
    )  # fmt: skip
    sub = command("expire", _expire, "delete media and features whose retention period is over; labels stay")
    sub.add_argument("--days", type=float, metavar="N", help="also those whose consents are all older than N days")
    command("vacuum", _vacuum, "delete media that no clip needs and compact the database")
    command(
        "upgrade", _upgrade, "create the tables, or bring an older database to this version; a backup is kept beside it"
    )
    sub = command("backup", _backup, "copy the live database (media not included) to a file")
    sub.add_argument("file", type=Path)
    sub = command("restore", _restore, "check a backup and put it in the database's place; the old one is kept beside")
    sub.add_argument("file", type=Path)
    sub = commands.add_parser("account", help="who may log in, and as what", description=_account.__doc__)
    sub.set_defaults(run=_account)
    sub.add_argument("action", choices=("add", "role", "remove", "list"))
    sub.add_argument("name", nargs="?")
    sub.add_argument("role", nargs="?", choices=ROLES, help="of the person added (default: annotator), or the new one")
    sub.add_argument("--hub", action="store_true", help="add without a password: they log in with Hugging Face")
    return parser


def _url(args) -> str:
    if args.database is None:
        return Paths.from_env().database_url
    return args.database if "://" in args.database else f"sqlite:///{args.database}"


def _store(args, *, create: bool = False) -> Store:
    url, paths = _url(args), Paths.from_env()
    # Another database than the configured one must not touch the configured one's media.
    own = url == paths.database_url or sqlite_file(url) is None
    home = paths.home if own else sqlite_file(url).parent
    return Store(url, args.media or home / paths.media.name, home / paths.features.name, create=create)


def _add_project_options(parser: argparse.ArgumentParser) -> None:
    default = {name: field.default for name, field in inspect.signature(projects.create).parameters.items()}
    parser.add_argument(
        "action", choices=("create", "list", "rank", "gold"),
        help="rank: recompute which items come first; gold: say the right answer to an item, which then tests annotators",
    )  # fmt: skip
    parser.add_argument("name", nargs="?")
    parser.add_argument(
        "--order", choices=ORDERS, help=f"what comes first (create: {default['order']}; rank: as it is)"
    )
    parser.add_argument("--seed", type=int, default=0, help="rank: for the orders random and diversity")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="rank: first store what `python -m mmer analyse --out` wrote"
    )
    gold = parser.add_argument_group("gold")
    gold.add_argument("--clip", metavar="CLIP", help="file or sha256")
    gold.add_argument(
        "--start", type=float, metavar="S", help="where the utterance begins, if the item is not the whole clip"
    )
    gold.add_argument(
        "--right", nargs="*", choices=EMOTIONS, metavar="EMOTION", help="right answers; none takes the gold back"
    )
    gold.add_argument(
        "--target", choices=TARGETS, default=TARGETS[0], help="what was asked about (default: %(default)s)"
    )
    gold.add_argument("--why", default="", help="what the annotator reads afterwards")
    create = parser.add_argument_group("create")
    create.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown that annotators can open")
    create.add_argument(
        "--labels", nargs="+", metavar="EMOTION", default=EMOTIONS, help="to choose from (default: all)"
    )
    create.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=default["targets"], help="asked about each item"
    )
    create.add_argument("--per-item", type=int, default=default["per_item"], help="annotators (default: %(default)s)")
    create.add_argument("--gold-share", type=float, default=default["gold_share"], help="default: %(default)s")
    create.add_argument("--lease-s", type=int, default=default["lease_s"], help="default: %(default)s")
    create.add_argument("--not-blind", action="store_true", help="show the model's answer before the choice")


def _project(args) -> int:
    store = _store(args, create=args.action == "create")
    if args.action == "list":
        for project in projects.projects(store):
            print(json.dumps(asdict(project) | projects.counts(store, project), ensure_ascii=False))
        return 0
    if args.action == "rank":
        project = projects.project(store, args.name or "")
        found = (
            import_predictions(store, args.predictions, progress=_progress("clips"))
            if args.predictions
            else MediaImportReport()
        )
        for line in found.bad:
            print(line, file=sys.stderr)
        print(f"{Queue(store, project).rank(args.order, args.seed)} items ranked by {args.order or project.order}")
        return 1 if found.bad else 0
    if args.action == "gold":
        if args.clip is None or args.right is None:
            raise LabelError("bad_usage", "project gold needs --clip CLIP and --right EMOTION ...")
        project, file = projects.project(store, args.name or ""), Path(args.clip)
        item = projects.item_of(store, project, content_hash(file) if file.is_file() else args.clip, args.start)
        right = {e: 1 / len(args.right) for e in args.right}
        projects.set_gold(store, project, item, right, target=args.target, why=args.why, actor=_ACTOR)
        print(f"item {item} of {project.name}: {' or '.join(args.right) or 'no gold any more'}")
        return 0
    project = projects.create(
        store, args.name or "", guidelines=args.guidelines.read_text("utf-8") if args.guidelines else "",
        label_set=args.labels, targets=args.targets, per_item=args.per_item, gold_share=args.gold_share,
        blind=not args.not_blind, lease_s=args.lease_s, actor=_ACTOR, **({"order": args.order} if args.order else {}),
    )  # fmt: skip
    print(f"project {project.name} created; `python -m annotations import PATH --project {project.name}` fills it")
    return 0


def _import_media(args) -> int:
    store = _store(args, create=True)
    project = projects.project(store, args.project)
    report = import_media(store, project, args.file, consent_text=args.consent, progress=_progress("rows"))
    store.audit(_ACTOR, "project.import", project=project.name, items=report.items, bad=len(report.bad))
    for line in report.bad:
        print(line, file=sys.stderr)
    print(f"{report.items} items added to {project.name}, {report.present} already there, {len(report.bad)} bad rows")
    return 1 if report.bad else 0


def _import(args) -> int:
    if args.project:
        return _import_media(args)
    format = args.format or format_of(args.file)
    report = import_labels(
        _store(args, create=True), args.file, format, consent_text=args.consent, progress=_progress("rows")
    )
    for line in report.bad:
        print(line, file=sys.stderr)
    if report.left_out:
        print(f"left out, as a label has no place for it: {_counted(report.left_out)}", file=sys.stderr)
    print(f"{report.imported} labels imported, {report.present} already there, {len(report.bad)} bad rows")
    return 1 if report.bad else 0


def _export(args) -> int:
    report = export_labels(_store(args), args.out, args.format, progress=_progress("labels"))
    print(f"{report.labels} labels written to {args.out}")
    if report.left_out:
        print(f"left out, as {args.format} has no place for it: {_counted(report.left_out)}", file=sys.stderr)
    if args.push:
        print(f"pushed to {huggingface.push(args.out, args.push)}, which is private")
    return 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def _stats(args) -> int:
    print(json.dumps(_store(args).counts(), indent=2))
    return 0


def _delete(args) -> int:
    store, keep = _store(args), args.labels == "anonymise"
    if args.speaker is not None:
        removal = store.delete_speaker(args.speaker, keep_labels=keep)
    else:
        file = Path(args.clip)
        removal = store.delete_clip(content_hash(file) if file.is_file() else args.clip, keep_labels=keep)
    print(
        f"deleted {removal.clips} clips, {0 if keep else removal.labels} label rows, {removal.predictions} predictions, "
        f"{removal.files} files; no trace is left" + (f"; {removal.labels} label rows stay, anonymous" if keep else "")
    )
    for path in removal.left:
        print(f"left where it lies, as it was only registered: {path}")
    for name in removal.alike:
        print(f"not deleted: the clips of {name!r}, by the capitals somebody else; delete --speaker {name!r} if not")
    for path in removal.copies:
        print(f"still in this older copy of the database, which is for you to delete: {path}")
    return 0


def _expire(args) -> int:
    before = None
    if args.days is not None:
        if not 0 <= args.days <= 36500:
            raise LabelError("bad_days", f"--days {args.days:g}: a number from 0 to 36500 is needed")
        before = now() - timedelta(days=args.days)
    n_clips, n_files = _store(args).expire(given_before=before)
    print(f"{n_files} files of {n_clips} clips deleted: their retention period is over; labels stay")
    return 0


def _vacuum(args) -> int:
    store = _store(args)
    print(
        f"{retention.vacuum(store.engine, store.media_dir, store.features_dir)} files deleted; the database is compact"
    )
    return 0


def _upgrade(args) -> int:
    done = upgrade(_url(args))
    change = f" (it had {done.before})" if done.before not in (None, done.after) else ""
    print(f"{make_url(_url(args)).render_as_string()} has schema {done.after}{change}")
    if done.backup:
        print(f"the database as it was is kept as {done.backup}")
    return 0


def _backup(args) -> int:
    print(f"{backup.backup(_url(args), args.file)} label rows in {args.file}")
    return 0


def _restore(args) -> int:
    n_labels, kept = backup.restore(_url(args), args.file)
    upgrade(_url(args))
    print(f"{n_labels} label rows restored" + (f"; the old database is kept as {kept}" if kept else ""))
    return 0


def _account(args) -> int:
    """Keep the accounts of the page in MMER_HOME; a new password is asked for on the terminal, or read from stdin."""
    accounts = Accounts(Paths.from_env().accounts)
    if (args.action != "list" and not args.name) or (args.action == "role" and not args.role):
        raise LabelError("bad_usage", f"account {args.action} needs a name{' and a role' * (args.action == 'role')}")
    if args.action == "add":
        person = accounts.add(args.name, None if args.hub else _password(), args.role or "annotator")
        print(f"{person.name} may log in as {person.role}")
    elif args.action == "role":
        person = accounts.change_role(args.name, args.role)
        print(f"{person.name} is {person.role} now")
    elif args.action == "remove":
        accounts.remove(args.name)
        print(f"{args.name} can no longer log in; their labels stay")
    else:
        for person in accounts.people():
            print(f"{person.name}  {person.role}")
    return 0


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Again: ") != password:
        raise LabelError("passwords_differ", "the two passwords differ; nothing was changed")
    return password


def _progress(unit: str):
    return lambda rows: tqdm(rows, unit=f" {unit}", disable=None)  # silent where nobody watches


if __name__ == "__main__":
    sys.exit(main())
