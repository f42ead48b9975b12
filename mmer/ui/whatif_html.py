"""What a change did to a verdict, as HTML: before and after side by side."""

from typing import TYPE_CHECKING

from mmer.labels import EMOTIONS
from mmer.ui.render import render

if TYPE_CHECKING:
    from mmer.counterfactual import Turn
    from mmer.whatif import WhatIf


def before_and_after(found: "WhatIf") -> str:
    """Return the probabilities before and after, the emotions in their order."""
    before, after = found.before, found.after
    tops = int(before.probs.argmax()), int(after.probs.argmax())
    rows = [
        (emotion, (float(before.probs[k]), k == tops[0]), (float(after.probs[k]), k == tops[1]))
        for k, emotion in enumerate(EMOTIONS)
    ]
    return render("whatif.html", found=found, rows=rows, turned=before.emotion != after.emotion)


def smallest(turn: "Turn | None") -> str:
    """Return the smallest change that turns the answer as a sentence."""
    return render("turn.html", turn=turn)
