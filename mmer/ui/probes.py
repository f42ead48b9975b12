"""What programs ask the server about itself: /healthz, /readyz and /metrics."""

import hmac
import time
from typing import TYPE_CHECKING

import anyio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from mmer.ui.auth import FORWARDED

if TYPE_CHECKING:
    from mmer.ui.page import Page

PROBES = ("/healthz", "/readyz", "/metrics")
_WAIT_S = 10.0  # for a database: one that takes longer does not answer
_FRESH_S = 1.0  # how long an answer holds: whoever asks more often costs nothing


class Probes:
    """Answers before anybody has to log in; none of it says anything about a visitor or a clip."""

    def __init__(self, page: "Page"):
        self.page = page
        self._state: dict[str, str] = {}
        self._asked_s = -_FRESH_S
        self._one = anyio.Lock()

    async def answer(self, path: str, headers: Headers, here: bool) -> Response:
        """Return the reply to a request; `here`: from an address of this machine."""
        if path == "/healthz":
            return JSONResponse({"status": "ok"})  # a process that says so lives
        if path == "/readyz":
            state = await self._ready()
            well = all(each == "ok" for each in state.values())
            return JSONResponse({"status": "ok" if well else "error", **state}, 200 if well else 503)
        if not self._may_read(headers, here):
            message = "the figures are for this machine; from elsewhere send MMER_METRICS_TOKEN as a bearer token"
            return JSONResponse({"detail": message, "error": {"code": "not_allowed", "message": message}}, 403)
        return Response(await anyio.to_thread.run_sync(self.page.service.monitor.text), media_type=CONTENT_TYPE_LATEST)

    async def _ready(self) -> dict[str, str]:
        """Return `ok` or a code for each thing without which a call fails."""
        async with self._one:
            if time.monotonic() - self._asked_s >= _FRESH_S:
                self._state = {"model": "too_slow", "database": "too_slow"}
                with anyio.move_on_after(_WAIT_S):
                    self._state = await anyio.to_thread.run_sync(self.page.service.readiness, abandon_on_cancel=True)
                self._asked_s = time.monotonic()
        return {**self._state, "server": "stopping" if self.page.stopping else "ok"}

    def _may_read(self, headers: Headers, here: bool) -> bool:
        """Whether a request is of this machine, not through a proxy, or brings the token."""
        token = self.page.service.paths.metrics_token
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if token and hmac.compare_digest(given.encode(), token.encode()):
            return True
        return here and not any(name in headers for name in FORWARDED)
