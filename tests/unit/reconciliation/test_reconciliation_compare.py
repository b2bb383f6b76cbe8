"""S4-23, S4-30: what disagrees between ledger, topics and Visa is found, and what is only under way is not.

The good case is one payout in which everything agrees; each test injects one mismatch into it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.row import TERMINAL_STATES, UNPAID_ENDS, CompensationState, PayoutState
from processors.reconciliation.compare import PATIENCE, REPORT_PATIENCE, Terms, judge, moved_of, strangers
from processors.reconciliation.exception_kinds import MONEY_AT_RISK, TREATMENT, ExceptionKind, Severity, Side
from processors.reconciliation.sides import LedgerPayout, ResultTold, Told, VisaReport
from processors.visa.transaction_report import Movement, ReportRow

NOW: Final = datetime(2026, 11, 28, 6, 30, tzinfo=UTC)
SENT: Final = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
SINCE: Final = datetime(2026, 11, 26, 22, 0, tzinfo=UTC)
DAY: Final = date(2026, 11, 27)
STAN, RRN = 100_001, "633112000001"


def payout(**changes: Any) -> LedgerPayout:
    """Paid on the day, by card, told and listed."""
    values: dict[str, Any] = {
        "payout_id": "pay-1", "amount_minor": 1999, "currency": "USD", "state": PayoutState.PAID, "state_version": 6,
        "state_at": SENT + timedelta(seconds=2), "received_at": SENT - timedelta(seconds=1),
        "is_account_payout": False, "systems_trace_audit_number": STAN, "retrieval_reference_number": RRN,
        "first_intent_at": SENT, "last_intent_at": SENT, "ambiguous": False, "funding_captured": True,
        "receipt_owned": True, "compensation": CompensationState.NONE, "compensation_version": 0,
        "compensation_at": None, "returned_at": None, "returned_version": 0,
    }  # fmt: skip
    return LedgerPayout(**values | changes)


def unpaid(state: PayoutState = PayoutState.DECLINED, **changes: Any) -> LedgerPayout:
    """Ended without payment; its funding was handed back, and both was told."""
    values: dict[str, Any] = {
        "state": state, "compensation": CompensationState.COMPENSATED, "compensation_version": 9,
        "compensation_at": SENT + timedelta(minutes=1),
    }  # fmt: skip
    return payout(**values | changes)


def row(movement: Movement = Movement.PUSH, **changes: Any) -> ReportRow:
    values: dict[str, Any] = {
        "movement": movement, "state": "CRED VOUCHER" if movement is Movement.PUSH else "CRED REVERSAL",
        "transaction_id": "528706215101", "systems_trace_audit_number": STAN, "retrieval_reference_number": RRN,
        "acquiring_bin": "408999", "card_acceptor_id": "ACCEPTOR", "amount_minor": 1999, "currency": "USD",
        "transaction_date": DAY, "processing_date": DAY, "reason": None,
    }  # fmt: skip
    return ReportRow(**values | changes)


def told_of(one: LedgerPayout) -> Told:
    """Everything that this row publishes."""
    told = Told()
    if one.state in TERMINAL_STATES:
        told.add_result(one.state_version, ResultTold(one.state.value, one.amount_minor, one.currency))
        if one.compensation is not CompensationState.NONE:
            told.add_demand(one.state_version)
        if one.compensation in (CompensationState.COMPENSATED, CompensationState.MANUAL):
            told.add_compensation(one.compensation_version, one.compensation.value)
    if one.returned_at is not None:
        told.add_result(one.returned_version, ResultTold("RETURNED", one.amount_minor, one.currency))
    return told


def report(*rows: ReportRow, first: date = date(2026, 11, 22), last: date = date(2026, 11, 28)) -> VisaReport:
    return VisaReport.of(rows, first, last)


def terms(visa: VisaReport | None, since: datetime | None = SINCE) -> Terms:
    return Terms(NOW, SINCE, since, visa)


def kinds(one: LedgerPayout, visa: VisaReport | None, told: Told | None = None) -> list[ExceptionKind]:
    judgement = judge(one, told_of(one) if told is None else told, terms(visa))
    return [difference.kind for difference in judgement.differences]


LISTED: Final = report(row())
NOTHING_LISTED: Final = report()


def test_s4_23_what_agrees_is_matched_and_its_money_is_counted_on_both_sides() -> None:
    """S4-23: ledger, result and Visa's report say the same."""
    judgement = judge(payout(), told_of(payout()), terms(LISTED))
    assert (judgement.differences, judgement.awaited) == ((), False)
    assert (judgement.paid_here_minor, judgement.paid_at_visa) == (1999, (("USD", 1999),))
    assert kinds(unpaid(), NOTHING_LISTED) == []
    assert kinds(payout(is_account_payout=True), NOTHING_LISTED) == [], "no report knows accounts"


