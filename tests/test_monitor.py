"""What programs learn of a served page: probes, figures, log lines; and a server that is asked to stop."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from annotations.accounts import Accounts
from mmer import checkpoint
from mmer.config import ROOT, Paths
from mmer.errors import MmerError
from mmer.ui import logs
from mmer.ui.line import PLACES
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests import synth
from tests.clients import client_of, http_get, http_post
from tests.load.served import wait_for
from tests.test_app import free_port, new_checkpoint
from tests.until import until

FORWARDED = {"x-forwarded-for": "203.0.113.9"}


@contextmanager
def served(home, **settings):
    """A page with a small model, its service and its address without the slash."""
    given = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu", **settings)
    new_checkpoint(given, 1)
    service = Service(given)
    page = build(service)
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    try:
        yield service, url.rstrip("/"), page
    finally:
        page.close(verbose=False)
        service.store.engine.dispose()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with served(tmp_path_factory.mktemp("home"), metrics_token="let me see") as found:
        yield found


def figures(url: str, **headers: str) -> dict[tuple[str, tuple], float]:
    """Return the values of /metrics by name and labels."""
    reply = http_get(f"{url}/metrics", headers=headers)
    assert reply.status_code == 200
    families = text_string_to_metric_families(reply.text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_figures_follow_what_the_page_did(page, voice_only, caplog):
    service, url, _ = page
    before = figures(url)
    client = client_of(url)
    with caplog.at_level(logging.INFO, "mmer.requests"):
        client.predict(audio=handle_file(voice_only), text="a secret of ann's", api_name="/analyse")
        client.predict("fear", annotator="bea", api_name="/save_label")
        with pytest.raises(AppError):
            client.predict("fear", annotator=" ", api_name="/save_label")
        with pytest.raises(AppError):
            client_of(url).predict(api_name="/explain")
    after = figures(url)

    def grown(name: str, *labels: str) -> float:
        return after.get((name, labels), 0) - before.get((name, labels), 0)

    assert grown("mmer_calls_total", "analyse", "ok") == grown("mmer_calls_total", "save", "ok") == 1
    assert grown("mmer_calls_total", "save", "no_annotator") == 1
    assert grown("mmer_calls_total", "explain", "nothing_analysed") == 1
    for stage in ("decode", "voice", "model", "total"):
        assert grown("mmer_stage_seconds_count", stage) == 1
    assert grown("mmer_stage_seconds_count", "speech") == 0  # the words were typed
    assert 0 < grown("mmer_stage_seconds_sum", "total") <= grown("mmer_call_seconds_sum", "analyse")
    assert grown("mmer_labels", "labels") == grown("mmer_labels", "clips") == 1
    assert (after["mmer_queue_length", ("waiting",)], after["mmer_ready", ()]) == (0, 1)
    served_by = checkpoint.promoted(service.paths.checkpoints)
    assert after["mmer_checkpoint_info", ("cpu", served_by, served_by)] == 1  # device, promoted, served
    assert after["process_resident_memory_bytes", ()] > 50e6

    lines = [json.loads(logs.JsonLines().format(record)) for record in caplog.records]
    assert [(line["call"], line["code"]) for line in lines] == [
        ("analyse", "ok"),
        ("save", "ok"),
        ("save", "no_annotator"),
        ("explain", "nothing_analysed"),
    ]
    assert lines[0]["checkpoint"] == served_by
    assert lines[0]["clip_s"] == 3
    assert 0 < lines[0]["stages_ms"]["total"] <= lines[0]["ms"]
    written = json.dumps(lines) + "".join(record.getMessage() for record in caplog.records)
    for private in ("secret", "ann's", "bea", "voice_only", "fear"):
        assert private not in written


def test_refused_requests_are_counted_by_why(page):
    _, url, _ = page
    before = figures(url)
    assert http_get(f"{url}/config", headers={"origin": "https://evil.example"}).status_code == 403
    assert http_post(f"{url}/gradio_api/queue/join", content=b"{").status_code == 422
    after = figures(url)
    for code in ("foreign_origin", "bad_json"):
        assert after["mmer_refusals_total", (code,)] - before.get(("mmer_refusals_total", (code,)), 0) == 1


def test_figures_are_not_for_strangers(page, tmp_path):
    _, url, _ = page
    for headers in (FORWARDED, FORWARDED | {"authorization": "Bearer let me"}, {"forwarded": "for=192.0.2.1"}):
        reply = http_get(f"{url}/metrics", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "not_allowed")
    assert ("mmer_ready", ()) in figures(url, **FORWARDED, authorization="Bearer let me see")
    Accounts(tmp_path / "accounts.json").add("ada", "long enough", "admin")
    with served(tmp_path) as (_, closed, _):
        assert http_get(f"{closed}/config").status_code == 401
        for probe in ("/healthz", "/readyz", "/metrics"):  # whoever watches a server has no account
            assert http_get(closed + probe).status_code == 200
        assert http_get(f"{closed}/metrics", headers=FORWARDED | {"authorization": "Bearer"}).status_code == 403
    assert http_get(f"{url}/healthz", headers={"host": "evil.example"}).status_code == 403


def test_ready_is_who_has_a_model_and_a_database(page):
    service, url, _ = page
    assert http_get(f"{url}/healthz").json() == {"status": "ok"}
    well = {"status": "ok", "model": "ok", "database": "ok", "server": "ok"}
    assert http_get(f"{url}/readyz").json() == well
    file, away = service.paths.home / "mmer.db", service.paths.home / "away"
    away.mkdir()
    service.store.engine.dispose()
    for part in service.paths.home.glob("mmer.db*"):  # the write-ahead log too, from which it could be read
        shutil.move(part, away)
    file.mkdir()
    try:
        time.sleep(1.1)  # an answer holds for a second
        reply = http_get(f"{url}/readyz")
        assert reply.status_code == 503
        assert reply.json() == well | {"status": "error", "database": "database_unavailable"}
        assert figures(url)["mmer_ready", ()] == 0
        assert http_get(f"{url}/healthz").status_code == 200
    finally:
        file.rmdir()
        for part in away.iterdir():
            shutil.move(part, service.paths.home)
    time.sleep(1.1)
    assert http_get(f"{url}/readyz").json() == well


def test_a_server_without_a_model_is_not_ready(tmp_path):
    with served(tmp_path) as (service, url, _):
        (service.paths.checkpoints / "PROMOTED").write_text("gone\n")
        reply = http_get(f"{url}/readyz")
        assert (reply.status_code, reply.json()["model"]) == (503, "no_checkpoint")


def test_the_log_of_a_start_names_the_settings_without_secrets(tmp_path, caplog):
    url = "postgresql+psycopg://ann:hunter2@db/mmer?sslmode=require&sslpassword=hunter3"
    paths = replace(Paths(home=tmp_path), database_url=url, metrics_token="hunter4", log="json")
    with caplog.at_level(logging.INFO, "mmer.server"):
        logs.tell_settings(paths, port="7860")
    (record,) = caplog.records
    line = json.loads(logs.JsonLines().format(record))
    assert line["settings"]["database_url"] == "postgresql+psycopg://***@db/mmer?sslmode=require&sslpassword=***"
    assert (line["settings"]["metrics_token"], line["settings"]["port"]) == ("(set)", "7860")
    assert "hunter" not in json.dumps(line) + record.getMessage()
    assert "hunter4" not in repr(paths)


def test_an_exception_in_json_quotes_nobody():
    try:
        raise ValueError("ann at home.mp4 says a secret")
    except ValueError:
        record = logging.LogRecord("mmer", logging.ERROR, __file__, 1, "analyse failed", None, sys.exc_info())
    line = json.loads(logs.JsonLines().format(record))
    assert (line["level"], line["exception"], line["message"]) == ("error", "ValueError", "analyse failed")
    assert re.search(r"test_monitor\.py:\d+ test_an_exception", line["stack"][0])
    assert "secret" not in json.dumps(line)


def test_the_plain_log_quoted_what_visitors_said():
    try:
        raise ValueError("ann at home.mp4 says a secret")
    except ValueError:
        record = logging.LogRecord("mmer", logging.ERROR, __file__, 1, "analyse failed", None, sys.exc_info())
    first, *through, kind = logs.PlainLines().format(record).split("\n")
    assert first.endswith("mmer ERROR analyse failed")
    assert re.search(r"test_monitor\.py:\d+ test_the_plain_log", through[-1])
    assert kind == "ValueError"


def test_a_kind_of_log_that_there_is_not(monkeypatch):
    monkeypatch.setenv("MMER_LOG", "xml")
    with pytest.raises(MmerError, match="MMER_LOG is 'xml'; plain or json is needed"):
        Paths.from_env()


def test_a_call_is_a_span_without_words_or_names(tmp_path, clips):
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)

    def ours() -> list:
        return [span for span in kept.get_finished_spans() if span.instrumentation_scope.name == "mmer"]

    film = synth.write_clip(clips / "a_secret_name.mp4", seconds=2, face=synth.face())
    with served(tmp_path) as (service, url, _):
        client = client_of(url)
        client.predict(video=handle_file(film), text="a secret sentence", api_name="/analyse")
        with pytest.raises(AppError):
            client.predict(api_name="/analyse")
        until(lambda: len(ours()) == 2)
        name = service.predictor.checkpoint.id
    good, bad = ours()
    assert (good.name, good.attributes["mmer.code"], good.attributes["mmer.clip_s"]) == ("analyse", "ok", 2.0)
    assert good.attributes["mmer.checkpoint"] == name
    assert 0 < good.attributes["mmer.decode_ms"] <= good.attributes["mmer.total_ms"]
    assert (bad.name, bad.attributes["mmer.code"]) == ("analyse", "nothing_given")
    assert bad.end_time > bad.start_time
    assert "secret" not in str([dict(span.attributes) for span in (good, bad)])


def test_a_server_that_is_asked_to_stop_finishes_what_runs(tmp_path, clips):
    paths = replace(Paths.from_env(), home=tmp_path)
    new_checkpoint(paths, 1)
    long = synth.write_clip(clips / "till_the_end.mp4", seconds=10, fps=5, face=synth.face(), voice=False)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "MMER_HOME": str(tmp_path), "MMER_ASSETS": str(paths.assets), "MMER_LOG": "json"}
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(f"{url}/readyz", server)
        *runs, waits = (client_of(url) for _ in range(PLACES + 1))
        running = [client.submit(video=handle_file(long), api_name="/analyse") for client in runs]
        until(lambda: all(job.outputs() for job in running), seconds=180)
        waiting = waits.submit(video=handle_file(long), api_name="/analyse")
        until(lambda: figures(url)["mmer_queue_length", ("waiting",)] == 1)
        server.send_signal(signal.SIGTERM)
        until(lambda: http_get(f"{url}/readyz").status_code == 503)
        assert http_get(f"{url}/readyz").json()["server"] == "stopping"
        with pytest.raises(AppError, match="this server is being stopped; try again in a minute"):
            waiting.result(60)
        late = http_post(f"{url}/gradio_api/queue/join", json={"data": [], "session_hash": "late"})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "stopping")
        assert [job.result(240)["clip"] for job in running] == PLACES * ["till_the_end.mp4"]
        _, errors = server.communicate(timeout=60)
        assert server.returncode == 0
    finally:
        server.kill()
    lines = [json.loads(line) for line in errors.split("\n") if line.startswith("{")]
    assert lines[0]["settings"]["home"] == str(tmp_path)
    finished = [line for line in lines if line.get("call") == "analyse" and line["code"] == "ok"]
    assert [call["clip_s"] for call in finished] == PLACES * [10]
    assert (lines[-1]["logger"], lines[-1]["unfinished"]) == ("mmer.server", 0)
    assert "till_the_end" not in errors
