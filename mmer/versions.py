"""The checkpoints there are: where each comes from, what it reached, what it learned from and who put it in use."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmer import checkpoint
from mmer.errors import CheckpointError
from mmer.messages import marked

QUESTIONS = {
    "people": marked("people who were labelled"),
    "strangers": marked("strangers"),
}  # what a retraining is measured by


@dataclass(frozen=True)
class Promotion:
    """A line of `promotions.jsonl`."""

    at: str  # UTC
    by: str
    checkpoint: str
    before: str


@dataclass(frozen=True)
class Version:
    id: str
    serves: bool
    parent: str | None = None
    created_at: str = ""
    metrics: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None  # of a retraining: clips, speakers and labels of each part
    run: int | None = None  # the retraining that made it, in the labels' database
    verdict: str = ""  # of that run
    promotions: tuple[Promotion, ...] = ()
    problem: str = ""  # why it cannot be read

    @property
    def gains(self) -> dict[str, tuple[float, float]]:
        """UAR of the parent and of this one for each question that its retraining could answer."""
        found = {}
        for name, words in QUESTIONS.items():
            part = (self.metrics or {}).get(name)
            if isinstance(part, Mapping) and part.get("served") and part.get("new"):
                found[words] = (part["served"]["uar"], part["new"]["uar"])
        return found

    @property
    def figures(self) -> list[str]:
        """What it reached, in words."""
        if self.gains:
            return [f"UAR {before:.3f} -> {after:.3f} for {words}" for words, (before, after) in self.gains.items()]
        return [*_uars(self.metrics or {})][-1:] or ["no figures"]

    @property
    def learned(self) -> list[str]:
        """What it learned from, in words; nothing where it does not say."""
        data = {name: part for name, part in (self.data or {}).items() if isinstance(part, Mapping)}
        part = data.get("train", {})
        if "labels" in part:
            return [f"learned from {part['labels']} labels of {part['clips']} clips and {part['speakers']} speakers"]
        corpora = [f"{part['n'][0]} {name}s" for name, part in data.items() if part.get("n")]
        return [f"learned from {', '.join(corpora)}"] if corpora else []


def versions(root: Path) -> list[Version]:
    """Return the checkpoint that ships and then all below `root`, oldest first; one that cannot be read says why."""
    serves, put = checkpoint.promoted(root), promotions(root)
    found = []
    for name in [checkpoint.BASE, *checkpoint.listing(root)]:
        mine = tuple(p for p in put if p.checkpoint == name)
        try:
            meta = checkpoint.read_meta(name, root)
        except CheckpointError as error:
            found.append(Version(name, name == serves, promotions=mine, problem=error.message))
            continue
        found.append(
            Version(
                name,
                name == serves,
                parent=meta.get("parent"),
                created_at=str(meta.get("created_at") or ""),
                metrics=_mapping(meta.get("metrics")),
                data=_mapping(meta.get("data")),
                run=meta.get("run"),
                verdict=str(meta.get("verdict") or ""),
                promotions=mine,
            )
        )
    return [found[0], *sorted(found[1:], key=lambda version: version.created_at)]


def promotions(root: Path) -> list[Promotion]:
    """Return who put what in use when, the oldest first; a line that was cut off is left out."""
    file, found = root / checkpoint.LOG, []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found.append(Promotion(*(str(entry[key]) for key in ("at", "by", "checkpoint", "before"))))
    return found


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _uars(metrics: Mapping, name: str = "") -> Iterator[str]:
    """Yield the UAR of each table in a checkpoint's metrics; the last is of all branches, or of the newest model."""
    if isinstance(metrics.get("uar"), float):
        yield f"UAR {metrics['uar']:.3f} ({name or 'all'})"
    for key, part in metrics.items():
        if isinstance(part, Mapping):
            yield from _uars(part, key)
