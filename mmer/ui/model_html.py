"""Versions of the model, the last run and a run under way as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from annotations.training_runs import TrainingRun
from mmer.messages import capital, marked
from mmer.ui import language
from mmer.ui.card_html import curves_of_corrections
from mmer.ui.language import gettext
from mmer.ui.numbers import percent
from mmer.ui.render import render
from mmer.ui.retraining import Progress
from mmer.versions import QUESTIONS, Version

_DRAWN = 10  # versions in the plot, the newest
_STEP, _LEFT, _TOP, _HEIGHT = 76, 44, 14, 150  # px: between versions, of the axis, above and of the plot
_MARKS = {"people": "square", "strangers": "triangle"}
_ENDED = {  # exit statuses of training/retrain.py
    0: marked("The run ended with a promotion."),
    3: marked("The run ended: the gate refused the new model, so nothing changed."),
    4: marked("The run ended: there are too few labels."),
    130: marked("The run was cancelled; nothing changed."),
    -15: marked("The run was cancelled; nothing changed."),  # before it had begun
}
_VERDICTS = {
    "promoted": marked("the new model serves"),
    "forced": marked("the new model serves, by force"),
    "refused": marked("the new model was refused, the old one goes on"),
    "killed": marked("it was killed; nothing changed"),
    "stopped": marked("it was cancelled; nothing changed"),
}


@dataclass(frozen=True)
class _Pair:
    """A version's UAR and its parent's, on the clips its run was measured on."""

    x: float
    before_y: float
    after_y: float
    mark: str
    words: str


def overview(
    versions: Sequence[Version], runs: Sequence[TrainingRun], *, fresh: int, outdated: int, automatic: int
) -> str:
    """Return all versions with their figures, and what the gate said last.

    Args:
        fresh: labels no run has used.
        outdated: clips whose newest stored answer is another checkpoint's than the one that serves.
        automatic: labels after which a run starts by itself; 0: never.
    """
    drawn = [v for v in versions if v.gains][-_DRAWN:]
    return render(
        "model_overview.html",
        versions=list(reversed(versions)),
        serves=next((v for v in versions if v.serves), None),
        pairs=[pair for i, version in enumerate(drawn) for pair in _pairs(i, version)],
        names=[(_x(i), version.id.split("-")[-1]) for i, version in enumerate(drawn)],
        ticks=[(_y(uar), percent(uar)) for uar in (0.0, 0.25, 0.5, 0.75, 1.0)],
        plot={"width": _LEFT + _STEP * max(len(drawn), 2) + 10, "height": _TOP + _HEIGHT + 26, "left": _LEFT},
        last=_last(runs[0]) if runs else None,
        runs=[(run, gettext(_VERDICTS.get(run.verdict or "", run.verdict or marked("under way")))) for run in runs],
        fresh=fresh,
        outdated=outdated,
        automatic=automatic,
        curves=curves_of_corrections(),
    )


def _x(i: int) -> float:
    return _LEFT + _STEP * (i + 0.5)


def _y(uar: float) -> float:
    return _TOP + _HEIGHT * (1 - uar)


def _pairs(i: int, version: Version) -> list[_Pair]:
    found = []
    for shift, (question, words) in zip((-12, 12), QUESTIONS.items(), strict=True):
        if words in version.gains:
            before, after = version.gains[words]
            told = gettext(
                "{id}, {asked}: UAR {before:.3f} before, {after:.3f} after",
                id=version.id,
                asked=gettext(words),
                before=before,
                after=after,
            )
            found.append(_Pair(_x(i) + shift, _y(before), _y(after), _MARKS[question], told))
    return found


def _last(run: TrainingRun) -> dict:
    """Return what the gate said of a run, in plain words."""
    report = run.report
    asked = [
        (capital(gettext(words)), report[q])
        for q, words in QUESTIONS.items()
        if report.get(q) and report[q].get("served")
    ]
    return {
        "run": run,
        "meaning": gettext(_VERDICTS.get(run.verdict or "", run.verdict or marked("it is under way"))),
        "reasons": report.get("reasons", []),
        "advice": report.get("advice", []),
        "asked": asked,
        "base": report.get("base", {}),
        "needed": report.get("needed"),
        "learned": report.get("data", {}).get("train"),
    }


def progress(of: Progress) -> str:
    """Return how far a run is, or how it ended."""
    if not of.running and of.status is None:
        return ""
    ended = "" if of.running else _ended(of)
    return render("model_progress.html", progress=of, ended=ended)


def _ended(of: Progress) -> str:
    if of.status in _ENDED:
        return gettext(_ENDED[of.status])
    if of.status is not None and of.status < 0:
        return gettext("The run was killed by signal {n}; the served model is unchanged.", n=-of.status)
    said = next((line for line in reversed(of.log) if line.startswith("error: ")), "")
    why = said.removeprefix("error: ")
    return gettext("The run failed; nothing changed. {why}", why=language.told(why) or why).strip()


def log(of: Progress) -> str:
    """Return the last lines of a run's log."""
    return render("model_log.html", lines=of.log)
