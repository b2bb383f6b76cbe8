"""The verdict: clean on a clean run, and every kind of wrong seen, each counted once (design 10).

P1 to P5, L1, L7, K3, S8, C1, C2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.auditor import verdict as verdict_module
from sandbox.auditor.evidence import (
    Accepted,
    CardPull,
    CompensationDemand,
    CompensationEnd,
    Evidence,
    Intake,
    Leak,
    LedgerRow,
    Position,
    ResultEvent,
    StandInEntry,
)
from sandbox.auditor.leak import CardNumberSearch
from sandbox.auditor.report import write_report
from sandbox.auditor.verdict import ZERO_TERMS, Finding, Verdict
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from schemas.sender_reference import sender_reference
from tests.unit.auditor.clean_run import (
    ADJUSTED_PULL,
    CARD,
    KEY,
    NOW,
    PULL,
    RECEIVED_AT,
    STUCK_AFTER_SECONDS,
    Planted,
    Run,
    clean_run,
)


def zeros(verdict: Verdict) -> dict[str, int]:
    """The terms of the line that are not zero."""
    return {term: verdict.count(term) for term in ZERO_TERMS if verdict.count(term)}


def test_clean_run_gives_the_line_word_for_word() -> None:
    """Design 10: the terms, their order and their spelling."""
    verdict = clean_run().judge(kills=1, freezes=2, broker_kills=3, db_kills=4, cuts=5, api_faults=6, seed=7)
    assert verdict.problems() == []
    assert verdict.clean
    assert verdict.line() == (
        "verdict accepted=17 payouts=14 paid=3 declined=3 rejected=1 denied=1 expired=1 failed=1 cancelled=1 "
        "in_review=1 held=1 unknown=1 refused=1 dead_letters=1 lost=0 double=0 stuck=0 phantom=0 orphan=0 "
        "comp_double=0 leak=0 kills=1 freezes=2 broker_kills=3 db_kills=4 cuts=5 api_faults=6 seed=7"
    )


def test_nothing_accepted_is_a_clean_run() -> None:
    assert Run().judge().clean


# One planted violation a kind: what breaks the evidence, which terms of the line show it, whom the sentence names.


def lost_result(run: Run) -> None:
    run.evidence.results = [result for result in run.evidence.results if result.payout_id != "paid-kwd"]


def lost_row(run: Run) -> None:
    run.accept("never-seen")


def lost_repeat(run: Run) -> None:
    """A repeat of a payout that has ended, of which nothing came: the record is lost, not the payout."""
    run.accept("paid-usd")


def lost_bytes(run: Run) -> None:
    run.accept(None, amount_minor=None, currency=None, recipient=None)


def lost_with_its_cluster(run: Run) -> None:
    """A servers' loss: acknowledged by the cluster before, in no backup, and not sent again."""
    gone = Accepted(Position("payout_requests", 0, 99), "gone", "9" * 64, 2_500, "USD")
    run.evidence.earlier = Evidence(KEY, accepted=[gone])


def lost_both_records(run: Run) -> None:
    """Two records of one payout and nothing of either: one payout is lost."""
    run.accept("never-seen")
    run.accept("never-seen")


def double_second_payment(run: Run) -> None:
    """Under other numbers of ours, and with another of Visa's: only reference, amount and recipient join them."""
    run.add_entry(run.approved("paid-usd"), transaction_identifier="299999999999999")


def double_third_payment(run: Run) -> None:
    double_second_payment(run)
    double_second_payment(run)


def double_other_amount(run: Run) -> None:
    change_payment(run, "paid-kwd", amount="12.350")


def double_other_currency(run: Run) -> None:
    change_payment(run, "paid-kwd", currency="BHD")


def double_amount_that_is_none(run: Run) -> None:
    change_payment(run, "paid-jpy", amount="5000.5")


def double_other_recipient(run: Run) -> None:
    change_payment(run, "paid-jpy", recipient_fingerprint=recipient_fingerprint(KEY, "tok_other"))


def stuck_cleared(run: Run) -> None:
    run.payout("waiting", "CLEARED")


def stuck_although_announced(run: Run) -> None:
    """A result that the row does not bear out: not lost, but stuck."""
    run.payout("paid-back", "PAID")
    run.change_row("paid-back", state="PENDING")


