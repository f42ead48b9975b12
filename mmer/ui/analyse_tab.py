"""The Analyse tab: a clip goes in, the verdict and its reasons come out, a correction is saved."""

from collections.abc import Callable

import gradio as gr

from mmer.errors import ClipError
from mmer.labels import EMOTIONS
from mmer.ui import result_html
from mmer.ui.auth import allowed
from mmer.ui.handlers import report_errors, run_in_background
from mmer.ui.service import CANNOT_TELL, CONSENT, NUMBERS_CONSENT, Service, Shown

_KEEP_S = 3600  # how long a session's result is held
_MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # two analyses at once are slower than one after another


def tab(service: Service) -> None:
    """Lay out the tab in the page being built, and wire it."""
    session = gr.State(None, time_to_live=_KEEP_S)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            with gr.Tabs():
                with gr.Tab("Video"):
                    video = gr.Video(
                        label="Video", sources=["upload", "webcam"], include_audio=True,
                        webcam_options=gr.WebcamOptions(mirror=False), buttons=[], elem_id="video",
                    )  # fmt: skip
                with gr.Tab("Sound"):
                    sound = gr.Audio(
                        label="Sound",
                        sources=["upload", "microphone"],
                        type="filepath",
                        editable=False,
                        buttons=[],
                        elem_id="sound",
                    )
                with gr.Tab("Picture"):
                    picture = gr.Image(
                        label="Picture", sources=["upload", "webcam", "clipboard"], type="filepath",
                        webcam_options=gr.WebcamOptions(mirror=False), buttons=[], elem_id="picture",
                    )  # fmt: skip
            words = gr.Textbox(
                label="Words (optional)", value="", lines=2, max_lines=6, elem_id="words",
                placeholder="What is said; left empty, it is transcribed", info="Fill in any of these: what you give is read together.",
            )  # fmt: skip
            with gr.Row():
                go = gr.Button("Analyse", variant="primary", scale=3, elem_id="analyse")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
            status = gr.HTML(label="Status", elem_id="status")
        with gr.Column(scale=7, min_width=320):
            card = gr.HTML(_EMPTY, label="Verdict", elem_id="result")
            with gr.Column(visible=False) as panel:
                transcript = gr.Textbox(
                    label="Transcript", value="", lines=2, max_lines=8, elem_id="transcript",
                    info="Correct the words and have them read again; one line for each utterance.",
                )  # fmt: skip
                times = gr.HTML(label="Word times", elem_id="word-times")
                with gr.Row():
                    rerun = gr.Button("Read again", elem_id="rerun")
                    explain = gr.Button("Explain", elem_id="explain")
                    halt = gr.Button("Stop", min_width=80, elem_id="halt")
                doing = gr.HTML(label="Status", elem_id="doing")
                why = gr.HTML(label="Why", elem_id="why")
                with gr.Group(elem_id="correct"):
                    emotion = gr.Radio(
                        [(e.capitalize(), e) for e in EMOTIONS] + [("Cannot tell", CANNOT_TELL)],
                        label="What do you think it is?", elem_id="emotion",
                    )  # fmt: skip
                    confidence = gr.Radio(
                        [("Guessing", 0.3), ("Fairly sure", 0.6), ("Certain", 0.9)],
                        label="How sure are you? (optional)",
                        elem_id="confidence",
                    )
                    with gr.Row():
                        annotator = gr.Textbox(label="Your name", value="", elem_id="annotator", min_width=140)
                        speaker = gr.Textbox(
                            label="Who is seen or heard (optional)",
                            value="",
                            placeholder="a nickname",
                            elem_id="speaker",
                            min_width=140,
                        )
                    comment = gr.Textbox(label="Comment (optional)", value="", elem_id="comment")
                    consent = gr.Checkbox(label=CONSENT, value=False, elem_id="consent")
                    numbers_only = gr.Checkbox(label=NUMBERS_CONSENT, value=False, elem_id="numbers-only")
                save = gr.Button("Save", variant="primary", elem_id="save")
                saved = gr.HTML(label="Stored", elem_id="saved")
                with gr.Accordion("Raw result", open=False):
                    raw = gr.JSON(label="Result", open=True)
                    raw_why = gr.JSON(label="Explanation", open=False)
                    receipt = gr.JSON(label="Saved", open=False)

    # gradio would open a picture first, and say nothing useful about a file that is none; a level of sureness is one of
    # three in the page, but any number through the API, and the store checks it.
    picture.preprocess = lambda payload: payload.path if payload else None
    confidence.preprocess = lambda payload: payload

    verdict = [raw, card, transcript, times, why, panel, session]

    def present(status: gr.HTML, what: str, work: Callable):
        for seconds, found in run_in_background(work):
            if found is None:
                yield {status: result_html.status(what, seconds)}
            else:
                yield {
                    raw: found.to_dict(),
                    card: result_html.result(found),
                    transcript: result_html.lines(found),
                    times: result_html.word_times(found),
                    why: "",
                    status: "",
                    panel: gr.Column(visible=True),
                    session: Shown(found),
                }

    @report_errors(status)
    def analyse(
        video=None,
        audio=None,
        image=None,
        text=None,
        request: gr.Request = None,
        profile: gr.OAuthProfile | None = None,
    ):
        allowed(service, "analyse", request, profile)
        yield {
            raw: None,
            card: "",
            panel: gr.Column(visible=False),
            session: None,
            status: result_html.status("Starting", 0),
        }
        # A sound or a video given beside another file is meant: it comes first.
        files = [f for f in (audio, video, image) if f]
        yield from present(
            status, "Looking and listening", lambda should_stop: service.analyse(files, text, should_stop)
        )

    @report_errors(doing)
    def read_again(transcript, shown, request: gr.Request, profile: gr.OAuthProfile | None):
        allowed(service, "analyse", request, profile)
        result = _result(shown)
        yield from present(doing, "Reading the words", lambda _: service.reread(result, transcript))

    @report_errors(doing)
    def explaining(shown, request: gr.Request, profile: gr.OAuthProfile | None):
        allowed(service, "analyse", request, profile)
        from mmer.ui.explanation_html import explanation  # matplotlib takes a second to load

        result = _result(shown)
        for seconds, found in run_in_background(lambda should_stop: service.explain(result, should_stop)):
            if found is None:
                yield {doing: result_html.status("Asking each channel why", seconds)}
            else:
                yield {
                    raw_why: found.to_dict(),
                    why: explanation(found, result.telling_segment.features),
                    doing: "",
                }

    @report_errors(saved)
    def store(
        emotion, confidence=None, comment="", annotator="", consent=False, speaker="", transcript="",
        numbers_only=False, shown=None,
        request: gr.Request = None, profile: gr.OAuthProfile | None = None,
    ):  # fmt: skip
        person = allowed(service, "label", request, profile, annotator)
        _result(shown)
        now, left = service.save(
            shown, emotion, annotator=person.name, words=transcript, confidence=confidence,
            comment=comment, speaker=speaker, consent=consent, numbers_only=numbers_only,
        )  # fmt: skip
        yield {receipt: vars(left), saved: result_html.saved(left), session: now}

    given = [video, sound, picture, words]
    form = [emotion, confidence, comment, annotator, consent, speaker, transcript, numbers_only, session]
    # A consent is for one clip: the form empties when the next one is analysed.
    fresh = {
        emotion: None,
        confidence: None,
        comment: "",
        consent: False,
        numbers_only: False,
        speaker: "",
        saved: "",
        doing: "",
        raw_why: None,
        receipt: None,
    }

    def run(button, handler, inputs, outputs, name, status, cleared):
        """Make a button run a handler on the model; until its turn comes, the page says so."""
        waiting = button.click(
            lambda: {status: result_html.status("Waiting for its turn", 0), **cleared}, None, [status, *cleared], queue=False,
            api_name=f"{name}_waits", api_visibility="undocumented", show_progress="hidden",
        )  # fmt: skip
        turn = waiting.then(handler, inputs, [*outputs, status], api_name=name, show_progress="hidden", **_MODEL)
        turn.success(None, js=_SHOW.format(outputs[1].elem_id))  # on a phone the answer is below the fold
        return turn

    running = [
        run(go, analyse, given, verdict, "analyse", status, fresh),
        run(
            rerun, read_again, [transcript, session], verdict, "rerun", doing, {saved: "", raw_why: None, receipt: None}
        ),
        run(explain, explaining, session, [raw_why, why], "explain", doing, {}),
    ]
    save.click(store, form, [receipt, saved, session], api_name="save_label", show_progress="hidden")
    gr.on(
        [stop.click, halt.click], lambda: (result_html.status("Stopped."), ""), None, [status, doing],
        cancels=running, api_name="stop", api_visibility="undocumented", show_progress="hidden",
    )  # fmt: skip


_SHOW = "() => document.getElementById('{}').scrollIntoView({{behavior: 'smooth', block: 'nearest'}})"
_EMPTY = (
    '<p class="mm-hint">The answer appears here: the emotion and how sure the model is, what face, voice and words each '
    "voted, and why.</p>"
)


def _result(shown: Shown | None):
    if shown is None:
        raise ClipError("nothing_analysed", "there is no result to work with; analyse a clip first")
    return shown.result
