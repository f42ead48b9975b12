"""Recordings by links: each for one visitor, one clip and some hours, in ranges, from the disk.

A link says nothing of what a file is called or where it lies, and opens nothing by itself: whoever asks is who it was
made for, may still do what it was made for, and the clip is still there.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import gradio as gr
from gradio.oauth import _get_valid_oauth_info_from_session
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Message, Scope, Send

from annotations.accounts import Person
from annotations.db.schema import ClipRecord
from mmer.errors import ClipError, LabelError
from mmer.ui.auth import authorize
from mmer.ui.login import login_of
from mmer.ui.waveform import peaks

if TYPE_CHECKING:
    from mmer.ui.service import Service

PREFIX, PEAKS = "/media/", "/peaks"  # a link with the latter behind it leads to how loud the recording is
LIFE_S = 4 * 3600.0  # longer than anybody looks at one item; the page asks for a new one when it is over
VISITOR = "mmer_visitor"  # the cookie that tells one browser from another, where nobody logs in too
_ACTIONS = ("label", "review")  # what a link may be made for
_LINK = re.compile(rf"({'|'.join(_ACTIONS)})-(\d{{1,18}})-(\d{{1,12}})-([\w-]{{43}})", re.ASCII)
_COOKIE = re.compile(r"[\w-]{43}", re.ASCII)
_HEADERS = {
    "cache-control": "private, no-store",  # a face is not left in the cache of a machine that others use
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True)
class Viewer:
    """Whom a link is for."""

    visitor: str = ""  # of the cookie
    account: str = ""  # empty where nobody logs in


def viewer(request: gr.Request | None, person: Person) -> Viewer:
    """Return who makes a call of the page."""
    cookies = request.cookies if request is not None and request.request is not None else {}
    return Viewer(cookies.get(VISITOR, ""), person.name if person.logged_in else "")


def with_visitor(scope: Scope, send: Send) -> Send:
    """Give a request without the visitor's cookie one, for the answer too."""
    if _COOKIE.fullmatch(Request(scope).cookies.get(VISITOR, "")):
        return send
    value = secrets.token_urlsafe(32)
    scope["headers"] = [*scope["headers"], (b"cookie", f"{VISITOR}={value}".encode())]  # the last one counts
    space = scope["app"].get_blocks().service.paths.space
    # A Space is shown in a frame of another site, where browsers send no cookie but one of this kind.
    kind = "; SameSite=None; Secure; Partitioned" if space else "; SameSite=Lax"
    kind += "; Secure" if scope["scheme"] == "https" and not space else ""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.append("set-cookie", f"{VISITOR}={value}; Path=/; HttpOnly{kind}")
        await send(message)

    return sending


class MediaLinks:
    """Makes links and answers those who follow them; any thread may make one.

    Args:
        secret: of all servers that shall take each other's links; empty: links end with this process.
        life_s: how long a link made from now on leads anywhere.
    """

    def __init__(self, secret: str = "", life_s: float = LIFE_S):
        self.life_s = life_s
        self._key = hashlib.sha256(secret.encode()).digest() if secret else secrets.token_bytes(32)
        self._converting = anyio.CapacityLimiter(2)  # a film takes minutes: who waits for one takes no thread of others

    def link(self, clip_id: int, action: str, whose: Viewer) -> str:
        """Return the address of a clip's recording, as the page that was served from the same place asks for it.

        Args:
            action: what it is shown for, `label` or `review`; who follows it has to be allowed that.
        """
        expires = int(time.time() + self.life_s)
        return f"{PREFIX[1:]}{action}-{clip_id}-{expires}-{self._signature(action, clip_id, expires, whose)}"

    async def answer(self, service: "Service", scope: Scope) -> Response:
        """Return the reply to a GET or HEAD of a path that begins with `PREFIX`."""
        try:
            path, sha256 = await anyio.to_thread.run_sync(self._clip, service, scope)
            if scope["path"].endswith(PEAKS):
                changed_ns = path.stat().st_mtime_ns
                shown = await anyio.to_thread.run_sync(peaks, path, changed_ns, limiter=self._converting)
                return JSONResponse({"peaks": shown}, headers=_HEADERS)
            found = await anyio.to_thread.run_sync(service.player.ready, path, sha256)
            if found is None:
                found = await anyio.to_thread.run_sync(service.player.of, path, sha256, limiter=self._converting)
            return FileResponse(found.path, 200, _HEADERS, found.type, stat_result=found.path.stat())
        except _Refused as refused:
            return refused.reply
        except LabelError as error:  # who asks may not, or no more
            return _refusal(403, error.code, error.message)
        except ClipError as error:
            return _refusal(422, error.code, "a browser cannot play this recording")
        except FileNotFoundError:  # it was deleted this moment
            return _refusal(404, "deleted", "the recording is not here any more")

    def _clip(self, service: "Service", scope: Scope) -> tuple[Path, str]:
        """Return the file that a link leads to, and the hash it was registered with."""
        parts = _LINK.fullmatch(scope["path"].removeprefix(PREFIX).removesuffix(PEAKS))
        if parts is None:
            raise _Refused(404, "no_link", "there is no such link")
        action, clip_id, expires = parts[1], int(parts[2]), int(parts[3])
        person, whose = _who(service, scope, action)
        if not hmac.compare_digest(parts[4], self._signature(action, clip_id, expires, whose)):
            raise _Refused(403, "not_yours", "this link was made for somebody else; load the page again")
        if time.time() >= expires:
            raise _Refused(410, "expired", "this link is over; load the page again")
        store = service.store
        with store.reading() as session:
            clip = session.get(ClipRecord, clip_id)
            file, sha256 = (store.file_of(clip.media, clip.path), clip.sha256) if clip else (None, "")
        if file is None:
            raise _Refused(404, "deleted", "the recording is not here any more")
        if store.was_consented(file) and not person.let_in:
            raise _Refused(403, "not_allowed", "this recording is for the people whom the page's owner lets in")
        return file, sha256

    def _signature(self, action: str, clip_id: int, expires: int, whose: Viewer) -> str:
        signed = f"mmer media 1\n{action}\n{clip_id}\n{expires}\n{whose.visitor}\n{whose.account}"
        found = hmac.digest(self._key, signed.encode(), "sha256")
        return base64.urlsafe_b64encode(found).decode().rstrip("=")


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str):
        self.reply = _refusal(status, code, message)


def _who(service: "Service", scope: Scope, action: str) -> tuple[Person, Viewer]:
    """Return who follows a link, if they may do what it is for; as gradio tells it to the page's handlers."""
    request, app = Request(scope), scope["app"]
    login = _get_valid_oauth_info_from_session(scope.get("session", {}))
    profile = gr.OAuthProfile(login["userinfo"]) if login else None
    asking = gr.Request(request, login_of(request, app)[1])  # type: ignore[arg-type]  # FastAPI's request is Starlette's
    person = authorize(service, action, asking, profile)
    return person, viewer(asking, person)


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"detail": message, "error": {"code": code, "message": message}}, status, _HEADERS)
