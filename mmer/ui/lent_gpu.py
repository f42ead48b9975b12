"""A GPU that a Space lends for a call (ZeroGPU), for as long as the call is expected to take."""

import os
from collections.abc import Callable
from types import ModuleType

from mmer import media
from mmer.errors import ClipError

# Guesses, on the safe side: a call that takes longer is cut off, and a visitor's time counts what was asked for.
_START_S = 20.0  # to hand the call over and to find what it needs
_PER_S = 0.3  # of a clip: decoding and landmarks stay on the processor (0.1 s here), Whisper follows
_UNKNOWN_S = 300.0  # taken for the length of a clip that does not say it, as browsers record them
_ONE_UTTERANCE_S = 60  # an explanation or another look: at most ten seconds of clip, seen many times


def seconds_for(*given: object, **_: object) -> int:
    """Return how long a call may take: by the length of the files it names, or as for one utterance."""
    # Where a result is given, the text beside it is words or the name of an emotion.
    files = [each for each in given if isinstance(each, (str, os.PathLike))]
    if len(files) < len(given):
        return _ONE_UTTERANCE_S
    return round(_START_S + _PER_S * sum(map(_length_s, files)))


def _length_s(file: str | os.PathLike) -> float:
    try:
        found = media.probe(file)
    except ClipError:  # the call itself says what is wrong with it
        return 0.0
    return 0.0 if found.kind == "image" else found.duration_s or _UNKNOWN_S


def lender(spaces: ModuleType) -> Callable[[Callable], Callable]:
    """Return what makes calls run where a GPU is lent: in another process, which nobody can stop or watch."""

    def lend(call: Callable) -> Callable:
        lent = spaces.GPU(duration=seconds_for)(call)
        return lambda *args, should_stop=None, watcher=None, report=None, **options: lent(*args, **options)

    return lend
