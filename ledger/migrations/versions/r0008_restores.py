"""Backups that were put back row by row: until one was adopted, nothing leaves (rule L11)."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The first line that a restore writes, before there is any row: whoever looks meanwhile finds a copy. Its key holds no
# number of a sequence, because the lines of earlier restores come back beside it.
RESTORES = """
CREATE TABLE restores (
    restored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    backup_id text NOT NULL,
    snapshot_at timestamptz NOT NULL,
    sequence bigint NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT restores_pkey PRIMARY KEY (backup_id, restored_at),
    CONSTRAINT restores_length CHECK (
        octet_length(backup_id) <= 64 AND octet_length(operator) <= 2000 AND octet_length(reason) <= 2000)
)
"""

TRIGGER = """CREATE TRIGGER restores_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON restores
FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (RESTORES, TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what was restored stays recorded."""
    raise NotImplementedError("the ledger only migrates forward")
