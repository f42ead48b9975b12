"""The Your-data tab: what one has stored is listed, changed and deleted."""

from collections.abc import Collection

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations import own_labels, receipts
from annotations.own_labels import OwnLabel
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import result_html
from mmer.ui.auth import authorize
from mmer.ui.correction_form import CONFIDENCE, OPINIONS
from mmer.ui.handlers import report_errors
from mmer.ui.render import in_text, render
from mmer.ui.service import Service


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
        gr.HTML(render("data_head.html", contact=service.paths.contact), label="About", elem_id="data-about")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                self._build_list()
            with gr.Column(scale=5, min_width=320):
                self._build_deletion()
        with gr.Accordion("Raw", open=False):
            self.raw = gr.JSON(label="Your corrections", open=False)
        self._connect(tab)

    def _build_list(self) -> None:
        self.labels = gr.Radio(
            [],
            label="Your corrections, the newest first",
            info="Choose one to change or delete it.",
            elem_id="own-labels",
            visible=False,
        )
        self.told = gr.HTML(label="Told", elem_id="own-told")
        with gr.Column(visible=False, elem_id="own-panel") as self.panel:
            with gr.Group():
                self.emotion = gr.Radio(OPINIONS, label="What do you think it is?", elem_id="own-emotion")
                self.confidence = gr.Radio(CONFIDENCE, label="How sure are you?", elem_id="own-confidence")
                self.comment = gr.Textbox(label="Comment", value="", elem_id="own-comment")
            with gr.Row():
                self.change_button = gr.Button("Change", variant="primary", elem_id="own-change", min_width=100)
                self.delete_button = gr.Button("Delete", variant="stop", elem_id="own-delete", min_width=100)

    def _build_deletion(self) -> None:
        with gr.Group(elem_id="data-receipt"):
            self.code = gr.Textbox(
                label="Delete a clip with its receipt code",
                value="",
                placeholder=receipts.blank(),
                info="Everything that is stored of the clip goes: the recording, its words, all labels and answers.",
                elem_id="receipt-code",
            )
        self.receipt_button = gr.Button("Delete everything of this clip", variant="stop", elem_id="receipt-delete")
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
        label = self._one(request, profile, label_id, own)
        known = [value for _, value in CONFIDENCE]
        yield {
            self.panel: gr.Column(visible=True),
            self.opened: label.id,
            self.emotion: next(iter(label.emotions), label.outcome),
            self.confidence: label.confidence if label.confidence in known else None,
            self.comment: label.comment,
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
        label = self._one(request, profile, label_id, own)
        if not emotion:
            raise LabelError("no_emotion", "choose an emotion, or 'cannot tell'")
        chosen, outcome = (emotion, "label") if emotion in EMOTIONS else (None, emotion)
        new = own_labels.change(self.store, label.id, chosen, outcome, confidence, comment or "")
        own = (*own, new)
        told = result_html.status(f"Changed: {label.clip} is {emotion.replace('_', ' ')} now.")
        yield self._listed(self._labels(request, profile, own)) | {self.told: told, self.own: own}

    @report_errors("told")
    def delete(self, request: gr.Request, profile: OAuthProfile | None, label_id=None, own: Collection[int] = ()):
        label = self._one(request, profile, label_id, own)
        everything = own_labels.delete(self.store, label.id)
        told = f"Deleted: your answer to {label.clip}, and all that was stored of the clip."
        if not everything:
            told = (
                f"Deleted: your answer to {label.clip} counts no more, and what you typed is gone. The clip itself "
                "stays, because others have judged it too, or because this server's owner brought it in."
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
        label = next((each for each in self._labels(request, profile, own) if each.id == label_id), None)
        if label is None:
            raise LabelError("not_yours", "choose one of your corrections from the list")
        return label

    def _listed(self, labels: list[OwnLabel]) -> dict:
        """Return the page with the list, and none of it open."""
        empty = '<p class="mm-hint">What you save under Analyse appears here, until you close this page.</p>'
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


def _line(label: OwnLabel) -> str:
    """Return a label in one line of text."""
    sure = {value: name.lower() for name, value in CONFIDENCE}.get(label.confidence or 0)
    kept = "recording kept" if label.media else "numbers kept" if label.features else "clip not kept"
    what = ", ".join(map(in_text, label.emotions)) or label.outcome.replace("_", " ")
    return " · ".join(
        [f"{label.clip}: {what}", *([sure] if sure else []), f"{label.created_at:%Y-%m-%d %H:%M} UTC", kept]
    )
