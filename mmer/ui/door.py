"""The door of the page: which requests come in at all, and how much one visitor may ask for at a time.

Everything the page serves passes here first, gradio's own routes too.
"""

import asyncio
import ipaddress
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmer.ui import language, line, live_sessions
from mmer.ui.first_paint import with_first_paint
from mmer.ui.login import Logins
from mmer.ui.media_links import PREFIX, with_visitor
from mmer.ui.probes import PROBES, Probes
from mmer.ui.service import SessionResult

if TYPE_CHECKING:
    from mmer.predict import EmotionResult
    from mmer.ui.page import Page


@dataclass(frozen=True)
class Budget:
    """What one visitor, an address or a program on this machine, may take of the server."""

    max_body_bytes: int = 2**20  # of a call: words and comments have limits of their own, clips are uploaded first
    max_files: int = 8  # of one upload
    model_places: int = 8  # calls of the model that wait or run
    other_places: int = 64  # labels and reviews: a class behind one address labels at once
    all_model_places: int = 32  # of all visitors
    all_other_places: int = 256
    held_s: float = 6_000.0  # seconds of clips whose results all sessions hold: 6 MB for each minute


# What gradio offers and this page has no use for; the first two write what visitors typed or filmed to the disk, the
# third tells a page's script the cookie that its scripts are not to see.
CLOSED = (
    "/gradio_api/deep_link",
    "/gradio_api/process_recording",
    "/gradio_api/token",
    "/gradio_api/component_server",
    "/gradio_api/vibe",
    "/gradio_api/undo-vibe",
    "/gradio_api/proxy=",
    "/gradio_api/dev",
    "/gradio_api/run-history",
    "/gradio_api/runs",
    "/gradio_api/profiling",
    "/monitoring",
)
_CALLS = ("/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/run/", "/gradio_api/api/")
_LARGEST = 1e15  # of a number: whole numbers up to it are exact in JSON and fit a database
_TAKES = (  # what each component takes, in words, and the types of JSON it is; nothing at all is always right
    (gr.Textbox, "text", str),
    (gr.Checkbox, "true or false", bool),
    (gr.CheckboxGroup, "a list", list),
    (gr.Number, "a number", int | float),
    (gr.Radio | gr.Dropdown, "text or a number", str | int | float),
    (gr.Video | gr.Audio | gr.Image | gr.File, "an uploaded file", dict),  # of a gr.File several in a list, too
)