@pytest.mark.parametrize(
    ("one", "visa", "expected"),
    [
        (payout(), NOTHING_LISTED, [ExceptionKind.NOT_AT_VISA]),
        (payout(), report(row(amount_minor=2000)), [ExceptionKind.AMOUNT_MISMATCH]),
        (payout(), report(row(currency="EUR")), [ExceptionKind.CURRENCY_MISMATCH]),
        (payout(), report(row(), row(transaction_id="528706215102")), [ExceptionKind.PAID_TWICE]),
        (payout(), report(row(), row(approval_code="082541")), [ExceptionKind.PAID_TWICE]),
        (payout(), report(row(), row(transaction_time="120001")), [ExceptionKind.PAID_TWICE]),
        (payout(), report(row(transaction_date=date(2026, 11, 29))), [ExceptionKind.PAID_TWICE]),
        (payout(), report(row(), row(Movement.OTHER)), [ExceptionKind.UNKNOWN_MOVEMENT]),
        (payout(), report(row(amount_minor=None)), [ExceptionKind.NOT_COMPARED]),
        (payout(), report(first=date(2026, 11, 28)), [ExceptionKind.NOT_COMPARED]),
        (unpaid(), report(first=date(2026, 11, 28)), [ExceptionKind.NOT_COMPARED]),
        (
            unpaid(compensation_reason_code="APPROVED_AFTER_UNPAID_END"),
            NOTHING_LISTED,
            [ExceptionKind.COMPENSATED_AND_PAID],
        ),
        (
            unpaid(compensation=CompensationState.MANUAL, hold_reason="APPROVED_AFTER_UNPAID_END"),
            NOTHING_LISTED,
            [ExceptionKind.LEDGER_MISMATCH],
        ),
        (payout(), report(row(), row(Movement.PUSH_REVERSED)), [ExceptionKind.REVERSED_AT_VISA]),
        (payout(), report(row(), row(Movement.PUSH_CHARGED_BACK)), [ExceptionKind.REVERSED_AT_VISA]),
        (unpaid(), LISTED, [ExceptionKind.COMPENSATED_AND_PAID]),
        (unpaid(compensation=CompensationState.MANUAL), LISTED, [ExceptionKind.LEDGER_MISMATCH]),
        (
            unpaid(receipt_owned=False, compensation=CompensationState.NONE, compensation_at=None),
            LISTED,
            [ExceptionKind.LEDGER_MISMATCH],
        ),
        (payout(state=PayoutState.UNKNOWN), LISTED, [ExceptionKind.MISSING_ACK]),
        (payout(state=PayoutState.SUBMITTING), LISTED, [ExceptionKind.MISSING_ACK]),
        (
            unpaid(compensation=CompensationState.NONE, compensation_at=None),
            NOTHING_LISTED,
            [ExceptionKind.COMPENSATION_MISSING],
        ),
        (payout(compensation=CompensationState.RUNNING), LISTED, [ExceptionKind.COMPENSATED_AND_PAID]),
    ],
)
def test_s4_30_each_mismatch_with_visa_has_its_type(
    one: LedgerPayout, visa: VisaReport, expected: list[ExceptionKind]
) -> None:
    """S4-30, E6: missing, extra, amount, currency and status mismatches, each under its own name and no other."""
    assert kinds(one, visa) == expected


