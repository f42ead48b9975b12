"""Fixtures of several test files: clips made once a session, the weights or a skip that says why, no network."""

import os
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from annotations.store import Store
from mmer import assets
from mmer.errors import AssetError
from tests import synth

if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch is imported: workers with all cores each slow each other down
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: none for a file or two, which are done before workers have started."""
    if not all(Path(name).is_dir() for name in config.args):
        return 0
    return min(os.cpu_count() or 1, 4)  # each holds torch and the models: a gigabyte


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path) -> Iterator[str]:
    """The URL of an empty database of each kind; PostgreSQL where MMER_TEST_POSTGRES names a server to make them on."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'mmer.db'}"
        return
    server = os.environ.get("MMER_TEST_POSTGRES")
    if not server:  # a test cannot install a server; .ci/run starts one
        pytest.skip("MMER_TEST_POSTGRES names no PostgreSQL server")
    name = f"mmer_{secrets.token_hex(6)}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def store(database, tmp_path) -> Iterator[Store]:
    """An empty store on each kind of database; `@on_sqlite` keeps a test to the one kind."""
    opened = Store(database, tmp_path / "media", tmp_path / "features")
    yield opened
    opened.engine.dispose()


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """The folder session clips live in; a test that needs a clip of its own writes to its tmp_path."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def talk(clips):
    """Three seconds of a talking face with a voice, as mp4."""
    return synth.write_clip(clips / "talk.mp4", seconds=3)


@pytest.fixture(scope="session")
def silent_face(clips):
    """Two seconds of a face without a sound track."""
    return synth.write_clip(clips / "silent_face.mp4", seconds=2, voice=False)


@pytest.fixture(scope="session")
def voice_only(clips):
    """Three seconds of voice as wav."""
    return synth.write_clip(clips / "voice_only.wav", seconds=3)


@pytest.fixture(scope="session")
def still(clips):
    """A photograph of a face, as jpg."""
    return synth.write_image(clips / "still.jpg", synth.face(smile=1.0))


@pytest.fixture(scope="session")
def asset():
    """A function from an asset's name to its verified place; skips where it is neither there nor to be fetched."""
    tried = {}

    def get(name):
        if name not in tried:
            try:
                tried[name] = assets.find(name)
            except AssetError as error:
                tried[name] = error
        if isinstance(tried[name], AssetError):  # weights are not part of the repository, and need a network
            pytest.skip(tried[name].message)
        return tried[name]

    return get


@pytest.fixture(scope="session")
def face_model(asset):
    return asset("face_landmarker")


@pytest.fixture(scope="session")
def text_encoder(asset):
    return asset("text_encoder")


@pytest.fixture
def offline(monkeypatch):
    """Send every download to a proxy that refuses it; yields what was asked for.

    The proxies come from the environment, where urllib reads them: nothing of ours is replaced.
    """
    asked = []

    class Refusing(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *args):
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    urllib.request.install_opener(None)  # the opener reads the proxies once
    yield asked
    urllib.request.install_opener(None)
    server.shutdown()
    server.server_close()
