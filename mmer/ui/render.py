"""HTML from the files in templates/, escaping what comes from outside."""

import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmer.labels import SIGNS
from mmer.numerals import counted, decimal, likely, percent, seconds, signed, stretch


def sentence(text: str) -> str:
    """Return a text with a capital letter, one full stop, and percents as the page writes them."""
    return re.sub(r"(?<=\d)%", " %", text[:1].upper() + text[1:].rstrip(".") + ".")


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS = (counted, percent, likely, signed, decimal, seconds, stretch, sentence)
_TEMPLATES.globals["SIGNS"] = SIGNS
_TEMPLATES.filters.update({f.__name__: f for f in _FILTERS})


def render(template: str, /, **values: object) -> str:
    """Return the HTML of a template; values are escaped."""
    return _TEMPLATES.get_template(template).render(values).strip()


def sign(emotion: str, *, capital: bool = False) -> Markup:
    """Return an emotion as it looks everywhere: its symbol in its colour, and its word."""
    return Markup(_TEMPLATES.get_template("sign.html").make_module().sign(emotion, capital))  # type: ignore[attr-defined]


def in_text(emotion: str, share: float = 1.0) -> str:
    """Return an emotion, and its share where that is not all, for a list of plain text; the page's script gives the
    symbol its colour."""
    return f"{SIGNS[emotion].symbol} {emotion}" + (f" {percent(share)}" if share <= 0.999 else "")


def signs(emotions: Iterable[str]) -> Markup:
    """Return several of them, divided by commas."""
    return Markup(", ").join(sign(emotion) for emotion in emotions)
