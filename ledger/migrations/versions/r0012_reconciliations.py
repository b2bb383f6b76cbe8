"""What was reconciled, and the exceptions that it found: which are open, gone, or explained by a person."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

RECONCILIATIONS = """
CREATE TABLE reconciliations (
    number bigint GENERATED ALWAYS AS IDENTITY,
    day date NOT NULL,
    zone text NOT NULL,
    begun_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator text NOT NULL,
    visa_source text NOT NULL,
    matched bigint NOT NULL,
    unmatched bigint NOT NULL,
    awaited bigint NOT NULL,
    money jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT reconciliations_pkey PRIMARY KEY (number),
    CONSTRAINT reconciliations_visa_source_word CHECK (visa_source IN ('NONE', 'FILE', 'API')),
    CONSTRAINT reconciliations_count CHECK (matched >= 0 AND unmatched >= 0 AND awaited >= 0),
    CONSTRAINT reconciliations_length CHECK (octet_length(operator) <= 2000 AND octet_length(zone) <= 100)
)
"""

# One line of what disagrees about one payout, or about a transaction at Visa. A later run sees it again, or finds it
# gone; a person explains it. It is never deleted; its day is that of the run that found it first.
EXCEPTIONS = """
CREATE TABLE reconciliation_exceptions (
    id bigint GENERATED ALWAYS AS IDENTITY,
    day date NOT NULL,
    kind text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    amount_minor bigint,
    currency text,
    detail text NOT NULL,
    first_number bigint NOT NULL,
    last_number bigint NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    gone_at timestamptz,
    resolved_at timestamptz,
    resolved_by text,
    resolution text,
    CONSTRAINT reconciliation_exceptions_pkey PRIMARY KEY (id),
    CONSTRAINT reconciliation_exceptions_once UNIQUE (kind, subject),
    CONSTRAINT reconciliation_exceptions_first_fkey FOREIGN KEY (first_number) REFERENCES reconciliations (number),
    CONSTRAINT reconciliation_exceptions_last_fkey FOREIGN KEY (last_number) REFERENCES reconciliations (number),
    CONSTRAINT reconciliation_exceptions_kind_word CHECK (kind ~ '^[A-Z][A-Z_]{0,59}$'),
    CONSTRAINT reconciliation_exceptions_resolved_whole CHECK (
        num_nulls(resolved_at, resolved_by, resolution) IN (0, 3)),
    CONSTRAINT reconciliation_exceptions_length CHECK (
        octet_length(subject) BETWEEN 1 AND 512 AND octet_length(detail) <= 2000
        AND octet_length(resolved_by) <= 2000 AND octet_length(resolution) <= 2000)
)
"""

OPEN = """
CREATE INDEX reconciliation_exceptions_open ON reconciliation_exceptions (day, id)
    WHERE gone_at IS NULL AND resolved_at IS NULL
"""

TRIGGERS = (
    """CREATE TRIGGER reconciliations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reconciliations
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER reconciliation_exceptions_never_deleted BEFORE DELETE OR TRUNCATE ON reconciliation_exceptions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
)


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (RECONCILIATIONS, EXCEPTIONS, OPEN, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what was found stays recorded."""
    raise NotImplementedError("the ledger only migrates forward")
