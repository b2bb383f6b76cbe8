"""K9: `payouts intake verify` says what it would do wrong before it does anything."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from ledger.interface import InboundPosition
from ledger.memory import MemoryLedger
from ops import intake
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.main import app
from streams.clock import utc_now
from streams.completeness import KafkaRecords
from streams.holes import Slot
from streams.settings import Settings

TOPIC = "payout_requests"
CARD = "4957030420210462"


@pytest.mark.parametrize(
    "words",
    [
        ("--topic", "payout_results"),
        ("--from", "5"),
        ("--from", "5", "--topic", TOPIC),
        ("--from", "5", "--partition", "0"),
        ("--from", "5", "--topic", TOPIC, "--partition", "0", "--from-time", "2026-11-22T17:00:00Z"),
        ("--from-time", "yesterday"),
        ("--from-time", "2026-11-22T17:00:00"),
        ("--from", "-1", "--topic", TOPIC, "--partition", "0"),
        ("--drive", "--yes"),
        ("--drive", "--yes", "--reason", " "),
        ("--drive", "--yes", "--dry-run", "--reason", "INC-1"),
        ("--drive", "--reason", "INC-1"),  # the input is no terminal, so nobody can be asked
        ("--reason", "INC-1"),
        ("--dry-run",),
        ("--yes",),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(words: tuple[str, ...]) -> None:
    """Design 10: exit code 2, and no connection is made."""
    ended = CliRunner().invoke(
        app, ["intake", "verify", *words], env={"PAYOUTS_PROFILE": "test", "PAYOUTS_OPERATOR": "maria"}
    )
    assert ended.exit_code == ExitCode.USAGE, ended.output


def test_a_key_that_may_be_a_card_number_is_not_shown() -> None:
    """P6: whatever a producer used as a key."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    assert intake._row(InboundPosition(TOPIC, 0, 7, CARD), at, "missing") == {
        "topic": TOPIC,
        "partition": 0,
        "offset": 7,
        "payout_id": intake.WITHHELD,
        "at": at,
        "fate": "missing",
    }
    assert intake._row(InboundPosition(TOPIC, 0, 7, "order-1"), at, "missing")["payout_id"] == "order-1"


class Marks:
    """The marks in Kafka."""

    def __init__(self, marks: Mapping[int, int]) -> None:
        self.marks = dict(marks)

    async def marked(self, _: str, partitions: Sequence[int]) -> Mapping[int, int]:
        return {number: self.marks[number] for number in partitions if number in self.marks}

    async def mark(self, slot: Slot, offset: int) -> None:
        self.marks[slot[1]] = offset


@pytest.mark.parametrize(("mark", "is_refused"), [(5, False), (6, True), (None, False)])
async def test_driving_in_is_refused_on_a_ledger_that_knows_less_than_it_did(
    mark: int | None, is_refused: bool
) -> None:
    """L11: what a restored copy misses may have been paid; `--drive` could pay it a second time."""
    ledger = MemoryLedger(utc_now)
    await ledger.verified_up_to(TOPIC, 0, 5)
    marks = cast("KafkaRecords", cast("Any", Marks({} if mark is None else {0: mark})))
    missing = [InboundPosition(TOPIC, 0, 5, "order-1")]
    if not is_refused:
        await intake._refuse_after_a_restore(ledger, marks, missing)
        return
    with pytest.raises(CommandFailed) as refusal:
        await intake._refuse_after_a_restore(ledger, marks, missing)
    assert refusal.value.code is ExitCode.REFUSED


async def test_the_mark_is_behind_the_ledger_also_when_a_worker_moved_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L11: a ledger behind its mark looks like a restored copy; `--drive` must not make one."""
    ledger, moved = MemoryLedger(utc_now), Marks({0: 9})
    await ledger.verified_up_to(TOPIC, 0, 9)
    at_the_ledger: list[int] = []

    class Connection:
        async def executemany(self, statement: str, places: Sequence[tuple[str, int, int]]) -> None:
            assert (statement, places) == (intake.LOOK_AGAIN, [(TOPIC, 0, 4)])
            at_the_ledger.append(moved.marks[0])
            moved.marks[0] = 12  # a worker that had looked up more at this moment

    @asynccontextmanager
    async def writing(_: object) -> AsyncIterator[Connection]:
        yield Connection()

    monkeypatch.setattr(intake, "_writing", writing)
    settings, records = cast("Settings", object()), cast("KafkaRecords", cast("Any", moved))
    await intake._move_back(settings, ledger, records, {(TOPIC, 0): 4})
    assert at_the_ledger == [4], "the mark first: in between the ledger is ahead of it"
    assert moved.marks == {0: 4}


def test_looking_again_begins_at_the_first_missing_record_of_each_partition() -> None:
    """K9: everything behind it is looked up again, which is harmless."""
    places = [(0, 9), (0, 4), (1, 7)]
    missing = [InboundPosition(TOPIC, partition, offset, None) for partition, offset in places]
    assert intake._first_of_each(missing) == {(TOPIC, 0): 4, (TOPIC, 1): 7}
