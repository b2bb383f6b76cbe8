"""Who may do what in the ledger's database (least privilege): three roles, and the owner of the tables.

    found = await look(url, RoleNames("payouts"))
    role_statements(RoleNames("payouts"), found)                   as SQL, for whoever may create roles
    await grant_roles(url, RoleNames("payouts"), operator="maria", detail='{"reason": "INC-7"}')

A worker appends and compares-and-sets. It cannot delete a payout, change who gets how much, rewrite the history or the
seals, move the identity numbers back, or set the mode; an operator can hold, resolve and set the mode, and pays nobody;
an auditor reads, and leaves a line about what it takes out. What only the owner can do (migrate, adopt, restore) is
done by nobody else. The triggers refuse the same once more, but whoever owns a table can switch its triggers off: so no
worker owns one.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.connections import Connection
from ledger.migrate import LOCK_SECONDS, VERSION_TABLE, migrator
from ledger.statements import LOCK_SPACE, MIGRATION_LOCK
from processors.payout.row import MUTABLE_COLUMNS

PREFIX_FORM: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""What needs no quoting, and leaves room for the longest suffix in PostgreSQL's 63 bytes."""

# Everything of a payout but what was asked for: amount, parties, funding, place in the topic.
STEP_COLUMNS: Final = (
    *MUTABLE_COLUMNS,
    *("version", "updated_at", "lease_owner", "lease_until"),
)
# Neither the time of a line nor its transaction can be chosen: they are the server's.
LINE_COLUMNS: Final = ("payout_id", "version", "actor", "transition", "from_state", "to_state", "detail")
HEAD_COLUMNS: Final = ("sequence", "hash", "sealed_written_by", "sealed_history_id", "published_sequence")
EXCEPTION_COLUMNS: Final = (
    *("amount_minor", "currency", "detail", "last_number", "last_seen_at", "gone_at"),
    *("resolved_at", "resolved_by", "resolution"),
)
SEQUENCE: Final = "payout_identity_numbers"

_STEP: Final = f"UPDATE ({', '.join(STEP_COLUMNS)})"
_ANNOUNCE: Final = f"UPDATE ({', '.join((*STEP_COLUMNS, 'announced_version'))})"
_APPEND: Final = f"INSERT ({', '.join(LINE_COLUMNS)})"

WORKER_RIGHTS: Final[Mapping[str, Sequence[str]]] = {
    "payouts": ("SELECT", "INSERT", _ANNOUNCE),
    "receipts": ("SELECT", "INSERT"),
    "card_pulls": ("SELECT", "INSERT"),
    "history": ("SELECT", _APPEND),
    "modes": ("SELECT",),
    "intake": ("SELECT", "INSERT"),
    "verified_offsets": ("SELECT", "INSERT", "UPDATE (next_offset, verified_at)"),
    "seals": ("SELECT", "INSERT"),
    "seal_head": ("SELECT", f"UPDATE ({', '.join(HEAD_COLUMNS)})"),
    "adoptions": ("SELECT",),
    "lost_payouts": ("SELECT",),
    "restores": ("SELECT",),
    "letter_actions": ("SELECT",),
    "reconciliations": ("SELECT",),
    "reconciliation_exceptions": ("SELECT",),
    "visa_orders": ("SELECT",),
    # Who is there, not what happened: a worker that leaves takes its own line away.
    "visa_workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    VERSION_TABLE: ("SELECT",),
}
OPERATOR_RIGHTS: Final[Mapping[str, Sequence[str]]] = {
    "payouts": ("SELECT", _STEP),
    "receipts": ("SELECT",),
    "card_pulls": ("SELECT",),
    "history": ("SELECT", _APPEND),
    "modes": ("SELECT", "UPDATE (mode, set_at, operator, reason)"),
    "intake": ("SELECT",),
    # Back, so that `payouts intake verify --drive` has a topic looked up again.
    "verified_offsets": ("SELECT", "UPDATE (next_offset, verified_at)"),
    "seals": ("SELECT",),
    "seal_head": ("SELECT",),
    "adoptions": ("SELECT",),
    "lost_payouts": ("SELECT",),
    "restores": ("SELECT",),
    "letter_actions": ("SELECT", "INSERT"),
    "reconciliations": ("SELECT", "INSERT"),
    # What was found stays; whether it is still there, and what a person says to it, changes.
    "reconciliation_exceptions": ("SELECT", "INSERT", f"UPDATE ({', '.join(EXCEPTION_COLUMNS)})"),
    "visa_orders": ("SELECT", "INSERT"),
    "visa_workers": ("SELECT", "DELETE"),
    VERSION_TABLE: ("SELECT",),
}
SEQUENCE_RIGHTS: Final[Mapping[str, str]] = {
    # USAGE hands out the next number; UPDATE could set it back.
    "worker": "USAGE, SELECT",
    "operator": "SELECT",
    "auditor": "SELECT",
}


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The roles of one ledger; nobody logs in as one of them, logins are made their members."""

    prefix: str = "payouts"

    def __post_init__(self) -> None:
        """Raises ValueError for a prefix that would need quoting."""
        if PREFIX_FORM.fullmatch(self.prefix) is None:
            raise ValueError("the prefix of the roles must be 1 to 40 of a-z, 0-9 and _, beginning with a letter")

    @property
    def worker(self) -> str:
        """What `payouts worker` needs."""
        return f"{self.prefix}_worker"

    @property
    def operator(self) -> str:
        """What people's commands need."""
        return f"{self.prefix}_operator"

    @property
    def auditor(self) -> str:
        """Reads everything, a backup included; changes nothing, but for the history's line about what it took out."""
        return f"{self.prefix}_auditor"

    @property
    def all(self) -> tuple[str, str, str]:
        """The three."""
        return self.worker, self.operator, self.auditor


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the database that rights are given on."""

    database: str
    schema: str
    owner: str
    user: str
    tables: Sequence[str]
    may_create_roles: bool
    existing_roles: Collection[str]

    @property
    def unknown_tables(self) -> list[str]:
        """Tables of a release that this program does not know: the auditor reads them, nobody else sees them."""
        return sorted(set(self.tables) - set(WORKER_RIGHTS) - set(OPERATOR_RIGHTS))

    @property
    def missing_tables(self) -> list[str]:
        """Tables that rights are given on and that are not there: migrate first."""
        return sorted((set(WORKER_RIGHTS) | set(OPERATOR_RIGHTS)) - set(self.tables))


FIND: Final = f"""
SELECT current_database() AS database, n.nspname AS schema, pg_get_userbyid(v.relowner) AS owner,
    current_user AS user,
    (SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_class AS c
        WHERE c.relnamespace = v.relnamespace AND c.relkind IN ('r', 'p')) AS tables,
    (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles AS r WHERE r.rolname = current_user) AS may_create_roles,
    (SELECT coalesce(array_agg(r.rolname::text), '{{}}') FROM pg_roles AS r WHERE r.rolname = ANY ($1::text[]))
        AS existing_roles
