"""What a reconciliation costs for each payout: time to judge it, memory for what was told and listed of it.

    python -m bench.reconcile [--payouts 100000]

Judging is pure; it is measured against the bare look-ups in the two dictionaries that it cannot do without, in the same
run. Reading topics, report and ledger comes on top, and takes as long as the servers take.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

from processors.payout.row import CompensationState, PayoutState
from processors.reconciliation.compare import Terms, judge
from processors.reconciliation.sides import NOTHING_TOLD, LedgerPayout, ResultTold, Told, VisaReport
from processors.visa.transaction_report import Movement, ReportRow

NOW: Final = datetime(2026, 11, 28, 6, 30, tzinfo=UTC)
NOON: Final = datetime(2026, 11, 27, 12, tzinfo=UTC)
DAY: Final = date(2026, 11, 27)
REFERENCE: Final = "633112000000"
FIRST_TRACE: Final = 100_000
ROUNDS: Final = 3


def payout(number: int) -> LedgerPayout:
    """Paid, told and listed."""
    return LedgerPayout(
        payout_id=f"pay-{number}", amount_minor=1999, currency="USD", state=PayoutState.PAID, state_version=6,
        state_at=NOON, received_at=NOON, is_account_payout=False, systems_trace_audit_number=FIRST_TRACE + number,
        retrieval_reference_number=REFERENCE, first_intent_at=NOON, last_intent_at=NOON, ambiguous=False,
        funding_captured=True, receipt_owned=True, compensation=CompensationState.NONE, compensation_version=0,
        compensation_at=None, returned_at=None, returned_version=0,
    )  # fmt: skip


def row(number: int) -> ReportRow:
    """Visa's line of it."""
    return ReportRow(
        movement=Movement.PUSH, state="CRED VOUCHER", transaction_id=f"{528_706_215_000_000 + number}",
        systems_trace_audit_number=FIRST_TRACE + number, retrieval_reference_number=REFERENCE, acquiring_bin="408999",
        card_acceptor_id="ACCEPTOR", amount_minor=1999, currency="USD", transaction_date=DAY, processing_date=DAY,
        reason=None, transaction_time="120000", approval_code="082541",
    )  # fmt: skip


def told(number: int) -> Told:
    """Its result."""
    return Told({6: ResultTold("PAID", 1999, "USD")}) if number >= 0 else NOTHING_TOLD


def grown(make: Callable[[], object]) -> tuple[object, int]:
    """What was made, and the bytes that it takes."""
    tracemalloc.start()
    made = make()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, size


def main() -> None:
    """Measure, and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--payouts", type=int, default=100_000)
    count = parser.parse_args().payouts
    payouts = [payout(number) for number in range(count)]
    topics, told_bytes = grown(lambda: {f"pay-{number}": told(number) for number in range(count)})
    report, listed_bytes = grown(lambda: VisaReport.of(map(row, range(count)), DAY, DAY + timedelta(days=1)))
    assert isinstance(topics, dict)
    assert isinstance(report, VisaReport)
    terms = Terms(NOW, NOON - timedelta(hours=14), NOON - timedelta(hours=14), report)
    judged, looked_up = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        differences = sum(len(judge(one, topics[one.payout_id], terms).differences) for one in payouts)
        judged.append(time.perf_counter() - begun)
        assert differences == 0, "everything agrees"
        begun = time.perf_counter()
        sum(topics[one.payout_id] is not None and one.numbers in report.pushes for one in payouts)
        looked_up.append(time.perf_counter() - begun)
    print(
        f"judged   {min(judged) / count * 1e6:.1f} µs a payout, {min(judged) / min(looked_up):.1f} times the look-ups"
    )
    print(f"told     {told_bytes / count:.0f} bytes a payout")
    print(f"listed   {listed_bytes / count:.0f} bytes a payout")


if __name__ == "__main__":
    main()
