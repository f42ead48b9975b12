"""What each clip is for in retraining is stored, so that a name typed later does not change it.

Clips that are on record stay where earlier programs put them: by a hash of their speaker, else of themselves.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("clips", sa.Column("side", sa.String(), nullable=True))
    bind = op.get_bind()
    clips = sa.table("clips", *(sa.column(name) for name in ("id", "sha256", "speaker", "side")))
    rows = bind.execute(sa.select(clips.c.id, clips.c.sha256, clips.c.speaker)).all()
    sides = [{"key": key, "to": _side(sha256, speaker)} for key, sha256, speaker in rows]
    if sides:
        bind.execute(clips.update().where(clips.c.id == sa.bindparam("key")).values(side=sa.bindparam("to")), sides)


def _side(sha256: str, speaker: str | None) -> str:
    group = f"speaker {speaker}" if speaker else f"clip {sha256}"
    if int(hashlib.sha256(f"held out {group}".encode()).hexdigest()[:12], 16) >= 0.3 * 16**12:
        return "train"
    return "stranger" if speaker else "held_out"
