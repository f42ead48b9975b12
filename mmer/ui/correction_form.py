"""The form beneath a verdict: what somebody thinks it is, and what of the clip may be kept."""

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.labels import EMOTIONS
from mmer.ui import result_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.service import CANNOT_TELL, CONSENT, NUMBERS_CONSENT, Service, SessionResult, current


class CorrectionForm:
    """Lays the form out in the page being built, and saves what is filled in.

    Args:
        session: holds the `SessionResult` that is corrected.
        transcript: the words as they were corrected.
    """

    def __init__(self, service: Service, session: gr.State, transcript: gr.Textbox):
        self.service = service
        self.session = session
        with gr.Group(elem_id="correct"):
            self.emotion = gr.Radio(
                [(e.capitalize(), e) for e in EMOTIONS] + [("Cannot tell", CANNOT_TELL)],
                label="What do you think it is?",
                elem_id="emotion",
            )
            self.confidence = gr.Radio(
                [("Guessing", 0.3), ("Fairly sure", 0.6), ("Certain", 0.9)],
                label="How sure are you? (optional)",
                elem_id="confidence",
            )
            with gr.Row():
                self.annotator = gr.Textbox(label="Your name", value="", elem_id="annotator", min_width=140)
                self.speaker = gr.Textbox(
                    label="Who is seen or heard (optional)",
                    value="",
                    placeholder="a nickname",
                    elem_id="speaker",
                    min_width=140,
                )
            self.comment = gr.Textbox(label="Comment (optional)", value="", elem_id="comment")
            self.consent = gr.Checkbox(label=CONSENT, value=False, elem_id="consent")
            self.numbers_only = gr.Checkbox(label=NUMBERS_CONSENT, value=False, elem_id="numbers-only")
        self.save_button = gr.Button("Save", variant="primary", elem_id="save")
        self.saved = gr.HTML(label="Stored", elem_id="saved")
        self.receipt = gr.JSON(label="Saved", open=False, render=False)  # stands with the raw results
        # One of three in the page, but any number through the API, and the store checks it.
        self.confidence.preprocess = lambda payload: payload  # type: ignore[method-assign]
        self.save_button.click(
            self.save,
            [
                self.emotion,
                self.confidence,
                self.comment,
                self.annotator,
                self.consent,
                self.speaker,
                transcript,
                self.numbers_only,
                session,
            ],
            [self.receipt, self.saved, session],
            api_name="save_label",
            show_progress="hidden",
        )

    @property
    def cleared(self) -> dict:
        """The form empty, for the next clip: a consent is for one."""
        return {
            self.emotion: None,
            self.confidence: None,
            self.comment: "",
            self.consent: False,
            self.numbers_only: False,
            self.speaker: "",
            self.saved: "",
            self.receipt: None,
        }

    @report_errors("saved")
    def save(
        self,
        emotion,
        confidence=None,
        comment="",
        annotator="",
        consent=False,
        speaker="",
        transcript="",
        numbers_only=False,
        session: SessionResult | None = None,
        request: gr.Request | None = None,
        profile: OAuthProfile | None = None,
    ):
        person = authorize(self.service, "label", request, profile, annotator)
        session, saved = self.service.save(
            current(session),
            emotion,
            annotator=person.name,
            words=transcript,
            confidence=confidence,
            comment=comment,
            speaker=speaker,
            consent=consent,
            numbers_only=numbers_only,
        )
        yield {self.receipt: vars(saved), self.saved: result_html.saved(saved), self.session: session}
