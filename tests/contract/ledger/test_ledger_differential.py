"""The model and PostgreSQL get the same random operations and must give the same answers, refusals included."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

from ledger.interface import Change, Disposition, InboundPosition, IntakeRecord, LeasesStillLive, Ledger, RowRejected
from ledger.memory import MemoryLedger
from processors.payout.modes import Activity, Mode
from processors.payout.row import CompensationState, FundingKind, PayoutRow, PayoutState
from tests.contract.ledger.ledger_harness import PostgresHarness, adjustment_identity, identity, pull_key, sample_row

PAYOUTS = 8
OPERATIONS = 400
# Enough that every kind of answer comes up many times; time-boxed because the machine is shared.
SEEDS = (1, 2, 3, 4)
BUDGET_SECONDS = 20.0
# The two clocks are read at slightly different moments.
CLOCKS_AGREE_WITHIN = timedelta(seconds=30)

Operation = Callable[[Ledger], Awaitable[object]]


class TickingClock:
    """The real time, never the same twice, as PostgreSQL's is between statements."""

    def __init__(self) -> None:
        self._last = datetime.now(UTC)

    def __call__(self) -> datetime:
        self._last = max(self._last + timedelta(microseconds=1), datetime.now(UTC))
        return self._last


@pytest.mark.servers
@pytest.mark.parametrize("seed", SEEDS)
async def test_l1_l2_l3_l7_l9_k2_k4_both_ledgers_answer_alike(shared_ledger_url: str, seed: int) -> None:
    model = MemoryLedger(TickingClock())
    harness = await PostgresHarness.open(shared_ledger_url)
    dice = random.Random(seed)
    ends_at = time.monotonic() + BUDGET_SECONDS / len(SEEDS)
    kinds: dict[str, int] = {}
    try:
        for number in range(OPERATIONS):
            if dice.random() < 0.03:
                await age(model, harness, 100)
            name, operation = await drawn(dice, model)
            expected, found = await answer(model, operation), await answer(harness.ledger, operation)
            assert_alike(expected, found, f"seed {seed}, operation {number} ({name})")
            kinds[kind_of(name, found)] = kinds.get(kind_of(name, found), 0) + 1
            if time.monotonic() > ends_at and number > OPERATIONS // 4:
                break
        for payout in range(PAYOUTS):
            key = sample_row(payout).payout_id
            assert_alike(await model.read(key), await harness.ledger.read(key), f"seed {seed}, end, {key}")
            assert_alike(await model.history(key), await harness.ledger.history(key), f"seed {seed}, end, {key}")
        assert await model.counts() == await harness.ledger.counts()
        assert [*model.intake()] == await harness.intake()
    finally:
        await harness.close()
    assert len(kinds) >= 12, f"the dice did not reach enough: {kinds}"


async def age(model: MemoryLedger, harness: PostgresHarness, seconds: float) -> None:
    """Let time pass for the rows of both, by making their moments older."""
    await harness.pass_time(seconds)
    passed = timedelta(seconds=seconds)
    for stored in model._stored.values():
        row = stored.row
        stored.updated_at -= passed
        stored.row = replace(
            row,
            lease_until=row.lease_until and row.lease_until - passed,
            due_at=row.due_at and row.due_at - passed,
        )


def kind_of(name: str, found: object) -> str:
    return f"{name}:{found if isinstance(found, str) else type(found).__name__}"


async def answer(ledger: Ledger, operation: Operation) -> object:
    """The answer, or the name of the error and of the constraint it names."""
    try:
        return await operation(ledger)
    except RowRejected as error:
        named = [word for word in str(error).replace(",", " ").split() if word.startswith("payouts_")]
        return f"RowRejected {' '.join(named)}"
    except LeasesStillLive:
        return "LeasesStillLive"


async def drawn(dice: random.Random, model: MemoryLedger) -> tuple[str, Operation]:
    """One operation, on a row as the model knows it now or knew it once."""
    names = {"insert": 3, "commit": 8, "begin": 8, "due": 2, "unannounced": 1, "mark": 2, "mode": 1, "intake": 1}
    names |= {"unaccounted": 1, "verify": 1, "verified": 1}
    name = dice.choices(list(names), list(names.values()))[0]
    payout = dice.randrange(PAYOUTS)
    if name in {"commit", "begin"}:
        row = await model.read(sample_row(payout).payout_id) or sample_row(payout)
        change = drawn_change(dice, row)
        owner, seconds = f"worker-{dice.randrange(3)}", dice.choice([50.0, 300.0])
        activity = dice.choice([Activity.SUBMIT, Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE])
        if name == "commit":
            return name, lambda ledger: ledger.commit(change)
        return name, lambda ledger: ledger.begin(change, owner, seconds, activity)
    return name, drawn_other(dice, name, payout)


