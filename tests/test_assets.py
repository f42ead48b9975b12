"""Assets over a real HTTP server on this machine: download, resume, damage, being offline."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mmer.assets import ASSETS, Asset, Part, find, obtain
from mmer.config import ROOT, Paths
from mmer.errors import AssetError

DATA = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves DATA under any path; what it should do wrong, and what it was asked, are plain attributes."""

    ranges, drop_after, body = True, None, DATA

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"{server.url}/weights.bin")
            self.end_headers()
            return
        if self.path.startswith("/gone/"):
            self.send_error(404)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1]) if server.ranges else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(server.body) - first))
        self.end_headers()
        self.wfile.write(server.body[first : server.drop_after])

    def log_message(self, *_):
        """Keep the test output clean."""


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def paths(tmp_path):
    return Paths(assets=tmp_path / "assets")


@pytest.fixture
def weights(server):
    return Asset("weights", "weights.bin", (Part("weights.bin", DIGEST, len(DATA)),), url=f"{server.url}/weights.bin")


def test_a_missing_asset_is_downloaded_verified_and_told_about(server, paths, weights):
    told = []
    path = obtain(weights, paths, progress=lambda *step: told.append(step))
    assert path.read_bytes() == DATA
    assert [step[0] for step in told] == sorted(step[0] for step in told)
    assert told[-1] == (len(DATA), len(DATA), "weights")
    assert server.asked == [("/weights.bin", None)]
    assert not list(path.parent.glob("*.part"))
    assert obtain(weights, paths) == path
    assert len(server.asked) == 1


def test_a_bar_is_shown_when_nobody_asks_to_be_told(server, paths, weights, capfd):
    obtain(weights, paths)
    assert "weights: 100%" in capfd.readouterr().err


def test_a_dropped_line_is_gone_on_from(server, paths, weights):
    server.drop_after = 1_000_000
    with pytest.raises(AssetError, match=r"line dropped after 1,000,000 of 3,000,000 bytes") as error:
        obtain(weights, paths)
    assert error.value.code == "asset_missing"
    server.drop_after = None
    assert obtain(weights, paths).read_bytes() == DATA
    assert server.asked[1] == ("/weights.bin", "bytes=1000000-")


def test_a_server_that_does_not_resume_starts_over(server, paths, weights):
    server.ranges = False
    paths.assets.mkdir()
    (paths.assets / "weights.bin.part").write_bytes(DATA[:500])
    assert obtain(weights, paths).read_bytes() == DATA


def test_a_partial_file_of_something_else_does_not_block_the_next_try(server, paths, weights):
    paths.assets.mkdir()
    (paths.assets / "weights.bin.part").write_bytes(b"x" * 500)
    with pytest.raises(AssetError, match="not the pinned file"):
        obtain(weights, paths)
    assert obtain(weights, paths).read_bytes() == DATA


def test_a_redirect_keeps_the_place_to_go_on_from(server, paths, weights):
    paths.assets.mkdir()
    (paths.assets / "weights.bin.part").write_bytes(DATA[:500])
    obtain(replace(weights, url=f"{server.url}/moved/weights.bin"), paths)
    assert server.asked == [("/moved/weights.bin", "bytes=500-"), ("/weights.bin", "bytes=500-")]


def test_wrong_content_is_refused_and_leaves_nothing(server, paths, weights):
    server.body = bytes(len(DATA))
    with pytest.raises(AssetError, match="sha256 differs") as error:
        obtain(weights, paths)
    assert error.value.code == "asset_damaged"
    assert not list(paths.assets.glob("weights.bin*"))


def test_an_endless_answer_is_cut_off(server, paths, weights):
    server.body = DATA * 5
    with pytest.raises(AssetError, match="not the pinned file"):
        obtain(weights, paths, progress=lambda done, total, name: done < 3 * total or pytest.fail("went on and on"))


def test_a_damaged_file_is_replaced_or_named(server, paths, weights):
    path = obtain(weights, paths)
    path.write_bytes(DATA[:-1])
    with pytest.raises(AssetError, match=r"damaged \(2,999,999 bytes where 3,000,000 belong\)") as error:
        obtain(weights, paths, download=False)
    assert error.value.code == "asset_damaged"
    path.write_bytes(DATA[:-1] + b"?")
    with pytest.raises(AssetError, match="its sha256 is not the pinned one"):
        obtain(weights, paths, download=False)
    assert obtain(weights, paths).read_bytes() == DATA


