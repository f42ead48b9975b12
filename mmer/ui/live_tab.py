"""The Live tab: camera and microphone are followed while they run, and curves of each channel scroll by."""

from collections.abc import Iterator, Sequence

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.config import LiveConfig
from mmer.messages import marked
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.language import Texts, gettext, label, part
from mmer.ui.names import CHANNELS
from mmer.ui.render import render
from mmer.ui.result_html import status
from mmer.ui.service import Service

_STRIPS = Texts({"together": marked("Together"), **{m: CHANNELS.marked(m) for m in ("face", "voice")}})


class LiveTab:
    """Lays the tab out in the page being built. The browser's side of it is `live.js`."""

    def __init__(self, service: Service):
        self.service = service
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                gr.HTML(part(lambda: render("live_camera.html")), label="Camera", elem_id="live-camera")
                self.kinds = gr.CheckboxGroup(
                    [(label("Camera"), "face"), (label("Microphone"), "voice")],
                    value=["face", "voice"],
                    label=label("What is followed"),
                    elem_id="live-kinds",
                )
                self.start_button = gr.Button(label("Start"), variant="primary", elem_id="live-start")
                self.stop_button = gr.Button(label("Stop"), elem_id="live-stop")
                self.status = gr.HTML(label="Status", elem_id="live-status")
                gr.HTML(part(lambda: render("live_told.html")), label="What happens")
                most_min = service.live.limits.most_s / 60
                privacy = part(lambda: render("live_privacy.html", config=LiveConfig(), most_min=most_min))
                gr.HTML(privacy, label="Privacy")
            with gr.Column(scale=7, min_width=320):
                curves = part(lambda: render("live.html", strips=_STRIPS, config=LiveConfig()))
                gr.HTML(curves, label="Curves", elem_id="live")
        self.ticket = gr.JSON(elem_classes="mm-hidden", label="Ticket")
        self._connect()

    def _connect(self) -> None:
        begun = self.start_button.click(
            self.begin_live,
            self.kinds,
            [self.ticket, self.status],
            js="async (kinds) => [await mmerLive.ask(kinds)]",
            api_name="live",
            api_visibility="undocumented",
            show_progress="hidden",
        )
        begun.success(None, self.ticket, None, js="(ticket) => { mmerLive.begin(ticket); }")
        begun.failure(None, None, None, js="() => { mmerLive.stop(); }")
        self.stop_button.click(None, None, None, js="() => { mmerLive.stop('stopped'); }")

    @report_errors("status")
    def begin_live(
        self, request: gr.Request, profile: OAuthProfile | None, kinds: Sequence[str] | None = None
    ) -> Iterator[dict]:
        """Give the browser a session for the devices that it was allowed to use; none were: it has said so itself."""
        authorize(self.service, "analyse", request, profile)
        if not kinds:
            yield {self.ticket: None, self.status: ""}
            return
        yield {self.ticket: None, self.status: status(gettext("Getting ready"), 0)}
        token = self.service.live.begin(request.session_hash or "")
        yield {self.ticket: {"token": token}, self.status: ""}
