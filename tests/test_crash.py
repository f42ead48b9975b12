"""Retraining that is killed or meets a full disk: what served goes on, and the list has nothing half-written."""

import os
import resource
import subprocess
import sys

import pytest
from sqlalchemy import select

from annotations.db.schema import TrainingRunRecord
from annotations.store import Store
from mmer import checkpoint
from mmer.config import ROOT, Config, ModelConfig
from mmer.errors import CheckpointError
from mmer.ui.service import Service
from tests.homes import paths_of, tiny_home
from tests.load.retrain_kill import measure
from tests.test_model import make_model
from training.corrections.lock import locked


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="only systems with fork can kill a copy of this process")
def test_a_run_killed_where_it_decides_leaves_a_model_that_serves(tmp_path):
    """The last writes of a run save the checkpoint, record the verdict and put it in use."""
    n_kills, wrong = measure(tmp_path, every=3, last=4)
    assert n_kills == 4
    assert wrong == []


def left_by_a_kill(tmp_path, *, decided: bool) -> tuple:
    """Return a home, its store and a checkpoint that a run saved before it was killed."""
    paths = tiny_home(tmp_path / "home", n_clips=1)
    store = Store(paths.database_url, paths.media, paths.features)
    run = store.start_run("tiny")
    meta = {"parent": "tiny", "run": run}
    name = checkpoint.save(make_model(seed=5), Config(model=ModelConfig.tiny()), paths.checkpoints, meta)
    if decided:
        store.finish_run(run, "promoted", checkpoint=name, report={})
    (paths.home / "retrain.lock").write_text(f"1 {run}")
    return paths, store, name


def verdicts(store: Store) -> list[str | None]:
    with store.reading() as session:
        return list(session.scalars(select(TrainingRunRecord.verdict)))


def test_what_a_killed_run_saved_before_its_verdict_goes(tmp_path):
    paths, store, name = left_by_a_kill(tmp_path, decided=False)
    assert name in checkpoint.listing(paths.checkpoints)
    with locked(paths.home, store):
        assert checkpoint.listing(paths.checkpoints) == ["tiny"]
    assert (verdicts(store), checkpoint.promoted(paths.checkpoints)) == (["killed"], "tiny")


def test_a_verdict_that_was_on_record_is_carried_out(tmp_path):
    paths, store, name = left_by_a_kill(tmp_path, decided=True)
    with locked(paths.home, store):
        assert checkpoint.promoted(paths.checkpoints) == name
    assert verdicts(store) == ["promoted"]


def test_a_verdict_is_not_carried_out_against_a_later_choice(tmp_path):
    paths, store, name = left_by_a_kill(tmp_path, decided=True)
    checkpoint.promote(name, paths.checkpoints, by="ada")
    checkpoint.roll_back(paths.checkpoints, by="ada")
    with locked(paths.home, store):
        assert checkpoint.promoted(paths.checkpoints) == "tiny"


def limited(paths, n_bytes: int) -> subprocess.CompletedProcess:
    """Retrain where no file may grow beyond a size: writes fail as they do on a full disk."""
    return subprocess.run(
        [sys.executable, "training/retrain.py", "--home", str(paths.home)],
        cwd=ROOT,
        env={**os.environ, "MMER_HOME": str(paths.home), "MMER_ASSETS": str(paths.assets)},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes)),
    )


def test_a_full_disk_is_one_clear_error_and_the_page_goes_on(tmp_path):
    paths = tiny_home(tmp_path / "home", n_clips=60)
    service = Service(paths_of(tmp_path / "home"))
    assert service.health()["status"] == "ok"
    weights = (paths.checkpoints / "tiny" / "model.safetensors").stat().st_size
    database = (paths.home / "mmer.db").stat().st_size
    assert database < weights - 100_000  # there is room for the run's rows, not for a checkpoint
    done = limited(paths, weights - 50_000)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error: a checkpoint cannot be written to checkpoints/: " in done.stderr
    assert "what served goes on" in done.stderr
    assert sorted(p.name for p in paths.checkpoints.iterdir()) == ["PROMOTED", "promotions.jsonl", "tiny"]
    assert verdicts(service.store) == ["failed: CheckpointError"]
    assert service.health() == {"status": "ok", "checkpoint": "tiny", "device": "cpu"}


def test_a_log_that_cannot_be_written_takes_no_checkpoint_back(tmp_path):
    """It was promoted already; who saw an error there deleted what served."""
    paths = tiny_home(tmp_path / "home", n_clips=1)
    name = checkpoint.save(make_model(seed=5), Config(model=ModelConfig.tiny()), paths.checkpoints, {"parent": "tiny"})
    (paths.checkpoints / checkpoint.LOG).unlink()
    (paths.checkpoints / checkpoint.LOG).mkdir()
    checkpoint.promote(name, paths.checkpoints)
    assert checkpoint.promoted(paths.checkpoints) == name


def test_a_pointer_that_cannot_be_written_leaves_the_old_one(tmp_path):
    paths = tiny_home(tmp_path / "home", n_clips=1)
    name = checkpoint.save(make_model(seed=5), Config(model=ModelConfig.tiny()), paths.checkpoints, {"parent": "tiny"})
    (paths.checkpoints / f".PROMOTED-{os.getpid()}").mkdir()
    with pytest.raises(CheckpointError, match="which checkpoint serves cannot be written to checkpoints/: Is a dir"):
        checkpoint.promote(name, paths.checkpoints)
    assert checkpoint.promoted(paths.checkpoints) == "tiny"