def stuck_young_unknown(run: Run) -> None:
    run.payout("young-unknown", "UNKNOWN", first_intent_at=NOW - timedelta(hours=22, minutes=59))


def phantom_row_and_result(run: Run) -> None:
    run.evidence.entries.remove(run.approved("paid-usd"))


def phantom_result(run: Run) -> None:
    run.evidence.results.append(ResultEvent("in-review", "result/in-review", "PAID", 2_500, "USD"))


def phantom_declined_payment(run: Run) -> None:
    """An entry is not enough: it must have moved money."""
    change_payment(run, "paid-usd", money_moved=False)


def orphan_unpaid_end(run: Run) -> None:
    run.entry("rejected", "25.00", "USD", run.evidence.accepted[0].recipient or "", money_moved=True)


def orphan_compensation_under_way(run: Run) -> None:
    run.change_row("paid-usd", compensation="RUNNING", compensation_at=NOW, compensation_executor="PROCESSOR")


def orphan_compensation_asked_for(run: Run) -> None:
    run.evidence.demands.append(CompensationDemand("paid-usd", "demand/paid-usd", "comp/paid-usd", "ORIGINATOR"))


def orphan_compensation_done(run: Run) -> None:
    end = CompensationEnd("paid-usd", "end/paid-usd", "COMPENSATED", "ORIGINATOR")
    run.evidence.compensation_ends.append(end)


def orphan_reversed_at_visa(run: Run) -> None:
    """The stand-in gave the pull back, and nothing of ours says so."""
    run.evidence.pulls.append(CardPull("399999999999999", "paid-usd"))
    reverse(run, "399999999999999")


def orphan_handed_back_by_its_originator(run: Run) -> None:
    """Whatever became of the demand, he gave the money back for a payout that was paid."""
    run.evidence.demands.append(CompensationDemand("paid-usd", "d", "comp/paid-usd", "ORIGINATOR", "originator"))
    run.confirm("paid-usd")


def orphan_resolved_as_not_paid(run: Run) -> None:
    """S6: the operators were wrong, and it must be seen."""
    run.payout("resolved", "FAILED")
    run.entry("resolved", "25.00", "USD", CARD, money_moved=True)


def phantom_resolved_as_paid(run: Run) -> None:
    """S6: two people said PAID, and the stand-in knows of no payment."""
    run.payout("resolved", "PAID")
    run.evidence.entries.remove(run.approved("resolved"))


def orphan_without_payout(run: Run) -> None:
    run.entry("of-nobody", "25.00", "USD", "tok_approve", money_moved=True)


def orphan_without_reference(run: Run) -> None:
    run.add_entry(run.approved("paid-usd"), sender_reference=None)


def comp_double_second_result(run: Run) -> None:
    end = CompensationEnd("declined-released", "end/again", "COMPENSATED", "ORIGINATOR")
    run.evidence.compensation_ends.append(end)


def comp_double_second_reversal(run: Run) -> None:
    reverse(run, PULL)


def comp_double_reversal_of_nobody(run: Run) -> None:
    reverse(run, "388888888888888")
    reverse(run, "388888888888888")


def comp_double_both_parties(run: Run) -> None:
    end = CompensationEnd("declined-reversed", "end/originator", "COMPENSATED", "ORIGINATOR")
    run.evidence.compensation_ends.append(end)


def comp_double_reversed_though_originator_acts(run: Run) -> None:
    run.evidence.pulls.append(CardPull("377777777777777", "denied"))
    reverse(run, "377777777777777")


def comp_double_second_adjustment(run: Run) -> None:
    """Visa protects no adjustment against a repeat."""
    reverse(run, ADJUSTED_PULL, "adjustment")


def comp_double_reversal_and_adjustment(run: Run) -> None:
    """C3: a reversal stays a reversal."""
    reverse(run, PULL, "adjustment")


def comp_double_confirmed_although_reversed(run: Run) -> None:
    """C2: our effect at Visa and the originator's word, whatever our own events say."""
    run.confirm("declined-reversed")


def comp_double_confirmed_twice(run: Run) -> None:
    """Two hand-backs under two references; our events told of one."""
    run.confirm("declined-released", reference="release-2")


