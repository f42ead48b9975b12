"""What a retraining run reports: one line, and a folder with report.json and report.md."""

import json
from pathlib import Path


def _line(report: dict) -> str:
    """Return the run in one line."""
    held, data = report["held_out"], report["data"]
    figures = f"UAR {held['served']['uar']:.3f} -> {held['new']['uar']:.3f} on {held['clips']} held-out clips"
    learnt = f"learnt from {data['train']['clips']} clips"
    if report["reasons"]:
        return f"refused, {report['parent']} stays in use: {'; '.join(report['reasons'])} ({figures}, {learnt})"
    return f"promoted {report.get('checkpoint') or 'nothing yet'}: {figures}, {learnt}"


def _write(folder: Path, report: dict) -> None:
    """Write report.json, and report.md for people."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    held, data, choice = report["held_out"], report["data"], report["choice"]
    lines = [
        f"# Retraining: {report['verdict']}",
        "",
        *[f"- {reason}" for reason in report["reasons"]],
        f"- served: {report['parent']}; new: {report['checkpoint'] or 'not kept'}",
        f"- trained: {', '.join(report['trained'])}; {choice['epochs']} epochs, held to the served model by {choice['strength']}",
        f"- inside the training part the loss went from {choice['served_nll']:.3f} to {choice['nll']:.3f}",
        f"- several annotators made one target by: {report['aggregation']}",
        *[
            f"- removed since the last run: {r['clips']} clips, {r['labels']} labels "
            + ("stayed, anonymous" if r["labels_kept"] else "went with them")
            for r in report["removed"]
        ],
        f"- skipped: {', '.join(f'{n} {code}' for code, n in report['skipped'].items()) or 'nothing'}",
        "",
        f"| {held['clips']} held-out clips | UAR | accuracy | NLL | ECE |",
        "|---|---|---|---|---|",
        *[f"| {who} | " + " | ".join(f"{held[who][k]:.3f}" for k in ("uar", "accuracy", "nll", "ece")) + " |" for who in ("served", "new")],
        "",
        f"Better in {held['better_in']:.0%} of the bootstrap draws, better than naming one emotion in {held['informed_in']:.0%}; "
        f"{report['confident']['kept']} of {report['confident']['confirmed']} sure and confirmed answers are kept.",
        "",
        "| part | clips | speakers or clips without one | labels |",
        "|---|---|---|---|",
        *[f"| {name} | {part['clips']} | {part['groups']} | {part['labels']} |" for name, part in data.items()],
    ]  # fmt: skip
    (folder / "report.md").write_text("\n".join(lines) + "\n")
