"""Labelling sessions: utterances, projects, items, leases, gold, adjudications, audit, and which labels count now.

Labels of an older database get what is kept beside them since: the heaviest emotion, an utterance, and which count.
"""

from itertools import groupby

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:  # one long list of tables: nobody edits a migration, and read in order it is the schema
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("guidelines", sa.String(), nullable=False),
        sa.Column("label_set", sa.JSON(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("per_item", sa.Integer(), nullable=False),
        sa.Column("gold_share", sa.Double(), nullable=False),
        sa.Column("order", sa.String(), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("lease_s", sa.Integer(), nullable=False),
        sa.Column("ranked_to", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "adjudications",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("clip_id", sa.Integer(), nullable=False),
        sa.Column("start_s", sa.Double(), nullable=True),
        sa.Column("end_s", sa.Double(), nullable=True),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("emotions", sa.JSON(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("comment", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"],
            ["annotators.id"],
        ),
        sa.ForeignKeyConstraint(["clip_id"], ["clips.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_adjudications_clip_id", "adjudications", ["clip_id"], unique=False)
    op.create_table(
        "removals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("n_clips", sa.Integer(), nullable=False),
        sa.Column("n_labels", sa.Integer(), nullable=False),
        sa.Column("labels_kept", sa.Boolean(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["training_runs.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "utterances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("clip_id", sa.Integer(), nullable=False),
        sa.Column("start_s", sa.Double(), nullable=True),
        sa.Column("end_s", sa.Double(), nullable=True),
        sa.Column("transcript", sa.String(), nullable=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["clip_id"], ["clips.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("utterance_id", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("open_slots", sa.Integer(), nullable=False),
        sa.Column("gold", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["utterance_id"], ["utterances.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "utterance_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_items_gold",
        "items",
        ["project_id"],
        unique=False,
        sqlite_where=sa.text("gold"),
        postgresql_where=sa.text("gold"),
    )
    op.create_index("ix_items_utterance_id", "items", ["utterance_id"], unique=False)
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("gold", sa.Boolean(), nullable=False),
        sa.Column("leased_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("state IN ('leased', 'done', 'released', 'expired')"),
        sa.ForeignKeyConstraint(
            ["annotator_id"],
            ["annotators.id"],
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_assignments_gold",
        "assignments",
        ["annotator_id", "project_id"],
        unique=False,
        sqlite_where=sa.text("gold"),
        postgresql_where=sa.text("gold"),
    )
    op.create_index(
        "ix_assignments_live",
        "assignments",
        ["project_id", "expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "ix_assignments_person", "assignments", ["annotator_id", "project_id", "state", "finished_at"], unique=False
    )
    op.create_index(
        "ux_assignments",
        "assignments",
        ["item_id", "annotator_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('leased', 'done')"),
        postgresql_where=sa.text("state IN ('leased', 'done')"),
    )
    op.create_table(
        "gold",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("emotions", sa.JSON(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"],
            ["annotators.id"],
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_gold_item_id", "gold", ["item_id"], unique=False)
    op.create_table(
        "standings",
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("n_labels", sa.Integer(), nullable=False),
        sa.Column("entropy", sa.Double(), nullable=False),
        sa.Column("cannot_tell", sa.Boolean(), nullable=False),
        sa.Column("broken", sa.Boolean(), nullable=False),
        sa.Column("commented", sa.Boolean(), nullable=False),
        sa.Column("model_differs", sa.Boolean(), nullable=False),
        sa.Column("decided", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("item_id", "target"),
        sqlite_autoincrement=False,
    )
    op.create_table(
        "current_labels",
        sa.Column("label_id", sa.Integer(), nullable=False),
        sa.Column("clip_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=True),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("top", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"],
            ["annotators.id"],
        ),
        sa.ForeignKeyConstraint(["clip_id"], ["clips.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["label_id"], ["labels.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("label_id"),
    )
    op.create_index("ix_current_labels_clip", "current_labels", ["clip_id", "annotator_id"], unique=False)
    op.create_index("ix_current_labels_item", "current_labels", ["item_id", "target"], unique=False)
    op.create_index(
        "ux_utterances",
        "utterances",
        ["clip_id", sa.text("coalesce(start_s, -1)"), sa.text("coalesce(end_s, -1)")],
        unique=True,
    )
    still = sa.text("open_slots > 0 AND NOT gold")
    op.create_index(
        "ix_items_open",
        "items",
        ["project_id", sa.text("priority DESC"), "id"],
        sqlite_where=still,
        postgresql_where=still,
    )
    op.create_index(
        "ix_standings",
        "standings",
        ["project_id", "target", sa.text("entropy DESC"), sa.text("n_labels DESC"), "item_id"],
    )
    # In plain SQL: Alembic does not add a column with a reference on SQLite, and copying the table would cascade.
    server = op.get_bind().dialect.name == "postgresql"
    number, time = ("DOUBLE PRECISION", "TIMESTAMP") if server else ("DOUBLE", "DATETIME")
    for table, column in (
        ("annotators", f"created_at {time}"),
        ("clips", "features VARCHAR"),
        ("clips", f"keep_until {time}"),
        ("consents", "scope VARCHAR DEFAULT 'media' NOT NULL"),
        ("labels", "top VARCHAR"),
        ("labels", f"intensity {number}"),
        ("labels", f"valence {number}"),
        ("labels", f"arousal {number}"),
        ("labels", "item_id INTEGER REFERENCES items (id) ON DELETE SET NULL"),
        ("labels", "assignment_id INTEGER REFERENCES assignments (id) ON DELETE SET NULL"),
        ("labels", f"lead_time_s {number}"),
        ("labels", "blind BOOLEAN"),
        ("training_runs", "aggregation VARCHAR"),
    ):
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    op.create_index("ix_clips_keep_until", "clips", ["keep_until"], unique=False)
    op.create_index("ix_labels_assignment_id", "labels", ["assignment_id"], unique=False)
    op.create_index("ix_labels_item_id", "labels", ["item_id"], unique=False)
    _fill()
    fixed = (
        "id, clip_id, annotator_id, supersedes, start_s, end_s, target, outcome, emotions, top, confidence, intensity, "
        "valence, arousal, lead_time_s, blind, created_at"
    )
    each, action = "", "BEGIN SELECT RAISE(ABORT, 'labels are appended, never edited'); END"
    if server:
        each, action = "FOR EACH ROW ", "EXECUTE FUNCTION refuse_label_update()"
    op.execute(f"CREATE TRIGGER labels_append_only BEFORE UPDATE OF {fixed} ON labels {each}{action}")
    op.execute(
        f"CREATE TRIGGER labels_words_only_erased BEFORE UPDATE OF comment, transcript ON labels {each}"
        f"WHEN (NEW.comment <> '' OR NEW.transcript IS NOT NULL) {action}"
    )


def _fill() -> None:
    """Give the stored labels their heaviest emotion, their utterances and, where they count, their place beside."""
    bind = op.get_bind()
    op.execute("DROP TRIGGER labels_append_only" + (" ON labels" if bind.dialect.name == "postgresql" else ""))
    op.execute(
        "INSERT INTO utterances (clip_id, start_s, end_s, created_at) "
        "SELECT clip_id, start_s, end_s, min(created_at) FROM "
        "(SELECT clip_id, start_s, end_s, created_at FROM labels "
        "UNION ALL SELECT clip_id, start_s, end_s, created_at FROM predictions) AS seen "
        "GROUP BY clip_id, start_s, end_s ORDER BY min(created_at)"
    )
    labels = sa.table(
        "labels",
        *(
            sa.column(n)
            for n in ("id", "clip_id", "annotator_id", "supersedes", "start_s", "end_s", "target", "outcome", "top")
        ),
        sa.column("emotions", sa.JSON),
        sa.column("created_at", sa.DateTime),
    )
    current = sa.table(
        "current_labels", *(sa.column(n) for n in ("label_id", "clip_id", "annotator_id", "target", "top", "outcome"))
    )
    set_top = labels.update().where(labels.c.id == sa.bindparam("key")).values(top=sa.bindparam("heaviest"))
    rows = bind.execute(sa.select(labels).order_by(labels.c.clip_id, labels.c.annotator_id)).all()
    tops = {row.id: max(row.emotions, key=row.emotions.get) for row in rows if row.emotions}
    if tops:
        bind.execute(set_top, [{"key": key, "heaviest": top} for key, top in tops.items()])
    counted = []
    for _, given in groupby(rows, key=lambda row: (row.clip_id, row.annotator_id)):
        for row in _current(list(given)):
            counted.append(
                {
                    "label_id": row.id,
                    "clip_id": row.clip_id,
                    "annotator_id": row.annotator_id,
                    "target": row.target,
                    "top": tops.get(row.id),
                    "outcome": row.outcome,
                }
            )
    if counted:
        bind.execute(current.insert(), counted)


def _current(rows: list) -> list:
    """The current labels by the rule of this version: not undone, not corrected, the newest of segment and target."""
    undone = {row.supersedes for row in rows if row.outcome == "undo"}
    living = [row for row in rows if row.outcome != "undo" and row.id not in undone]
    corrected = {row.supersedes for row in living}
    newest = {
        (row.start_s, row.end_s, row.target): row for row in sorted(living, key=lambda row: (row.created_at, row.id))
    }
    return [row for row in newest.values() if row.id not in corrected]
