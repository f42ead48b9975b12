"""Logging in with an account: not too many tries, nobody else waits for them, and a cookie ends with its account."""

import logging
import secrets
import time
from collections import deque
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from annotations.accounts import Accounts
from mmer.errors import LabelError

_TRIES, _PER_ADDRESS, _PER_NAME = (
    5,
    20,
    50,
)  # wrong passwords for a name from an address, for all names, from everywhere
_WITHIN_S = 600.0
_MOST_KEYS = 10_000  # whose tries are remembered
_FIELDS = 1_000  # characters of a name and of a password
_LOG = logging.getLogger(__name__)


def login_of(request: Request, app: Any) -> tuple[str, str | None]:
    """Return the token of a request's login cookie, under either name that gradio reads, and whose it is."""
    names = (f"access-token-{kind}{app.cookie_id}" for kind in ("", "unsecure-"))
    token = next(filter(None, map(request.cookies.get, names)), "")
    return token, app.tokens.get(token)


class Logins:
    """Answers /login and /logout instead of gradio; forgets the cookies of accounts that were removed or changed."""

    def __init__(self, accounts: Accounts):
        self.accounts = accounts
        self._stamps: dict[str, str | None] = {}  # by cookie: of the account it was given for
        self._wrong: dict[tuple[str, str], deque[float]] = {}
        self._hashing = anyio.CapacityLimiter(2)  # argon2 takes 64 MiB and a core each

    async def answer(self, scope: Scope, receive: Receive, address: str) -> Response | None:
        """Return the reply to a request about logging in or out, None for any other; one that says what is wrong while
        nobody's login can be checked.
        """
        try:
            return await self._answer(scope, receive, address)
        except LabelError as error:
            _LOG.error("nobody can be let in: %s", error)  # it names a file, which strangers need not know
            return _told(503, error.code, "the accounts of this page cannot be read; its owner has to look after them")

    async def _answer(self, scope: Scope, receive: Receive, address: str) -> Response | None:
        app, path = scope["app"], scope["path"].rstrip("/")
        if app.auth is None:
            nobody = path in ("/login", "/logout") and not app.get_blocks().expects_oauth
            return _told(404, "no_accounts", "nobody has to log in here") if nobody else None
        request = Request(scope, receive)
        cookie = f"access-token-unsecure-{app.cookie_id}"
        token, name = login_of(request, app)
        if name is not None and self._stamps.get(token) != self.accounts.stamp(name):
            self._forget(app, lambda each: each == token)
        if path == "/logout":
            if scope["method"] != "POST":
                return _told(405, "not_a_link", "a link on another page must not log anybody out; use the button")
            self._forget(app, lambda each: app.tokens[each] == name)
            reply = JSONResponse({"success": True})
            reply.delete_cookie(cookie)
            return reply
        if path == "/login" and scope["method"] == "POST":
            return await self._log_in(request, app, cookie, address)
        return None

    async def _log_in(self, request: Request, app: Any, cookie: str, address: str) -> Response:
        try:
            async with request.form(max_files=0, max_fields=10, max_part_size=4 * _FIELDS) as form:
                name, password = (str(form.get(field) or "") for field in ("username", "password"))
        except HTTPException as error:
            return _told(400, "bad_form", error.detail)
        if len(name) > _FIELDS or len(password) > _FIELDS:
            return _told(400, "text_too_long", f"a name and a password have up to {_FIELDS} characters")
        keys = {(address, name.strip()): _TRIES, (address, ""): _PER_ADDRESS, ("", name.strip()): _PER_NAME}
        if (wait_s := max(self._wait_s(key, most) for key, most in keys.items())) > 0:
            reply = _told(429, "too_many_tries", f"too many wrong passwords; try again in {wait_s:.0f} s")
            reply.headers["Retry-After"] = f"{wait_s:.0f}"
            return reply
        for key in keys:  # before the answer: tries at once count too
            self._wrong.setdefault(key, deque()).append(time.monotonic())
        if not await anyio.to_thread.run_sync(app.auth, name.strip(), password, limiter=self._hashing):
            return _told(400, "wrong_password", "Incorrect credentials.")
        for key in keys:
            self._wrong.pop(key, None)
        token = secrets.token_urlsafe(32)
        app.tokens[token], self._stamps[token] = name.strip(), self.accounts.stamp(name)
        reply = JSONResponse({"success": True})
        secure = request.url.scheme == "https"
        reply.set_cookie(cookie, token, httponly=True, samesite="lax", secure=secure)
        return reply

    def _wait_s(self, key: tuple[str, str], most: int) -> float:
        """Return the seconds until one more try is allowed."""
        now = time.monotonic()
        if len(self._wrong) > _MOST_KEYS:
            self._wrong = {k: tries for k, tries in self._wrong.items() if tries and now - tries[-1] < _WITHIN_S}
        tries = self._wrong.get(key, deque())
        while tries and now - tries[0] >= _WITHIN_S:
            tries.popleft()
        return 0.0 if len(tries) < most else _WITHIN_S - (now - tries[0])

    def _forget(self, app: Any, which: Any) -> None:
        for token in [each for each in app.tokens if which(each)]:
            del app.tokens[token]
            self._stamps.pop(token, None)


def _told(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"detail": message, "error": {"code": code, "message": message}}, status)
