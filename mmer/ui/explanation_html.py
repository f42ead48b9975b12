"""An explanation as HTML: for each channel a map, the numbers in it, and how far to trust them."""

import io

from markupsafe import Markup
from PIL import Image

from mmer import plots
from mmer.explanation import Explanation
from mmer.features import Features
from mmer.messages import marked
from mmer.prosody import Prosody
from mmer.ui.excerpts import Excerpts
from mmer.ui.language import Texts, gettext
from mmer.ui.media_uri import data_uri
from mmer.ui.names import CHANNELS, emotion
from mmer.ui.numbers import signed, stretch
from mmer.ui.render import render, told

_VERDICTS = Texts(
    {
        "trustworthy": marked("Trustworthy"),
        "weak": marked("Weak"),
        "no clear evidence": marked("No clear evidence"),
    }
)
_MEANINGS = Texts(
    {
        "trustworthy": marked("What the map marks first changes the answer faster than chance would"),
        "weak": marked("The map does little better than chance or does not add up, so do not lean on it"),
        "no clear evidence": marked("This channel hardly moved the answer, so its map means little"),
    }
)
_PITCH = marked("pitch {low} to {high} Hz, at the median {middle}")
_ONE_PAUSE = marked("a pause of {longest:.1f} s")
_PAUSES = marked("{n} pauses, the longest {longest:.1f} s")
_REGIONS = Texts(
    {
        "brows": marked("brows"),
        "eyes": marked("eyes"),
        "nose": marked("nose"),
        "mouth": marked("mouth"),
        "jaw": marked("jaw"),
    }
)


def explanation(why: Explanation, features: Features, shown: Excerpts | None = None) -> str:
    """Return why an utterance was judged so: for each channel its map, its numbers, and how far to trust them.

    Args:
        shown: of the recording; without it faces are shown as the model sees them, and no moment can be played.
    """
    shown = shown or Excerpts({}, ())
    maps = {"face": _face(why, features, shown), "voice": _voice(why, features, shown), "text": _words(why)}
    channels = [
        {
            "name": CHANNELS[m],
            "trust": trust,
            "pending": m in why.pending,
            "method": _method(trust.method) if trust else "",
            "verdict": _VERDICTS[trust.verdict] if trust else "",
            "meaning": _MEANINGS[trust.verdict] if trust else "",
            **maps[m],
        }
        for m, trust in why.trust.items()
    ]
    shares = [(CHANNELS[m], share) for m, share in why.modality.items() if share is not None]
    sentence = why.told(gettext, emotion)
    return render("explanation.html", explanation=why, channels=channels, shares=shares, sentence=sentence)


def _method(method: str) -> Markup:
    """Return how a map was made, and what it leaves as it is."""
    main, divided, rest = method.partition(";")
    return told(main, capital=True) + told(divided + rest)


def _face(why: Explanation, features: Features, shown: Excerpts) -> dict:
    return {
        "picture": _picture(plots.face(features, why, shown.frames, say=gettext)),
        "caption": gettext("Where the face speaks for or against it, frame by frame"),
        "numbers": [f"{_REGIONS[region]} {signed(score)}" for region, score in why.face_regions],
        "words": None,
        "sounds": [],
    }


def _voice(why: Explanation, features: Features, shown: Excerpts) -> dict:
    strongest = sorted(why.voice_bands, key=lambda cell: -abs(cell["score"]))[:3]
    return {
        "picture": _picture(plots.voice(features, why, say=gettext)),
        "caption": gettext("Where the voice speaks for or against it, by time and frequency; below, how it ran"),
        "numbers": [
            f"{stretch(c['start_s'], c['end_s'])}, {c['low_hz']:.0f}–{c['high_hz']:.0f} Hz {signed(c['score'])}"
            for c in strongest
        ]
        + ([] if why.prosody is None else _contours(why.prosody)),
        "words": None,
        "sounds": [(start, end, score, data_uri(wav, "audio/wav")) for start, end, score, wav in shown.sounds],
    }


def _contours(of: Prosody) -> list[str]:
    """Return the pitch and the pauses of a voice in words: its picture is not for every reader."""
    said = []
    voiced = of.pitch_hz[~of.pitch_hz.isnan()]
    if len(voiced):
        low, middle, high = (float(voiced.quantile(share)) for share in (0.1, 0.5, 0.9))
        said.append(gettext(_PITCH, low=f"{low:.0f}", high=f"{high:.0f}", middle=f"{middle:.0f}"))
    if of.pauses:
        n, longest = len(of.pauses), max(end - start for start, end in of.pauses)
        said.append(gettext(_ONE_PAUSE if n == 1 else _PAUSES, n=n, longest=longest))
    return said


def _words(why: Explanation) -> dict:
    strongest = max((abs(score) for _, score in why.words), default=0) or 1
    words = [(word, score, abs(score) / strongest) for word, score in why.words]
    return {"picture": "", "caption": "", "numbers": [], "words": words, "sounds": []}


def _picture(image: Image.Image | None) -> str:
    """Return a map inside the page: a file would leave a face on the disk."""
    if image is None:
        return ""
    data = io.BytesIO()
    image.save(data, "webp", quality=85)
    return data_uri(data.getvalue(), "image/webp")
