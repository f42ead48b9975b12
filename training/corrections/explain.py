"""A run explained: what it came from, what it learned from, and what its model answers otherwise; as Markdown and HTML.

Nothing in it names a person, a recording or a word: clips and labels go by their numbers in the database.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select

from annotations.choices import SIDES, TRAIN
from annotations.db.schema import ClipRecord, LabelRecord, TrainingRunRecord, training_run_labels
from annotations.store import Store
from mmer import checkpoint
from mmer.config import Paths
from mmer.errors import CheckpointError, TrainingError
from mmer.labels import EMOTIONS
from training.corrections.report import QUESTIONS, page

_SIDES = dict(zip(SIDES, ("learned from", "held out", "strangers"), strict=True))
_KINDS = ("now right", "now wrong", "another wrong answer")
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Explained:
    """All that is known of a run."""

    run: int
    started: str
    finished: str
    verdict: str
    models: dict[str, dict[str, str]]  # parent and child: id, made, weights_sha256
    report: Mapping[str, Any] | None  # None: it did not come so far
    labels: dict[str, list[int]]  # ids by what their clips were for
    flips: dict[str, list[dict[str, Any]]]  # by question: each with `clip` and `kind`

    def counted(self, question: str) -> dict[str, int]:
        """Return how many flips there are of each kind."""
        kinds = Counter(flip["kind"] for flip in self.flips[question])
        return {kind: kinds[kind] for kind in _KINDS}


def explained(paths: Paths, store: Store, run_id: int) -> Explained:
    """Return what is known of a run.

    Raises:
        TrainingError: `unknown_run`.
    """
    with store.reading() as session:
        run = session.get(TrainingRunRecord, run_id)
        if run is None:
            known = ", ".join(map(str, session.scalars(select(TrainingRunRecord.id).order_by(TrainingRunRecord.id))))
            raise TrainingError("unknown_run", f"there is no run {run_id}; there are {known or 'none yet'}")
        rows = session.execute(
            select(LabelRecord.id, LabelRecord.clip_id, ClipRecord.side)
            .join(ClipRecord, LabelRecord.clip_id == ClipRecord.id)
            .join(training_run_labels, training_run_labels.c.label_id == LabelRecord.id)
            .where(training_run_labels.c.run_id == run_id)
            .order_by(LabelRecord.id)
        ).all()
        parts: dict[str, list[int]] = {}
        for label, _, side in rows:
            parts.setdefault(_SIDES[side or TRAIN], []).append(label)
        clip_of = {label: clip for label, clip, _ in rows}
        report = run.report if run.report and "reasons" in run.report else None
        changed = (report or {}).get("changed", {})
        return Explained(
            run=run.id,
            started=f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC",
            finished=f"{run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at else "never",
            verdict=run.verdict or "not finished",
            models={"served": _model(paths, run.parent), "new": _model(paths, run.checkpoint)},
            report=report,
            labels=parts,
            flips={q: [_named(flip, clip_of) for flip in found["flipped"]] for q, found in changed.items()},
        )


def _model(paths: Paths, name: str | None) -> dict[str, str]:
    if name is None:
        return {"id": "not kept", "made": "–", "weights_sha256": "–"}
    try:
        meta = checkpoint.read_meta(name, paths.checkpoints)
    except CheckpointError as error:
        return {"id": name, "made": error.code.replace("_", " "), "weights_sha256": "–"}
    return {"id": name, "made": meta.get("created_at", "–"), "weights_sha256": meta.get("weights_sha256", "–")}


def _named(flip: Mapping[str, Any], clip_of: Mapping[int, int]) -> dict[str, Any]:
    clip = next((f"clip {clip_of[label]}" for label in flip["labels"] if label in clip_of), "a clip deleted since")
    if flip["start_s"] is not None:
        clip += f", {flip['start_s']:.1f}–{flip['end_s']:.1f} s"
    kind = _KINDS[0 if flip["new"] == flip["right"] else 1 if flip["served"] == flip["right"] else 2]
    return {**flip, "clip": clip, "kind": kind}


def markdown(found: Explained) -> str:
    """Return a run as Markdown."""
    report = found.report
    lines = [
        f"# Run {found.run}: {found.verdict}",
        "",
        f"Started {found.started}, ended {found.finished}.",
        "",
        "| model | checkpoint | made | sha256 of its weights |",
        "|---|---|---|---|",
        *(f"| {who} | {m['id']} | {m['made']} | {m['weights_sha256']} |" for who, m in found.models.items()),
        "",
    ]
    if report is None:
        return "\n".join([*lines, "It did not come as far as a verdict, so there are no figures.", ""])
    lines += ["## What was found", "", *page(report)[2:], ""]
    for question, words in QUESTIONS.items():
        if question in report.get("changed", {}):
            lines += _changes(found, question, words)
    if "changed" not in report:
        lines += ["Confusion and flips were not recorded by the version that ran.", ""]
    lines += ["## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["settings"].items()]
    lines += ["", "## Data", "", "| part | sha256 of clips and labels |", "|---|---|"]
    lines += [f"| {name} | {part['sha256']} |" for name, part in report["data"].items()]
    lines += ["", f"## {sum(map(len, found.labels.values()))} labels, by their numbers", ""]
    lines += [f"- {part}: {', '.join(map(str, ids))}" for part, ids in found.labels.items()]
    return "\n".join([*lines, ""])


def _changes(found: Explained, question: str, words: str) -> list[str]:
    assert found.report is not None
    tables, flips = found.report["changed"][question]["confusion"], found.flips[question]
    lines = [f"## What changed for {words}", ""]
    for who, table in tables.items():
        lines += [f"Answers of the {who} model; a row is what the labels say:", ""]
        lines += [f"| | {' | '.join(EMOTIONS)} |", "|---|" + "---|" * len(EMOTIONS)]
        lines += [f"| {e} | {' | '.join(map(str, row))} |" for e, row in zip(EMOTIONS, table, strict=True)]
        lines += [""]
    told = ", ".join(f"{n} {kind}" for kind, n in found.counted(question).items())
    lines += [f"{len(flips)} answers flipped: {told}.", ""]
    if flips:
        lines += ["| clip | judged | labelled | served | new | |", "|---|---|---|---|---|---|"]
        keys = ("clip", "target", "right", "served", "new", "kind")
        lines += [f"| {' | '.join(flip[key] for key in keys)} |" for flip in flips]
    return [*lines, ""]


def html(found: Explained) -> str:
    """Return a run as one page that needs nothing else."""
    from training.corrections.pictures import before_and_after, confusions, uri  # matplotlib takes a second

    report, pictures = found.report, {}
    if report is not None:
        pictures["scores"] = uri(before_and_after(scores(report)))
        for question, changed in report.get("changed", {}).items():
            pictures[question] = uri(confusions(changed["confusion"]))
    told = page(report) if report is not None else []
    return _TEMPLATES.get_template("run.html").render(
        run=found,
        report=report,
        questions=QUESTIONS,
        emotions=EMOTIONS,
        pictures=pictures,
        scores=scores(report) if report is not None else {},
        notes=[line[2:] for line in told if line.startswith("- ")],
    )


def scores(report: Mapping[str, Any]) -> dict[str, tuple[float, float, float | None]]:
    """Return UAR of the served and of the new model, and the standard error of the gain, for all that was measured."""
    asked = {words: report[q] for q, words in QUESTIONS.items() if report[q] and report[q]["served"]}
    rows = {w: (f["served"]["uar"], f["new"]["uar"], f["error"]) for w, f in asked.items()}
    return rows | {f"base, {m}": (f["served"], f["new"], None) for m, f in report["base"].items()}


def write(paths: Paths, found: Explained) -> Sequence[Path]:
    """Write both beside the run's report, and return where they are."""
    runs = paths.home / "runs"
    folder = next(iter(sorted(runs.glob(f"[0-9]*T*-{found.run}"))), runs / f"run-{found.run}")
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / "explained.md": markdown(found), folder / "explained.html": html(found)}
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    return list(files)
