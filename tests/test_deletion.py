"""The whole way of a clip through a server of its own, and that a deletion leaves nothing of it anywhere."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

from gradio_client import handle_file

from mmer.config import ROOT, Paths
from tests import synth
from tests.clients import client_of, http_get, http_post
from tests.test_app import new_checkpoint, running


def test_a_deletion_said_that_no_trace_was_left(tmp_path, monkeypatch):
    """Upload, analyse, correct with consent, share, delete: MMER_HOME and the temporary folder hold no byte of it."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    paths = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu")
    new_checkpoint(paths, 1)
    clip = synth.write_clip(tmp_path / "whisperer.wav", seconds=1.5, voice=synth.voice(1.5, seed=3))
    content = clip.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with running(paths) as url:
        client = client_of(url)
        client.predict(audio=handle_file(clip), api_name="/analyse")
        given = {
            "annotator": "bea",
            "comment": "a trembling voice",
            "speaker": "zaphod",
            "transcript": "leave me alone",
        }
        client.predict("fear", keep="recording", **given, api_name="/save_label")
        assert (home / "media" / f"{sha256}.wav").read_bytes() == content
        assert http_get(f"{url}/gradio_api/deep_link?session_hash={client.session_hash}").status_code == 404
        sent = {"video": ("whisperer.wav", content, "video/mp4")}
        assert http_post(f"{url}/gradio_api/process_recording", files=sent).status_code == 404
        uploads = [file for file in (home / "uploads").rglob("*") if file.is_file()]
        assert content in [file.read_bytes() for file in uploads]
        run = subprocess.run(
            [sys.executable, "-m", "annotations", "delete", "--speaker", "zaphod"],
            cwd=ROOT,
            env={**os.environ, "MMER_HOME": str(home)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert "no trace is left" in run.stdout
        assert http_get(f"{url}/gradio_api/file={uploads[0]}").status_code in (403, 404)
        traces = (content[200:1200], sha256.encode(), b"zaphod", b"trembling", b"leave me alone", b"whisperer")
        for file in [*home.rglob("*"), *temporary.rglob("*")]:
            assert not any(trace.decode("latin-1") in file.name for trace in traces[1:]), file
            if file.is_file():
                found = [trace for trace in traces if trace in file.read_bytes()]
                assert found == [], file
    assert [file for file in temporary.rglob("*") if file.is_file()] == []
