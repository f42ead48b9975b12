"""Several faces in a clip: a picture with a box around each, what each was judged as, and whose is read."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from mmer.ui.media_uri import data_uri
from mmer.ui.numbers import stretch
from mmer.ui.render import render

if TYPE_CHECKING:
    from mmer.predict import EmotionResult


def faces(results: Sequence["EmotionResult"], read: int) -> str:
    """Return the faces of a clip to choose from; empty where there are not several.

    Args:
        results: the verdict with each of them read.
        read: which of them is.
    """
    if len(results) < 2:
        return ""
    seen = results[0].observation
    boxes = seen.view.boxes if seen.view else (None,) * len(results)
    return render(
        "faces.html",
        picture=_picture(seen.view.rgb) if seen.view else "",
        faces=[
            (number, result, box, stretch(*face.seen_s))
            for number, (result, box, face) in enumerate(zip(results, boxes, seen.faces, strict=True))
        ],
        read=read,
    )


def _picture(rgb) -> str:
    """Return a picture inside the page: a file would leave faces on the disk."""
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "webp", quality=80)
    return data_uri(data.getvalue(), "image/webp")
