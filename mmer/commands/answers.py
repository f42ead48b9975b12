"""Clips to rows: what `python -m mmer analyse` says of one, whatever happens to it."""

import io
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmer.commands.tasks import Task
from mmer.config import Paths
from mmer.errors import ClipError, MmerError

if TYPE_CHECKING:
    from mmer.predict import EmotionResult, Predictor

_LOG = logging.getLogger("mmer")


@dataclass(frozen=True)
class Options:
    """What holds for all clips of a run."""

    paths: Paths
    checkpoint: str | None = None  # None: the promoted one
    speech: bool = True
    denoise: bool = False
    explain: bool = False
    target: str | None = None  # what to explain; None: the answer
    against: str | None = None


def predictor_of(options: Options) -> "Predictor":
    from mmer.predict import Predictor

    return Predictor(options.paths, options.checkpoint)


def answer(predictor: "Predictor", task: Task, options: Options) -> dict[str, Any]:
    """Return the row of one clip: a verdict, or `clip` and `error`."""
    name = task.path or "text"
    try:
        if task.problem:
            raise ClipError("bad_row", task.problem)
        result = predictor.analyse(
            *([task.path] if task.path else []),
            name=name,
            text=task.text,
            speech=options.speech,
            denoise=options.denoise,
            start_s=task.start_s,
            end_s=task.end_s,
        )
        row = result.to_dict()
        if options.explain:
            row["explanation"] = _explanation(predictor, result, row, options)
        return row
    except MmerError as error:
        return {"clip": name, "error": {"code": error.code, "message": error.message}}
    except Exception as error:  # a bug of ours must not cost the other clips their answer
        _LOG.exception("analysing %s failed", name)
        return {"clip": name, "error": {"code": "internal", "message": f"{type(error).__name__}: {error}"}}


def _explanation(predictor: "Predictor", result: "EmotionResult", row: dict, options: Options) -> dict | None:
    """Return why, None where there is nothing to explain; the time it took is added to the row's."""
    if result.telling_segment is None:
        return None
    from mmer.attribution import explain

    since = time.perf_counter()
    segment, loaded = result.telling_segment, predictor.checkpoint_of(result)
    explanation = explain(
        loaded,
        segment.features,
        options.target or result.emotion,
        predictor.language_if_words(loaded, segment.features),
        against=options.against,
        transcriber=predictor.transcriber,
    )
    row["timing_ms"]["explain"] = round((time.perf_counter() - since) * 1e3, 1)
    row["timing_ms"]["total"] = round(row["timing_ms"]["total"] + row["timing_ms"]["explain"], 1)
    return explanation.to_dict()


def answer_all(predictor: "Predictor", tasks: Sequence[Task], options: Options) -> list[dict[str, Any]]:
    """Return a row for each task, with its id."""
    return [{"id": task.id, **answer(predictor, task, options)} for task in tasks]


def any_name_prints() -> None:
    """Have rows printed whatever clips are called: a name that is not UTF-8 holds halves of characters.

    They are written as JSON escapes them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def failed(task: Task, code: str, message: str) -> dict[str, Any]:
    """Return the row of a clip that could not even be tried."""
    return {"id": task.id, "clip": task.path or "text", "error": {"code": code, "message": message}}
