"""Deletion and retention: media comes in with consent, and goes for good when the consent is withdrawn or ends.

A deletion is only done when a scan finds the clip's hash in no table, no media or feature file and no byte of the
SQLite files. Backups are out of its reach: make a new one after a deletion and throw the old ones away.
"""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import JSON, Engine, String, Text, cast, delete, func, literal, or_, select, update
from sqlalchemy.orm import Session

from annotations import item_summary
from annotations.db.engine import private_folder, sqlite_file
from annotations.db.schema import (
    CLOSED,
    AdjudicationRecord,
    AuditRecord,
    Base,
    ClipRecord,
    ConsentRecord,
    GoldRecord,
    ItemRecord,
    LabelRecord,
    PredictionRecord,
    ReceiptRecord,
    TrainingRunRecord,
    UtteranceRecord,
)
from mmer.errors import LabelError
from mmer.hashing import content_hash


@dataclass(frozen=True)
class Removal:
    """What a deletion took away, and what it left."""

    clips: int
    labels: int
    predictions: int
    files: int
    left: tuple[str, ...]  # the owner's files, which were only registered where they lie
    alike: tuple[str, ...] = ()  # other speakers on record, whose names differ only in capitals
    copies: tuple[str, ...] = ()  # of the database, made before an upgrade or a restore: what was deleted is in them


def copy_to_temporary(path: Path, sha256: str, media_dir: Path) -> Path:
    """Return a flushed copy beside its final place, made before the database is locked.

    Raises:
        LabelError: `clip_unreadable`, `disk_full`.
    """
    digest = hashlib.sha256()
    with _new_temporary(sha256, media_dir, str(path)) as (target, copy), open(path, "rb") as source:
        while block := source.read(2**20):
            digest.update(block)
            target.write(block)
        if digest.hexdigest() != sha256:
            raise LabelError("clip_unreadable", f"{path} is no longer the clip it was; register it again")
    return copy


def write_to_temporary(data: bytes, sha256: str, folder: Path) -> Path:
    """Return a flushed file beside its final place, as `copy_to_temporary`."""
    with _new_temporary(sha256, folder, "what the model computed from the clip") as (target, copy):
        target.write(data)
    return copy