def comp_double_asked_twice(run: Run) -> None:
    run.evidence.demands.append(CompensationDemand("denied", "demand/again", "comp/again", "ORIGINATOR"))


def leak_in_a_file(run: Run) -> None:
    leak = Leak("file worker.log", "byte 17", "plain digits", "0462")
    # Two places in one artefact are one leak.
    run.evidence.leaks += [leak, replace(leak, where="byte 99")]


def change_payment(run: Run, payout_id: str, **changes: object) -> None:
    entry = run.approved(payout_id)
    run.evidence.entries[run.evidence.entries.index(entry)] = replace(entry, **changes)  # type: ignore[arg-type]


def reverse(run: Run, identifier: str, operation: str = "reverse") -> None:
    run.add_entry(
        run.approved("paid-usd"), operation=operation, sender_reference=None, transaction_identifier=identifier
    )


PLANTED: list[tuple[Planted, dict[str, int], str]] = [
    (lost_result, {"lost": 1}, "paid-kwd"),
    (lost_row, {"lost": 1}, "never-seen"),
    (lost_repeat, {"lost": 1}, "paid-usd"),
    (lost_bytes, {"lost": 1}, "payout_requests-0-17"),
    (lost_both_records, {"lost": 1}, "never-seen"),
    (lost_with_its_cluster, {"lost": 1}, "gone"),
    (double_second_payment, {"double": 1}, "paid-usd"),
    (double_third_payment, {"double": 1}, "paid-usd"),
    (double_other_amount, {"double": 1}, "paid-kwd"),
    (double_other_currency, {"double": 1}, "paid-kwd"),
    (double_amount_that_is_none, {"double": 1}, "paid-jpy"),
    (double_other_recipient, {"double": 1}, "paid-jpy"),
    (stuck_cleared, {"stuck": 1, "lost": 1}, "waiting"),
    (stuck_although_announced, {"stuck": 1}, "paid-back"),
    (stuck_young_unknown, {"stuck": 1, "lost": 1}, "young-unknown"),
    (phantom_row_and_result, {"phantom": 1}, "paid-usd"),
    (phantom_result, {"phantom": 1}, "in-review"),
    (phantom_declined_payment, {"phantom": 1}, "paid-usd"),
    (orphan_unpaid_end, {"orphan": 1}, "rejected"),
    (orphan_compensation_under_way, {"orphan": 1}, "paid-usd"),
    (orphan_compensation_asked_for, {"orphan": 1}, "paid-usd"),
    (orphan_compensation_done, {"orphan": 1}, "paid-usd"),
    (orphan_reversed_at_visa, {"orphan": 1}, "paid-usd"),
    (orphan_without_payout, {"orphan": 1}, "entry"),
    (orphan_without_reference, {"orphan": 1}, "entry"),
    (comp_double_second_result, {"comp_double": 1}, "declined-released"),
    (comp_double_second_reversal, {"comp_double": 1}, "declined-reversed"),
    (comp_double_reversal_of_nobody, {"comp_double": 1}, "388888888888888"),
    (comp_double_both_parties, {"comp_double": 1}, "declined-reversed"),
    (comp_double_reversed_though_originator_acts, {"comp_double": 1}, "denied"),
    (comp_double_second_adjustment, {"comp_double": 1}, "declined-adjusted"),
    (comp_double_reversal_and_adjustment, {"comp_double": 1}, "declined-reversed"),
    (comp_double_confirmed_although_reversed, {"comp_double": 1}, "declined-reversed"),
    (comp_double_confirmed_twice, {"comp_double": 1}, "declined-released"),
    (orphan_handed_back_by_its_originator, {"orphan": 1}, "paid-usd"),
    (orphan_resolved_as_not_paid, {"orphan": 1}, "resolved"),
    (phantom_resolved_as_paid, {"phantom": 1}, "resolved"),
    (comp_double_asked_twice, {"comp_double": 1}, "denied"),
    (leak_in_a_file, {"leak": 1}, "worker.log"),
]


