"""A server that is killed with its disk, and the Space that starts from its backup: as the platform runs app.py."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

from gradio_client import handle_file

from annotations.store import Store
from mmer import checkpoint
from mmer.config import ROOT, Paths, sqlite_url
from mmer.ui.lent_gpu import seconds_for
from tests import synth
from tests.clients import client_of
from tests.load.served import wait_for
from tests.test_app import new_checkpoint
from tests.until import until

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "lab/mmer",
    "SPACE_HOST": "lab-mmer.hf.space",
    "OAUTH_CLIENT_ID": "an id",
    "OAUTH_CLIENT_SECRET": "a secret",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}


@contextmanager
def served(home: Path, bucket: Path, **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run app.py with a backup; yield its process and its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, own = f"http://127.0.0.1:{port}", {"MMER_HOME": str(home), "MMER_BACKUP": str(bucket), "MMER_DEVICE": "cpu"}
    command = [sys.executable, "app.py", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own, **environment}) as server:
        try:
            wait_for(url, server)
            yield server, url
        finally:
            server.terminate()


def test_a_space_that_was_restarted_had_lost_its_labels(tmp_path):
    """Label on a served page, kill -9, lose the disk, start as a Space: label, recording and checkpoint are there."""
    bucket, home = tmp_path / "bucket", tmp_path / "before"
    bucket.mkdir()
    paths = replace(Paths.from_env(), home=home, database_url=sqlite_url(home / "mmer.db"))
    name = new_checkpoint(paths, 1)
    clip = synth.write_clip(tmp_path / "talk.wav", seconds=1.5, voice=synth.voice(1.5, seed=3))
    sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
    with served(home, bucket) as (server, url):
        client = client_of(url)
        client.predict(audio=handle_file(clip), api_name="/analyse")
        client.predict("fear", keep="recording", annotator="bea", comment="a scowl", api_name="/save_label")
        server.send_signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
    since, after = time.monotonic(), tmp_path / "after"
    with served(after, bucket, **SPACE) as (server, url):
        started_s = time.monotonic() - since
        page = json.loads(urlopen(f"{url}/config").read())
        assert page["space_id"] == "lab/mmer"
        assert [part["props"]["value"] for part in page["components"] if part["props"].get("elem_id") == "login"] == [
            "Sign in with Hugging Face"
        ]
        assert client_of(url).predict(api_name="/health")["checkpoint"] == name
        assert (after / "checkpoints" / name / "model.safetensors").is_file()
        until((after / "media" / f"{sha256}.wav").is_file)  # recordings follow in the background
        (label,) = Store(sqlite_url(after / "mmer.db"), after / "media").labels()
        assert (label.sha256, label.annotator, label.emotions) == (sha256, "bea", {"fear": 1.0})
        assert label.media.read_bytes() == clip.read_bytes()
        server.send_signal(signal.SIGTERM)  # the platform stops it
        assert server.wait(timeout=120) == 0
    assert checkpoint.promoted(after / "checkpoints") == name
    assert started_s < 240
    newest = max((bucket / "owners").glob("*.json"))
    assert json.loads(newest.read_text())["released"] is True


STAND_IN = """
def GPU(duration):
    def lend(call):
        def lent(*args, **options):
            with open({told!r}, "a") as told:
                print(duration(*args, **options), file=told)
            return call(*args, **options)
        return lent
    return lend

def gradio_auto_wrap(handler):  # gradio asks for it where SYSTEM is spaces
    return handler
"""


def test_a_gpu_was_lent_for_two_minutes_whatever_was_asked(tmp_path):
    """As on ZeroGPU, whose package stands here for its decorator alone: how long a call may take goes by its clip."""
    told, home, bucket = tmp_path / "told", tmp_path / "home", tmp_path / "bucket"
    bucket.mkdir()
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "spaces.py").write_text(STAND_IN.format(told=str(told)))
    new_checkpoint(replace(Paths.from_env(), home=home, database_url=sqlite_url(home / "mmer.db")), 1)
    clip = synth.write_clip(tmp_path / "talk.wav", seconds=10, voice=synth.voice(10, seed=3))
    with served(home, bucket, PYTHONPATH=str(tmp_path / "packages"), **SPACE) as (_, url):
        client = client_of(url)
        found = client.predict(audio=handle_file(clip), text="so", api_name="/analyse")
        client.predict(api_name="/explain")
    assert found["duration_s"] == 10
    assert told.read_text().splitlines() == ["23", "60"]  # analyse, explain


def test_the_length_of_a_clip_says_how_long_a_gpu_is_needed(tmp_path):
    film = synth.write_clip(tmp_path / "talk.mp4", seconds=2)
    recorded = synth.write_clip(tmp_path / "live.webm", seconds=2, options={"live": "1"})
    picture = synth.write_image(tmp_path / "face.png", synth.face())
    (tmp_path / "none.mp4").write_text("words")
    assert seconds_for(str(film), text="so") == 21
    assert seconds_for(str(film), str(film)) == 21
    assert seconds_for(str(recorded)) == 110
    assert seconds_for(str(picture)) == seconds_for(str(tmp_path / "none.mp4")) == seconds_for(text="so") == 20
    assert seconds_for(object(), None) == 60


def test_words_and_emotions_were_taken_for_files_when_a_gpu_was_lent():
    result = object()
    assert seconds_for(result, "what a surprise") == seconds_for(result, 0, "anger", None) == 60


def test_a_second_space_on_the_same_bucket_said_nothing(tmp_path):
    """app.py ends with one line that says whose the backup is."""
    home, bucket = tmp_path / "home", tmp_path / "bucket"
    (bucket / "owners").mkdir(parents=True)
    other = {"epoch": 1, "token": "ab", "space": "lab/other", "machine": "elsewhere", "pid": 1}
    record = bucket / "owners" / "000001-ab.json"
    environment = {**os.environ, **SPACE, "MMER_HOME": str(home), "MMER_BACKUP": str(bucket)}
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        deadline = time.monotonic() + 240
        while server.poll() is None and time.monotonic() < deadline:
            record.write_text(json.dumps(other | {"at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}+00:00"}))
            time.sleep(0.5)
        server.kill()
        said = server.stderr.read()
    assert server.returncode == 1
    assert f"error: the Space lab/other writes to the backup at {bucket}" in said
