"""Upgrades of an older database to this program's schema by `migrations/versions`, without losing a row."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from annotations import item_summary
from annotations.db import backup
from annotations.db.engine import connect, open_engine, sqlite_file, version_of
from annotations.db.schema import OLDER, VERSION
from mmer.errors import LabelError


@dataclass(frozen=True)
class Upgrade:
    before: str | None  # None: the database was empty
    after: str
    backup: Path | None  # of the SQLite file as it was; a server has tools of its own


def upgrade(url: str) -> Upgrade:
    """Create the tables of an empty database, or bring an older one to `VERSION`, in one transaction.

    Raises:
        LabelError: as `connect`; `schema_version` also when a newer program wrote the database.
    """
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            before = version_of(connection)
        if before in (None, VERSION):
            connect(url).dispose()
            return Upgrade(before, VERSION, None)
        if before not in OLDER:
            raise LabelError(
                "schema_version", f"the database has schema {before}, newer than {VERSION}: update the program"
            )
        kept = None
        if file := sqlite_file(url):
            kept = backup.new_copy_of(file, VERSION)
            backup.copy(file, kept)
        with engine.execution_options(write=True).begin() as connection:
            settings = Config()
            settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
            with Session(connection) as session:  # statistics of the labels that count now
                item_summary.refresh_summaries(session)
                session.commit()
        return Upgrade(before, VERSION, kept)
    except DBAPIError as error:
        raise LabelError("database_unavailable", f"nothing was changed: {error.orig}") from error
    finally:
        engine.dispose()
