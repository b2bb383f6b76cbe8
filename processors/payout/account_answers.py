"""What an answer about an account or wallet payout does to its row (rules S3, S5, S6, S8, L2).

Nothing that Visa documents keeps a second send from being a second payment. So what may have been sent is asked about,
and then a person decides; it is sent again only where every attempt was refused.

sent, being worked on       PENDING, asked about until Visa says how it ended; held after `account_pending_limit`
no answer, cannot be read   UNKNOWN, asked about; held once it is 47 h old
400 to a later attempt      UNKNOWN, asked about: Visa may know the reference
Visa does not know it       asked about for `account_search`, then held; never sent again
rejected, cancelled         DECLINED
returned before PAID        DECLINED, the funding is handed back like that of any unpaid end (C1)
delivered                   PAID; asked about on, now and then, because it may come back
returned after PAID         a second fact of the row, announced as its own event; the row stays PAID, and nothing is
                            handed back by itself: the money is with us, and people decide what becomes of it
anything else after PAID    held: a delivered payout that Visa calls rejected, or that only a person can read
"""

from datetime import datetime, timedelta
from typing import Any, Final

from processors.payout.answers import (
    declined,
    first_intent_at,
    for_a_person,
    noted,
    pending,
    refused,
    speaks_for_every_attempt,
    still_unknown,
    unknown,
)
from processors.payout.events import Answered, CallKind
from processors.payout.evidence import evidence, facts
from processors.payout.frozen import APPROVED_AFTER_UNPAID_END, freeze
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.rail import may_come_back
from processors.payout.row import UNPAID_ENDS, PayoutRow, PayoutState, with_changes
from processors.payout.schedule import (
    Schedule,
    asked_for,
    inquiry_delay,
    pending_delay,
    resend_not_before,
    return_delay,
)
from processors.payout.step import RESOLVED_PAID, Nothing, Step, kept, paid

ACCOUNT_NOT_FOUND_AFTER_SEND: Final = "ACCOUNT_NOT_FOUND_AFTER_SEND"
"""Why a row is held: it may have been sent, Visa does not know it, and sending it again could pay twice (rule S3)."""
ACCOUNT_PENDING_TOO_LONG: Final = "ACCOUNT_PENDING_TOO_LONG"
"""Why a row is held: Visa has had it for `account_pending_limit_seconds` and not said how it ends (promise P1)."""
CONTRADICTED_AFTER_PAID: Final = "CONTRADICTED_AFTER_PAID"
"""Why a row is held: Visa said delivered, and now says what a delivered payout cannot be."""

UNPAID_BECAUSE: Final = "Visa or the recipient's bank rejected or cancelled the payout."
RETURNED_BEFORE_PAID: Final = "The payout was sent and came back before it was reported paid."


