"""The Analyse tab: a clip goes in, the verdict and its reasons come out, a correction is saved."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer import checkpoint
from mmer.media import MediaInfo
from mmer.messages import marked
from mmer.ui import card_html, result_html
from mmer.ui.auth import authorize
from mmer.ui.captions import webvtt
from mmer.ui.clip_inputs import ClipInputs, in_reading_order, probed
from mmer.ui.correction_form import CorrectionForm
from mmer.ui.examples import EXAMPLES, Example
from mmer.ui.faces_html import faces
from mmer.ui.handlers import in_its_language, report_errors, run_in_background
from mmer.ui.history import History
from mmer.ui.language import gettext, label, part
from mmer.ui.line import MODEL
from mmer.ui.render import hint
from mmer.ui.service import Service, SessionResult, current, to_explain
from mmer.ui.timeline_html import timeline
from mmer.ui.waiting import Waiting
from mmer.ui.whatif_panel import WhatIfPanel

_KEEP_S = 3600  # how long a session's result is held
_SCROLL = "() => document.getElementById('{}').scrollIntoView({{behavior: 'smooth', block: 'nearest'}})"
_ROOM = {
    ".mp4": "mm-tall",
    ".png": "mm-tall",
    ".wav": "mm-low",
    "": "mm-flat",
}  # that an example's file takes in the list
_DOWNLOADS = (  # what they are called on the page, their ending, their type
    (marked("Download Report"), "html", "text/html"),
    (marked("Download JSON"), "json", "application/json"),
    (marked("Download Captions"), "vtt", "text/vtt"),
)


def _failed() -> str:
    return result_html.empty(
        gettext("Nothing came of it"), gettext("What went wrong stands beside the button. When it works, you get:")
    )


class AnalyseTab:
    """Lays the tab out in the page being built, and answers its events."""

    def __init__(self, service: Service):
        self.service = service
        self.session = gr.State(None, time_to_live=_KEEP_S)  # SessionResult | None
        self.told_why = gr.State("", time_to_live=_KEEP_S)  # its explanation as HTML, once it was asked for
        self.history = History(service, self.session, _KEEP_S)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._build_inputs()
            with gr.Column(scale=7, min_width=320):
                self.card = gr.HTML(part(result_html.empty), label="Verdict", elem_id="result")
                self.history.compared.render()
                with gr.Column(visible=False) as self.panel:
                    self._build_panel()
        with gr.Accordion(label("About the model that answers"), open=False, elem_id="model-card"):
            serving = checkpoint.promoted(service.paths.checkpoints)
            self.model = gr.HTML(part(lambda: self._figures(serving)), label="The model")
            with gr.Accordion(label("The whole card (in English)"), open=False):
                gr.Markdown(card_html.whole_card())
        self.verdict = [self.raw, self.card, self.transcript, self.times, self.why, self.panel, self.session]
        self.verdict += [self.over_time, self.model, self.people, self.told_why]
        self._connect()

    def _build_inputs(self) -> None:
        self.given = ClipInputs(self.service)
        with gr.Row():
            self.analyse_button = gr.Button(label("Analyse"), variant="primary", scale=3, elem_id="analyse")
            self.stop_button = gr.Button(label("Stop"), scale=1, min_width=80, elem_id="stop")
        self.status = gr.HTML(label="Status", elem_id="status")
        with gr.Group(elem_id="examples"):
            gr.HTML(part(lambda: hint(marked("Or try an example; nobody is in them, face and voice are made here."))))
            self.example_buttons = [
                gr.Button(
                    label(each.title),
                    size="sm",
                    elem_id=f"example-{each.id}",
                    elem_classes=["mm-example", _ROOM[Path(each.file).suffix]],
                )
                for each in EXAMPLES
            ]
        self.history.render_list()

    def _build_panel(self) -> None:
        """Lay out what is there once a clip was analysed: its time line, its words, the reasons, the correction."""
        self.people = gr.HTML(label="Faces", elem_id="faces")
        self.choose_face_button = gr.Button("Read another face", elem_classes="mm-hidden", elem_id="choose-face")
        self.number = gr.Number(None, elem_classes="mm-hidden", label="Face")
        self.over_time = gr.HTML(label="The clip over its time", elem_id="timeline")
        with gr.Row(elem_id="downloads"):
            self.download_buttons = [
                gr.Button(label(name), size="sm", min_width=110, elem_id=f"download-{ending}")
                for name, ending, _ in _DOWNLOADS
            ]
        self.download = gr.JSON(elem_classes="mm-hidden", label="Download")
        self.transcript = gr.Textbox(
            label=label("Transcript"),
            value="",
            lines=2,
            max_lines=8,
            elem_id="transcript",
            info=label("Correct the words and have them read again; one line for each utterance."),
        )
        self.times = gr.HTML(label="Word times", elem_id="word-times")
        with gr.Row():
            self.reread_button = gr.Button(label("Read again"), elem_id="rerun")
            self.explain_button = gr.Button(label("Explain"), elem_id="explain")
            self.halt_button = gr.Button(label("Stop"), min_width=80, elem_id="halt")
        self.explain_one_button = gr.Button(
            "Explain an utterance", elem_classes="mm-hidden", elem_id="explain-utterance"
        )
        self.utterance = gr.Number(None, elem_classes="mm-hidden", label="Utterance")
        self.panel_status = gr.HTML(label="Status", elem_id="doing")
        self.why = gr.HTML(label="Why", elem_id="why")
        self.what_if = WhatIfPanel(self.service, self.session)
        self.form = CorrectionForm(self.service, self.session, self.transcript)
        with gr.Accordion(label("Raw result"), open=False):
            self.raw = gr.JSON(label=label("Result"), open=True)
            self.raw_why = gr.JSON(label=label("Explanation"), open=False)
            self.form.receipt.render()

    def _connect(self) -> None:
        cleared = {
            **self.form.cleared,
            **self.what_if.cleared,
            self.panel_status: "",
            self.raw_why: None,
            self.over_time: "",
            self.history.compared: "",
        }
        running = [self._connect_analysis(self.analyse_button, "page_analyse", None, cleared)]
        running += [
            self._connect_analysis(button, f"example_{example.id}", example, cleared)
            for button, example in zip(self.example_buttons, EXAMPLES, strict=True)
        ]
        changing, explaining = self._connect_panel()
        for event in (*running, *changing):
            self.history.remember_after(event)
        shown = [*self.verdict, self.status, *cleared]
        self.history.connect(lambda session: {**cleared, **self._shown(session, self.status)}, shown)
        told: dict = {"api_visibility": "undocumented", "show_progress": "hidden"}
        self.stop_button.click(self.stop, None, [self.status, self.card], cancels=running, api_name="stop", **told)
        self.halt_button.click(
            lambda: "", None, self.panel_status, cancels=[*changing, *explaining], api_name="halt", **told
        )
        self._connect_downloads(told)

    def _connect_panel(self) -> tuple[list, list]:
        """Connect what asks the model again of the clip shown; return what changes the verdict and what explains it."""
        changing = [
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
                self.choose_face_button,
                self.choose_face,
                inputs=[self.number, self.session],
                outputs=self.verdict,
                name="choose_face",
                status=self.panel_status,
                cleared={self.form.saved: "", self.form.receipt: None, self.raw_why: None},
                js="(_, session) => [mmerTimeline.index, session]",
            ),
        ]
        explaining = [
            self._run_on_click(
                button,
                self.explain,
                inputs=[self.utterance, self.session],
                outputs=[self.raw_why, self.why, self.told_why],
                name=name,
                status=self.panel_status,
                cleared={},
                js=js,
            )
            for button, name, js in (
                (self.explain_button, "page_explain", "(_, session) => [null, session]"),
                (self.explain_one_button, "explain_utterance", "(_, session) => [mmerTimeline.index, session]"),
            )
        ]
        return changing, explaining

    def _connect_downloads(self, told: dict) -> None:
        for button, (_, ending, kind) in zip(self.download_buttons, _DOWNLOADS, strict=True):
            made = button.click(
                self._downloader(ending, kind),
                [self.session, self.told_why],
                [self.download, self.panel_status],
                api_name=f"download_{ending}",
                **told,
            )
            made.success(None, self.download, None, js="(file) => mmerTimeline.save(file)")

    def _connect_analysis(self, button: gr.Button, name: str, example: Example | None, cleared: dict):
        """Make a button analyse what was given, or an example, and return the event."""
        fill = None if example is None else (lambda: self._filled(example))
        given = [self.given.files, self.given.words]
        return self._run_on_click(
            button,
            self.analyse,
            inputs=given,
            of_clip=True,
            outputs=self.verdict,
            name=name,
            status=self.status,
            cleared=cleared,
            fill=fill,
        )

    def _run_on_click(
        self,
        button: gr.Button,
        handler: Callable,
        *,
        inputs,
        outputs,
        name,
        status,
        cleared,
        fill=None,
        js=None,
        of_clip=False,
    ):
        """Make a button run a handler on the model and return the event; until its turn comes, the page says so.

        Args:
            fill: what is filled in first.
            of_clip: the inputs are files and words, from which it can be told how long it should take.
        """
        filled = [self.given.files, self.given.words, self.given.chips] if fill else []

        @in_its_language
        def wait(request: gr.Request, files=None, words=None) -> dict:
            values = dict(zip(filled, fill(), strict=True)) if fill else {}
            if values:
                files, words, *_ = values.values()
            self.service.line.expect(request.session_hash, self._expected_s(files, words))
            told = result_html.status(gettext("Waiting for its turn"), 0, request.session_hash)
            place = {self.card: Waiting().card(0, None, in_line=True)} if of_clip else {}
            return {status: told, **cleared, **values, **place}

        waiting = button.click(
            wait,
            inputs if of_clip and not fill else None,
            [status, *cleared, *filled, *([self.card] if of_clip else [])],
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
            api_visibility="undocumented",
            show_progress="hidden",
            js=js,
            **MODEL,
        )
        turn.success(None, js=_SCROLL.format(outputs[1].elem_id))  # on a phone the answer is below the fold
        return turn

    def _filled(self, example: Example) -> tuple:
        """Return files, words and chips of an example."""
        files = self.service.examples.place(example)
        return files or None, example.words, self.given.shown(files)

    def _expected_s(self, files: Sequence[str] | None, words: str | None) -> float | None:
        """Return how long these files should take here; None where nothing like them ran."""
        infos = [found for f in files or () if isinstance(found := probed(f), MediaInfo)]
        return self.service.pace.expected_s(infos, bool((words or "").strip()))

    def _figures(self, name: str) -> str:
        return card_html.figures(name, self.service.paths.checkpoints)

    @in_its_language
    def stop(self, request: gr.Request) -> dict:
        told = gettext("Press Analyse to start again. When it is done, you get:")
        empty = result_html.empty(gettext("Stopped"), told)
        return {self.status: result_html.status(gettext("Stopped.")), self.card: empty}

    @report_errors("status", card=_failed)
    def analyse(self, request: gr.Request, profile: OAuthProfile | None, files=None, text=None):
        authorize(self.service, "analyse", request, profile)
        files, turn = in_reading_order(files or ()), self.service.new_turn()
        waiting = Waiting(turn)
        expected_s = self._expected_s(files, text)
        yield {
            self.raw: None,
            self.card: waiting.card(0, expected_s),
            self.panel: gr.Column(visible=False),
            self.session: None,
            self.status: result_html.status(gettext("Starting"), 0),
        }
        work = run_in_background(
            turn, lambda: self.service.with_faces(self.service.analyse(files, text, turn, waiting.tell), turn)
        )
        for seconds, session in work:
            if session is None:
                yield {
                    self.status: result_html.status(waiting.sentence, seconds),
                    self.card: waiting.card(seconds, expected_s),
                }
            else:
                yield self._shown(session, self.status)

    @report_errors("panel_status")
    def reread(self, transcript, session: SessionResult | None, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "analyse", request, profile)
        seen = current(session)
        before = seen.before or seen.result
        turn = self.service.new_turn()
        work = run_in_background(
            turn, lambda: self.service.with_faces(self.service.reread(seen.result, transcript), turn)
        )
        for seconds, found in work:
            if found is None:
                yield {self.panel_status: result_html.status(gettext("Reading the words"), seconds)}
            else:
                edited = found.result.transcript.text.split() != before.transcript.text.split()
                yield self._shown(replace(found, before=before if edited else None), self.panel_status)

    @report_errors("panel_status")
    def choose_face(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        number=None,
        session: SessionResult | None = None,
    ) -> Iterator[dict]:
        authorize(self.service, "analyse", request, profile)
        seen, which = current(session), int(number or 0)
        turn = self.service.new_turn()
        work = run_in_background(turn, lambda: self.service.choose_face(seen, which, turn))
        for seconds, found in work:
            if found is None:
                yield {self.panel_status: result_html.status(gettext("Reading that face"), seconds)}
            else:
                yield self._shown(found, self.panel_status)

    @report_errors("panel_status")
    def explain(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        utterance=None,
        session: SessionResult | None = None,
    ) -> Iterator[dict]:
        authorize(self.service, "analyse", request, profile)
        from mmer.ui.excerpts import excerpts
        from mmer.ui.explanation_html import explanation  # matplotlib takes a second to load

        seen = current(session)
        which = None if utterance is None else int(utterance)
        features = to_explain(seen.result, which)[0].features
        told: list = []  # explanations: what is known so far; the last one is shown
        n_shown = 0
        turn = self.service.new_turn()
        work = run_in_background(
            turn, lambda: self.service.explain(seen.result, turn.should_stop, told.append, utterance=which)
        )
        for seconds, why in work:
            if why is not None:
                html = explanation(why, features, excerpts(seen.result, why))
                yield {
                    self.raw_why: why.to_dict(),
                    self.why: html,
                    self.told_why: html,
                    self.panel_status: "",
                }
                continue
            shown = {self.panel_status: result_html.status(gettext("Asking each channel why"), seconds)}
            if len(told) > n_shown:
                n_shown = len(told)
                shown[self.why] = explanation(told[-1], features)
            yield shown

    def _shown(self, session: SessionResult, status: gr.HTML) -> dict:
        """Return the page with a verdict."""
        result = session.result
        over_time = timeline(result, self.service.player, self.service.paths.uploads)
        return {
            self.raw: result.to_dict(),
            self.card: result_html.result(result, session.before, over_time=bool(over_time)),
            self.over_time: over_time,
            self.people: faces(session.faces, result.observation.face),
            self.transcript: result_html.lines(result),
            self.times: result_html.word_times(result),
            self.why: "",
            self.told_why: "",
            self.model: self._figures(result.checkpoint),
            status: "",
            self.panel: gr.Column(visible=True),
            self.session: session,
        }

    def _downloader(self, ending: str, kind: str) -> Callable:
        """Return the handler that makes a file of the result; the page gives it to the browser, none lies here."""

        @report_errors("panel_status")
        def made(self, session: SessionResult | None, why: str, request: gr.Request, profile: OAuthProfile | None):
            from mmer.ui.report_html import report

            authorize(self.service, "analyse", request, profile)
            seen = current(session)
            text = {
                "html": lambda: report(seen, why, self.service.paths.checkpoints),
                "json": lambda: json.dumps(seen.result.to_dict(), indent=1, ensure_ascii=False),
                "vtt": lambda: webvtt(seen.result),
            }[ending]()
            stem = Path(seen.result.clip).stem if seen.result.observation.files else "words"
            yield {
                self.download: {"name": f"{stem}-emotion.{ending}", "type": kind, "text": text},
                self.panel_status: "",
            }

        return made.__get__(self)
