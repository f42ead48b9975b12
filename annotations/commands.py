"""What each command of `python -m annotations` does; every function prints its report and returns the exit status."""

import getpass
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from annotations import retention
from annotations.accounts import Accounts
from annotations.bucket.backup import Backup, backup_of
from annotations.clip_files import ClipFiles
from annotations.db import backup
from annotations.db.engine import sqlite_file
from annotations.db.schema import now
from annotations.db.upgrade import upgrade
from annotations.formats import huggingface
from annotations.formats.import_export import content_hash, export_labels, format_of, import_labels
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.queue.media_import import MediaImportReport, import_media, import_predictions
from annotations.store import Store
from mmer.config import Paths, sqlite_url
from mmer.errors import LabelError, MmerError

_ACTOR = "command line"  # in the audit log


def run(args: Namespace) -> int:
    """Return the exit status of the command that parsed arguments name; errors are said in one line on stderr."""
    action = getattr(args, "action", None)
    try:
        with ExitStack() as args.closing:  # a backup that the command took is given back
            return COMMANDS[f"{args.command} {action}" if action else args.command](args)
    except MmerError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except (SQLAlchemyError, OSError) as error:
        print(f"failed: {str(error).splitlines()[0]}", file=sys.stderr)
    return 1


def _url(args: Namespace) -> str:
    if args.database is None:
        return Paths.from_env().database_url
    return args.database if "://" in args.database else sqlite_url(Path(args.database))


def _store(args: Namespace, *, create: bool = False, reads: bool = False) -> Store:
    """Return the store that the options name.

    Args:
        reads: the command writes nothing, so that the backup need not be reached.
    """
    url, paths = _url(args), Paths.from_env()
    # Another database than the configured one must not touch the configured one's media.
    file = sqlite_file(url)
    home = paths.home if url == paths.database_url or file is None else file.parent
    folders = (args.media or home / paths.media.name, home / paths.features.name, home / paths.uploads.name)
    backup = None if reads else _backup_of(args)
    return Store(url, *folders, create=create, backup=backup)


def _backup_of(args: Namespace) -> Backup | None:
    backup = backup_of(Paths.from_env(), _url(args), args.media)
    if backup:
        args.closing.callback(backup.close)
    return backup


def _sha256(clip: str) -> str:
    """Return the hash that names a clip: of the file's content, or the argument itself."""
    file = ClipFiles(Path()).find(clip)  # also under its other Unicode form
    return content_hash(file) if file else clip


def _import(args: Namespace) -> int:
    if args.project:
        return _import_media(args)
    format = args.format or format_of(args.file)
    report = import_labels(
        _store(args, create=True),
        args.file,
        format,
        consent_text=args.consent,
        media_root=args.media_root,
        allow_outside=args.allow_outside,
        progress=_progress("rows"),
    )
    _print_bad(report.bad)
    if report.left_out:
        print(f"left out, as a label has no place for it: {_counted(report.left_out)}", file=sys.stderr)
    if report.notes:
        print(f"noted: {_counted(report.notes)}", file=sys.stderr)
    print(f"{report.imported} labels imported, {report.present} already there, {len(report.bad)} bad rows")
    return 1 if report.bad else 0


def _import_media(args: Namespace) -> int:
    store = _store(args, create=True)
    project = projects.project(store, args.project)
    report = import_media(
        store,
        project,
        args.file,
        consent_text=args.consent,
        media_root=args.media_root,
        allow_outside=args.allow_outside,
        progress=_progress("rows"),
    )
    detail = {"project": project.name, "items": report.items, "bad": len(report.bad)}
    store.audit(_ACTOR, "project.import", detail)
    _print_bad(report.bad)
    if report.left_out:
        names = ", ".join(report.left_out[:20]) + ", ..." * (len(report.left_out) > 20)
        print(f"{len(report.left_out)} files left out, no media to be read or in no table: {names}", file=sys.stderr)
    print(f"{report.items} items added to {project.name}, {report.present} already there, {len(report.bad)} bad rows")
    return 1 if report.bad else 0


