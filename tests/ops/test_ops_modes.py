"""The commands of the modes on a real PostgreSQL: what they show before, what they refuse, what they write down."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import asyncpg
import pytest

from ledger.interface import Change
from ledger.postgres import PostgresLedger
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.modes import set_mode
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow, PayoutState
from sandbox.servers.postgres import ForeignPostgres, PostgresServer
from tests.contract.ledger.ledger_harness import EMPTY_THE_LEDGER
from tests.ops.conftest import Live, sample_row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def one_ledger(postgres: PostgresServer | ForeignPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ledger of this module alone; no Kafka."""
    database = f"payouts_modes_{uuid.uuid4().hex}"
    environment = {
        "PAYOUTS_PROFILE": "test",
        "DATABASE_URL": postgres.create_database(database),
        "PAYOUTS_OPERATOR": "tester",
    }
    try:
        made = Live(environment, tmp_path_factory.mktemp("modes"), "")
        assert "0009" in made.data("ledger", "migrate")["applied"]
        yield made
    finally:
        postgres.drop_database(database)


@pytest.fixture
def live(one_ledger: Live) -> Live:
    """The same without payouts, in the mode of a new ledger."""

    async def empty() -> None:
        connection = await asyncpg.connect(one_ledger.environment["DATABASE_URL"])
        await connection.execute(EMPTY_THE_LEDGER)
        await connection.close()

    asyncio.run(empty())
    return one_ledger


def stands(live: Live, state: PayoutState, **changes: object) -> PayoutRow:
    """A payout in this state."""
    row = sample_row(f"modes-{uuid.uuid4().hex[:8]}", **changes)
    return live.store(row, [("stepped", {"state": state})])


def test_e5_p9_a_mode_is_shown_in_payouts_and_money_before_it_is_set(live: Live) -> None:
    """E5, P9: what stops, how many payouts wait for it, their money, the undo; --dry-run changes nothing."""
    rows = [stands(live, PayoutState.CLEARED, amount_minor=1250, currency="USD") for _ in range(2)]
    stands(live, PayoutState.CLEARED, amount_minor=500, currency="JPY")
    planned = live.run("modes", "set", "read_only", "--reason", "a drill", "--dry-run", "--output", "json")
    document = json.loads(planned.stdout)
    (submit,) = [line for line in document["plan"] if line["activity"] == "SUBMIT"]
    assert (submit["now"], submit["then"], submit["payouts"]) == ("yes", "no", 3)
    assert (submit["money"], submit["money_minor"]) == ("500 JPY, 25.00 USD", {"JPY": 500, "USD": 2500})
    assert "payouts modes set normal" in document["undo"]
    assert live.data("modes", "show")["mode"] == "normal"
    table = live.run("modes", "set", "halted", "--reason", "INC-1", "--wait", "30")
    assert (table.exit_code, "25.00 USD" in table.stdout) == (0, True), table.stderr
    assert "Undo: payouts modes set normal" in table.stderr
    shown = live.data("modes", "show")
    assert (shown["mode"], shown["reason"], shown["operator"], shown["allows"]) == ("halted", "INC-1", "tester", [])

    async def read(ledger: PostgresLedger) -> list[PayoutRow | None]:
        return [await ledger.read(row.payout_id) for row in rows]

    assert live.with_ledger(read) == rows


def test_e5_a_brake_asks_nobody_and_what_lets_go_on_needs_an_answer(live: Live) -> None:
    """E5, P9: at 3 a.m. a stop is one command; to let money go again somebody has to mean it."""
    for mode in ("manual_review", "read_only", "isolation", "halted"):
        assert live.data("modes", "set", mode, "--reason", "INC-1", "--wait", "30")["mode"] == mode
    for mode in ("isolation", "emergency", "drain", "manual_review", "normal"):
        refused = live.run("modes", "set", mode, "--reason", "INC-1")
        assert refused.exit_code == ExitCode.USAGE, mode
        assert live.data("modes", "set", mode, "--reason", "INC-1", "--yes")["mode"] == mode.replace(
            "drain", "maintenance"
        )


