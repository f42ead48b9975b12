"""What ten people saw in the images of FER2013: the votes of FER+, a soft target beside each image's label.

https://arxiv.org/abs/1608.01041
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmer.labels import EMOTIONS
from training.data.manifest import Row


def ferplus_votes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return the shares (K,) of the votes for our emotions by its path in the zip or its number.

    Reads `fer2013_zip_votes.csv` (a column `path_in_zip`) and the authors' `fer2013new.csv`, whose lines are those of
    fer2013.csv. Votes for contempt, for unknown or for no face are none of ours; an image without others is left out.
    """
    votes: dict[str, tuple[float, ...]] = {}
    for table in sorted([*folder.rglob("fer2013_zip_votes.csv"), *folder.rglob("fer2013new.csv")]):
        with table.open(newline="", encoding="utf-8") as f:
            for number, cells in enumerate(csv.DictReader(f)):
                counts = [float(cells[e]) for e in EMOTIONS]
                if sum(counts) > 0:
                    key = cells.get("path_in_zip") or f"{number:05d}"
                    votes[key] = tuple(n / sum(counts) for n in counts)
    return votes


def with_votes(rows: Sequence[Row], votes: dict[str, tuple[float, ...]]) -> list[Row]:
    """Return the rows, those of images that were voted on with their votes."""
    found = []
    for row in rows:
        key = "/".join(row.path.parts[-3:]) if row.path else ""
        shares = votes.get(key) or (votes.get(row.path.stem) if row.path else None)
        found.append(replace(row, votes=shares) if shares else row)
    return found
