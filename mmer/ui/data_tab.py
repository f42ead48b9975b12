"""The Your-data tab: what one has stored is listed, changed and deleted."""

from collections.abc import Collection

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations import own_labels, receipts
from annotations.own_labels import OwnLabel
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.messages import marked
from mmer.ui import names, result_html
from mmer.ui.auth import authorize
from mmer.ui.correction_form import CONFIDENCE, OPINIONS
from mmer.ui.handlers import report_errors
from mmer.ui.language import gettext, isolated, label, part
from mmer.ui.render import hint, in_text, render
from mmer.ui.service import Service

_SURE = {0.3: marked("guessing"), 0.6: marked("fairly sure"), 0.9: marked("certain")}  # of CONFIDENCE, in a sentence


class DataTab:
    """Lays the tab out in the page being built, and answers its events.

    Args:
        tab: whose choice brings the list up to date.
        own: ids of the labels that this session saved: without an account they alone are known to be one's own.
    """

    def __init__(self, service: Service, tab: gr.Tab, own: gr.State):
        self.service = service
        self.store = service.store
        self.own = own
        self.opened = gr.State(None)  # the id of the label that is open
        gr.HTML(
            part(lambda: render("data_head.html", contact=service.paths.contact)), label="About", elem_id="data-about"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                self._build_list()
            with gr.Column(scale=5, min_width=320):
                self._build_deletion()
        with gr.Accordion(label("Raw"), open=False):
            self.raw = gr.JSON(label=label("Your corrections"), open=False)
        self._connect(tab)

    def _build_list(self) -> None:
        self.labels = gr.Radio(
            [],
            label=label("Your corrections, the newest first"),
            info=label("Choose one to change or delete it."),
            elem_id="own-labels",
            visible=False,
        )
        self.told = gr.HTML(label="Told", elem_id="own-told")
        with gr.Column(visible=False, elem_id="own-panel") as self.panel:
            with gr.Group():
                self.emotion = gr.Radio(OPINIONS, label=label("What do you think it is?"), elem_id="own-emotion")
                self.confidence = gr.Radio(CONFIDENCE, label=label("How sure are you?"), elem_id="own-confidence")
                self.comment = gr.Textbox(label=label("Comment"), value="", elem_id="own-comment")
            with gr.Row():
                self.change_button = gr.Button(label("Change"), variant="primary", elem_id="own-change", min_width=100)
                self.delete_button = gr.Button(label("Delete"), variant="stop", elem_id="own-delete", min_width=100)

    def _build_deletion(self) -> None:
        with gr.Group(elem_id="data-receipt"):
            self.code = gr.Textbox(
                label=label("Delete a clip with its receipt code"),
                value="",
                placeholder=receipts.blank(),
                info=label(
                    "Everything that is stored of the clip goes: the recording, its words, all labels and answers."
                ),
                elem_id="receipt-code",
            )
        self.receipt_button = gr.Button(
            label("Delete everything of this clip"), variant="stop", elem_id="receipt-delete"
        )
        self.deleted = gr.HTML(label="Deleted", elem_id="receipt-told")

    def _connect(self, tab: gr.Tab) -> None:
        listed = [self.labels, self.panel, self.opened, self.told, self.raw]
        form = [self.panel, self.opened, self.emotion, self.confidence, self.comment, self.told]
        tab.select(self.list_own, [self.own], listed, api_name="own_labels", show_progress="hidden")
        # Not preprocessed: gradio would take only what its last list had.
        self.labels.input(
            self.open, [self.labels, self.own], form, api_name="own_open", preprocess=False, show_progress="hidden"
        )
        self.change_button.click(
            self.change,
            [self.emotion, self.confidence, self.comment, self.opened, self.own],
            [*listed, self.own],
            api_name="own_change",
            show_progress="hidden",
        )
        self.delete_button.click(
            self.delete, [self.opened, self.own], listed, api_name="own_delete", show_progress="hidden"
        )
        gr.on(
            [self.receipt_button.click, self.code.submit],
            self.delete_by_receipt,
            [self.code, self.own],
            [self.deleted, self.code, *listed],
            api_name="delete_by_receipt",
            show_progress="hidden",
        )

    @report_errors("told")
    def list_own(self, request: gr.Request, profile: OAuthProfile | None, own: Collection[int] = ()):
        yield self._listed(self._labels(request, profile, own))

    @report_errors("told")
    def open(self, request: gr.Request, profile: OAuthProfile | None, label_id=None, own: Collection[int] = ()):
        given = self._one(request, profile, label_id, own)
        known = [value for _, value in CONFIDENCE]
        yield {
            self.panel: gr.Column(visible=True),
            self.opened: given.id,
            self.emotion: next(iter(given.emotions), given.outcome),
            self.confidence: given.confidence if given.confidence in known else None,
            self.comment: given.comment,
            self.told: "",
        }

    @report_errors("told")
    def change(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        emotion=None,
        confidence=None,
        comment="",
        label_id=None,
        own: Collection[int] = (),
    ):
        given = self._one(request, profile, label_id, own)
        if not emotion:
            raise LabelError("no_emotion", "choose an emotion, or 'cannot tell'")
        chosen, outcome = (emotion, "label") if emotion in EMOTIONS else (None, emotion)
        new = own_labels.change(self.store, given.id, chosen, outcome, confidence, comment or "")
        own = (*own, new)
        told = result_html.status(
            gettext("Changed: {clip} is {emotion} now.", clip=isolated(given.clip), emotion=names.emotion(emotion))
        )
        yield self._listed(self._labels(request, profile, own)) | {self.told: told, self.own: own}

    @report_errors("told")
    def delete(self, request: gr.Request, profile: OAuthProfile | None, label_id=None, own: Collection[int] = ()):
        given = self._one(request, profile, label_id, own)
        everything = own_labels.delete(self.store, given.id)
        told = gettext(
            "Deleted: your answer to {clip}, and all that was stored of the clip.", clip=isolated(given.clip)
        )
        if not everything:
            told = gettext(
                "Deleted: your answer to {clip} counts no more, and what you typed is gone. The clip itself stays, "
                "because others have judged it too, or because this server's owner brought it in.",
                clip=isolated(given.clip),
            )
        yield self._listed(self._labels(request, profile, own)) | {self.told: result_html.status(told)}

    @report_errors("deleted")
    def delete_by_receipt(self, request: gr.Request, profile: OAuthProfile | None, code="", own: Collection[int] = ()):
        authorize(self.service, "analyse", request, profile)  # the code itself is the right to do it
        removal = receipts.delete(self.store, code or "")
        listed = self._listed(self._labels(request, profile, own))
        yield listed | {self.deleted: result_html.removed(removal), self.code: ""}

    def _labels(self, request, profile, own: Collection[int]) -> list[OwnLabel]:
        person = authorize(self.service, "analyse", request, profile)
        return own_labels.own_labels(self.store, annotator=person.name if person.logged_in else None, ids=own)

    def _one(self, request, profile, label_id: object, own: Collection[int]) -> OwnLabel:
        """Return one of the labels that are the asking person's own."""
        given = next((each for each in self._labels(request, profile, own) if each.id == label_id), None)
        if given is None:
            raise LabelError("not_yours", "choose one of your corrections from the list")
        return given

    def _listed(self, labels: list[OwnLabel]) -> dict:
        """Return the page with the list, and none of it open."""
        empty = hint(marked("What you save under Analyse appears here, until you close this page."))
        return {
            self.labels: gr.Radio(
                choices=[(_line(each), each.id) for each in labels], value=None, visible=bool(labels)
            ),
            self.panel: gr.Column(visible=False),
            self.opened: None,
            self.told: "" if labels else empty,
            self.raw: [
                {"id": each.id, "clip": each.sha256, "emotions": each.emotions, "outcome": each.outcome}
                | {"confidence": each.confidence, "comment": each.comment, "at": each.created_at.isoformat()}
                | {"recording_kept": each.media, "numbers_kept": each.features}
                for each in labels
            ],
        }


def _line(given: OwnLabel) -> str:
    """Return a label in one line of text."""
    sure = _SURE.get(given.confidence or 0)
    kept = marked("recording kept") if given.media else marked("clip not kept")
    kept = marked("numbers kept") if given.features and not given.media else kept
    what = ", ".join(map(in_text, given.emotions)) or names.emotion(given.outcome)
    when = f"{given.created_at:%Y-%m-%d %H:%M} UTC"
    said = [f"{isolated(given.clip)}: {what}", *([gettext(sure)] if sure else []), when, gettext(kept)]
    return " · ".join(said)
