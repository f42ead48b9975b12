"""The Label tab through its endpoints: what is stored, who may, and that nothing is lost when something goes wrong."""

import json
import re
import time
from dataclasses import replace
from html import unescape

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from annotations.db.schema import OUTCOMES
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.store import Store
from mmer import media
from mmer.config import Paths
from mmer.labels import SIGNS
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests import synth
from tests.clients import client_of

PASSWORD = "long enough"
PREDICTION = {
    "emotion": "fear",
    "probs": {"fear": 0.6, "anger": 0.4},
    "checkpoint": "base",
    "per_modality": {"face": None, "voice": {"probs": {"fear": 0.6, "anger": 0.4}, "emotion": "fear"}, "text": None},
    "present": {"face": False, "voice": True, "text": False},
}


def paths_in(folder) -> Paths:
    return replace(Paths.from_env(), home=folder, database_url=f"sqlite:///{folder / 'mmer.db'}", device="cpu")


def filled(folder, n: int = 4, **settings) -> Paths:
    """A home whose project "voices" has n items, their answers known to the model."""
    paths = paths_in(folder)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "voices", actor="ada", **{"gold_share": 0, "order": "random", **settings})
    for i in range(n):
        file = synth.write_clip(folder / f"{i}.wav", seconds=0.6, voice=synth.voice(0.6, pitch_hz=100 + 9 * i, seed=i))
        clip = store.register_clip(file, media.content_hash(file), name=file.name, in_place=True, source="import")
        store.add_prediction(clip, PREDICTION)
        projects.add_items(store, project, [store.utterance(clip)])
    store.engine.dispose()
    return paths


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", "", html).split())


@pytest.fixture
def served(tmp_path):
    """A function that serves a home and returns its service and address."""
    pages = []

    def serve(paths: Paths, **options) -> tuple[Service, str]:
        service = Service(paths)
        if service.accounts:
            options["auth"] = lambda name, password: bool(service.accounts.check(name, password))
        page = build(service)
        pages.append(page)
        return service, page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, **options)[1]

    yield serve
    for page in pages:
        page.close()


def start(client: Client, name: str = "bea") -> dict:
    """Sit down at the project and return the feed."""
    return client.predict("voices", name, api_name="/label_start")[0]


