"""HTML from the files in templates/, escaping what comes from outside."""

import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mmer import messages
from mmer.labels import SIGNS
from mmer.ui import language
from mmer.ui.names import ROLE_NAMES, emotion, emotions_in
from mmer.ui.numbers import decimal, likely, percent, seconds, signed, stretch


def sentence(text: str) -> str:
    """Return a text with a capital letter, one full stop, and percents as the page writes them."""
    return re.sub(r"(?<=\d)%", " %", messages.capital(text).rstrip(".") + ".")


def told(text: str, *, whole: bool = False, capital: bool = False) -> Markup:
    """Return what another room says, in the language of the page; where it only has it in English, marked as such.

    Args:
        whole: as a sentence, with a capital letter and a full stop.
        capital: with a capital letter alone.
    """
    found, write = language.told(text), sentence if whole else messages.capital if capital else str
    return Markup('<span lang="en">{}</span>').format(write(text)) if found is None else escape(write(found))


_TEMPLATES = Environment(
    extensions=["jinja2.ext.i18n"],
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS = (
    percent,
    likely,
    signed,
    decimal,
    seconds,
    stretch,
    sentence,
    told,
    emotion,
    emotions_in,
    language.number,
    language.isolated,
)
_TEMPLATES.globals["SIGNS"] = SIGNS
_TEMPLATES.filters.update({f.__name__: f for f in _FILTERS})


def braced(message: str) -> str:
    """Return a text of a template as the catalogue has it; Jinja hands it over with fields of Python's %."""
    return re.sub(r"%\((\w+)\)s", r"{\1}", message).replace("%%", "%")


def _gettext(message: str, /, **fields: object) -> Markup:
    return Markup(language.pattern(braced(message))).format(**fields)


def _ngettext(one: str, several: str, n: int, /, **fields: object) -> Markup:
    return _gettext(one if n == 1 else several, **fields)


_TEMPLATES.policies["ext.i18n.trimmed"] = True
_TEMPLATES.newstyle_gettext = True  # type: ignore[attr-defined]
_TEMPLATES.globals.update(gettext=_gettext, _=_gettext, ngettext=_ngettext, language=language.current, roles=ROLE_NAMES)


def render(template: str, /, **values: object) -> str:
    """Return the HTML of a template; values are escaped."""
    return _TEMPLATES.get_template(template).render(values).strip()


def hint(message: str) -> str:
    """Return a marked text as a hint."""
    return str(Markup('<p class="mm-hint">{}</p>').format(language.gettext(message)))


def sign(name: str, *, capital: bool = False) -> Markup:
    """Return an emotion as it looks everywhere: its symbol in its colour, and its word."""
    return Markup(_TEMPLATES.get_template("sign.html").make_module().sign(name, capital))  # type: ignore[attr-defined]


def in_words(name: str, share: float) -> str:
    """Return an emotion, and its share where that is not all."""
    return emotion(name) + (f" {percent(share)}" if share <= 0.999 else "")


def in_text(name: str, share: float = 1.0) -> str:
    """Return an emotion for a list of plain text; the page's script gives the symbol its colour."""
    return f"{SIGNS[name].symbol} {in_words(name, share)}"


def choice_in_text(name: str) -> tuple[str, str]:
    """Return an emotion as a list of gradio's offers it, and its value."""
    return f"{SIGNS[name].symbol} {language.label(name)}", name


def signs(emotions: Iterable[str]) -> Markup:
    """Return several of them, divided by commas."""
    return Markup(", ").join(sign(name) for name in emotions)
