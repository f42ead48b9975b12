"""Where a backup lies: a folder or mounted bucket, any fsspec URL, a private Hugging Face bucket or dataset.

Every place is used in the same few ways, and none of them takes a lock, renames a file or writes again what was
acknowledged: mounted buckets promise none of that.
"""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from annotations.db.engine import private_folder
from mmer.errors import LabelError, MmerError

DATASET = "hf-dataset:"
HEARTBEAT_S = 10.0
_RARE_HEARTBEAT_S = 300.0  # each is a commit, and the hub allows some hundred an hour


class Folder:
    """A folder: on this machine, or where a bucket is mounted."""

    heartbeat_s = HEARTBEAT_S

    def __init__(self, root: Path):
        self.root = root
        self.name = str(root)
        self._torn: set[str] = set()  # files to which something was appended by half

    def write(self, name: str, source: bytes | Path) -> None:
        """Write a file that is not there yet, or is this process's alone; it is on the disk when this returns."""
        self._put(name, source, "wb")

    def append(self, name: str, data: bytes) -> None:
        """Add lines to the end of a file that only this process writes; they are on the disk when this returns."""
        torn = name in self._torn
        self._torn.add(name)
        self._put(name, b"\n" * torn + data, "ab")  # no line is joined to a half one
        self._torn.discard(name)

    def _put(self, name: str, source: bytes | Path, mode: str) -> None:
        path = self.root / name
        with reaching(self):
            private_folder(path.parent)
            new = not path.exists()
            with open(path, mode, opener=lambda file, flags: os.open(file, flags, 0o600)) as out:
                if isinstance(source, Path):
                    with source.open("rb") as whole:
                        while block := whole.read(2**20):
                            out.write(block)
                else:
                    out.write(source)
                out.flush()
                os.fsync(out.fileno())
            if new:
                _flush_names(path.parent)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there."""
        with reaching(self):
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to this machine."""
        with reaching(self), (self.root / name).open("rb") as source, target.open("wb") as out:
            while block := source.read(2**20):
                out.write(block)

    def names(self, under: str) -> dict[str, int]:
        """Return the files of a folder and of those in it, and how many bytes each has."""
        found = {}
        with reaching(self):
            if not self.root.is_dir():
                raise NotADirectoryError("it is not mounted, or no folder any more")
            for folder, _, files in os.walk(self.root / under, onerror=_raise_unless_gone):
                for file in files:
                    path = Path(folder, file)
                    try:
                        found[path.relative_to(self.root).as_posix()] = path.stat().st_size
                    except FileNotFoundError:  # deleted meanwhile
                        continue
        return found

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, those that are gone already too."""
        with reaching(self):
            for name in names:
                (self.root / name).unlink(missing_ok=True)

    def forget(self) -> None:
        """Have what was deleted gone from the place's own history: a folder has none."""

    def try_writing(self) -> None:
        """Return when something can be written here; nothing of it stays."""
        with reaching(self), tempfile.TemporaryFile(dir=self.root):
            pass


class Remote:
    """A place that fsspec reaches. What is appended becomes an object of its own: object stores cannot append."""

    def __init__(self, system: Any, root: str, name: str, heartbeat_s: float = HEARTBEAT_S):
        self.system, self.root, self.name, self.heartbeat_s = system, root.rstrip("/"), name, heartbeat_s
        self._n_appended: dict[str, int] = {}

    def write(self, name: str, source: bytes | Path) -> None:
        with reaching(self):
            if isinstance(source, Path):
                self.system.put_file(str(source), f"{self.root}/{name}")
            else:
                self.system.pipe_file(f"{self.root}/{name}", source)

    def append(self, name: str, data: bytes) -> None:
        number = self._n_appended.get(name, 0) + 1
        stem, _, end = name.rpartition(".")
        self.write(f"{stem}-{number:06d}.{end}", data)
        self._n_appended[name] = number

    def read(self, name: str) -> bytes | None:
        with reaching(self):
            self.system.invalidate_cache()
            try:
                return self.system.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None

    def fetch(self, name: str, target: Path) -> None:
        with reaching(self):
            self.system.invalidate_cache()
            self.system.get_file(f"{self.root}/{name}", str(target))

    def names(self, under: str) -> dict[str, int]:
        with reaching(self):
            self.system.invalidate_cache()
            try:
                found = self.system.find(f"{self.root}/{under}", detail=True)
            except FileNotFoundError:
                return {}
            root = self.system._strip_protocol(self.root).rstrip("/") + "/"
            return {path.removeprefix(root): info["size"] for path, info in found.items()}

    def delete(self, names: Iterable[str]) -> None:
        with reaching(self):
            for name in names:
                try:
                    self.system.rm_file(f"{self.root}/{name}")
                except FileNotFoundError:
                    continue

    def forget(self) -> None:
        """Object stores that keep versions have to be told so by their owner."""

    def try_writing(self) -> None:
        name = f"try-{secrets.token_hex(4)}"
        self.write(name, b"")
        self.delete([name])