def test_a_submission_is_stored_and_the_next_item_comes_with_the_one_after_it(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    first, ahead = start(client)["items"]
    assert first["kind"] == "audio"
    assert first["media"].startswith("media/label-")
    assert not {"emotion", "probs", "prediction", "gold"} & first.keys()  # blind
    feed, *_ = client.predict(["sadness", "anger"], intensity=0.66, comment="low", lead_s=2.5, api_name="/label_submit")
    (label,) = service.store.labels()
    assert (label.annotator, label.intensity, label.comment) == ("bea", 0.66, "low")
    assert label.emotions == pytest.approx({"sadness": 2 / 3, "anger": 1 / 3})
    assert (label.lead_time_s, label.blind, label.item_id) == (2.5, True, first["item_id"])
    assert label.prediction_id is not None
    now, after = feed["items"]
    assert now["id"] == ahead["id"]
    assert after["media"] not in (None, now["media"])
    *_, told, _progress, receipt = client.predict(api_name="/label_cannot_tell")
    assert f"Item {now['item_id']} stored: cannot tell." in told
    assert receipt["progress"] | {"done": 2, "remaining": 2} == receipt["progress"]
    assert [x.outcome for x in service.store.labels(OUTCOMES)] == ["label", "cannot_tell"]


def test_nothing_tells_the_models_answer_or_the_files_name_before_it_is_asked_for(tmp_path, served):
    _, url = served(filled(tmp_path))  # the model said fear of each, and the files are called 0.wav to 3.wav
    client = client_of(url)
    feed, *shown = client.predict("voices", "bea", api_name="/label_start")
    seen = [feed, shown]
    for endpoint, given in (("/label_submit", (["anger"],)), ("/label_cannot_tell", ()), ("/label_undo", ())):
        seen.append(client.predict(*given, api_name=endpoint))
    texts = re.sub("media/label-[^\"']*", "", str(seen))
    assert "fear" not in re.sub(r"\['Fear', 'fear'\]", "", texts)  # but for the choice that is offered
    assert ".wav" not in texts


def test_where_nobody_judges_blind_each_item_comes_with_the_models_answer(tmp_path, served):
    _, url = served(filled(tmp_path, blind=False))
    client = client_of(url)
    start(client)
    *_, told, _progress, _receipt = client.predict(["anger"], api_name="/label_submit")
    assert "stored: anger." in words(told)
    assert "Model: fear, 60 %" in words(told)


def test_what_was_looked_at_before_choosing_is_not_blind_and_undo_brings_the_item_back(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    first = start(client)["items"][0]
    assert "Model: fear, 60 %" in words(client.predict(api_name="/label_reveal")[0])
    client.predict(["fear"], api_name="/label_submit")
    assert next(service.store.labels()).blind is False
    feed, *_ = client.predict(api_name="/label_undo")
    assert feed["items"][0]["item_id"] == first["item_id"]
    assert list(service.store.labels()) == []
    client.predict(["anger"], api_name="/label_submit")
    (label,) = service.store.labels()
    assert (label.emotions, label.blind) == ({"anger": 1.0}, False)  # it was told with the answer taken back


def test_a_look_is_not_forgotten_when_the_same_item_is_fetched_again(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    first = start(client)["items"][0]
    client.predict(api_name="/label_reveal")
    assert start(client)["items"][0]["id"] == first["id"]
    client.predict(["fear"], api_name="/label_submit")
    assert next(service.store.labels()).blind is False


def test_a_look_was_forgotten_with_a_restart_of_the_server(tmp_path, served):
    """The page remembers it: in what it sends when it is loaded again, and when Start is pressed on it."""
    paths = filled(tmp_path)
    client = client_of(served(paths)[1])
    item = start(client)["items"][0]["id"]
    client.predict(api_name="/label_reveal")
    service, url = served(paths)  # another process, say
    client = client_of(url)
    feed, *_ = client.predict("voices", "bea", item, True, api_name="/label_start")
    assert feed["items"][0]["id"] == item
    client.predict(["anger"], api_name="/label_submit")
    client = client_of(served(paths)[1])
    item = start(client)["items"][0]["id"]
    client = client_of(served(paths)[1])
    client.predict("voices", "bea", json.dumps({"id": item, "looked": True}), True, api_name="/label_projects")
    client.predict(["fear"], api_name="/label_submit")
    client.predict(["fear"], api_name="/label_submit")
    assert [label.blind for label in service.store.labels()] == [False, False, True]


def test_what_was_changed_after_a_look_is_not_blind_and_what_stayed_is(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    start(client)
    client.predict(["anger"], api_name="/label_reveal")
    client.predict(["anger"], api_name="/label_submit")
    client.predict(["anger"], api_name="/label_reveal")
    client.predict(["fear"], api_name="/label_submit")
    assert [(x.emotions, x.blind) for x in service.store.labels()] == [({"anger": 1.0}, True), ({"fear": 1.0}, False)]


def test_an_answer_to_an_item_the_page_does_not_show_yet_is_not_stored(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    first, ahead = start(client)["items"]
    client.predict(["anger"], on_page=first["id"], api_name="/label_submit")
    for endpoint in (
        "/label_skip",
        "/label_cannot_tell",
        "/label_broken",
    ):  # pressed while the submission was on its way
        with pytest.raises(AppError, match="the page does not show this item yet, so nothing was stored"):
            client.predict(on_page=first["id"], api_name=endpoint)
    assert len(list(service.store.labels(OUTCOMES))) == 1
    client.predict(["fear"], on_page=ahead["id"], api_name="/label_submit")
    assert len(list(service.store.labels())) == 2


def test_the_form_stays_when_the_same_item_comes_back_after_a_restart(tmp_path, served):
    _, url = served(filled(tmp_path))
    held = start(client_of(url))["items"][0]["id"]
    client = client_of(url)
    feed, *rest = client.predict("voices", "bea", held, api_name="/label_start")
    assert feed["items"][0]["id"] == held
    emptied = client.predict("voices", "bea", 0, api_name="/label_start")[1:]
    assert rest != emptied  # there the form is told to be empty, here it is left alone


def test_a_project_that_is_not_blind_shows_the_models_answer_at_once(tmp_path, served):
    service, url = served(filled(tmp_path, blind=False))
    client = client_of(url)
    assert any("Model: fear" in words(str(part)) for part in client.predict("voices", "bea", api_name="/label_start"))
    client.predict(["fear"], api_name="/label_submit")
    assert next(service.store.labels()).blind is False


def test_each_question_of_a_project_wants_an_answer(tmp_path, served):
    service, url = served(filled(tmp_path, targets=("voice", "text")))
    client = client_of(url)
    assert start(client)["targets"] == ["voice", "text"]
    with pytest.raises(AppError, match="What do the words say"):
        client.predict(voice=["anger"], api_name="/label_submit")
    client.predict(voice=["anger"], text=["neutral"], api_name="/label_submit")
    assert {x.target: x.emotions for x in service.store.labels()} == {"voice": {"anger": 1.0}, "text": {"neutral": 1.0}}


def test_the_known_answer_is_told_afterwards(tmp_path, served):
    service, url = served(filled(tmp_path, gold_share=1.0))
    project = projects.project(service.store, "voices")
    item = Queue(service.store, project).next("ada")[0]
    projects.set_gold(service.store, project, item.item_id, "surprise", why="the pitch rises", actor="ada")
    client = client_of(url)
    assert start(client)["items"][0]["item_id"] == item.item_id
    *_, told, progress, receipt = client.predict(["anger"], api_name="/label_submit")
    assert "This item's answer was known: surprise. the pitch rises" in words(unescape(told))
    assert receipt["gold"] == {"right": False, "emotions": {"surprise": 1.0}, "why": "the pitch rises"}
    assert "0 of 1 known answers right" in progress


def test_a_lease_that_ran_out_is_told_and_the_page_keeps_the_answer(tmp_path, served):
    service, url = served(filled(tmp_path, n=1, per_item=1, lease_s=1))
    client = client_of(url)
    start(client)
    project = projects.project(service.store, "voices")

    time.sleep(1.2)
    queue = Queue(service.store, project)
    (taken,) = queue.next("carl")
    with pytest.raises(AppError, match="the time for this item ran out and others have"):
        client.predict(["anger"], api_name="/label_submit")
    assert list(service.store.labels()) == []
    assert taken.item_id


def test_without_a_start_and_after_a_restart_the_way_on_is_told(tmp_path, served):
    _, url = served(filled(tmp_path))
    client = client_of(url)
    with pytest.raises(AppError, match="press Start, and the same item comes back"):
        client.predict(["anger"], api_name="/label_submit")
    with pytest.raises(AppError, match="there is no project 'nothing'"):
        client.predict("nothing", "bea", api_name="/label_start")
    held = start(client)["items"][0]["id"]
    assert start(client_of(url))["items"][0]["id"] == held  # another browser, the same person


def test_every_endpoint_asks_for_the_role(tmp_path, served):
    paths = filled(tmp_path)
    for name, role in (("vera", "viewer"), ("ann", "annotator"), ("ada", "admin")):
        Accounts(paths.accounts).add(name, PASSWORD, role)
    service, url = served(paths)
    vera = client_of(url, auth=("vera", PASSWORD))
    calls = {
        "/label_projects": (),
        "/label_start": ("voices", "ann"),
        "/label_submit": (["anger"],),
        "/label_skip": (),
        "/label_cannot_tell": (),
        "/label_broken": (),
        "/label_undo": (),
        "/label_reveal": (),
        "/label_pause": (),
        "/label_answers": (),
        "/label_revisit": (1,),
    }
    for endpoint, given in calls.items():
        with pytest.raises(AppError, match="to label takes the role annotator, and vera has the role viewer"):
            vera.predict(*given, api_name=endpoint)
    ann = client_of(url, auth=("ann", PASSWORD))
    with pytest.raises(AppError, match="to manage takes the role admin"):
        ann.predict(api_name="/label_make_project")
    assert start(ann, "somebody else")["items"]
    ann.predict(["anger"], api_name="/label_submit")
    assert [x.annotator for x in service.store.labels()] == ["ann"]  # the account's name, whatever was typed


def test_a_project_is_made_of_the_clips_kept_here(tmp_path, served):
    paths = paths_in(tmp_path)
    store = Store(paths.database_url, paths.media, paths.features)
    file = synth.write_clip(tmp_path / "a.wav", seconds=0.6, voice=synth.voice(0.6, seed=1))
    store.register_clip(file, media.content_hash(file), name="a.wav", consent_text="yes")
    store.register_clip(None, "b" * 64, name="not kept")
    service, url = served(paths)
    client = client_of(url)
    client.predict("ada", api_name="/label_make_project")
    feed, *_ = client.predict("Clips kept here", "ada", api_name="/label_start")
    assert len(feed["items"]) == 1
    client.predict(["fear"], api_name="/label_submit")
    assert [(x.item_id, x.name) for x in service.store.labels()] == [(feed["items"][0]["item_id"], "a.wav")]


def test_a_session_says_at_its_end_what_was_done(tmp_path, served):
    paths = filled(tmp_path, 3, gold_share=1.0)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.project(store, "voices")
    for label, emotion in (("0", "fear"), ("1", "anger")):
        file = tmp_path / f"{label}.wav"
        item = projects.item_of(store, project, media.content_hash(file))
        projects.set_gold(store, project, item, emotion, actor="ada")
    store.engine.dispose()
    _, url = served(paths)
    client = client_of(url)
    start(client)
    for given in (["fear"], ["fear"]):
        client.predict(given, lead_s=4.0, api_name="/label_submit")
    _, status, *_ = client.predict(api_name="/label_pause")
    text = " ".join(re.sub("<[^>]*>", " ", status).split())
    assert "Paused. Press Start to go on." in text
    assert (
        "This session: 2 items (2 labelled), in 8.0 s, 4.0 s each (median). 1 of 2 known answers right (50 %)." in text
    )
    assert start(client)["items"]


def test_an_earlier_answer_is_changed_and_the_item_on_the_screen_waits(tmp_path, served):
    service, url = served(filled(tmp_path))
    client = client_of(url)
    first, second = start(client)["items"]
    client.predict(["fear"], intensity=0.66, comment="low", api_name="/label_submit")
    given, told = client.predict(api_name="/label_answers")
    ((line, assignment),) = given["choices"]
    assert line.startswith(f"Item {first['item_id']}: {SIGNS['fear'].symbol} fear")
    feed, *shown = client.predict(assignment, api_name="/label_revisit")
    assert [item["id"] for item in feed["items"][:2]] == [first["id"], second["id"]]
    assert feed["items"][0]["media"].startswith("media/label-")
    assert "low" in shown
    feed, *_, told, _progress, _receipt = client.predict(["anger"], comment="low", api_name="/label_submit")
    assert f"Item {first['item_id']} changed: anger." in words(told)
    assert feed["items"][0]["id"] == second["id"]
    (label,) = service.store.labels()
    assert (label.emotions, label.blind, label.comment) == ({"anger": 1.0}, False, "low")
    client.predict(assignment, api_name="/label_revisit")
    *_, told, _progress, _receipt = client.predict(api_name="/label_skip")
    assert "stays as it was" in told
    assert [x.emotions for x in service.store.labels()] == [{"anger": 1.0}]
    stranger = client_of(url)  # under the same name, which anybody may type
    start(stranger)
    assert stranger.predict(api_name="/label_answers")[0]["choices"] == []
    with pytest.raises(AppError, match="choose one of your answers"):
        stranger.predict(assignment, api_name="/label_revisit")
