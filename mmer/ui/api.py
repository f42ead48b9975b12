"""The page for programs: endpoints that take files and text and return JSON, described and typed for who calls them.

`/gradio_api/info` lists them. A session's last result stays with it, so that `/explain` needs no file after `/analyse`.
"""

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio.context import get_blocks_context
from gradio.oauth import OAuthProfile
from gradio_client.utils import python_type_to_json_schema

from annotations.db.schema import OUTCOMES, VERSION
from annotations.formats.label_row import to_row
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from mmer.config import ROOT
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, MODALITIES
from mmer.ui import api_types, label_view
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_to_callers, run_in_background
from mmer.ui.line import MODEL
from mmer.ui.service import Service, SessionResult, current
from mmer.ui.turns import Turn
from mmer.versions import versions

_LARGEST = 10**15  # of an id, or of labels to pass over: exact in JSON, and a database can look for it
_MOST_LABELS = 1000  # of one answer of `/export`


class Endpoints:
    """Adds the endpoints to the page being built.

    Args:
        session: holds the `SessionResult` of whoever calls, as on the page.
    """

    def __init__(self, service: Service, session: gr.State):
        self.service, self.session = service, session
        with gr.Column(visible=False):
            files = [_file("Video"), _file("Sound"), _file("Picture"), _file("Files", several=True)]
            words = gr.Textbox(label="Words", value="")
        clip = [files[0], files[1], files[2], words, files[3]]
        _endpoint(self.analyse, clip, api_types.Result, "analyse", [session], preprocess=True, **MODEL)
        asked = [_value(str | None, "Emotion"), _value(str | None, "Against"), _value(int | None, "Utterance"), session]
        _endpoint(self.explain, [*clip, *asked], api_types.Reasons, "explain", [session], preprocess=True, **MODEL)
        who = [_value(str, "Project", ""), _value(str, "Annotator", "")]
        _endpoint(self.next_item, who, api_types.NextItem, "next")
        answer = [
            *who,
            _value(int | None, "Id of the loan"),
            _value(list[str] | dict[str, list[str]] | None, "Emotions"),
            _value(str, "Outcome", "label"),
            *(_value(float | None, name) for name in ("Intensity", "Confidence", "Valence", "Arousal")),
            _value(str, "Comment", ""),
            _value(float | None, "Seconds it took"),
        ]
        _endpoint(self.label, answer, api_types.Stored, "label")
        page = [_value(int, "After", 0), _value(int, "Limit", _MOST_LABELS)]
        _endpoint(self.export, page, api_types.Exported, "export")
        _endpoint(self.versions, [], api_types.Versions, "versions")

    @report_to_callers
    def analyse(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        video=None,
        audio=None,
        image=None,
        text="",
        files=None,
    ):
        """Judge the emotion in a clip of a person from face, voice and words, any subset of them.

        Args:
            video: a video file.
            audio: a sound file; beside a video its sound is heard instead of the video's.
            image: a picture file.
            text: what is said; left empty, it is transcribed.
            files: more files, of any of these kinds. All are read as one clip of one person.

        Returns:
            the emotion, its probabilities together and by channel, the utterances, the transcript, and what to keep in
            mind; `abstain` is true where the answer is not to be relied on
        """
        authorize(self.service, "analyse", request, profile)
        yield None, None
        given = [f for f in (audio, video, image, *(files or ())) if f]
        for result in self._run(lambda turn: self.service.analyse(given, text, turn)):
            yield (None, None) if result is None else (result.to_dict(), SessionResult(result))

    @report_to_callers
    def explain(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        video=None,
        audio=None,
        image=None,
        text="",
        files=None,
        emotion=None,
        against=None,
        utterance=None,
        session: SessionResult | None = None,
    ):
        """Say why a clip was judged so: what each channel, word, region of the face and band of the voice added.

        Args:
            video: as of `analyse`; without any file or words, what this session analysed last is explained.
            audio: as of `analyse`.
            image: as of `analyse`.
            text: as of `analyse`.
            files: as of `analyse`.
            emotion: why this one; left out, the one that was given.
            against: why that one rather than this one.
            utterance: which one, counted from 0; left out, the one that decided.

        Returns:
            a sentence, the attributions and, for each channel, how far to trust them
        """
        authorize(self.service, "analyse", request, profile)
        _check_question(emotion, against, utterance)
        given = [f for f in (audio, video, image, *(files or ())) if f]
        yield None, session
        if given or (text or "").strip():
            session = None
            for result in self._run(lambda turn: self.service.analyse(given, text, turn)):
                session = result and SessionResult(result)
                yield None, session
        asked = {"utterance": utterance, "emotion": emotion or None, "against": against or None}
        result = current(session).result
        for why in self._run(lambda turn: self.service.explain(result, turn.should_stop, **asked)):
            yield why and why.to_dict(), session

    def _run(self, work: Callable[[Turn], Any]) -> Iterator[Any]:
        """Yield None while a call of the model runs, then what it returned."""
        turn = self.service.new_turn()
        return (found for _, found in run_in_background(turn, lambda: work(turn)))

    @report_to_callers
    def next_item(self, request: gr.Request, profile: OAuthProfile | None, project="", annotator=""):
        """Lend an annotator the next item of a project; the same one again until it is answered.

        Args:
            project: its name.
            annotator: who asks, where nobody logs in.

        Returns:
            the item with its media as a data: URI, the questions, the labels to choose from, and how far they are
        """
        person = authorize(self.service, "label", request, profile, _text(annotator, "annotator"))
        chosen = projects.project(self.service.store, _text(project, "project"))
        queue = Queue(self.service.store, chosen)
        tasks = queue.next(person.name, 1)
        player = self.service.player
        items = [
            label_view.task_json(t, player, lambda task, file: player.inside(file, task.sha256), let_in=person.let_in)
            for t in tasks
        ]
        yield {
            "item": next(iter(items), None),
            "guidelines": chosen.guidelines,
            "targets": list(chosen.targets),
            "labels": list(chosen.label_set),
            "progress": vars(queue.progress(person.name)),
        }

    @report_to_callers
    def label(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        project="",
        annotator="",
        id=None,
        emotions=None,
        outcome="label",
        intensity=None,
        confidence=None,
        valence=None,
        arousal=None,
        comment="",
        seconds=None,
    ):
        """Store an annotator's answer about an item that `next` lent.

        Args:
            project: its name.
            annotator: who answers, where nobody logs in.
            id: of the item, as `next` gave it.
            emotions: a list, the strongest first; where a project asks about single channels, an object with a list
                for each target.
            outcome: label, or skip, cannot_tell, broken without emotions.
            intensity: 0 to 1.
            confidence: 0 to 1.
            valence: -1 to 1.
            arousal: -1 to 1.
            comment: why.
            seconds: how long it took.

        Returns:
            what was stored, whether a known answer was hit, and how far the annotator is
        """
        person = authorize(self.service, "label", request, profile, _text(annotator, "annotator"))
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id <= _LARGEST:
            raise LabelError("no_item", f"id is {id!r}; give the id of the item that `next` lent")
        chosen = projects.project(self.service.store, _text(project, "project"))
        details = {"intensity": intensity, "confidence": confidence, "valence": valence, "arousal": arousal}
        answers = _answers(chosen, emotions, outcome, _text(comment, "comment"), details)
        receipt = Queue(self.service.store, chosen).submit(
            id, person.name, answers, lead_time_s=_number(seconds, "seconds"), blind=chosen.blind
        )
        gold = receipt.gold
        yield {
            "label_ids": list(receipt.label_ids),
            "gold": gold and {"right": gold.right, "emotions": gold.emotions, "why": gold.why},
            "progress": vars(receipt.progress),
        }

    @report_to_callers
    def export(self, request: gr.Request, profile: OAuthProfile | None, after=0, limit=_MOST_LABELS):
        """Return the current labels, oldest first, as rows of `python -m annotations export --format jsonl`.

        Args:
            after: how many to pass over; what `next` of the answer before was.
            limit: how many at most, up to 1000.

        Returns:
            the rows, and where the next ones begin
        """
        authorize(self.service, "manage", request, profile)
        after, limit = _whole(after, "after", 0, _LARGEST), _whole(limit, "limit", 1, _MOST_LABELS)
        labels = self.service.store.labels(OUTCOMES)
        rows = [to_row(label) for label in islice(labels, after, after + limit + 1)]
        labels.close()  # type: ignore[attr-defined]
        yield {"labels": rows[:limit], "next": after + limit if len(rows) > limit else None}

    @report_to_callers
    def versions(self, request: gr.Request, profile: OAuthProfile | None):
        """Return which checkpoint answers, which others there are, and the versions of the program and its parts.

        Of a checkpoint that cannot be read `problem` says why.
        """
        import torch

        authorize(self.service, "analyse", request, profile)
        root = self.service.paths.checkpoints
        shown = ("id", "created_at", "parent", "metrics", "problem")
        yield {
            "mmer": _own_version(),
            "checkpoint": self.service.predictor.checkpoint.id,
            "checkpoints": [{name: getattr(each, name) for name in shown} for each in versions(root)],
            "emotions": list(EMOTIONS),
            "modalities": list(MODALITIES),
            "database": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gradio": gr.__version__,
        }


