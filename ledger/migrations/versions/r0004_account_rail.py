"""The account and wallet rail: where a payout goes, what came back after it was paid, and no second send (S3, S8)."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Every row from before had one rail: it goes to a card, or was refused.
NEW_COLUMNS = """
ALTER TABLE payouts
    ADD COLUMN destination_kind text NOT NULL DEFAULT 'CARD',
    ADD COLUMN returned_at timestamptz,
    ADD COLUMN returned_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN returned_reason_code text,
    ADD CONSTRAINT payouts_destination_kind_word CHECK (
        destination_kind IN ('UNSPECIFIED', 'CARD', 'ACCOUNT', 'WALLET', 'ALIAS')),
    ADD CONSTRAINT payouts_returned_whole CHECK (
        (returned_at IS NULL) = (returned_version = 0) AND (returned_at IS NULL) = (returned_reason_code IS NULL))
"""

# For people who look for what came back.
RETURNED_INDEX = "CREATE INDEX payouts_returned ON payouts (returned_at, payout_id) WHERE returned_at IS NOT NULL"

REFUSE_SECOND_SEND = """
CREATE FUNCTION ledger_refuse_second_send() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an account payout that may have been sent is never sent again'
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_NAME;
END
$$
"""

# The last gate: this rail has no duplicate key, so the database itself refuses what a bug, or a worker of a release
# that does not know the rail, would begin a second time.
NEVER_SENT_AGAIN = """
CREATE TRIGGER payouts_account_never_sent_again BEFORE UPDATE ON payouts FOR EACH ROW
    WHEN (OLD.destination_kind IN ('ACCOUNT', 'WALLET') AND NEW.attempts > OLD.attempts
        AND (OLD.ambiguous OR OLD.state <> 'CLEARED'))
    EXECUTE FUNCTION ledger_refuse_second_send()
"""

REFUSE_NEW_RETURN = """
CREATE FUNCTION ledger_refuse_new_return() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'that a payout came back is recorded once and kept'
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_NAME;
END
$$
"""

KEEP_RETURN = """
CREATE TRIGGER payouts_return_kept BEFORE UPDATE ON payouts FOR EACH ROW
    WHEN (OLD.returned_at IS NOT NULL AND (
        OLD.returned_at IS DISTINCT FROM NEW.returned_at
        OR OLD.returned_version IS DISTINCT FROM NEW.returned_version
        OR OLD.returned_reason_code IS DISTINCT FROM NEW.returned_reason_code))
    EXECUTE FUNCTION ledger_refuse_new_return()
"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (
        *(NEW_COLUMNS, RETURNED_INDEX, REFUSE_SECOND_SEND, NEVER_SENT_AGAIN),
        *(REFUSE_NEW_RETURN, KEEP_RETURN),
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: rows are never deleted (rule L1)."""
    raise NotImplementedError("the ledger only migrates forward")