@contextmanager
def _new_temporary(sha256: str, folder: Path, what: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file that only its owner can read, and its path; it is flushed at the end and gone after an error."""
    try:
        private_folder(folder)
        handle, name = tempfile.mkstemp(".tmp", f".{sha256}.", folder)
        try:
            with os.fdopen(handle, "wb") as target:
                yield target, Path(name)
                target.flush()
                os.fsync(target.fileno())
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "clip_unreadable"
        raise LabelError(code, f"cannot take in {what}: {error.strerror}") from None


def delete_files(folders: Iterable[Path], hashes: list[str]) -> int:
    """Delete everything below the folders whose path has one of the hashes; return how many files it was."""
    files = 0
    for entry in _paths_with(folders, hashes) if hashes else ():
        if entry.is_dir():
            entry.rmdir()
        else:
            entry.unlink()
            files += 1
    return files


def delete_uploads(folder: Path, hashes: list[str]) -> int:
    """Delete the uploads that are one of the clips, whatever their name, or speak of one; return how many files it was.

    What was made of one to be played is known by the hash in its name. gradio kept the state of a shared page in
    `deep_links`, words, names and comments with it: none of it stays.
    """
    files = [entry for entry in folder.rglob("*") if entry.is_file()]
    n_files = 0
    for file in files:
        with suppress(FileNotFoundError):  # swept meanwhile, or moved by its upload
            named = "deep_links" in file.parts or any(sha256 in file.name for sha256 in hashes)
            if named or content_hash(file) in hashes or _in_bytes([file], hashes):
                file.unlink()
                n_files += 1
    return n_files


def registered(session: Session, hashes: Iterable[str]) -> set[str]:
    """Return those of the hashes that clips have."""
    wanted, known = list(hashes), set()
    for i in range(0, len(wanted), 1000):
        known |= set(session.scalars(select(ClipRecord.sha256).where(ClipRecord.sha256.in_(wanted[i : i + 1000]))))
    return known


def remove_clips(session: Session, folders: Iterable[Path], hashes: list[str], *, keep_labels: bool = False) -> Removal:
    """Delete the clips' files below the folders and all their rows; reports and the audit keep "removed" for the hash.

    Args:
        keep_labels: the clip's row stays with a random hash and no name, and its labels, leases and final labels with
            it, without transcripts and comments.
    """
    files = delete_files(folders, hashes)
    n_labels = n_predictions = 0
    left = []
    for sha256 in hashes:
        clip = session.execute(select(ClipRecord.id, ClipRecord.path).where(ClipRecord.sha256 == sha256)).one()
        n_predictions += _delete_of(session, PredictionRecord, clip.id)
        if keep_labels:
            n_labels += _anonymise(session, clip.id)
        else:
            n_labels += _delete_of(session, LabelRecord, clip.id)
            session.execute(delete(ClipRecord).where(ClipRecord.id == clip.id))  # all else goes with it
        if clip.path and Path(clip.path).exists():
            left.append(clip.path)
        for table, column in ((TrainingRunRecord, "report"), (AuditRecord, "detail")):
            mentions = cast(getattr(table, column), Text).contains(sha256)
            for row in session.scalars(select(table).where(mentions)):
                setattr(row, column, json.loads(json.dumps(getattr(row, column)).replace(sha256, "removed")))
        session.flush()
    return Removal(len(hashes), n_labels, n_predictions, files, tuple(left))


def _delete_of(session: Session, record: type[LabelRecord] | type[PredictionRecord], clip_id: int) -> int:
    """Delete a clip's rows of one table; return how many there were."""
    query = delete(record).where(record.clip_id == clip_id).returning(record.id)
    return len(session.scalars(query).all())


def _anonymise(session: Session, clip_id: int) -> int:
    """Take from a clip's rows all that tells whose or which clip it was; return how many labels stay."""
    clip = session.get_one(ClipRecord, clip_id)
    clip.sha256, clip.name, clip.source = secrets.token_hex(32), "removed", "removed"
    clip.path = clip.media = clip.features = clip.speaker = clip.duration_s = clip.keep_until = None
    session.execute(delete(ConsentRecord).where(ConsentRecord.clip_id == clip_id))
    session.execute(delete(ReceiptRecord).where(ReceiptRecord.clip_id == clip_id))
    for table, erased in (
        (LabelRecord, {"comment": "", "transcript": None}),
        (UtteranceRecord, {"transcript": None, "embedding": None}),
        (AdjudicationRecord, {"comment": ""}),
    ):
        session.execute(update(table).where(table.clip_id == clip_id).values(**erased))
    own = select(ItemRecord.id).join(UtteranceRecord).where(UtteranceRecord.clip_id == clip_id)
    items = session.scalars(own).all()
    session.execute(update(GoldRecord).where(GoldRecord.item_id.in_(items)).values(why=""))
    session.execute(update(ItemRecord).where(ItemRecord.id.in_(items)).values(open_slots=CLOSED, gold=False))
    item_summary.refresh_summaries(session, item_ids=items)  # whose comments are gone
    labels = select(func.count()).select_from(LabelRecord).where(LabelRecord.clip_id == clip_id)
    return session.execute(labels).scalar_one()


def verify_no_trace(engine: Engine, folders: Iterable[Path], hashes: list[str], speakers: tuple[str, ...] = ()) -> None:
    """Return when no table and no file has any of the hashes left, and no value is a spelling of the speaker's name.

    Raises:
        LabelError: `trace_left` with the places that still have one.
    """
    traces = [str(entry) for entry in _paths_with(folders, hashes)]
    cure = "run `python -m annotations vacuum`, which clears it"
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                if isinstance(column.type, String | JSON) and any(
                    connection.scalar(select(literal(1)).where(_mentions(column, hashes[i : i + 100])).limit(1))
                    for i in range(0, len(hashes), 100)  # SQLite takes expressions up to 1000 deep
                ):
                    traces.append(f"table {table.name}, column {column.name}")
                    cure = "delete the clip whose row speaks of it, too"
                # Elsewhere the same word is somebody else, or something else.
                named = speakers and table is ClipRecord.__table__ and isinstance(column.type, String)
                if named and connection.scalar(select(literal(1)).where(column.in_(speakers)).limit(1)):
                    traces.append(f"table {table.name}, column {column.name}")
    if database := sqlite_file(engine.url.render_as_string(hide_password=False)):
        # Deleted rows stay in the write-ahead log until it is truncated. In the database itself secure_delete left no
        # byte of 400 clips deleted one by one from 6,000 with 20,000 labels.
        run_sqlite(engine, "PRAGMA wal_checkpoint(TRUNCATE)")
        traces += _in_bytes((Path(f"{database}{end}") for end in ("", "-wal", "-shm", "-journal")), hashes)
    if traces:
        raise LabelError(
            "trace_left",
            f"deleted, but a trace is left in {'; '.join(traces[:3])}; "
            f"stop other programs that read the database or the clip, then {cure}",
        )


def older_copies_with(engine: Engine, hashes: list[str]) -> tuple[str, ...]:
    """Return the copies that upgrades and restores left beside a SQLite database and that have any of the hashes."""
    database = sqlite_file(engine.url.render_as_string(hide_password=False))
    if database is None:
        return ()
    return tuple(_in_bytes(sorted(database.parent.glob(f"{glob.escape(database.stem)}-before-*")), hashes))


def vacuum(engine: Engine, media_dir: Path, features_dir: Path | None = None) -> int:
    """Delete files that no clip row names, as killed uploads leave them, compact SQLite; return how many they were."""
    with Session(engine.execution_options(write=True)) as session, session.begin():  # no upload ends meanwhile
        named = {name for row in session.execute(select(ClipRecord.media, ClipRecord.features)) for name in row if name}
        # Whatever else lies in the folders is not ours to delete.
        ours = ((media_dir, r"\.?[0-9a-f]{64}\."), (features_dir, r"\.?[0-9a-f]{64}\.(.*\.tmp|states)\.$"))
        orphans = [
            file
            for folder, pattern in ours
            for file in (folder.glob("*") if folder else ())
            if re.match(pattern, f"{file.name}.") and file.name not in named
        ]
        # The features folder is a cache too: of a clip that was deleted meanwhile nothing may stay.
        cached = [f for f in (features_dir.glob("*") if features_dir else ()) if re.match(r"[0-9a-f]{64}-", f.name)]
        known = registered(session, {file.name[:64] for file in cached})
        orphans += [file for file in cached if file.name[:64] not in known]
        # A young temporary file may be an upload on its way.
        orphans = [file for file in orphans if file.suffix != ".tmp" or time.time() - file.stat().st_mtime > 3600]
        for file in orphans:
            file.unlink()
    if engine.dialect.name == "sqlite" and run_sqlite(engine, "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
        raise LabelError(
            "database_busy",
            "another program reads the database, so deleted rows stay in its write-ahead log; stop it, then run vacuum "
            "again",
        )
    return len(orphans)


def run_sqlite(engine: Engine, *statements: str) -> list:
    """Run statements outside any transaction, where VACUUM and checkpoints have to be; return the last one's rows."""
    connection = engine.raw_connection()
    rows: list = []
    try:
        for statement in statements:
            cursor = connection.cursor()
            cursor.execute(statement)
            rows = list(cursor.fetchall())
        return rows
    except sqlite3.Error as error:
        raise LabelError("database_unavailable", f"{statement} failed: {error}") from None
    finally:
        connection.close()


def _paths_with(folders: Iterable[Path], hashes: list[str]) -> Iterator[Path]:
    """Return files and folders whose path has one of the hashes, children before their folder."""
    pattern = re.compile("|".join(hashes))
    for folder in folders:
        for entry in sorted(folder.rglob("*"), reverse=True):
            if pattern.search(str(entry.relative_to(folder))):
                yield entry


def _mentions(column, hashes: list[str]):
    return or_(*(cast(column, Text).contains(sha256) for sha256 in hashes))


def _in_bytes(files: Iterable[Path], hashes: list[str]) -> list[str]:
    """Return those of the files that have one of the hashes anywhere in their bytes."""
    pattern = re.compile("|".join(hashes).encode())
    matching = []
    for file in files:
        if not file.exists():
            continue
        with file.open("rb") as stream:
            tail = b""
            while block := stream.read(2**22):
                if pattern.search(tail + block):
                    matching.append(str(file))
                    break
                tail = block[-63:]  # a hash may lie across two blocks
    return matching