@pytest.mark.parametrize(("plant", "expected", "named"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_planted_violation_is_seen_and_counted_once(plant: Planted, expected: dict[str, int], named: str) -> None:
    """Design 10: every zero is computed, and a test plants one violation of each and sees it."""
    run = clean_run()
    plant(run)
    verdict = run.judge()
    assert zeros(verdict) == expected
    assert not verdict.clean
    for term in expected:
        assert f" {term}=1 " in verdict.line()
        assert any(problem.startswith(f"{term}: ") and named in problem for problem in verdict.problems())


# What the line has no term for makes the verdict unclean all the same.


def two_ends(run: Run) -> None:
    run.evidence.results.append(ResultEvent("rejected", "result/again", "DENIED", 2_500, "USD"))


def two_events_of_one_end(run: Run) -> None:
    run.evidence.results.append(ResultEvent("rejected", "result/again", "REJECTED", 2_500, "USD"))


def result_other_than_the_row(run: Run) -> None:
    run.change_row("rejected", state="DENIED")


def money_vanished(run: Run) -> None:
    run.change_row("rejected", amount_minor=2_499)


def currency_changed(run: Run) -> None:
    run.change_row("rejected", currency="EUR")


def result_of_another_amount(run: Run) -> None:
    run.evidence.results.append(ResultEvent("rejected", "result/rejected", "REJECTED", 1, "USD"))


def refusal_never_published(run: Run) -> None:
    run.evidence.refusals.clear()


def dead_letter_never_published(run: Run) -> None:
    run.evidence.dead_letters.clear()


def refusal_never_recorded(run: Run) -> None:
    run.evidence.refusals.add(run.evidence.accepted[0].position)


def row_and_repeat_at_once(run: Run) -> None:
    run.evidence.intake.append(Intake(run.evidence.accepted[0].position, "REPEAT", "paid-usd"))


def row_of_nobody(run: Run) -> None:
    run.evidence.rows.append(
        LedgerRow("of-nobody", Position("payout_requests", 9, 9), 1, "USD", "REJECTED", RECEIVED_AT)
    )


def row_of_a_record_never_acknowledged(run: Run) -> None:
    run.change_row("paid-usd", position=Position("payout_requests", 9, 9))


def still_open(run: Run) -> None:
    run.payout("just-received", "VALIDATED", received_at=NOW - timedelta(seconds=1))


def reversal_only_reported(run: Run) -> None:
    run.evidence.entries = [entry for entry in run.evidence.entries if entry.operation != "reverse"]


def adjustment_only_reported(run: Run) -> None:
    run.evidence.entries = [entry for entry in run.evidence.entries if entry.operation != "adjustment"]


def reversal_of_a_pull_that_nobody_names(run: Run) -> None:
    reverse(run, "388888888888888")


def originator_never_said_so(run: Run) -> None:
    run.evidence.confirmations.clear()


def confirmed_by_a_stranger(run: Run) -> None:
    originator_never_said_so(run)
    run.confirm("declined-released", originator_id="somebody-else")


def moved_in_an_unknown_way(run: Run) -> None:
    reverse(run, "388888888888888", "chargeback")


def told_before_the_resolution_was_undone(run: Run) -> None:
    """The result of the wrong resolution is taken back; one that came after it is not."""
    run.payout("resolved", "UNKNOWN", held=True, undone_version=6)
    run.evidence.results.append(ResultEvent("resolved", "result/7", "FAILED", 2_500, "USD", version=7))


def came_back_and_nobody_was_told(run: Run) -> None:
    """S8."""
    came_back(run, "paid-usd")


def told_of_a_return_that_never_was(run: Run) -> None:
    by_account(run, "paid-usd")
    told_as_returned(run, "paid-usd")


def told_twice_of_one_return(run: Run) -> None:
    """K3: two event ids are two events."""
    came_back(run, "paid-usd")
    told_as_returned(run, "paid-usd", "returned/1")
    told_as_returned(run, "paid-usd", "returned/2")


def told_of_a_return_without_payment(run: Run) -> None:
    """S8: before PAID it is DECLINED, with no event of its own."""
    run.add_entry(run.evidence.entries[0], operation="account_return", sender_reference=sender_reference("rejected"))
    told_as_returned(run, "rejected")


def compensation_never_asked_for(run: Run) -> None:
    run.evidence.demands = [demand for demand in run.evidence.demands if demand.payout_id != "denied"]


def compensation_end_never_told(run: Run) -> None:
    run.evidence.compensation_ends.pop()


def compensation_by_us_does_not_end(run: Run) -> None:
    run.change_row("denied", compensation="UNKNOWN", compensation_executor="PROCESSOR")


def evidence_is_broken(run: Run) -> None:
    run.evidence.broken.append("record payout_requests-0-3 was acknowledged, but the topic does not hold it")


UNCLEAN: list[tuple[Planted, str]] = [
    (two_ends, "conflicting_results"),
    (two_events_of_one_end, "conflicting_results"),
    (result_other_than_the_row, "conflicting_results"),
    (money_vanished, "conservation"),
    (currency_changed, "conservation"),
    (money_vanished, "amount"),
    (result_of_another_amount, "amount"),
    (refusal_never_published, "intake"),
    (dead_letter_never_published, "intake"),
    (refusal_never_recorded, "intake"),
    (row_and_repeat_at_once, "intake"),
    (row_and_repeat_at_once, "counts"),
    (row_of_nobody, "unexplained"),
    (row_of_nobody, "counts"),
    (row_of_a_record_never_acknowledged, "unexplained"),
    (still_open, "counts"),
    (lost_row, "counts"),
    (reversal_only_reported, "compensation"),
    (adjustment_only_reported, "compensation"),
    (reversal_of_a_pull_that_nobody_names, "compensation"),
    (originator_never_said_so, "compensation"),
    (confirmed_by_a_stranger, "compensation"),
    (moved_in_an_unknown_way, "evidence"),
    (told_before_the_resolution_was_undone, "conflicting_results"),
    (lost_row, "conservation"),
    (phantom_row_and_result, "conservation"),
    (orphan_unpaid_end, "conservation"),
    (double_second_payment, "conservation"),
    (double_other_currency, "conservation"),
    (came_back_and_nobody_was_told, "returned"),
    (told_of_a_return_that_never_was, "returned"),
    (told_twice_of_one_return, "returned"),
    (told_of_a_return_without_payment, "returned"),
    (compensation_never_asked_for, "compensation"),
    (compensation_end_never_told, "compensation"),
    (compensation_by_us_does_not_end, "compensation"),
    (evidence_is_broken, "evidence"),
]


@pytest.mark.parametrize(
    ("plant", "term"),
    UNCLEAN,
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_the_line_has_no_term_for_is_unclean(plant: Planted, term: str) -> None:
    """Design 10: the counts add up, and money is conserved to the minor unit, a currency at a time."""
    run = clean_run()
    plant(run)
    verdict = run.judge()
    assert not verdict.clean
    assert verdict.count(term) >= 1


@pytest.mark.parametrize("check", verdict_module.CHECKS, ids=lambda check: check.__name__.strip("_"))
def test_no_judge_can_be_left_out_unseen(
    check: Callable[[Any], Iterator[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each judge is the only one to see something that is planted above: disabled, a test of this file is red."""
    monkeypatch.setattr(verdict_module, "CHECKS", [other for other in verdict_module.CHECKS if other is not check])
    unseen = []
    for plant, expected, _ in PLANTED:
        run = clean_run()
        plant(run)
        if zeros(run.judge()) != expected:
            unseen.append(plant.__name__)
    for plant, term in UNCLEAN:
        run = clean_run()
        plant(run)
        if run.judge().count(term) == 0:
            unseen.append(plant.__name__)
    assert unseen


def test_money_is_counted_by_currency_from_sources_of_its_own() -> None:
    """Design 10: accepted = paid + ended unpaid + held, in exact minor units."""
    verdict = clean_run().judge()
    assert verdict.money == {
        "JPY": {"accepted": 10_000, "paid": 5_000, "ended_unpaid": 5_000, "held": 0},
        "KWD": {"accepted": 12_340, "paid": 12_340, "ended_unpaid": 0, "held": 0},
        "USD": {"accepted": 27_500, "paid": 2_500, "ended_unpaid": 17_500, "held": 7_500},
    }


def test_unknown_payout_that_visa_paid_is_paid_money() -> None:
    """S6: it waits for a person, and its money has left: it is conserved and held by nobody."""
    run = clean_run()
    run.entry("held", "25.00", "USD", CARD, money_moved=True)
    verdict = run.judge()
    assert verdict.clean
    assert verdict.money["USD"] == {"accepted": 27_500, "paid": 5_000, "ended_unpaid": 17_500, "held": 5_000}


def test_resolution_that_was_undone_is_no_end() -> None:
    """L12, S6: what the operator took back counts no more; the payout waits for a person again."""
    run = clean_run()
    run.payout("resolved", "UNKNOWN", held=True, undone_version=6)
    run.evidence.results.append(ResultEvent("resolved", "result/5", "PAID", 2_500, "USD", version=5))
    assert run.judge().problems() == []
    run.change_row("resolved", undone_version=0)
    assert zeros(run.judge()) == {"phantom": 1}


def test_demand_of_a_resolution_that_was_undone_is_none() -> None:
    """L12, C1: it was to be handed back by us, which had not begun; then Visa knew of the payment after all."""
    run = clean_run()
    run.payout("resolved", "PAID", undone_version=6)
    run.evidence.results[-1] = replace(run.evidence.results[-1], version=7)
    demand = CompensationDemand("resolved", "d/5", "comp/resolved", "PROCESSOR", "originator", version=5)
    run.evidence.demands.append(demand)
    assert run.judge().problems() == []
    run.change_row("resolved", undone_version=0)
    assert zeros(run.judge()) == {"orphan": 1}


def test_strangers_confirmation_of_what_nobody_asked_hands_nothing_back() -> None:
    """C2: a confirmation counts for the demand and the originator that it names."""
    run = clean_run()
    run.confirm("paid-usd")
    run.confirm("declined-reversed", compensation_id="comp/of-nobody")
    run.confirm("declined-reversed", originator_id="somebody-else")
    run.confirm("no-such-payout")
    assert run.judge().clean


def test_orphan_says_all_that_speaks_against_the_payment() -> None:
    run = clean_run()
    orphan_handed_back_by_its_originator(run)
    assert any("was handed back by its originator" in problem for problem in run.judge().problems())


def test_id_that_is_only_a_dead_letter_asks_for_no_money() -> None:
    """K6: such a record has no payout, so its amount is nobody's to conserve."""
    run = clean_run()
    position = run.accept("keyed-otherwise", amount_minor=999)
    run.evidence.intake.append(Intake(position, "DEAD_LETTER", "keyed-otherwise"))
    run.evidence.dead_letters.add(position)
    assert run.judge().clean


def test_report_holds_everything_and_no_card_number(tmp_path: Path) -> None:
    """P6: the report is an artefact as any other."""
    run = clean_run()
    leak_in_a_file(run)
    lost_row(run)
    verdict = run.judge(seed=7, stopped_at=NOW)
    write_report(verdict, tmp_path / "verdict.json")
    text = (tmp_path / "verdict.json").read_text("utf-8")
    told = json.loads(text)
    assert told["line"] == verdict.line()
    assert (told["clean"], told["zeros"]["lost"], told["zeros"]["leak"]) == (False, 1, 1)
    assert len(told["findings"]) == len(verdict.findings)
    assert told["states"]["PAID"] == told["counts"]["paid"] == 3
    assert told["states"]["compensation COMPENSATED"] == 3
    assert told["money_minor"]["KWD"]["paid"] == 12_340
    assert told["faults"]["seed"] == 7
    assert list(CardNumberSearch([CARD]).own(text.encode())) == []


@pytest.mark.parametrize(
    "waits", [{"state": "IN_REVIEW"}, {"state": "PENDING", "held": True}, {"state": "CLEARED", "held": True}]
)
def test_whoever_waits_for_a_person_is_neither_lost_nor_stuck(waits: dict[str, object]) -> None:
    """P1: review, hold and unknown past its deadline are visible waits."""
    run = clean_run()
    run.payout("waits", **waits)  # type: ignore[arg-type]
    assert run.judge().clean


def test_patience_counts_from_the_last_fault() -> None:
    """Design 10: stuck is not terminal T seconds after the faults stop."""
    run = clean_run()
    run.payout("waiting", "SUBMITTING")
    just_before = NOW - timedelta(seconds=STUCK_AFTER_SECONDS - 1)
    assert run.judge(stopped_at=just_before).count("stuck") == 0
    assert run.judge(stopped_at=just_before - timedelta(seconds=1)).count("stuck") == 1
    assert not run.judge(stopped_at=just_before).clean


def test_same_event_again_is_one_event() -> None:
    """K3: an event sent again has the ce_id that it had."""
    run = clean_run()
    run.evidence.results += run.evidence.results
    run.evidence.demands += run.evidence.demands
    run.evidence.compensation_ends += run.evidence.compensation_ends
    assert run.judge().clean


def by_account(run: Run, payout_id: str) -> StandInEntry:
    """The payment of a payout, made to an account instead of a card."""
    entry = run.approved(payout_id)
    run.evidence.entries.remove(entry)
    paid = replace(entry, operation="account", transaction_identifier="VP-1")
    run.evidence.entries.append(paid)
    return paid


def came_back(run: Run, payout_id: str) -> None:
    """The money of a payment to an account is back, by the stand-in's ledger alone."""
    paid = by_account(run, payout_id)
    run.evidence.entries.append(replace(paid, entry_id=9001, operation="account_return"))


def told_as_returned(run: Run, payout_id: str, event_id: str = "returned") -> None:
    run.evidence.results.append(ResultEvent(payout_id, event_id, "RETURNED", 2_500, "USD"))


def test_a_payment_to_an_account_is_judged_like_one_to_a_card() -> None:
    """P2, S3: an account that is credited is paid money, once; it has no duplicate key that would save us."""
    run = clean_run()
    paid = by_account(run, "paid-usd")
    assert run.judge().clean
    run.evidence.entries.append(replace(paid, entry_id=9002, transaction_identifier="VP-2"))
    assert zeros(run.judge()) == {"double": 1}


def test_a_second_payment_is_double_although_one_came_back() -> None:
    """P2, S3: money was sent twice, whatever became of it."""
    run = clean_run()
    came_back(run, "paid-usd")
    told_as_returned(run, "paid-usd")
    assert run.judge().clean
    run.evidence.entries.append(replace(run.approved("paid-usd"), entry_id=9002, transaction_identifier="VP-2"))
    assert zeros(run.judge()) == {"double": 1}


def test_an_account_that_was_credited_for_an_unpaid_payout_is_an_orphan_until_the_money_is_back() -> None:
    """S8, P4: DECLINED because it came back before anybody had seen it delivered; then the funding is handed back."""
    run = clean_run()
    run.add_entry(run.evidence.entries[0], operation="account", sender_reference=sender_reference("denied"))
    run.change_entry(-1, transaction_identifier="VP-1")
    assert zeros(run.judge()) == {"orphan": 1}
    run.add_entry(run.evidence.entries[-1], operation="account_return", transaction_identifier="VP-2")
    assert zeros(run.judge()) == {"orphan": 1}, "another payment came back"
    run.change_entry(-1, transaction_identifier="VP-1")
    assert run.judge().problems() == []


def test_an_account_that_was_never_credited_is_a_phantom() -> None:
    """S8: PAID rests on an entry; that the money came back is none."""
    run = clean_run()
    paid = by_account(run, "paid-usd")
    run.evidence.entries[run.evidence.entries.index(paid)] = replace(paid, operation="account_return")
    assert zeros(run.judge()) == {"phantom": 1}


def test_money_that_came_back_is_no_second_end() -> None:
    """S8: a later RETURNED is a second fact with its own event, which may be told again; PAID money stays paid."""
    run = clean_run()
    came_back(run, "paid-usd")
    told_as_returned(run, "paid-usd")
    told_as_returned(run, "paid-usd")
    assert run.judge().problems() == []
    assert run.judge().money == clean_run().judge().money


def test_a_paid_payout_that_came_back_is_not_handed_back_as_well() -> None:
    """S8, P4: PAID is the last word; who is told of the return and gets his funding back has the money twice."""
    run = clean_run()
    came_back(run, "paid-usd")
    told_as_returned(run, "paid-usd")
    assert run.judge().clean
    run.change_row("paid-usd", compensation="COMPENSATED", compensation_executor="PROCESSOR")
    assert zeros(run.judge())["orphan"] == 1


@pytest.mark.parametrize(
    "changes", [{"amount": "1.00"}, {"currency": "JPY"}, {"recipient_fingerprint": "another"}], ids=str
)
def test_what_comes_back_is_all_of_a_payment_from_its_recipient(changes: dict[str, str]) -> None:
    """S8: an entry that names the payment and gives back something else, or the same again, is no return of it."""
    run = clean_run()
    came_back(run, "paid-usd")
    told_as_returned(run, "paid-usd")
    assert run.judge().clean
    whole = run.evidence.entries[-1]
    run.change_entry(-1, **changes)
    assert run.judge().count("returned") == 1
    run.evidence.entries[-1:] = [whole, replace(whole, entry_id=9003)]
    assert run.judge().count("returned") == 1, "twice"


def test_a_part_that_came_back_does_not_make_an_unpaid_payout_paid_nothing() -> None:
    """P4: some of the money is still with the recipient, and the funding goes back as well."""
    run = clean_run()
    run.add_entry(run.evidence.entries[0], operation="account", sender_reference=sender_reference("denied"))
    run.change_entry(-1, transaction_identifier="VP-1")
    run.add_entry(run.evidence.entries[-1], operation="account_return", amount="1.00")
    assert zeros(run.judge()) == {"orphan": 1}


def test_receipt_named_by_two_payouts_is_reversed_once() -> None:
    """L7: the payout that does not own the receipt has nothing to explain."""
    run = clean_run()
    run.evidence.pulls.append(CardPull(PULL, "rejected"))
    assert run.judge().clean


def test_owner_of_an_id_is_the_row_s_source_whatever_was_acknowledged_first() -> None:
    """L1: the amount to compare with is that of the record which owns the row, not of the refused one."""
    run = Run()
    refused = run.accept("contested", amount_minor=1)
    run.payout("contested", "PAID")
    run.evidence.intake.append(Intake(refused, "REFUSED", "contested"))
    run.evidence.refusals.add(refused)
    assert run.judge().problems() == []


def test_one_subject_counts_once_a_term() -> None:
    twice = tuple(Finding("double", "one payout", sentence) for sentence in ("this", "that"))
    assert Verdict(counts={}, findings=twice).count("double") == 1


# Properties: no fact of a clean run can go missing unseen, and none can be told twice unseen where twice is wrong.

FACTS = (
    "accepted", "rows", "intake", "results", "demands", "compensation_ends", "confirmations", "refusals",
    "dead_letters", "entries",
)  # fmt: skip


def matters(run: Run, fact: object) -> bool:
    """Whether a run without this fact is another run: an answered repeat is told twice, a decline moves nothing."""
    if isinstance(fact, StandInEntry):
        return fact.money_moved and fact.operation != "funding"
    return not isinstance(fact, ResultEvent) or run.evidence.results.count(fact) == 1


@settings(deadline=None)
@given(data=st.data())
def test_a_fact_that_goes_missing_is_noticed(data: st.DataObject) -> None:
    """P1 to P4: whichever fact of a clean run is taken away, the verdict is clean only if nothing rests on it."""
    run = clean_run()
    kind = data.draw(st.sampled_from(FACTS))
    facts = list(getattr(run.evidence, kind))
    fact = data.draw(st.sampled_from(facts))
    expected = not matters(run, fact)
    facts.remove(fact)
    setattr(run.evidence, kind, type(getattr(run.evidence, kind))(facts))
    assert run.judge().clean is expected


@settings(deadline=None)
@given(data=st.data())
def test_payment_told_twice_is_noticed_and_a_decline_is_not(data: st.DataObject) -> None:
    """P2: one OCT a payout."""
    run = clean_run()
    entry = data.draw(st.sampled_from(run.evidence.entries))
    run.add_entry(entry)
    harmless = not entry.money_moved or entry.operation == "funding"
    assert run.judge().clean is harmless


@settings(deadline=None)
@given(data=st.data(), state=st.sampled_from(["PAID", "DECLINED", "CLEARED", "REJECTED", "CANCELLED", "SUBMITTING"]))
def test_row_in_another_state_is_noticed(data: st.DataObject, state: str) -> None:
    """The ledger alone cannot make a payout paid or unpaid: topics and stand-in contradict it."""
    run = clean_run()
    row = data.draw(st.sampled_from(run.evidence.rows))
    run.change_row(row.payout_id, state=state, held=False, first_intent_at=None)
    assert run.judge().clean is (state == row.state)
