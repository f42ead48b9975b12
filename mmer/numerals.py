"""Numbers as people read them: one way for each kind, on the page and in figures."""


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def likely(probability: float) -> str:
    """Return a probability in percent; a model is never certain, so none is shown as all of it."""
    return "over 99 %" if probability > 0.99 else percent(probability)


def counted(n: int, noun: str) -> str:
    """Return how many there are of a thing whose plural has an s: 1 label, 2 labels."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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


def seconds(time_s: float) -> str:
    return f"{time_s:.1f} s"


def stretch(start_s: float | None, end_s: float | None) -> str:
    """Return from when to when something lasts; without bounds it is the whole clip."""
    return "whole clip" if start_s is None or end_s is None else f"{start_s:.1f}–{end_s:.1f} s"
