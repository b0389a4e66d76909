"""Every released version of the records comes forward to this one, with real data in it.

`released/records.json` holds what a studio had recorded: rows by table, as the tables were in the
first release. A later release adds its own rows there under its revision.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from studio.catalog import _TABLES, open_catalog
from studio.migrations.upgrade import _config
from studio.records import (
    Avatar,
    Consent,
    Erasure,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Use,
    User,
)

RELEASED: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(
    (Path(__file__).parent / "released" / "records.json").read_text("utf-8")
)
STEPS = ScriptDirectory.from_config(_config())
REVISIONS = [step.revision for step in reversed(list(STEPS.walk_revisions()))]
KINDS = (User, Person, Consent, PhotoSet, Photo, PersonalModel, Run, Avatar, Use, Erasure)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite'}"
    return request.getfixturevalue("postgres").new_database()


def plain(engine_url: str) -> sa.Engine:
    return sa.create_engine(engine_url.replace("postgresql://", "postgresql+psycopg://"))


def bring_to(connection: sa.Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def fill(connection: sa.Connection, revision: str) -> None:
    """The rows that a studio of this revision had, written as plain values."""
    found = sa.MetaData()
    found.reflect(connection)
    for name in [table.name for table in found.sorted_tables]:
        rows = RELEASED.get(revision, {}).get(name, [])
        if rows:
            connection.execute(
                sa.insert(found.tables[name]), [typed(found.tables[name], r) for r in rows]
            )


def typed(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    times = {c.name for c in table.columns if isinstance(c.type, sa.DateTime)}
    return {
        name: datetime.fromisoformat(value).replace(tzinfo=UTC)
        if name in times and value
        else value
        for name, value in row.items()
    }


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_studio_of_any_release_comes_forward_whole(url, revision):
    engine = plain(url)
    with engine.begin() as connection:
        for step in REVISIONS[: REVISIONS.index(revision) + 1]:
            bring_to(connection, step)
            fill(connection, step)
    engine.dispose()

    catalog = open_catalog(url)
    for kind in KINDS:
        table = _TABLES[kind]
        wanted = RELEASED["0001"][table.name]
        for row in wanted:
            record = catalog.get(kind, row["id"])
            assert record is not None, f"a {kind.__name__} of {revision} is lost"
            for name, value in row.items():
                kept = getattr(record, name)
                if isinstance(kept, datetime):
                    assert kept == datetime.fromisoformat(value).replace(tzinfo=UTC), name
                elif name not in ("decision", "reasons") and not isinstance(kept, tuple):
                    assert kept == value, f"{kind.__name__}.{name}"
    with catalog.engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == REVISIONS[-1]
    (model,) = catalog.find(PersonalModel)
    assert catalog.add_model(replace(model, id="another")).version == model.version + 1
    catalog.close()


def test_no_step_was_changed_after_its_release():
    """A step that was released has run on somebody's data: it is never edited, only followed."""
    released = json.loads((Path(__file__).parent / "released" / "steps.json").read_text("utf-8"))
    for step in STEPS.walk_revisions():
        if step.revision in released:
            content = Path(step.path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == released[step.revision], step.path
