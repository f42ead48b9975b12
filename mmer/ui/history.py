"""What this browser session analysed: a list to go back to, and two of them side by side. The session holds it all."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.errors import ClipError
from mmer.labels import EMOTIONS, MODALITIES
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.names import CHANNELS
from mmer.ui.render import render
from mmer.ui.service import Service, SessionResult, current
from mmer.ui.timeline_html import overall_strip

if TYPE_CHECKING:
    from mmer.predict import EmotionResult

Results = tuple[SessionResult, ...]
_MOST = 8  # results of a session: the crops of each are megabytes


class History:
    """Lays out the list and what is compared, each where the tab wants it, and answers their buttons.

    Args:
        session: holds the `SessionResult` that is shown.
        seconds: how long it is held.
    """

    def __init__(self, service: Service, session: gr.State, seconds: int):
        self.service, self.session = service, session
        self.results = gr.State((), time_to_live=seconds)  # Results, the newest last
        self.told = gr.HTML(label="Earlier in this session", elem_id="history", render=False)
        self.status = gr.HTML(label="Status", elem_id="history-status", render=False)
        self.compared = gr.HTML(label="Two results side by side", elem_id="compared", render=False)
        self.number = gr.Number(None, elem_classes="mm-hidden", label="Earlier result", render=False)
        self.again_button = gr.Button("Show again", elem_classes="mm-hidden", elem_id="show-again", render=False)
        self.compare_button = gr.Button("Compare", elem_classes="mm-hidden", elem_id="compare-with", render=False)

    def render_list(self) -> None:
        for part in (self.told, self.status, self.number, self.again_button, self.compare_button):
            part.render()

    def connect(self, show: Callable[[SessionResult], dict], shown: list) -> None:
        """Connect the buttons.

        Args:
            show: returns the page with a result.
            shown: the components of it.
        """
        self._show = show
        asked: dict = {"api_visibility": "undocumented", "show_progress": "hidden"}
        inputs = [self.number, self.session, self.results]
        js = "(_, ...rest) => [mmerTimeline.index, ...rest]"
        outputs = list(dict.fromkeys([*shown, self.results, self.told, self.compared, self.status]))
        self.again_button.click(self.again, inputs, outputs, api_name="show_again", js=js, **asked)
        outputs = [self.compared, self.status]
        self.compare_button.click(self.compare, inputs, outputs, api_name="compare", js=js, **asked)

    def remember_after(self, event) -> None:
        """Take a result into the list when an event has come to it."""
        event.success(
            self.remember,
            [self.session, self.results],
            [self.results, self.told, self.compared],
            api_visibility="undocumented",
            api_name="remember",
            show_progress="hidden",
        )

    @report_errors("status")
    def remember(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        session: SessionResult | None = None,
        results: Results = (),
    ):
        authorize(self.service, "analyse", request, profile)
        yield self._listed(with_result(results, session) if session else results, session)

    @report_errors("status")
    def again(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        number=None,
        session: SessionResult | None = None,
        results: Results = (),
    ):
        """Show an earlier result; what was saved of the one on the page meanwhile is kept with it."""
        authorize(self.service, "analyse", request, profile)
        results = with_result(results, session) if session else results
        chosen = _one(results, number)
        yield self._show(chosen) | self._listed(results, chosen) | {self.status: ""}

    @report_errors("status")
    def compare(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        number=None,
        session: SessionResult | None = None,
        results: Results = (),
    ):
        authorize(self.service, "analyse", request, profile)
        yield {self.compared: comparison(current(session).result, _one(results, number).result), self.status: ""}

    def _listed(self, results: Results, shown: SessionResult | None) -> dict:
        return {self.results: results, self.told: listed(results, shown), self.compared: ""}


def with_result(results: Results, session: SessionResult) -> Results:
    """Return them with a result in the place of what was said of the same clip before, else as the newest."""
    key = _clip(session)
    if any(_clip(each) == key for each in results):
        return tuple(session if _clip(each) == key else each for each in results)
    return (*results, session)[-_MOST:]


def listed(results: Results, shown: SessionResult | None) -> str:
    """Return the list as HTML, the newest first; empty while there is nothing to go back to."""
    if len(results) < 2:
        return ""
    here = shown and _clip(shown)
    rows = [(number, each.result, _clip(each) == here) for number, each in enumerate(results)]
    return render("history.html", rows=rows[::-1])


def comparison(first: "EmotionResult", second: "EmotionResult") -> str:
    """Return two results side by side: verdicts, votes, each channel's first choice, and the curves over time."""
    both = (first, second)
    tops = [int(each.probs.argmax()) for each in both]
    votes = [
        (emotion, [(float(each.probs[k]), k == top) for each, top in zip(both, tops, strict=True)])
        for k, emotion in enumerate(EMOTIONS)
    ]
    channels = [
        (CHANNELS[m], [EMOTIONS[int(each.branch_probs[i].argmax())] if each.present[m] else None for each in both])
        for i, m in enumerate(MODALITIES)
    ]
    strips = [overall_strip(str(n), each) for n, each in enumerate(both, 1)]
    return render("compare.html", both=both, votes=votes, channels=channels, strips=strips)


def _one(results: Results, number: object) -> SessionResult:
    if not isinstance(number, int | float) or not 0 <= int(number) < len(results):
        raise ClipError("no_result", "this result is not held any more; analyse the clip again")
    return results[int(number)]


def _clip(session: SessionResult) -> tuple:
    result = session.result
    return result.sha256, tuple(file.path for file in result.observation.files)
