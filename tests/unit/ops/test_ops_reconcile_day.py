"""S4-23, S4-30: how a day is counted, and which exceptions a run may close."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from ops.reconcile_day import OVERLAP, WITHHELD, Asked, Outcome, Sides, closed_by, count, is_of_the_day, unknown_at_visa
from ops.reconcile_events import Topics
from ops.reconcile_sides import days_around, is_ours
from ops.report_queries import Span
from processors.payout.row import PayoutState
from processors.reconciliation.compare import Difference, Judgement
from processors.reconciliation.exception_kinds import TREATMENT, ExceptionKind, Side
from processors.visa.transaction_report import Movement
from streams.settings import Settings
from tests.unit.reconciliation.test_reconciliation_compare import DAY, SENT, STAN, payout, report, row

SPAN = Span.of(DAY, 1, ZoneInfo("UTC"))
EVERY_SIDE = frozenset(Side)
AGREES = Judgement((), awaited=False, settled=EVERY_SIDE, paid_here_minor=1999, paid_at_visa=(("USD", 1999),))
AWAITED = Judgement((), awaited=True, settled=frozenset(), paid_here_minor=0, paid_at_visa=())
DIFFERS = replace(AGREES, differences=(Difference(ExceptionKind.NOT_AT_VISA, "not there"),), paid_at_visa=(("EUR", 5),))


def test_s4_23_payouts_are_matched_unmatched_or_awaited_and_summed_per_currency() -> None:
    """S4-23: every payout of the day is one of the three; the difference is what Visa moved more."""
    outcome = Outcome()
    for one, judgement in (
        (payout(), AGREES),
        (payout(payout_id="pay-2"), DIFFERS),
        (payout(payout_id="pay-3", state=PayoutState.UNKNOWN), AWAITED),
        (payout(payout_id="pay-4", currency="JPY", amount_minor=500), replace(AGREES, paid_here_minor=500)),
    ):
        count(outcome, one, SPAN, judgement)
    assert (outcome.matched, outcome.unmatched, outcome.awaited) == (2, 1, 1)
    assert dict(outcome.states) == {"PAID": 3, "UNKNOWN": 1}
    dollars = outcome.money["USD"]
    assert (dollars.requested, dollars.paid, dollars.ledger, dollars.visa) == (3 * 1999, 2 * 1999, 2 * 1999, 2 * 1999)
    assert dollars.difference == 0
    assert outcome.money["EUR"].difference == 5, "what Visa moved in another currency is in that one's sum"
    assert set(outcome.money) == {"USD", "JPY", "EUR"}
    (found,) = outcome.found.values()
    assert (found.kind, found.subject, found.amount_minor) == ("NOT_AT_VISA", "pay-2", 1999)


def test_s4_23_what_is_only_of_the_overlap_is_judged_and_not_counted() -> None:
    """S4-23: the last hours of the day before are judged again, without being in two days' sums."""
    before = SPAN.begin - timedelta(minutes=30)
    late = payout(received_at=before, state_at=before, first_intent_at=before, last_intent_at=before)
    assert not is_of_the_day(late, SPAN)
    assert before >= SPAN.begin - OVERLAP
    outcome = Outcome()
    count(outcome, late, SPAN, AGREES)
    assert (outcome.matched, outcome.money) == (0, {})
    count(outcome, late, SPAN, DIFFERS)
    assert (outcome.unmatched, len(outcome.found)) == (1, 1)
    assert is_of_the_day(replace(late, state_at=SENT), SPAN), "it ended on the day"


def test_s4_30_of_a_payout_two_differences_of_a_kind_are_one_exception() -> None:
    """S4-30: a kind and a subject are one line, with both details."""
    outcome = Outcome()
    outcome.add(ExceptionKind.COMPENSATION_NOT_TOLD, "pay-1", "no demand", 1, "USD")
    outcome.add(ExceptionKind.COMPENSATION_NOT_TOLD, "pay-1", "no result", 1, "USD")
    outcome.add(ExceptionKind.RESULT_MISSING, "pay-1", "x" * 5000, 1, "USD")
    assert [one.detail for one in outcome.found.values()] == ["no demand; no result", "x" * 1000]


