"""Recordings by links, from a served page: in ranges, for nobody else, for some hours, and gone with their clip."""

import json
import re
import secrets
import tracemalloc
from pathlib import Path
from urllib.parse import urlparse

import httpx
import pytest

from annotations.accounts import Accounts
from annotations.queue import projects
from annotations.store import Store
from mmer import media
from mmer.config import Paths
from mmer.errors import MmerError
from mmer.ui.media_links import VISITOR, MediaLinks, Viewer
from mmer.ui.service import CONSENT
from tests import synth
from tests.clients import http_get
from tests.test_door import PASSWORD, served
from tests.test_playable import write

SECRET = "of both servers and of nobody else"
FAR = {"x-forwarded-for": "203.0.113.9"}  # of somebody who is not at this machine


def put(store: Store, file: Path, **how) -> int:
    """Register a file, put it in a project of its own, and return its clip."""
    clip = store.register_clip(file, media.content_hash(file), name=file.name, **(how or {"in_place": True}))
    project = projects.create(store, file.stem, actor="ada", gold_share=0, order="random")
    projects.add_items(store, project, [store.utterance(clip)])
    return clip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The service, the address and the folder of an open page with a project for each of its recordings."""
    folder = tmp_path_factory.mktemp("open")
    with served(folder / "home", secret=SECRET) as (service, url, _):
        put(service.store, synth.write_clip(folder / "anger-07.wav", seconds=2))
        yield service, url, folder


def visitor(url: str) -> httpx.Client:
    """A browser of its own, which has been to the page."""
    return httpx.Client(base_url=url, timeout=300, cookies={VISITOR: secrets.token_urlsafe(32)})


def call(client: httpx.Client, name: str, *data, **headers) -> list:
    """Return what a call of the page answers."""
    path = f"gradio_api/call/{name}"
    event = client.post(path, json={"data": list(data)}, headers=headers).json()["event_id"]
    told = client.get(f"{path}/{event}").text
    return json.loads(re.findall("^data: (.*)$", told, re.MULTILINE)[-1])


def first(client: httpx.Client, project: str = "anger-07", name: str = "bea", **headers) -> dict:
    """Sit down at a project and return the item on the screen."""
    return call(client, "label_start", project, name, 0, False, **headers)[0]["items"][0]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_recording_comes_whole_and_in_ranges(page):
    _, url, folder = page
    client, data = visitor(url), (folder / "anger-07.wav").read_bytes()
    link = first(client)["media"]
    whole = client.get(link)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "audio/wav"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["cache-control"] == "private, no-store"
    head = client.head(link)
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(data))
    for asked, part in (("100-199", data[100:200]), ("500-", data[500:]), ("-7", data[-7:]), ("0-0", data[:1])):
        answer = client.get(link, headers={"range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part), asked
    assert answer.headers["content-range"] == f"bytes 0-0/{len(data)}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    beyond = client.get(link, headers={"range": f"bytes={len(data)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")


def test_nothing_of_the_file_is_in_the_link_or_the_headers(page):
    """In a corpus the name of a file tells its emotion, and a path tells what the server holds."""
    _, url, folder = page
    client = visitor(url)
    item = first(client)
    told = f"{item} {client.get(item['media']).headers} {client.get(item['media'] + 'x').text}"
    for told_by in ("anger", str(folder), media.content_hash(folder / "anger-07.wav")):
        assert told_by not in told


def test_the_name_of_a_broken_file_was_told(page):
    service, url, folder = page
    (folder / "fear-3.mp4").write_bytes(b"no film at all" * 50)
    put(service.store, folder / "fear-3.mp4")
    item = first(visitor(url), "fear-3")
    assert item["media"] is None
    assert "The recording" in item["note"]
    assert "fear" not in str(item)


def test_nobody_elses_link_works(page):
    _, url, _ = page
    client = visitor(url)
    link = first(client)["media"]
    assert client.get(link).status_code == 200
    assert code(visitor(url).get(link)) == (403, "not_yours")
    assert code(http_get(f"{url}/{link}")) == (403, "not_yours")  # without any cookie
    assert code(http_get(f"{url}/{link}", cookies={VISITOR: ""})) == (403, "not_yours")
    elsewhere = client.get(link, headers={"sec-fetch-site": "cross-site"})
    assert code(elsewhere) == (403, "foreign_origin")


def test_a_browser_gets_its_cookie_with_the_page_or_with_its_first_call(page):
    _, url, _ = page
    for path in ("/", "/call"):
        client = httpx.Client(base_url=url, timeout=300)
        if path == "/":
            client.get("/")
        link = first(client)["media"]
        cookie = next(each for each in client.cookies.jar if each.name == VISITOR)
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "Lax"
        assert client.get(link).status_code == 200


def test_a_link_that_was_changed_opens_nothing(page):
    service, url, folder = page
    other = put(service.store, synth.write_clip(folder / "b.wav", seconds=0.5))
    client = visitor(url)
    link = first(client)["media"]
    _, clip, expires, signature = link.split("-", 3)
    for changed in (
        f"media/label-{other}-{expires}-{signature}",
        f"media/label-{clip}-{int(expires) + 1}-{signature}",
        f"media/review-{clip}-{expires}-{signature}",
        f"media/label-{clip}-{expires}-{'A' * 43}",
    ):
        assert code(client.get(changed)) == (403, "not_yours"), changed
    for wrong in ("media/", "media/x", "media/..%2Fmmer.db", f"{link}x", link[:-1], f"media/{'9' * 10**4}"):
        assert client.get(wrong).status_code == 404, wrong
    assert client.post(link).status_code in (404, 405)


def test_a_link_ends(page):
    service, url, _ = page
    client = visitor(url)
    service.links.life_s = -1.0
    link = first(client)["media"]
    assert code(client.get(link)) == (410, "expired")
    assert client.head(link).status_code == 410
    service.links.life_s = 60.0
    assert client.get(first(client)["media"]).status_code == 200
    assert client.get(link).status_code == 410


def test_a_link_to_a_deleted_clip_is_gone_at_once(page):
    service, url, folder = page
    file = synth.write_clip(folder / "gone.wav", seconds=0.5)
    put(service.store, file, consent_text=CONSENT)
    client = visitor(url)
    link = first(client, "gone")["media"]
    assert client.get(link).content == file.read_bytes()
    service.store.delete_clip(media.content_hash(file))
    assert code(client.get(link)) == (404, "deleted")


def test_a_consented_recording_is_for_those_let_in_whatever_link_they_have(page):
    """Who labels on an open page from elsewhere gets no link; one that was made all the same opens nothing."""
    service, url, folder = page
    clip = put(service.store, synth.write_clip(folder / "kept.wav", seconds=0.7), consent_text=CONSENT)
    client = visitor(url)
    assert first(client, "kept", **FAR)["media"] is None
    link = service.links.link(clip, "label", Viewer(client.cookies[VISITOR]))
    assert code(client.get(link, headers=FAR)) == (403, "not_allowed")
    assert client.get(link).status_code == 200  # at this machine


def test_servers_with_one_secret_take_each_others_links(page):
    _, url, _ = page
    client = visitor(url)
    whose = Viewer(client.cookies[VISITOR])
    assert client.get(MediaLinks(SECRET).link(1, "label", whose)).status_code == 200
    assert code(client.get(MediaLinks(SECRET[1:]).link(1, "label", whose))) == (403, "not_yours")
    assert code(client.get(MediaLinks().link(1, "label", whose))) == (403, "not_yours")  # drawn at its start


def test_a_film_no_browser_plays_is_made_when_its_link_is_followed(page):
    service, url, folder = page
    film = write(folder / "a.avi", "mpeg4", "libmp3lame")
    put(service.store, film)
    client = visitor(url)
    item = first(client, "a")
    assert item["kind"] == "video"
    assert list(service.paths.features.glob("*-play*")) == []  # nobody waits for it with the answer
    answer = client.get(item["media"])
    assert answer.headers["content-type"] == "video/mp4"
    (made,) = service.paths.features.glob("*-play.mp4")
    assert answer.content == made.read_bytes()
    service.store.delete_clip(media.content_hash(film))
    assert not made.exists()
    assert client.get(item["media"]).status_code == 404


def test_a_recording_of_more_than_32_mb_was_not_shown(page):
    """It is sent from the disk: neither a label's answer nor a range holds it in memory."""
    service, url, folder = page
    large = synth.write_clip(folder / "large.wav", seconds=1)
    with large.open("ab") as file:  # after the chunk that its header tells of
        file.truncate(40 * 2**20)
    put(service.store, large)
    client = visitor(url)
    item = first(client, "large")
    assert item["note"] == ""
    tracemalloc.start()
    with client.stream("GET", item["media"]) as answer:
        n_bytes = sum(len(chunk) for chunk in answer.iter_bytes())
    last = client.get(item["media"], headers={"range": f"bytes={40 * 2**20 - 10}-"})
    most = tracemalloc.get_traced_memory()[1]  # of the server too: it is a thread here
    tracemalloc.stop()
    assert n_bytes == 40 * 2**20
    assert (last.status_code, len(last.content)) == (206, 10)
    assert most < 10 * 2**20


