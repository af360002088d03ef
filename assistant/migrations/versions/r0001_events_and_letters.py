"""The first tables: events, and messages that wait for the broker."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and what finds events quickly."""
    op.create_table(
        "events",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("room", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("event_type", sa.String, nullable=False),
        sa.Column("start", sa.Double, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("events_start", "events", ["start"])
    op.create_index("events_room_start", "events", ["room", "start"])
    op.create_index("events_type_start", "events", ["event_type", "start"])
    op.create_table(
        "letters",
        # numbers are never used again: the outbox asks for what comes after the last one it knows
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("raised", sa.Double, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
