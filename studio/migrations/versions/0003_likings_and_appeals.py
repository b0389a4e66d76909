"""Styles that users keep at hand, and their word against refusals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from studio.tables import Moment

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "liked_styles",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("style_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_liked_styles_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liked_styles")),
        sa.UniqueConstraint("user_id", "style_id", name=op.f("uq_liked_styles_user_id_style_id")),
    )
    op.create_index(op.f("ix_liked_styles_user_id"), "liked_styles", ["user_id"], unique=False)
    op.create_table(
        "appeals",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=False),
        sa.Column("decided", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("answered_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(
            ["person_id"], ["people.id"], name=op.f("fk_appeals_person_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_appeals_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_appeals")),
    )
    for column in ("answered_at", "person_id", "user_id"):
        op.create_index(op.f(f"ix_appeals_{column}"), "appeals", [column], unique=False)