def _file(label: str, *, several: bool = False) -> gr.File:
    """Return where an uploaded file comes in; gradio has made sure that it is an upload."""
    given = gr.File(label=label, file_count="multiple" if several else "single")
    paths = (lambda payload: [f.path for f in payload or ()]) if several else (lambda payload: payload and payload.path)
    given.preprocess = paths  # type: ignore[method-assign]
    return given


def _value(kind: object, label: str, default: object = None) -> Api:
    return Api(default, python_type_to_json_schema(kind), label)


def _endpoint(
    fn: Callable,
    inputs: list,
    returns: type,
    name: str,
    states: list | None = None,
    *,
    preprocess: bool = False,
    **more,
) -> None:
    """Add an endpoint that no button calls."""
    page = get_blocks_context()
    assert page is not None
    page.set_event_trigger(
        [],
        fn,
        inputs,
        [Api(None, python_type_to_json_schema(returns), "Answer"), *(states or ())],
        preprocess=preprocess,
        postprocess=False,
        show_progress="hidden",
        api_name=name,
        **more,
    )


def _answers(project: projects.Project, emotions: object, outcome: object, comment: str, details: dict) -> list[Answer]:
    """Return the answers to an item; shares fall evenly from the first emotion to the last, as in the Label tab.

    Raises:
        LabelError: `bad_outcome, bad_type, no_emotion`.
    """
    if outcome not in OUTCOMES:
        raise LabelError("bad_outcome", f"outcome is {outcome!r}; use {', '.join(OUTCOMES)}")
    more: dict[str, Any] = {"comment": comment, **{name: _number(value, name) for name, value in details.items()}}
    if outcome != "label":
        return [Answer(target=project.targets[0], outcome=str(outcome), **more)]
    by_target: dict = emotions if isinstance(emotions, dict) else {project.targets[0]: emotions}
    answers = []
    for target in dict.fromkeys((*project.targets, *by_target)):
        chosen = by_target.get(target)
        if not isinstance(chosen, list) or not chosen or not all(isinstance(e, str) for e in chosen):
            asked = ", ".join(project.targets)
            raise LabelError(
                "no_emotion", f"emotions is {emotions!r}; for each of {asked} a list is needed, or else an outcome"
            )
        answers.append(Answer({e: float(len(chosen) - i) for i, e in enumerate(chosen)}, target=target, **more))
    return answers


def _check_question(emotion: object, against: object, utterance: object) -> None:
    """Refuse JSON of another type than `explain` documents.

    Raises:
        LabelError: `bad_type`.
    """
    _text(emotion, "emotion")
    _text(against, "against")
    if utterance is not None:
        _whole(utterance, "utterance", 0, None)


def _text(value: object, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise LabelError("bad_type", f"{name} is {value!r}; text is needed")
    return value or ""


def _number(value: object, name: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise LabelError("bad_type", f"{name} is {value!r}; a number is needed")
    return value


def _whole(value: object, name: str, least: int, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"from {least} on" if most is None else f"from {least} to {most}"
        raise LabelError("bad_type", f"{name} is {value!r}; a whole number {bounds} is needed")
    return value


def _own_version() -> str:
    """Return the version of this program, installed or in a checkout."""
    try:
        return importlib.metadata.version("mmer")
    except importlib.metadata.PackageNotFoundError:
        found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
        return found.group(1) if found else "unknown"
