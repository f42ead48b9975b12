"""The page, launched and called through gradio_client as any program would."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from gradio_client import handle_file
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from mmer import branch_states, checkpoint
from mmer.config import ROOT, Config, ModelConfig, Paths
from mmer.errors import ClipError, LabelError
from mmer.labels import EMOTIONS, MODALITIES
from mmer.model import EmotionModel
from mmer.speech import Transcript, Word
from mmer.ui import card_html, render, result_html
from mmer.ui.examples import EXAMPLES
from mmer.ui.handlers import run_in_background
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import CONSENT, Service
from mmer.ui.turns import Turn, Turns
from tests import synth
from tests.clients import client_of
from tests.until import until

KEYS = {
    *("clip", "sha256", "duration_s", "emotion", "abstain", "probs", "present", "per_modality", "contribution"),
    *("transcript", "segments", "quality", "timing_ms", "checkpoint"),
}


def new_checkpoint(paths: Paths, seed: int) -> str:
    torch.manual_seed(seed)
    config = Config(model=ModelConfig.tiny())
    name = checkpoint.save(EmotionModel(config.model), config, paths.checkpoints, {"parent": None, "seed": seed})
    checkpoint.promote(name, paths.checkpoints)
    return name


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    given = Paths.from_env()
    paths = replace(given, home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu")
    new_checkpoint(paths, 1)
    return Service(paths)


@pytest.fixture(scope="module")
def url(service):
    page = build(service)
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture
def client(url):
    """A session of its own."""
    return client_of(url)


def analyse(client, **given) -> tuple[dict, str]:
    """Return the result as JSON and the card of the page."""
    files = [handle_file(v) for name, v in given.items() if name != "text"]
    raw, card, *_ = client.predict(files, given.get("text"), api_name="/page_analyse")
    return raw, card


def plain(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_a_clip_gives_the_contract(client, service, talk, face_model):
    raw, card = analyse(client, video=talk)
    assert set(raw) == KEYS
    assert raw["clip"] == "talk.mp4"
    assert tuple(raw["probs"]) == EMOTIONS
    for probs in (raw["probs"], raw["per_modality"]["face"]["probs"], raw["per_modality"]["voice"]["probs"]):
        assert sum(probs.values()) == pytest.approx(1, abs=1e-3)
    assert raw["emotion"] == max(raw["probs"], key=raw["probs"].get)
    assert sum(abs(c) for c in raw["contribution"].values()) == pytest.approx(1, abs=1e-3)
    assert raw["checkpoint"] == checkpoint.promoted(service.paths.checkpoints)
    text = plain(card)
    assert f"Perhaps {raw['emotion']} Confidence {100 * raw['probs'][raw['emotion']]:.0f} %" in text
    assert f"checkpoint {raw['checkpoint']}" in text
    for name, value in zip(("Face", "Voice"), raw["contribution"].values(), strict=False):
        assert f"{name} {'+' if value >= 0 else '−'}{abs(100 * value):.0f} %" in text


def test_text_alone_is_judged_by_its_words(client, text_encoder):
    raw, card = analyse(client, text="I did not expect that at all")
    assert raw["present"] == {"face": False, "voice": False, "text": True}
    assert raw["probs"] == raw["per_modality"]["text"]["probs"]
    text = plain(card)
    assert "Face not used: no picture was given." in text
    assert "Voice not used: no sound was given." in text
    assert "The words alone decided." in text


def test_nothing_given_says_what_to_give(client):
    with pytest.raises(AppError, match="nothing to analyse; give a video, a sound, a picture or a sentence"):
        client.predict(api_name="/analyse")


def test_after_a_bad_file_the_next_clip_works(client, tmp_path, voice_only):
    (tmp_path / "talk.mp4").write_text("these are words, not a film\n" * 40)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "face.jpg").write_text("no picture either")
    for given, message in (
        ({"video": tmp_path / "talk.mp4"}, r"talk\.mp4 cannot be read"),
        ({"audio": tmp_path / "empty.wav"}, r"empty\.wav is empty \(0 bytes\)"),
        ({"image": tmp_path / "face.jpg"}, r"face\.jpg cannot be read"),
    ):
        with pytest.raises(AppError, match=message):
            analyse(client, **given)
        with pytest.raises(AppError, match="analyse a clip first"):  # the failed clip left no older result behind
            client.predict("anger", annotator="ann", api_name="/save_label")
    raw, _ = analyse(client, audio=voice_only)
    assert raw["present"] == {"face": False, "voice": True, "text": False}


def test_a_bug_is_told_without_its_details(client, service, voice_only, caplog):
    weights = checkpoint.folder_of(checkpoint.promoted(service.paths.checkpoints), service.paths.checkpoints)
    broken = new_checkpoint(service.paths, 9)
    meta = service.paths.checkpoints / broken / "meta.json"
    changed = json.loads(meta.read_text())
    changed["config"]["voice"]["n_fft"] = "512 or so"
    meta.write_text(json.dumps(changed))
    with pytest.raises(AppError, match="^something went wrong in this program; the next clip will work$"):
        analyse(client, audio=voice_only)
    assert any(record.exc_info and "analyse failed" in record.message for record in caplog.records)
    checkpoint.promote(weights.name, service.paths.checkpoints)
    raw, _ = analyse(client, audio=voice_only)
    assert raw["checkpoint"] == weights.name


def rows(service) -> dict:
    counts = service.store.counts()
    return {name: counts[name] for name in ("clips", "predictions", "labels", "media")}


def added(service, before: dict) -> dict:
    return {name: n - before[name] for name, n in rows(service).items()}


def test_a_correction_without_consent_keeps_the_label_and_the_answer_only(client, service, tmp_path):
    clip = synth.write_clip(tmp_path / "ann at home.wav", seconds=2, voice=synth.voice(2, seed=5))
    raw, _ = analyse(client, audio=clip)
    before = rows(service)
    saved, told = client.predict(
        "fear", 0.8, "her voice trembles", "bea", transcript="do not go", speaker="ann", api_name="/save_label"
    )
    assert added(service, before) == {"clips": 1, "predictions": 1, "labels": 1, "media": 0}
    (label,) = service.store.labels(sha256=raw["sha256"])
    assert (label.emotions, label.confidence, label.comment) == ({"fear": 1.0}, 0.8, "her voice trembles")
    assert (label.annotator, label.speaker, label.transcript, label.media) == ("bea", "ann", None, None)
    assert "home" not in label.name
    assert not list(service.paths.media.glob(f"{raw['sha256']}*"))
    assert saved["checkpoint"] == raw["checkpoint"]
    assert "Not stored: the recording and the words, because you chose that nothing of the clip is kept." in plain(told)
    client.predict("cannot_tell", annotator="bea", api_name="/save_label")
    assert added(service, before) == {"clips": 1, "predictions": 1, "labels": 2, "media": 0}  # one answer, seen twice
    assert not list(service.store.labels(sha256=raw["sha256"]))
    assert [x.outcome for x in service.store.labels(["cannot_tell"], sha256=raw["sha256"])] == ["cannot_tell"]


def test_with_consent_the_recording_is_kept_under_its_hash(client, service, tmp_path):
    clip = synth.write_clip(tmp_path / "yes.wav", seconds=2, voice=synth.voice(2, seed=6))
    raw, _ = analyse(client, audio=clip)
    before = rows(service)
    with pytest.raises(AppError, match="a label needs the name of its annotator"):
        client.predict("anger", annotator=" ", keep="recording", api_name="/save_label")
    assert added(service, before) == {"clips": 0, "predictions": 0, "labels": 0, "media": 0}
    _, told = client.predict("anger", annotator="bea", keep="recording", transcript="go away", api_name="/save_label")
    (label,) = service.store.labels(sha256=raw["sha256"])
    assert label.media == service.paths.media / f"{raw['sha256']}.wav"
    assert label.media.read_bytes() == clip.read_bytes()
    assert (label.transcript, label.name) == ("go away", "yes.wav")
    assert "the words; the recording." in plain(told)
    assert "Not stored" not in told
    with service.store.engine.connect() as connection:
        assert CONSENT in connection.exec_driver_sql("SELECT text FROM consents").scalars().all()


def test_only_the_numbers_of_a_recording_can_be_kept(client, service, tmp_path):
    clip = synth.write_clip(tmp_path / "numbers.wav", seconds=2, voice=synth.voice(2, seed=8))
    raw, _ = analyse(client, audio=clip)
    before = rows(service)
    _, told = client.predict("anger", annotator="bea", keep="numbers", transcript="go away", api_name="/save_label")
    assert added(service, before) == {"clips": 1, "predictions": 1, "labels": 1, "media": 0}
    kept = "s numbers. Not stored: the recording and the words, because you chose that only numbers are kept."
    assert kept in plain(told)
    (label,) = service.store.labels(sha256=raw["sha256"])
    assert (label.media, label.transcript) == (None, None)
    loaded = service.predictor.checkpoint
    _, present, share = branch_states.load(label.states, loaded.model)
    assert present.tolist() == [[False, True, False]]
    assert share.tolist() == [1.0]
    assert label.states.stat().st_size < 10_000  # two seconds of sound would be 64,000


def test_the_same_saved_twice_is_stored_once(client, service, tmp_path):
    clip = synth.write_clip(tmp_path / "twice.wav", seconds=2, voice=synth.voice(2, seed=9))
    analyse(client, audio=clip)
    first, told = client.predict("anger", annotator="bea", keep="recording", api_name="/save_label")
    assert first["receipt"] in plain(told)
    before = rows(service)
    again, told = client.predict("anger", annotator="bea", keep="recording", api_name="/save_label")
    assert added(service, before) == dict.fromkeys(before, 0)
    assert (again["label_id"], again["receipt"], again["repeated"]) == (first["label_id"], None, True)
    assert "Stored already" in plain(told)
    changed, told = client.predict("fear", annotator="bea", keep="recording", api_name="/save_label")
    assert added(service, before) == {"clips": 0, "predictions": 0, "labels": 1, "media": 0}
    assert (changed["receipt"], changed["repeated"]) == (None, False)
    assert "the code you were given before is still the one" in plain(told)


def test_both_consents_at_once_are_no_choice(client, tmp_path):
    analyse(client, audio=synth.write_clip(tmp_path / "both.wav", seconds=2, voice=synth.voice(2, seed=10)))
    with pytest.raises(AppError, match="'both' cannot be kept; choose one of nothing, numbers, recording"):
        client.predict("anger", annotator="bea", keep="both", api_name="/save_label")


def test_a_receipt_code_deletes_everything_of_its_clip(client, service, tmp_path):
    clip = synth.write_clip(tmp_path / "gone.wav", seconds=2, voice=synth.voice(2, seed=11))
    before = rows(service)
    raw, _ = analyse(client, audio=clip)
    saved, _ = client.predict("anger", annotator="bea", keep="recording", api_name="/save_label")
    with pytest.raises(AppError, match="this is no receipt code: one has 5 groups of 5 letters and digits"):
        client.predict("4K7ZQ", api_name="/delete_by_receipt")
    with pytest.raises(AppError, match="nothing is stored under this code"):
        client.predict("-".join(["4K7ZQ"] * 5), api_name="/delete_by_receipt")
    media = service.paths.media / f"{raw['sha256']}.wav"
    assert media.exists()
    client.predict(saved["receipt"].lower().replace("-", " "), api_name="/delete_by_receipt")
    assert added(service, before) == dict.fromkeys(before, 0)
    assert not media.exists()
    with pytest.raises(AppError, match="nothing is stored under this code"):
        client.predict(saved["receipt"], api_name="/delete_by_receipt")
    with pytest.raises(AppError, match="cannot take in .*gone.wav: No such file"):  # the upload is gone too
        client.predict("anger", annotator="bea", keep="recording", api_name="/save_label")
    again, _ = client.predict("anger", annotator="bea", api_name="/save_label")  # it is anew then
    assert again["receipt"] not in (None, saved["receipt"])
    assert not again["repeated"]


def test_with_consent_a_sentence_is_kept_and_the_consent_too(client, service, text_encoder):
    raw, _ = analyse(client, text="I never said that")
    consents = "SELECT scope, text FROM consents JOIN clips ON clips.id = consents.clip_id WHERE sha256 = ?"
    for _ in range(2):
        client.predict("surprise", annotator="bea", keep="recording", api_name="/save_label")
        (label,) = service.store.labels(sha256=raw["sha256"])
        assert (label.transcript, label.media) == ("I never said that", None)
        with service.store.engine.connect() as connection:
            assert connection.exec_driver_sql(consents, (raw["sha256"],)).all() == [("words", CONSENT)]


def test_files_put_together_are_read_together_and_not_kept(client, service, still, voice_only, face_model):
    raw, _ = analyse(client, image=still, audio=voice_only)
    assert raw["present"] == {"face": True, "voice": True, "text": False}
    client.predict("happiness", annotator="bea", keep="recording", api_name="/save_label")
    (label,) = service.store.labels(sha256=raw["sha256"])
    assert label.media is None


def test_the_file_that_was_not_needed_is_named(client, talk, still, face_model):
    _, card = analyse(client, video=talk, image=still)
    assert "Still.jpg was not used: the picture comes from talk.mp4." in plain(card)


def test_other_words_are_read_without_decoding_again(client, voice_only, text_encoder):
    before, _ = analyse(client, audio=voice_only)
    raw, _card, words, *_ = client.predict("what a wonderful surprise", api_name="/rerun")
    assert raw["present"] == {"face": False, "voice": True, "text": True}
    assert raw["per_modality"]["voice"] == before["per_modality"]["voice"]
    assert raw["sha256"] == before["sha256"]
    assert (raw["timing_ms"]["decode"], raw["transcript"]["text"], words) == (0, *["what a wonderful surprise"] * 2)
    raw, *_ = client.predict("", api_name="/rerun")
    assert raw["probs"] == before["probs"]
    assert raw["present"]["text"] is False


def test_a_line_of_words_goes_to_its_utterance(service, clips, text_encoder):
    sound = synth.voice(24, pause_s=0.8)
    found = service.analyse([str(synth.write_clip(clips / "long.wav", seconds=24, voice=sound))], None)
    n = len(found.segments)
    assert n > 1
    lines = [f"line {i}" for i in range(n)]
    read = service.reread(found, "\n".join(lines))
    assert [" ".join(s.features.words) for s in read.segments] == lines
    read = service.reread(found, "the same for all")
    assert {" ".join(s.features.words) for s in read.segments} == {"the same for all"}
    card = plain(result_html.result(read))
    assert f"{n} utterances" in card
    assert f"{read.segments[1].start_s:.1f}–{read.segments[1].end_s:.1f} s {read.segments[1].emotion}" in card


def test_words_are_shown_with_their_times_and_escaped(service, voice_only):
    found = service.analyse([str(voice_only)], None)
    word = Word(" <img src=x onerror=alert(1)>", 0.5, 1.25, 0.9)
    found = replace(found, transcript=Transcript(word.text, "en", (word,), "ok"), clip="<b>clip</b>")
    html = result_html.word_times(found) + result_html.result(found)
    assert "&lt;img src=x onerror=alert(1)&gt; <small>0.50–1.25 s</small>" in html
    assert "<img" not in html
    assert "<b>" not in html


def test_an_explanation_sums_to_what_it_explains(client, text_encoder, voice_only):
    raw, _ = analyse(client, audio=voice_only, text="leave me <i>alone</i>")
    why, html, _ = client.predict(None, api_name="/page_explain")
    assert why["target"] == raw["emotion"]
    given = [v for v in why["modality"].values() if v is not None]
    assert sum(given) == pytest.approx(why["logit"] - why["baseline_logit"], abs=1e-3)
    assert [w["word"] for w in why["words"]] == ["leave", "me", "<i>alone</i>"]
    assert set(why["trust"]) == {"voice", "text"}
    text = plain(html)
    for w in why["words"][:2]:
        assert f"{w['word']} {render.signed(w['score'])}" in text
    assert "&lt;i&gt;alone" in html
    for trust in why["trust"].values():
        assert f"{trust['verdict'].capitalize()}." in text
    assert html.count("<img") == html.count('alt="') >= 1


def test_a_promoted_checkpoint_answers_the_next_clip(client, service, voice_only):
    old = client.predict(api_name="/health")
    first, _ = analyse(client, audio=voice_only)
    new = new_checkpoint(service.paths, 2)
    assert client.predict(api_name="/health") == {"status": "ok", "checkpoint": new, "device": "cpu"} != old
    second, _ = analyse(client, audio=voice_only)
    assert (first["checkpoint"], second["checkpoint"]) == (old["checkpoint"], new)
    assert first["probs"] != second["probs"]


# Correct, retrain, analyse again with the new checkpoint: tests/test_retrain.py drives this page too.


def test_sessions_do_not_see_each_other(url, voice_only):
    analyse(client_of(url), audio=voice_only)
    with pytest.raises(AppError, match="analyse a clip first"):
        client_of(url).predict(api_name="/explain")


def test_five_megabytes_of_words_held_the_model(client, service):
    with pytest.raises(AppError, match="words has 20,001 characters; up to 20,000 are accepted"):
        analyse(client, text="a" * 20_001)
    with pytest.raises(LabelError, match="up to 20,000 are accepted"):
        service.reread(None, "a" * 20_001)  # before anything is done with the result


def until_stopped(turn: Turn, heard: threading.Event) -> None:
    while not turn.should_stop():
        time.sleep(0.01)
    heard.set()


def test_a_clip_that_takes_too_long_is_given_up():
    heard, turn = threading.Event(), Turn(Turns(1, most_s=0.5))

    with pytest.raises(ClipError, match="takes longer than") as error:
        list(run_in_background(turn, lambda: until_stopped(turn, heard)))
    assert error.value.code == "too_slow"
    assert heard.wait(5)


def test_what_is_stopped_hears_of_it():
    heard, turn = threading.Event(), Turn(Turns(1))
    going = run_in_background(turn, lambda: until_stopped(turn, heard))
    assert next(going)[1] is None
    assert not heard.wait(0.2)
    going.close()
    assert heard.wait(5)


def test_a_stopped_analysis_lets_the_next_one_in(client, clips, voice_only):
    long = synth.write_clip(clips / "long_talk.mp4", seconds=60, fps=5, face=synth.face(), voice=False)
    job = client.submit(video=handle_file(long), api_name="/analyse")
    until(job.outputs)
    job.cancel()
    since = time.perf_counter()
    raw, _ = analyse(client, audio=voice_only)
    assert raw["clip"] == "voice_only.wav"
    assert time.perf_counter() - since < 30


def test_only_uploads_can_be_fetched(url, service):
    for file in (service.paths.home / "mmer.db", ROOT / "app.py", service.paths.checkpoints / "PROMOTED"):
        assert file.is_file()
        with pytest.raises(HTTPError, match="403"):
            urlopen(f"{url}gradio_api/file={file}")
    with pytest.raises(HTTPError, match=r"403|404"):
        urlopen(f"{url}monitoring/summary")
    config = json.load(urlopen(f"{url}config"))
    assert (config["run_history"], config["analytics_enabled"], config["show_error"]) == (False, False, False)


def test_every_event_has_a_stable_name(client):
    named = {f"/{each['api_name']}" for each in client.config["dependencies"] if each["api_visibility"] != "private"}
    named = {name for name in named if not re.search("_waits$|^/stop$", name)}
    documented = set(client.view_api(return_format="dict")["named_endpoints"])
    assert documented >= {
        f"/{name}" for name in ["analyse", "explain", "label", "next", "export", "versions", "health"]
    }
    analyse = "analyse explain label next export versions health page_analyse page_explain rerun save_label who"
    analyse += " add_files add_film add_sound remove_file explain_utterance choose_face halt"
    analyse += " download_html download_json download_vtt"
    analyse += "".join(f" example_{example.id}" for example in EXAMPLES)
    label = "projects make_project start submit cannot_tell skip broken undo reveal pause answers revisit"
    project = "list show save add export import role remove_account"
    review = "projects filter previous next open decide cannot_tell broken take_back"
    model = "start cancel answer_anew roll_back watch"
    assert named >= {
        *(f"/{name}" for name in analyse.split()),
        *(f"/label_{name}" for name in label.split()),
        *(f"/review_{name}" for name in review.split()),
        *(f"/model_{name}" for name in model.split()),
        "/review",
        "/model",
        "/delete_by_receipt",
        *(f"/project_{name}" for name in project.split()),
        *(f"/own_{name}" for name in ("labels", "open", "change", "delete")),
    }


def test_uploads_of_a_killed_server_are_swept(service):
    uploads = service.paths.home / "uploads"
    for name, age_s in (("old", 4000), ("young", 10)):
        (uploads / name).mkdir(parents=True)
        (uploads / name / "face.mp4").write_bytes(b"somebody")
        os.utime(uploads / name, (time.time() - age_s,) * 2)
    build(service)
    assert not (uploads / "old").exists()
    assert (uploads / "young" / "face.mp4").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(paths: Paths) -> Iterator[str]:
    """Run app.py and yield its address once it answers."""
    port = free_port()
    env = {**os.environ, "MMER_HOME": str(paths.home), "MMER_ASSETS": str(paths.assets)}
    with subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=env, text=True) as server:
        try:
            deadline = time.monotonic() + 240  # a few seconds where nothing else runs
            while time.monotonic() < deadline and server.poll() is None:
                try:
                    urlopen(f"http://127.0.0.1:{port}").close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_app_py_serves(service):
    with running(service.paths) as url:
        client = client_of(url)
        assert client.predict(api_name="/health")["checkpoint"] == checkpoint.promoted(service.paths.checkpoints)


def test_app_py_asks_who_is_there_once_there_are_accounts(tmp_path):
    paths = replace(Paths.from_env(), home=tmp_path)
    Accounts(paths.accounts).add("ada", "long enough", "admin")
    with running(paths) as url:
        for page in ("/config", "/gradio_api/info"):
            with pytest.raises(HTTPError, match="401"):
                urlopen(url + page)
        assert client_of(url, auth=("ada", "long enough")).predict(api_name="/health")["status"] == "ok"


def test_a_promoted_checkpoint_that_is_gone_or_damaged_kept_the_page_from_starting(tmp_path, monkeypatch):
    # `build` sets it for the whole process, where gradio reads it: put back at the end, for this file's own page.
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    paths = replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")
    name = new_checkpoint(paths, 1)
    (paths.checkpoints / name / checkpoint.META).write_text("{")
    build(Service(paths))
    assert f"{name}&#39; cannot be used" in card_html.figures(name, paths.checkpoints)
    (paths.checkpoints / "PROMOTED").write_text("gone\n")
    build(Service(paths))
    assert "checkpoint &#39;gone&#39; is not in checkpoints/; there are base" in card_html.figures(
        "gone", paths.checkpoints
    )


def test_bad_settings_end_with_one_line(tmp_path):
    env = {**os.environ, "MMER_HOME": str(tmp_path), "MMER_DATABASE_URL": "nonsense"}
    run = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "error: 'nonsense' is not a database URL; try sqlite:///data/mmer.db"


def test_the_wording_follows_the_numbers(service, voice_only):
    found = service.analyse([str(voice_only)], None)
    for top, words in ((0.8, "Clearly sadness"), (0.6, "Probably sadness"), (0.4, "Perhaps sadness")):
        probs = torch.full((len(EMOTIONS),), (1 - top) / (len(EMOTIONS) - 1)).numpy()
        probs[EMOTIONS.index("sadness")] = top
        text = plain(result_html.result(replace(found, emotion="sadness", probs=probs)))
        assert text.startswith(f"{words} Confidence {100 * top:.0f} %")
        assert ("take it as a guess" in text) == (top < 0.5)
    text = plain(result_html.result(replace(found, emotion="sadness", probs=probs, abstain=True)))
    assert text.startswith("No reliable answer; the best guess is sadness Confidence 40 %")


def test_a_verdict_that_its_channels_do_not_give_alone_is_explained(service, voice_only):
    found = service.analyse([str(voice_only)], None)

    def votes(**top: str) -> np.ndarray:
        """Each channel gives its emotion 0.7, and the others the rest."""
        rows = np.full((len(MODALITIES), len(EMOTIONS)), 0.05)
        for i, modality in enumerate(MODALITIES):
            if modality in top:
                rows[i, EMOTIONS.index(top[modality])] = 0.7
            else:
                rows[i] = np.nan
        return rows

    def card(contribution, **top: str) -> str:
        shown = replace(found, emotion="happiness", branch_probs=votes(**top), contribution=np.array(contribution))
        return plain(result_html.result(shown))

    told = card([0.0, 0.88, -0.12], voice="anger", text="neutral")
    assert "No channel alone puts happiness first (voice anger, words neutral): the model does not count" in told
    told = card([0.0, 0.88, 0.12], voice="anger", text="happiness")
    assert "Most of what speaks for happiness comes from the voice, which alone says anger: the model" in told
    for quiet in (card([0.0, 0.12, 0.88], voice="anger", text="happiness"), card([0.0, 1.0, 0.0], voice="anger")):
        assert "the model does not count" not in quiet


def test_what_a_silent_film_is_divided_into_is_not_called_utterances(service, clips, face_model):
    silent = synth.write_clip(clips / "silent_half_minute.mp4", seconds=25, fps=5, voice=False)
    found = service.analyse([str(silent)], None)
    assert len(found.segments) > 1
    assert f"{len(found.segments)} parts" in plain(result_html.result(found))


def test_no_answer_is_shown_as_certain():
    assert [render.likely(p) for p in (0.9964, 1.0, 0.984, 0.0)] == ["over 99 %", "over 99 %", "98 %", "0 %"]


def test_a_clip_without_anybody_gives_no_emotion(client, tmp_path, service):
    clip = synth.write_clip(tmp_path / "nobody.wav", seconds=2, voice=synth.silence(2))
    raw, card = analyse(client, audio=clip)
    assert raw["emotion"] is None
    assert plain(card).startswith("No emotion can be given")
    with pytest.raises(AppError, match="there is nothing to explain"):
        client.predict(api_name="/explain")
    saved, _ = client.predict("neutral", annotator="bea", api_name="/save_label")
    assert saved["prediction_id"] is None
    assert plain(card).count("not used:") == len(MODALITIES)
