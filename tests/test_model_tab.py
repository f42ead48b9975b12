"""The Model tab: who may do what, a retraining in its own process, what is told of it."""

import asyncio
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.store import Store
from annotations.training_runs import TrainingRun, fresh_labels, outdated_answers, recent
from mmer import checkpoint, versions
from mmer.config import Config, ModelConfig, Paths
from mmer.errors import MmerError, TrainingError
from mmer.ui import label_view, model_html
from mmer.ui.page import LAUNCH, build
from mmer.ui.retraining import Progress, Retraining, watch
from mmer.ui.service import Service
from mmer.versions import Version
from tests.clients import client_of
from tests.homes import tiny_home
from tests.test_label_tab import PASSWORD, PREDICTION, filled
from tests.test_model import make_model
from tests.until import until

QUICK = [sys.executable, "-m", "training.retrain"]
ACTIONS = ("/model_start", "/model_cancel", "/model_answer_anew", "/model_roll_back", "/model_watch")
FIGURES = {"uar": 0.5, "accuracy": 0.5, "nll": 1.0, "ece": 0.1}
FOUND = {"served": FIGURES, "new": {**FIGURES, "uar": 0.75}, "better": 0.97, "judgements": 80}


@pytest.fixture
def served():
    """A function that serves a service and returns its address."""
    pages = []

    def serve(service: Service) -> str:
        pages.append(build(service))
        return pages[-1].launch(**LAUNCH, prevent_thread_lock=True, quiet=True)[1]

    yield serve
    for page in pages:
        page.close()


def quick(service: Service) -> Service:
    service.retraining = Retraining(service.paths, service.store, QUICK)
    return service


@pytest.mark.slow
def test_a_run_of_its_own_process_promotes_and_is_told_of(tmp_path):
    service = quick(Service(tiny_home(tmp_path, n_clips=60)))
    running = service.retraining
    assert (fresh_labels(service.store), running.progress()) == (60, Progress(False))
    running.start("ada")
    assert running.progress().running
    with pytest.raises(TrainingError, match="a retraining runs already"):
        running.start("bea")
    running.wait(240)
    ended = running.progress()
    assert (ended.running, ended.status) == (False, 0), ended.log
    new = checkpoint.promoted(service.paths.checkpoints)
    assert f"promoted {new}: UAR" in " ".join(ended.log)
    assert versions.promotions(service.paths.checkpoints)[-1].by == "ada"
    assert fresh_labels(service.store) == 0
    (run,) = recent(service.store, 5)
    assert (run.verdict, run.checkpoint) == ("promoted", new)
    assert "The run ended with a promotion." in model_html.progress(ended)
    assert service.health()["checkpoint"] == new


def test_a_cancelled_run_changes_nothing(tmp_path):
    service = quick(Service(tiny_home(tmp_path, n_clips=60)))
    with pytest.raises(TrainingError, match="no retraining runs"):
        service.retraining.cancel()
    service.retraining.start("ada")
    service.retraining.cancel()
    service.retraining.wait(120)
    ended = service.retraining.progress()
    assert ended.status in (130, -15)  # -15: before it had begun
    assert "The run was cancelled; nothing changed." in model_html.progress(ended)
    assert checkpoint.promoted(service.paths.checkpoints) == "tiny"


def test_a_run_starts_by_itself_after_so_many_labels_and_not_again_with_the_same(tmp_path):
    paths = tiny_home(tmp_path, n_clips=30)
    idle = [sys.executable, "-c", "raise SystemExit(4)"]  # as with too few labels: nothing is used up
    for setting, due in ((0, False), (31, False), (30, True)):
        service = Service(replace(paths, retrain_after=setting))
        running = Retraining(service.paths, service.store, idle)
        assert running.start_if_due() is due
    running.wait(60)
    assert running.progress().status == 4
    assert running.start_if_due() is False


def test_one_error_of_the_database_ended_automatic_retraining(tmp_path, caplog):
    paths = replace(tiny_home(tmp_path, n_clips=2), retrain_after=1)
    service = Service(paths)
    running = Retraining(paths, service.store, [sys.executable, "-c", "raise SystemExit(4)"])

    def rename(old: str, new: str) -> None:
        with service.store.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    async def serve() -> None:
        async with watch(running, every_s=0.05)(None):
            await asyncio.to_thread(until, lambda: "OperationalError" in caplog.text)
            rename("away", "current_labels")
            await asyncio.to_thread(until, lambda: running.progress().status == 4)

    rename("current_labels", "away")
    asyncio.run(serve())


def test_a_run_that_was_started_elsewhere_is_seen_and_one_that_is_dead_is_not(tmp_path):
    paths = tiny_home(tmp_path, n_clips=1)
    running = Service(paths).retraining
    (paths.home / "retrain.lock").write_text("999999999 1")
    assert not running.progress().running
    script = (
        "import sys, time; from pathlib import Path; from annotations.store import Store\n"
        "from training.corrections.lock import locked\n"
        f"with locked(Path({str(paths.home)!r}), Store({paths.database_url!r}, Path({str(paths.media)!r}))):\n"
        "    time.sleep(60)"
    )
    elsewhere = Retraining(paths, running.store, [sys.executable, "-c", script])
    elsewhere.start("ada")
    until = time.monotonic() + 60
    while not running.progress().running and time.monotonic() < until:
        time.sleep(0.2)
    assert running.progress().elsewhere
    with pytest.raises(TrainingError, match="runs already"):
        running.start("bea")
    running.cancel()
    elsewhere.wait(30)
    assert elsewhere.progress().status == -15