def drawn_other(dice: random.Random, name: str, payout: int) -> Operation:
    limit, seconds = dice.randrange(1, 5), dice.choice([0.0, 50.0, 500.0])
    if name == "insert":
        row = drawn_row(dice, payout)
        return lambda ledger: ledger.insert(row, "actor")
    if name == "due":
        return lambda ledger: ledger.due(limit, 70.0)
    if name == "unannounced":
        after = dice.choice([None, sample_row(payout).payout_id])
        return lambda ledger: ledger.unannounced(limit, seconds, after)
    if name == "mark":
        pairs = [(sample_row(dice.randrange(PAYOUTS)).payout_id, dice.randrange(6)) for _ in range(limit)]
        return lambda ledger: ledger.mark_announced(pairs)
    if name == "intake":
        disposition = dice.choice(list(Disposition))
        record = IntakeRecord("payout_requests", 0, dice.randrange(6), disposition, None, "CODE")
        return lambda ledger: ledger.record_intake(record)
    if name == "unaccounted":
        places = [drawn_place(dice) for _ in range(limit)]
        return lambda ledger: ledger.unaccounted(places)
    if name == "verify":
        partition, offset = dice.randrange(2), dice.randrange(-1, 9)
        return lambda ledger: ledger.verified_up_to("payout_requests", partition, offset)
    if name == "verified":
        return lambda ledger: verified(ledger, "payout_requests")
    mode = dice.choice([Mode.NORMAL, Mode.NORMAL, Mode.NORMAL, *Mode])
    return lambda ledger: mode_word(ledger, mode)


async def mode_word(ledger: Ledger, mode: Mode) -> str:
    return (await ledger.set_mode(mode, "operator", "why", 0)).mode.value


async def verified(ledger: Ledger, topic: str) -> dict[int, int]:
    return dict(sorted((await ledger.verified_offsets(topic)).items()))


def drawn_place(dice: random.Random) -> InboundPosition:
    """Of a row, of an intake record, or of nothing."""
    row = sample_row(dice.randrange(PAYOUTS))
    if dice.random() < 0.5:
        return InboundPosition("payout_requests", 0, dice.randrange(7), dice.choice([None, row.payout_id]))
    offset = row.source_offset + dice.randrange(2)
    return InboundPosition(row.source_topic, row.source_partition, offset, row.payout_id)


def drawn_row(dice: random.Random, payout: int) -> PayoutRow:
    return sample_row(
        payout,
        amount_minor=dice.choice([1, -5, 10**18]),
        funding_kind=dice.choice(list(FundingKind)),
        funding_reference=dice.choice([None, "shared-1", "shared-2", f"own-{payout}"]),
        funding_captured=dice.random() < 0.8,
        funding_trace=drawn_pull(dice, payout),
        funding_transaction=drawn_pull(dice, payout),
        sender_reference=dice.choice([f"S{payout}", f"S{payout}", "shared", "too long" * 9]),
        due_at=drawn_moment(dice),
        announce_version=dice.randrange(3),
    )


def drawn_pull(dice: random.Random, payout: int) -> bytes | None:
    """Sometimes of another payout, sometimes both the same, and seldom no hash at all."""
    if dice.random() < 0.03:
        return b"short"
    return dice.choice([None, pull_key("shared"), pull_key(f"own-{payout}"), pull_key(f"other-{payout}")])


def drawn_change(dice: random.Random, row: PayoutRow) -> Change:
    changes: dict[str, Any] = {
        "state": dice.choice(list(PayoutState)),
        "compensation": dice.choice(list(CompensationState)),
        "held": dice.random() < 0.15,
        "due_at": drawn_moment(dice),
        "announce_version": row.announce_version + dice.randrange(2),
        "reason": dice.choice([None, "words", "zero\0byte"]) if dice.random() < 0.3 else row.reason,
        "score_basis_points": dice.choice([None, 100, 6_999, 7_000]),
        "reviewer": dice.choice([None, None, "anna"]),
        "attempts": 2**63 if dice.random() < 0.03 else row.attempts + 1,
    }
    if dice.random() < 0.4:
        changes |= identity(dice.randrange(1, 12))
    if dice.random() < 0.2:
        changes |= adjustment_identity(dice.randrange(20, 32))
    if dice.random() < 0.03:
        changes["systems_trace_audit_number"] = 100_001
    before: dict[str, Any] = {}
    if dice.random() < 0.1:
        before = {"version": max(1, row.version - 1)}
    elif dice.random() < 0.05:
        before = {"state": dice.choice(list(PayoutState))}
    slots = {name: getattr(row, name) for name in PayoutRow.__dataclass_fields__}
    detail = {
        "n": dice.randrange(100),
        "text": dice.choice(["plain", "ünï", "zero\0"] if dice.random() < 0.1 else ["x"]),
    }
    return Change(PayoutRow(**{**slots, **before}), PayoutRow(**{**slots, **changes}), "step", "actor", detail)


def drawn_moment(dice: random.Random) -> datetime | None:
    days = dice.choice([None, -2, -1, 1, 2])
    # Distinct moments, because equal ones are ordered by payout and nearly equal ones are not.
    return None if days is None else datetime.now(UTC) + timedelta(days=days, seconds=dice.randrange(10**5))


def assert_alike(expected: object, found: object, where: str) -> None:
    """Equal, but for moments that the two clocks gave."""
    if isinstance(expected, datetime) and isinstance(found, datetime):
        assert abs(expected - found) < CLOCKS_AGREE_WITHIN, where
    elif is_dataclass(expected) and not isinstance(expected, type):
        assert type(expected) is type(found), f"{where}: {expected} != {found}"
        assert_alike(asdict(expected), asdict(found), where)
    elif isinstance(expected, dict) and isinstance(found, dict):
        assert expected.keys() == found.keys(), where
        for key in expected:
            assert_alike(expected[key], found[key], f"{where}.{key}")
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes | Enum):
        assert isinstance(found, Sequence)
        assert len(expected) == len(found), f"{where}: {expected} != {found}"
        for ours, theirs in zip(expected, found, strict=True):
            assert_alike(ours, theirs, where)
    else:
        assert expected == found, f"{where}: {expected!r} != {found!r}"
