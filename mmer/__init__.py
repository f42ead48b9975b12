"""Multimodal emotion recognition: face, voice and words of a clip, any subset of them, with reasons.

The public names are loaded when they are first asked for, so that `import mmer` costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmer.attribution import explain
    from mmer.errors import AssetError, CheckpointError, ClipError, LabelError, MmerError, Notice, TrainingError
    from mmer.explanation import Explanation
    from mmer.labels import EMOTIONS, MODALITIES
    from mmer.predict import EmotionResult, Predictor, Segment
    from mmer.whatif import Changes, what_if

__all__ = [
    "EMOTIONS",
    "MODALITIES",
    "AssetError",
    "Changes",
    "CheckpointError",
    "ClipError",
    "EmotionResult",
    "Explanation",
    "LabelError",
    "MmerError",
    "Notice",
    "Predictor",
    "Segment",
    "TrainingError",
    "explain",
    "what_if",
]
_HOME = {
    "mmer.attribution": ("explain",),
    "mmer.explanation": ("Explanation",),
    "mmer.labels": ("EMOTIONS", "MODALITIES"),
    "mmer.predict": ("EmotionResult", "Predictor", "Segment"),
    "mmer.whatif": ("Changes", "what_if"),
}
_MODULE_OF = dict.fromkeys(__all__, "mmer.errors") | {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mmer' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
