"""Action units of faces whose pictures are not here: what OpenFace measured of RAVDESS, take by take."""

import csv
from pathlib import Path

from mmer.errors import TrainingError


def take_of(stem: str) -> str:
    """Return what RAVDESS calls a take in all its files: emotion, strength, words, repetition and actor.

    The two numbers before it say which file it is: picture and sound, picture alone or sound alone; speech or song.
    """
    return stem.split("-", 2)[-1]


def ravdess_action_units(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return 35 action units of each take of RAVDESS' speech, means over its pictures: strengths, then presences.

    Reads the tables `*.csv` below `folder` that have the columns `clip` and `AU01_r`.

    Raises:
        TrainingError: `no_action_units`.
    """
    found: dict[str, tuple[float, ...]] = {}
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as f:
            reader = csv.DictReader(f)
            if not {"clip", "AU01_r"} <= set(reader.fieldnames or ()):
                continue
            units = [name for name in reader.fieldnames or () if name.startswith("AU")]
            for cells in reader:
                if cells["clip"].startswith("01-01-"):
                    found[take_of(cells["clip"])] = tuple(float(cells[name]) for name in units)
    if not found:
        message = f"{folder} has no table of action units of RAVDESS; one with the columns clip and AU01_r is needed"
        raise TrainingError("no_action_units", message)
    return found
