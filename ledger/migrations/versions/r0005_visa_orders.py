"""What operators order of every worker's connection to Visa, and what each worker has in use."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

VISA_ORDERS = """
CREATE TABLE visa_orders (
    number bigint GENERATED ALWAYS AS IDENTITY,
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL,
    CONSTRAINT visa_orders_pkey PRIMARY KEY (number),
    CONSTRAINT visa_orders_action_word CHECK (action IN ('reload', 'rollback', 'breaker_reset')),
    CONSTRAINT visa_orders_length CHECK (octet_length(operator) <= 2000 AND octet_length(reason) <= 2000)
)
"""

VISA_WORKERS = """
CREATE TABLE visa_workers (
    worker text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    order_number bigint NOT NULL,
    result text,
    why text,
    facts jsonb NOT NULL,
    CONSTRAINT visa_workers_pkey PRIMARY KEY (worker),
    CONSTRAINT visa_workers_length CHECK (octet_length(worker) <= 512 AND octet_length(facts::text) <= 16384)
)
"""

TRIGGER = """CREATE TRIGGER visa_orders_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON visa_orders
FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (VISA_ORDERS, VISA_WORKERS, TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what was ordered stays recorded."""
    raise NotImplementedError("the ledger only migrates forward")
