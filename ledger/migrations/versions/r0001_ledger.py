"""The ledger's tables: payouts, receipts, history, modes, intake and the sequence of identities.

Column names of `payouts` are those of `processors.payout.row.PayoutRow`; `updated_at` is the ledger's own.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PAYOUTS = """
CREATE TABLE payouts (
    payout_id text COLLATE "C" NOT NULL,
    originator_id text NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    source_country text NOT NULL,
    target_country text NOT NULL,
    target_currency text NOT NULL,
    funding_kind text NOT NULL,
    funding_reference text,
    funding_captured boolean NOT NULL,
    funding_captured_at timestamptz,
    funding_reversible boolean NOT NULL,
    requested_at timestamptz NOT NULL,
    expires_at timestamptz,
    received_at timestamptz NOT NULL,
    source_topic text NOT NULL,
    source_partition bigint NOT NULL,
    source_offset bigint NOT NULL,
    correlation_id text NOT NULL,
    sender_reference text NOT NULL,
    content_key_version text NOT NULL,
    bytes_hmac bytea NOT NULL,
    content_hmac bytea NOT NULL,
    sealed_request bytea NOT NULL,

    version bigint NOT NULL DEFAULT 1,
    state text NOT NULL,
    state_version bigint NOT NULL,
    state_at timestamptz NOT NULL,
    compensation text NOT NULL,
    compensation_version bigint NOT NULL,
    compensation_at timestamptz,
    held boolean NOT NULL,
    hold_reason text,
    reason_code text,
    reason text,

    policy_version text,
    list_version text,
    score_basis_points bigint,
    matched_entry_id text,
    matched_party text,
    review_case_id text,
    reviewer text,

    attempts bigint NOT NULL,
    inquiries bigint NOT NULL,
    systemic_refusals bigint NOT NULL,
    ambiguous boolean NOT NULL,
    identity_number bigint,
    systems_trace_audit_number bigint,
    retrieval_reference_number text,
    first_intent_at timestamptz,
    last_intent_at timestamptz,
    sealed_body bytea,
    status_identifier text,
    action_code text,
    transaction_identifier text,
    approval_code text,
    visa_correlation_id text,

    compensation_action text,
    compensation_executor text,
    compensation_reason_code text,
    compensation_reference text,
    compensation_attempts bigint NOT NULL,
    compensation_inquiries bigint NOT NULL,
    compensation_ambiguous boolean NOT NULL,
    compensation_first_intent_at timestamptz,
    compensation_last_intent_at timestamptz,
    compensation_sealed_body bytea,

    due_at timestamptz,
    announce_version bigint NOT NULL,
    announced_version bigint NOT NULL DEFAULT 0,
    lease_owner text,
    lease_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT payouts_pkey PRIMARY KEY (payout_id),
    CONSTRAINT payouts_payout_id_length CHECK (octet_length(payout_id) BETWEEN 1 AND 512),
    CONSTRAINT payouts_originator_id_length CHECK (octet_length(originator_id) BETWEEN 1 AND 512),
    CONSTRAINT payouts_funding_reference_length CHECK (octet_length(funding_reference) <= 1024),
    CONSTRAINT payouts_sender_reference_length CHECK (octet_length(sender_reference) BETWEEN 1 AND 64),
    CONSTRAINT payouts_version_counts CHECK (version >= 1 AND announced_version >= 0),
    CONSTRAINT payouts_state_word CHECK (state IN (
        'RECEIVED', 'VALIDATED', 'IN_REVIEW', 'CLEARED', 'SUBMITTING', 'PENDING', 'UNKNOWN', 'PAID', 'REJECTED',
        'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')),
    CONSTRAINT payouts_compensation_word CHECK (compensation IN (
        'NONE', 'REQUIRED', 'RUNNING', 'UNKNOWN', 'COMPENSATED', 'MANUAL')),
    CONSTRAINT payouts_funding_kind_word CHECK (funding_kind IN ('UNSPECIFIED', 'INTERNAL', 'AFT', 'PIS')),
    CONSTRAINT payouts_compensation_action_word CHECK (compensation_action IN (
        'RELEASE_HOLD', 'REVERSE_FUNDS', 'ADJUSTMENT', 'REFUND_PIS', 'MANUAL')),
    CONSTRAINT payouts_compensation_executor_word CHECK (compensation_executor IN ('PROCESSOR', 'ORIGINATOR')),
    CONSTRAINT payouts_identity_whole CHECK (
        num_nulls(identity_number, systems_trace_audit_number, retrieval_reference_number) IN (0, 3)),
    CONSTRAINT payouts_identity_form CHECK (
        systems_trace_audit_number BETWEEN 100000 AND 999999 AND retrieval_reference_number ~ '^[0-9]{12}$'),
    CONSTRAINT payouts_lease_whole CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)