def _export(args: Namespace) -> int:
    report = export_labels(_store(args, reads=True), args.out, args.format, progress=_progress("labels"))
    print(f"{report.labels} labels written to {args.out}")
    if report.left_out:
        print(f"left out, as {args.format} has no place for it: {_counted(report.left_out)}", file=sys.stderr)
    if args.push:
        print(f"pushed to {huggingface.push(args.out, args.push)}, which is private")
    return 0


def _project_create(args: Namespace) -> int:
    project = projects.create(
        _store(args, create=True),
        args.name,
        order=args.order,
        blind=not args.not_blind,
        actor=_ACTOR,
        **_project_settings(args),
    )
    print(f"project {project.name} created; `python -m annotations import PATH --project {project.name}` fills it")
    return 0


def _project_change(args: Namespace) -> int:
    project = projects.change(
        _store(args), args.name, new_name=args.rename, blind=args.blind, actor=_ACTOR, **_project_settings(args)
    )
    print(json.dumps(asdict(project), ensure_ascii=False))
    return 0


def _project_settings(args: Namespace) -> dict:
    """Return the settings that the command line names, as `projects.create` and `projects.change` take them."""
    settings = {
        "guidelines": args.guidelines and args.guidelines.read_text("utf-8"),
        "label_set": args.labels,
        "targets": args.targets,
        "per_item": args.per_item,
        "gold_share": args.gold_share,
        "lease_s": args.lease_s,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _project_list(args: Namespace) -> int:
    store = _store(args, reads=True)
    for project in projects.projects(store):
        print(json.dumps(asdict(project) | projects.counts(store, project), ensure_ascii=False))
    return 0


def _project_rank(args: Namespace) -> int:
    store = _store(args)
    project = projects.project(store, args.name)
    report = MediaImportReport()
    if args.predictions:
        report = import_predictions(store, args.predictions, progress=_progress("clips"))
    _print_bad(report.bad)
    print(f"{Queue(store, project).rank(args.order, args.seed)} items ranked by {args.order or project.order}")
    return 1 if report.bad else 0


def _project_gold(args: Namespace) -> int:
    if args.clip is None or args.right is None:
        raise LabelError("bad_usage", "project gold needs --clip CLIP and --right EMOTION ...")
    store = _store(args)
    project = projects.project(store, args.name)
    item = projects.item_of(store, project, _sha256(args.clip), args.start)
    right = {emotion: 1 / len(args.right) for emotion in args.right}
    projects.set_gold(store, project, item, right, target=args.target, why=args.why, actor=_ACTOR)
    print(f"item {item} of {project.name}: {' or '.join(args.right) or 'no gold any more'}")
    return 0


def _project_release(args: Namespace) -> int:
    store = _store(args)
    project = projects.project(store, args.name)
    print(f"{Queue(store, project).release_all(args.annotator)} items of {args.annotator} given back to {project.name}")
    return 0


def _stats(args: Namespace) -> int:
    print(json.dumps(_store(args, reads=True).counts(), indent=2))
    return 0


def _delete(args: Namespace) -> int:
    store, keep = _store(args), args.labels == "anonymise"
    if args.speaker is not None:
        removal = store.delete_speaker(args.speaker, keep_labels=keep)
    else:
        removal = store.delete_clip(_sha256(args.clip), keep_labels=keep)
    print(
        f"deleted {removal.clips} clips, {0 if keep else removal.labels} label rows, "
        f"{removal.predictions} predictions, {removal.files} files; no trace is left"
        + (f"; {removal.labels} label rows stay, anonymous" if keep else "")
    )
    for path in removal.left:
        print(f"left where it lies, as it was only registered: {path}")
    for name in removal.alike:
        print(f"not deleted: the clips of {name!r}, by the capitals somebody else; delete --speaker {name!r} if not")
    for path in removal.copies:
        print(f"still in this older copy of the database, which is for you to delete: {path}")
    return 0


def _expire(args: Namespace) -> int:
    before = None
    if args.days is not None:
        if not 0 <= args.days <= 36500:
            raise LabelError("bad_days", f"--days {args.days:g}: a number from 0 to 36500 is needed")
        before = now() - timedelta(days=args.days)
    n_clips, n_files = _store(args).expire(given_before=before)
    print(f"{n_files} files of {n_clips} clips deleted: their retention period is over; labels stay")
    return 0


def _vacuum(args: Namespace) -> int:
    store = _store(args)
    n_files = retention.vacuum(store.engine, store.media_dir, store.features_dir)
    if store.backup:
        store.backup.purge()
    print(f"{n_files} files deleted; the database is compact" + (", and its backup" if store.backup else ""))
    return 0


def _upgrade(args: Namespace) -> int:
    done = upgrade(_url(args))
    change = f" (it had {done.before})" if done.before not in (None, done.after) else ""
    print(f"{make_url(_url(args)).render_as_string()} has schema {done.after}{change}")
    if done.backup:
        print(f"the database as it was is kept as {done.backup}")
        if kept_in := _store(args).backup:
            kept_in.snapshot()  # what an upgrade changes is no event
    return 0


def _backup(args: Namespace) -> int:
    print(f"{backup.backup(_url(args), args.file)} label rows in {args.file}")
    return 0


def _restore(args: Namespace) -> int:
    n_labels, old = backup.restore(_url(args), args.file)
    upgrade(_url(args))
    if kept_in := _store(args).backup:
        kept_in.begin_anew()
    print(f"{n_labels} label rows restored" + (f"; the old database is kept as {old}" if old else ""))
    return 0


def _recover(args: Namespace) -> int:
    paths, backup = Paths.from_env(), _backup_of(args)
    if backup is None:
        raise LabelError("no_backup", "MMER_BACKUP names no backup of this database")
    if not (found := backup.open(allow_missing=args.allow_missing)):
        there = sqlite_file(paths.database_url)
        raise LabelError("nothing_to_recover", f"the backup is empty, or {there} is there already; move it away first")
    Store(paths.database_url, args.media or paths.media, paths.features, paths.uploads, backup=backup)
    print(f"{found.n_labels} label rows: the snapshot of {found.snapshot.at} and {found.n_events} events after it")
    return 0


def _account_add(args: Namespace) -> int:
    person = _accounts().add(args.name, None if args.hub else _password(), args.role)
    print(f"{person.name} may log in as {person.role}")
    return 0


def _account_role(args: Namespace) -> int:
    person = _accounts().change_role(args.name, args.role)
    print(f"{person.name} is {person.role} now")
    return 0


def _account_remove(args: Namespace) -> int:
    _accounts().remove(args.name)
    print(f"{args.name} can no longer log in; their labels stay")
    return 0


def _account_list(args: Namespace) -> int:
    for person in _accounts().people():
        print(f"{person.name}  {person.role}")
    return 0


def _accounts() -> Accounts:
    return Accounts(Paths.from_env().accounts)


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Again: ") != password:
        raise LabelError("passwords_differ", "the two passwords differ; nothing was changed")
    return password


def _print_bad(rows: Iterable[str]) -> None:
    for row in rows:
        print(row, file=sys.stderr)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def _progress(unit: str) -> Callable[[Iterable], Iterable]:
    return lambda rows: tqdm(rows, unit=f" {unit}", disable=None)  # silent where nobody watches


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "import": _import,
    "export": _export,
    "project create": _project_create,
    "project change": _project_change,
    "project list": _project_list,
    "project rank": _project_rank,
    "project gold": _project_gold,
    "project release": _project_release,
    "stats": _stats,
    "delete": _delete,
    "expire": _expire,
    "vacuum": _vacuum,
    "upgrade": _upgrade,
    "backup": _backup,
    "restore": _restore,
    "recover": _recover,
    "account add": _account_add,
    "account role": _account_role,
    "account remove": _account_remove,
    "account list": _account_list,
}
