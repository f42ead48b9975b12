"""Which labels count is worked out anew, and annotators have no role: accounts have one.

Version 0002 let a skip take the place of the judgement before it, so that an upgraded database lost labels from sight.
"""

from collections.abc import Iterator
from itertools import groupby

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ROWS = 1000  # a statement


def upgrade() -> None:
    op.execute("ALTER TABLE annotators DROP COLUMN role")
    bind = op.get_bind()
    names = ("label_id", "clip_id", "annotator_id", "item_id", "target", "top", "outcome")
    current = sa.table("current_labels", *(sa.column(name) for name in names))
    before = set(bind.scalars(sa.select(current.c.label_id)))
    missing = []
    for row in _current_labels(bind):
        if row.id in before:
            before.remove(row.id)
        else:
            missing.append({"label_id": row.id, **{name: getattr(row, name) for name in names[1:]}})
    stale = sorted(before)
    for i in range(0, len(stale), _ROWS):
        bind.execute(current.delete().where(current.c.label_id.in_(stale[i : i + _ROWS])))
    for i in range(0, len(missing), _ROWS):
        bind.execute(current.insert(), missing[i : i + _ROWS])


def _current_labels(bind: sa.Connection) -> Iterator[sa.Row]:
    """Yield the rows of `labels` that count, as `annotations.label.current_rows` was at this version.

    Not undone, not corrected, and of an annotator's rows about the same segment and target the newest; a skip only
    where there is nothing else.
    """
    names = ("id", "clip_id", "annotator_id", "supersedes", "item_id", "start_s", "end_s", "target", "top", "outcome")
    labels = sa.table("labels", *(sa.column(name) for name in names), sa.column("created_at", sa.DateTime))
    query = sa.select(labels).order_by(labels.c.clip_id, labels.c.annotator_id).execution_options(yield_per=_ROWS)
    for _, group in groupby(bind.execute(query), key=lambda row: (row.clip_id, row.annotator_id)):
        rows = list(group)
        undone = {row.supersedes for row in rows if row.outcome == "undo"}
        living = [row for row in rows if row.outcome != "undo" and row.id not in undone]
        corrected = {row.supersedes for row in living}
        newest = {}
        for row in sorted(living, key=lambda row: (row.outcome != "skip", row.created_at, row.id)):
            newest[row.start_s, row.end_s, row.target] = row
        yield from (row for row in newest.values() if row.id not in corrected)
