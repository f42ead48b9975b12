"""The panel beneath an explanation: the utterance changed, and judged again beside what it was."""

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer.errors import ClipError
from mmer.labels import MODALITIES
from mmer.ui import result_html, whatif_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors, run_in_background
from mmer.ui.language import gettext, label
from mmer.ui.line import MODEL
from mmer.ui.names import CHANNELS
from mmer.ui.service import Service, SessionResult, current


class WhatIfPanel:
    """Lays the panel out in the page being built, and answers its buttons.

    Args:
        session: holds the `SessionResult` that is changed.
    """

    def __init__(self, service: Service, session: gr.State):
        self.service, self.session = service, session
        with gr.Accordion(label("What if …"), open=False, elem_id="whatif"):
            self.hide = gr.CheckboxGroup(
                [(label(CHANNELS.marked(m)), m) for m in MODALITIES], label=label("Leave out"), elem_id="whatif-hide"
            )
            with gr.Row():
                self.words = gr.Textbox(
                    label=label("Drop words (their numbers)"),
                    value="",
                    placeholder="3, 5",
                    elem_id="whatif-words",
                    min_width=160,
                )
                self.cut = gr.Textbox(
                    label=label("Cut out (seconds)"),
                    value="",
                    placeholder="0.8-1.3",
                    elem_id="whatif-cut",
                    min_width=160,
                )
            with gr.Row():
                # Numbers as text: an empty number field of gradio is 0 for some and nothing for others.
                self.noise = gr.Textbox(
                    label=label("Noise, dB below the voice"), value="", elem_id="whatif-noise", min_width=160
                )
                self.blur = gr.Textbox(
                    label=label("Blur the face, pixels"), value="", elem_id="whatif-blur", min_width=160
                )
            with gr.Row():
                self.try_button = gr.Button(label("Try it"), elem_id="whatif-try")
                self.search_button = gr.Button(label("Find the smallest change that turns it"), elem_id="whatif-search")
            self.status = gr.HTML(label="Status", elem_id="whatif-status")
            self.found = gr.HTML(label="Before and after", elem_id="whatif-found")
        asked = [self.hide, self.words, self.cut, self.noise, self.blur, session]
        for button, handler, inputs, name in (
            (self.try_button, self.change, asked, "whatif"),
            (self.search_button, self.search, [session], "whatif_search"),
        ):
            button.click(
                handler,
                inputs,
                [self.found, self.status],
                api_name=name,
                api_visibility="undocumented",
                show_progress="hidden",
                **MODEL,
            )

    @property
    def cleared(self) -> dict:
        """The panel empty, for the next clip."""
        texts = dict.fromkeys((self.words, self.cut, self.noise, self.blur, self.found, self.status), "")
        return {self.hide: [], **texts}

    @report_errors("status")
    def change(
        self,
        hide,
        words,
        cut,
        noise,
        blur,
        session: SessionResult | None,
        request: gr.Request,
        profile: OAuthProfile | None,
    ):
        from mmer.whatif import Changes  # with torch, which the first page does not wait for

        authorize(self.service, "analyse", request, profile)
        changes = Changes(
            hide=tuple(hide or ()),
            drop_words=_numbers(words),
            cut_s=_stretch(cut),
            noise_db=_number(noise, "the noise"),
            blur=_number(blur, "the blur"),
        )
        result = current(session).result
        turn = self.service.new_turn()
        for seconds, found in run_in_background(turn, lambda: self.service.what_if(result, changes)):
            if found is None:
                yield {self.status: result_html.status(gettext("Judging it again"), seconds)}
            else:
                yield {self.found: whatif_html.before_and_after(found), self.status: ""}

    @report_errors("status")
    def search(self, session: SessionResult | None, request: gr.Request, profile: OAuthProfile | None):
        authorize(self.service, "analyse", request, profile)
        result, turn = current(session).result, self.service.new_turn()
        # A list of one: what is not found is None, and so is what is not there yet.
        work = run_in_background(turn, lambda: [self.service.smallest_turn(result, turn.should_stop)])
        for seconds, found in work:
            if found is None:
                yield {self.status: result_html.status(gettext("Taking parts away"), seconds)}
            else:
                yield {self.found: whatif_html.smallest(found[0]), self.status: ""}


def _number(text: str | None, what: str) -> float | None:
    if not (text or "").strip():
        return None
    try:
        return float(str(text).replace(",", ".").replace("−", "-"))
    except ValueError:
        raise ClipError("bad_change", f"{what} is {text!r}; a number is needed, as 10 or 2.5") from None


def _numbers(text: str | None) -> tuple[int, ...]:
    parts = (text or "").replace(",", " ").split()
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ClipError("bad_change", f"the words to drop are {text!r}; their numbers are needed, as 3 or 3, 5")
    return tuple(int(part) for part in parts)


def _stretch(text: str | None) -> tuple[float, float] | None:
    if not (text or "").strip():
        return None
    ends = [part for part in str(text).replace("–", "-").replace("to", "-").replace("s", "").split("-") if part.strip()]
    if len(ends) != 2:
        raise ClipError("bad_change", f"the stretch to cut out is {text!r}; two times are needed, as 0.8-1.3")
    start_s, end_s = (_number(end, "the stretch") for end in ends)
    if start_s is None or end_s is None:
        raise ClipError("bad_change", f"the stretch to cut out is {text!r}; two times are needed, as 0.8-1.3")
    return start_s, end_s
