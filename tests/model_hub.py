"""As much of the hub's API as a checkpoint needs to go there and to come back: one model repository in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN, REPO = "hf_right", "ann/model"


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


class _Hub(BaseHTTPRequestHandler):
    repo: Repository

    def answer(self, value, status=200, code="", message=""):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, said in (("X-Error-Code", code), ("X-Error-Message", message)):
            if said:
                self.send_header(name, said)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self) -> bool:
        path = urlsplit(self.path).path
        self.repo.asked.append(f"{self.command} {path}")
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return False
        if self.command in ("GET", "HEAD") and self.repo.private is False:
            return False
        self.answer({"error": "Repository not found"}, 401, "RepoNotFound", "Repository not found")
        return True

    def do_HEAD(self):
        self.do_GET()

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
        self.send_response(200)
        self.send_header("X-Repo-Commit", found[0])
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            url = f"https://huggingface.co/{REPO}"
            if self.repo.private is None:
                self.repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
                self.answer({"url": url})
            else:
                self.answer({"error": "exists", "url": url}, 409)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif "/commit/" in self.path:
            files = dict(self.repo.commits[-1][1]) if self.repo.commits else {}
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = hashlib.sha1(body).hexdigest()
            self.repo.commits.append((commit, files))
            self.answer({"commitUrl": f"https://huggingface.co/{REPO}/commit/{commit}", "commitOid": commit})
        else:
            self.answer({}, 404)

    def log_message(self, *args):
        """Keep the test's output clean."""


@contextmanager
def model_hub() -> Iterator[tuple[str, Repository]]:
    """Serve an empty hub; yields its address and what it has."""
    repo = Repository()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (_Hub,), {"repo": repo}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repo
    finally:
        server.shutdown()
        server.server_close()
