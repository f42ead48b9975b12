"""A labels database and its files kept in a place that outlives this machine's disk (`MMER_BACKUP`).

After each transaction the rows it changed are in the backup before anybody is told that they are saved; every few
minutes, at the start and at the end a snapshot follows. An empty disk is filled from it at the start.
"""

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from annotations.bucket import changes, event_file, owner
from annotations.bucket import snapshot as snapshots
from annotations.bucket.kept_files import KeptFiles, digest
from annotations.bucket.local_state import LocalState, read_state, write_state
from annotations.bucket.owner import Owner
from annotations.bucket.place import Place, open_place
from annotations.bucket.recovery import EVENTS, Recovered, place_of, recover
from annotations.bucket.snapshot import Snapshot, scratch
from annotations.db.backup import copy
from annotations.db.engine import private_folder, sqlite_file
from annotations.db.write_lock import write_lock
from mmer.config import Paths
from mmer.errors import LabelError, MmerError
from mmer.hashing import content_hash

KEEP = 3  # snapshots
MOST_CHANGES = 5000  # in one event; more of them, as a large import makes, become a snapshot
SNAPSHOT_S = 300.0
TICK_S = 2.0  # how long what another process wrote, or what could not be sent, waits
_AGAIN_S = 60.0  # between tries to delete from a backup that could not be reached
_LOG = logging.getLogger(__name__)


def backup_of(paths: Paths, url: str | None = None, media: Path | None = None) -> "Backup | None":
    """Return the backup of the configured database, None when none is configured or the URL is another database's.

    Raises:
        LabelError: `not_sqlite, bad_backup_place, backup_public, backup_unavailable`.
    """
    if not paths.backup or url not in (None, paths.database_url):
        return None
    database = sqlite_file(paths.database_url)
    if database is None:
        raise LabelError(
            "not_sqlite",
            "MMER_BACKUP keeps SQLite databases; a database server is kept by its own backup (pg_basebackup with its "
            "write-ahead log, or your provider's), media and checkpoints by that of their volume: unset MMER_BACKUP",
        )
    return Backup(open_place(paths.backup), database, paths, media=media)


