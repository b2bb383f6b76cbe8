"""Lines of a history as the audit seals them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.seal_chain import EMPTY, Line, Origin, sealed

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ORIGIN = Origin("7440000000000000001", 1, 17)


def line(number: int, **changes: Any) -> Line:
    """The history's line of this number, with whatever shall be different."""
    values: dict[str, Any] = {
        "history_id": number,
        "at": AT + timedelta(seconds=number),
        "actor": "worker-1",
        "transition": "cleared",
        "payout_id": f"payout-{number:08d}",
        "version": 3,
        "from_state": "VALIDATED",
        "to_state": "CLEARED",
        "detail": {"reason_code": "NO_MATCH", "score": number},
    }
    return Line(**(values | changes))


def chain_of(length: int) -> list[dict[str, Any]]:
    """The first records of a chain."""
    return sealed(EMPTY, [line(number) for number in range(1, length + 1)], ORIGIN)
