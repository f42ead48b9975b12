"""HTML from the files in templates/, escaping what comes from outside."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmer.labels import SIGNS
from mmer.numerals import decimal, likely, percent, seconds, shares, signed, stretch


def sentence(text: str) -> str:
    """Return a text with a capital letter and one full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS = (percent, likely, signed, decimal, seconds, stretch, shares, sentence)
_TEMPLATES.globals["SIGNS"] = SIGNS
_TEMPLATES.filters.update({f.__name__: f for f in _FILTERS})


def render(template: str, /, **values: object) -> str:
    """Return the HTML of a template; values are escaped."""
    return _TEMPLATES.get_template(template).render(values).strip()
