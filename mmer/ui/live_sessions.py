"""Who is live: how many at once, at what pace beside the clips that others send, and how it ends.

A browser posts a picture and the sound since the one before, and gets the verdict on the last seconds; it posts the
next one when it has that, so that pictures are dropped where the server is slower than the camera and none queue.
"""

import asyncio
import io
import logging
import secrets
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from starlette.responses import JSONResponse

from mmer.config import cores
from mmer.errors import ClipError, MmerError
from mmer.ui import language

if TYPE_CHECKING:
    from mmer.live import Live
    from mmer.ui.monitor import Call
    from mmer.ui.service import Service

PREFIX = "/live/"
_VOICE_EVERY = 5  # pictures: hearing takes ten times as long as seeing
_MUTE_S = 2.0  # without sound: the microphone does not go on
_LARGEST_PX = 1280
_HEAD = struct.Struct("<II")  # sample rate, bytes of the picture
_LOG = logging.getLogger(__name__)


@dataclass
class Limits:
    """How many may be live, how often each is looked at, and for how long."""

    places: int = max(1, cores() // 2)  # one takes most of a core, and clips need the others
    pace_s: float = 0.2  # between two pictures, where nobody sends clips
    beside_s: float = 0.5  # while clips are answered
    crowded_s: float = 1.0  # while some wait as well
    idle_s: float = 10.0  # without a picture or a sound: who sends none has left
    most_s: float = 1800.0  # then others get the place


@dataclass(frozen=True)
class Sent:
    """What a browser sends at a time."""

    rgb: np.ndarray | None  # (H, W, 3) uint8
    samples: np.ndarray  # (L,) int16
    rate: int


@dataclass
class Session:
    """One visitor who is live."""

    visitor: str  # the page's name for the browser's session
    live: "Live"
    call: "Call"
    began_s: float
    last_s: float  # when something came or was answered
    paced_s: float = 0.0  # when the last picture was looked at
    sounded_s: float = 0.0
    heard_s: float = 0.0
    hearing: Future | None = None
    has_heard: bool = False  # the first time takes long: Whisper may have to be loaded
    busy: bool = False  # a picture is being looked at
    lock: threading.Lock = field(default_factory=threading.Lock)


class LiveSessions:
    """One for each service. All but `begin`, which any thread may call, belongs to the server's loop."""

    def __init__(self, service: "Service", limits: Limits | None = None):
        self.limits = limits or Limits()
        self._service = service
        self._sessions: dict[str, Session] = {}  # by a token that only its browser knows
        self._lock = threading.Lock()
        self._eyes = ThreadPoolExecutor(self.limits.places, thread_name_prefix="live")
        self._ears = ThreadPoolExecutor(1, thread_name_prefix="live-voice")

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, visitor: str) -> str:
        """Return the token of a new session; one that the visitor had before ends.

        Raises:
            MmerError: `live_full`, `live_unavailable`.
            AssetError: the face cannot be followed here.
        """
        from mmer.live import Live  # torch comes with it

        if self._service.gpu_is_lent:
            message = "this server borrows a GPU for each clip, so it cannot follow anybody live; record a clip instead"
            raise MmerError("live_unavailable", message)
        for token, session in list(self._sessions.items()):
            if session.visitor == visitor:
                self.end(token)
        with self._lock:
            if len(self._sessions) >= (n := self.limits.places):
                places = "one visitor" if n == 1 else f"{n} visitors"
                message = f"{places} at a time can be live here, and every place is taken; try again later, or record"
                raise MmerError("live_full", f"{message} a clip under Analyse")
            live, now, token = Live(self._service.predictor), time.monotonic(), secrets.token_urlsafe(24)
            self._sessions[token] = Session(visitor, live, self._service.monitor.begin("live"), now, now)
        return token

    def end(self, token: str) -> None:
        """Free what a session holds; one that is over is nothing."""
        if session := self._sessions.pop(token, None):
            session.call.end("ok")
            self._eyes.submit(self._free, session)

    @staticmethod
    def _free(session: Session) -> None:
        with session.lock:  # a picture is looked at to its end
            session.live.close()

    def end_idle(self) -> None:
        """End the sessions whose visitors have left, and those that lasted long enough."""
        now, limits = time.monotonic(), self.limits
        for token, session in list(self._sessions.items()):
            is_idle = not session.busy and now - session.last_s > limits.idle_s  # its browser waits while it is busy
            if is_idle or now - session.began_s > limits.most_s:
                self.end(token)

    async def answer(self, path: str, body: bytes) -> JSONResponse:
        """Return the reply to a request below `PREFIX`: what was seen and heard, or `/stop` behind the token."""
        token, _, stop = path.removeprefix(PREFIX).partition("/")
        if stop:
            self.end(token)
            return JSONResponse({"stopped": True})
        session = self._sessions.get(token)
        if session is None:
            idle_s, most_min = self.limits.idle_s, self.limits.most_s / 60
            message = f"this live session is over: nothing came for {idle_s:.0f} s, or it lasted {most_min:.0f} min"
            return _refuse(404, "live_over", f"{message}; press Start for another")
        now, pace_s = time.monotonic(), self._pace_s()
        session.last_s = now
        if session.busy or now - session.paced_s < pace_s / 2:
            return _refuse(429, "dropped", "this picture was dropped: the one before is still looked at", pace_s)
        session.busy, session.paced_s = True, now
        try:
            look = asyncio.get_running_loop().run_in_executor(self._eyes, self._look, session, body, now, pace_s)
            return JSONResponse({**await look, "next_s": pace_s})
        except MmerError as error:
            return _refuse(422, error.code, error.message)
        except Exception:
            _LOG.exception("a live picture failed")
            self.end(token)
            return _refuse(500, "internal", "something went wrong in this program; press Start to go on")
        finally:
            session.busy, session.last_s = False, time.monotonic()

    def _pace_s(self) -> float:
        """Return the seconds from a picture to the next: who sends clips goes first."""
        running, waiting = self._service.line.load()
        limits = self.limits
        return limits.crowded_s if waiting else limits.beside_s if running else limits.pace_s

    def _look(self, session: Session, body: bytes, now: float, pace_s: float) -> dict[str, Any]:
        """Return the verdict after what came; the voice is heard on a thread of its own, and told with the next one."""
        since, sent, live = time.perf_counter(), unpack(body), session.live
        with session.lock:
            if sent.rgb is not None:
                live.see(sent.rgb, now - session.began_s)
            if len(sent.samples):
                live.listen(sent.samples, sent.rate)
                session.sounded_s = now
            elif now - session.sounded_s > _MUTE_S:
                live.fall_silent()
            if session.hearing is not None and session.hearing.done():
                heard, session.hearing, session.has_heard = session.hearing, None, True
                heard.result()  # raises what went wrong in it, once
            if session.hearing is None and now - session.heard_s >= _VOICE_EVERY * pace_s and len(sent.samples):
                session.heard_s, session.hearing = now, self._ears.submit(live.hear)
            moment = live.moment()
        self._service.monitor.timed({"live": (time.perf_counter() - since) * 1e3})
        found = {"face": moment.face, "voice": moment.voice, "together": moment.together}
        return {
            "at_s": round(now - session.began_s, 3),
            "heard": session.has_heard,
            **{name: None if p is None else [round(float(x), 3) for x in p] for name, p in found.items()},
        }


