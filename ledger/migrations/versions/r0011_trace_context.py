"""The trace that a request came in, so that what its row publishes, and publishes again, stays in it (K2)."""

from alembic import op

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None

# Rows from before have none: their trace derives from their payout_id. Not validated: the column is empty, and looking
# through the table would keep every payout waiting.
NEW_COLUMN = """
ALTER TABLE payouts
    ADD COLUMN traceparent text,
    ADD CONSTRAINT payouts_traceparent_length CHECK (octet_length(traceparent) <= 55) NOT VALID
"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    op.execute(NEW_COLUMN)


def downgrade() -> None:
    """There is no way back: rows are never deleted (rule L1)."""
    raise NotImplementedError("the ledger only migrates forward")