def test_review_plays_by_link_too(page):
    _, url, folder = page
    client = visitor(url)
    detail = call(client, "review_open", first(client)["item_id"], "all", "ada")[0]
    (link,) = re.findall(r'src="(media/review-[^"#]+)', detail)
    assert client.get(link).content == (folder / "anger-07.wav").read_bytes()
    assert code(visitor(url).get(link)) == (403, "not_yours")
    assert "data:" not in detail


def test_a_link_ends_with_the_login_the_role_and_the_account(tmp_path):
    accounts = Accounts(tmp_path / "accounts.json")
    for name in ("ann", "bob"):
        accounts.add(name, PASSWORD, "annotator")
    with served(tmp_path) as (service, url, _):
        put(service.store, synth.write_clip(tmp_path / "a.wav", seconds=0.5))
        ann, bob = visitor(url), visitor(url)
        for client, name in ((ann, "ann"), (bob, "bob")):
            assert client.post("login", data={"username": name, "password": PASSWORD}).status_code == 200
        link = first(ann, "a", "ann")["media"]
        assert ann.get(link).status_code == 200
        assert code(bob.get(link)) == (403, "not_yours")
        bob.cookies.set(VISITOR, ann.cookies[VISITOR], domain=urlparse(url).hostname)  # after her at one machine, say
        assert code(bob.get(link)) == (403, "not_yours")
        accounts.change_role("ann", "viewer")
        assert code(ann.get(link)) == (403, "not_allowed")
        accounts.change_role("ann", "annotator")
        assert ann.get(link).status_code == 200
        ann.post("logout")
        assert code(ann.get(link)) == (403, "not_logged_in")


def test_a_secret_that_could_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv("MMER_SECRET", "changeme")
    with pytest.raises(MmerError, match="MMER_SECRET has fewer than 32 characters"):
        Paths.from_env()
    monkeypatch.setenv("MMER_SECRET", SECRET)
    assert Paths.from_env().secret == SECRET
    assert SECRET not in repr(Paths.from_env())
