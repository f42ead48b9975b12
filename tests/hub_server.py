"""What a hub of datasets and one of models have in common: answers, the making of a repository, commits."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

TOKEN = "hf_right"


class Made(Protocol):
    private: bool | None  # None: it was not made yet


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does; `repo` is the one repository that it has."""

    repo: Made

    def answer(self, value, status: int = 200, code: str = "", message: str = "") -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(json.dumps(value).encode(), status, **{name: text for name, text in said.items() if text})

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    @property
    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def do_HEAD(self):
        self.do_GET()

    def make(self, body: bytes, url: str) -> None:
        """Make the repository, as private as it is asked for, or say that it is there."""
        asked = json.loads(body)
        if self.repo.private is None:
            self.repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.answer({"url": url})
        else:
            self.answer({"error": "exists", "url": url}, 409)

    def take_all(self, body: bytes) -> None:
        """Say that every file may come within the commit."""
        paths = [file["path"] for file in json.loads(body)["files"]]
        self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def log_message(self, *args):
        """Keep the test's output clean."""


def committed(files: dict[str, bytes], body: bytes) -> dict[str, bytes]:
    """Return all files after a commit."""
    found = dict(files)
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
            found[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "deletedFile":
            del found[line["value"]["path"]]
    return found


@contextmanager
def serving(handler: type[HubHandler], repo: Made) -> Iterator[str]:
    """Serve a repository until the block ends; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (handler,), {"repo": repo}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
