"""What Alembic runs to bring the history's tables up to date, on the connection that `history` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
