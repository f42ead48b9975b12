"""Agreement as HTML: the figure, what it means in words, and the tables behind it."""

from annotations.review.agreement import Agreement
from mmer.labels import EMOTIONS
from mmer.numerals import decimal
from mmer.ui.render import render, sign
from mmer.ui.result_html import CHANNELS

TARGETS = {"all": "All together", **CHANNELS}
MIN_SHARED = 20  # segments judged by two or more, below which an alpha is not put into words
_PAIRS = 200  # of annotators in the table; those who share most
# What Krippendorff asks for before conclusions rest on labels: 0.8, and 0.667 for tentative ones.
_MEANING = (
    (0.8, "reliable", "the labels can be relied on"),
    (2 / 3, "tentative", "enough for tentative conclusions, not for firm ones"),
    (0.2, "low", "too low to rely on: look at the items below, and at what the guidelines leave open"),
    (-0.2, "about chance", "hardly better than if everybody had guessed"),
    (-2.0, "worse than chance", "the annotators contradict each other: they may read the question differently"),
)


def meaning(alpha: float | None, n_shared: int, interval: tuple[float, float] | None = None) -> tuple[str, str]:
    """Return what an alpha means, in a word or two and in a sentence.

    Args:
        n_shared: segments that two or more have judged.
        interval: of the alpha; where its ends mean different things, both are said.
    """
    if alpha is None:
        return "not known", "two annotators have to judge the same items, and choose more than one emotion between them"
    if n_shared < MIN_SHARED:
        return (
            "too few items to say",
            f"{n_shared} were judged by two or more, and chance alone moves the figure far; from {MIN_SHARED} on it is "
            "put into words",
        )
    low, high = (_word(end) for end in (interval or (alpha, alpha)))
    if low == high:
        return low
    return f"{low[0]} to {high[0]}", "the items judged so far leave it open; more items narrow the interval"


def _word(alpha: float) -> tuple[str, str]:
    return next((word, sentence) for least, word, sentence in _MEANING if alpha >= least)


def summary(measured: Agreement) -> str:
    """Return agreement in one line of text."""
    if measured.alpha is None:
        return f"Agreement: {meaning(None, 0)[0]}."
    ends = (
        f", 95 % interval {decimal(measured.interval[0])} to {decimal(measured.interval[1])}"
        if measured.interval
        else ""
    )
    word = meaning(measured.alpha, measured.n_shared, measured.interval)[0]
    return f"Agreement: {word} (alpha {decimal(measured.alpha)}{ends}, from {measured.n_shared} items)."


def agreement(measured: Agreement, target: str) -> str:
    """Return agreement at a glance, and the tables."""
    shared = measured.shared_by_target
    per_target = [
        (TARGETS[t] + (" (shown)" if t == target else ""), a, meaning(a, shared.get(t, 0))[0])
        for t, a in measured.per_target.items()
    ]
    return render(
        "agreement.html",
        agreement=measured,
        meaning=meaning(measured.alpha, measured.n_shared, measured.interval),
        per_emotion=[
            (sign(e, capital=True), a, meaning(a, measured.n_shared)[0]) for e, a in measured.per_emotion.items()
        ],
        per_target=per_target,
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
