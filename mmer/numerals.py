"""Numbers as people read them: one way for each kind, on the page and in figures."""


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


def seconds(time_s: float) -> str:
    return f"{time_s:.1f} s"


def stretch(start_s: float | None, end_s: float | None) -> str:
    """Return from when to when something lasts; without bounds it is the whole clip."""
    return "whole clip" if start_s is None or end_s is None else f"{start_s:.1f}–{end_s:.1f} s"