FROM pg_class AS v JOIN pg_namespace AS n ON n.oid = v.relnamespace
WHERE v.oid = to_regclass('{VERSION_TABLE}')
"""  # noqa: S608 - a constant

NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail)
VALUES ($1, 'roles_granted', NULL, 'ROLES_GRANTED', $2::jsonb)
"""


def role_statements(names: RoleNames, found: Found) -> list[str]:
    """The SQL, in order; run again it leaves the same rights, and takes away what somebody gave besides.

    Every name of it is quoted where it can be anybody's, and ours where not.
    """
    return [*_roles(names, found), *_taken_away(names, found), *_given(names, found)]


def _roles(names: RoleNames, found: Found) -> Iterator[str]:
    for role in names.all:
        if role not in found.existing_roles:
            yield f"CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"


def _taken_away(names: RoleNames, found: Found) -> Iterator[str]:
    schema, database = quoted(found.schema), quoted(found.database)
    everybody = ", ".join(("PUBLIC", *names.all))
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {everybody}"
    yield f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {everybody}"
    # A name of somebody's own, found before ours, could stand for a table or function of ours.
    yield f"REVOKE CREATE ON SCHEMA {schema} FROM {everybody}"
    yield f"REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM {everybody}"


def _given(names: RoleNames, found: Found) -> Iterator[str]:
    schema = quoted(found.schema)
    three = ", ".join(names.all)
    yield f"GRANT CONNECT ON DATABASE {quoted(found.database)} TO {three}"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {three}"
    for role, rights in ((names.worker, WORKER_RIGHTS), (names.operator, OPERATOR_RIGHTS)):
        for table, given in rights.items():
            if table in found.tables:
                yield f"GRANT {', '.join(given)} ON {schema}.{quoted(table)} TO {role}"
    yield f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {names.auditor}"
    # Whoever takes data out leaves a line.
    yield f"GRANT {_APPEND} ON {schema}.{quoted('history')} TO {names.auditor}"
    for name, right in SEQUENCE_RIGHTS.items():
        yield f"GRANT {right} ON SEQUENCE {schema}.{SEQUENCE} TO {names.prefix}_{name}"
    yield f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {names.auditor}"


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


async def look(database_url: str, names: RoleNames) -> Found | None:
    """What is there; None without a schema. Raises LedgerUnavailable."""
    async with migrator(database_url, as_owner=False) as connection:
        return await _found(connection, names)


async def grant_roles(database_url: str, names: RoleNames, *, operator: str, detail: str) -> list[str] | None:
    """Give the rights and note it in the history, all of it or nothing; what was run. None without a schema.

    `detail` is a JSON object. Of two at once, one waits for the other. Raises LedgerUnavailable.
    """
    # As whoever logs in: the tables' owner may give rights, and need not be allowed to create roles.
    async with migrator(database_url, as_owner=False) as connection, connection.transaction():
        # As for a migration, whose new tables must not appear between the two halves of this.
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {MIGRATION_LOCK})")
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        found = await _found(connection, names)
        if found is None:
            return None
        statements = role_statements(names, found)
        for statement in statements:
            await connection.execute(statement)
        await connection.execute(NOTE, operator, detail)
    return statements


async def _found(connection: Connection, names: RoleNames) -> Found | None:
    record: Mapping[str, Any] | None = await connection.fetchrow(FIND, list(names.all))
    return None if record is None else Found(**record)
