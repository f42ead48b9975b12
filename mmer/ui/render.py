"""HTML from the files in templates/, escaping what comes from outside, and numbers as the page shows them."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def likely(probability: float) -> str:
    """Return a probability in percent; a model is never certain, so none is shown as all of it."""
    return "over 99 %" if probability > 0.99 else percent(probability)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a true minus; what rounds to zero is not negative."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def decimal(value: float | None) -> str:
    """Return a coefficient with two decimals, a dash where it is not known."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def shares(emotions: dict[str, float]) -> str:
    """Return emotions with their shares, the largest first; one that has all of it stands alone."""
    largest_first = sorted(emotions.items(), key=lambda pair: -pair[1])
    return ", ".join(e if share > 0.999 else f"{e} {percent(share)}" for e, share in largest_first)


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
_TEMPLATES.filters.update({f.__name__: f for f in (percent, likely, signed, decimal, shares, sentence)})


def render(template: str, /, **values: object) -> str:
    """Return the HTML of a template; values are escaped."""
    return _TEMPLATES.get_template(template).render(values).strip()
