"""A result as one HTML file that needs nothing else: to keep, to print, to send."""

import json
from datetime import datetime, timezone
from pathlib import Path

from markupsafe import Markup

from mmer.ui import card_html, result_html
from mmer.ui.render import render
from mmer.ui.service import SessionResult
from mmer.ui.theme import CSS
from mmer.ui.timeline_html import timeline


def report(session: SessionResult, why: str, checkpoints: Path) -> str:
    """Return the report; there is no picture or sound of the clip in it, but for those of an explanation.

    Args:
        why: the explanation as HTML; empty where nobody asked for one.
    """
    result = session.result
    return render(
        "report.html",
        result=result,
        css=Markup(CSS),
        card=Markup(result_html.result(result, session.before, over_time=False)),
        over_time=Markup(timeline(result, None, None)),
        why=Markup(why),
        model=Markup(card_html.figures(result.checkpoint, checkpoints)),
        words=result_html.lines(result),
        raw=json.dumps(result.to_dict(), indent=1, ensure_ascii=False),
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    )
