"""The door of a launched page: other pages, other names, guesses, and visitors who take too much."""

import http.client
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlparse

import httpx
import pytest
from gradio_client.exceptions import AppError

from annotations.accounts import Accounts
from annotations.queue import projects
from mmer.config import Paths
from mmer.ui.auth import at_this_machine
from mmer.ui.door import CLOSED, Budget, Door, is_local
from mmer.ui.label_session import LabelSession
from mmer.ui.line import PLACES
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service, SessionResult
from tests.clients import client_of, http_get, http_post

PASSWORD = "long enough"


@contextmanager
def served(home, **settings):
    """A page on an empty home, and its address without the slash."""
    given = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu", **settings)
    service = Service(given)
    page = build(service)
    # Without gradio's own look at the page, which a busy machine does not answer within its three seconds.
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, _frontend=False)
    try:
        yield service, url.rstrip("/"), page
    finally:
        page.close()
        service.store.engine.dispose()


@pytest.fixture(scope="module")
def open_page(tmp_path_factory):
    with served(tmp_path_factory.mktemp("open")) as found:
        yield found


@pytest.fixture(scope="module")
def closed_page(tmp_path_factory):
    home = tmp_path_factory.mktemp("closed")
    for name, role in (("ada", "admin"), ("ann", "annotator")):
        Accounts(home / "accounts.json").add(name, PASSWORD, role)
    with served(home) as found:
        yield found


def join(url: str, page, name: str, data: list, session: str = "s", **headers) -> httpx.Response:
    """Ask for a call as a browser does."""
    fn = next(number for number, fn in page.fns.items() if fn.api_name == name)
    body = {"data": data, "fn_index": fn, "session_hash": session}
    return http_post(f"{url}/gradio_api/queue/join", json=body, headers=headers)


def test_another_page_acted_as_the_person_at_this_machine(open_page):
    service, url, page = open_page
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", url.replace("127.0.0.1", "localhost")):
        for answer in (
            join(url, page, "label_make_project", ["eve"], origin=origin),
            http_post(f"{url}/gradio_api/upload", files={"files": b"x"}, headers={"origin": origin}),
            http_get(f"{url}/gradio_api/queue/data?session_hash=s", headers={"origin": origin}),
            http_get(f"{url}/config", headers={"origin": origin}),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    embedded = http_get(f"{url}/gradio_api/info", headers={"sec-fetch-site": "cross-site"})
    assert embedded.status_code == 403
    assert projects.projects(service.store) == []
    assert join(url, page, "label_make_project", ["ada"], origin=url).status_code == 200


def test_any_name_that_leads_here_was_answered(open_page, tmp_path):
    _, url, _ = open_page
    port = urlparse(url).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", ""):
        answer = http_get(f"{url}/config", headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host"), host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "mmer.localhost"):
        assert http_get(f"{url}/config", headers={"host": host}).status_code == 200, host
    with served(tmp_path, hosts=("faces.example",)) as (_, url, _):
        named = {"host": "faces.example", "origin": "https://faces.example"}
        assert http_get(f"{url}/config", headers=named).status_code == 200
        assert http_get(f"{url}/config", headers={"host": "evil.example"}).status_code == 403
    assert [is_local(host) for host in ("::1", "127.9.9.9:80", "[::1]:80", "localhost", "evil.localhost.com")] == [
        True
    ] * 4 + [False]


def test_who_came_through_a_proxy_was_the_person_at_this_machine(open_page, tmp_path):
    service, url, _ = open_page
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"):
        client = client_of(url, headers={header: "203.0.113.9"})
        with pytest.raises(Exception, match="to manage takes the role admin"):
            client.predict("eve", api_name="/label_make_project")
    with served(tmp_path, trusts_proxy=True) as (_, url, _):
        client_of(url, headers={"X-Real-IP": "203.0.113.9"}).predict("ada", api_name="/label_make_project")
    assert at_this_machine(service.paths, None)
    assert not at_this_machine(replace(service.paths, host="0.0.0.0"), None)


def test_gradios_other_routes_kept_what_visitors_typed_and_filmed(open_page):
    service, url, page = open_page
    assert join(url, page, "label_projects", [], "shared").status_code == 200
    for route in CLOSED:
        assert http_get(f"{url}{route}?session_hash=shared").status_code == 404, route
    sent = {"video": ("face.mp4", b"somebody", "video/mp4")}
    assert http_post(f"{url}/gradio_api/process_recording", files=sent).status_code == 404
    assert not (service.paths.uploads / "deep_links").exists()
    assert [file for file in service.paths.uploads.rglob("*") if file.is_file()] == []


def test_a_thousand_files_came_in_with_one_request(open_page):
    _, url, _ = open_page
    few = [("files", (f"{i}.wav", b"x" * 70_000)) for i in range(8)]
    assert len(http_post(f"{url}/gradio_api/upload", files=few).json()) == 8
    many = [("files", (f"{i}.wav", b"x")) for i in range(1000)]
    answer = http_post(f"{url}/gradio_api/upload", files=many)
    assert answer.status_code == 413
    assert "too_many_files: up to 8 files are accepted at a time" in answer.text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("save_label", ["anger", 0.5, "", "ann", True, "", "", None], "'What may be kept.*text or a number is needed"),
        ("save_label", ["anger", 0.5, ["x"], "ann", "nothing", "", "", None], "'Comment.*text is needed"),
        ("label_submit", [3, [], [], [], None, None, "", "", None, None, 0, 0, None], "is 3; a list is needed"),
        ("label_submit", [["anger"], [], [], [], None, None, 7, "", None, None, 0, 0, None], "is 7; text is needed"),
        ("label_submit", [[["anger"]], [], [], [], None, None, "", "", None, None, 0, 0, None], "a list is needed"),
        (
            "label_submit",
            [["anger"], [], [], [], None, None, "", "", None, None, 0, 10**400, None],
            "a number is needed",
        ),
        ("label_start", ["voices", {"a": 1}, 0], "text is needed"),
        ("label_start", ["voices", "ann", "x"], "a number is needed"),
        ("analyse", ["talk.mp4", None, None, None], "an uploaded file is needed"),
        ("analyse", {"video": None}, "the data of a call is a list"),
    ],
)
def test_json_of_another_type_was_our_fault(open_page, name, data, message):
    _, url, page = open_page
    answer = join(url, page, name, data)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "bad_type"
    assert re.search(message, answer.json()["error"]["message"].replace('"', "'"))


