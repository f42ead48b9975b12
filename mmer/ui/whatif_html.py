"""What a change did to a verdict, as HTML: before and after side by side."""

import re
from typing import TYPE_CHECKING

from mmer.labels import EMOTIONS
from mmer.ui.language import gettext, number
from mmer.ui.render import render

if TYPE_CHECKING:
    from mmer.counterfactual import Counterfactual
    from mmer.whatif import WhatIf


def before_and_after(found: "WhatIf") -> str:
    """Return the probabilities before and after, the emotions in their order."""
    before, after = found.before, found.after
    tops = int(before.probs.argmax()), int(after.probs.argmax())
    rows = [
        (emotion, (float(before.probs[k]), k == tops[0]), (float(after.probs[k]), k == tops[1]))
        for k, emotion in enumerate(EMOTIONS)
    ]
    turned, changes = before.emotion != after.emotion, found.changes.told(gettext)
    return render("whatif.html", found=found, rows=rows, turned=turned, changes=changes)


def smallest(turn: "Counterfactual | None") -> str:
    """Return the smallest change that turns the answer as a sentence."""
    sentence = "" if turn is None else turn.told(gettext, _named)
    return render("turn.html", turn=turn, sentence=sentence)


def _named(part: str) -> str:
    """Return an emotion, a region of the face or a stretch of time in the language of the page."""
    stretch = re.fullmatch(r"([\d.]+) to ([\d.]+) s", part)
    return gettext("{start} to {end} s", start=number(stretch[1]), end=number(stretch[2])) if stretch else gettext(part)