class Backup:
    """The way to a backup for one process; `Store` opens it and tells it of each transaction.

    Args:
        snapshot_s: between snapshots of a server whose database changes.
    """

    def __init__(
        self,
        place: Place,
        database: Path,
        paths: Paths,
        *,
        media: Path | None = None,
        snapshot_s: float = SNAPSHOT_S,
        tick_s: float = TICK_S,
    ):
        self.place, self._database, self._space = place, Path(database), paths.space
        self._files = KeptFiles(place, self._database, paths, media)
        self._snapshot_s, self._tick_s = snapshot_s, tick_s
        self._process = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._claimed = False  # by this process; it beats, and says so when it ends
        self._key = ""  # of the owner that this process claimed
        self._beats: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._sent = ("", 0)  # the owner, and the last change that this process sent for it
        self._reader: sqlite3.Connection | None = None  # used under the lock on sending
        self._snapshot_at = self._purge_at = 0.0
        self._said = ""  # the last trouble in the log

    def open(self, *, allow_missing: bool = False) -> Recovered | None:
        """Take the backup, and fill an empty disk from it; return what was restored, None when nothing was.

        Raises:
            LabelError: `backup_in_use, backup_differs, backup_damaged, backup_unavailable, schema_version`.
        """
        private_folder(self._database.parent)
        with self._one_at_a_time():
            state = read_state(self._database) or LocalState()
            there = self._database.is_file()
            known, newest = list(owner.limits(self.place)), max(owner.owners(self.place), default=None)
            here = newest is not None and newest.key == state.key and newest.machine in ("", owner.machine())
            if there and here and state.key in known:
                return None  # a process of this machine began it
            new = owner.claim(self.place, self._space)
            self._claimed, self._key = True, new.key
            self._start_beating()
            if state.key not in known:  # its start was cut short, and nothing of it counts
                state = replace(state, key=state.parent)
            try:
                if not there:
                    return self._fill(state, allow_missing=allow_missing)
                if known and known[-1] != state.key:
                    raise LabelError(
                        "backup_differs",
                        f"the backup at {self.place.name} is of another database than {self._database}; move the "
                        "database away to have the backup's restored, or name another place (MMER_BACKUP)",
                    )
                with self._reading() as connection:
                    self._begin(state, changes.position(connection))
                return None
            except BaseException:
                self._stop_threads()
                with suppress(LabelError):  # what went wrong first is said
                    self._beat(released=True)
                raise

    def _fill(self, state: LocalState, *, allow_missing: bool) -> Recovered | None:
        """Make the database and what it needs to serve out of the backup."""
        with scratch(self._database.parent, self._database.name) as part:
            found = recover(self.place, part, allow_missing=allow_missing)
            self._begin(state, found.seq if found else 0)
            if found:
                self._files.put_small(found.snapshot.files)
                part.chmod(0o600)
                _flush(part)
                for end in ("-wal", "-shm"):  # of a database that is no more
                    Path(f"{self._database}{end}").unlink(missing_ok=True)
                os.replace(part, self._database)
                _LOG.warning(
                    "backup: %d label rows restored from %s: the snapshot of %s and %d events after it",
                    *(found.n_labels, self.place.name, found.snapshot.at, found.n_events),
                )
        return found

    def _begin(self, state: LocalState, base: int) -> None:
        """Go on as a new owner; if this ends halfway, the next start finds out by the state's parent."""
        with self._sending():
            write_state(self._database, LocalState(self._key, state.key, sent=base, purge=state.purge))
            owner.begin(self.place, self._key, base)

    def attach(self) -> None:
        """Note changes from now on; who took the backup makes its first snapshot, and fetches what the disk lacks."""
        with write_lock(self._database), self._writing() as connection:
            changes.install(connection)
        state, behind = self._state(), False
        with self._reading() as connection:
            behind = changes.position(connection) < state.sent
        if behind:  # another database was put in its place
            self.begin_anew()
        elif self._claimed:
            self.snapshot()
        if self._claimed:
            self.start()  # the backup is this process's: it has to be seen alive

    def begin_anew(self) -> None:
        """Go on from the database as it is, whatever the backup has: after another one was put in its place."""
        with self._one_at_a_time():
            state = self._state()
            new = owner.claim(self.place, self._space, over=state.key)
            with self._reading() as connection:
                changes.install(connection)
                last = changes.position(connection)
            with self._sending():
                write_state(self._database, LocalState(new.key, state.key, sent=last, purge=state.purge))
        self.snapshot()
        owner.begin(self.place, new.key, 0)  # from here on what was before does not count

    def sent(self, files: Iterable[Path] = ()) -> None:
        """Return when all that was committed until now is in the backup.

        Args:
            files: recordings and features that came with it.

        Raises:
            LabelError: `backup_unavailable`, `backup_taken`; the database has it all the same.
        """
        try:
            for file in files:
                self._files.send(file)
            self._send()
        except LabelError as error:
            raise LabelError(
                error.code,
                "it is in this machine's database, but not in its backup, so that losing the disk loses it; sending is "
                f"tried again every few seconds: {error.message}",
            ) from error

    def _send(self, *, everything: bool = False) -> None:
        """Write the changes that the backup lacks; those that wait here meanwhile find that it has theirs too.

        Args:
            everything: also what was only lent to annotators.
        """
        with self._sending():
            few = self._send_few(self._state(), everything=everything)
        if not few:
            self.snapshot()

    def _send_few(self, state: LocalState, *, everything: bool) -> bool:
        """Write the changes that the backup lacks, under the lock; whether they were few enough for an event."""
        if self._sent[0] != state.key:
            self._sent = (state.key, state.sent)
        if self._reader is None:  # opening one takes as long as all the rest
            self._reader = sqlite3.connect(self._database, timeout=30, isolation_level=None, check_same_thread=False)
        event = changes.event_after(self._reader, max(state.sent, self._sent[1]), MOST_CHANGES)
        if isinstance(event, int):
            return False
        if event is None or (event.tables <= changes.LENT and not everything):
            return True
        name = f"{EVENTS}/{state.key}/{state.segment:06d}-{self._process}.jsonl"
        self.place.append(name, event_file.to_line(event))
        owner.check_owner(self.place, state.key)  # after the write: who takes over reads it, or is seen here
        self._sent = (state.key, event.last)
        if any(table == "clips" for table, _ in event.gone):  # older snapshots and events have it
            write_state(self._database, replace(state, sent=event.last, purge=True))
        return True

    def purge(self) -> None:
        """Take out of the backup all that the database has no more: older snapshots, events, recordings.

        Raises:
            LabelError: `backup_unavailable`, `backup_taken`; a server tries again each minute, `vacuum` at once.
        """
        try:
            self.snapshot(purge=True)
        except LabelError as error:
            raise LabelError(
                error.code,
                f"deleted here, but the backup still has it: {error.message}; a running server tries again every "
                "minute, `python -m annotations vacuum` does so now",
            ) from error

    def snapshot(self, *, purge: bool = False) -> None:
        """Put a consistent copy of the database and the files that it lacks into the backup; older ones go.

        Args:
            purge: all older ones, with the events before this one; else a few stay.
        """
        with self._one_at_a_time():
            with self._sending():
                state = replace(self._state(), purge=self._state().purge or purge)
                write_state(self._database, state)
                # Events go on without a gap, so that this snapshot may turn out to be damaged.
                few = self._send_few(state, everything=True)
                state = replace(state, segment=state.segment + 1)
                write_state(self._database, state)
            owner.check_owner(self.place, state.key)
            with scratch(self._database.parent, "snapshot") as whole:
                copy(self._database, whole)
                made = self._described(state, whole)
                snapshots.put(self.place, made, whole)
            self._files.send_all()
            owner.check_owner(self.place, state.key)
            self._delete_older(made, purge=state.purge)
            with self._sending():
                now = self._state()
                sent = max(now.sent, self._sent[1], 0 if few else made.seq)
                now = replace(now, sent=sent, purge=False, snapshot=made.seq, files=digest(made.files))
                write_state(self._database, now)
            with write_lock(self._database), self._writing() as connection:
                connection.execute(f"DELETE FROM {changes.CHANGES} WHERE seq <= ?", (min(sent, made.seq),))
            self._snapshot_at = time.monotonic() + self._snapshot_s

    def _described(self, state: LocalState, whole: Path) -> Snapshot:
        with closing(sqlite3.connect(whole)) as connection:
            seq = changes.position(connection)
            schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        at = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}"
        return Snapshot(state.key, at, seq, state.segment, schema, content_hash(whole), self._files.small())

    def _delete_older(self, made: Snapshot, *, purge: bool) -> None:
        kept = [made] if purge else snapshots.snapshots(self.place)[-KEEP:]
        names = {name for one in kept for name in (one.database, one.manifest)}
        oldest = kept[0]
        gone = [name for name in self.place.names(snapshots.FOLDER) if name not in names]
        gone += [name for name in self.place.names(EVENTS) if place_of(name) < (oldest.key, oldest.segment)]
        self.place.delete([*gone, *owner.old_records(self.place, oldest.key)])
        if purge:
            self.place.forget()

    def start(self) -> None:
        """Keep the backup up to date in the background, as a server does, until `close`."""
        self._claimed = True
        self._start_beating()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="backup", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send what is left, with a last snapshot of a server, and let another one take over."""
        served = self._thread is not None
        self._stop_threads()
        try:
            self._send(everything=True)
            if served and self._is_changed():
                self.snapshot()
            if self._claimed:
                owner.check_owner(self.place, self._state().key)
                self._beat(released=True)
        except (LabelError, sqlite3.Error) as error:
            _LOG.error("backup: %s", error)
        with self._sending():
            if self._reader:
                self._reader.close()
            self._reader = None

    def _stop_threads(self) -> None:
        threads, self._thread, self._beats = (self._thread, self._beats), None, None
        self._stop.set()
        for thread in threads:
            if thread:
                thread.join()

    def _start_beating(self) -> None:
        """Be seen alive, whatever else takes long: a snapshot, or recordings that are fetched."""
        if self._beats is None:
            self._stop.clear()
            self._beats = threading.Thread(target=self._keep_beating, name="backup heartbeat", daemon=True)
            self._beats.start()

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.place.heartbeat_s):
            try:
                owner.check_owner(self.place, max(self._state().key, self._key))
                self._beat()
            except (MmerError, OSError) as error:
                self._tell(error)

    def _keep(self) -> None:
        try:
            n_files = self._files.fetch_all()
            if n_files:
                _LOG.warning("backup: %d recordings and features restored", n_files)
        except (MmerError, OSError, sqlite3.Error):
            _LOG.exception("backup: not all recordings could be restored; the next start tries again")
        while not self._stop.wait(self._tick_s):
            try:
                self._tick()
                self._said = ""
            except (MmerError, OSError, sqlite3.Error) as error:
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        if str(error) != self._said:  # once, not every two seconds
            self._said = str(error)
            _LOG.error("backup: %s", error)

    def _tick(self) -> None:
        now, state = time.monotonic(), self._state()
        self._send(everything=True)
        purge = state.purge and now >= self._purge_at
        if purge:
            self._purge_at = now + _AGAIN_S
        new_files = digest(self._files.small()) != state.files
        if purge or new_files or (now >= self._snapshot_at and self._is_changed()):
            self.snapshot()

    def _beat(self, *, released: bool = False) -> None:
        epoch, _, token = max(self._state().key, self._key).partition("-")  # the newer one
        owner.renew(self.place, Owner(int(epoch), token, space=self._space, released=released))

    def _is_changed(self) -> bool:
        with self._reading() as connection:
            return changes.position(connection) > self._state().snapshot

    def _state(self) -> LocalState:
        return read_state(self._database) or LocalState()

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Hold the one lock of this machine's processes on what is sent, and on what they know of it."""
        with write_lock(Path(f"{self._database}.send")):
            yield

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Hold the one lock on starts and snapshots."""
        with write_lock(Path(f"{self._database}.snapshot")):
            yield

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30, isolation_level=None)) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection


def _flush(file: Path) -> None:
    with file.open("rb") as number:
        os.fsync(number.fileno())
