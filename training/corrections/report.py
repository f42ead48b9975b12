"""What a retraining run reports: one line, and a folder with report.json and report.md."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmer.versions import QUESTIONS


def one_line(report: Mapping[str, Any]) -> str:
    """Return the run in one line."""
    asked = {words: report[name] for name, words in QUESTIONS.items() if report[name]}
    figures = ", ".join(
        f"UAR {found['served']['uar']:.3f} -> {found['new']['uar']:.3f} for {words} ({found['judgements']} judgements)"
        for words, found in asked.items()
        if found["served"]
    )
    learnt = f"learnt from {report['data']['train']['clips']} clips"
    if report["verdict"] == "refused":
        why = "; ".join([*report["reasons"], *(f"what would help: {one}" for one in report["advice"])])
        return f"refused, {report['parent']} stays in use: {why} ({figures}; {learnt})"
    forced = f" by force, although {'; '.join(report['reasons'])}" if report["verdict"] == "forced" else ""
    return f"promoted {report.get('checkpoint') or 'nothing yet'}{forced}: {figures}; {learnt}"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, and report.md for people: both, or nothing."""
    part = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (part / "report.md").write_text("\n".join(page(report)) + "\n")
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def page(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of the report in Markdown."""
    choice = report["choice"]
    return [
        f"# Retraining: {report['verdict']}",
        "",
        *[f"- {reason}" for reason in report["reasons"]],
        *[f"- what would help: {one}" for one in report["advice"]],
        f"- served: {report['parent']}; new: {report['checkpoint'] or 'not kept'}",
        f"- trained: {', '.join(report['trained']) or 'nothing'}, "
        f"{'beside' if report['rehearsed'] else 'without'} exemplars of what the base learned from"
        + (f"; penalty on changes {choice['strength']:g}" if choice["strength"] else ""),
        f"- on clips and speakers left out, the loss went from {choice['served_nll']:.3f} to {choice['nll']:.3f}",
        f"- several annotators made one target by: {report['aggregation']}",
        *[_removed(one) for one in report["removed"]],
        f"- skipped: {', '.join(f'{n} {code}' for code, n in report['skipped'].items()) or 'nothing'}",
        "",
        *_questions(report),
        "",
        *_base(report),
        "",
        f"{report['confident']['kept']} of {report['confident']['confirmed']} sure and confirmed answers are kept. Its "
        f"clips have measured {report['looks']:.1f} runs before this one, so {report['needed']:.0%} confidence is "
        "asked for.",
        "",
        "| part | clips | speakers | labels |",
        "|---|---|---|---|",
        *[f"| {name} | {p['clips']} | {p['speakers']} | {p['labels']} |" for name, p in report["data"].items()],
    ]


def _questions(report: Mapping[str, Any]) -> list[str]:
    lines = ["| question | model | UAR | accuracy | NLL | ECE |", "|---|---|---|---|---|---|"]
    notes = []
    for name, words in QUESTIONS.items():
        found = report[name]
        if not found or not found["served"]:
            notes.append(f"Nothing is said about {words}: at least three named speakers are needed.")
            continue
        for who in ("served", "new"):
            figures = " | ".join(f"{found[who][k]:.3f}" for k in ("uar", "accuracy", "nll", "ece"))
            lines.append(f"| {words}, {found['judgements']} judgements | {who} | {figures} |")
        power = " and ".join(f"{points} points {chance:.0%}" for points, chance in found["power"].items())
        error = f"{found['error']:.3f}" if found["error"] is not None else "unknown"
        notes.append(
            f"For {words} the gain is {found['gain']:+.3f} with a standard error of {error}: better with "
            f"{found['better']:.0%} confidence. A true gain of {power} of the time would be seen."
        )
    return [*lines, "", *notes]


def _base(report: Mapping[str, Any]) -> list[str]:
    if not report["base"]:
        return ["What the base learned from was not measured, or nothing was corrected."]
    lines = ["| UAR on what the base learned from | served | new |", "|---|---|---|"]
    return lines + [f"| {m} | {found['served']:.3f} | {found['new']:.3f} |" for m, found in report["base"].items()]


def _removed(one: Mapping[str, Any]) -> str:
    labels = "stayed, anonymous" if one["labels_kept"] else "went with them"
    return f"- removed since the last run: {one['clips']} clips, {one['labels']} labels {labels}"
