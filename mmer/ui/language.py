"""The page's languages: English, as it stands in the code, and German, as the catalogue gives it.

`locales/de.json` has under `page` the German of every text that is marked in the page's code, templates and scripts,
under `told` that of what other rooms say: errors, warnings, reasons. Fields stand in braces, and German may put them
in another order. Another language takes a catalogue of its own and its code in `CATALOGUES`; what keys are called is in
`page.css`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, wraps
from pathlib import Path
from string import Formatter
from typing import TypeVar
from unicodedata import bidirectional

from gradio.i18n import I18n, I18nData

T = TypeVar("T")
ENGLISH = "en"
_FOLDER = Path(__file__).with_name("locales")
CATALOGUES: dict[str, dict[str, dict[str, str]]] = {
    language: json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8")) for language in ("de",)
}
_DECIMAL_COMMA = ("de",)
_SPOKEN: ContextVar[str] = ContextVar("language", default=ENGLISH)  # of the request that is being answered
_NUMBER = r"-?\d[\d.,]*(?:e[+-]?\d+)?"
_FIELD = re.compile(r"\{(\w+)\}")
_KEY = "mmer: "  # before every key: gradio looks up whatever it shows, what people type too
# Labels and HTML that never changes, by key.
_parts: dict[str, dict[str, str]] = {language: {} for language in (ENGLISH, *CATALOGUES)}


def current() -> str:
    """Return the code of the language that is spoken: `en` unless a request asked for another."""
    return _SPOKEN.get()


def asked(accept_language: str | None) -> str:
    """Return the language of the page for an Accept-Language header: that of its first choice, else English.

    The first choice alone counts because gradio's own part of the page knows no other: both have to agree.
    """
    choices = [choice.strip().partition(";q=") for choice in (accept_language or "").split(",")]
    first = max(choices, key=lambda choice: _weight(choice[2]))[0]  # the first of several that weigh as much
    language = first.partition("-")[0].lower()
    return language if language in CATALOGUES else ENGLISH


def _weight(given: str) -> float:
    try:
        return float(given or 1.0)
    except ValueError:
        return 0.0


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Have texts come in a language while the block runs."""
    before = _SPOKEN.set(language)
    try:
        yield
    finally:
        _SPOKEN.reset(before)


def in_language(language: str, steps: Iterator[T]) -> Iterator[T]:
    """Yield what a generator yields, each step of it in a language: gradio runs each in a context of its own."""
    while True:
        try:
            with speaking(language):
                value = next(steps)
        except StopIteration:
            return
        yield value


def pattern(message: str) -> str:
    """Return a text in the language that is spoken, its fields not filled in yet."""
    return CATALOGUES[current()]["page"].get(message, message) if current() in CATALOGUES else message


def in_every(message: str) -> list[str]:
    """Return a text in every language of the page."""
    return [message, *(sections["page"].get(message, message) for sections in CATALOGUES.values())]


def gettext(message: str, /, **fields: object) -> str:
    """Return a text in the language that is spoken, its {fields} filled in."""
    return _WRITER.format(pattern(message), **fields) if fields else pattern(message)


class _Writer(Formatter):
    def format_field(self, value: object, spec: str) -> str:
        text = super().format_field(value, spec)
        return text.replace(".", ",") if isinstance(value, float) and current() in _DECIMAL_COMMA else text


_WRITER = _Writer()


def ngettext(one: str, several: str, n: int, /, **fields: object) -> str:
    """Return the first text for one of a thing and the second for any other number, as English and German have it."""
    return gettext(one if n == 1 else several, n=n, **fields)


class Texts(Mapping[str, str]):
    """Marked texts by their keys; each is looked up in the language that is spoken."""

    def __init__(self, texts: Mapping[str, str]):
        self._texts = dict(texts)

    def __getitem__(self, key: str) -> str:
        return gettext(self._texts[key])

    def marked(self, key: str) -> str:
        """Return a text as it stands in the code, as `label` takes it."""
        return self._texts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def isolated(text: str) -> str:
    """Return a name so that its direction, of Arabic say, stays its own inside a sentence of ours."""
    return f"\u2068{text}\u2069" if any(bidirectional(c) in ("R", "AL") for c in text) else text


