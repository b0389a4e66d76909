"""The tables of the catalog. Their shape changes only by a migration in `studio/migrations`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A point in time, kept in UTC. SQLite forgets the zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"A time without a zone cannot be stored: {value!r}.")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id() -> Column[str]:
    return Column("id", String(64), primary_key=True)


def _owned(name: str, target: str) -> Column[str]:
    return Column(
        name, String(64), ForeignKey(f"{target}.id", ondelete="CASCADE"), nullable=False, index=True
    )


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _whole(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=False)


def _moment(name: str) -> Column[datetime]:
    return Column(name, Moment, nullable=False)


users = Table("users", metadata, _id(), _text("name"), _moment("created_at"))
Index("uq_users_name", users.c.name, unique=True)

people = Table(
    "people",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _text("name"),
    _moment("created_at"),
    UniqueConstraint("user_id", "name"),
)

consents = Table(
    "consents",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    _text("text_version"),
    _json("photo_sha256"),
    _moment("created_at"),
)

photo_sets = Table(
    "photo_sets",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    _moment("created_at"),
)

photos = Table(
    "photos",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("set_id", "photo_sets"),
    _text("filename"),
    Column("sha256", String(64), nullable=False, index=True),
    _whole("width"),
    _whole("height"),
    _text("key"),
    _text("preview_key"),
    Column("decision", String(16), nullable=False),
    _json("reasons"),
    Column("face", JSON(none_as_null=True)),
    Column("crop", JSON(none_as_null=True)),
    _json("facts"),
    Column("confirmed", Boolean, nullable=False),
    _moment("created_at"),
)

models = Table(
    "models",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    _whole("version"),
    _text("name"),
    _text("base_id"),
    _text("base_sha256"),
    _text("family"),
    _text("token"),
    _text("key"),
    Column("adapter_bytes", BigInteger, nullable=False),
    _whole("steps"),
    Column("seconds", Float, nullable=False),
    _json("report"),
    _moment("created_at"),
    UniqueConstraint("person_id", "version"),
)

runs = Table(
    "runs",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    _whole("step"),
    _whole("total"),
    Column("seconds_left", Float),
    _text("message"),
    _json("request"),
    _json("detail"),
    _moment("created_at"),
    _moment("updated_at"),
)

avatars = Table(
    "avatars",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    # No foreign keys: an avatar outlives the model and the run that made it.
    Column("model_id", String(64), nullable=False, index=True),
    Column("run_id", String(64), nullable=False, index=True),
    _text("style_id"),
    _text("prompt"),
    Column("seed", BigInteger, nullable=False),
    _whole("width"),
    _whole("height"),
    _text("key"),
    _text("preview_key"),
    Column("sha256", String(64), nullable=False, index=True),
    _json("verdict"),
    _whole("attempts"),
    Column("seconds", Float, nullable=False),
    Column("favourite", Boolean, nullable=False),
    _text("feedback"),
    _moment("created_at"),
    Column("deleted_at", Moment, index=True),
)

uses = Table(
    "uses",
    metadata,
    _id(),
    _owned("user_id", "users"),
    Column("kind", String(24), nullable=False),
    _whole("amount"),
    _moment("created_at"),
)
Index("ix_uses_user_id_kind_created_at", uses.c.user_id, uses.c.kind, uses.c.created_at)

erasures = Table(
    "erasures",
    metadata,
    _id(),
    # No foreign key: an erasure outlives the user it removes, until all bytes are gone.
    Column("user_id", String(64), nullable=False),
    _json("prefixes"),
    _json("run_ids"),
    _json("sha256"),
    _moment("created_at"),
)

workers = Table(
    "workers",
    metadata,
    _id(),
    # Where a file lock of this worker can be seen: a home folder on a running kernel.
    Column("place", String(128), nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("taken_by", String(64)),
    _moment("seen_at"),
    _moment("created_at"),
)

liked_styles = Table(
    "liked_styles",
    metadata,
    _id(),
    _owned("user_id", "users"),
    # No list of styles in the records: a host's file may come and go, the liking stays.
    Column("style_id", String(64), nullable=False),
    _moment("created_at"),
    UniqueConstraint("user_id", "style_id"),
)

appeals = Table(
    "appeals",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _owned("person_id", "people"),
    Column("kind", String(16), nullable=False),
    # No foreign key: it may name a photo, a run or a model, and outlives each of them.
    Column("subject_id", String(64), nullable=False),
    _text("decided"),
    _text("reason"),
    _text("answer"),
    _moment("created_at"),
    Column("answered_at", Moment, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    _owned("user_id", "users"),
    _text("name"),
    Column("sha256", String(64), nullable=False),
    Column("stamp", String(64), nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
    # A day, not a moment: when a program was at work is nobody's business.
    Column("used_on", String(10), nullable=False),
    UniqueConstraint("sha256"),
)

decisions = Table(
    "decisions",
    metadata,
    _id(),
    Column("stage", String(24), nullable=False),
    Column("decision", String(16), nullable=False),
    _json("findings"),
    # A keyed hash of what was judged; no owner, so that it tells nothing about a person.
    Column("subject", String(64), nullable=False),
    _text("policy"),
    Column("created_at", Moment, nullable=False, index=True),
)