def apply_account_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Record what a call about an account or wallet payout has proven. Needs no lease (L2)."""
    return noted(row, event, _decide(row, event, now, schedule))


def _decide(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    match event.outcome.kind:
        case OutcomeKind.PAID:
            return _delivered(row, event, now, schedule)
        case OutcomeKind.RETURNED:
            return _returned(row, event, now, schedule)
    if row.state is PayoutState.PAID:
        return _said_after_paid(row, event, now, schedule)
    if event.outcome.kind is OutcomeKind.OPERATOR:
        return for_a_person(row, event, now)
    if row.is_terminal:
        return Nothing("the payout has ended; a late answer that says neither delivered nor returned changes nothing")
    if event.attempt != row.attempts:
        return Nothing("an answer to an earlier attempt proves nothing about the latest (S4)")
    if event.call is CallKind.ACCOUNT_SEND:
        return _apply_send_answer(row, event, now, schedule)
    return _apply_query_answer(row, event, now, schedule)


def _delivered(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """S8: the last word, from whichever attempt it comes; after an unpaid end it freezes the row (L2)."""
    if row.state in UNPAID_ENDS:
        return freeze(row, event, now, APPROVED_AFTER_UNPAID_END)
    if row.state is not PayoutState.PAID:
        due_at = now + return_delay(schedule, row.payout_id, timedelta(0))
        told = facts(row, event.outcome)
        done = paid(row, now, due_at=due_at, reason_code=event.outcome.reason_code, **told)
        return Step(done, "paid", evidence(event))
    if row.reason_code == RESOLVED_PAID and row.due_at is None:
        return Step(kept(row), "resolution_confirmed", evidence(event))
    return _asked_again(row, event, now, schedule, "still_paid")


def _returned(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state is PayoutState.PAID:
        return _returned_after_paid(row, event, now)
    if row.is_terminal:
        return Nothing("the payout has ended unpaid, and that it came back agrees with it")
    if row.state not in (PayoutState.SUBMITTING, PayoutState.PENDING, PayoutState.UNKNOWN):
        return Nothing(f"nothing of a {row.state} row can have come back")
    if not speaks_for_every_attempt(row, event, schedule):
        return Nothing("an attempt of it may still be under way (S4)")
    return declined(row, event, now, schedule, RETURNED_BEFORE_PAID)


def _returned_after_paid(row: PayoutRow, event: Answered, now: datetime) -> Step | Nothing:
    """S8: recorded once, announced under its own version. What the row says of PAID stays as it was announced (K3)."""
    if row.returned_at is not None:
        return Nothing("that it came back is recorded already")
    returned = kept(
        row,
        returned_at=now,
        returned_version=row.version + 1,
        returned_reason_code=event.outcome.reason_code,
        announce_version=row.version + 1,
        due_at=None,
    )
    return Step(returned, "returned", evidence(event))


def _said_after_paid(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.returned_at is not None:
        return Nothing("paid and come back: nothing more is expected")
    if event.outcome.kind not in (OutcomeKind.DECLINED, OutcomeKind.OPERATOR):
        return _asked_again(row, event, now, schedule, "nothing_new_after_paid")
    if row.hold_reason == CONTRADICTED_AFTER_PAID:
        return Nothing("a person looks at the contradiction already")
    held = kept(row, held=True, hold_reason=CONTRADICTED_AFTER_PAID, due_at=None)
    return Step(held, "held_for_operator", evidence(event))


def _asked_again(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule, word: str) -> Step | Nothing:
    """The next question about a paid payout. The last one is answered after the window: no outage hides a return."""
    if event.call is not CallKind.ACCOUNT_QUERY or not may_come_back(row):
        return Nothing("already paid")
    age, told = now - row.state_at, event.outcome.kind is OutcomeKind.PAID
    window_ends = row.state_at + timedelta(seconds=schedule.account_return_window_seconds)
    if (told and event.asked_at >= window_ends) or age >= timedelta(seconds=schedule.account_query_seconds):
        return Step(kept(row, due_at=None), "return_window_over", evidence(event))
    due_at = now + max(
        return_delay(schedule, row.payout_id, age), asked_for(schedule, event.outcome.retry_after_seconds)
    )
    return Step(kept(row, due_at=min(due_at, window_ends) if window_ends > now else due_at), word, evidence(event))


def _apply_send_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.SUBMITTING:
        return _late_send_answer(row, event, now, schedule)
    match outcome.kind:
        case OutcomeKind.DECLINED:
            return declined(row, event, now, schedule, UNPAID_BECAUSE)
        case OutcomeKind.REFUSED if row.attempts > 1 and outcome.refusal is Refusal.REQUEST_INVALID:
            # It may say that the reference is known, and so that an earlier attempt was taken after all: ask.
            return Step(unknown(row, outcome, now, schedule), "unknown", evidence(event))
        case OutcomeKind.REFUSED:
            return refused(row, event, now, schedule)
        case OutcomeKind.PENDING:
            return Step(_on_its_way(row, outcome, now, schedule), "pending", evidence(event))
        case _:
            return Step(unknown(row, outcome, now, schedule), "unknown", evidence(event))


def _late_send_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state not in (PayoutState.UNKNOWN, PayoutState.PENDING):
        return Nothing(f"a late answer says nothing about a {row.state} row")
    if event.outcome.kind is OutcomeKind.DECLINED:
        return declined(row, event, now, schedule, UNPAID_BECAUSE)
    if event.outcome.kind is OutcomeKind.PENDING and row.state is PayoutState.UNKNOWN:
        return Step(_on_its_way(row, event.outcome, now, schedule), "pending", evidence(event))
    return Nothing("a late refusal proves nothing more about an unknown payout (S6)")


def _apply_query_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state not in (PayoutState.UNKNOWN, PayoutState.PENDING):
        return Nothing(f"a query's answer says nothing about a {row.state} row")
    match event.outcome.kind:
        case OutcomeKind.DECLINED if speaks_for_every_attempt(row, event, schedule):
            return declined(row, event, now, schedule, UNPAID_BECAUSE)
        case OutcomeKind.NOT_FOUND:
            return _not_found(row, event, now, schedule)
        case OutcomeKind.PENDING if row.state is PayoutState.UNKNOWN:
            return Step(_on_its_way(row, event.outcome, now, schedule), "pending", evidence(event))
        case _ if row.state is PayoutState.PENDING:
            return _still_pending(row, event, now, schedule)
        case _:
            return still_unknown(row, event, now, schedule)


def _on_its_way(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> PayoutRow:
    """PENDING, and the row's reason code says how far Visa says it is."""
    return with_changes(pending(row, outcome, now, schedule), reason_code=outcome.reason_code)


def _still_pending(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """P1: asked again, the more seldom the older it is; past the limit a person is shown the row."""
    outcome = event.outcome
    told: dict[str, Any] = facts(row, outcome)
    if outcome.kind is OutcomeKind.PENDING:
        told["reason_code"] = outcome.reason_code
    age = now - first_intent_at(row)
    if not row.held and age >= timedelta(seconds=schedule.account_pending_limit_seconds):
        late = kept(row, held=True, hold_reason=ACCOUNT_PENDING_TOO_LONG, due_at=None, **told)
        return Step(late, "held_for_operator", evidence(event))
    delay = pending_delay(schedule, row.payout_id, row.inquiries, age)
    due_at = now + max(delay, asked_for(schedule, outcome.retry_after_seconds))
    return Step(kept(row, due_at=due_at, **told), "still_pending", evidence(event))


def _not_found(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """S3: asked about until its query has had its time, then a person's: what may have arrived is never sent again."""
    if row.held:
        return Step(kept(row, due_at=None), "not_found_while_held", evidence(event))
    last_intent_at = row.last_intent_at or first_intent_at(row)
    searched = last_intent_at + timedelta(seconds=schedule.account_search_seconds)
    if event.asked_at < max(searched, resend_not_before(schedule, last_intent_at)):
        due_at = now + inquiry_delay(schedule, row.payout_id, row.inquiries)
        return Step(kept(row, due_at=due_at), "not_found_yet", evidence(event))
    held = kept(row, held=True, hold_reason=ACCOUNT_NOT_FOUND_AFTER_SEND, due_at=None)
    return Step(held, "held_for_operator", evidence(event))