class HubDataset(Remote):
    """A private dataset repository on the Hugging Face Hub; every write is a commit.

    Args:
        make: create the repository when it is not there.
        endpoint, token: where the hub is and who asks; None for what its own variables say.
    """

    def __init__(self, repo: str, *, make: bool = True, endpoint: str | None = None, token: str | None = None):
        from huggingface_hub import HfApi, HfFileSystem

        self.repo, self.api = repo, HfApi(endpoint, token)
        system = HfFileSystem(endpoint=endpoint, token=token)
        super().__init__(system, f"datasets/{repo}", f"{DATASET}{repo}", _RARE_HEARTBEAT_S)
        with reaching(self):
            if make:
                self.api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
            public = not self.api.repo_info(repo, repo_type="dataset").private
        _refuse_public(self, public)

    def write(self, name: str, source: bytes | Path) -> None:
        with reaching(self):
            self.api.upload_file(
                path_or_fileobj=source, path_in_repo=name, repo_id=self.repo, repo_type="dataset", commit_message="add"
            )

    def delete(self, names: Iterable[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        if operations := [CommitOperationDelete(name) for name in names]:
            with reaching(self):
                self.api.create_commit(self.repo, operations, commit_message="delete", repo_type="dataset")

    def forget(self) -> None:
        """Throw the repository's history away, and the large files that only the history had."""
        with reaching(self):
            self.api.super_squash_history(self.repo, repo_type="dataset")
            kept, large = set(self.names("")), self.api.list_lfs_files(self.repo, repo_type="dataset")
            gone = [file for file in large if file.filename not in kept]
            if gone:
                self.api.permanently_delete_lfs_files(self.repo, gone, repo_type="dataset")

    def try_writing(self) -> None:
        with reaching(self):  # a commit would stay in the history
            self.api.auth_check(self.repo, repo_type="dataset", write=True)


Place = Folder | Remote


def open_place(setting: str, *, make: bool = True) -> Place:
    """Return the place that `MMER_BACKUP` names.

    Args:
        make: create a Hugging Face repository, private, when it is not there.

    Raises:
        LabelError: `bad_backup_place`, `backup_public`, `backup_unavailable`.
    """
    if setting.startswith(DATASET):
        return HubDataset(_repository(setting.removeprefix(DATASET), setting), make=make)
    scheme, _, rest = setting.rpartition("://")
    if scheme in ("", "file", "local"):
        return _folder(Path(rest).expanduser().resolve())
    if scheme == "hf":
        return _hub_bucket(rest, setting, make)
    import fsspec

    shown = f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}"  # without keys that stand in the URL
    try:
        system, root = fsspec.core.url_to_fs(setting)
    except (ValueError, ImportError) as error:
        raise LabelError("bad_backup_place", f"MMER_BACKUP={shown} cannot be used: {error}") from None
    return Remote(system, root, shown)


def _folder(root: Path) -> Folder:
    if not root.is_dir():  # where a bucket should be mounted, nothing may begin anew
        raise LabelError(
            "bad_backup_place", f"MMER_BACKUP names {root}, which is not there; mount it, or make the folder"
        )
    return Folder(root)


def _hub_bucket(rest: str, setting: str, make: bool) -> Remote:
    from huggingface_hub import HfApi, HfFileSystem

    kind, _, path = rest.partition("/")
    if kind != "buckets":
        raise LabelError(
            "bad_backup_place",
            f"MMER_BACKUP is {setting!r}; of the hub it can be hf://buckets/OWNER/NAME or {DATASET}OWNER/NAME",
        )
    bucket = _repository("/".join(path.split("/")[:2]), setting)
    place = Remote(HfFileSystem(), f"buckets/{path}", setting)
    with reaching(place):
        if make:
            HfApi().create_bucket(bucket, private=True, exist_ok=True)
        public = not HfApi().bucket_info(bucket).private
    _refuse_public(place, public)
    return place


def _repository(name: str, setting: str) -> str:
    if len(parts := name.split("/")) != 2 or not all(parts):
        raise LabelError("bad_backup_place", f"MMER_BACKUP is {setting!r}; OWNER/NAME is needed at its end")
    return name


def _refuse_public(place: Place, public: bool) -> None:
    if public:
        raise LabelError("backup_public", f"{place.name} is public, and a backup holds recordings; make it private")


@contextmanager
def reaching(place: Place) -> Iterator[None]:
    """Say of any error that the place could not be reached; each of its drivers has errors of its own.

    Raises:
        LabelError: `backup_unavailable`.
    """
    try:
        yield
    except MmerError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LabelError("backup_unavailable", f"the backup at {place.name} cannot be reached: {reason}") from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _flush_names(folder: Path) -> None:
    """Have a folder's names written out; a mounted bucket may not know how."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError:
        return
    finally:
        os.close(number)