def test_ten_megabytes_of_a_name_were_read(open_page):
    _, url, page = open_page
    answer = join(url, page, "label_start", ["voices", "a" * 10_000_000, 0])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_long")
    assert "more than 1,048,576 bytes" in answer.json()["detail"]
    for body in (b"[1]", b"{", b'{"session_hash": 3}', b'{"fn_index": "3", "data": []}', b"[" * 500_000):
        assert http_post(f"{url}/gradio_api/queue/join", content=body).status_code in (404, 422)


def test_calls_by_name_are_checked_and_answered(open_page):
    _, url, _ = open_page
    call = f"{url}/gradio_api/call/v2/save_label"
    answer = http_post(call, json={"emotion": "anger", "annotator": "ann", "keep": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_type")
    assert http_post(call, json={"emotion": "anger", "annotator": "ann"}).json()["event_id"]
    assert http_post(f"{url}/gradio_api/call/health", json={"data": []}).json()["event_id"]


def test_the_model_could_be_called_past_the_queue(open_page):
    _, url, _ = open_page
    answer = http_post(f"{url}/gradio_api/run/rerun", json={"data": ["words", None], "session_hash": "s"})
    assert answer.status_code == 404


def log_in(url: str, name: str, password: str, **headers) -> httpx.Response:
    return http_post(f"{url}/login", data={"username": name, "password": password}, headers=headers)


def test_passwords_could_be_tried_without_end_while_others_waited(closed_page):
    _, url, _ = closed_page
    answers, slowest, done = [], [0.0], threading.Event()

    def look():
        while not done.is_set():
            since = time.monotonic()
            http_get(f"{url}/gradio_api/app_id")
            slowest[0] = max(slowest[0], time.monotonic() - since)

    visitor = threading.Thread(target=look)
    visitor.start()
    guesses = [threading.Thread(target=lambda i=i: answers.append(log_in(url, "eve", f"guess {i}"))) for i in range(12)]
    for guess in guesses:
        guess.start()
    for guess in guesses:
        guess.join()
    done.set()
    visitor.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [400] * 5 + [429] * 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(refused.headers["Retry-After"]) <= 600
    assert slowest[0] < 5  # seconds, where 12 hashes stood before it
    assert log_in(url, "ann", PASSWORD).status_code == 200  # somebody else's tries do not keep her out


def test_a_name_could_be_guessed_at_from_ever_new_addresses(closed_page):
    _, url, _ = closed_page
    codes = [log_in(url, "guessed", "wrong guess", **{"x-forwarded-for": f"8.8.{i}.8"}).status_code for i in range(52)]
    assert codes == [400] * 50 + [429] * 2


def test_a_cookie_outlived_its_account(closed_page):
    service, url, _ = closed_page
    service.accounts.add("bob", PASSWORD, "admin")
    answer = log_in(url, "bob", PASSWORD)
    cookie = answer.headers["set-cookie"]
    assert "SameSite=lax" in cookie
    assert "HttpOnly" in cookie
    with httpx.Client(cookies=answer.cookies) as browser:
        assert browser.get(f"{url}/gradio_api/user").json() == "bob"
        service.accounts.change_role("bob", "viewer")
        assert browser.get(f"{url}/gradio_api/user").json() == "bob"  # another role needs no other login
        removed_and_added_again(service, "bob", browser, url)


def removed_and_added_again(service, name: str, browser: httpx.Client, url: str) -> None:
    """Assert that a login does not hold for another account of the same name."""
    service.accounts.remove(name)
    service.accounts.add(name, PASSWORD, "admin")
    assert browser.get(f"{url}/gradio_api/user").json() is None
    assert browser.get(f"{url}/config").status_code == 401


def test_a_cookie_that_had_ended_worked_under_gradios_other_name(closed_page):
    service, url, _ = closed_page
    service.accounts.add("eva", PASSWORD, "admin")
    ((name, token),) = log_in(url, "eva", PASSWORD).cookies.items()
    other = name.replace("-unsecure", "")
    assert other != name
    with httpx.Client(cookies={other: token}) as browser:
        assert browser.get(f"{url}/gradio_api/user").json() == "eva"
        removed_and_added_again(service, "eva", browser, url)


def test_damaged_accounts_made_every_request_our_fault(closed_page):
    service, url, _ = closed_page
    whole = service.paths.accounts.read_bytes()
    with httpx.Client(cookies=log_in(url, "ada", PASSWORD).cookies) as browser:
        service.paths.accounts.write_text("{")
        try:
            for answer in (browser.get(f"{url}/config"), log_in(url, "ann", PASSWORD)):
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "accounts_unreadable")
                assert "accounts.json" not in answer.json()["error"]["message"]
        finally:
            service.paths.accounts.write_bytes(whole)
        assert browser.get(f"{url}/config").status_code == 200


def test_a_link_on_another_page_logged_people_out(closed_page):
    _, url, _ = closed_page
    with httpx.Client(cookies=log_in(url, "ann", PASSWORD).cookies) as browser:
        for answer in (
            browser.get(f"{url}/logout"),
            browser.post(f"{url}/logout", headers={"origin": "https://evil.example"}),
            browser.post(f"{url}/logout", headers={"sec-fetch-site": "cross-site"}),
        ):
            assert answer.status_code in (403, 405)
            assert "location" not in answer.headers  # nor does it lead anywhere else
        assert browser.get(f"{url}/gradio_api/user").json() == "ann"
        assert browser.post(f"{url}/logout").status_code == 200
        assert browser.get(f"{url}/gradio_api/user").json() is None


def test_one_visitor_took_all_places_of_the_queue(open_page):
    """Many calls at once from one address wait in its own places; labels have places of their own."""
    _, url, page = open_page
    far, words = {"x-forwarded-for": "203.0.113.9"}, "leave me alone " * 1000
    codes, most = [], 0

    def ask(i: int) -> None:
        codes.append(join(url, page, "analyse", [None, None, None, words, None], f"s{i}", **far).status_code)

    asking = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for each in asking:
        each.start()
    while any(each.is_alive() for each in asking):
        here = page.waiting() + page.running()
        most = max(most, sum(event.session_hash.startswith("s") for event in here))
        time.sleep(0.005)
    assert set(codes) == {200, 429}
    assert 1 < most <= Budget().model_places < PLACES
    assert join(url, page, "label_projects", [], "other").status_code == 200
    assert join(url, page, "analyse", [None, None, None, "words", None], "other").status_code == 200


def test_cheap_calls_forgot_other_peoples_results(open_page):
    _, url, page = open_page
    client = client_of(url)
    client.predict(text="I did not expect that at all", api_name="/analyse")
    for i in range(240):
        assert join(url, page, "label_projects", [], f"cheap{i}").status_code == 200
        if i % 40 == 39:
            time.sleep(1)  # the places of labels are 256
    raw, *_ = client.predict("what a wonderful surprise", api_name="/rerun")
    assert raw["transcript"]["text"] == "what a wonderful surprise"


def test_who_had_a_result_freed_lost_what_they_were_labelling(open_page):
    _, url, page = open_page
    client = client_of(url)
    client.predict(text="I did not expect that at all", api_name="/analyse")
    held = page.state_holder[client.session_hash].state_data
    labelling = LabelSession("voices", "ann")
    held[-1] = labelling  # as a tab's state holds it
    (result,) = (key for key, value in held.items() if isinstance(value, SessionResult))
    held[-2] = (held[result],)  # as the list of earlier results does
    Door(page.app, page, Budget(held_s=0.0))._make_room(page.state_holder)
    assert page.state_holder[client.session_hash].state_data is held
    assert (held[result], held[-2], held.pop(-1)) == (None, (), labelling)
    with pytest.raises(AppError, match="analyse a clip first"):
        client.predict("other words", api_name="/rerun")


def test_a_busy_machine_kept_the_page_from_starting(open_page):
    """gradio asks with HEAD / and gives up after 3 s; on a busy machine the whole page took longer."""
    _, url, _ = open_page
    answer = httpx.head(url, timeout=60)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "0")  # nothing was built for it
    assert b"gradio_config" in http_get(url).content


def test_a_request_without_a_host_is_refused(open_page):
    _, url, _ = open_page
    address = urlparse(url)
    line = http.client.HTTPConnection(address.hostname, address.port)
    line.putrequest("GET", "/config", skip_host=True)
    line.endheaders()
    answer = line.getresponse()
    assert answer.status in (400, 403)
    assert b"components" not in answer.read()
    line.close()
    assert json.loads(http_get(f"{url}/gradio_api/app_id").text)["app_id"]
