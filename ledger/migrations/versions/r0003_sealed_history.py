"""The sealed history (rule L10), what was published of it, and restored copies that were adopted (rule L11)."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Lines commit in another order than that of their ids. Below the oldest transaction that still runs nothing can appear
# any more, so a line's transaction is what the sealer goes by. Lines from before this revision are in transaction 0:
# all of them have ended, because this statement waited for them.
WRITTEN_BY = (
    "ALTER TABLE history ADD COLUMN written_by xid8 NOT NULL DEFAULT '0'",
    "ALTER TABLE history ALTER COLUMN written_by SET DEFAULT pg_current_xact_id()",
    "CREATE INDEX history_in_sealing_order ON history (written_by, id)",
)

SEALS = """
CREATE TABLE seals (
    sequence bigint NOT NULL,
    history_id bigint NOT NULL,
    previous_hash text NOT NULL,
    hash text NOT NULL,
    system_identifier text NOT NULL,
    timeline integer NOT NULL,
    identity_position bigint NOT NULL,
    CONSTRAINT seals_pkey PRIMARY KEY (sequence),
    CONSTRAINT seals_history_id_key UNIQUE (history_id),
    CONSTRAINT seals_hash_form CHECK (hash ~ '^[0-9a-f]{64}$' AND previous_hash ~ '^[0-9a-f]{64}$')
)
"""

SEAL_HEAD = """
CREATE TABLE seal_head (
    singleton boolean NOT NULL DEFAULT true,
    sequence bigint NOT NULL DEFAULT 0,
    hash text NOT NULL DEFAULT repeat('0', 64),
    sealed_written_by xid8 NOT NULL DEFAULT '0',
    sealed_history_id bigint NOT NULL DEFAULT 0,
    published_sequence bigint NOT NULL DEFAULT 0,
    CONSTRAINT seal_head_pkey PRIMARY KEY (singleton),
    CONSTRAINT seal_head_one_row CHECK (singleton),
    CONSTRAINT seal_head_published CHECK (published_sequence BETWEEN 0 AND sequence)
)
"""

ADOPTIONS = """
CREATE TABLE adoptions (
    sequence bigint NOT NULL,
    adopted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator text NOT NULL,
    reason text NOT NULL,
    window_from timestamptz NOT NULL,
    window_to timestamptz NOT NULL,
    old_sequence bigint NOT NULL,
    old_hash text NOT NULL,
    continued_sequence bigint NOT NULL,
    continued_hash text NOT NULL,
    CONSTRAINT adoptions_pkey PRIMARY KEY (sequence),
    CONSTRAINT adoptions_seal_fkey FOREIGN KEY (sequence) REFERENCES seals (sequence)
)
"""

# Every insert asks whether the broker had its request before an adoption.
ADOPTION_WINDOW = "CREATE INDEX adoptions_window ON adoptions (window_to)"

TRIGGERS = (
    """CREATE TRIGGER seals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER adoptions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON adoptions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
    """CREATE TRIGGER seal_head_never_deleted BEFORE DELETE OR TRUNCATE ON seal_head
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()""",
)


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (
        *(*WRITTEN_BY, SEALS, SEAL_HEAD, "INSERT INTO seal_head DEFAULT VALUES", ADOPTIONS, ADOPTION_WINDOW),
        *TRIGGERS,
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what was sealed stays sealed (rule L10)."""
    raise NotImplementedError("the ledger only migrates forward")