def test_p6_what_looks_like_a_card_number_is_kept_nowhere() -> None:
    """P6: an originator may call a payout by a card's number; the exceptions do not repeat it."""
    outcome = Outcome()
    outcome.add(ExceptionKind.REQUEST_NOT_IN_LEDGER, "4111111111111111", "committed", None, None)
    assert [one.subject for one in outcome.found.values()] == [WITHHELD]


def test_s4_30_money_that_no_payout_asked_for_is_counted_at_visa() -> None:
    """S4-30, P4: known by its numbers; also what cannot be read."""
    other = row(retrieval_reference_number="633112000002", amount_minor=700)
    unread = row(Movement.OTHER, retrieval_reference_number="633112000003", amount_minor=None)
    outcome = Outcome()
    unnamed = {(STAN, "633112000002"), (STAN, "633112000003")}
    unknown_at_visa(outcome, report(row(), other, unread), unnamed)
    assert set(outcome.found) == {
        (ExceptionKind.NOT_IN_LEDGER, f"visa RRN 633112000002 STAN {STAN}"),
        (ExceptionKind.NOT_IN_LEDGER, f"visa RRN 633112000003 STAN {STAN}"),
    }
    assert (outcome.unmatched, outcome.money["USD"].visa, outcome.money["USD"].ledger) == (2, 700, 0)


@pytest.mark.parametrize(
    ("zone", "begins"),
    [("UTC", "2026-11-26T22:00"), ("Europe/Vienna", "2026-11-26T21:00"), ("America/Los_Angeles", "2026-11-26T22:00")],
)
def test_s4_23_a_day_begins_with_visas_or_with_ours_whichever_is_earlier(zone: str, begins: str) -> None:
    """S4-23: Visa's report is of days in GMT; west of it, what is after midnight there would be nobody's."""
    asked = Asked(DAY, Span.of(DAY, 1, ZoneInfo(zone)), SENT)
    assert asked.begin.astimezone(ZoneInfo("UTC")).isoformat(timespec="minutes") == f"{begins}+00:00"


@pytest.mark.parametrize("requests", [True, False])
@pytest.mark.parametrize("visa", [True, False])
@pytest.mark.parametrize("topics", [True, False])
def test_s4_30_a_run_closes_only_what_it_was_told_everything_about(topics: bool, visa: bool, requests: bool) -> None:
    """S4-30: an exception of a side that was not read, or about a payout of which it said nothing, stays open."""
    outcome = Outcome()
    for side, subject in zip(Side, ("pay-1", "pay-2", "pay-3"), strict=True):
        outcome.settled[side].add(subject)
    sides = Sides(Topics({}) if topics else None, report() if visa else None, requests)
    closes: dict[str, set[str] | None] = {}
    for closed in closed_by(sides, outcome):
        closes.update(dict.fromkeys(closed.kinds, None if closed.subjects is None else set(closed.subjects)))
    for kind, known in TREATMENT.items():
        match kind:
            case ExceptionKind.NOT_IN_LEDGER:
                assert (kind in closes) == visa
            case ExceptionKind.RESULT_NOT_IN_LEDGER:
                assert (kind in closes) == topics
            case ExceptionKind.REQUEST_NOT_IN_LEDGER:
                assert (kind in closes) == requests
            case _:
                assert closes[kind] == outcome.settled[known.side]


def test_s4_23_a_file_covers_the_days_around_without_a_gap() -> None:
    """S4-23: one chargeback of last month does not make it a report of the month."""
    days = {DAY + timedelta(days=days) for days in (-40, -3, -1, 0, 1)}
    assert days_around(DAY, days) == (DAY - timedelta(days=1), DAY + timedelta(days=1))
    assert days_around(DAY, {DAY}) == (DAY, DAY)


def test_s4_23_ours_is_what_our_bin_and_card_acceptor_sent() -> None:
    """S4-23: others may send under the same enrolment."""
    settings = Settings.model_validate({"visa_acquiring_bin": "408999", "visa_card_acceptor_id": "ACCEPTOR"})
    assert is_ours(row(), settings)
    assert is_ours(row(card_acceptor_id=None, acquiring_bin="00408999"), settings)
    assert not is_ours(row(card_acceptor_id="ANOTHER"), settings)
    assert not is_ours(row(acquiring_bin="400000"), settings)