"""

INDEXES = (
    "CREATE UNIQUE INDEX payouts_sender_reference_key ON payouts (sender_reference)",
    "CREATE UNIQUE INDEX payouts_identity_number_key ON payouts (identity_number) WHERE identity_number IS NOT NULL",
    """CREATE UNIQUE INDEX payouts_trace_and_retrieval_key
    ON payouts (systems_trace_audit_number, retrieval_reference_number)
    WHERE systems_trace_audit_number IS NOT NULL AND retrieval_reference_number IS NOT NULL""",
    "CREATE INDEX payouts_due ON payouts (due_at, payout_id) WHERE due_at IS NOT NULL AND NOT held",
    "CREATE INDEX payouts_unannounced ON payouts (updated_at, payout_id) WHERE announced_version < announce_version",
    "CREATE INDEX payouts_leased ON payouts (lease_until) WHERE lease_until IS NOT NULL",
)

RECEIPTS = """
CREATE TABLE receipts (
    originator_id text NOT NULL,
    kind text NOT NULL,
    reference text NOT NULL,
    payout_id text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT receipts_pkey PRIMARY KEY (originator_id, kind, reference),
    CONSTRAINT receipts_payout_id_key UNIQUE (payout_id),
    CONSTRAINT receipts_payout_id_fkey FOREIGN KEY (payout_id) REFERENCES payouts (payout_id)
)
"""

HISTORY = """
CREATE TABLE history (
    id bigint GENERATED ALWAYS AS IDENTITY,
    payout_id text,
    version bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    transition text NOT NULL,
    from_state text,
    to_state text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT history_pkey PRIMARY KEY (id),
    CONSTRAINT history_payout_id_version_key UNIQUE (payout_id, version),
    CONSTRAINT history_payout_or_operator CHECK ((payout_id IS NULL) = (version IS NULL))
)
"""

MODES = """
CREATE TABLE modes (
    singleton boolean NOT NULL DEFAULT true,
    mode text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT modes_pkey PRIMARY KEY (singleton),
    CONSTRAINT modes_one_row CHECK (singleton),
    CONSTRAINT modes_mode_word CHECK (mode IN ('normal', 'halted'))
)
"""

FIRST_MODE = "INSERT INTO modes (mode, operator, reason) VALUES ('normal', 'migration', 'the ledger was created')"

INTAKE = """
CREATE TABLE intake (
    topic text NOT NULL,
    partition_number bigint NOT NULL,
    record_offset bigint NOT NULL,
    disposition text NOT NULL,
    payout_id text,
    reason_code text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT intake_pkey PRIMARY KEY (topic, partition_number, record_offset),
    CONSTRAINT intake_topic_length CHECK (octet_length(topic) BETWEEN 1 AND 512),
    CONSTRAINT intake_disposition_word CHECK (disposition IN ('REPEAT', 'REFUSED', 'DEAD_LETTER'))
)
"""

# Rule S1: STAN and RRN hold 900,000 times a million numbers; past that the sequence fails rather than repeats.
IDENTITY_NUMBERS = """
CREATE SEQUENCE payout_identity_numbers AS bigint MINVALUE 1 MAXVALUE 899999999999 START 1 CACHE 1 NO CYCLE
"""

REFUSE_CHANGE = """
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what the ledger has recorded stays', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_NAME;
END
$$
"""

KEEP_IDENTITY = """
CREATE FUNCTION ledger_refuse_new_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the identity of a payout is taken once and kept'
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_NAME;
END
$$
"""

TRIGGERS = (
    """CREATE TRIGGER payouts_never_deleted BEFORE DELETE OR TRUNCATE ON payouts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER receipts_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON receipts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER history_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON history
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER modes_never_deleted BEFORE DELETE OR TRUNCATE ON modes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER payouts_identity_kept BEFORE UPDATE ON payouts FOR EACH ROW
    WHEN (OLD.identity_number IS NOT NULL AND (
        OLD.identity_number IS DISTINCT FROM NEW.identity_number
        OR OLD.systems_trace_audit_number IS DISTINCT FROM NEW.systems_trace_audit_number
        OR OLD.retrieval_reference_number IS DISTINCT FROM NEW.retrieval_reference_number))
    EXECUTE FUNCTION ledger_refuse_new_identity()""",
)


def upgrade() -> None:
    """Create everything; all of it or nothing, in one transaction."""
    for statement in (
        *(PAYOUTS, *INDEXES, RECEIPTS, HISTORY, MODES, FIRST_MODE, INTAKE, IDENTITY_NUMBERS),
        *(REFUSE_CHANGE, KEEP_IDENTITY, *TRIGGERS),
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: rows are never deleted (rule L1)."""
    raise NotImplementedError("the ledger only migrates forward")