@pytest.mark.parametrize(
    ("one", "told", "expected"),
    [
        (payout(), Told(), [ExceptionKind.RESULT_MISSING]),
        (payout(), Told({6: ResultTold("DECLINED", 1999, "USD")}), [ExceptionKind.RESULT_DIFFERS]),
        (payout(), Told({6: ResultTold("PAID", 2000, "USD")}), [ExceptionKind.RESULT_DIFFERS]),
        (payout(), Told({6: ResultTold("PAID", 1999, "EUR")}), [ExceptionKind.RESULT_DIFFERS]),
        (
            payout(),
            Told({6: ResultTold("PAID", 1999, "USD"), 8: ResultTold("DECLINED", 1999, "USD")}),
            [ExceptionKind.RESULT_DIFFERS],
        ),
        (
            payout(returned_at=SENT + timedelta(hours=1), returned_version=8),
            Told({6: ResultTold("PAID", 1999, "USD")}),
            [ExceptionKind.RESULT_MISSING],
        ),
        (
            unpaid(),
            Told({6: ResultTold("DECLINED", 1999, "USD")}, set(), {9: "COMPENSATED"}),
            [ExceptionKind.COMPENSATION_NOT_TOLD],
        ),
        (
            unpaid(),
            Told({6: ResultTold("DECLINED", 1999, "USD")}, {6}, {}),
            [ExceptionKind.COMPENSATION_NOT_TOLD],
        ),
        (
            payout(state=PayoutState.UNKNOWN, state_version=7),
            Told({6: ResultTold("PAID", 1999, "USD")}),
            [ExceptionKind.RESULT_DIFFERS],
        ),
        (
            payout(),
            Told({6: ResultTold("PAID", 1999, "USD")}, contradicted={6}),
            [ExceptionKind.RESULT_DIFFERS],
        ),
    ],
)
def test_s4_30_each_mismatch_with_the_topics_has_its_type(
    one: LedgerPayout, told: Told, expected: list[ExceptionKind]
) -> None:
    """S4-30, K2, K3: not told, told something else, told more than the ledger knows."""
    visa = LISTED if one.state is PayoutState.PAID else None
    assert kinds(one, visa, told) == expected


def test_l11_two_events_of_a_version_that_differ_contradict_each_other() -> None:
    """L11, K3: one of them is of another copy of the ledger; the same event twice is a repeat."""
    told = Told()
    for status in ("PAID", "PAID"):
        told.add_result(6, ResultTold(status, 1999, "USD"))
    assert told.contradicted == set()
    told.add_result(6, ResultTold("DECLINED", 1999, "USD"))
    assert (told.contradicted, told.results[6].status) == ({6}, "PAID")


def test_k3_an_event_that_a_later_one_replaced_is_no_difference() -> None:
    """K3: consumers keep the highest version; an end that an operator undid and that came again is one end."""
    told = Told({4: ResultTold("DECLINED", 1999, "USD"), 6: ResultTold("PAID", 1999, "USD")})
    assert kinds(payout(), LISTED, told) == []


@pytest.mark.parametrize("young", [timedelta(0), PATIENCE - timedelta(seconds=1)])
def test_what_is_only_under_way_is_awaited_and_no_exception(young: timedelta) -> None:
    """S4-23: the sides are read one after the other; a step of the last minutes may be on one side only."""
    at = NOW - young
    fresh = payout(state_at=at, received_at=at, first_intent_at=at, last_intent_at=at)
    judgement = judge(fresh, Told(), terms(NOTHING_LISTED))
    assert (judgement.differences, judgement.awaited) == ((), True)
    asked = replace(fresh, state=PayoutState.UNKNOWN)
    judgement = judge(asked, Told(), terms(report(row(transaction_date=at.date()))))
    assert (judgement.differences, judgement.awaited) == ((), True)


