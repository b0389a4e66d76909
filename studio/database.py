"""A database as this studio uses one: how it is opened, tuned, and how its faults are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from studio.errors import BackendError

# Without these a server whose machine is gone is waited for as long as TCP likes: minutes.
_NOTICES_A_DEAD_PEER = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class Taken(Exception):
    """A value that must be unique is already used, or what a record belongs to is gone."""


def connect(url: str) -> Engine:
    """An engine for this URL, tuned for several processes. Raises `BackendError` when the folder of
    an SQLite file cannot be made."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    postgres = parsed.get_backend_name() == "postgresql"
    engine = create_engine(
        parsed, pool_pre_ping=True, connect_args=_NOTICES_A_DEAD_PEER if postgres else {}
    )
    if postgres:
        _tune_postgres(engine)
    if engine.dialect.name == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            _make_home(Path(parsed.database).parent)
        _tune_sqlite(engine)
    return engine


def _make_home(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as fault:
        raise BackendError(
            f"The folder {folder} cannot be made: {fault.strerror}. Give the studio's user write "
            "permission, or set AVATAR_HOME to another folder."
        ) from fault


def _tune_postgres(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # A machine that is put to sleep in the middle of a write must not hold up the others, and
        # who waits for it says so instead of waiting for ever.
        with connection.cursor() as cursor:
            cursor.execute("set idle_in_transaction_session_timeout = '15s'")
            cursor.execute("set lock_timeout = '30s'")
        connection.commit()


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # SQLAlchemy begins transactions itself (below): the driver's own rules would begin a
        # reading transaction first and then fail to upgrade it while another process writes.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "busy_timeout=30000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def faults_named(engine: Engine) -> Iterator[None]:
    """Turn the driver's faults into ours, without the statement and its values."""
    try:
        yield
    except IntegrityError as fault:
        raise Taken(type(fault.orig).__name__) from fault
    except DBAPIError as fault:
        where = engine.url.render_as_string(hide_password=True)
        raise BackendError(
            f"The database {where} failed: {fault.orig}. Check that it is running, that the disk "
            "has space and that the studio may write to it; nothing that was saved is lost."
        ) from None
