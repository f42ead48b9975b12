"""A page elsewhere, in the same browser, gets nothing of this one, whether it asks across or under its own name."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest

from annotations.queue import projects
from mmer.config import Paths
from mmer.ui.service import Service
from tests.browser.conftest import CHROMIUM, FLAGS

_ASK = """async ([url, number]) => {
  const body = JSON.stringify({ data: ["eve"], fn_index: number, session_hash: "foreign" });
  const asked = [
    ["/gradio_api/queue/join", { method: "POST", body, headers: { "Content-Type": "application/json" } }],
    ["/gradio_api/queue/join", { method: "POST", body, mode: "no-cors" }],
    ["/gradio_api/queue/data?session_hash=foreign", {}],
    ["/gradio_api/upload", { method: "POST", body: new FormData() }],
    ["/config", {}],
    ["/logout", { method: "POST" }],
  ];
  const got = [];
  for (const [path, options] of asked) {
    try {
      const answer = await fetch(url + path, { credentials: "include", ...options });
      got.push([answer.status, (await answer.text()).slice(0, 200)]);
    } catch (error) {
      got.push([0, String(error)]);
    }
  }
  return got;
}"""


@pytest.fixture
def service(tmp_path):
    given = replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")
    opened = Service(given)
    yield opened
    opened.store.engine.dispose()


@pytest.fixture
def foreign():
    """The address of a page of somebody else."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, *args):
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_foreign_page_acted_as_the_person_at_this_machine(browser, serve, service, foreign):
    url = serve(service).rstrip("/")
    served = browser.new_page()
    served.goto(url)
    numbers = served.evaluate("() => window.gradio_config.dependencies.map((each) => [each.api_name, each.id])")
    number = dict(numbers)["label_make_project"]
    page = browser.new_page()
    page.goto(foreign)
    got = page.evaluate(_ASK, [url, number])
    assert {status for status, _ in got} <= {0, 403}, got  # 0: not even told
    assert not any("components" in text or "event_id" in text for _, text in got)
    assert projects.projects(service.store) == []
    own = served.evaluate(_ASK, [url, number])
    assert own[0][0] == 200  # the page itself may ask
    for each in (page, served):
        each.close()


def test_a_foreign_name_that_leads_here_was_answered(browser, serve, service):
    port = urlparse(serve(service)).port
    rebound = browser.browser_type.launch(
        executable_path=CHROMIUM, args=[*FLAGS, "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    )
    page = rebound.new_page()
    answer = page.goto(f"http://evil.example:{port}/")
    assert answer.status == 403
    assert "foreign_host" in page.content()
    got = page.evaluate(_ASK, [f"http://evil.example:{port}", 1])
    assert {status for status, _ in got} <= {0, 403}, got
    rebound.close()
