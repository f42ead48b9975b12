"""What Chromium's camera and microphone give in tests: a drawn face that changes, and a voice."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, BrowserType

from tests import synth
from tests.browser.conftest import CHROMIUM, FLAGS

ALLOWED = "--use-fake-ui-for-media-stream"  # every question of the browser is answered with yes
_LOOP_S, _FPS = 6, 10


def picture(t: float) -> Image.Image:
    """Return what a camera of 640 x 480 pixels sees at a second: somebody talks and smiles more and less."""
    smile = 0.5 - 0.5 * math.cos(2 * math.pi * t / _LOOP_S)
    seen = Image.new("RGB", (640, 480), (120, 140, 160))
    seen.paste(synth.talking(t, size=480, smile=smile), (80, 0))
    return seen


def devices(folder: Path) -> list[str]:
    """Return Chromium's flags for a camera and a microphone that play files made here."""
    film, sound = folder / "camera.mjpeg", folder / "microphone.wav"
    with film.open("wb") as out:
        for i in range(_LOOP_S * _FPS):
            picture(i / _FPS).save(out, "JPEG", quality=85)
    synth.write_clip(sound, seconds=8, face=False, voice=np.repeat(synth.voice(8), 3), rate=48_000)
    return [
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
        f"--use-file-for-fake-audio-capture={sound}",
    ]


def with_devices(chromium: BrowserType, flags: list[str]) -> Browser:
    """Return a browser with more flags than the other tests' one."""
    return chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
