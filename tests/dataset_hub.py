"""As much of the hub's API as a backup in a dataset needs: one repository in memory, with its history."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server import TOKEN, HubHandler, committed, serving

__all__ = ["REPO", "TOKEN", "Dataset", "dataset_hub"]
REPO = "lab/labels"
_API = f"/api/datasets/{REPO}"


@dataclass
class Dataset:
    """What the hub has of `REPO`."""

    private: bool | None = None  # None: it was not made yet
    history: list[dict[str, bytes]] = field(default_factory=lambda: [{}])  # all files after each commit
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> dict[str, bytes]:
        return self.history[-1]


class _Hub(HubHandler):
    repo: Dataset

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        files = self.repo.files
        if not self.is_known or self.repo.private is None:
            self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
        elif path.startswith(f"/datasets/{REPO}/resolve/main/"):
            name = path.partition("/resolve/main/")[2]
            if name in files:
                self.send(files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"', X_Repo_Commit="1" * 40)
            else:
                self.answer({"error": "Entry not found"}, 404, "EntryNotFound")
        elif path.startswith(f"{_API}/tree/main"):
            self._tree(path.partition("/tree/main")[2].strip("/"), parse_qs(urlsplit(self.path).query))
        elif path == f"{_API}/auth-check/write":
            self.answer({})
        elif path == f"{_API}/lfs-files":
            self.answer([])
        elif path in (_API, f"{_API}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": REPO, "private": self.repo.private, "sha": "1" * 40, "siblings": siblings})
        else:
            self.answer({"error": f"no {path}"}, 404)

    def _tree(self, folder: str, asked: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        within = [name for name in self.repo.files if name.startswith(prefix)]
        if not within and folder:
            self.answer({"error": "Entry not found"}, 404, "EntryNotFound")
            return
        folders = {prefix + name[len(prefix) :].split("/")[0] for name in within if "/" in name[len(prefix) :]}
        if asked.get("recursive", ["false"])[0].lower() != "true":
            within = [name for name in within if "/" not in name[len(prefix) :]]
        else:
            folders = {name.rsplit("/", n)[0] for name in within for n in range(1, name[len(prefix) :].count("/") + 1)}
        found = [{"type": "directory", "path": name, "oid": "0"} for name in sorted(folders)]
        self.answer([*found, *({"type": "file", "path": n, "oid": "0", "size": self._size(n)} for n in within)])

    def _size(self, name: str) -> int:
        return len(self.repo.files[name])

    def do_POST(self):
        body, path = self.body, urlsplit(self.path).path
        if not self.is_known:
            self.answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            self.make(body, f"https://huggingface.co/datasets/{REPO}")
        elif path.startswith(f"{_API}/preupload/"):
            self.take_all(body)
        elif path.startswith(f"{_API}/commit/"):
            self._commit(body)
        elif path.startswith(f"{_API}/paths-info/"):
            asked = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            self.answer(
                [
                    {"type": "file", "path": name, "oid": "0", "size": self._size(name)}
                    for name in asked
                    if name in self.repo.files
                ]
            )
        elif path.startswith(f"{_API}/super-squash/"):
            self.repo.history[:] = [self.repo.files]
            self.answer({})
        else:
            self.answer({"error": f"no {path}"}, 404)

    def _commit(self, body: bytes) -> None:
        with self.repo.lock:
            self.repo.history.append(committed(self.repo.files, body))
        self.answer({"commitUrl": f"https://huggingface.co/datasets/{REPO}/commit/1", "commitOid": "1" * 40})


@contextmanager
def dataset_hub() -> Iterator[tuple[str, Dataset]]:
    """Serve an empty hub; yields its address and what it has."""
    repo = Dataset()
    with serving(_Hub, repo) as url:
        yield url, repo
