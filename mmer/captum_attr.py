"""Captum's attribution methods, imported when a map is first made: they cost a second."""

from types import ModuleType


def captum_attr() -> ModuleType:
    """Return `captum.attr`."""
    import matplotlib

    matplotlib.use("Agg")  # captum imports pyplot, which looks for a display
    import captum.attr

    return captum.attr
