"""The tables of the history, revision by revision; run by Alembic through `history`."""
