"""What a server deletes by age: uploads, also broken off, leftovers of killed processes, recordings past their time."""

import hashlib
import os
import socket
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from urllib.parse import urlparse

import pytest

from mmer import attribution
from mmer.config import Paths
from mmer.ui import housekeeping
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service


@pytest.fixture
def service(tmp_path):
    paths = replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")
    opened = Service(paths)
    yield opened
    opened.store.engine.dispose()


def lay(folder, files: dict[str, float]) -> None:
    """Write files, each as old as it says, their folders as old as the oldest in them."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"somebody")
    for name, age_s in files.items():
        os.utime(folder / name, (time.time() - age_s,) * 2)
        if (folder / name).parent != folder:
            os.utime((folder / name).parent, (time.time() - age_s,) * 2)


def test_an_upload_that_was_broken_off_lay_for_ever(service):
    lay(service.paths.uploads, {"tmpab12": 4000, "tmpcd34": 10, "old/face.mp4": 4000, "young/face.mp4": 10})
    lay(service.paths.uploads, {"deep_links/xyz/state.json": 4000})
    housekeeping.tidy(service)
    left = {str(file.relative_to(service.paths.uploads)) for file in service.paths.uploads.rglob("*")}
    assert left == {"tmpcd34", "young", "young/face.mp4", "deep_links"}  # the last empty, and young as of now
    assert housekeeping.sweep(service.paths.uploads, -1) == 2
    assert list(service.paths.uploads.iterdir()) == []


def test_an_explanation_of_last_night_lay_in_memory(service):
    attribution._known["old"] = time.monotonic() - 4000, None
    attribution._known["young"] = time.monotonic() - 10, None
    housekeeping.tidy(service)
    assert attribution._known.keys() & {"old", "young"} == {"young"}
    attribution.forget(older_s=-1.0)


def test_what_killed_processes_left_was_never_cleaned(service):
    left = {".mmer.db.123.tmp": 4000, "accounts.tmp": 4000, "media/.aa.x.tmp": 4000, "features/.bb.x.tmp": 4000}
    left |= {"checkpoints/.saving-x1/model.safetensors": 4000, "checkpoints/.PROMOTED-77": 4000}
    kept = {
        "media/.cc.x.tmp": 10,
        "checkpoints/.saving-x2/meta.json": 10,
        "checkpoints/20260101T000000-ab/meta.json": 4000,
    }
    lay(service.paths.home, left | kept)
    os.utime(service.paths.checkpoints / ".saving-x2", (time.time() - 4000,) * 2)  # its file is still written to
    housekeeping.tidy(service)
    assert [name for name in left if (service.paths.home / name).exists()] == []
    assert [name for name in kept if not (service.paths.home / name).exists()] == []
    assert not (service.paths.checkpoints / ".saving-x1").exists()


def test_a_running_server_forgot_what_gets_old(service, monkeypatch):
    monkeypatch.setattr(housekeeping, "HELD_S", 1)  # seconds instead of an hour
    page = build(service)
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    try:
        file = service.paths.home / "talk.wav"
        file.write_bytes(b"a voice")
        sha256 = hashlib.sha256(b"a voice").hexdigest()
        over = datetime.now(timezone.utc) - timedelta(seconds=1)
        service.store.register_clip(file, sha256, name="talk.wav", consent_text="for a second", keep_until=over)
        kept = service.paths.media / f"{sha256}.wav"
        assert kept.exists()
        address = urlparse(url)
        with socket.create_connection((address.hostname, address.port)) as line:  # and breaks off
            body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + b"somebody" * 9000
            line.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: "
                + address.netloc.encode()
                + b"\r\nContent-Length: 999999\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body
            )
            deadline = time.monotonic() + 20
            while not list(service.paths.uploads.glob("tmp*")) and time.monotonic() < deadline:
                time.sleep(0.05)
        assert time.monotonic() < deadline
        while (kept.exists() or list(service.paths.uploads.iterdir())) and time.monotonic() < deadline + 20:
            time.sleep(0.2)
        assert not kept.exists()
        assert list(service.paths.uploads.iterdir()) == []
    finally:
        page.close()
