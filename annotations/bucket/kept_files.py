"""Files of MMER_HOME in a backup: recordings and features that the database names, promoted checkpoints, accounts."""

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from annotations.bucket.place import Place
from annotations.bucket.snapshot import scratch
from annotations.db.engine import private_folder
from annotations.db.write_lock import write_lock
from mmer.config import Paths
from mmer.hashing import content_hash

MEDIA, FEATURES, CHECKPOINTS = "media", "features", "checkpoints"
_SMALL = ("accounts.json", f"{CHECKPOINTS}/PROMOTED", f"{CHECKPOINTS}/promotions.jsonl")  # they go with each snapshot
_AT_ONCE = 8  # downloads
_LOG = logging.getLogger(__name__)


class KeptFiles:
    """The files that a database and its snapshots speak of.

    Args:
        database: its rows name the recordings and features that may be kept at all.
    """

    def __init__(self, place: Place, database: Path, paths: Paths, media: Path | None = None):
        self._place, self._database, self._home = place, database, paths.home
        self._folders = {MEDIA: media or paths.media, FEATURES: paths.features}
        self._checkpoints = paths.checkpoints

    def small(self) -> dict[str, str]:
        """Return the small files that there are: path and text."""
        found = {}
        for name in _SMALL:
            with suppress(FileNotFoundError):
                found[name] = (self._home / name).read_text("utf-8")
        return found

    def put_small(self, files: dict[str, str]) -> None:
        """Write the small files of a snapshot, where there are none; the promoted checkpoint comes with them."""
        promoted = files.get(f"{CHECKPOINTS}/PROMOTED", "").strip()
        if _is_name(promoted):
            self._fetch_checkpoint(promoted)
        for name, text in files.items():
            path = self._home / name
            if name in _SMALL and not path.exists():
                private_folder(path.parent)
                with scratch(path.parent, path.name) as part:
                    with open(part, "w", encoding="utf-8", opener=lambda f, flags: os.open(f, flags, 0o600)) as out:
                        out.write(text)
                    os.replace(part, path)  # a start that is killed leaves no half file

    def send(self, file: Path) -> None:
        """Copy a recording or features into the backup, unless they were deleted meanwhile."""
        for kind, folder in self._folders.items():
            if file.parent == folder:
                name = f"{kind}/{file.name}"
                with suppress(FileNotFoundError):
                    self._place.write(name, file)
                if file.name not in self._named(kind):
                    self._place.delete([name])

    def send_all(self) -> None:
        """Copy what the backup lacks, and delete from it what the database does not name any more."""
        for kind, folder in self._folders.items():
            there = self._place.names(kind)  # before the database is asked: what comes in now is named in it already
            named = self._named(kind)
            for name in sorted(named):
                file = folder / name
                if file.is_file() and there.get(f"{kind}/{name}") != file.stat().st_size:
                    self.send(file)
            self._place.delete([name for name in there if Path(name).name not in named])
        there = self._place.names(CHECKPOINTS)
        for name in self._promoted():
            # meta.json is written last: a checkpoint that has it is whole
            for file in sorted((self._checkpoints / name).glob("*"), key=lambda file: file.name == "meta.json"):
                if file.is_file() and there.get(f"{CHECKPOINTS}/{name}/{file.name}") != file.stat().st_size:
                    self._place.write(f"{CHECKPOINTS}/{name}/{file.name}", file)

    def fetch_all(self) -> int:
        """Copy the recordings, features and promoted checkpoints that are not here; return how many recordings."""
        n_files = 0
        for kind, folder in self._folders.items():
            there = {Path(name).name for name in self._place.names(kind)}
            wanted = [name for name in sorted(self._named(kind) & there) if not (folder / name).exists()]
            if wanted:
                private_folder(folder)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                n_files += sum(pool.map(lambda name, kind=kind: self._fetch(kind, name), wanted))
        for name in self._promoted():
            self._fetch_checkpoint(name)
        return n_files

    def _fetch(self, kind: str, name: str) -> bool:
        folder = self._folders[kind]
        with scratch(folder, name) as part, suppress(FileNotFoundError):  # its clip was deleted meanwhile
            self._place.fetch(f"{kind}/{name}", part)
            if kind == MEDIA and content_hash(part) != name[:64]:
                _LOG.error("backup: %s/%s is damaged and is left out", kind, name)
                return False
            with write_lock(self._database):  # a deletion is over, or comes after this
                if name not in self._named(kind):
                    return False
                part.chmod(0o600)
                os.replace(part, folder / name)
            return True
        return False

    def _fetch_checkpoint(self, name: str) -> None:
        """Copy a checkpoint whole or not at all; what does not serve is refused by whoever loads it."""
        names = list(self._place.names(f"{CHECKPOINTS}/{name}"))
        if (self._checkpoints / name).exists() or f"{CHECKPOINTS}/{name}/meta.json" not in names:
            return
        private_folder(self._checkpoints)
        part = Path(tempfile.mkdtemp(prefix=".saving-", dir=self._checkpoints))
        try:
            for file in names:
                self._place.fetch(file, part / Path(file).name)
            part.chmod(0o755)
            os.replace(part, self._checkpoints / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _promoted(self) -> list[str]:
        """Return the checkpoints that serve or once did, and so can be gone back to."""
        found = [(self.small().get(f"{CHECKPOINTS}/PROMOTED") or "").strip()]
        for line in (self.small().get(f"{CHECKPOINTS}/promotions.jsonl") or "").splitlines():
            with suppress(ValueError, TypeError):  # half a line of a killed process
                entry = json.loads(line)
                found += [entry.get("checkpoint"), entry.get("before")]
        return [name for name in dict.fromkeys(found) if _is_name(name)]

    def _named(self, kind: str) -> set[str]:
        """Return the names of a kind's files that clips have."""
        with closing(sqlite3.connect(self._database, timeout=30)) as connection:
            return {name for (name,) in connection.execute(f"SELECT {kind} FROM clips WHERE {kind} IS NOT NULL")}


def _is_name(name: str | None) -> bool:
    """Whether it names a folder beside others, and nothing above them."""
    return bool((name or "").strip(".")) and Path(str(name)).name == name


def digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
