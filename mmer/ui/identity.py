"""Who one is on the page, and that only what one may do is offered."""

from collections.abc import Mapping

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.accounts import ACTIONS, Person, may
from annotations.choices import ROLES
from mmer.errors import LabelError
from mmer.ui.auth import authorize
from mmer.ui.handlers import in_its_language
from mmer.ui.names import ROLE_NAMES
from mmer.ui.render import render
from mmer.ui.service import Service


class Identity:
    """Says who one is; a block of the class `mm-needs-ACTION` is shown to those who may do that."""

    def __init__(self, service: Service):
        self.service = service
        self.line = gr.HTML(label="Who you are", elem_id="who")

    def connect(self, page: gr.Blocks, tabs: Mapping[str, gr.Tab]) -> None:
        """Fill the line when the page is loaded, and show what starts hidden.

        Args:
            tabs: by action, those that start hidden.
        """
        self.tabs = tabs
        page.load(self.show, None, [self.line, *tabs.values()], api_name="who", show_progress="hidden")

    @in_its_language
    def show(self, request: gr.Request, profile: OAuthProfile | None) -> dict:
        person = self._person(request, profile)
        allowed = [action for action in ACTIONS if may(person.role, action)]
        shown: dict = {tab: gr.Tab(visible=True) for action, tab in self.tabs.items() if action in allowed}
        here, space = person.let_in and not person.logged_in, self.service.paths.space
        return shown | {self.line: render("who.html", person=person, allowed=allowed, here=here, space=space)}

    def _person(self, request: gr.Request, profile: OAuthProfile | None) -> Person:
        try:
            return authorize(self.service, "analyse", request, profile)
        except LabelError:  # accounts were made or removed since the page was served: it asks for a login when reloaded
            return Person("", ROLES[0], logged_in=False, let_in=False)


def gate(action: str, purpose: str) -> str:
    """Return why an action is not offered, for those who may not do it; nobody else sees it."""
    return render("gate.html", action=action, purpose=purpose, role=ROLE_NAMES[ROLES[ACTIONS.index(action)]])