def test_e5_in_a_read_only_mode_people_look_and_hold(live: Live) -> None:
    """E5: the column of the API. Whatever lets a payout move waits; whatever stops it, and the plan, does not."""
    row = stands(live, PayoutState.CLEARED)
    live.data("modes", "set", "emergency", "--reason", "INC-1", "--wait", "30")
    for words in (("cancel",), ("release",), ("requeue",)):
        refused = live.run(*words, row.payout_id, "--reason", "x", "--yes")
        assert (refused.exit_code, "emergency" in refused.stderr) == (ExitCode.REFUSED, True), words
    assert live.run("cancel", row.payout_id, "--reason", "x", "--dry-run").exit_code == 0
    assert live.run("hold", row.payout_id, "--reason", "x", "--yes").exit_code == 0
    live.data("modes", "set", "normal", "--reason", "over", "--yes")
    assert live.run("release", row.payout_id, "--reason", "x", "--yes").exit_code == 0


def test_l9_p9_of_two_operators_one_wins_and_the_other_is_told(live: Live) -> None:
    """L9, P9: refused with 3, naming who was faster; the mode is his, and the history has one line more."""

    async def two(ledger: PostgresLedger) -> None:
        seen = await ledger.mode()
        together = (
            set_mode(live.settings, Mode.HALTED, "anna", "incident 9", 0.0, seen),
            set_mode(live.settings, Mode.EMERGENCY, "bertil", "incident 9", 0.0, seen),
        )
        ends = await asyncio.gather(*together, return_exceptions=True)
        (told,) = [end for end in ends if isinstance(end, CommandFailed)]
        (won,) = [end for end in ends if not isinstance(end, BaseException)]
        assert told.code is ExitCode.REFUSED
        assert won.operator in told.why
        assert await ledger.mode() == won

    def lines() -> int:
        return [line["action"] for line in live.data("audit", "tail", "--people", "--limit", "100")].count("mode_set")

    before = lines()
    live.with_ledger(two)
    assert lines() == before + 1


def test_s3_24_a_drain_says_when_nothing_is_in_work_and_resume_ends_it(live: Live) -> None:
    """S3-24, E5: exit 1 and what is left while a stage has something in work; 0 when nothing has been for a moment."""
    row = stands(live, PayoutState.VALIDATED)
    busy = live.run("drain", "--wait", "0", "--reason", "a deploy", "--output", "json")
    assert busy.exit_code == ExitCode.FOUND, busy.stderr
    found = json.loads(busy.stdout)
    assert (found["drained"], found["left"]["before_screening"]) == (False, 1)
    assert live.data("modes", "show")["mode"] == "maintenance"

    async def finish(ledger: PostgresLedger) -> None:
        after = replace(row, state=PayoutState.UNKNOWN)  # asked about for as long as it takes: nobody waits for it
        assert await ledger.commit(Change(row, after, "stepped", "worker-1"))

    live.with_ledger(finish)
    drained = live.data("drain", "--wait", "60", "--reason", "a deploy")
    assert (drained["drained"], drained["left"]["open_at_visa"]) == (True, 1)
    assert live.data("resume", "--reason", "deployed")["mode"] == "normal"
    assert live.data("resume", "--reason", "again")["operator"] == "tester"


def test_s3_24_a_drain_never_lets_go_on_what_a_stricter_mode_has_stopped(live: Live) -> None:
    """E5, S3-24: `maintenance` lets payments go on. In stricter ones neither drain nor resume does anything."""
    for mode in ("manual_review", "halted"):
        live.data("modes", "set", mode, "--reason", "INC-1", "--wait", "30")
        for words in (("drain", "--wait", "0"), ("resume",)):
            refused = live.run(*words, "--reason", "a deploy")
            assert (refused.exit_code, "INC-1" in refused.stderr) == (ExitCode.REFUSED, True), (mode, words)
        assert live.data("modes", "show")["mode"] == mode
