"""Agreement as HTML: the figure, what it means in words, and the tables behind it."""

from annotations.review.agreement import Agreement
from mmer.labels import EMOTIONS
from mmer.messages import marked
from mmer.ui import names
from mmer.ui.language import Texts, gettext
from mmer.ui.names import CHANNELS
from mmer.ui.numbers import decimal
from mmer.ui.render import render, sign

TARGETS = Texts({"all": marked("All together"), **{m: CHANNELS.marked(m) for m in CHANNELS}})
IN_SENTENCE = Texts({"all": marked("all together"), **{m: names.IN_SENTENCE.marked(m) for m in CHANNELS}})
MIN_SHARED = 20  # segments judged by two or more, below which an alpha is not put into words
_PAIRS = 200  # of annotators in the table; those who share most
# What Krippendorff asks for before conclusions rest on labels: 0.8, and 0.667 for tentative ones.
_MEANING = (
    (0.8, marked("reliable"), marked("the labels can be relied on")),
    (2 / 3, marked("tentative"), marked("enough for tentative conclusions, not for firm ones")),
    (
        0.2,
        marked("low"),
        marked("too low to rely on: look at the items below, and at what the guidelines leave open"),
    ),
    (-0.2, marked("about chance"), marked("hardly better than if everybody had guessed")),
    (
        -2.0,
        marked("worse than chance"),
        marked("the annotators contradict each other: they may read the question differently"),
    ),
)


def meaning(alpha: float | None, n_shared: int, interval: tuple[float, float] | None = None) -> tuple[str, str]:
    """Return what an alpha means, in a word or two and in a sentence.

    Args:
        n_shared: segments that two or more have judged.
        interval: of the alpha; where its ends mean different things, both are said.
    """
    if alpha is None:
        return gettext("not known"), gettext(
            "two annotators have to judge the same items, and choose more than one emotion between them"
        )
    if n_shared < MIN_SHARED:
        return (
            gettext("too few items to say"),
            gettext(
                "{n} were judged by two or more, and chance alone moves the figure far; from {least} on it is put into "
                "words",
                n=n_shared,
                least=MIN_SHARED,
            ),
        )
    low, high = (_word(end) for end in (interval or (alpha, alpha)))
    if low == high:
        return low
    return gettext("{low} to {high}", low=low[0], high=high[0]), gettext(
        "the items judged so far leave it open; more items narrow the interval"
    )


def _word(alpha: float) -> tuple[str, str]:
    return next((gettext(word), gettext(sentence)) for least, word, sentence in _MEANING if alpha >= least)


def summary(measured: Agreement) -> str:
    """Return agreement in one line of text."""
    if measured.alpha is None:
        return gettext("Agreement: {word}.", word=meaning(None, 0)[0])
    ends = ""
    if measured.interval:
        low, high = measured.interval
        ends = gettext(", 95 % interval {low} to {high}", low=decimal(low), high=decimal(high))
    return gettext(
        "Agreement: {word} (alpha {alpha}{ends}, from {n} items).",
        word=meaning(measured.alpha, measured.n_shared, measured.interval)[0],
        alpha=decimal(measured.alpha),
        ends=ends,
        n=measured.n_shared,
    )


def agreement(measured: Agreement, target: str) -> str:
    """Return agreement at a glance, and the tables."""
    shared = measured.shared_by_target
    per_target = [
        (TARGETS[t] + (gettext(" (shown)") if t == target else ""), a, meaning(a, shared.get(t, 0))[0])
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
