"""What the ledger's tests share: sample rows, steps, and one handle on either implementation and its time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import asyncpg

from ledger.connections import Primary
from ledger.guard import Verdict
from ledger.interface import Change, Inserted, IntakeRecord, Ledger
from ledger.memory import MemoryLedger
from ledger.postgres import PostgresLedger
from processors.payout.row import FundingKind, PayoutRow, PayoutState

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TABLES = (
    *("payouts", "receipts", "card_pulls", "history", "modes", "intake", "verified_offsets"),
    *("seals", "seal_head", "adoptions", "lost_payouts", "restores"),
)
EMPTY_THE_LEDGER = "; ".join(
    [
        "BEGIN",
        *(f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in TABLES),
        f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY",
        *(f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in TABLES),
        "ALTER SEQUENCE payout_identity_numbers RESTART",
        "INSERT INTO modes (mode, operator, reason) VALUES ('normal', 'migration', 'the ledger was created')",
        "INSERT INTO seal_head DEFAULT VALUES",
        "COMMIT",
    ]
)
OWNER = "worker-1"
ACTOR = "submit"


def sample_row(number: int = 1, **changes: Any) -> PayoutRow:
    """The first form of payout `number`, whose funding is captured and whose receipt is its own."""
    values: dict[str, Any] = {
        "payout_id": f"payout-{number:08d}",
        "originator_id": "originator-1",
        "amount_minor": 12_500,
        "currency": "USD",
        "source_country": "US",
        "target_country": "JP",
        "target_currency": "JPY",
        "funding_kind": FundingKind.AFT,
        "funding_reference": f"receipt-{number}",
        "funding_captured": True,
        "funding_captured_at": START - timedelta(minutes=5),
        "funding_trace": pull_key(f"trace-{number}"),
        "funding_transaction": pull_key(f"transaction-{number}"),
        "funding_reversible": True,
        "requested_at": START - timedelta(minutes=1),
        "expires_at": START + timedelta(hours=1),
        "received_at": START,
        "source_topic": "payout_requests",
        "source_partition": number % 12,
        "source_offset": number,
        "correlation_id": f"correlation-{number}",
        "sender_reference": f"S{number:015d}",
        "content_key_version": "1",
        "bytes_hmac": b"b" * 32,
        "content_hmac": b"c" * 32,
        "sealed_request": b"sealed request",
        "state_at": START,
    }
    return PayoutRow(**{**values, **changes})


def pull_key(name: object) -> bytes:
    """What one card pull is known by, in the form that the ledger keeps (rule L7)."""
    return hashlib.sha256(str(name).encode()).digest()


def identity(number: int) -> dict[str, Any]:
    """The three columns of an identity, as a first intent sets them (rule S1)."""
    return {
        "identity_number": number,
        "systems_trace_audit_number": 100_000 + number % 900_000,
        "retrieval_reference_number": f"606012{number // 900_000:06d}",
    }


def adjustment_identity(number: int) -> dict[str, Any]:
    """The three columns of an adjustment's identity, as its first intent sets them (rules S1, C4)."""
    return {f"compensation_{column}": value for column, value in identity(number).items()}


def step(before: PayoutRow, transition: str = "step", **changes: Any) -> Change:
    """A change of these columns; its evidence names the first of them."""
    return Change(
        before=before,
        after=replace(before, **changes),
        transition=transition,
        actor=ACTOR,
        detail={"first": next(iter(changes), "nothing")},
    )


async def inserted(ledger: Ledger, number: int = 1, **changes: Any) -> PayoutRow:
    """Insert a sample row that nobody has inserted yet."""
    outcome = await ledger.insert(sample_row(number, **changes), ACTOR)
    assert isinstance(outcome, Inserted)
    return outcome.row


async def committed(ledger: Ledger, change: Change) -> PayoutRow:
    """Commit a change that nobody competes for, by whoever holds the lease."""
    row = await ledger.commit(change, change.before.lease_owner)
    assert row is not None
    return row