def test_a_verified_file_is_not_hashed_again_until_it_changes(server, paths, weights):
    path = obtain(weights, paths)
    seen = json.loads((paths.assets / ".verified.json").read_text())
    assert seen == {"weights.bin": [len(DATA), path.stat().st_mtime_ns, DIGEST]}
    stat = path.stat()
    path.write_bytes(bytes(len(DATA)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert obtain(weights, paths, download=False) == path  # same size and time: taken on trust, so no hash was computed
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(AssetError, match="sha256"):
        obtain(weights, paths, download=False)


def test_a_read_only_folder_is_used_and_left_alone(server, paths, weights):
    paths.assets.mkdir()
    (paths.assets / "weights.bin").write_bytes(DATA)
    paths.assets.chmod(0o555)
    try:
        assert obtain(weights, paths, download=False).read_bytes() == DATA
        assert [file.name for file in paths.assets.iterdir()] == ["weights.bin"]
        missing = replace(weights, path="other.bin", parts=(replace(weights.parts[0], path="other.bin"),))
        with pytest.raises(AssetError, match="is read-only"):
            obtain(missing, paths)
    finally:
        paths.assets.chmod(0o755)
    assert server.asked == []


def test_offline_the_error_says_what_where_and_how(paths, weights):
    unreachable = replace(weights, url="http://127.0.0.1:9/weights.bin")
    with pytest.raises(AssetError) as error:
        obtain(unreachable, paths)
    assert error.value.code == "asset_missing"
    for part in ("weights.bin missing", "refused", unreachable.url, str(paths.assets / "weights.bin"), "MMER_ASSETS"):
        assert part in error.value.message
    assert "\n" not in error.value.message


def test_a_file_gone_from_its_server_says_so(server, paths, weights):
    with pytest.raises(AssetError, match="HTTP Error 404"):
        obtain(replace(weights, url=f"{server.url}/gone/weights.bin"), paths)


def test_two_at_once_download_once(server, paths, weights):
    found = []
    threads = [threading.Thread(target=lambda: found.append(obtain(weights, paths).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [DATA] * 4
    assert len(server.asked) == 1


def run_in_hub_environment(tmp_path, **environment) -> Path:
    """Fetch a two-file hub asset in a process of its own, since the hub reads its environment when imported."""
    code = f"""
from pathlib import Path
from mmer.assets import Asset, Part, obtain
from mmer.config import Paths
parts = tuple(Part(f"enc/{{name}}", "{DIGEST}", {len(DATA)}) for name in ("a.bin", "b.bin"))
obtain(Asset("enc", "enc", parts, repo_id="us/enc", revision="{REVISION}"), Paths(assets=Path({str(tmp_path)!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "enc"


def test_a_hub_asset_comes_from_its_pinned_revision(server, tmp_path):
    folder = run_in_hub_environment(tmp_path, HF_ENDPOINT=server.url, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert [path for path, _ in server.asked] == [f"/us/enc/resolve/{REVISION}/{name}" for name in ("a.bin", "b.bin")]
    assert (folder / "a.bin").read_bytes() == (folder / "b.bin").read_bytes() == DATA


def test_a_hub_asset_preloaded_into_the_hub_cache_needs_no_network(tmp_path):
    snapshot = tmp_path / "cache" / "models--us--enc" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (snapshot / name).write_bytes(DATA)
    folder = run_in_hub_environment(
        tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1"
    )
    assert (folder / "b.bin").read_bytes() == DATA


def test_the_pinned_table_is_well_formed():
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert bool(asset.url) != bool(asset.repo_id)
        assert not asset.repo_id or re.fullmatch("[0-9a-f]{40}", asset.revision)
        for part in asset.parts:
            assert re.fullmatch("[0-9a-f]{64}", part.sha256)
            assert part.path == asset.path or part.path.startswith(f"{asset.path}/")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AssetError, match="use one of face_landmarker, text_encoder"):
        find("whisper")


@pytest.mark.parametrize("name", list(ASSETS))
def test_the_real_weights_are_the_pinned_ones(asset, name):
    folder = asset(name).parent
    for part in ASSETS[name].parts:
        assert hashlib.sha256((folder / part.path).read_bytes()).hexdigest() == part.sha256
