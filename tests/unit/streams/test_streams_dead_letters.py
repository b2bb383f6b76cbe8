"""K6, P6: what is set aside is told without what is in it, whatever a library's error quotes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from ledger.interface import IntakeRecord, Ledger
from streams.dead_letters import EXPLANATION_CHARACTERS_MAX, DeadLetters, time_of
from streams.keys import Keys
from streams.logs import JsonFormatter
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record

CARD = "4957030420210462"


class Taken:
    """A ledger and a publisher that take everything."""

    def __init__(self) -> None:
        self.headers: dict[str, bytes] = {}

    async def record_intake(self, _: IntakeRecord) -> None:
        """Remembered."""

    async def publish_bytes(self, _: str, __: bytes, ___: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Published."""
        self.headers = dict(headers)


@pytest.mark.parametrize("written", [CARD, f"pan{CARD}", f"b'\\n{CARD}'", "4957.0304.2021.0462"])
async def test_k6_a_dead_letter_quotes_no_card_number(
    keys: Keys, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    """K6, P6, S1-11: neither in its headers nor in the log, also where the text is cut."""
    taken = Taken()
    letters = DeadLetters(
        cast("Ledger", taken), cast("Publisher", cast("Any", taken)), keys, prefix="", metrics=Metrics()
    )
    record = Record("payout_requests", 0, 7, datetime(2026, 3, 1, tzinfo=UTC), None, b"value", ())
    for before in (0, EXPLANATION_CHARACTERS_MAX - 9):
        await letters.set_aside(record, "MALFORMED", "x" * before + f" invalid literal {written} of user@example.com")
        told = taken.headers["error"].decode() + "".join(JsonFormatter("w").format(line) for line in caplog.records)
        for part in (CARD[:8], CARD[-8:], "2021", "example.com"):
            assert part not in told


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2026-03-01T12:00:00+00:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T14:00:00+02:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00", None),
        ("0001-01-01T00:00:00+00:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("yesterday", None),
    ],
)
def test_only_a_time_that_a_broker_can_have_taken_a_record_at_is_believed(text: str, taken: datetime | None) -> None:
    """L11: anybody may write the header; no row, report or page may break on it."""
    assert time_of(text) == taken
