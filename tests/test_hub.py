"""Checkpoints that go to the hub and come back, through a server that speaks that part of its API."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmer import checkpoint, hub, versions
from mmer.config import ROOT, Config, ModelConfig, Paths
from mmer.errors import CheckpointError, TrainingError
from mmer.ui.service import Service
from tests.model_hub import REPO, TOKEN, model_hub
from tests.test_model import make_model
from training.corrections.push import card, push

FIGURES = {"uar": 0.5, "accuracy": 0.5, "nll": 1.0, "ece": 0.1}
PEOPLE = {"served": FIGURES, "new": {**FIGURES, "uar": 0.625}, "gain": 0.125, "error": 0.04, "judgements": 80}
META = {
    "parent": "base",
    "run": 7,
    "verdict": "promoted",
    "metrics": {"people": PEOPLE, "strangers": None},
    "data": {"train": {"clips": 40, "speakers": 3, "labels": 52, "sha256": "ab" * 32}},
}


def paths_in(home: Path) -> Paths:
    return replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu")


def made(paths: Paths, name: str | None = None, seed: int = 0) -> str:
    return checkpoint.save(make_model(seed=seed), Config(model=ModelConfig.tiny()), paths.checkpoints, META, name=name)


@pytest.fixture
def server():
    with model_hub() as (url, repo):
        yield url, repo


def run(url: str, home: Path, *command: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    """Run a command as somebody whose hub is the server: its library reads the variables when it is imported."""
    environment = {**os.environ, "MMER_HOME": str(home), "HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_push_is_private_and_tells_the_figures_and_nothing_of_this_database(server, tmp_path):
    url, repo = server
    paths = paths_in(tmp_path)
    name = made(paths)
    address = push(paths, name, REPO, endpoint=url, token=TOKEN)
    commit, files = repo.commits[-1]
    assert address == f"hf:{REPO}@{commit}"
    assert repo.private is True
    assert set(files) == {"meta.json", "model.safetensors", "README.md"}
    assert files["model.safetensors"] == (paths.checkpoints / name / "model.safetensors").read_bytes()
    assert "run" not in json.loads(files["meta.json"])
    text = files["README.md"].decode()
    assert text.startswith("---\nlicense: other\n")
    assert "| people who were labelled | 80 | 0.500 | 0.625 | +0.125, 0.040 | 0.100 |" in text
    assert "| train | 40 | 3 | 52 | `abababababababab` |" in text


def test_a_public_repository_takes_only_what_is_said_to_be_public(server, tmp_path):
    url, repo = server
    paths = paths_in(tmp_path)
    name = made(paths)
    repo.private = False
    with pytest.raises(TrainingError, match="model ann/model is public; make it private, or say --public"):
        push(paths, name, REPO, endpoint=url, token=TOKEN)
    assert repo.commits == []
    push(paths, name, REPO, public=True, endpoint=url, token=TOKEN)
    assert len(repo.commits) == 1


def test_public_makes_a_public_repository(server, tmp_path):
    url, repo = server
    paths = paths_in(tmp_path)
    push(paths, made(paths), REPO, public=True, endpoint=url, token=TOKEN)
    assert repo.private is False


def test_a_push_that_fails_is_one_clear_error(server, tmp_path):
    url, repo = server
    paths = paths_in(tmp_path)
    name = made(paths)
    with pytest.raises(TrainingError, match="cannot push to ann/model: .*401") as raised:
        push(paths, name, REPO, endpoint=url, token="hf_wrong")
    assert raised.value.code == "push_failed"
    with pytest.raises(TrainingError, match="cannot push to ann/model/x: Repo id must be"):
        push(paths, name, "ann/model/x", endpoint=url, token=TOKEN)
    assert repo.commits == []


def test_a_model_that_was_forced_says_so_on_its_card():
    meta = {"emotions": ["anger"], "verdict": "forced", "parent": "base"}
    assert "It was put in use by force" in card(meta, "x", "a/b")
    assert "None were measured" in card(meta, "x", "a/b")


def test_an_address_is_namespace_and_name(tmp_path):
    for address in ("hf:model", "hf:a/b/c", "hf:a/b@../x y", "hf:"):
        with pytest.raises(CheckpointError, match="is not hf:namespace/name or hf:namespace/name@revision"):
            hub.fetch(address, tmp_path)


def test_what_was_pushed_is_served_elsewhere(server, tmp_path):
    url, _ = server
    here, there = paths_in(tmp_path / "here"), paths_in(tmp_path / "there")
    first, second = made(here, seed=1), made(here, seed=2)
    at_first = push(here, first, REPO, endpoint=url, token=TOKEN)
    push(here, second, REPO, endpoint=url, token=TOKEN)
    assert hub.fetch(at_first, there.checkpoints, endpoint=url, token=TOKEN) == first
    meta = checkpoint.read_meta(first, there.checkpoints)
    assert (meta["id"], meta["source"], "run" in meta) == (first, at_first, False)
    assert sorted(p.name for p in there.checkpoints.iterdir()) == [first]
    checkpoint.promote(first, there.checkpoints)
    assert Service(there).health() == {"status": "ok", "checkpoint": first, "device": "cpu"}
    assert checkpoint.roll_back(there.checkpoints) == "base"
    assert hub.fetch(f"hf:{REPO}", there.checkpoints, endpoint=url, token=TOKEN) == second
    assert hub.fetch(f"hf:{REPO}@main", there.checkpoints, endpoint=url, token=TOKEN) == second
    assert checkpoint.listing(there.checkpoints) == sorted([first, second])


def test_the_command_line_fetches_what_it_promotes(server, tmp_path):
    url, _ = server
    here = paths_in(tmp_path / "here")
    name = made(here)
    address = push(here, name, REPO, endpoint=url, token=TOKEN)
    done = run(url, tmp_path / "there", "-m", "mmer", "checkpoint", "promote", address)
    assert (done.returncode, done.stdout) == (0, f"{name} serves; before it did base\n"), done.stderr


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (
            {"model.safetensors": b"other"},
            "bad_checkpoint",
            "the sha256 of model.safetensors is not the",
        ),
        ({"meta.json": b"[]"}, "bad_checkpoint", "its meta.json is none of a checkpoint"),
        ({"meta.json": None}, "hub_failed", "cannot be fetched"),
    ],
)
def test_what_is_damaged_is_said_so_and_not_listed(server, tmp_path, damage, code, words):
    url, repo = server
    here, root = paths_in(tmp_path / "here"), tmp_path / "there"
    push(here, made(here), REPO, endpoint=url, token=TOKEN)
    files = {**repo.commits[-1][1], **damage}
    repo.commits.append(("a" * 40, {name: body for name, body in files.items() if body is not None}))
    with pytest.raises(CheckpointError, match=f"hf:{REPO}@aaaa:? {words}") as raised:
        hub.fetch(f"hf:{REPO}@aaaa", root, endpoint=url, token=TOKEN)
    assert raised.value.code == code
    assert list(root.iterdir()) == []


def test_an_id_that_is_a_path_is_not_followed(server, tmp_path):
    url, repo = server
    here, root = paths_in(tmp_path / "here"), tmp_path / "there"
    push(here, made(here), REPO, endpoint=url, token=TOKEN)
    meta = json.loads(repo.commits[-1][1]["meta.json"])
    escaping = json.dumps({**meta, "id": "../../outside"}).encode()
    repo.commits.append(("c" * 40, {**repo.commits[-1][1], "meta.json": escaping}))
    name = hub.fetch(f"hf:{REPO}", root, endpoint=url, token=TOKEN)
    assert name == f"hub-{meta['weights_sha256'][:8]}"
    assert checkpoint.listing(root) == [name]


def test_what_is_not_there_or_not_for_us_is_said_so(server, tmp_path):
    url, _ = server
    here = paths_in(tmp_path / "here")
    push(here, made(here), REPO, endpoint=url, token=TOKEN)
    for address, token in ((f"hf:{REPO}@dddd", TOKEN), (f"hf:{REPO}", "hf_wrong"), ("hf:ann/other", TOKEN)):
        with pytest.raises(CheckpointError, match=f"{address} cannot be fetched: ") as raised:
            hub.fetch(address, tmp_path / "there", endpoint=url, token=token)
        assert raised.value.code == "hub_failed"
    with pytest.raises(CheckpointError, match="cannot be fetched: .*[Cc]onnect"):
        hub.fetch(f"hf:{REPO}", tmp_path / "there", endpoint="http://127.0.0.1:1", token=TOKEN)


def test_the_setting_is_followed_once_and_what_is_promoted_later_stays(tmp_path, caplog):
    paths = paths_in(tmp_path)
    first, second = made(paths, "first"), made(paths, "second", seed=1)
    set_to = replace(paths, checkpoint=first)
    assert Service(set_to).health()["checkpoint"] == first
    checkpoint.promote(second, paths.checkpoints, by="ada")
    hub.follow_setting(set_to)
    assert checkpoint.promoted(paths.checkpoints) == second
    hub.follow_setting(replace(paths, checkpoint=second))
    hub.follow_setting(set_to)  # changed, and changed back
    assert checkpoint.promoted(paths.checkpoints) == first
    assert [p.by for p in versions.promotions(paths.checkpoints)] == [
        "MMER_CHECKPOINT=first",
        "ada",
        "MMER_CHECKPOINT=second",
        "MMER_CHECKPOINT=first",
    ]
    hub.follow_setting(replace(paths, checkpoint="gone"))
    assert "'gone' is not in checkpoints/" in caplog.text
    assert "first goes on answering" in caplog.text
    assert checkpoint.promoted(paths.checkpoints) == first
