"""Agreement as HTML: the figure, what it means in words, and the tables behind it."""

from html import escape

import numpy as np

from annotations.review.agreement import Agreement
from mmer.labels import EMOTIONS
from mmer.ui.result_html import NAMES, percent

TARGETS = {"all": "All together", **NAMES}
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


def agreement(found: Agreement, target: str) -> str:
    """Return agreement at a glance, and the tables."""
    word, sentence = meaning(found.alpha)
    emotions = {e.capitalize(): a for e, a in found.per_emotion.items()}
    targets = {TARGETS[t] + (" (shown)" if t == target else ""): a for t, a in found.per_target.items()}
    figure = decimal(found.alpha)
    return (
        '<section class="mm-card mm-review" aria-label="Agreement">'
        f'<div><h2 class="mm-emotion">Agreement: <strong>{word}</strong></h2>'
        f"<p>Krippendorff's alpha {figure}: {sentence}.</p>"
        f'<p class="mm-footer">{found.n_labels} labels of {found.n_items} items, {found.n_shared} of them judged by two or '
        f'more; {found.n_cannot_tell} times "cannot tell", which is no label. 1 is full agreement, 0 is chance.</p></div>'
        f'<div class="mm-pairs">{_alphas("Each emotion against the rest", "Emotion", emotions)}'
        f"{_alphas('What was judged', 'Target', targets)}</div>"
        f"{_annotators(found)}{_pairs(found)}{_confusion(found)}</section>"
    )


def decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _alphas(caption: str, head: str, values: dict[str, float | None]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td><span class="mm-bar" style="--share:{max(value or 0, 0):.3f}" '
        f'aria-hidden="true"></span></td><td>{decimal(value)}</td><td>{meaning(value)[0]}</td></tr>'
        for name, value in values.items()
    )
    return (
        f'<table class="mm-alphas"><caption>{caption}</caption><thead><tr><th scope="col">{head}</th>'
        f'<td></td><th scope="col">Alpha</th><th scope="col">Meaning</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _annotators(found: Agreement) -> str:
    if not found.annotators:
        return ""
    rows = ""
    for one in found.annotators:
        gold = (
            f"{one.gold_right} of {one.gold_n} ({percent(one.gold_right / one.gold_n)})" if one.gold_n else "none seen"
        )
        time = "–" if one.median_lead_s is None else f"{one.median_lead_s:.1f} s"
        rows += (
            f'<tr><th scope="row">{escape(one.name)}</th><td>{one.n}</td><td>{one.cannot_tell}</td><td>{gold}</td>'
            f"<td>{time}</td></tr>"
        )
    return (
        f"<details open><summary>{len(found.annotators)} annotators</summary>"
        '<div class="mm-scroll mm-wide" tabindex="0" role="region" aria-label="Annotators"><table><thead><tr>'
        '<th scope="col">Name</th><th scope="col">Labels</th><th scope="col">Cannot tell</th><th scope="col">Gold right</th>'
        f'<th scope="col">Median time</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _pairs(found: Agreement) -> str:
    if not found.kappas:
        return ""
    most = sorted(found.kappas.items(), key=lambda pair: (-pair[1][1], pair[0]))[:_PAIRS]
    rows = "".join(
        f'<tr><th scope="row">{escape(a)} and {escape(b)}</th><td>{n}</td><td>{decimal(kappa)}</td></tr>'
        for (a, b), (kappa, n) in most
    )
    title = f"{len(found.kappas)} pairs of annotators" + (
        f", the {_PAIRS} that share most" if len(most) == _PAIRS else ""
    )
    return (
        f'<details><summary>{title}</summary><div class="mm-scroll" tabindex="0" role="region" aria-label="Pairs">'
        '<table><thead><tr><th scope="col">Pair</th><th scope="col">Items both judged</th><th scope="col">Cohen\'s kappa</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _confusion(found: Agreement) -> str:
    table: np.ndarray = found.confusion
    total = int(table.sum())
    if not total:
        return "<p>No label was given beside an answer of the model, so the two cannot be compared.</p>"
    head = "".join(f'<th scope="col">{e.capitalize()}</th>' for e in EMOTIONS)
    rows = ""
    for emotion, row in zip(EMOTIONS, table, strict=True):
        n = row.sum()
        cells = ""
        for other, count in zip(EMOTIONS, row, strict=True):
            share = count / n if n else 0.0
            same = ' class="mm-same"' if other == emotion else ""
            cells += f'<td{same} style="--share:{share:.3f}">{count}</td>'
        rows += f'<tr><th scope="row">{emotion.capitalize()}</th>{cells}<td>{percent(row[EMOTIONS.index(emotion)] / n) if n else "–"}</td></tr>'
    return (
        f"<details open><summary>Annotators and the model: the same in {percent(np.trace(table) / total)} of {total}</summary>"
        '<p class="mm-footer">Rows: what annotators chose. Columns: what the model had answered. Framed: both the same.</p>'
        '<div class="mm-wide" tabindex="0" role="region" aria-label="What annotators chose, by what the model had answered">'
        '<table class="mm-confusion">'
        f'<thead><tr><td></td>{head}<th scope="col">Same</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )
