"""Account and wallet payouts: never sent again blindly (S3), PAID is the last word, a return a second fact (S8, B4)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.answers import FROZEN_FOR
from processors.payout.events import Answered, CallKind, NewIdentity, Released, ResolutionUndone, Unbuildable
from processors.payout.intents import IntentNotAllowed
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.publications import publications
from processors.payout.row import UNPAID_ENDS, CompensationState, DestinationKind, FundingKind, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, begin_call, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]

KINDS = [DestinationKind.ACCOUNT, DestinationKind.WALLET]
SEND, QUERY = CallKind.ACCOUNT_SEND, CallKind.ACCOUNT_QUERY
UNDECIDED = [PayoutState.PENDING, PayoutState.UNKNOWN]
SUBMITTED = [PayoutState.SUBMITTING, *UNDECIDED]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CARD_CALLS = [CallKind.PUSH, CallKind.STATUS, CallKind.QUERY]
SAYS_NOTHING = [OutcomeKind.UNKNOWN, OutcomeKind.REFUSED, OutcomeKind.NOT_FOUND, OutcomeKind.PENDING]


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _account(make_row: MakeRow, state: PayoutState, **changes: Any) -> PayoutRow:
    facts: dict[str, Any] = {"destination_kind": DestinationKind.ACCOUNT, "status_identifier": None}
    return make_row(state, **(facts | changes))


def _paid(make_row: MakeRow, now: datetime, **changes: Any) -> PayoutRow:
    """Reported and announced an hour ago, and asked about on."""
    facts: dict[str, Any] = {"state_at": now - HOUR, "due_at": now, "announced_version": 5}
    return _account(make_row, PayoutState.PAID, **(facts | changes))


def _funded(**changes: Any) -> dict[str, Any]:
    captured = {"funding_captured": True, "receipt_owned": True, "funding_kind": FundingKind.INTERNAL}
    return captured | {"funding_captured_at": None} | changes


# ---- which calls there are


@pytest.mark.parametrize("kind", KINDS)
def test_s3_a_cleared_account_payout_is_sent_by_its_own_rail(
    make_row: MakeRow, now: datetime, schedule: Schedule, kind: DestinationKind
) -> None:
    row = _account(make_row, PayoutState.CLEARED, destination_kind=kind)
    assert plan(row, now, schedule) == MakeCall(SEND, needs_identity=True)
    identity = NewIdentity(7, 100_007, "606012000000", now)
    begun = begin_call(row, SEND, now, schedule, identity=identity, sealed_body=b"body").row
    assert (begun.state, begun.attempts, begun.sealed_body) == (PayoutState.SUBMITTING, 1, b"body")


@pytest.mark.parametrize("state", UNDECIDED)
def test_s3_an_undecided_account_payout_is_only_asked_about(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S0-19: ask before anything else; here nothing else follows."""
    row = _account(make_row, state)
    assert plan(row, now, schedule) == MakeCall(QUERY)
    begun = begin_call(row, QUERY, now, schedule).row
    assert (begun.state, begun.inquiries, begun.attempts) == (state, 1, row.attempts)


