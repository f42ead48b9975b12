"""Verdicts and reasons by the Model Context Protocol: two tools, and only where they are asked for."""

import asyncio
import json

import pytest

from annotations.accounts import Accounts
from mmer.labels import EMOTIONS
from tests.clients import http_post
from tests.test_door import PASSWORD, served

pytest.importorskip("mcp", reason="the extra mcp is not installed")
WORDS = "I did not expect that at all, what a wonderful surprise"


def speak(url: str, name: str | None = None, given: dict | None = None):
    """Return the tools a page offers, or what one of them answers."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask():
        async with (
            streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as one,
        ):
            await one.initialize()
            return (await one.list_tools()).tools if name is None else await one.call_tool(name, given or {})

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("home"), mcp=True) as (_, address, _):
        yield address


def test_two_tools_are_offered_as_the_api_describes_them(url):
    tools = {tool.name: tool for tool in speak(url)}
    assert set(tools) == {"analyse", "explain"}
    properties = tools["analyse"].inputSchema["properties"]
    assert set(properties) == {"video", "audio", "image", "text", "files"}
    assert properties["text"]["type"] == "string"
    assert properties["text"]["description"].startswith("what is said")
    assert tools["analyse"].description.startswith("Judge the emotion in a clip of a person")
    assert not tools["analyse"].inputSchema.get("required")
    assert {"emotion", "against", "utterance"} < set(tools["explain"].inputSchema["properties"])


def test_a_sentence_is_judged_and_explained(url):
    answer = speak(url, "analyse", {"text": WORDS})
    assert not answer.isError, answer
    verdict = json.loads(answer.content[0].text)
    assert set(verdict["probs"]) == set(EMOTIONS)
    assert sum(verdict["probs"].values()) == pytest.approx(1, abs=1e-3)
    assert verdict["present"] == {"face": False, "voice": False, "text": True}
    assert verdict["transcript"]["text"] == WORDS
    answer = speak(url, "explain", {"text": WORDS, "emotion": "anger"})
    assert not answer.isError, answer
    why = json.loads(answer.content[0].text)
    assert why["target"] == "anger"
    assert [each["word"].strip(",") for each in why["words"]][:3] == ["I", "did", "not"]


@pytest.mark.parametrize(
    "audio", ["/etc/passwd", {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "http://127.0.0.1:1/a.wav"]
)
def test_no_file_of_the_server_is_read(url, audio):
    answer = speak(url, "analyse", {"audio": audio})
    assert answer.isError
    assert "root:" not in str(answer)


def test_no_other_call_of_the_page_is_a_tool(url):
    for name in ("export", "next", "label", "label_submit", "review", "/export"):
        assert speak(url, name, {}).isError, name
    foreign = http_post(f"{url}/gradio_api/mcp/", json={}, headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403


def test_nothing_is_offered_unasked_nor_where_people_log_in(tmp_path):
    with served(tmp_path / "open") as (_, address, _):
        assert http_post(f"{address}/gradio_api/mcp/", json={}).status_code in (404, 405)
    Accounts(tmp_path / "closed" / "accounts.json").add("ann", PASSWORD, "annotator")
    with served(tmp_path / "closed", mcp=True) as (_, address, _):
        assert http_post(f"{address}/gradio_api/mcp/", json={}).status_code in (401, 404, 405)