class Door:
    """ASGI middleware before gradio's routes."""

    def __init__(self, app: ASGIApp, page: "Page", budget: Budget = Budget()):
        self.app, self.page, self.budget = app, page, budget
        self.paths = page.service.paths
        self.logins = Logins(page.service.accounts)
        self.probes = Probes(page)
        self._entering: list[
            tuple[str, bool]
        ] = []  # whose calls are on their way to the queue, and whether of the model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.page.loop = asyncio.get_running_loop()
        headers, path = Headers(scope=scope), scope["path"].rstrip("/")
        if (refusal := self._refusal(scope, headers, path)) is not None:
            self._count(refusal)
            await refusal(scope, receive, send)
        elif path in PROBES and scope["method"] in ("GET", "HEAD"):
            here = is_local((scope.get("client") or ("",))[0])
            await (await self.probes.answer(path, headers, here))(scope, receive, send)
        elif path == "/line" and scope["method"] == "GET":
            await self._place(scope, headers)(scope, receive, send)
        elif (reply := await self.logins.answer(scope, receive, self._visitor(scope, headers))) is not None:
            await reply(scope, receive, send)
        elif path.startswith(PREFIX) and scope["method"] in ("GET", "HEAD"):
            found = await self.page.service.links.answer(self.page.service, scope)
            if isinstance(found, JSONResponse) and found.status_code >= 400:
                self._count(found)
            await found(scope, receive, send)
        elif scope["method"] == "POST" and path.startswith(live_sessions.PREFIX):
            await self._live(scope, receive, send, path)
        elif scope["method"] == "POST" and path == "/gradio_api/upload":
            await self.app(scope, self._counting_files(headers, receive), send)
        elif scope["method"] == "POST":
            if path.startswith(_CALLS):
                send = with_visitor(scope, send)
            await self._call(scope, receive, send, headers, path)
        elif path == "" and scope["method"] == "HEAD":
            # So gradio asks at the start whether it is up, and gives up after 3 s, which the whole page can take.
            await Response()(scope, receive, send)
        elif path == "" and scope["method"] == "GET":
            await self.app(scope, receive, with_first_paint(send, _language(headers)))
        else:
            await self.app(scope, receive, send if path else with_visitor(scope, send))

    def _refusal(self, scope: Scope, headers: Headers, path: str) -> JSONResponse | None:
        """Return why a request does not come in, by where it comes from and where it wants to."""
        host = headers.get("host", "")
        if self.paths.is_private and not (is_local(host) or _name(host) in self.paths.hosts):
            # A page elsewhere may have its own name lead to this machine, and so read what is served here.
            return _refuse(
                403, "foreign_host", f"this page is not served under the name {host!r}; set MMER_HOSTS if it is"
            )
        origin = headers.get("origin")
        same = (
            origin is None
            or origin.partition("://")[2] == host
            or _name(origin.partition("://")[2]) in self.paths.hosts
        )
        foreign = headers.get("sec-fetch-site") == "cross-site" and (
            path in ("/login", "/logout") or path.startswith(("/gradio_api", PREFIX))
        )
        if foreign or not same:
            return _refuse(
                403, "foreign_origin", f"another page ({origin or 'unnamed'}) may not ask this one for anything"
            )
        if any(path.startswith(closed) for closed in CLOSED):
            return _refuse(404, "closed", f"{path} is not open here")
        return None

    def _place(self, scope: Scope, headers: Headers) -> JSONResponse:
        """Return where a session's call stands; the session's name, which only its browser knows, is all it takes."""
        session = QueryParams(scope["query_string"]).get("session", "")
        with language.speaking(_language(headers)):
            words = line.words(self.page.service.line.place(session))
        return JSONResponse(words, headers={"cache-control": "no-store"})

    def _count(self, refusal: JSONResponse) -> None:
        self.page.service.monitor.refused(json.loads(bytes(refusal.body))["error"]["code"])

    def _visitor(self, scope: Scope, headers: Headers) -> str:
        """Return the address a request comes from; behind a proxy, the last one outside that a proxy saw."""
        address = (scope.get("client") or ("",))[0]
        behind = self.paths.space or self.paths.hosts
        seen = headers.get("x-forwarded-for", "").split(",") if behind else []
        return next((each.strip() for each in reversed(seen) if _is_outside(each.strip())), address)

    def _counting_files(self, headers: Headers, receive: Receive) -> Receive:
        """Return the body of an upload as it comes in, until more files are in it than one request may bring."""
        boundary = headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        n_parts, tail = 0, b""

        async def counted() -> Message:
            nonlocal n_parts, tail
            message = await receive()
            if boundary:
                seen = tail + message.get("body", b"")
                n_parts += seen.count(b"--" + boundary)
                tail = seen[-(len(boundary) + 1) :]  # one byte short of a boundary: none is counted twice
            if n_parts > self.budget.max_files + 1:  # the last boundary ends the body
                raise HTTPException(413, f"too_many_files: up to {self.budget.max_files} files are accepted at a time")
            return message

        return counted

    async def _body(self, receive: Receive) -> bytes | None:
        """Return a request's body, or the beginning of one that is too long; None: its sender has left."""
        body, more = b"", True
        while more and len(body) <= self.budget.max_body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body

    async def _live(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        body = await self._body(receive)
        if body is None:
            return
        if len(body) > self.budget.max_body_bytes:
            reply = _refuse(413, "too_long", f"a live picture has up to {self.budget.max_body_bytes:,} bytes")
        elif self.page.stopping:
            reply = _refuse(503, "stopping", "this server is being stopped; try again in a minute")
        else:
            with language.speaking(_language(Headers(scope=scope))):
                reply = await self.page.service.live.answer(path, body)
        await reply(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send, headers: Headers, path: str) -> None:
        body = await self._body(receive)
        if body is None:
            return
        is_call, refusal = path.startswith(_CALLS), None
        if len(body) > self.budget.max_body_bytes:
            most = f"{self.budget.max_body_bytes:,}"
            refusal = _refuse(
                413, "too_long", f"the request has more than {most} bytes; upload clips, and shorten texts"
            )
        elif is_call:
            refusal = self._admit(scope, headers, path, body)
        if refusal is not None:
            self._count(refusal)
            await refusal(scope, receive, send)
            return
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, again, send)
        finally:
            if is_call:
                self._entering.remove(scope["mmer.place"])
        if is_call:
            self._take_turns()
            self._make_room(scope["app"].state_holder)

    def _admit(self, scope: Scope, headers: Headers, path: str, body: bytes) -> JSONResponse | None:
        """Return why a call may not wait for its turn; if it may, it has a place from now on."""
        if self.page.stopping:
            return _refuse(503, "stopping", "this server is being stopped; try again in a minute")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _refuse(422, "bad_json", "the body of a call is JSON")
        if not isinstance(asked, dict) or not isinstance(asked.get("session_hash"), str | None):
            return _refuse(422, "bad_json", "the body of a call is a JSON object, its session_hash text")
        if len(asked.get("session_hash") or "") > 100:
            return _refuse(422, "bad_json", "a session_hash has up to 100 characters")
        names = {fn.api_name: fn for fn in self.page.fns.values()}
        fn = names.get(path.rpartition("/")[2]) or self.page.fns.get(_whole(asked.get("fn_index")))
        if fn is None:
            return _refuse(404, "unknown_call", "the page has no such call; /gradio_api/info lists those it has")
        data = asked.get("data")
        if path.startswith("/gradio_api/call/v2/"):  # by name
            about: Any = self.page.get_api_info()["named_endpoints"].get(f"/{fn.api_name}", {"parameters": ()})
            data = [asked.get(given["parameter_name"]) for given in about["parameters"]]
        if (wrong := _wrong_type(fn, data)) is not None:
            return _refuse(422, "bad_type", wrong)
        visitor = self._of(self._visitor(scope, headers), asked.get("session_hash"))
        is_model = fn.concurrency_id == "model"
        all_here = [whose for whose, of_model in self._entering if of_model == is_model]
        here = self.page.waiting() + self.page.running()
        all_here += [self._of_event(e) for e in here if (e.concurrency_id == "model") == is_model]
        mine = all_here.count(visitor)
        places, in_all = (
            (self.budget.model_places, self.budget.all_model_places)
            if is_model
            else (self.budget.other_places, self.budget.all_other_places)
        )
        if mine >= places:
            return _refuse(429, "too_many_calls", f"{mine} calls of yours wait or run; up to {places} do at a time")
        if len(all_here) >= in_all:
            return _refuse(
                503, "queue_full", f"{len(all_here)} calls wait or run, as many as there are places; try again"
            )
        scope["mmer.place"] = (visitor, is_model)
        self._entering.append(scope["mmer.place"])
        return None

    def _of_event(self, event: Any) -> str:
        return self._of(self._visitor(event.request.scope, event.request.headers), event.session_hash)

    def _of(self, address: str, session: str | None) -> str:
        """Return whose a call is: on this machine, where all have one address, its session's."""
        return f"session {session}" if is_local(address) else address

    def _take_turns(self) -> None:
        """Let visitors' waiting calls take turns: everybody's first, then everybody's second."""
        for each in self.page._queue.event_queue_per_concurrency_id.values():
            seen: Counter[str] = Counter()
            turns = []
            for event in each.queue:
                visitor = self._of_event(event)
                turns.append((seen[visitor], event))
                seen[visitor] += 1
            each.queue[:] = [event for _, event in sorted(turns, key=lambda turn: turn[0])]

    def _make_room(self, holder: Any) -> None:
        """Forget results, the longest unused first, while sessions hold more than they may.

        A call that holds none costs nothing. What else a session has stays: what it labels, what it gave.
        """
        held: list[tuple[dict[int, Any], float]] = []
        for state in list(holder.session_data.values()):
            results = {id(found): found for found in _results(list(state.state_data.values()))}
            held.append((state.state_data, sum((found.duration_s or 1.0) for found in results.values())))
        total = sum(seconds for _, seconds in held)
        for values, seconds in held:
            if total <= self.budget.held_s:
                return
            if seconds:
                for key, value in list(values.items()):
                    if any(_results([value])):
                        values[key] = () if isinstance(value, tuple) else None
                total -= seconds


