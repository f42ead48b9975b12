"""Labels as a Hugging Face dataset: what is copied, what the card says, a push to a server with the hub's API."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import update

from annotations.db.schema import ClipRecord, ConsentRecord
from annotations.formats import huggingface
from annotations.formats.import_export import export_labels, import_labels
from annotations.store import Store
from mmer.config import ROOT
from mmer.errors import LabelError


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(
        f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media", tmp_path / "home" / "features"
    )


def clip(store: Store, folder: Path, name: str, **consent) -> tuple[int, str]:
    path = folder / name
    path.write_bytes(name.encode())
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return store.register_clip(path, sha256, name=name, **consent), sha256


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def exported(store, tmp_path) -> tuple[Path, dict[str, str]]:
    """A folder with a clip kept with consent, one of which only features are, and one that nobody consented to."""
    kept, kept_hash = clip(store, tmp_path, "kept.wav", consent_text="for research,\nuntil I say no")
    bare, bare_hash = clip(store, tmp_path, "bare.mp4", in_place=True)
    part, part_hash = clip(store, tmp_path, "part.mp4")
    (tmp_path / "home" / "features").mkdir(parents=True)
    (tmp_path / "home" / "features" / f"{part_hash}-x.npz").write_bytes(b"numbers")
    with store.writing() as session:
        session.execute(update(ClipRecord).where(ClipRecord.id == part).values(features=f"{part_hash}-x.npz"))
        session.add(ConsentRecord(clip_id=part, text_version="f00", text="numbers only", scope="features"))
    store.add_label(kept, "ann", {"anger": 3, "fear": 1}, start_s=0.5, end_s=1)
    store.add_label(bare, "ann", "fear")
    store.add_label(part, "bea", outcome="broken")
    store.add_label(kept, "bea", "fear")
    assert export_labels(store, tmp_path / "out", "hf").labels == 4
    return tmp_path / "out", {"kept": kept_hash, "bare": bare_hash, "part": part_hash}


def test_only_what_people_consented_to_is_copied(exported):
    folder, hashes = exported
    found = files(folder)
    assert set(found) == {
        "README.md",
        "metadata.parquet",
        f"media/{hashes['kept']}.wav",
        f"features/{hashes['part']}-x.npz",
    }
    assert found[f"media/{hashes['kept']}.wav"] == b"kept.wav"
    rows = pq.read_table(folder / "metadata.parquet").to_pylist()
    assert [(row["sha256"], row["file_name"], row["features"], row["label"]) for row in rows] == [
        (hashes["kept"], f"media/{hashes['kept']}.wav", None, "anger"),
        (hashes["kept"], f"media/{hashes['kept']}.wav", None, "fear"),
        (hashes["bare"], None, None, "fear"),
        (hashes["part"], None, f"features/{hashes['part']}-x.npz", "broken"),
    ]
    assert {name: weight for name, weight in rows[0]["emotions"].items() if weight} == {"anger": 0.75, "fear": 0.25}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\npretty_name: Emotion labels\nlicense: other\n")
    version = hashlib.sha256(b"for research,\nuntil I say no").hexdigest()[:12]
    assert "4 labels of 3 clips." in card
    assert "| none: labels only, no media | 1 |\n" in card
    assert f"### {version}: the clip\n\n> for research,\n> until I say no\n" in card
    assert "### f00: features without face and voice\n\n> numbers only\n" in card


def test_a_dataset_from_elsewhere_cannot_name_files_outside(store, tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    rows = [
        {"file_name": "../secret.wav", "label": "fear", "annotator": "ann"},
        {"file_name": str(tmp_path / "secret.wav"), "label": "fear", "annotator": "ann"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "metadata.parquet")
    report = import_labels(store, tmp_path / "in", "hf", consent_text="yes")
    assert [line.split(": ")[1] for line in report.bad] == ["clip_not_found"] * 2
    pq.write_table(pa.Table.from_pylist([{"text": "x"}]), tmp_path / "in" / "metadata.parquet")
    with pytest.raises(LabelError, match="has no column annotator, label"):
        import_labels(store, tmp_path / "in", "hf")


def test_a_damaged_table_lost_the_rows_before_it_and_their_report(store, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    row = {"sha256": "a" * 64, "label": "fear", "annotator": "ann"}
    (tmp_path / "a" / "metadata.jsonl").write_text(json.dumps(row))
    (tmp_path / "b" / "metadata.parquet").write_bytes(b"PAR1 cut off")
    report = import_labels(store, tmp_path, "hf")
    assert (report.imported, len(list(store.labels()))) == (1, 1)
    assert [line.split(": ")[1] for line in report.bad] == ["unreadable_file"]
    assert "after a row 1: " in report.bad[0]
    with pytest.raises(LabelError, match="has no metadata.parquet that can be read"):
        import_labels(store, tmp_path / "b", "hf")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as a push needs: one repository whose files are kept in `repo`."""

    repo: dict  # {"private": bool, "files": {path: bytes}, "asked": [...]}

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = urlsplit(self.path).path
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "Invalid credentials"}, 401)
        elif "/tree/" in path:
            self.answer([{"type": "file", "path": name, "oid": "0", "size": 1} for name in self.repo["files"]])
        elif path.startswith("/api/datasets/ann/labels"):
            self.answer(
                {
                    "id": "ann/labels",
                    "private": self.repo["private"],
                    "sha": "0" * 40,
                    "siblings": [{"rfilename": name} for name in self.repo["files"]],
                }
            )
        else:
            self.answer({}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.repo["asked"].append((self.path, self.headers["Authorization"]))
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            if self.repo["private"] is None:
                self.repo["private"] = asked.get("visibility") == "private" or asked.get("private", False)
                self.answer({"url": "https://huggingface.co/datasets/ann/labels"})
            else:
                self.answer({"error": "exists", "url": "https://huggingface.co/datasets/ann/labels"}, 409)
        elif self.path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---")[1]
            wrong = [] if "license: other" in front else [{"message": "license is missing"}]
            self.answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repo["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.repo["files"][line["value"]["path"]]
            self.answer({"commitUrl": "https://huggingface.co/datasets/ann/labels/commit/1", "commitOid": "1" * 40})
        else:
            self.answer({}, 404)

    def log_message(self, *args):
        """Keep the test's output clean."""


@pytest.fixture
def server():
    repo = {"private": None, "files": {}, "asked": []}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"repo": repo}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", repo
    server.shutdown()
    server.server_close()


def test_a_push_makes_a_private_dataset_and_forgets_what_the_folder_forgot(exported, server):
    folder, hashes = exported
    url, repo = server
    assert huggingface.push(folder, "ann/labels", endpoint=url, token="hf_right") == f"{url}/datasets/ann/labels"
    assert repo["private"] is True
    assert repo["files"] == files(folder)
    (folder / "media" / f"{hashes['kept']}.wav").unlink()  # its speaker was deleted
    (folder / "notes.txt").write_text("not part of an export")
    huggingface.push(folder, "ann/labels", endpoint=url, token="hf_right")
    assert set(repo["files"]) == {"README.md", "metadata.parquet", f"features/{hashes['part']}-x.npz"}


def test_a_public_dataset_gets_nothing(exported, server):
    url, repo = server
    repo["private"] = False
    with pytest.raises(LabelError, match="dataset ann/labels is public; make it private, or name another"):
        huggingface.push(exported[0], "ann/labels", endpoint=url, token="hf_right")
    assert repo["files"] == {}
    assert [path for path, _ in repo["asked"]] == ["/api/repos/create"]


@pytest.mark.parametrize(
    ("repo", "port", "token", "said"),
    [
        ("ann/labels", None, "hf_wrong", "cannot push to ann/labels: .*401"),
        ("ann/labels/x", None, "hf_right", "cannot push to ann/labels/x: Repo id must be"),
        ("ann/labels", 1, "hf_right", "cannot push to ann/labels: .*[Cc]onnect"),
    ],
)
def test_a_push_that_fails_is_one_clear_error(exported, server, repo, port, token, said):
    url = f"http://127.0.0.1:{port}" if port else server[0]
    with pytest.raises(LabelError, match=said) as raised:
        huggingface.push(exported[0], repo, endpoint=url, token=token)
    assert raised.value.code == "push_failed"
    assert server[1]["files"] == {}


def test_the_command_line_pushes(exported, server, tmp_path):
    """The hub's own variables say where it is and who asks."""
    url, repo = server
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": "hf_right", "HF_HUB_OFFLINE": "0"}
    out, database = tmp_path / "out", tmp_path / "home" / "mmer.db"
    command = f"-m annotations export --format hf --out {out} --push ann/labels --database {database}"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"pushed to {url}/datasets/ann/labels, which is private"
    assert repo["files"] == files(tmp_path / "out")
    assert len(repo["files"]) == 4
