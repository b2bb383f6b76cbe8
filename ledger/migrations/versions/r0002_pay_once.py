"""Retry budget, identity of an adjustment, claims of card pulls, completeness of the intake, and operators' indexes."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NEW_COLUMNS = """
ALTER TABLE payouts
    ADD COLUMN own_failures bigint NOT NULL DEFAULT 0,
    ADD COLUMN compensation_identity_number bigint,
    ADD COLUMN compensation_systems_trace_audit_number bigint,
    ADD COLUMN compensation_retrieval_reference_number text,
    ADD COLUMN funding_trace bytea,
    ADD COLUMN funding_transaction bytea,
    ADD CONSTRAINT payouts_funding_pull_form CHECK (
        octet_length(funding_trace) = 32 AND octet_length(funding_transaction) = 32),
    ADD CONSTRAINT payouts_compensation_identity_whole CHECK (
        num_nulls(compensation_identity_number, compensation_systems_trace_audit_number,
            compensation_retrieval_reference_number) IN (0, 3)),
    ADD CONSTRAINT payouts_compensation_identity_form CHECK (
        compensation_systems_trace_audit_number BETWEEN 100000 AND 999999
        AND compensation_retrieval_reference_number ~ '^[0-9]{12}$')
"""

INDEXES = (
    """CREATE UNIQUE INDEX payouts_compensation_identity_number_key ON payouts (compensation_identity_number)
    WHERE compensation_identity_number IS NOT NULL""",
    "CREATE INDEX payouts_in_review ON payouts (state_at, payout_id) WHERE state = 'IN_REVIEW'",
    "CREATE INDEX payouts_held ON payouts (state_at, payout_id) WHERE held",
    "CREATE INDEX payouts_unknown ON payouts (first_intent_at, payout_id) WHERE state = 'UNKNOWN'",
    "CREATE INDEX intake_payout ON intake (payout_id) WHERE payout_id IS NOT NULL",
)

# Of all originators together: a pull's numbers are the acquirer's and Visa's, not theirs (rule L7).
CARD_PULLS = """
CREATE TABLE card_pulls (
    pull bytea NOT NULL,
    payout_id text COLLATE "C" NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT card_pulls_pkey PRIMARY KEY (pull),
    CONSTRAINT card_pulls_payout_id_fkey FOREIGN KEY (payout_id) REFERENCES payouts (payout_id)
)
"""

KEEP_CARD_PULLS = """
CREATE TRIGGER card_pulls_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON card_pulls
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()
"""

HANDLED = (
    "ALTER TABLE intake DROP CONSTRAINT intake_disposition_word",
    """ALTER TABLE intake ADD CONSTRAINT intake_disposition_word
    CHECK (disposition IN ('REPEAT', 'REFUSED', 'DEAD_LETTER', 'HANDLED'))""",
)

VERIFIED = """
CREATE TABLE verified_offsets (
    topic text NOT NULL,
    partition_number bigint NOT NULL,
    next_offset bigint NOT NULL,
    verified_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT verified_offsets_pkey PRIMARY KEY (topic, partition_number),
    CONSTRAINT verified_offsets_topic_length CHECK (octet_length(topic) BETWEEN 1 AND 512),
    CONSTRAINT verified_offsets_count CHECK (partition_number >= 0 AND next_offset >= 0)
)
"""

KEEP_COMPENSATION_IDENTITY = """
CREATE TRIGGER payouts_compensation_identity_kept BEFORE UPDATE ON payouts FOR EACH ROW
    WHEN (OLD.compensation_identity_number IS NOT NULL AND (
        OLD.compensation_identity_number IS DISTINCT FROM NEW.compensation_identity_number
        OR OLD.compensation_systems_trace_audit_number IS DISTINCT FROM NEW.compensation_systems_trace_audit_number
        OR OLD.compensation_retrieval_reference_number IS DISTINCT FROM NEW.compensation_retrieval_reference_number))
    EXECUTE FUNCTION ledger_refuse_new_identity()
"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (
        *(NEW_COLUMNS, *INDEXES, CARD_PULLS, KEEP_CARD_PULLS),
        *(*HANDLED, VERIFIED, KEEP_COMPENSATION_IDENTITY),
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: rows are never deleted (rule L1)."""
    raise NotImplementedError("the ledger only migrates forward")
