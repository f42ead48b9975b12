"""The seven emotions, the three modalities, and what each corpus calls them."""

from collections.abc import Iterable
from dataclasses import dataclass

from mmer.errors import LabelError, MmerError

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
MODALITIES = ("face", "voice", "text")
N_EMOTIONS = len(EMOTIONS)


@dataclass(frozen=True)
class Sign:
    """How an emotion looks wherever it is shown; its word always stands beside."""

    symbol: str  # told apart without colour
    light: str  # on white: 3 to 1 and more, as lines and symbols need
    dark: str  # on slate-950, likewise


# The hues of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart with every kind of colour blindness; darker
# or lighter than theirs where the page's ground needs it.
SIGNS = {
    "anger": Sign("▲", "#c2410c", "#ff8a4c"),
    "disgust": Sign("✖", "#00805e", "#2dd4a0"),
    "fear": Sign("◆", "#a8508a", "#e39ac6"),
    "happiness": Sign("●", "#a16a00", "#f0b429"),
    "neutral": Sign("■", "#5b6472", "#aab4c3"),
    "sadness": Sign("▼", "#0067a3", "#58a9e8"),
    "surprise": Sign("★", "#136f9e", "#7cd0f7"),
}

# One synonym table serves every corpus: no corpus gives one of these words to a different emotion.
_SYNONYMS = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "calm": "neutral",
    "sad": "sadness",
    "surprised": "surprise",
}

RAVDESS_CODES = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
EMODB_CODES = {
    "W": "anger",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
    "L": "boredom",
}


def emotion(name: str) -> str:
    """Return the canonical emotion for a corpus' name of it.

    Raises:
        LabelError: `unknown_label` when the name is none of ours (EMO-DB's boredom, for one).
    """
    key = name.strip().lower()
    key = _SYNONYMS.get(key, key)
    if key not in EMOTIONS:
        raise LabelError(
            "unknown_label", f"label {name!r} is not an emotion of this model; use one of {', '.join(EMOTIONS)}"
        )
    return key


def index(name: str) -> int:
    """Return the position of an emotion in `EMOTIONS`, synonyms included."""
    return EMOTIONS.index(emotion(name))


def check_modalities(names: Iterable[str]) -> None:
    """Refuse what is no modality: "audio" would leave the voice out without a word.

    Raises:
        MmerError: `unknown_modality`.
    """
    if unknown := sorted(set(names) - set(MODALITIES)):
        raise MmerError("unknown_modality", f"there is no modality {unknown[0]!r}; use {', '.join(MODALITIES)}")
