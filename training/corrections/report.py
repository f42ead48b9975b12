"""What a retraining run reports: one line, and a folder with report.json and report.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def one_line(report: Mapping[str, Any]) -> str:
    """Return the run in one line."""
    held, data = report["held_out"], report["data"]
    figures = f"UAR {held['served']['uar']:.3f} -> {held['new']['uar']:.3f} on {held['clips']} held-out clips"
    learnt = f"learnt from {data['train']['clips']} clips"
    if report["reasons"]:
        return f"refused, {report['parent']} stays in use: {'; '.join(report['reasons'])} ({figures}, {learnt})"
    return f"promoted {report.get('checkpoint') or 'nothing yet'}: {figures}, {learnt}"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, and report.md for people."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.md").write_text("\n".join(_page(report)) + "\n")


def _page(report: Mapping[str, Any]) -> list[str]:
    held, choice = report["held_out"], report["choice"]
    figures = ("uar", "accuracy", "nll", "ece")
    return [
        f"# Retraining: {report['verdict']}",
        "",
        *[f"- {reason}" for reason in report["reasons"]],
        f"- served: {report['parent']}; new: {report['checkpoint'] or 'not kept'}",
        f"- trained: {', '.join(report['trained'])}; {choice['epochs']} epochs, held to the served model by "
        f"{choice['strength']}",
        f"- inside the training part the loss went from {choice['served_nll']:.3f} to {choice['nll']:.3f}",
        f"- several annotators made one target by: {report['aggregation']}",
        *[_removed(one) for one in report["removed"]],
        f"- skipped: {', '.join(f'{n} {code}' for code, n in report['skipped'].items()) or 'nothing'}",
        "",
        f"| {held['clips']} held-out clips | UAR | accuracy | NLL | ECE |",
        "|---|---|---|---|---|",
        *[f"| {who} | {' | '.join(f'{held[who][k]:.3f}' for k in figures)} |" for who in ("served", "new")],
        "",
        f"Better in {held['better_in']:.0%} of the bootstrap draws, better than naming one emotion in "
        f"{held['informed_in']:.0%}; {report['confident']['kept']} of {report['confident']['confirmed']} sure and "
        "confirmed answers are kept.",
        "",
        "| part | clips | speakers or clips without one | labels |",
        "|---|---|---|---|",
        *[f"| {name} | {p['clips']} | {p['groups']} | {p['labels']} |" for name, p in report["data"].items()],
    ]


def _removed(one: Mapping[str, Any]) -> str:
    labels = "stayed, anonymous" if one["labels_kept"] else "went with them"
    return f"- removed since the last run: {one['clips']} clips, {one['labels']} labels {labels}"
