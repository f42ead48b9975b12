"""A clip over its time: the player with captions, curves of each channel's emotions, and the utterances one by one."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmer.labels import EMOTIONS, MODALITIES
from mmer.media import MediaInfo
from mmer.sources import seen_and_heard
from mmer.ui.captions import webvtt
from mmer.ui.language import gettext
from mmer.ui.media_uri import upload_uri
from mmer.ui.names import CHANNELS, emotion
from mmer.ui.numbers import likely, stretch
from mmer.ui.playable import Player
from mmer.ui.render import render

if TYPE_CHECKING:
    from mmer.predict import EmotionResult

_WIDTH, _HEIGHT = 1000, 100  # of a curve's own units; the page stretches it
_DRAWN = 0.25  # an emotion that a channel never gives so much is no curve


@dataclass(frozen=True)
class Curve:
    """An emotion's probability by one channel, as lines over the utterances."""

    emotion: str
    path: str  # SVG
    label_y: float  # in percent from above, where its symbol stands: the curve's highest place


@dataclass(frozen=True)
class Strip:
    """One channel over the clip."""

    name: str
    curves: list[Curve]
    tops: Sequence[tuple[float, float, str | None]]  # of each utterance: left and width in percent, its first emotion
    told: str  # for who does not see it


@dataclass(frozen=True)
class Media:
    """What is played: `tag` with the picture or the sound, `beside` with the sound of another file."""

    src: str
    tag: str  # video or audio
    beside: str = ""


def timeline(result: "EmotionResult", player: Player | None, uploads: Path | None) -> str:
    """Return the clip over its time; empty for what has no length.

    Args:
        player: finds what a browser plays of the files; None: nothing is played, as in a report.
        uploads: where the files lie.
    """
    length_s = result.duration_s or 0.0
    if length_s <= 0 or result.emotion is None:
        return ""
    played = media(result.observation.files, player, uploads) if player and uploads else None
    strips = [_strip(gettext("Together"), result, None, length_s)] if len(result.segments) > 1 else []
    if strips:
        used = [i for i, m in enumerate(MODALITIES) if result.present[m]]
        strips += [_strip(CHANNELS[MODALITIES[i]], result, i, length_s) for i in used if len(used) > 1]
    captions = base64.b64encode(webvtt(result).encode()).decode()
    return render(
        "timeline.html",
        media=played,
        captions=f"data:text/vtt;base64,{captions}",
        strips=strips,
        length_s=length_s,
        utterances=[(s, " ".join(s.features.words)) for s in result.segments],
        spoken=result.present["voice"] or result.present["text"],
        static=player is None,
    )


def overall_strip(name: str, result: "EmotionResult") -> Strip | None:
    """Return the curves of all channels together; None for what has no length."""
    length_s = result.duration_s or 0.0
    return _strip(name, result, None, length_s) if length_s > 0 and result.emotion is not None else None


def media(files: Sequence[MediaInfo], player: Player, uploads: Path) -> Media | None:
    """Return what is played of a result's files."""
    seen, heard = seen_and_heard(files)
    film = seen if seen is not None and seen.kind == "video" else None
    shown = {f.path: found for f in (film, heard) if f and (found := _playable(f, player, uploads))}
    if film and film.path in shown:
        beside = shown.get(heard.path, "") if heard is not None and heard is not film else ""
        return Media(shown[film.path], "video", beside)
    return Media(shown[heard.path], "audio") if heard and heard.path in shown else None


def _playable(file: MediaInfo, player: Player, uploads: Path) -> str:
    path = Path(file.path)
    if not path.is_file() or not path.is_relative_to(uploads):
        return ""
    found = player.preview(path, file, uploads)
    return upload_uri(found.path) if found else ""


def _strip(name: str, result: "EmotionResult", channel: int | None, length_s: float) -> Strip:
    # Where nothing was read, all emotions are equally likely together: the first would be drawn.
    read = [s for s in result.segments if s.emotion is not None]
    rows = [(s.start_s, s.end_s, s.probs if channel is None else s.branch_probs[channel]) for s in read]
    rows = [(start_s, end_s, p) for start_s, end_s, p in rows if not np.isnan(p).any()]
    highest = np.max([p for _, _, p in rows], axis=0) if rows else np.zeros(len(EMOTIONS))
    curves = [
        Curve(
            EMOTIONS[k],
            " ".join(
                f"M{_WIDTH * start_s / length_s:.1f} {_y(p[k]):.1f}H{_WIDTH * end_s / length_s:.1f}"
                if i == 0
                else f"L{_WIDTH * start_s / length_s:.1f} {_y(p[k]):.1f}H{_WIDTH * end_s / length_s:.1f}"
                for i, (start_s, end_s, p) in enumerate(rows)
            ),
            float(_y(highest[k])),
        )
        for k in np.argsort(-highest)
        if highest[k] >= _DRAWN
    ]
    tops = [
        (100 * start_s / length_s, 100 * (end_s - start_s) / length_s, EMOTIONS[int(p.argmax())])
        for start_s, end_s, p in rows
    ]
    told = "; ".join(
        f"{stretch(start_s, end_s)} {emotion(EMOTIONS[int(p.argmax())])} {likely(float(p.max()))}"
        for start_s, end_s, p in rows
    )
    return Strip(name, curves, tops, f"{name}: {told}")


def _y(share: float) -> float:
    return _HEIGHT * (1 - 0.92 * float(share)) - 4  # a little air above and below