def test_what_visas_report_cannot_have_yet_or_does_not_cover_is_awaited() -> None:
    """S4-23: a report of other days, and one that is made of what is younger than two hours, misses nothing."""
    late = NOW - REPORT_PATIENCE + timedelta(seconds=1)
    paid_late = payout(state_at=late, first_intent_at=late, last_intent_at=late)
    for one, visa in (
        (paid_late, NOTHING_LISTED),
        (payout(last_intent_at=datetime(2026, 11, 27, 23, 30, tzinfo=UTC)), report(last=DAY)),
        (unpaid(last_intent_at=datetime(2026, 11, 27, 23, 30, tzinfo=UTC)), report(last=DAY)),
        (replace(payout(), last_intent_at=NOW, state_at=NOW - timedelta(hours=3)), NOTHING_LISTED),
        (payout(), report(row(amount_minor=None, currency="USD", transaction_date=NOW.date()))),
    ):
        judgement = judge(one, told_of(one), terms(visa))
        assert (judgement.differences, judgement.awaited) == ((), True)
    sent_before = replace(paid_late, last_intent_at=SENT, first_intent_at=SENT)
    assert kinds(replace(sent_before, state_at=NOW - REPORT_PATIENCE), NOTHING_LISTED) == [ExceptionKind.NOT_AT_VISA]
    impatient = Terms(NOW, SINCE, SINCE, NOTHING_LISTED, timedelta(0), timedelta(0))
    found = judge(paid_late, told_of(paid_late), impatient).differences
    assert [difference.kind for difference in found] == [ExceptionKind.NOT_AT_VISA], "who has no patience hears of it"


def test_what_ended_before_and_is_not_covered_was_compared_on_its_day() -> None:
    """S4-23: a compensation of today does not make a payout of last month one that nobody compared."""
    of_before = unpaid(state_at=SINCE - timedelta(days=20), first_intent_at=SENT - timedelta(days=20))
    judgement = judge(
        replace(of_before, last_intent_at=of_before.first_intent_at), told_of(of_before), terms(NOTHING_LISTED)
    )
    assert (judgement.differences, judgement.awaited) == ((), False)
    assert Side.VISA not in judgement.settled


def test_a_side_that_was_not_read_is_missed_in_nothing() -> None:
    """S4-23: without topics or report there is no word about them."""
    judgement = judge(payout(), Told(), terms(None, None))
    assert (judgement.differences, judgement.awaited) == ((), False)
    assert (judgement.paid_here_minor, judgement.paid_at_visa) == (0, ())


def test_p4_money_under_numbers_that_no_payout_has_is_found() -> None:
    """P4, S1: what Visa moved for us and nobody asked for; what was taken back again is none."""
    other = row(retrieval_reference_number="633112000002", transaction_id="528706215199")
    visa = report(row(), other)
    assert visa.of_days(DAY) == {(STAN, RRN), (STAN, "633112000002")}
    assert visa.of_days(DAY + timedelta(days=1)) == set()
    found = list(strangers(visa, {(STAN, "633112000002")}))
    assert [(numbers, difference.kind) for numbers, _, difference in found] == [
        ((STAN, "633112000002"), ExceptionKind.NOT_IN_LEDGER)
    ]
    reversed_too = report(row(), other, replace(other, movement=Movement.PUSH_REVERSED))
    assert list(strangers(reversed_too, {(STAN, "633112000002")})) == []


def test_the_same_line_twice_is_one_and_a_reversal_takes_back_one() -> None:
    """Visa's own example lists a row twice; two transactions of which one was reversed are one payment."""
    assert kinds(payout(), report(row(), row())) == []
    twice = [row(), row(transaction_id="528706215102")]
    assert kinds(payout(), report(*twice, row(Movement.PUSH_REVERSED, transaction_id="528706215102"))) == []
    assert kinds(payout(), report(*twice, row(Movement.PUSH_REVERSED, transaction_id="another"))) == []
    assert moved_of([*twice, row(Movement.PUSH_REVERSED)]) == [twice[1]]


def test_what_visa_wrote_into_its_log_on_a_day_is_of_that_day() -> None:
    """S4-23: a chargeback keeps the day of its push; the day's run judges its payout all the same."""
    later = DAY + timedelta(days=30)
    charged_back = row(Movement.PUSH_CHARGED_BACK, processing_date=later)
    assert report(row(), charged_back, last=later).of_days(later) == {(STAN, RRN)}


