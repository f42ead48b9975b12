"""What programs call: the examples of the README as they stand, typed JSON, and errors."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from mmer.config import ROOT
from mmer.labels import EMOTIONS
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests.clients import client_of, http_get
from tests.test_app import KEYS, new_checkpoint
from tests.test_label_tab import PASSWORD, filled


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Service:
    paths = filled(tmp_path_factory.mktemp("home"))
    new_checkpoint(paths, 1)
    return Service(paths)


@pytest.fixture(scope="module")
def url(service):
    page = build(service)
    yield page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)[1].rstrip("/")
    page.close()


@pytest.fixture
def client(url) -> Client:
    return client_of(url)


def examples(language: str) -> list[str]:
    """Return the README's blocks of a language that call the served page."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    return [block for block in blocks if "localhost:7860" in block]


def run(command: list[str], folder) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_examples_of_the_readme_run(url, tmp_path, voice_only, text_encoder):
    shutil.copy(voice_only, tmp_path / "clip.wav")
    explained, labelled = (
        run([sys.executable, "-c", block.replace("http://localhost:7860", url)], tmp_path)
        for block in examples("python")
    )
    assert {line.split()[0] for line in explained.splitlines() if line} & set(EMOTIONS)
    assert len(explained.strip().splitlines()[-1].split()) > 5  # a sentence
    assert "'label': 'fear'" in labelled
    assert "'annotator': 'ann'" in labelled


def test_the_shell_example_of_the_readme_runs(url, tmp_path, voice_only):
    shutil.copy(voice_only, tmp_path / "clip.wav")
    (block,) = examples("sh")
    answer = run(["bash", "-ec", block.replace("http://localhost:7860", url)], tmp_path)
    assert "event: complete" in answer
    result, session = json.loads(answer.strip().splitlines()[-1].removeprefix("data: "))
    assert session is None  # what stays on the server
    assert set(result) == KEYS
    assert result["clip"] == "clip.wav"


def test_every_endpoint_is_described_and_typed(url):
    named = http_get(f"{url}/gradio_api/info").json()["named_endpoints"]
    for name in ("/analyse", "/explain", "/label", "/next", "/export", "/versions", "/health"):
        endpoint = named[name]
        assert len(endpoint["description"].split()) > 5, name
        (answer,) = endpoint["returns"]
        if name != "/health":
            assert answer["type"]["properties"], name
        for parameter in endpoint["parameters"]:
            assert parameter["parameter_has_default"], (name, parameter)
    assert set(named["/analyse"]["returns"][0]["type"]["required"]) == KEYS


def test_answers_are_json_without_html_or_updates(client, service, voice_only, text_encoder):
    result = client.predict(audio=handle_file(voice_only), text="leave me alone", api_name="/analyse")
    why = client.predict(utterance=0, api_name="/explain")
    lent = client.predict("voices", "bea", api_name="/next")
    emotions = lent["labels"][:2]
    stored = client.predict("voices", "bea", lent["item"]["id"], emotions, intensity=0.66, api_name="/label")
    versions = client.predict(api_name="/versions")
    assert why["target"] == result["segments"][0]["emotion"]
    assert stored["progress"]["done"] == lent["progress"]["done"] + 1
    assert stored["gold"] is None
    (label,) = [label for label in service.store.labels() if label.annotator == "bea"]
    assert label.id == stored["label_ids"][0]
    assert label.emotions == pytest.approx({emotions[0]: 2 / 3, emotions[1]: 1 / 3})
    assert versions["checkpoint"] == result["checkpoint"]
    assert {each["id"] for each in versions["checkpoints"]} == {"base", result["checkpoint"]}
    assert (versions["mmer"], tuple(versions["emotions"])) == ("1.0.0", EMOTIONS)
    for answer in (result, why, lent, stored, versions):
        text = json.dumps({**answer, "item": None})
        assert "__type__" not in text
        assert not re.search(r"</?[a-z]+[ >]", text)


def test_an_explanation_says_why_not_the_other_emotion(client, text_encoder):
    why = client.predict(text="I did not expect that at all", emotion="joy", against="anger", api_name="/explain")
    assert (why["target"], why["against"]) == ("happiness", "anger")


def test_one_unreadable_checkpoint_kept_all_versions_back(client, service):
    bad = service.paths.checkpoints / "20200101T000000-bad"
    bad.mkdir()
    (bad / "meta.json").write_text("{")
    try:
        found = {each["id"]: each for each in client.predict(api_name="/versions")["checkpoints"]}
    finally:
        shutil.rmtree(bad)
    assert "cannot be used" in found[bad.name]["problem"]
    assert (found["base"]["problem"], len(found)) == ("", 3)


def test_the_last_page_of_an_export_says_so(client, service):
    for _ in range(2):
        lent = client.predict("voices", "cem", api_name="/next")
        client.predict("voices", "cem", lent["item"]["id"], outcome="cannot_tell", api_name="/label")
    rows, after = [], 0
    while after is not None:
        answer = client.predict(after, 1, api_name="/export")
        assert len(answer["labels"]) == 1
        rows, after = [*rows, *answer["labels"]], answer["next"]
    assert client.predict(api_name="/export") == {"labels": rows, "next": None}
    assert [row["label"] for row in rows if row["annotator"] == "cem"] == ["cannot_tell"] * 2


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("analyse", {}, "there is nothing to analyse"),
        ("explain", {}, "analyse a clip first"),
        ("explain", {"text": "go", "utterance": 7}, "there is no utterance 7; the clip has 1, counted from 0"),
        (
            "explain",
            {"text": "go", "emotion": "boredom"},
            "'boredom' is not an emotion of this model; use one of anger",
        ),
        ("explain", {"text": "go", "utterance": "one"}, "utterance is 'one'; a whole number from 0 on is needed"),
        ("next", {"project": "nothing", "annotator": "bea"}, "there is no project 'nothing'; there is voices"),
        ("next", {"project": 7, "annotator": "bea"}, "project is 7; text is needed"),
        ("label", {"project": "voices", "annotator": "bea"}, "id is None; give the id of the item that `next` lent"),
        ("label", {"project": "voices", "annotator": "bea", "id": 2**63}, f"id is {2**63}; give the id of the item"),
        ("label", {"project": "voices", "annotator": "bea", "id": 1, "emotions": "fear"}, "a list is needed"),
        ("label", {"project": "voices", "annotator": "bea", "id": 1, "outcome": "bored"}, "use label, "),
        ("export", {"limit": 100_000}, "limit is 100000; a whole number from 1 to 1000 is needed"),
    ],
)
def test_bad_calls_say_what_would_work(client, text_encoder, name, given, message):
    with pytest.raises(AppError, match=message):
        client.predict(**given, api_name=f"/{name}")


def test_labels_are_exported_to_administrators_alone(tmp_path):
    paths = filled(tmp_path)
    accounts = Accounts(paths.accounts)
    accounts.add("ann", PASSWORD, "annotator")
    accounts.add("ada", PASSWORD, "admin")
    page = build(Service(paths))
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    try:
        ann = client_of(url, auth=("ann", PASSWORD))
        lent = ann.predict("voices", "somebody else", api_name="/next")
        ann.predict("voices", "somebody else", lent["item"]["id"], ["fear"], api_name="/label")
        with pytest.raises(AppError, match="to manage takes the role admin"):
            ann.predict(api_name="/export")
        (row,) = client_of(url, auth=("ada", PASSWORD)).predict(api_name="/export")["labels"]
        assert (row["annotator"], row["label"]) == ("ann", "fear")  # who is logged in has their own name
    finally:
        page.close()
