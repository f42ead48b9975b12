"""Agreement as HTML: the figure, what it means in words, and the tables behind it."""

from annotations.review.agreement import Agreement
from mmer.labels import EMOTIONS
from mmer.ui.render import render
from mmer.ui.result_html import CHANNELS

TARGETS = {"all": "All together", **CHANNELS}
_PAIRS = 200  # of annotators in the table; those who share most
# What Krippendorff asks for before conclusions rest on labels: 0.8, and 0.667 for tentative ones.
_MEANING = (
    (0.8, "reliable", "the labels can be relied on"),
    (2 / 3, "tentative", "enough for tentative conclusions, not for firm ones"),
    (0.2, "low", "too low to rely on: look at the items below, and at what the guidelines leave open"),
    (-0.2, "about chance", "hardly better than if everybody had guessed"),
    (-2.0, "worse than chance", "the annotators contradict each other: they may read the question differently"),
)


def meaning(alpha: float | None) -> tuple[str, str]:
    """Return what an alpha means, in a word or two and in a sentence."""
    if alpha is None:
        return "not known", "two annotators have to judge the same items, and choose more than one emotion between them"
    return next((word, sentence) for least, word, sentence in _MEANING if alpha >= least)


def agreement(measured: Agreement, target: str) -> str:
    """Return agreement at a glance, and the tables."""
    per_target = [(TARGETS[t] + (" (shown)" if t == target else ""), a) for t, a in measured.per_target.items()]
    per_emotion = [(e.capitalize(), a) for e, a in measured.per_emotion.items()]
    return render(
        "agreement.html",
        agreement=measured,
        meaning=meaning(measured.alpha),
        per_emotion=[(name, alpha, meaning(alpha)[0]) for name, alpha in per_emotion],
        per_target=[(name, alpha, meaning(alpha)[0]) for name, alpha in per_target],
        pairs=sorted(measured.kappas.items(), key=lambda pair: (-pair[1][1], pair[0]))[:_PAIRS],
        most_pairs=_PAIRS,
        confusion=_confusion(measured),
    )


def _confusion(measured: Agreement) -> dict | None:
    """Return the table of annotators' choices by the model's answers; None when there was none to compare with."""
    counts = measured.confusion.tolist()
    total = sum(map(sum, counts))
    if not total:
        return None
    same = sum(row[i] for i, row in enumerate(counts)) / total
    return {"total": total, "same": same, "rows": list(zip(EMOTIONS, counts, strict=True))}
