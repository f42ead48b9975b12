"""Who is shown a recording, and whose answers one may take back, on a launched page."""

import hashlib
from dataclasses import replace

import gradio as gr
import pytest
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from annotations.queue import projects
from annotations.store import Store
from mmer.ui.auth import authorize
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import CONSENT, Service
from tests import synth
from tests.clients import client_of
from tests.test_label_tab import PASSWORD, filled, paths_in, start


@pytest.fixture
def served():
    """A function that serves a home and returns its service and address."""
    pages = []

    def serve(paths) -> tuple[Service, str]:
        service = Service(paths)
        pages.append(build(service))
        return service, pages[-1].launch(**LAUNCH, prevent_thread_lock=True, quiet=True)[1]

    yield serve
    for page in pages:
        page.close()


def put(store: Store, path, **how) -> None:
    """Register a file and put it in the project "voices"."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    clip = store.register_clip(path, sha256, name=path.name, **how)
    if "voices" not in {project.name for project in projects.projects(store)}:
        projects.create(store, "voices", actor="ada", gold_share=0, order="random")
    words = store.utterance(clip, transcript="what she said")
    projects.add_items(store, projects.project(store, "voices"), [words])


def test_a_stranger_saw_and_read_a_consented_recording(tmp_path, served):
    paths = replace(paths_in(tmp_path), host="0.0.0.0")  # open to everybody
    store = Store(paths.database_url, paths.media, paths.features)
    put(store, synth.write_clip(tmp_path / "a.wav", seconds=0.6), consent_text=CONSENT)
    _, url = served(paths)
    (item,) = start(client_of(url))["items"]
    assert (item["media"], item["transcript"]) == (None, "")
    assert "only for the people whom the owner of this page lets in" in item["note"]
    Accounts(paths.accounts).add("ann", PASSWORD, "annotator")
    _, url = served(paths)
    (item,) = start(client_of(url, auth=("ann", PASSWORD)), "ann")["items"]
    assert item["transcript"] == "what she said"
    assert item["media"].startswith("media/label-")
    assert "seen and heard by the people whom the owner of this page lets label here" in CONSENT


def test_the_owners_own_recording_is_shown_to_whom_the_page_is_open(tmp_path, served):
    _, url = served(replace(filled(tmp_path, 1), host="0.0.0.0"))
    (item,) = start(client_of(url))["items"]
    assert item["media"].startswith("media/label-")


def test_every_account_of_the_hub_saw_consented_recordings(tmp_path):
    service = Service(replace(paths_in(tmp_path), space="ada/faces", host="0.0.0.0"))
    service.accounts.add("ann", None, "annotator")
    seen = {}
    for name in ("ada", "ann", "stranger"):
        profile = gr.OAuthProfile({"name": name, "preferred_username": name, "profile": "", "picture": ""})
        person = authorize(service, "label", None, profile)
        seen[name] = (person.role, person.let_in)
    assert seen == {"ada": ("admin", True), "ann": ("annotator", True), "stranger": ("annotator", False)}
    service.store.engine.dispose()


def test_a_file_of_the_server_was_shown_as_a_film(tmp_path, served):
    paths = paths_in(tmp_path)
    secret = tmp_path / "passwd.mp4"
    secret.write_text("root:x:0:0:root:/root:/bin/bash\n" * 50)
    store = Store(paths.database_url, paths.media, paths.features)
    put(store, secret, in_place=True)
    _, url = served(paths)
    (item,) = start(client_of(url))["items"]
    assert item["media"] is None
    assert "Say that it is broken." in item["note"]
    detail, *_ = client_of(url).predict(item["item_id"], "all", "ada", api_name="/review_open")
    assert "src=" not in str(detail)
    assert "root" not in str(detail)


def test_who_typed_a_name_took_its_answers_back(tmp_path, served):
    service, url = served(filled(tmp_path, 2))
    bea, eve = client_of(url), client_of(url)
    start(bea, "bea")
    bea.predict(["anger"], api_name="/label_submit")
    start(eve, "bea")
    with pytest.raises(AppError, match="the last answer under this name was given elsewhere"):
        eve.predict(api_name="/label_undo")
    assert [label.emotions for label in service.store.labels()] == [{"anger": 1.0}]
    bea.predict(api_name="/label_undo")
    assert list(service.store.labels()) == []


def test_who_logs_in_takes_answers_back_on_any_page(tmp_path, served):
    paths = filled(tmp_path, 2)
    Accounts(paths.accounts).add("ann", PASSWORD, "annotator")
    service, url = served(paths)
    for endpoint, given in (("/label_submit", [["anger"]]), ("/label_undo", [])):
        client = client_of(url, auth=("ann", PASSWORD))
        start(client, "ann")
        client.predict(*given, api_name=endpoint)
    assert list(service.store.labels()) == []
