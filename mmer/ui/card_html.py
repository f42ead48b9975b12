"""A checkpoint's card: what it reaches, in words, and where to read more."""

from pathlib import Path
from typing import Any

from mmer import checkpoint
from mmer.errors import CheckpointError
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.ui import result_html
from mmer.ui.media_uri import data_uri
from mmer.ui.names import IN_SENTENCE
from mmer.ui.render import render

_TUPLES = "label_matched_validation_tuples"


def figures(name: str, root: Path) -> str:
    """Return a checkpoint's main figures in words; why there are none of one that is missing or damaged."""
    try:
        meta = checkpoint.read_meta(name, root)
    except CheckpointError as error:  # a verdict of the one in memory is shown all the same
        return result_html.failure(error.message)
    metrics: dict[str, Any] = meta.get("metrics") or {}
    tuples = metrics.get(_TUPLES) or {}
    alone = [(IN_SENTENCE[m], tuples[m]["accuracy"]) for m in MODALITIES if m in tuples]
    promise = (meta.get("abstain") or {}).get("target")
    return render(
        "card.html",
        name=name,
        made=str(meta.get("created_at", ""))[:10],
        parent=meta.get("parent"),
        alone=alone,
        together=tuples.get("+".join(MODALITIES), {}).get("accuracy"),
        promise=promise,
        n_emotions=N_EMOTIONS,
    )


def curves_of_corrections() -> str:
    """Return the address of the picture of what simulated corrections gained; it comes with the shipped checkpoint."""
    picture = checkpoint.folder_of(checkpoint.BASE, Path()) / "figures" / "corrections.svg"
    return data_uri(picture.read_bytes(), "image/svg+xml")


def whole_card() -> str:
    """Return the card of the checkpoint that ships, as Markdown; those made from it have none of their own."""
    folder = checkpoint.folder_of(checkpoint.BASE, Path())
    return (folder / "README.md").read_text(encoding="utf-8")
