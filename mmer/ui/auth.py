"""Who uses the page, and what they may do; every handler asks anew, so a changed role counts at once."""

from typing import TYPE_CHECKING

import gradio as gr

from annotations.accounts import Person, require
from annotations.text import clean_name
from mmer.config import Paths
from mmer.errors import LabelError

if TYPE_CHECKING:
    from mmer.ui.service import Service

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")  # what proxies add


def authorize(
    service: "Service", action: str, request: gr.Request | None, profile: gr.OAuthProfile | None, name: str = ""
) -> Person:
    """Return who makes a request, if they may do this.

    On a Hugging Face Space people log in with their account there: its owner is an administrator, others have the role
    of their name in the accounts, or are annotators; who is not logged in is a viewer. Elsewhere people log in with an
    account here. Without accounts the page is open, to the person at this machine for everything, to others for labels;
    who comes through a proxy is one of the others, unless the settings trust it.

    Args:
        action: one of `annotations.accounts.ACTIONS`.
        profile: of the Hugging Face login.
        name: what they call themselves; it counts where nobody logs in.

    Raises:
        LabelError: `not_logged_in`, `not_allowed`.
    """
    person = _who(service, request, profile, name)
    require(person, action)
    return person


def _who(service: "Service", request: gr.Request | None, profile: gr.OAuthProfile | None, name: str) -> Person:
    if service.paths.space:
        if profile is None:
            return Person("", "viewer", logged_in=False, let_in=False)
        if profile.username.casefold() == service.paths.space.split("/")[0].casefold():
            return Person(profile.username, "admin")
        return service.accounts.person(profile.username) or Person(profile.username, "annotator", let_in=False)
    if service.closed or service.accounts:  # somebody may have added or removed accounts since the start
        person = service.accounts.person(request.username) if request and request.username else None
        if person is None:
            raise LabelError(
                "not_logged_in",
                "log in with an account first; if the page does not ask for one, the server has to be started again",
            )
        return person
    name = clean_name(name or "", "annotator")
    here = at_this_machine(service.paths, request)
    return Person(name, "admin" if here else "annotator", logged_in=False, let_in=here)


def at_this_machine(paths: Paths, request: gr.Request | None) -> bool:
    """Whether a request can only be of the person at this machine, or is of somebody a trusted proxy let through."""
    forwarded = request is not None and any(name in request.headers for name in FORWARDED)
    return paths.is_private and (paths.trusts_proxy or not forwarded)
