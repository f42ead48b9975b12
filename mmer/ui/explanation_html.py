"""An explanation as HTML: for each channel a map, the numbers in it, and how far to trust them."""

import io
from html import escape

from PIL import Image

from mmer import plots
from mmer.attribution import Explanation, Trust
from mmer.features import Features
from mmer.ui.result_html import NAMES, data_uri, percent, signed

_VERDICTS = {
    "trustworthy": "What the map marks first changes the answer faster than chance would",
    "weak": "The map does little better than chance or does not add up, so do not lean on it",
    "no clear evidence": "This channel hardly moved the answer, so its map means little",
}


def explanation(found: Explanation, features: Features) -> str:
    """Return why an utterance was judged so: for each channel its map, its numbers, and how far to trust them."""
    regions = [f"{region} {signed(score)}" for region, score in found.face_regions]
    cells = sorted(found.voice_bands, key=lambda cell: -abs(cell["score"]))[:3]
    heard = [
        f"{c['start_s']:.1f}–{c['end_s']:.1f} s, {c['low_hz']:.0f}–{c['high_hz']:.0f} Hz {signed(c['score'])}"
        for c in cells
    ]
    maps = {
        "face": _picture(
            plots.face(features, found), "Where the face speaks for or against it, frame by frame", regions
        ),
        "voice": _picture(
            plots.voice(features, found), "Where the voice speaks for or against it, by time and pitch", heard
        ),
        "text": _said(found),
    }
    parts = [
        f"<h3>{NAMES[m]}</h3>{maps[m]}{_trust(trust)}" if trust else f"<h3>{NAMES[m]}</h3><p>Not used.</p>"
        for m, trust in found.trust.items()
    ]
    when = f", {found.start_s:.1f}–{found.end_s:.1f} s" if found.end_s > found.start_s else ""
    return (
        f'<section class="mm-card mm-why" aria-label=Explanation><h2>Why {found.target}{when}</h2><p>Numbers above zero '
        "speak for it, below zero against it; in the maps, orange with a solid outline and purple with a dashed one.</p>"
        + "".join(f"<div>{part}</div>" for part in parts)
        + "</section>"
    )


def _picture(image: Image.Image | None, what: str, numbers: list[str]) -> str:
    """Return a map inside the page: a file would leave a face on the disk."""
    if image is None:
        return ""
    data = io.BytesIO()
    image.save(data, "webp", quality=85)
    source = data_uri(data.getvalue(), "image/webp")
    listed = f'<p class="mm-numbers">{"; ".join(numbers)}</p>' if numbers else ""
    return f'<div class="mm-wide" tabindex="0"><img src="{source}" alt="{what}. {"; ".join(numbers)}"></div>{listed}'


def _said(found: Explanation) -> str:
    strongest = max((abs(score) for _, score in found.words), default=0) or 1
    words = (
        f'<span class="mm-{"plus" if score >= 0 else "minus"}" style="--share:{abs(score) / strongest:.2f}">{escape(word)} '
        f"<small>{signed(score)}</small></span>"
        for word, score in found.words
    )
    return f'<p class="mm-said">{" ".join(words)}</p>'


def _trust(trust: Trust) -> str:
    return (
        f'<p class="mm-trust"><strong>{trust.verdict.capitalize()}.</strong> {_VERDICTS[trust.verdict]}. '
        f"<small>{escape(trust.method.capitalize())}; deletion {signed(trust.deletion)}, insertion {signed(trust.insertion)} "
        f"against random maps; adds up to within {percent(trust.delta)}.</small></p>"
    )
