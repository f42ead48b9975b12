"""The form beneath a verdict: what somebody thinks it is, and what of the clip may be kept."""

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.labels import EMOTIONS
from mmer.ui import result_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import remember_name, report_errors
from mmer.ui.identity import gate
from mmer.ui.language import gettext, label, part
from mmer.ui.names import choice
from mmer.ui.service import CANNOT_TELL, KEEP, Service, SessionResult, current

OPINIONS = [choice(e) for e in EMOTIONS] + [(label("Cannot tell"), CANNOT_TELL)]
CONFIDENCE = [(label("Guessing"), 0.3), (label("Fairly sure"), 0.6), (label("Certain"), 0.9)]


class CorrectionForm:
    """Lays the form out in the page being built, and saves what is filled in.

    Args:
        session: holds the `SessionResult` that is corrected.
        transcript: the words as they were corrected.
    """

    def __init__(self, service: Service, session: gr.State, transcript: gr.Textbox):
        self.service = service
        self.session = session
        self.own = gr.State((), time_to_live=12 * 3600)  # ids of the labels that this session saved
        gr.HTML(part(lambda: gate("label", gettext("save corrections"))), label="Saving")
        with gr.Column(elem_classes="mm-needs-label"):
            self._build()
        self.receipt = gr.JSON(label=label("Saved"), open=False, render=False)  # stands with the raw results
        # Through the API a value may be any; the service and the store say what is wrong with it.
        self.keep.preprocess = lambda payload: payload or "nothing"  # type: ignore[method-assign]
        self.confidence.preprocess = lambda payload: payload  # type: ignore[method-assign]
        remember_name(self.annotator)
        self.save_button.click(
            self.save,
            [
                self.emotion,
                self.confidence,
                self.comment,
                self.annotator,
                self.keep,
                self.speaker,
                transcript,
                session,
                self.own,
            ],
            [self.receipt, self.saved, session, self.own],
            api_name="save_label",
            show_progress="hidden",
            concurrency_limit=1,  # so that the second of two calls at once sees what the first has stored
        )

    def _build(self) -> None:
        with gr.Group(elem_id="correct"):
            self.emotion = gr.Radio(OPINIONS, label=label("What do you think it is?"), elem_id="emotion")
            self.confidence = gr.Radio(CONFIDENCE, label=label("How sure are you? (optional)"), elem_id="confidence")
            with gr.Row():
                self.annotator = gr.Textbox(label=label("Your name"), value="", elem_id="annotator", min_width=140)
                self.speaker = gr.Textbox(
                    label=label("Who is seen or heard (optional)"),
                    value="",
                    placeholder=label("a nickname"),
                    elem_id="speaker",
                    min_width=140,
                )
            self.comment = gr.Textbox(label=label("Comment (optional)"), value="", elem_id="comment")
            self.keep = gr.Radio(
                [(label(text), what) for what, text in KEEP.items()],
                value="nothing",
                label=label("What may be kept of the clip?"),
                info=label("After saving you get a code with which everything of the clip can be deleted again."),
                elem_id="keep",
            )
        self.save_button = gr.Button(label("Save"), variant="primary", elem_id="save")
        self.saved = gr.HTML(label="Stored", elem_id="saved")

    @property
    def cleared(self) -> dict:
        """The form empty, for the next clip: a consent is for one."""
        return {
            self.emotion: None,
            self.confidence: None,
            self.comment: "",
            self.keep: "nothing",
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
        keep="nothing",
        speaker="",
        transcript="",
        session: SessionResult | None = None,
        own: tuple[int, ...] = (),
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
            keep=keep,
        )
        yield {
            self.receipt: vars(saved),
            self.saved: result_html.saved(saved, self.service.paths.contact),
            self.session: session,
            self.own: own if saved.repeated else (*own, saved.label_id),
        }
