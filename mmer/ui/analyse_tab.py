"""The Analyse tab: a clip goes in, the verdict and its reasons come out, a correction is saved."""

from collections.abc import Callable, Iterator

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.explanation import Explanation
from mmer.ui import result_html
from mmer.ui.auth import authorize
from mmer.ui.correction_form import CorrectionForm
from mmer.ui.handlers import report_errors, run_in_background
from mmer.ui.service import Service, SessionResult, current, to_explain
from mmer.ui.whatif_panel import WhatIfPanel

_KEEP_S = 3600  # how long a session's result is held
_SCROLL = "() => document.getElementById('{}').scrollIntoView({{behavior: 'smooth', block: 'nearest'}})"
_EMPTY = (
    '<p class="mm-hint">The answer appears here: the emotion and how sure the model is, what face, voice and words '
    "each voted, and why.</p>"
)


class AnalyseTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.session = gr.State(None, time_to_live=_KEEP_S)  # SessionResult | None
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._build_inputs()
            with gr.Column(scale=7, min_width=320):
                self.card = gr.HTML(_EMPTY, label="Verdict", elem_id="result")
                with gr.Column(visible=False) as self.panel:
                    self._build_panel()
        self.verdict = [self.raw, self.card, self.transcript, self.times, self.why, self.panel, self.session]
        self._connect()

    def _build_inputs(self) -> None:
        webcam = gr.WebcamOptions(mirror=False)
        with gr.Tabs():
            with gr.Tab("Video"):
                self.video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    include_audio=True,
                    webcam_options=webcam,
                    buttons=[],
                    elem_id="video",
                )
            with gr.Tab("Sound"):
                self.sound = gr.Audio(
                    label="Sound",
                    sources=["upload", "microphone"],
                    type="filepath",
                    editable=False,
                    buttons=[],
                    elem_id="sound",
                )
            with gr.Tab("Picture"):
                self.picture = gr.Image(
                    label="Picture",
                    sources=["upload", "webcam", "clipboard"],
                    type="filepath",
                    webcam_options=webcam,
                    buttons=[],
                    elem_id="picture",
                )
        self.words = gr.Textbox(
            label="Words (optional)",
            value="",
            lines=2,
            max_lines=6,
            elem_id="words",
            placeholder="What is said; left empty, it is transcribed",
            info="Fill in any of these: what you give is read together.",
        )
        with gr.Row():
            self.analyse_button = gr.Button("Analyse", variant="primary", scale=3, elem_id="analyse")
            self.stop_button = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
        self.status = gr.HTML(label="Status", elem_id="status")
        # gradio would open a picture first, and say nothing useful about a file that is none.
        self.picture.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]

    def _build_panel(self) -> None:
        """Lay out what is there once a clip was analysed: its words, the reasons, the correction and the raw result."""
        self.transcript = gr.Textbox(
            label="Transcript",
            value="",
            lines=2,
            max_lines=8,
            elem_id="transcript",
            info="Correct the words and have them read again; one line for each utterance.",
        )
        self.times = gr.HTML(label="Word times", elem_id="word-times")
        with gr.Row():
            self.reread_button = gr.Button("Read again", elem_id="rerun")
            self.explain_button = gr.Button("Explain", elem_id="explain")
            self.halt_button = gr.Button("Stop", min_width=80, elem_id="halt")
        self.panel_status = gr.HTML(label="Status", elem_id="doing")
        self.why = gr.HTML(label="Why", elem_id="why")
        self.what_if = WhatIfPanel(self.service, self.session)
        self.form = CorrectionForm(self.service, self.session, self.transcript)
        with gr.Accordion("Raw result", open=False):
            self.raw = gr.JSON(label="Result", open=True)
            self.raw_why = gr.JSON(label="Explanation", open=False)
            self.form.receipt.render()

    def _connect(self) -> None:
        running = [
            self._run_on_click(
                self.analyse_button,
                self.analyse,
                inputs=[self.video, self.sound, self.picture, self.words],
                outputs=self.verdict,
                name="analyse",
                status=self.status,
                cleared={**self.form.cleared, **self.what_if.cleared, self.panel_status: "", self.raw_why: None},
            ),
            self._run_on_click(
                self.reread_button,
                self.reread,
                inputs=[self.transcript, self.session],
                outputs=self.verdict,
                name="rerun",
                status=self.panel_status,
                cleared={self.form.saved: "", self.form.receipt: None, self.raw_why: None},
            ),
            self._run_on_click(
                self.explain_button,
                self.explain,
                inputs=[self.session],
                outputs=[self.raw_why, self.why],
                name="explain",
                status=self.panel_status,
                cleared={},
            ),
        ]
        gr.on(
            [self.stop_button.click, self.halt_button.click],
            lambda: (result_html.status("Stopped."), ""),
            None,
            [self.status, self.panel_status],
            cancels=running,
            api_name="stop",
            api_visibility="undocumented",
            show_progress="hidden",
        )

    def _run_on_click(self, button: gr.Button, handler: Callable, *, inputs, outputs, name, status, cleared):
        """Make a button run a handler on the model and return the event; until its turn comes, the page says so."""
        waiting = button.click(
            lambda: {status: result_html.status("Waiting for its turn", 0), **cleared},
            None,
            [status, *cleared],
            queue=False,
            api_name=f"{name}_waits",
            api_visibility="undocumented",
            show_progress="hidden",
        )
        turn = waiting.then(
            handler,
            inputs,
            [*outputs, status],
            api_name=name,
            show_progress="hidden",
            concurrency_id="model",
            concurrency_limit=1,  # two analyses at once are slower than one after another
        )
        turn.success(None, js=_SCROLL.format(outputs[1].elem_id))  # on a phone the answer is below the fold
        return turn

    @report_errors("status")
    def analyse(
        self,
        video=None,
        audio=None,
        image=None,
        text=None,
        request: gr.Request | None = None,
        profile: OAuthProfile | None = None,
    ):
        authorize(self.service, "analyse", request, profile)
        yield {
            self.raw: None,
            self.card: "",
            self.panel: gr.Column(visible=False),
            self.session: None,
            self.status: result_html.status("Starting", 0),
        }
        # A sound or a video given beside another file is meant: it comes first.
        files = [f for f in (audio, video, image) if f]
        yield from self._present(
            self.status, "Looking and listening", lambda should_stop: self.service.analyse(files, text, should_stop)
        )

    @report_errors("panel_status")
    def reread(self, transcript, session: SessionResult | None, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "analyse", request, profile)
        result = current(session).result
        yield from self._present(
            self.panel_status, "Reading the words", lambda _: self.service.reread(result, transcript)
        )

    @report_errors("panel_status")
    def explain(self, session: SessionResult | None, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "analyse", request, profile)
        from mmer.ui.excerpts import excerpts
        from mmer.ui.explanation_html import explanation  # matplotlib takes a second to load

        result = current(session).result
        features = to_explain(result)[0].features
        told: list[Explanation] = []  # what is known so far; the last one is shown
        n_shown = 0
        for seconds, why in run_in_background(lambda stop: self.service.explain(result, stop, told.append)):
            if why is not None:
                html = explanation(why, features, excerpts(result, why))
                yield {self.raw_why: why.to_dict(), self.why: html, self.panel_status: ""}
                continue
            shown = {self.panel_status: result_html.status("Asking each channel why", seconds)}
            if len(told) > n_shown:
                n_shown = len(told)
                shown[self.why] = explanation(told[-1], features)
            yield shown

    def _present(self, status: gr.HTML, doing: str, work: Callable) -> Iterator[dict]:
        """Yield what the page shows while the model works, then its verdict."""
        for seconds, result in run_in_background(work):
            if result is None:
                yield {status: result_html.status(doing, seconds)}
            else:
                yield {
                    self.raw: result.to_dict(),
                    self.card: result_html.result(result),
                    self.transcript: result_html.lines(result),
                    self.times: result_html.word_times(result),
                    self.why: "",
                    status: "",
                    self.panel: gr.Column(visible=True),
                    self.session: SessionResult(result),
                }
