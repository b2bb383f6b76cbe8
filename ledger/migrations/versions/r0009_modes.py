"""All operating modes (rule L9), where there were two.

Workers of the release before know `normal` and `halted`. In any other mode they begin nothing: their statement asks for
`normal`. So it is safe to set one while they still run; but they do not know its word, end, and are started again by
their supervisor until it is `normal` or they are replaced.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MODES = """
ALTER TABLE modes DROP CONSTRAINT modes_mode_word, ADD CONSTRAINT modes_mode_word CHECK (mode IN (
    'normal', 'manual_review', 'read_only', 'maintenance', 'emergency', 'isolation', 'halted'))
"""


def upgrade() -> None:
    """One statement, on a table of one row."""
    op.execute(MODES)


def downgrade() -> None:
    """There is no way back: a mode that is in force may be one of the new."""
    raise NotImplementedError("the ledger only migrates forward")
