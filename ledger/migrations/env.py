"""What alembic runs: it only writes out the statements; `ledger.migrate` sends them through asyncpg."""

from alembic import context

context.configure(
    dialect_name="postgresql",
    dialect_opts={"paramstyle": "named"},
    literal_binds=True,
    output_buffer=context.config.attributes["statements"],
    version_table=context.config.attributes["version_table"],
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
