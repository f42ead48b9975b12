"""Who one is on the page, and that only what one may do is offered."""

from collections.abc import Mapping, Sequence

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.accounts import ACTIONS, Person, may
from annotations.choices import ROLES
from mmer.errors import LabelError
from mmer.ui.auth import authorize
from mmer.ui.render import render
from mmer.ui.service import Service

_PURPOSES = {"label": "label and save corrections", "review": "review", "manage": "make projects"}


class Identity:
    """Says who one is; a block of the class `mm-needs-ACTION` is shown to those who may do that."""

    def __init__(self, service: Service):
        self.service = service
        self.line = gr.HTML(label="Who you are", elem_id="who")

    def connect(self, page: gr.Blocks, gates: Mapping[str, Sequence[gr.HTML]], tabs: Mapping[str, gr.Tab]) -> None:
        """Fill the line when the page is loaded, and say in the gates why something is not offered.

        Args:
            gates: by action; each stands where its blocks would be.
            tabs: by action, those that start hidden.
        """
        self.gates, self.tabs = gates, tabs
        every = [*(gate for of_action in gates.values() for gate in of_action), *tabs.values()]
        page.load(self.show, None, [self.line, *every], api_name="who", show_progress="hidden")

    def show(self, request: gr.Request, profile: OAuthProfile | None) -> dict:
        person = self._person(request, profile)
        allowed = [action for action in ACTIONS if may(person.role, action)]
        shown: dict = {gate: self._refusal(action, person) for action, of in self.gates.items() for gate in of}
        shown |= {tab: gr.Tab(visible=True) for action, tab in self.tabs.items() if action in allowed}
        here, space = person.let_in and not person.logged_in, self.service.paths.space
        return shown | {self.line: render("who.html", person=person, allowed=allowed, here=here, space=space)}

    def _person(self, request: gr.Request, profile: OAuthProfile | None) -> Person:
        try:
            return authorize(self.service, "analyse", request, profile)
        except LabelError:  # accounts were made or removed since the page was served: it asks for a login when reloaded
            return Person("", ROLES[0], logged_in=False, let_in=False)

    def _refusal(self, action: str, person: Person) -> str:
        """Return why an action is not offered; empty where it is."""
        if may(person.role, action):
            return ""
        role = ROLES[ACTIONS.index(action)]
        out = bool(self.service.paths.space) and not person.logged_in
        contact = self.service.paths.contact
        return render("gate.html", purpose=_PURPOSES[action], role=role, out=out, person=person, contact=contact)