def test_who_may_not_manage_starts_nothing(tmp_path, served):
    paths = tiny_home(tmp_path, n_clips=1)
    for name, role in (("ann", "annotator"), ("rita", "reviewer"), ("ada", "admin")):
        Accounts(paths.accounts).add(name, PASSWORD, role)
    service = Service(paths)
    url = served(service)
    ann, rita, ada = (client_of(url, auth=(name, PASSWORD)) for name in ("ann", "rita", "ada"))
    with pytest.raises(AppError, match="to review takes the role reviewer"):
        ann.predict("ann", api_name="/model")
    for endpoint in ACTIONS:
        with pytest.raises(AppError, match="to manage takes the role admin"):
            rita.predict("ada", api_name=endpoint)
    _, overview, _, log, *_ = rita.predict("rita", api_name="/model")
    assert "In use: <strong>tiny</strong>" in overview
    assert log == ""  # it names clips
    with pytest.raises(AppError, match="no parent to go back to"):
        ada.predict("ada", api_name="/model_roll_back")
    with pytest.raises(AppError, match="no retraining runs"):
        ada.predict("ada", api_name="/model_cancel")
    service.store.engine.dispose()


def test_an_administrator_rolls_back_under_their_name(tmp_path, served):
    paths = tiny_home(tmp_path, n_clips=1)
    child = checkpoint.save(make_model(seed=1), Config(model=ModelConfig.tiny()), paths.checkpoints, {"parent": "tiny"})
    checkpoint.promote(child, paths.checkpoints, by="ada")
    status, overview, *_ = client_of(served(Service(paths))).predict("zora", api_name="/model_roll_back")
    assert "tiny serves again" in status
    assert "In use: <strong>tiny</strong>" in overview
    assert versions.promotions(paths.checkpoints)[-1].by == "zora"


def test_the_overview_says_what_the_gate_said_in_numbers_and_words():
    made = [
        Version("base", False, metrics={"all": {"uar": 0.4}}),
        Version("20261101T000000-aaaaaaaa", True, "base", metrics={"people": FOUND, "strangers": None}),
        Version("broken", False, problem="checkpoint 'broken' cannot be used"),
    ]
    report = {
        "people": FOUND,
        "strangers": None,
        "base": {},
        "needed": 0.9,
        "reasons": ["for strangers it is not better (UAR 0.5 -> 0.4)"],
        "advice": ["label more clips"],
        "data": {"train": {"clips": 40, "speakers": 3, "labels": 52}},
    }
    at = datetime(2026, 11, 1, tzinfo=timezone.utc)
    html = model_html.overview(
        made, [TrainingRun(3, at, at, "base", None, "refused", report)], fresh=1, outdated=2, automatic=50
    )
    assert "In use: <strong>20261101T000000-aaaaaaaa</strong>" in html
    assert "1 label came since the last run." in html
    assert "A run starts by itself after 50." in html
    assert "2 stored answers are by an older checkpoint" in html
    assert "Run 3: the new model was refused, the old one goes on" in html
    assert "<li>For strangers it is not better (UAR 0.5 -&gt; 0.4).</li>" in html
    assert "What would help: Label more clips." in html
    assert "better with 90 % confidence" in html
    assert html.count('class="mm-dot"') == 1
    assert "20261101T000000-aaaaaaaa, people who were labelled: UAR 0.500 before, 0.750 after" in html
    assert "Checkpoint &#39;broken&#39; cannot be used." in html
    assert "3 versions, the newest first" in html
    alone = model_html.overview(made[:1], [], fresh=0, outdated=0, automatic=0)
    assert "<summary>1 version</summary>" in alone  # it said "1 versions, the newest first"


def test_how_a_run_ended_is_said_in_words():
    for status, words in ((3, "the gate refused"), (4, "too few labels"), (-9, "killed by signal 9")):
        assert words in model_html.progress(Progress(False, status=status))
    failed = Progress(
        False, status=1, log=("clips: 100%", "error: a checkpoint cannot be written to checkpoints/: full")
    )
    assert "The run failed; nothing changed. a checkpoint cannot be written" in model_html.progress(failed)
    assert model_html.progress(Progress(False)) == ""


def test_answers_of_an_older_checkpoint_are_counted_and_marked(tmp_path):
    paths = filled(tmp_path, 2)
    store = Store(paths.database_url, paths.media, paths.features)
    store.add_prediction(1, {**PREDICTION, "checkpoint": "newer"})
    assert outdated_answers(store, "newer") == 1
    assert outdated_answers(store, "base") == 1
    (task, other) = Queue(store, projects.project(store, "voices")).next("ann", 2)
    answers = {t.clip_id: label_view.model_answer(t, "newer") for t in (task, other)}
    assert "older" not in answers[1]
    assert "This answer is of an older checkpoint, base; newer serves now." in answers[2]


def test_a_bad_setting_is_said_so(monkeypatch):
    monkeypatch.setenv("MMER_RETRAIN_AFTER", "often")
    with pytest.raises(MmerError, match="MMER_RETRAIN_AFTER is 'often'; a whole number of labels is needed"):
        Paths.from_env()
