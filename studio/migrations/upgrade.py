"""Brings a database forward to the newest version, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from studio.errors import BackendError

# Any fixed number: all studios on one Postgres database must use the same one.
_LOCK = 7_316_442_021


def upgrade(engine: Engine) -> None:
    """Run the missing steps. Raises `BackendError` when the database is newer than this program."""
    steps = ScriptDirectory.from_config(_config())
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found == steps.get_current_head():
        return
    known = {step.revision for step in steps.walk_revisions()}
    if found is not None and found not in known:
        raise BackendError(
            f"The database was made by a newer studio (version {found}). Install that version "
            "again, or restore a backup made before it."
        )
    with _alone(engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """One transaction that no other migrating process can be in at the same time."""
    writing = engine.execution_options(writing=True)
    with writing.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection
