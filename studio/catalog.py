"""The records of the studio in SQL: SQLite by default, Postgres by URL, from several processes.

Every call is one transaction. Reads return records or `None`; writes are whole or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from moderation.verdict import Decision, Reason
from studio import tables
from studio.database import connect, faults_named
from studio.errors import NotAllowed
from studio.records import (
    Appeal,
    Avatar,
    Consent,
    Erasure,
    LikedStyle,
    Person,
    PersonalModel,
    Photo,
    PhotoSet,
    Run,
    Token,
    Use,
    User,
    now,
)

R = TypeVar(
    "R", User, Person, Consent, PhotoSet, Photo, PersonalModel, Run, Avatar, Use, Erasure,
    LikedStyle, Appeal, Token,
)  # fmt: skip
Record = (
    User | Person | Consent | PhotoSet | Photo | PersonalModel | Run | Avatar | Use | Erasure
    | LikedStyle | Appeal | Token
)  # fmt: skip

OVER = ("done", "failed", "cancelled")

_TABLES: dict[type[Any], Table] = {
    User: tables.users,
    Person: tables.people,
    Consent: tables.consents,
    PhotoSet: tables.photo_sets,
    Photo: tables.photos,
    PersonalModel: tables.models,
    Run: tables.runs,
    Avatar: tables.avatars,
    Use: tables.uses,
    Erasure: tables.erasures,
    LikedStyle: tables.liked_styles,
    Appeal: tables.appeals,
    Token: tables.tokens,
}


def _box(value: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(value)


def _reasons(value: Sequence[Mapping[str, str]]) -> tuple[Reason, ...]:
    return tuple(Reason(**reason) for reason in value)


# How a column's plain value becomes the record's value again, where the two differ.
_REVIVE: dict[type[Any], dict[str, Callable[[Any], Any]]] = {
    Photo: {"decision": Decision, "reasons": _reasons, "face": _box, "crop": _box},
    Consent: {"photo_sha256": tuple},
    Erasure: {"prefixes": tuple, "run_ids": tuple, "sha256": tuple},
}


class Catalog:
    """All records. One per process; safe to use from many threads.

    Make it with `open_catalog`, which brings the tables up to date first.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # any kind of record

    def add(self, *records: Record) -> None:
        """Store new records together. Raises `Taken` when one clashes or its owner is gone."""
        with self._writing() as connection:
            for record in records:
                connection.execute(insert(_TABLES[type(record)]).values(_row(record)))

    def get(self, kind: type[R], record_id: str, /) -> R | None:
        """The record with this id, or None."""
        table = _TABLES[kind]
        with self._reading() as connection:
            row = connection.execute(select(table).where(table.c.id == record_id)).one_or_none()
        return None if row is None else _record(kind, row._mapping)

    def find(
        self,
        kind: type[R],
        /,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        **where: Any,
    ) -> list[R]:
        """Records whose columns equal the given values (or are among them, for a sequence)."""
        table = _TABLES[kind]
        order = (table.c.created_at, table.c.id)
        query = select(table).where(_condition(table, where))
        query = query.order_by(*(c.desc() for c in order) if newest_first else order)
        with self._reading() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [_record(kind, row._mapping) for row in rows]

    def before(self, kind: type[R], column: str, moment: datetime) -> list[R]:
        """Records whose time in this column is at or before a moment, oldest first."""
        table = _TABLES[kind]
        query = select(table).where(table.c[column] <= moment).order_by(table.c[column])
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [_record(kind, row._mapping) for row in rows]

    def count(self, kind: type[R], /, **where: Any) -> int:
        table = _TABLES[kind]
        query = select(func.count()).select_from(table).where(_condition(table, where))
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def change(self, kind: type[R], record_id: str, /, **changes: Any) -> R | None:
        """Set columns of one record and return it, or None when it is gone. Not for runs."""
        if kind is Run:
            raise ValueError("A run is changed by `update_run`, which never reopens an ended one.")
        table = _TABLES[kind]
        values = {name: _plain(value) for name, value in changes.items()}
        query = update(table).where(table.c.id == record_id).values(values).returning(table)
        with self._writing() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _record(kind, row._mapping)

    # runs

    def get_run(self, run_id: str) -> Run:
        """The run. Raises `NotAllowed` when there is none."""
        found = self.get(Run, run_id)
        if found is None:
            raise NotAllowed("this run")
        return found

    def active_runs(self, kind: str) -> list[Run]:
        """Runs of a kind that are not over, of all users, oldest first."""
        runs = tables.runs
        query = select(runs).where(runs.c.kind == kind, runs.c.state.not_in(OVER))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(runs.c.created_at, runs.c.id)).all()
        return [_record(Run, row._mapping) for row in rows]

    def update_run(
        self, run_id: str, *, expected: Collection[str] | None = None, **changes: Any
    ) -> bool:
        """Change a run that is not over; False (nothing written) when it is over or gone.

        `expected` lists the states it may be in now (compare and set). `detail` is merged: keys
        that are given replace those of the same name, others stay.
        """
        unknown = set(changes) - {
            "state", "step", "total", "seconds_left", "message", "detail", "request"
        }  # fmt: skip
        if unknown:
            raise ValueError(f"A run has no field {sorted(unknown)} that may change.")
        runs = tables.runs
        allowed = and_(runs.c.id == run_id, runs.c.state.not_in(OVER))
        if expected is not None:
            allowed = and_(allowed, runs.c.state.in_(list(expected)))
        with self._writing() as connection:
            found = connection.execute(select(runs.c.detail).where(allowed).with_for_update())
            row = found.one_or_none()
            if row is None:
                return False
            values = {name: _plain(value) for name, value in changes.items()}
            if "detail" in changes:
                values["detail"] = {**row.detail, **changes["detail"]}
            connection.execute(update(runs).where(allowed).values(**values, updated_at=now()))
        return True

    # models

    def add_model(self, model: PersonalModel) -> PersonalModel:
        """Store a model as the next version of its person; its own `version` is ignored.

        The same id again (a step that is repeated after a crash) returns what is stored.
        """
        models = tables.models
        with self._writing() as connection:
            there = connection.execute(select(models).where(models.c.id == model.id)).one_or_none()
            if there is not None:
                return _record(PersonalModel, there._mapping)
            # Two trainings of one person may end at once: the second waits for the first's version.
            people = tables.people
            connection.execute(
                select(people.c.id).where(people.c.id == model.person_id).with_for_update()
            )
            newest = connection.execute(
                select(func.max(models.c.version)).where(models.c.person_id == model.person_id)
            ).scalar()
            stored = dataclasses.replace(model, version=(newest or 0) + 1)
            connection.execute(insert(models).values(_row(stored)))
        return stored

    # quotas

    def used(self, user_id: str, kind: str, since: datetime) -> int:
        """Sum of the amounts of a user's acts of a kind since a moment."""
        uses = tables.uses
        query = select(func.coalesce(func.sum(uses.c.amount), 0)).where(
            uses.c.user_id == user_id, uses.c.kind == kind, uses.c.created_at >= since
        )
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    # erasing

    def remove(
        self, doomed: Mapping[type[Any], Collection[str]], erasure: Erasure | None = None
    ) -> dict[type[Any], int]:
        """Remove records by kind and id, and what belongs to them; note the bytes to go with them.

        One transaction: the records are gone exactly when the erasure is written.
        """
        gone: dict[type[Any], int] = {}
        with self._writing() as connection:
            if erasure is not None:
                connection.execute(insert(tables.erasures).values(_row(erasure)))
            for kind, ids in doomed.items():
                table = _TABLES[kind]
                result = connection.execute(delete(table).where(table.c.id.in_(list(ids))))
                gone[kind] = result.rowcount
        return gone

    def scrub(self) -> None:
        """Make removed rows unreadable in the database file and its log, where it is a file."""
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with faults_named(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        engine = self.engine.execution_options(writing=True)
        with faults_named(self.engine), engine.begin() as connection:
            yield connection


def open_catalog(url: str) -> Catalog:
    """Connect, bring the tables to the newest version under a lock, and return the catalog.

    Raises `BackendError` when the database cannot be reached or written.
    """
    from studio.migrations.upgrade import upgrade

    engine = connect(url)
    with faults_named(engine):
        upgrade(engine)
    return Catalog(engine)


def _condition(table: Table, where: Mapping[str, Any]) -> ColumnElement[bool]:
    terms: list[ColumnElement[bool]] = []
    for name, value in where.items():
        column = table.c[name]
        many = isinstance(value, Collection) and not isinstance(value, str)
        terms.append(column.in_(list(value)) if many else column == value)
    return and_(True, *terms)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Reason):
        return dataclasses.asdict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _row(record: Record) -> dict[str, Any]:
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def _record(kind: type[R], row: Mapping[Any, Any]) -> R:
    values = {str(name): value for name, value in row.items()}
    for name, revive in _REVIVE.get(kind, {}).items():
        values[name] = revive(values[name])
    return kind(**values)
