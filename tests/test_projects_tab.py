"""The Projects tab through its endpoints: what an owner without a command line does, and what nobody else may."""

import zipfile
from pathlib import Path

import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from annotations.queue import progress, projects, uploads
from annotations.queue.assignment import Answer, Queue
from annotations.queue.uploads import unpack
from mmer.errors import LabelError
from tests import synth
from tests.clients import client_of
from tests.test_label_tab import PASSWORD, filled, paths_in, served, start

__all__ = ["served"]


@pytest.fixture
def archive(tmp_path):
    """A zip of two recordings, a table that names one, and what must not come out of it."""
    files = [
        synth.write_clip(tmp_path / f"{i}.wav", seconds=0.6, voice=synth.voice(0.6, pitch_hz=100 + 20 * i, seed=i))
        for i in range(2)
    ]
    out = tmp_path / "clips.zip"
    with zipfile.ZipFile(out, "w") as made:
        for file in files:
            made.write(file, f"takes/{file.name}")
        made.writestr("../outside.wav", b"x")
        made.writestr("/etc/outside.wav", b"x")
        made.writestr("takes/program.exe", b"x")
    return out


def test_a_project_is_made_filled_labelled_and_exported_in_the_page(tmp_path, served, archive):
    service, url = served(paths_in(tmp_path / "home"))
    client = client_of(url)
    with pytest.raises(AppError, match="a project needs a name"):
        client.predict("  ", api_name="/project_save")
    client.predict("voices", "Judge what is **heard**.", gold_share=0.0, order="random", api_name="/project_save")
    project = projects.project(service.store, "voices")
    assert (project.guidelines, project.order, project.gold_share) == ("Judge what is **heard**.", "random", 0.0)
    with pytest.raises(AppError, match="say what the recorded people agreed to"):
        client.predict("voices", handle_file(archive), " ", api_name="/project_add")
    told = str(client.predict("voices", handle_file(archive), "they agreed", api_name="/project_add"))
    assert "2 items are new in voices, 0 were there already." in told
    assert len(list(service.paths.media.glob("*.wav"))) == 2  # the upload goes, the media stays
    assert not list(service.paths.imports.glob("*"))
    with service.store.reading() as session:
        texts = session.connection().exec_driver_sql("SELECT DISTINCT text FROM consents").scalars().all()
    assert texts == ["they agreed"]
    assert len(start(client)["items"]) == 2
    client.predict(["fear"], api_name="/label_submit")
    assert '<th scope="row">bea</th><td>1</td>' in str(client.predict("voices", api_name="/project_show"))
    exported, told = client.predict("csv", api_name="/project_export")
    assert "1 labels are in labels.csv" in told
    assert "fear" in Path(exported).read_text()
    told = str(client.predict("voices", handle_file(exported), "csv", api_name="/project_import"))
    assert "0 labels are new, 1 were there already" in told
    client.predict("voices", "Changed.", per_item=3, gold_share=0.0, order="random", api_name="/project_save")
    assert projects.project(service.store, "voices").per_item == 3


def test_a_table_of_sentences_fills_a_project(tmp_path, served):
    service, url = served(paths_in(tmp_path / "home"))
    client = client_of(url)
    client.predict("words", api_name="/project_save")
    table = tmp_path / "sentences.csv"
    table.write_text("text\nI will not go\nso it is\n")
    told = str(client.predict("words", handle_file(table), "made up by us", api_name="/project_add"))
    assert "2 items are new in words" in told
    assert projects.counts(service.store, projects.project(service.store, "words"))["items"] == 2


def test_who_may_not_manage_is_refused_at_every_endpoint(tmp_path, served, archive):
    (tmp_path / "home").mkdir()
    paths = filled(tmp_path / "home")
    for name, role in (("rita", "reviewer"), ("ada", "admin")):
        Accounts(paths.accounts).add(name, PASSWORD, role)
    service, url = served(paths)
    rita = client_of(url, auth=("rita", PASSWORD))
    calls = {
        "/project_show": ("voices",),
        "/project_save": ("mine",),
        "/project_add": ("voices", handle_file(archive), "yes"),
        "/project_export": ("csv",),
        "/project_import": ("voices", handle_file(archive), "csv"),
        "/project_role": ("rita", "admin"),
        "/project_remove_account": ("ada",),
    }
    for endpoint, given in calls.items():
        with pytest.raises(AppError, match="to manage takes the role admin"):
            rita.predict(*given, api_name=endpoint)
    assert "items:" not in str(rita.predict("voices", api_name="/project_list"))
    assert {person.name: person.role for person in service.accounts.people()} == {"ada": "admin", "rita": "reviewer"}
    ada = client_of(url, auth=("ada", PASSWORD))
    ada.predict("rita", "annotator", api_name="/project_role")
    assert service.accounts.person("rita").role == "annotator"
    with pytest.raises(AppError, match="you could lock yourself out"):
        ada.predict("ada", "viewer", api_name="/project_role")


def test_an_archive_leads_nowhere_outside_and_has_an_end(tmp_path, archive, monkeypatch):
    assert unpack(archive, tmp_path / "out") == 2
    assert sorted(str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*") if f.is_file()) == [
        "takes/0.wav",
        "takes/1.wav",
    ]
    monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    with pytest.raises(LabelError, match="upload it in parts"):
        unpack(archive, tmp_path / "small")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(LabelError, match=r"no\.zip cannot be unpacked .*a zip without a password is needed"):
        unpack(tmp_path / "no.zip", tmp_path / "none")


def test_progress_is_by_annotator(store):
    project = projects.create(store, "voices", gold_share=0, order="random", actor="ada")
    clips = [store.register_clip(None, f"{i:064x}", name=f"clip {i}") for i in range(3)]
    projects.add_items(store, project, [store.utterance(clip, transcript="so it is") for clip in clips])
    queue = Queue(store, project)
    for task in queue.next("ann", 2):
        queue.submit(task.assignment_id, "ann", Answer("fear"))
    queue.next("bea", 1)
    with store.reading() as session:
        found = progress.by_annotator(session, project.id)
    assert [(one.name, one.done, one.held) for one in found] == [("ann", 2, 0), ("bea", 0, 1)]