def _results(values: list[Any]) -> Iterator["EmotionResult"]:
    """Yield the results a session holds: the one it looks at and those it can go back to."""
    for value in values:
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, SessionResult):
                yield each.result
                if each.before is not None:
                    yield each.before


def _language(headers: Headers) -> str:
    return language.asked(headers.get("accept-language"))


def is_local(host: str) -> bool:
    """Whether a host name or an address, with or without a port, is this machine's own."""
    name = _name(host)
    try:
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_outside(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return a host without its port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _wrong_type(fn: Any, data: Any) -> str | None:
    """Return what is wrong with the JSON types of a call's values."""
    if not isinstance(data, list):
        return "the data of a call is a list"
    shown = [block for block in fn.inputs if not block.skip_api]
    for block, value in zip(fn.inputs if len(data) == len(fn.inputs) else shown, data, strict=False):
        for kind, words, types in _TAKES:
            each = value if isinstance(block, gr.File) and isinstance(value, list) else [value]
            if isinstance(block, kind) and not all(one is None or _is_of(one, types) for one in each):
                name = language.english(str(block.label or "a value"))
                return f"{name!r} is {json.dumps(value)[:40]}; {words} is needed"
    return None


def _is_of(value: Any, types: Any) -> bool:
    """Whether a value of JSON is of these types; a list holds text and numbers, and a number fits a database."""
    if isinstance(value, bool):
        return types is bool
    if isinstance(value, list):
        return types is list and all(_is_of(each, str | int | float) for each in value)
    return isinstance(value, types) and not (isinstance(value, int | float) and abs(value) > _LARGEST)


def _refuse(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"detail": f"{code}: {message}", "error": {"code": code, "message": message}}, status)
