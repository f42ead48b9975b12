"""As much of the hub's API as a checkpoint needs to go there and to come back: one model repository in memory."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.hub_server import TOKEN, HubHandler, committed, serving

__all__ = ["REPO", "TOKEN", "Repository", "model_hub"]
REPO = "ann/model"


@dataclass
class Repository:
    """What the hub has of `REPO`: commits in order, each with all files."""

    private: bool | None = None  # None: it was not made yet
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def files(self, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit a revision names, and its files."""
        if revision in (None, "main"):
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((c for c in self.commits if c[0].startswith(str(revision))), None)


class _Hub(HubHandler):
    repo: Repository

    def _refused(self) -> bool:
        path = urlsplit(self.path).path
        self.repo.asked.append(f"{self.command} {path}")
        if self.is_known:
            return False
        if self.command in ("GET", "HEAD") and self.repo.private is False:
            return False
        self.answer({"error": "Repository not found"}, 401, "RepoNotFound", "Repository not found")
        return True

    def do_GET(self):
        if self._refused():
            return
        path = urlsplit(self.path).path
        if path.startswith(f"/{REPO}/resolve/"):
            revision, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
            self._file(revision, name)
        elif path.startswith(f"/api/models/{REPO}") and self.repo.private is not None:
            found = self.repo.files(path.partition("/revision/")[2] or None)
            if found is None:
                self.answer({"error": "Revision not found"}, 404, "RevisionNotFound", "Revision not found")
                return
            if "/tree/" in path:
                self.answer([{"type": "file", "path": name, "oid": "0", "size": 1} for name in found[1]])
                return
            siblings = [{"rfilename": name} for name in found[1]]
            self.answer({"id": REPO, "private": self.repo.private, "sha": found[0], "siblings": siblings})
        else:
            self.answer({"error": "Repository not found"}, 404, "RepoNotFound", "Repository not found")

    def _file(self, revision: str, name: str) -> None:
        found = self.repo.files(revision)
        if found is None or name not in found[1]:
            self.answer({"error": "Entry not found"}, 404, "EntryNotFound", "Entry not found")
            return
        body = found[1][name]
        self.send(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=found[0])

    def do_POST(self):
        body = self.body
        if self._refused():
            return
        if self.path == "/api/repos/create":
            self.make(body, f"https://huggingface.co/{REPO}")
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self.take_all(body)
        elif "/commit/" in self.path:
            files = committed(self.repo.commits[-1][1] if self.repo.commits else {}, body)
            commit = hashlib.sha1(body).hexdigest()
            self.repo.commits.append((commit, files))
            self.answer({"commitUrl": f"https://huggingface.co/{REPO}/commit/{commit}", "commitOid": commit})
        else:
            self.answer({}, 404)


@contextmanager
def model_hub() -> Iterator[tuple[str, Repository]]:
    """Serve an empty hub; yields its address and what it has."""
    repo = Repository()
    with serving(_Hub, repo) as url:
        yield url, repo