def test_s2_a_lost_answer_is_unknown_and_asked_about(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    row = _account(make_row, PayoutState.SUBMITTING, lease_until=now - HOUR)
    step = _step(plan(row, now, schedule))
    assert (step.row.state, step.row.ambiguous, step.follow_up) == (PayoutState.UNKNOWN, True, QUERY)


@pytest.mark.parametrize("state", list(PayoutState))
@pytest.mark.parametrize("ambiguous", [True, False])
def test_s3_nothing_but_a_cleared_row_without_a_doubt_may_be_sent(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, ambiguous: bool
) -> None:
    """The last pure gate: whatever was decided before, this is where a second send would begin."""
    row = _account(make_row, state, ambiguous=ambiguous, attempts=1, first_intent_at=now - MINUTE, sealed_body=b"b")
    if state is PayoutState.CLEARED and not ambiguous:
        assert begin_call(row, SEND, now, schedule).row.attempts == 2
    else:
        with pytest.raises(IntentNotAllowed):
            begin_call(row, SEND, now, schedule)


@pytest.mark.parametrize("state", list(PayoutState))
@pytest.mark.parametrize("call", CARD_CALLS)
def test_s3_a_call_of_the_card_rail_never_begins_for_an_account_payout(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, call: CallKind
) -> None:
    with pytest.raises(IntentNotAllowed):
        begin_call(_account(make_row, state, status_identifier="status-1"), call, now, schedule)


@pytest.mark.parametrize("state", list(PayoutState))
@pytest.mark.parametrize("call", [SEND, QUERY])
def test_s3_a_call_of_the_account_rail_never_begins_for_a_card_payout(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, call: CallKind
) -> None:
    with pytest.raises(IntentNotAllowed):
        begin_call(make_row(state, due_at=now), call, now, schedule)


def test_s6_an_expired_account_payout_is_not_sent(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    row = _account(make_row, PayoutState.CLEARED, expires_at=now)
    assert _step(plan(row, now, schedule)).row.state is PayoutState.EXPIRED
    with pytest.raises(IntentNotAllowed):
        begin_call(row, SEND, now, schedule)


# ---- what an answer does: ten statuses are five kinds of outcome


ENDS_OF = {
    OutcomeKind.PAID: PayoutState.PAID,
    OutcomeKind.DECLINED: PayoutState.DECLINED,
    OutcomeKind.RETURNED: PayoutState.DECLINED,
}


@pytest.mark.parametrize("kind", sorted(ENDS_OF))
@pytest.mark.parametrize(
    ("state", "call"),
    [(PayoutState.SUBMITTING, SEND), *((state, call) for state in UNDECIDED for call in (SEND, QUERY))],
)
def test_s8_an_end_is_an_end_whichever_answer_brings_it(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    state: PayoutState,
    call: CallKind,
) -> None:
    """B4: delivered is PAID; rejected, cancelled, returned before PAID are DECLINED, and the funding is handed back."""
    row = _account(make_row, state, **_funded())
    done = _step(apply(row, answer(row, call, kind, reason_code="VISA_SAID"), now, schedule)).row
    assert (done.state, done.reason_code, done.ambiguous) == (ENDS_OF[kind], "VISA_SAID", False)
    assert done.announce_version == done.version
    handed_back = done.compensation is CompensationState.REQUIRED
    assert handed_back is (kind is not OutcomeKind.PAID), "C1, P4"


def test_s8_accepted_is_pending_and_shows_how_far_it_is(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    row = _account(make_row, PayoutState.SUBMITTING)
    told = answer(row, SEND, OutcomeKind.PENDING, reason_code="PAYMENT_RECEIVED", transaction_identifier="A-1")
    waiting = _step(apply(row, told, now, schedule)).row
    assert (waiting.state, waiting.ambiguous, waiting.reason_code) == (PayoutState.PENDING, True, "PAYMENT_RECEIVED")
    assert waiting.due_at is not None
    assert not publications(waiting), "P3: what is undecided is not announced"
    further = answer(waiting, QUERY, OutcomeKind.PENDING, reason_code="DELIVERED_TO_SCHEME")
    assert _step(apply(waiting, further, now, schedule)).row.reason_code == "DELIVERED_TO_SCHEME"


def test_an_unknown_payout_that_visa_has_is_pending(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    for held in (False, True):
        row = _account(make_row, PayoutState.UNKNOWN, held=held, hold_reason="WHY" if held else None)
        step = _step(apply(row, answer(row, QUERY, OutcomeKind.PENDING), now, schedule))
        assert (step.row.state, step.row.held, step.row.ambiguous) == (PayoutState.PENDING, held, True)


@pytest.mark.parametrize("state", UNDECIDED)
@pytest.mark.parametrize("kind", [OutcomeKind.UNKNOWN, OutcomeKind.REFUSED])
def test_an_unanswered_question_changes_nothing_but_when_it_is_asked_again(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState, kind: OutcomeKind
) -> None:
    row = _account(make_row, state)
    step = _step(apply(row, answer(row, QUERY, kind, retry_after_seconds=500.0), now, schedule))
    assert (step.row.state, step.row.held, step.follow_up) == (state, False, None)
    assert step.row.due_at == now + timedelta(seconds=500)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_s4_a_refused_send_is_sent_again_only_because_nothing_can_have_arrived(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, refusal: Refusal
) -> None:
    """S4, S6: refused for good it ends FAILED; for a passing reason it is CLEARED, and the same body is sent again."""
    row = _account(make_row, PayoutState.SUBMITTING)
    after = _step(apply(row, answer(row, SEND, OutcomeKind.REFUSED, refusal=refusal), now, schedule)).row
    if refusal is Refusal.REQUEST_INVALID:
        assert after.state is PayoutState.FAILED
    else:
        assert (after.state, after.ambiguous) == (PayoutState.CLEARED, False)
        assert plan(after, now, schedule) == MakeCall(SEND)
        assert begin_call(after, SEND, now, schedule).row.sealed_body == row.sealed_body


def test_s4_a_400_to_a_later_attempt_is_asked_about_before_the_funding_goes_back(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """It may mean "used before": then the attempt that seemed refused was taken, and FAILED would pay twice."""
    for attempts, state in ((1, PayoutState.FAILED), (2, PayoutState.UNKNOWN)):
        row = _account(make_row, PayoutState.SUBMITTING, attempts=attempts, **_funded())
        told = answer(row, SEND, OutcomeKind.REFUSED, refusal=Refusal.REQUEST_INVALID)
        after = _step(apply(row, told, now, schedule)).row
        assert (after.state, after.ambiguous) == (state, attempts > 1)
        assert (after.compensation is CompensationState.NONE) is (attempts > 1)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_s6_a_refusal_while_an_attempt_is_ambiguous_proves_nothing(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, refusal: Refusal
) -> None:
    """S6: also a 400."""
    row = _account(make_row, PayoutState.SUBMITTING, ambiguous=True)
    after = _step(apply(row, answer(row, SEND, OutcomeKind.REFUSED, refusal=refusal), now, schedule)).row
    assert (after.state, after.ambiguous) == (PayoutState.UNKNOWN, True)
    late = _account(make_row, PayoutState.UNKNOWN)
    decision = apply(late, answer(late, SEND, OutcomeKind.REFUSED, refusal=refusal), now, schedule)
    assert isinstance(decision, Nothing)


@pytest.mark.parametrize("kind", [OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND])
def test_s4_a_send_without_a_clear_answer_is_unknown(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    row = _account(make_row, PayoutState.SUBMITTING)
    step = _step(apply(row, answer(row, SEND, kind), now, schedule))
    assert (step.row.state, step.row.ambiguous, step.follow_up) == (PayoutState.UNKNOWN, True, None)


@pytest.mark.parametrize("state", UNDECIDED)
def test_an_answer_to_an_earlier_attempt_proves_nothing(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S4: but delivered is delivered, from whichever attempt it comes."""
    row = _account(make_row, state, attempts=2)
    for kind in (OutcomeKind.DECLINED, OutcomeKind.PENDING, OutcomeKind.REFUSED, OutcomeKind.NOT_FOUND):
        assert isinstance(apply(row, answer(row, SEND, kind, attempt=1), now, schedule), Nothing)
    assert _step(apply(row, answer(row, SEND, OutcomeKind.PAID, attempt=1), now, schedule)).row.state == "PAID"


@pytest.mark.parametrize("kind", [OutcomeKind.DECLINED, OutcomeKind.RETURNED])
def test_s4_a_query_ends_it_only_when_no_attempt_can_be_under_way(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    row = _account(make_row, PayoutState.UNKNOWN, attempts=2, last_intent_at=now - MINUTE)
    early = apply(row, answer(row, QUERY, kind), now, schedule)
    assert isinstance(early, Nothing) or early.row.state is PayoutState.UNKNOWN
    settled = resend_not_before(schedule, now - MINUTE)
    late = apply(row, answer(row, QUERY, kind, asked_at=settled), settled, schedule)
    assert _step(late).row.state is PayoutState.DECLINED


@pytest.mark.parametrize("state", SUBMITTED)
def test_s5_what_only_a_person_can_read_is_held(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    row = _account(make_row, state)
    call = SEND if state is PayoutState.SUBMITTING else QUERY
    told = answer(row, call, OutcomeKind.OPERATOR, reason_code="PAYOUT_AMOUNT_MISMATCH")
    held = _step(apply(row, told, now, schedule)).row
    assert (held.held, held.hold_reason, held.ambiguous) == (True, "PAYOUT_AMOUNT_MISMATCH", True)
    assert held.state is (PayoutState.UNKNOWN if state is PayoutState.SUBMITTING else state)


# ---- what Visa does not know


@pytest.mark.parametrize("state", UNDECIDED)
@pytest.mark.parametrize("age", [MINUTE, 59 * MINUTE])
def test_s3_what_visa_does_not_know_yet_is_asked_about_again(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState, age: timedelta
) -> None:
    row = _account(make_row, state, last_intent_at=now - age, first_intent_at=now - age)
    step = _step(apply(row, answer(row, QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert (step.transition, step.row.held, step.follow_up) == ("not_found_yet", False, None)
    assert step.row.due_at is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", UNDECIDED)
@pytest.mark.parametrize("age", [HOUR, 22 * HOUR, 24 * HOUR, 181 * DAY])
def test_s3_what_visa_does_not_know_in_the_end_is_a_persons_and_never_sent_again(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: DestinationKind,
    state: PayoutState,
    age: timedelta,
) -> None:
    """S3, S0-19: also within the 24 h in which a card payout would be sent again, and past the query's 180 days."""
    row = _account(make_row, state, destination_kind=kind, last_intent_at=now - age, first_intent_at=now - age)
    step = _step(apply(row, answer(row, QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert (step.row.held, step.row.hold_reason) == (True, "ACCOUNT_NOT_FOUND_AFTER_SEND")
    assert (step.follow_up, step.row.state, step.row.ambiguous) == (None, state, True)
    released = _step(apply(step.row, Released("maria"), now, schedule)).row
    assert plan(released, now, schedule) == MakeCall(QUERY), "a release only asks once more"
    with pytest.raises(IntentNotAllowed):
        begin_call(released, SEND, now, schedule)


def test_a_held_payout_that_visa_does_not_know_stays_held(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    row = _account(make_row, PayoutState.UNKNOWN, held=True, hold_reason="OPERATOR: look", last_intent_at=now - DAY)
    step = _step(apply(row, answer(row, QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert (step.row.held, step.row.hold_reason, step.row.due_at) == (True, "OPERATOR: look", None)


# ---- how long


def test_p1_an_account_payout_on_its_way_for_too_long_is_shown_to_a_person(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    for kind in (OutcomeKind.PENDING, OutcomeKind.UNKNOWN):
        for age, held in ((9 * DAY, False), (10 * DAY, True)):
            row = _account(make_row, PayoutState.PENDING, first_intent_at=now - age, last_intent_at=now - age)
            after = _step(apply(row, answer(row, QUERY, kind), now, schedule)).row
            assert (after.held, after.state) == (held, PayoutState.PENDING)
            assert after.hold_reason == ("ACCOUNT_PENDING_TOO_LONG" if held else None)


def test_p1_an_unanswered_unknown_one_after_47_hours(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    for age, held in ((46 * HOUR, False), (47 * HOUR, True)):
        row = _account(make_row, PayoutState.UNKNOWN, first_intent_at=now - age)
        assert _step(apply(row, answer(row, QUERY, OutcomeKind.UNKNOWN), now, schedule)).row.held is held


def test_the_older_it_is_the_more_seldom_it_is_asked_about(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """Days on the way must not be thousands of questions."""
    waits = []
    for age in (MINUTE, 5 * HOUR, 2 * DAY, 9 * DAY):
        row = _account(make_row, PayoutState.PENDING, first_intent_at=now - age, inquiries=12)
        due_at = _step(apply(row, answer(row, QUERY, OutcomeKind.PENDING), now, schedule)).row.due_at
        assert due_at is not None
        waits.append(due_at - now)
    assert waits == sorted(waits)
    assert timedelta(seconds=270) <= waits[0] <= timedelta(seconds=330)
    assert waits[1:] == [15 * MINUTE, timedelta(hours=2.4), 6 * HOUR]


# ---- after PAID


@pytest.mark.parametrize("state", SUBMITTED)
def test_s8_a_paid_account_payout_is_asked_about_on(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    row = _account(make_row, state)
    done = _step(apply(row, answer(row, SEND, OutcomeKind.PAID), now, schedule)).row
    assert done.due_at is not None
    assert now + 50 * MINUTE < done.due_at < now + 70 * MINUTE
    assert plan(done, done.due_at, schedule) == MakeCall(QUERY)
    assert begin_call(done, QUERY, done.due_at, schedule).row.state is PayoutState.PAID


def test_s8_returned_after_paid_is_a_second_fact_and_hands_nothing_back(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S8: the row stays PAID; the return is announced under its own version, and compensation stays NONE."""
    row = _paid(make_row, now, **_funded())
    step = _step(apply(row, answer(row, QUERY, OutcomeKind.RETURNED, reason_code="RETURNED"), now, schedule))
    back = step.row
    assert (step.transition, back.state, back.compensation) == ("returned", PayoutState.PAID, CompensationState.NONE)
    assert (back.returned_at, back.returned_version, back.returned_reason_code) == (now, back.version, "RETURNED")
    assert (back.announce_version, back.due_at) == (back.version, None)
    assert (back.state_version, back.reason_code) == (row.state_version, row.reason_code)
    assert isinstance(plan(back, now, schedule), Nothing)


@pytest.mark.parametrize("kind", sorted(OutcomeKind))
@pytest.mark.parametrize("call", [SEND, QUERY])
def test_s8_nothing_that_comes_after_a_return_changes_the_row(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind, call: CallKind
) -> None:
    """Returned twice, delivered again: recorded once. Only a leased row is written, to give the lease back (L3)."""
    facts: dict[str, Any] = {"returned_at": now, "returned_version": 6, "returned_reason_code": "RETURNED"}
    row = _paid(make_row, now, due_at=None, version=6, announce_version=6, **facts)
    assert isinstance(apply(row, answer(row, call, kind), now, schedule), Nothing)
    leased = _paid(make_row, now, due_at=None, version=6, announce_version=6, lease_owner="w/1", **facts)
    noted = _step(apply(leased, answer(leased, call, kind), now, schedule))
    assert (noted.transition, noted.row.returned_version, noted.row.announce_version) == ("noted", 6, 6)


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
def test_s8_a_return_after_an_unpaid_end_agrees_with_it(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """Also while the compensation runs: what came back was not paid."""
    row = _account(make_row, state, compensation=CompensationState.RUNNING)
    assert isinstance(apply(row, answer(row, QUERY, OutcomeKind.RETURNED), now, schedule), Nothing)


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
def test_l2_delivered_after_an_unpaid_end_freezes_it(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    row = _account(make_row, state, compensation=CompensationState.REQUIRED)
    frozen = _step(apply(row, answer(row, QUERY, OutcomeKind.PAID), now, schedule)).row
    assert (frozen.state, frozen.held, frozen.compensation) == (state, True, CompensationState.MANUAL)
    assert frozen.hold_reason in FROZEN_FOR


@pytest.mark.parametrize("kind", [OutcomeKind.DECLINED, OutcomeKind.OPERATOR])
@pytest.mark.parametrize("call", [SEND, QUERY])
def test_s8_rejected_after_paid_is_a_persons_and_the_row_stays_paid(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind, call: CallKind
) -> None:
    row = _paid(make_row, now, **_funded())
    held = _step(apply(row, answer(row, call, kind), now, schedule)).row
    assert (held.state, held.held, held.hold_reason) == (PayoutState.PAID, True, "CONTRADICTED_AFTER_PAID")
    assert (held.compensation, held.returned_at) == (CompensationState.NONE, None)
    assert isinstance(apply(held, answer(held, call, kind), now, schedule), Nothing)
    released = _step(apply(held, Released("maria"), now, schedule)).row
    assert released.due_at is None, "a person has seen it: it is not asked about again"
    assert isinstance(plan(released, now, schedule), Nothing)


@pytest.mark.parametrize("kind", [*SAYS_NOTHING, OutcomeKind.PAID])
def test_s8_what_says_nothing_new_after_paid_only_moves_the_next_question(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    row = _paid(make_row, now)
    after = _step(apply(row, answer(row, QUERY, kind), now, schedule)).row
    assert (after.state, after.held, after.announce_version) == (PayoutState.PAID, False, row.announce_version)
    assert after.due_at is not None
    assert after.due_at > now
    assert isinstance(apply(row, answer(row, SEND, kind), now, schedule), Nothing)


def test_s8_the_questions_after_paid_become_seldom_and_end_with_the_window(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """A bound that is inferred: 30 days, with some fifty questions."""
    row = _paid(make_row, now, state_at=now)
    at, questions = now, 0
    while row.due_at is not None:
        row = begin_call(row, QUERY, at, schedule).row
        row = _step(apply(row, answer(row, QUERY, OutcomeKind.PAID, asked_at=at), at, schedule)).row
        questions += 1
        at = row.due_at or at
    assert at - now == 30 * DAY
    assert 30 < questions < 70
    assert isinstance(plan(row, at, schedule), Nothing)


@pytest.mark.parametrize("kind", SAYS_NOTHING)
def test_s8_the_window_ends_with_an_answer_so_that_no_outage_hides_a_return(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    """Asked on, once a day, until Visa says delivered or returned; or until its query forgets, after 180 days."""
    for age, over in ((29 * DAY, False), (31 * DAY, False), (179 * DAY, False), (180 * DAY, True)):
        row = _paid(make_row, now, state_at=now - age)
        assert plan(row, now, schedule) == MakeCall(QUERY)
        after = _step(apply(row, answer(row, QUERY, kind), now, schedule)).row
        assert (after.due_at is None) is over
    late = _paid(make_row, now, state_at=now - 31 * DAY)
    assert _step(apply(late, answer(late, QUERY, OutcomeKind.RETURNED), now, schedule)).row.returned_at == now
    done = _step(apply(late, answer(late, QUERY, OutcomeKind.PAID), now, schedule))
    assert (done.transition, done.row.due_at, done.row.announce_version) == ("return_window_over", None, 5)
    with pytest.raises(IntentNotAllowed):
        begin_call(done.row, QUERY, now, schedule)


def test_s8_a_late_answer_to_a_question_from_within_the_window_does_not_end_it(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """It says what Visa knew when it was asked: a worker was frozen since, and the payout may have come back."""
    row = _paid(make_row, now, state_at=now - 31 * DAY)
    frozen = answer(row, QUERY, OutcomeKind.PAID, asked_at=now - 2 * DAY)
    after = _step(apply(row, frozen, now, schedule)).row
    assert after.due_at is not None
    assert plan(after, now, schedule) == MakeCall(QUERY)


def test_l12_a_held_paid_payout_is_asked_about_again_after_its_release(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    row = _paid(make_row, now, held=True, hold_reason="OPERATOR: look")
    assert isinstance(plan(row, now, schedule), Nothing)
    released = _step(apply(row, Released("maria"), now, schedule)).row
    assert (released.due_at, plan(released, now, schedule)) == (now, MakeCall(QUERY))


def test_p9_what_two_people_found_paid_is_not_asked_about_and_can_be_undone(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """A question would move the row, and only an untouched resolution is undone. Visa's own word is still recorded."""
    row = _paid(make_row, now, due_at=None, reason_code="RESOLVED_PAID", reason="Two people.")
    assert isinstance(plan(row, now, schedule), Nothing)
    undone = _step(apply(row, ResolutionUndone("maria", "wrong payout", row.version), now, schedule)).row
    assert (undone.state, plan(undone, now, schedule)) == (PayoutState.UNKNOWN, Nothing(_why(undone, now, schedule)))
    confirmed = _step(apply(row, answer(row, QUERY, OutcomeKind.PAID), now, schedule))
    assert confirmed.transition == "resolution_confirmed"
    back = _step(apply(row, answer(row, QUERY, OutcomeKind.RETURNED), now, schedule)).row
    assert back.returned_at == now
    assert isinstance(apply(back, ResolutionUndone("maria", "wrong", row.version), now, schedule), Nothing)


def _why(row: PayoutRow, now: datetime, schedule: Schedule) -> str:
    decision = plan(row, now, schedule)
    assert isinstance(decision, Nothing)
    return decision.reason


# ---- what cannot be built


def test_a_send_that_cannot_be_built_ends_unpaid_and_a_question_is_a_persons(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    row = _account(make_row, PayoutState.CLEARED, **_funded())
    failed = _step(apply(row, Unbuildable("ACCOUNT_UNREADABLE", "why", SEND), now, schedule)).row
    assert (failed.state, failed.compensation) == (PayoutState.FAILED, CompensationState.REQUIRED)
    refused = _account(make_row, PayoutState.CLEARED, first_intent_at=now, attempts=1)
    assert isinstance(apply(refused, Unbuildable("BODY_MISSING", "why", SEND), now, schedule), Nothing)
    for asked in (*(_account(make_row, state) for state in UNDECIDED), _paid(make_row, now)):
        held = _step(apply(asked, Unbuildable("ACCOUNT_RAIL_NOT_CONFIGURED", "why", QUERY), now, schedule)).row
        assert (held.state, held.hold_reason) == (asked.state, "ACCOUNT_RAIL_NOT_CONFIGURED")


# ---- what is announced


def test_s8_k3_a_return_is_an_event_of_its_own_above_that_of_paid(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S8: the PAID result says what it said; the return has a later version, its own type, and says what it follows."""
    row = _paid(make_row, now)
    (paid,) = publications(row)
    told = answer(row, QUERY, OutcomeKind.RETURNED, reason_code="RETURNED", transaction_identifier="A-2")
    back = _step(apply(row, told, now, schedule)).row
    again, returned = publications(back)
    assert again == paid
    assert paid.event is None
    assert (returned.topic, returned.schema, returned.event) == ("payout_results", "PayoutResult", "PayoutReturned")
    assert (returned.version, returned.at) == (back.version, now)
    assert returned.record["status"] == "RETURNED"
    assert returned.record["returned"] == {"returned_at": now, "reason_code": "RETURNED", "paid_version": paid.version}
    assert returned.record["compensation_required"] is False
    assert {name for name in paid.record if paid.record[name] != returned.record[name]} == {
        "version", "status", "reason_code", "reason", "decided_at", "returned",
    }  # fmt: skip
    unannounced = [event for event in publications(back) if event.version > row.announced_version]
    assert unannounced == [returned], "K2: only what is new is published"


@pytest.mark.parametrize("kind", KINDS)
def test_an_account_payouts_result_names_its_rail_and_no_numbers_of_the_other(
    make_row: MakeRow, kind: DestinationKind
) -> None:
    """Numbers were taken and never sent: nobody must look for them at Visa."""
    (event,) = publications(_account(make_row, PayoutState.PAID, destination_kind=kind))
    assert event.record["rail"] == kind.value
    assert event.record["systems_trace_audit_number"] is None
    assert event.record["retrieval_reference_number"] is None
    (card,) = publications(make_row(PayoutState.PAID))
    assert (card.record["rail"], card.record["systems_trace_audit_number"]) == ("OCT", 100_007)


# ---- the schedule


@pytest.mark.parametrize(
    "wrong",
    [
        {"account_search_seconds": 0.0},
        {"account_pending_limit_seconds": -1.0},
        {"account_return_window_seconds": 0.0},
        {"account_query_seconds": 86_400.0},
        {"account_pending_interval_seconds": 0.0},
        {"account_return_first_seconds": 0.0},
        {"account_return_interval_seconds": 1.0},
    ],
    ids=str,
)
def test_times_of_the_rail_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    good: dict[str, Any] = {
        "stage_patience_seconds": 60.0, "inquiry_base_seconds": 2.0, "inquiry_max_seconds": 300.0,
        "lease_seconds": 60.0, "in_flight_horizon_seconds": 90.0, "clock_skew_seconds": 5.0,
    }  # fmt: skip
    Schedule(**good)
    with pytest.raises(ValueError, match=r"\((S3, S8|S8|S7)\)"):
        Schedule(**(good | wrong))