@pytest.mark.parametrize(
    ("one", "visa", "since", "settled"),
    [
        (payout(), LISTED, SINCE, {Side.LEDGER, Side.TOPICS, Side.VISA}),
        (payout(), None, SINCE, {Side.LEDGER, Side.TOPICS}),
        (payout(), LISTED, None, {Side.LEDGER, Side.VISA}),
        (payout(), report(row(), first=date(2026, 11, 28)), SINCE, {Side.LEDGER, Side.TOPICS}),
        (payout(is_account_payout=True), NOTHING_LISTED, SINCE, {Side.LEDGER, Side.TOPICS, Side.VISA}),
        (payout(state_at=NOW), NOTHING_LISTED, SINCE, {Side.LEDGER}),
    ],
)
def test_s4_30_a_side_has_said_everything_only_where_it_was_read_and_nothing_is_awaited(
    one: LedgerPayout, visa: VisaReport | None, since: datetime | None, settled: set[Side]
) -> None:
    """S4-30: what was found once is gone only when somebody who would know does not say it any more."""
    assert judge(one, told_of(one), terms(visa, since)).settled == settled


@pytest.mark.parametrize(
    "one",
    [payout(state_at=SINCE - timedelta(hours=1)), unpaid(compensation_at=SINCE - timedelta(hours=1))],
)
def test_s4_30_what_was_told_before_the_events_that_were_read_is_not_missed_and_not_mended(one: LedgerPayout) -> None:
    """S4-30: a later day's run neither finds a result of before missing nor says that it is there now."""
    visa = LISTED if one.state is PayoutState.PAID else None
    told = told_of(one)
    if one.state is PayoutState.PAID:
        told.results = {}
    told.compensations = {}
    judgement = judge(one, told, terms(visa))
    assert (judgement.differences, Side.TOPICS in judgement.settled) == ((), False)
    assert Side.TOPICS in judge(one, told_of(one), terms(visa)).settled, "it was told, and read"


def test_every_kind_has_an_owner_a_side_and_a_first_step() -> None:
    """S4-30: exceptions of the reconciliation have types and an owner."""
    assert set(TREATMENT) == set(ExceptionKind)
    assert all(known.owner in ("treasury", "operators") and known.first for known in TREATMENT.values())
    assert {known.side for known in TREATMENT.values()} == set(Side)
    assert {kind for kind in ExceptionKind if TREATMENT[kind].severity is Severity.MONEY} == MONEY_AT_RISK


MOVEMENTS: Final = st.lists(
    st.tuples(st.sampled_from([Movement.PUSH, Movement.PUSH_REVERSED]), st.sampled_from(["1", "2", "3"])), max_size=6
)


@given(
    state=st.sampled_from(list(PayoutState)),
    compensation=st.sampled_from(list(CompensationState)),
    movements=MOVEMENTS,
)
def test_p4_whatever_stands_at_visa_is_paid_here_or_an_exception(
    state: PayoutState, compensation: CompensationState, movements: list[tuple[Movement, str]]
) -> None:
    """P4: no state of a payout hides money that Visa moved, and none claims money that Visa did not."""
    one = payout(state=state, compensation=compensation, compensation_at=SENT, compensation_version=9)
    rows = [row(movement, transaction_id=name) for movement, name in movements]
    judgement = judge(one, told_of(one), terms(report(*rows)))
    standing = {name for movement, name in movements if movement is Movement.PUSH}
    standing -= {name for movement, name in movements if movement is not Movement.PUSH}
    others = {name for movement, name in movements if movement is not Movement.PUSH}
    others -= {name for movement, name in movements if movement is Movement.PUSH}
    paid = max(0, len(standing) - len(others))
    found = {difference.kind for difference in judgement.differences}
    assert judgement.paid_at_visa == (("USD", 1999),) * paid
    assert (ExceptionKind.PAID_TWICE in found) == (paid > 1)
    if state is PayoutState.PAID:
        assert bool(found & {ExceptionKind.NOT_AT_VISA, ExceptionKind.REVERSED_AT_VISA}) == (paid == 0)
    elif paid:
        unpaid_end = {ExceptionKind.LEDGER_MISMATCH, ExceptionKind.COMPENSATED_AND_PAID}
        assert found & (unpaid_end if state in UNPAID_ENDS else {ExceptionKind.MISSING_ACK})
    if not found:
        assert (judgement.paid_here_minor, sum(minor for _, minor in judgement.paid_at_visa)) in ((1999, 1999), (0, 0))