def number(text: str) -> str:
    """Return a text that is mostly a number as the language that is spoken writes it."""
    text = pattern(text)
    return re.sub(r"(?<=\d)\.(?=\d)", ",", text) if current() in _DECIMAL_COMMA else text


def numeral(write: Callable[..., str]) -> Callable[..., str]:
    """Wrap a function that writes numbers, so that it writes them as the language that is spoken does."""

    @wraps(write)
    def written(*args, **options) -> str:
        return number(write(*args, **options))

    return written


# What other rooms say


def told(message: str) -> str | None:
    """Return in the language that is spoken what another room says in English; None where the catalogue has no such
    text, so that whoever shows it says in what language it is."""
    if current() == ENGLISH:
        return message
    return _told(current(), message)


@lru_cache(4096)
def _told(language: str, message: str) -> str | None:
    exact = CATALOGUES[language]["told"].get(message)
    if exact is not None:
        return exact
    for found, german in _patterns(language):
        if fits := found.fullmatch(message):
            return german.format(**{name: _field(language, name, value) for name, value in fits.groupdict().items()})
    return None


def _field(language: str, name: str, value: str) -> str:
    """Return what stands in a field: what is called `why…` or `emotion…` is a text of its own, or several."""
    if language in _DECIMAL_COMMA and re.fullmatch(r"\d+\.\d+%?", value):
        return value.replace(".", ",")
    if not name.startswith(("why", "emotion")):
        return value
    page = CATALOGUES[language]["page"]
    several = [_told(language, each) or page.get(each) for each in value.split(", ")]
    if None not in several:
        return ", ".join(filter(None, several))
    return _told(language, value) or value


@cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the texts with fields, those with the longest fixed part first: they say most about what they fit."""
    with_fields = [(english, german) for english, german in CATALOGUES[language]["told"].items() if "{" in english]
    with_fields.sort(key=lambda pair: -len(_FIELD.sub("", pair[0])))
    return [(_as_expression(english), german) for english, german in with_fields]


def _as_expression(message: str) -> re.Pattern[str]:
    """Return what finds a text whose fields are filled in, each as a group of its name; `n` is a number."""
    parts = _FIELD.split(message)  # fixed, field, fixed, …
    return re.compile(
        "".join(
            f"(?P<{part}>{_NUMBER if part == 'n' else '.*?'})" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        ),
        re.DOTALL,
    )


# What gradio shows by itself


def label(message: str) -> str:
    """Return a text as gradio's components take it: the browser finds it in the catalogue, by its own language."""
    for language, text in zip(_parts, in_every(message), strict=True):
        _parts[language][_KEY + message] = text
    return str(I18nData(_KEY + message))


def part(made: Callable[[], str]) -> str:
    """Return HTML that is the same for everybody as `label` returns a text.

    Args:
        made: returns it in the language that is spoken.
    """
    in_each = {}
    for language in _parts:
        with speaking(language):
            in_each[language] = made()
    key = f"{_KEY}{hashlib.sha256(repr(in_each).encode()).hexdigest()[:16]}"  # pages of several servers have their own
    for language, html in in_each.items():
        _parts[language][key] = html
    return str(I18nData(key))


def catalogue() -> I18n:
    """Return the labels and parts that were made so far, as `launch` gives them to the browser."""
    return I18n(**_parts)


_MARKER = re.compile(r'__i18n__\{"__type__": "translation_metadata", "key": ("(?:[^"\\]|\\.)*")\}')


def script_texts(*scripts: str) -> str:
    """Return a script that gives others the texts that they mark with `mmerText`, by language."""
    texts = sorted({text for script in scripts for text in in_script(script)})
    found = {
        language: {text: sections["page"].get(text, text) for text in texts}
        for language, sections in CATALOGUES.items()
    }
    return f"window.mmerTexts = {json.dumps(found, ensure_ascii=False)};".replace("</", "<\\/")


def in_script(script: str) -> list[str]:
    """Return the texts that a script marks."""
    return [json.loads(found) for found in re.findall(r'mmerText\(\s*("(?:[^"\\]|\\.)*")', script)]


def english(text: str) -> str:
    """Return what `label` marked as it was."""
    return _MARKER.sub(lambda found: json.loads(found.group(1)).removeprefix(_KEY), text)
