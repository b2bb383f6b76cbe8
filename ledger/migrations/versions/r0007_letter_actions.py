"""What people did with dead letters: replayed, discarded, looked into (rule K6)."""

from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

# Numbered within each letter, so that of two people who act on what both have seen one is told (P9).
LETTER_ACTIONS = """
CREATE TABLE letter_actions (
    letter text COLLATE "C" NOT NULL,
    sha256 text NOT NULL,
    number bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT letter_actions_pkey PRIMARY KEY (letter, sha256, number),
    CONSTRAINT letter_actions_action_word CHECK (action IN ('REPLAY_BEGUN', 'REPLAYED', 'DISCARDED', 'REVEALED')),
    CONSTRAINT letter_actions_number_counts CHECK (number >= 1),
    CONSTRAINT letter_actions_length CHECK (
        octet_length(letter) <= 512 AND octet_length(operator) <= 2000 AND octet_length(reason) <= 2000
        AND sha256 ~ '^[0-9a-f]{64}$')
)
"""

TRIGGER = """CREATE TRIGGER letter_actions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON letter_actions
FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (LETTER_ACTIONS, TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what was done stays recorded."""
    raise NotImplementedError("the ledger only migrates forward")
