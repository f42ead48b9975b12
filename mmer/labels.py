"""The seven emotions, the three modalities, and what each corpus calls them."""

from collections.abc import Iterable

from mmer.errors import LabelError, MmerError

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
MODALITIES = ("face", "voice", "text")
N_EMOTIONS = len(EMOTIONS)

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
