"""How loud a recording is over its time, for the strip beneath it in Label."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from mmer import media
from mmer.errors import ClipError

N_PEAKS = 400  # two pixels each of the widest strip
_RATE, _BIN = 8_000, 160  # of 20 ms: no syllable is missed
_QUIET = 0.02  # of full scale: a recording of nothing but noise is drawn flat


@lru_cache(1000)  # 3 MB; a clip's link decides whether it may be asked for
def peaks(path: Path, changed_ns: int) -> tuple[int, ...]:
    """Return the loudest sample of each of up to `N_PEAKS` stretches of a recording, 0 to 100; () without sound.

    Args:
        changed_ns: when the file was written, so that another file of this name is heard anew.
    """
    bins, length = np.zeros(0, np.float32), 0
    try:
        for chunk in media.stream(path, sample_rate=_RATE, picture=False):
            if isinstance(chunk, media.AudioChunk) and len(chunk.samples):
                at = max(0, round(chunk.start_s * _RATE))
                lead, n_samples = at % _BIN, len(chunk.samples)
                padded = np.pad(np.abs(chunk.samples), (lead, -(lead + n_samples) % _BIN))
                loudest = padded.reshape(-1, _BIN).max(axis=1)
                first, last = at // _BIN, at // _BIN + len(loudest)
                if last > len(bins):
                    bins = np.pad(bins, (0, max(last, 2 * len(bins)) - len(bins)))
                bins[first:last] = np.maximum(bins[first:last], loudest)
                length = max(length, last)
    except ClipError:
        return ()
    if not bins.any():
        return ()
    bins = bins[:length]
    starts = np.linspace(0, len(bins), min(N_PEAKS, len(bins)), endpoint=False).astype(int)
    loud = np.maximum.reduceat(bins, starts)
    return tuple(np.rint(100 * loud / max(float(loud.max()), _QUIET)).astype(int).tolist())
