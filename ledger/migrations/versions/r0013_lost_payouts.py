"""The payouts that topics name and a restored copy does not know, as its adoption found them."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

LOST_PAYOUTS = """
CREATE TABLE lost_payouts (
    payout_id text COLLATE "C" NOT NULL,
    adoption_sequence bigint NOT NULL,
    CONSTRAINT lost_payouts_pkey PRIMARY KEY (payout_id),
    CONSTRAINT lost_payouts_adoption_fkey FOREIGN KEY (adoption_sequence) REFERENCES adoptions (sequence),
    CONSTRAINT lost_payouts_length CHECK (octet_length(payout_id) BETWEEN 1 AND 512)
)
"""

TRIGGER = """CREATE TRIGGER lost_payouts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON lost_payouts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"""

# Every insert of a worker reads it: one whose role was not given again yet would stand still.
RIGHTS = """
DO $$
DECLARE reader name;
BEGIN
    FOR reader IN
        SELECT r.rolname FROM pg_class AS c, aclexplode(c.relacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE c.oid = 'adoptions'::regclass AND a.privilege_type = 'SELECT' AND r.oid <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON lost_payouts TO %I', reader);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    """All of it or nothing, in one transaction."""
    for statement in (LOST_PAYOUTS, TRIGGER, RIGHTS):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: what may have been paid stays known."""
    raise NotImplementedError("the ledger only migrates forward")
