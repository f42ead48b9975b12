"""What is shown while somebody waits: stages and how far they are, what is known already, and how long it may take."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from mmer.labels import EMOTIONS
from mmer.media import MediaInfo
from mmer.messages import listed, marked
from mmer.ui.language import gettext
from mmer.ui.names import IN_SENTENCE
from mmer.ui.render import render
from mmer.ui.timeline_html import Strip, overall_strip
from mmer.ui.turns import Turn

if TYPE_CHECKING:
    from mmer.perceive import Progress
    from mmer.predict import EmotionResult

STAGES = (
    ("decode", marked("Decoding, and following the face")),
    ("voice", marked("Hearing the voice")),
    ("speech", marked("Writing down the words")),
    ("model", marked("Putting it together")),
)
_REMEMBERED = 8  # clips of a kind: what ran before under another load says little


class Waiting:
    """What one analysis has told so far; the thread that works writes it, the one that shows it reads."""

    def __init__(self, turn: Turn | None = None) -> None:
        self._turn = turn  # None: it has none yet
        self.stage, self.share = "", None  # type: str, float | None
        self.early: EmotionResult | None = None

    def tell(self, progress: "Progress", early: "EmotionResult | None") -> None:
        self.stage, self.share = progress.stage, progress.share
        self.early = early or self.early

    @property
    def sentence(self) -> str:
        if self._turn is not None and self._turn.waits:
            return gettext("Others have their turn")
        return gettext(dict(STAGES).get(self.stage, marked("Starting")))

    def card(self, seconds: float, expected_s: float | None, *, in_line: bool = False) -> str:
        """Return what stands in the result's place until it is there: the same table, filled as each channel is read.

        Args:
            in_line: others are served first.
        """
        waited_s = self._turn.waited_s if self._turn else 0.0
        names = [name for name, _ in STAGES]
        now = names.index(self.stage) if self.stage in names else -1
        return render(
            "waiting.html",
            stages=[
                (gettext(said), "done" if i < now else "now" if i == now else "next")
                for i, (_, said) in enumerate(STAGES)
            ],
            share=self.share,
            seconds=seconds,
            left_s=None if expected_s is None else expected_s + waited_s - seconds,
            early=self.early,
            channels=self._channels(),
            in_line=in_line,
            votes=[(emotion, self._known(k)) for k, emotion in enumerate(EMOTIONS)],
            strip=self._over_time(),
        )

    def _channels(self) -> str:
        """Return what the early verdict was read from."""
        present = {} if self.early is None else self.early.present
        return listed([IN_SENTENCE[m] for m, here in present.items() if here], gettext)

    def _over_time(self) -> Strip | None:
        """Return the utterances so far, by what was read of them; None where there are not several."""
        if self.early is None or len(self.early.segments) < 2:
            return None
        return overall_strip(gettext("Over time, so far"), self.early)

    def _known(self, k: int) -> list[float | None]:
        """Return an emotion's share by face and by voice as far as it is known; a channel that is absent has NaN."""
        return [None, None] if self.early is None else [float(p[k]) for p in self.early.branch_probs[:2]]


@dataclass(frozen=True)
class _Work:
    """What decides how long a clip takes here."""

    picture: bool
    sound: bool
    words: bool  # they are typed: nothing is transcribed


class Pace:
    """How long clips took here lately; any thread may call."""

    def __init__(self) -> None:
        self._per_second: dict[_Work, deque[float]] = {}
        self._lock = threading.Lock()

    def learn(self, files: Sequence[MediaInfo], words: bool, took_s: float) -> None:
        with self._lock:
            seen = self._per_second.setdefault(_work(files, words), deque(maxlen=_REMEMBERED))
            seen.append(took_s / _length_s(files))

    def expected_s(self, files: Sequence[MediaInfo], words: bool) -> float | None:
        """Return how long such a clip should take; None before there was one."""
        with self._lock:
            seen = self._per_second.get(_work(files, words))
            return median(seen) * _length_s(files) if seen else None


def _work(files: Sequence[MediaInfo], words: bool) -> _Work:
    return _Work(any(f.has_picture for f in files), any(f.has_sound for f in files), words)


def _length_s(files: Sequence[MediaInfo]) -> float:
    return max([f.duration_s or 0.0 for f in files] + [1.0])
