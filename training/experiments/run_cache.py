"""The runs of an experiment, one file each: what is finished is never run again, and a killed experiment goes on."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.learn.config import part_of


@dataclass(frozen=True)
class Run:
    """What one run found."""

    figures: dict  # as JSON can hold it
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def without(settings: dict, parts: Sequence[str]) -> dict:
    """Return settings without those about one of the parts, as `face` or `fusion`."""
    return {k: without(v, parts) if isinstance(v, dict) else v for k, v in settings.items() if part_of(k) not in parts}


class Runs:
    """Finished runs below `folder`. A run is known by its name and by the settings it was made with."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _stem(self, name: str, settings: dict) -> str:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]
        return f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)}-{digest}"

    def work(self, name: str, settings: dict) -> Path:
        """Return the folder for a run's training states, from which a killed run goes on."""
        folder = self.folder / self._stem(name, settings)
        folder.mkdir(exist_ok=True)
        return folder

    def get(self, name: str, settings: dict, make: Callable[[Path], Run]) -> Run:
        """Return a finished run, or make it in its work folder and keep it."""
        path = self.folder / f"{self._stem(name, settings)}.npz"
        if not path.is_file():
            made = make(self.work(name, settings))
            text = json.dumps({"name": name, "settings": settings, "figures": made.figures}, default=str)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, allow_pickle=False, json=np.array(text), **made.arrays)
            os.replace(part, path)
        with np.load(path) as kept:
            figures = json.loads(str(kept["json"]))["figures"]
            return Run(figures, {k: kept[k] for k in kept.files if k != "json"})