def unpack(body: bytes) -> Sent:
    """Return what a browser sent: sample rate and length of the JPEG (little-endian, 4 bytes each), JPEG, 16-bit mono.

    Raises:
        ClipError: `bad_frame`.
    """
    if len(body) < _HEAD.size:
        raise ClipError("bad_frame", f"a live picture begins with {_HEAD.size} bytes about it; {len(body)} came")
    rate, n_bytes = _HEAD.unpack_from(body)
    jpeg, sound = body[_HEAD.size : _HEAD.size + n_bytes], body[_HEAD.size + n_bytes :]
    if len(jpeg) != n_bytes or len(sound) % 2:
        raise ClipError("bad_frame", f"a live picture of {n_bytes} bytes and whole samples were announced, not sent")
    rgb = None
    if jpeg:
        try:
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
                if max(image.size) > _LARGEST_PX:
                    width, height = image.size
                    found = f"a live picture has {width} x {height} pixels"
                    raise ClipError("bad_frame", f"{found}; up to {_LARGEST_PX} a side are accepted")
                rgb = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ClipError("bad_frame", "a live picture is a JPEG, and this one cannot be read") from error
    return Sent(rgb, np.frombuffer(sound, "<i2"), rate)


def freeing(sessions: LiveSessions) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return what frees the sessions of visitors who left as long as the server runs, as FastAPI takes it."""

    async def clock() -> None:
        while True:
            await asyncio.sleep(sessions.limits.idle_s / 4)
            sessions.end_idle()

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        task = asyncio.create_task(clock())
        try:
            yield
        finally:
            task.cancel()
            for token in list(sessions._sessions):
                sessions.end(token)

    return lifespan


def _refuse(status: int, code: str, message: str, next_s: float | None = None) -> JSONResponse:
    told = {"error": {"code": code, "message": language.told(message) or message}}
    return JSONResponse(told if next_s is None else {**told, "next_s": next_s}, status)