async def begun(
    ledger: Ledger, before: PayoutRow, owner: str = OWNER, lease_seconds: float = 60.0, **changes: Any
) -> PayoutRow:
    """Begin a call that nothing forbids."""
    row = await ledger.begin(
        step(before, "begin", **{"state": PayoutState.SUBMITTING, **changes}), owner, lease_seconds
    )
    assert isinstance(row, PayoutRow)
    return row


async def sealed(ledger: PostgresLedger, lines: int) -> None:
    """Seal so many lines of the history, and no more: other transactions of the server may hold some back."""
    left = lines
    for _ in range(400):
        left -= await ledger.seals.seal(500)
        if left <= 0:
            break
        await asyncio.sleep(0.05)
    assert left == 0


class Harness(Protocol):
    """One ledger, and the means to let its time pass without waiting."""

    @property
    def ledger(self) -> Ledger:
        """The ledger under test."""

    async def now(self) -> datetime:
        """The time by the ledger's own clock."""

    async def pass_time(self, seconds: float) -> None:
        """Make every moment that the ledger has stored that much older."""

    async def intake(self) -> list[IntakeRecord]:
        """Every intake record."""

    async def distrust(self) -> None:
        """As after the database was put back: nobody has looked at it (L11)."""

    async def trust(self) -> None:
        """Somebody has looked, and it is the one that we know."""

    async def adopt(self, told_of: Collection[str] = ()) -> datetime:
        """Adopt the database as a copy that others tell of; until when the broker's records count as lost (L11)."""

    async def close(self) -> None:
        """End it."""


class MemoryHarness:
    """The model, with a clock that only tests move."""

    def __init__(self) -> None:
        self.time = START
        self.ledger: MemoryLedger = MemoryLedger(lambda: self.time, sleep=lambda _seconds: asyncio.sleep(0))

    async def now(self) -> datetime:
        return self.time

    async def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    async def intake(self) -> list[IntakeRecord]:
        return list(self.ledger.intake())

    async def distrust(self) -> None:
        self.ledger.verified = False

    async def trust(self) -> None:
        self.ledger.verified = True

    async def adopt(self, told_of: Collection[str] = ()) -> datetime:
        self.ledger.adopted(self.time, told_of)
        return self.time

    async def close(self) -> None:
        await self.ledger.close()


class PostgresHarness:
    """The product, with a second connection that looks and ages rows behind its back."""

    def __init__(self, ledger: PostgresLedger, connection: Any) -> None:
        self.ledger: PostgresLedger = ledger
        self.connection = connection

    @classmethod
    async def open(cls, database_url: str) -> PostgresHarness:
        """Empty the database, which only its tables' owner can, and connect."""
        connection = await asyncpg.connect(database_url)
        await connection.execute(EMPTY_THE_LEDGER)
        ledger = await PostgresLedger.connect(database_url, pool_min=1, pool_max=10)
        return cls(ledger, connection)

    async def now(self) -> datetime:
        moment: datetime = await self.connection.fetchval("SELECT clock_timestamp()")
        return moment

    async def pass_time(self, seconds: float) -> None:
        aged = ", ".join(f"{column} = {column} - $1::interval" for column in ("lease_until", "due_at", "updated_at"))
        await self.connection.execute(f"UPDATE payouts SET {aged}", timedelta(seconds=seconds))

    async def intake(self) -> list[IntakeRecord]:
        records = await self.connection.fetch(
            "SELECT topic, partition_number, record_offset, disposition, payout_id, reason_code FROM intake "
            "ORDER BY recorded_at"
        )
        return [IntakeRecord(*record) for record in records]

    async def distrust(self) -> None:
        self.primary.guarded = True
        self.primary.distrust()

    async def trust(self) -> None:
        verdict, _ = await self.ledger.seals.examine(None)
        assert verdict is Verdict.KNOWN

    async def adopt(self, told_of: Collection[str] = ()) -> datetime:
        plan = replace(await self.ledger.adoption.plan(None, told_of=told_of), verdict=Verdict.FORGOTTEN)
        done = await self.ledger.adoption.adopt(plan, operator="maria", reason="a test", clock_skew_seconds=0.0)
        return done.window_to

    @property
    def primary(self) -> Primary:
        return self.ledger._pool.primary

    async def close(self) -> None:
        await self.connection.close()
        await self.ledger.close()
