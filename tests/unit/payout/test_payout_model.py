"""One payout, three workers that lag, crash and freeze, an operator, an originator and a Visa that misbehaves.

The machine drives `plan`, `begin_call` and `apply` as a shell does: every write is a compare-and-set on the version
(L2), a call leaves only under a lease (L3), whatever a worker decided may be carried out any time later. Visa's own
book is the judge of what was paid; the checks stand where a row is written, a call begins, or Visa takes effect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from processors.compensation.determine import is_past_reversal
from processors.payout.events import (
    COMPENSATION_CALLS,
    MONEY_MOVING_CALLS,
    SUBMISSIONS,
    Answered,
    CallKind,
    Cancelled,
    Confirmed,
    Event,
    HandBackAgreed,
    HandBackProposed,
    Held,
    NewIdentity,
    Rejected,
    Released,
    Requeued,
    ResolutionProposed,
    ResolutionUndone,
    Resolved,
    Reviewed,
    ReviewWanted,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.frozen import is_frozen
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.publications import publications
from processors.payout.row import (
    UNPAID_ENDS,
    CompensationAction,
    CompensationState,
    DestinationKind,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply, begin_call, compensation_id, plan
from processors.payout.step import MakeCall, Nothing, RunStage, Step

SCHEDULE = Schedule.production()
HORIZON = timedelta(seconds=SCHEDULE.in_flight_horizon_seconds)
VISA_REMEMBERS = timedelta(hours=24)
# Half the tolerated difference on either side of the database's clock, so that no two workers differ by more.
WORKER_CLOCKS = tuple(timedelta(seconds=SCHEDULE.clock_skew_seconds * part) for part in (-0.5, 0.0, 0.5))
# Enough driven steps for every retry, resend and inquiry that the schedule allows, several times over.
STEPS_TO_AN_END = 400

WORKERS = st.integers(0, len(WORKER_CLOCKS) - 1)
GATEWAY_REFUSALS = {
    "rate": Refusal.RATE_LIMITED,
    "invalid": Refusal.REQUEST_INVALID,
    "credentials": Refusal.CREDENTIALS,
    "wrong_url": Refusal.WRONG_ENDPOINT,
}
# What Visa does with a call that reaches it; "mute" ones take effect and answer 503, "error" fails this one with 500.
PUSH_FATES = (
    "approve",
    "decline",
    "pending",
    "mute_approve",
    "mute_decline",
    "unavailable",
    "error",
    *GATEWAY_REFUSALS,
)
PEOPLE = (
    "reviewer", "mode", "originator", "hold", "hold", "release", "release", "release", "requeue", "stage",
    "unbuildable", "cancel",
)  # fmt: skip
COMPENSATING_CALLS = (CallKind.REVERSE, CallKind.ADJUST)
QUERY_FATES = ("truth", "truth", "lag", "unavailable", "operator", "rate")


def _outcome(kind: OutcomeKind, **facts: Any) -> Outcome:
    return Outcome(kind=kind, reason_code=f"MODEL_{kind}", **facts)


def _refused(refusal: Refusal) -> Outcome:
    return _outcome(OutcomeKind.REFUSED, refusal=refusal, systemic=refusal is not Refusal.REQUEST_INVALID)


PAID = _outcome(OutcomeKind.PAID, action_code="00", transaction_identifier="381228649430015")
DECLINED = _outcome(OutcomeKind.DECLINED, action_code="05")
UNKNOWN = _outcome(OutcomeKind.UNKNOWN)
ERROR = _outcome(OutcomeKind.UNKNOWN, http_status=500)
NOT_FOUND = _outcome(OutcomeKind.NOT_FOUND)
OPERATOR = _outcome(OutcomeKind.OPERATOR)
PENDING = _outcome(OutcomeKind.PENDING, status_identifier="status-1")
RETURNED = _outcome(OutcomeKind.RETURNED)
VERDICT_OF_FATE = {"approve": "APPROVED", "mute_approve": "APPROVED", "pending": "PENDING"}
ANSWER_OF_VERDICT = {"APPROVED": PAID, "DECLINED": DECLINED, "PENDING": PENDING, "RETURNED": RETURNED}


def _fates(kind: CallKind) -> tuple[str, ...]:
    return PUSH_FATES if kind in MONEY_MOVING_CALLS else QUERY_FATES


class ModelVisa:
    """Visa's book for one payout: what took effect under the one duplicate key, and what was reversed."""

    def __init__(self) -> None:
        self.payments = 0
        self.returns = 0
        self.reversals = 0
        self.adjustments = 0
        self.verdict: str | None = None
        self.remembered_until: datetime | None = None

    def push(self, now: datetime, fate: str) -> Outcome:
        """A push arrives: refused at the gateway, recognised as a duplicate, or decided."""
        if fate in GATEWAY_REFUSALS:
            return _refused(GATEWAY_REFUSALS[fate])
        if fate in ("unavailable", "error"):
            return ERROR if fate == "error" else UNKNOWN
        if self.verdict is None or self.remembered_until is None or now >= self.remembered_until:
            self.remembered_until = now + VISA_REMEMBERS
            self._decide(VERDICT_OF_FATE.get(fate, "DECLINED"))
        return UNKNOWN if fate.startswith("mute") else ANSWER_OF_VERDICT[str(self.verdict)]

    def complete_pending(self, approve: bool) -> None:
        """What was answered 202 is decided later."""
        if self.verdict == "PENDING":
            self._decide("APPROVED" if approve else "DECLINED")

    def query(self, fate: str) -> Outcome:
        """The transaction query or status: the truth, or one of the ways of not telling it."""
        if fate == "truth":
            return NOT_FOUND if self.verdict is None else ANSWER_OF_VERDICT[self.verdict]
        return self._no_truth(fate)

    def reverse(self, fate: str) -> Outcome:
        """A reversal arrives. There is no duplicate key: each one that is approved moves money."""
        if fate in GATEWAY_REFUSALS:
            return _refused(GATEWAY_REFUSALS[fate])
        if fate in ("approve", "mute_approve"):
            self.reversals += 1
        return self._of_hand_back(fate)

    def query_reversal(self, fate: str) -> Outcome:
        """Shows a reversal row if there is one; the pull's own row proves nothing (C4)."""
        if fate == "truth":
            return PAID if self.reversals else NOT_FOUND
        return self._no_truth(fate)

    def adjust(self, fate: str) -> Outcome:
        """An adjustment arrives: under numbers of its own, and each one that is approved moves money, too."""
        if fate in GATEWAY_REFUSALS:
            return _refused(GATEWAY_REFUSALS[fate])
        if fate in ("approve", "mute_approve"):
            self.adjustments += 1
        return self._of_hand_back(fate)

    def query_adjustment(self, fate: str) -> Outcome:
        """Shows the adjustment's own row if there is one."""
        if fate == "truth":
            return PAID if self.adjustments else NOT_FOUND
        return self._no_truth(fate)

    @staticmethod
    def _of_hand_back(fate: str) -> Outcome:
        return {"approve": PAID, "decline": DECLINED, "pending": PENDING, "error": ERROR}.get(fate, UNKNOWN)

    @staticmethod
    def _no_truth(fate: str) -> Outcome:
        rate = _refused(Refusal.RATE_LIMITED)
        return {"lag": NOT_FOUND, "unavailable": UNKNOWN, "operator": OPERATOR, "rate": rate}[fate]

    def _decide(self, verdict: str) -> None:
        self.verdict = verdict
        if verdict == "APPROVED":
            self.payments += 1


class ModelAccounts(ModelVisa):
    """The account and wallet rail: every send that arrives is a payment of its own (S3), and one may come back (S8)."""

    def push(self, now: datetime, fate: str) -> Outcome:
        """A send arrives: refused at the gateway, or decided, however often the same came before."""
        self.remembered_until = None
        return super().push(now, fate)

    def bring_back(self) -> None:
        """What was delivered comes back to us."""
        if self.verdict == "APPROVED":
            self.verdict = "RETURNED"
            self.payments -= 1
            self.returns += 1


@dataclass(slots=True)
class Call:
    """A call that a worker began: its way to Visa and back."""

    kind: CallKind
    worker: int
    owner: str
    """Names this call at the ledger (L3)."""
    attempt: int
    begun_at: datetime
    """By the true clock."""
    asked_at: datetime
    """By the worker's clock."""
    dead: bool = False
    """The connection was never made: nothing can arrive any more."""
    reply: Outcome | None = None
    """What Visa said, if the call arrived."""
    report: Outcome | None = None
    """What the worker makes of it; fixed when first reported, repeated on a lost compare-and-set or a redelivery."""

    def may_arrive(self, now: datetime) -> bool:
        """Still under way: not yet at Visa, within the horizon."""
        return self.reply is None and not self.dead and now <= self.begun_at + HORIZON


class PayoutMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    destination = DestinationKind.CARD
    submission, question = CallKind.PUSH, CallKind.QUERY

    def __init__(self, make_row: Callable[..., PayoutRow], start: datetime, begins_at: tuple[str, ...]) -> None:
        super().__init__()
        self.make_row = make_row
        self.begins_at = begins_at
        self.now = start
        self.visa = self._visa()
        self.row = make_row()
        self.snapshots = [self.row] * len(WORKER_CLOCKS)
        self.intents: dict[int, tuple[PayoutRow, CallKind]] = {}
        self.calls: list[Call] = []
        self.identities: set[tuple[Any, ...]] = set()
        self.issued = 0
        self.announced: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.not_found_version: int | None = None
        """The row version that a sufficient NOT_FOUND produced: the only one from which an ambiguous push is resent."""
        self.approval_recorded = False
        self.proposal: tuple[ResolutionProposed, int] | None = None
        """What the first pair of eyes said, and the row version that it made."""
        self.contradicted = False
        """Visa approved what it had declined: the one case that no rule can prevent, only freeze (L2)."""

    def _visa(self) -> ModelVisa:
        return ModelVisa()

    # ---- how a payout begins

    @initialize(
        kind=st.sampled_from([FundingKind.AFT, FundingKind.AFT, FundingKind.AFT, *FundingKind]),
        captured=st.sampled_from([True, True, True, False]),
        owned=st.sampled_from([True, True, True, False]),
        reversible=st.sampled_from([True, True, True, False]),
        expires_after=st.sampled_from([None, None, None, 600, 80_000]),
        data=st.data(),
        age_seconds=st.sampled_from([0, 100, 100, 82_600]),
        captured_before=st.sampled_from([300, 300, 86_300, 86_300, 90_000]),
    )
    def received(
        self,
        kind: FundingKind,
        captured: bool,
        owned: bool,
        reversible: bool,
        expires_after: int | None,
        data: st.DataObject,
        age_seconds: int,
        captured_before: int,
    ) -> None:
        """The first record inserted the row; the core itself has brought it to where the run begins."""
        expires_at = None if expires_after is None else self.now + timedelta(seconds=expires_after)
        begins_at = data.draw(st.sampled_from(self.begins_at))
        if begins_at == "DECLINED":
            kind, captured, owned, expires_at = FundingKind.AFT, True, True, None
        stages = begins_at in ("RECEIVED", "IN_REVIEW")
        self.row = self.make_row(
            PayoutState.RECEIVED if stages else PayoutState.CLEARED,
            funding_kind=kind,
            funding_captured=captured,
            receipt_owned=captured and owned,
            funding_reversible=reversible,
            funding_captured_at=self.now - timedelta(seconds=captured_before),
            expires_at=expires_at,
            own_failures=SCHEDULE.retry_budget - 2 if begins_at == "FAILING" else 0,
            due_at=self.now,
            destination_kind=self.destination,
        )
        match begins_at:
            case "IN_REVIEW":
                self._apply(Validated("corridors-1"))
                self._apply(self._screened(ScreeningVerdict.NEEDS_REVIEW))
            case "DECLINED":
                self._drive(0, "decline", "truth", lost="nothing")
            case "FAILING":
                self._drive(0, "error", "truth", lost="nothing")
            case "UNKNOWN":
                self._drive(0, "approve", "truth", lost="request")
                self.now += timedelta(seconds=age_seconds)
        self.snapshots = [self.row] * len(WORKER_CLOCKS)

    # ---- time

    @rule(seconds=st.sampled_from([1, 5, 20, 65, 65, 100, 100, 100, 600, 3_600, 80_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # ---- workers

    @rule(worker=WORKERS)
    def worker_reads(self, worker: int) -> None:
        self.snapshots[worker] = self.row

    @rule(worker=WORKERS, fresh=st.booleans(), crash=st.sampled_from(["no", "no", "before", "after"]), data=st.data())
    def worker_decides(self, worker: int, fresh: bool, crash: str, data: st.DataObject) -> None:
        """Plan on what the worker last read, perhaps long ago; a call it decides on begins later, perhaps never."""
        if fresh:
            self.snapshots[worker] = self.row
        seen = self.snapshots[worker]
        decision = plan(seen, self._clock(worker), SCHEDULE)
        if seen.held:
            assert isinstance(decision, Nothing), "L12: nothing is done for a held row"
        if crash == "before":
            return
        match decision:
            case MakeCall(call=call):
                self.intents[worker] = (seen, call)
            case Step():
                self._commit_and_follow(worker, seen, decision, None, crash)
            case RunStage():
                event = self._stage_event(data)
                outcome = apply(seen, event, self._clock(worker), SCHEDULE)
                if isinstance(outcome, Step):
                    self._commit_and_follow(worker, seen, outcome, event, crash)
            case Nothing():
                pass

    @precondition(lambda self: self.intents)
    @rule(data=st.data(), crash=st.sampled_from(["no", "no", "no", "before", "after"]))
    def worker_begins_a_call(self, data: st.DataObject, crash: str) -> None:
        worker = data.draw(st.sampled_from(sorted(self.intents)))
        seen, kind = self.intents.pop(worker)
        if crash != "before":
            self._begin(worker, seen, kind, sends=crash == "no")

    @rule(
        worker=WORKERS,
        push_fate=st.sampled_from(PUSH_FATES),
        query_fate=st.sampled_from(QUERY_FATES),
        lost=st.sampled_from(["nothing", "reply", "request"]),
        when_due=st.sampled_from([True, True, True, False]),
    )
    def worker_drives(self, worker: int, push_fate: str, query_fate: str, lost: str, when_due: bool) -> None:
        """What a worker does when nothing interferes: read, decide, call, record. Visa still does as it likes."""
        if when_due and self.row.due_at is not None:
            self.now = max(self.now, self.row.due_at)
        self._drive(worker, push_fate, query_fate, lost=lost)

    # ---- the wire

    @precondition(lambda self: any(call.may_arrive(self.now) for call in self.calls))
    @rule(data=st.data())
    def visa_receives(self, data: st.DataObject) -> None:
        under_way = [index for index, call in enumerate(self.calls) if call.may_arrive(self.now)]
        call = self.calls[data.draw(st.sampled_from(under_way))]
        self._arrive(call, data.draw(st.sampled_from(_fates(call.kind))))

    @precondition(lambda self: self.visa.verdict == "PENDING")
    @rule(approve=st.booleans())
    def visa_completes_what_was_pending(self, approve: bool) -> None:
        self.visa.complete_pending(approve)
        self._check_visas_book()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), lost=st.booleans(), crash=st.sampled_from(["no", "no", "before", "after"]))
    def worker_reports(self, data: st.DataObject, lost: bool, crash: str) -> None:
        """The call's end reaches the row: now, late, twice, or as a time-out that says nothing."""
        call = self.calls[data.draw(st.integers(0, len(self.calls) - 1))]
        if call.report is None:
            if call.reply is None and not lost:
                call.dead = True
                call.report = _refused(Refusal.NOT_CONNECTED)
            else:
                call.report = UNKNOWN if lost or call.reply is None else call.reply
        if crash != "before":
            self._record(call, call.report, crash)

    @precondition(lambda self: self.row.state in UNPAID_ENDS and self.row.attempts > 0)
    @rule()
    def visa_contradicts_itself(self) -> None:
        """An approval after a definite decline: no rule can prevent it, L2 freezes what is left."""
        first, self.contradicted = not self.contradicted, True
        call = Call(self.question, 0, "rogue", self.row.attempts, self.now, self.now)
        self._record(call, PAID, "no")
        if first:
            assert self.row.held, "L2: an approval after an unpaid end freezes the row"
            told = self.row.announce_version == self.row.version
            assert told or self.row.compensation is not CompensationState.MANUAL, "L2: whoever hands back is told"

    # ---- people

    @rule(who=st.sampled_from(PEOPLE), data=st.data())
    def somebody_acts(self, who: str, data: st.DataObject) -> None:
        """Reviewer, originator, operator, or a slow worker's stage: in any order, repeated, late."""
        right, favourable = data.draw(st.booleans()), data.draw(st.booleans())
        match who:
            case "reviewer":
                self._reviewer_decides(approved=favourable, right_case=right)
            case "mode":
                self._mode_wants_a_reviewer()
            case "originator":
                self._originator_confirms(completed=favourable, right_name=right)
            case "hold":
                self._apply(Held("INCIDENT"))
                assert self.row.held
            case "release":
                self._apply(Released("operator-1"))
            case "requeue":
                self._operator_requeues()
            case "unbuildable":
                self._call_cannot_be_built()
            case "cancel":
                self._operator_cancels()
            case _:
                self._stage_result_arrives_again(self._stage_event(data))

    @precondition(lambda self: self.visa.verdict != "PENDING")
    @rule(proposer=st.sampled_from(["ann", "bob"]))
    def somebody_proposes_a_resolution(self, proposer: str) -> None:
        """An operator was told the truth by Visa's support; whether it is the last word yet, the core has to see."""
        paid = self.visa.verdict == "APPROVED"
        before, event = self.row, ResolutionProposed(paid, "ticket 1", proposer)
        self._apply(event)
        if self.row != before:
            resolvable = (PayoutState.UNKNOWN, PayoutState.PENDING, PayoutState.SUBMITTING)
            assert before.state in resolvable, "S6: only what may have been paid"
            leased = before.lease_until is not None and self.now < before.lease_until
            assert before.state is not PayoutState.SUBMITTING or not leased, "L3: its answer is on the way"
            assert self.row.ambiguous, "S6"
            assert self.row.held, "S6: held until a second person agrees"
            self.proposal = (event, self.row.version)

    @precondition(lambda self: self.proposal is not None)
    @rule(approver=st.sampled_from(["ann", " Ann ", "bob", "bob", "BOB", "cy", "cy"]))
    def somebody_approves_the_resolution(self, approver: str) -> None:
        assert self.proposal is not None
        before, (proposed, version) = self.row, self.proposal
        self._apply(Resolved(proposed.paid, proposed.evidence, proposed.proposer, approver, version))
        if self.row != before:
            assert approver.strip().lower() != proposed.proposer, "S6: four eyes"
            assert before.version == version, "S6: whatever happened since voids the proposal"

    @precondition(lambda self: self.row.compensation is not CompensationState.NONE)
    @rule(proposer=st.sampled_from(["ann", "bob"]), approver=st.sampled_from(["ann", " Ann ", "bob", "cy"]))
    def two_people_say_that_it_was_handed_back(self, proposer: str, approver: str) -> None:
        """C2, C4, L2: only a MANUAL that is not the originator's, and never one of a payout that may be paid."""
        before = self.row
        self._apply(HandBackProposed("transfer 7", proposer))
        if self.row == before:
            return
        assert before.compensation is CompensationState.MANUAL
        assert before.compensation_executor is not Executor.ORIGINATOR, "C2"
        assert not is_frozen(before), "L2"
        proposed = self.row
        self._apply(HandBackAgreed("transfer 7", proposer, approver, proposed.version))
        if self.row != proposed:
            assert self.row.compensation is CompensationState.COMPENSATED
            assert approver.strip().lower() != proposer, "S6: four eyes"

    @precondition(lambda self: self.row.reason_code in ("RESOLVED_PAID", "RESOLVED_NOT_PAID"))
    @rule()
    def somebody_undoes_the_resolution(self) -> None:
        before = self.row
        self._apply(ResolutionUndone("dee", "the wrong ticket", before.state_version))
        if self.row != before:
            assert self.row.held, "P9, L12: somebody has to say how it goes on"
            assert before.compensation in (CompensationState.NONE, CompensationState.REQUIRED)
            assert before.compensation_executor is not Executor.ORIGINATOR, "C2: a demand cannot be taken back"

    def _operator_requeues(self) -> None:
        before = self.row
        self._apply(Requeued("operator-1", "Visa is back"))
        decides = {"due_at", "version"}
        same = {name: value for name, value in before.__dict__.items() if name not in decides}
        assert same == {name: self.row.__dict__[name] for name in same}, "S3, S6: only the time is another"
        if self.row != before:
            assert not before.held, "L12"
            assert not before.is_terminal

    def _operator_cancels(self) -> None:
        before = self.row
        self._apply(Cancelled("operator-1", "the recipient called"))
        early = (PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED)
        cancelled = self.row.state is PayoutState.CANCELLED and before.state is not PayoutState.CANCELLED
        assert cancelled is (before.state in early), "S6: what is known not paid can be cancelled, nothing else"

    def _call_cannot_be_built(self) -> None:
        before = self.row
        self._apply(Unbuildable("CARD_MISSING", "The request names no card."))
        first_push = before.state is PayoutState.CLEARED and before.first_intent_at is None
        first_reversal = (
            before.compensation is CompensationState.REQUIRED
            and before.compensation_executor is Executor.PROCESSOR
            and before.compensation_first_intent_at is None
        )
        if not (first_push or first_reversal):
            assert self.row == before, "C2, S6: only a first call of ours can turn out to be impossible"

    def _reviewer_decides(self, *, approved: bool, right_case: bool) -> None:
        before = self.row
        case_id = str(before.review_case_id) if right_case else "payout-0001.999"
        self._apply(Reviewed(case_id, approved, "reviewer-1", "SEEN"))
        if before.state is not PayoutState.IN_REVIEW or not right_case or before.review_case_id is None:
            assert self.row == before, "R1: only the open case's decision counts"

    def _mode_wants_a_reviewer(self) -> None:
        before = self.row
        self._apply(ReviewWanted())
        unsent = before.state is PayoutState.CLEARED and not before.ambiguous
        if not unsent or before.reviewer is not None:
            assert self.row == before, "E5, P3: what may have been paid, or was approved, is put before nobody"

    def _originator_confirms(self, *, completed: bool, right_name: bool) -> None:
        before = self.row
        name = compensation_id(before.payout_id) if right_name else "another.compensation"
        self._apply(Confirmed(name, completed, "confirmation-1"))
        after_all = completed and before.compensation is CompensationState.MANUAL
        awaited = before.compensation is CompensationState.REQUIRED or after_all
        if not (right_name and awaited and before.compensation_executor is Executor.ORIGINATOR):
            assert self.row == before, "C2: only the awaited confirmation counts"

    def _stage_result_arrives_again(self, event: Event) -> None:
        before = self.row
        self._apply(event)
        awaited = PayoutState.VALIDATED if isinstance(event, Screened) else PayoutState.RECEIVED
        if before.state is not awaited:
            assert self.row == before, "K1: a stage's result counts once"

    # ---- how a shell does it

    def _clock(self, worker: int) -> datetime:
        return self.now + WORKER_CLOCKS[worker]

    def _stage_event(self, data: st.DataObject) -> Event:
        events: list[Event] = [
            Validated("corridors-1"),
            Rejected("AMOUNT_INVALID", "The amount is not positive.", "corridors-1"),
            *(self._screened(verdict) for verdict in ScreeningVerdict),
        ]
        return data.draw(st.sampled_from(events))

    @staticmethod
    def _screened(verdict: ScreeningVerdict) -> Screened:
        return Screened(verdict, "SCREENED", "Screened.", "corridors-1", "list-1", 7_600, None, None)

    def _apply(self, event: Event) -> None:
        decision = apply(self.row, event, self.now, SCHEDULE)
        if isinstance(decision, Step):
            assert self._commit(self.row, decision, event)

    def _commit_and_follow(
        self, worker: int, seen: PayoutRow, step: Step, event: Event | None, crash: str, owner: str | None = None
    ) -> None:
        committed = self._commit(seen, step, event, owner)
        if committed is not None and step.follow_up is not None and crash != "after":
            assert not committed.held, "L12: no call follows for a held row"
            self.intents[worker] = (committed, step.follow_up)

    def _commit(self, seen: PayoutRow, step: Step, event: Event | None, owner: str | None = None) -> PayoutRow | None:
        """Ledger.commit: only the lease's owner gives it back; anybody else's write leaves it (L3, L9)."""
        if seen.version != self.row.version:
            return None
        self._check_step(seen, step, event)
        lease = {"lease_owner": self.row.lease_owner, "lease_until": self.row.lease_until}
        if owner is not None and owner == self.row.lease_owner:
            lease = {"lease_owner": None, "lease_until": None}
        self.row = replace(step.row, **lease)
        self._check_visas_book()
        return self.row

    def _begin(self, worker: int, seen: PayoutRow, kind: CallKind, *, sends: bool) -> None:
        """Ledger.begin: refuses stale, held and leased rows (L2, L3, L12)."""
        step = self._intent(worker, seen, kind)
        if not isinstance(step, Step):
            self._check_refused_intent(worker, seen, kind)
        leased = self.row.lease_until is not None and self.now < self.row.lease_until
        if not isinstance(step, Step) or seen.version != self.row.version or self.row.held or leased:
            return
        self._check_step(seen, step, None)
        self._check_begin(kind, step.row)
        lease_until = self.now + timedelta(seconds=SCHEDULE.lease_seconds)
        owner = f"worker-{worker}/{len(self.calls)}"
        self.row = replace(step.row, lease_owner=owner, lease_until=lease_until)
        attempt = self.row.compensation_attempts if kind in COMPENSATION_CALLS else self.row.attempts
        self.calls.append(Call(kind, worker, owner, attempt, self.now, self._clock(worker), dead=not sends))

    def _intent(self, worker: int, seen: PayoutRow, kind: CallKind) -> Step | Nothing:
        now = self._clock(worker)
        identity = body = None
        first_adjustment = kind is CallKind.ADJUST and seen.compensation_first_intent_at is None
        if first_adjustment or (kind in SUBMISSIONS and seen.first_intent_at is None):
            self.issued += 1
            identity = NewIdentity(self.issued, 100_000 + self.issued, "606012000000", now)
            body = b"body %d" % self.issued
        if kind is CallKind.REVERSE and seen.compensation_first_intent_at is None:
            body = b"reversal body"
        try:
            return begin_call(seen, kind, now, SCHEDULE, identity=identity, sealed_body=body)
        except ValueError as refused:
            return Nothing(str(refused))  # an intent that came too late; the row is driven again

    def _arrive(self, call: Call, fate: str) -> None:
        match call.kind:
            case CallKind.PUSH | CallKind.ACCOUNT_SEND:
                call.reply = self.visa.push(self.now, fate)
            case CallKind.REVERSE:
                call.reply = self.visa.reverse(fate)
            case CallKind.REVERSAL_QUERY:
                call.reply = self.visa.query_reversal(fate)
            case CallKind.ADJUST:
                call.reply = self.visa.adjust(fate)
            case CallKind.ADJUSTMENT_QUERY:
                call.reply = self.visa.query_adjustment(fate)
            case _:
                call.reply = self.visa.query(fate)
        self._check_visas_book()

    def _record(self, call: Call, outcome: Outcome, crash: str) -> None:
        """Evidence is written to the row as it is now, whatever the worker had read (L2)."""
        before = self.row
        event = Answered(call.kind, call.attempt, outcome, call.asked_at)
        decision = apply(before, event, self._clock(call.worker), SCHEDULE)
        pushed = call.kind not in COMPENSATION_CALLS
        if pushed and outcome.kind is OutcomeKind.PAID:
            self.approval_recorded = True
        if isinstance(decision, Nothing):
            return
        assert decision.follow_up is not CallKind.ACCOUNT_SEND, "S3: nothing allows an account payout to be sent again"
        if decision.follow_up is CallKind.PUSH:
            assert outcome.kind is OutcomeKind.NOT_FOUND, "S3: only a query that knows nothing allows a resend"
            self.not_found_version = decision.row.version
        self._commit_and_follow(call.worker, before, decision, event, crash, call.owner)

    # ---- what must hold

    def _check_step(self, before: PayoutRow, step: Step, event: Event | None) -> None:
        after = step.row
        outcome = event.outcome.kind if isinstance(event, Answered) else None
        push_answer = isinstance(event, Answered) and event.call not in COMPENSATION_CALLS
        assert after.version == before.version + 1, "L2: versions rise by one"
        self._check_end(before, after, event, outcome if push_answer else None)
        self._check_budget(before, after, event)
        self._check_compensation(before, after, event, outcome)
        self._check_identity(before, after)
        self._check_announcements(after)
        if before.state is not after.state:
            assert after.state_version == after.version
        assert is_frozen(after) or not is_frozen(before), "L2: that Visa paid is never forgotten"
        if before.held and not after.held:
            assert isinstance(event, Released | Resolved), "L12: only operators release"

    def _check_budget(self, before: PayoutRow, after: PayoutRow, event: Event | None) -> None:
        """S7: spent by nothing but an error or a refusal that was this payout's own; given back by a person."""
        if after.own_failures < before.own_failures:
            assert isinstance(event, Released)
        if after.own_failures > before.own_failures:
            assert isinstance(event, Answered)
            own = event.outcome == ERROR or event.outcome.refusal is Refusal.REQUEST_INVALID
            assert own, "S7: a systemic failure spends nothing"
            assert event.call is self.submission
            assert after.own_failures == before.own_failures + 1

    def _check_end(self, before: PayoutRow, after: PayoutRow, event: Event | None, outcome: OutcomeKind | None) -> None:
        resolved = isinstance(event, Resolved)
        if before.is_terminal:
            undone = isinstance(event, ResolutionUndone) and after.state is PayoutState.UNKNOWN
            assert after.state is before.state or undone, "a terminal state never changes by itself"
            assert after.ambiguous or not undone, "S6: undone is ambiguous again"
            if after.returned_at != before.returned_at:
                assert (before.state, before.returned_at) == (PayoutState.PAID, None), "S8: once, and only after PAID"
                assert outcome is OutcomeKind.RETURNED, "S8: only because Visa says so"
            return
        assert after.returned_at is None, "S8: what comes back before PAID is not paid"
        if after.state is PayoutState.PAID:
            assert outcome is OutcomeKind.PAID or resolved, "PAID only by an approval, or by two people"
        if after.state in UNPAID_ENDS:
            assert not after.ambiguous, "P3, S6: no unpaid end while an attempt is ambiguous"
            if before.ambiguous:
                settled = outcome in (OutcomeKind.DECLINED, OutcomeKind.RETURNED)
                assert settled or resolved, "S6: only an answer for the identity settles it"
            assert self.visa.payments == 0, "orphan: an unpaid end of a payout that Visa paid"
            assert self.visa.verdict != "PENDING", "orphan: an unpaid end of a payout that Visa may still pay"
            # What Visa has once declined it answers 94 with that decline: a resend under way changes nothing (S3).
            safe = self.visa.verdict == "DECLINED" or not self._under_way(CallKind.PUSH)
            assert safe, "P4: an unpaid end while a push may still arrive"
        if before.state is PayoutState.SUBMITTING and after.state is PayoutState.CLEARED:
            assert outcome is OutcomeKind.REFUSED, "S4, S6"
            assert not before.ambiguous, "S4, S6: refused for that attempt only"
            assert not self._under_way(self.submission), "S6"
        if before.state is PayoutState.UNKNOWN and after.state is not PayoutState.UNKNOWN:
            left_by = {OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.RETURNED, OutcomeKind.PENDING, None}
            assert outcome in left_by, "S6: UNKNOWN ends by an answer"
            assert outcome is not None or resolved or after.state is PayoutState.SUBMITTING, "S6: or by two people"
        if before.state in (PayoutState.UNKNOWN, PayoutState.PENDING) and not after.is_terminal:
            assert after.ambiguous, "S6: what was ambiguous stays so until it is answered"

    def _check_compensation(
        self, before: PayoutRow, after: PayoutRow, event: Event | None, outcome: OutcomeKind | None
    ) -> None:
        if after.compensation is not CompensationState.NONE:
            assert after.state in UNPAID_ENDS, "C1"
            assert after.funding_captured, "C1, P4"
            assert after.receipt_owned, "C1, L7"
        if before.compensation_action is not None and not isinstance(event, ResolutionUndone):
            kind = (before.compensation_action, after.compensation_action)
            aged = kind == (CompensationAction.REVERSE_FUNDS, CompensationAction.ADJUSTMENT)
            adjusts = aged and before.compensation_first_intent_at is None and after.compensation_attempts == 1
            assert kind[0] is kind[1] or adjusts, "C3: the kind never changes after the first intent"
            assert after.compensation_executor is before.compensation_executor, "C2: never both"
        if before.compensation_first_intent_at is not None:
            assert after.compensation_sealed_body == before.compensation_sealed_body, "C3: the body is fixed"
            for name in ("first_intent_at", "identity_number", "systems_trace_audit_number"):
                same = getattr(after, f"compensation_{name}") == getattr(before, f"compensation_{name}")
                assert same, f"S1, C3: compensation_{name} is fixed for ever"
        if after.compensation is CompensationState.MANUAL:
            assert after.compensation_reason_code, "C1: MANUAL says why"
            assert after.announce_version >= after.compensation_version, "C1: MANUAL is announced"
        if before.compensation is not CompensationState.COMPENSATED is after.compensation:
            confirmed = isinstance(event, Confirmed) and event.completed
            two_people = isinstance(event, HandBackAgreed) and before.compensation is CompensationState.MANUAL
            assert confirmed or outcome is OutcomeKind.PAID or two_people, "C2, C4: only by proof, or by two people"
        if before.compensation is CompensationState.COMPENSATED:
            assert after.compensation is CompensationState.COMPENSATED
        if before.compensation_ambiguous:
            backwards = (CompensationState.REQUIRED, CompensationState.RUNNING)
            assert after.compensation not in backwards, "C4: an ambiguous reversal is never sent again"

    def _check_identity(self, before: PayoutRow, after: PayoutRow) -> None:
        if before.first_intent_at is not None:
            fixed = ("identity_number", "systems_trace_audit_number", "retrieval_reference_number")
            for name in (*fixed, "first_intent_at", "sealed_body"):
                assert getattr(after, name) == getattr(before, name), f"S1, S3: {name} is fixed for ever"

    def _check_announcements(self, after: PayoutRow) -> None:
        events = publications(after)
        assert events == publications(after), "K3: deterministic"
        for event in events:
            known = self.announced.setdefault((event.schema, event.version), event.record)
            assert known == event.record, "K3: the same event always says the same"
        results = [event for event in events if event.schema == "PayoutResult" and event.event is None]
        assert len(results) == (1 if after.is_terminal else 0), "P1: one result for an end, none before"
        returns = [event for event in events if event.event == "PayoutReturned"]
        assert len(returns) == (after.returned_at is not None), "S8: a return is an event of its own"
        if returns:
            assert after.announce_version >= after.returned_version > after.state_version, "K2, K3"
        if after.is_terminal:
            assert after.announce_version >= after.state_version, "K2: an end is announced"
        if any(event.schema == "CompensationResult" for event in events):
            assert after.announce_version >= after.compensation_version, "K2: a compensation's end is announced"

    def _check_refused_intent(self, worker: int, seen: PayoutRow, kind: CallKind) -> None:
        """P1: the core may refuse an intent for what time or people did since it was planned, for nothing else."""
        limit = timedelta(seconds=SCHEDULE.resend_limit_seconds)
        too_old = seen.first_intent_at is not None and self._clock(worker) - seen.first_intent_at >= limit
        past = seen.funding_captured_at is not None and is_past_reversal(seen.funding_captured_at, self._clock(worker))
        other_kind = (kind is CallKind.REVERSE and past) or (kind is CallKind.ADJUST and not past)
        expired = seen.expires_at is not None and seen.expires_at <= self._clock(worker)
        push_too_late = kind in SUBMISSIONS and (too_old or (expired and seen.state is PayoutState.CLEARED))
        assert seen.held or other_kind or push_too_late, "P1: an intent refused without a reason"

    def _check_begin(self, kind: CallKind, begun: PayoutRow) -> None:
        before = self.row
        if kind in COMPENSATING_CALLS:
            assert not before.compensation_ambiguous, "C4: never sent again while ambiguous"
            assert before.compensation is CompensationState.REQUIRED
            assert not self.approval_recorded, "L2, P4: nothing is handed back after an approval was seen"
            assert not self._under_way(*COMPENSATING_CALLS), "C4: never two at once, of whatever kind"
            assert {call.kind for call in self.calls if call.kind in COMPENSATING_CALLS} <= {kind}, "C3: one kind"
        if kind not in SUBMISSIONS:
            return
        assert kind is self.submission, "S3: the destination says by which rail"
        key = (begun.systems_trace_audit_number, begun.retrieval_reference_number, begun.sealed_body)
        self.identities.add(key)
        assert len(self.identities) == 1, "S1, S3: one identity and one body, ever"
        assert before.state in (PayoutState.CLEARED, PayoutState.UNKNOWN)
        assert before.own_failures < SCHEDULE.retry_budget, "S7: the budget is spent"
        assert not self.approval_recorded
        if before.first_intent_at is None:
            begun_at = begun.last_intent_at
            in_time = before.expires_at is None or (begun_at is not None and begun_at < before.expires_at)
            assert in_time, "S6: nothing is submitted for the first time after its expiry"
            return
        limit = timedelta(seconds=SCHEDULE.resend_limit_seconds + SCHEDULE.clock_skew_seconds)
        assert self.now - before.first_intent_at < limit, "P3, S3: never after 23 h"
        assert not self._under_way(self.submission), "S3: never while an earlier attempt may arrive"
        if kind is CallKind.ACCOUNT_SEND:
            assert not before.ambiguous, "S3: no duplicate key: what may have arrived is never sent again"
        if before.ambiguous:
            assert self.not_found_version == before.version, "S3: never without a query that knew nothing"
        else:
            assert before.state is PayoutState.CLEARED, "S6"

    def _under_way(self, *kinds: CallKind) -> bool:
        return any(call.kind in kinds and call.may_arrive(self.now) for call in self.calls)

    def _check_visas_book(self) -> None:
        assert self.visa.payments <= 1, "P2: paid twice"
        handed_back = self.visa.reversals + self.visa.adjustments
        assert handed_back <= 1, "P4: compensated twice"
        assert not (self.visa.payments and handed_back), "P4: paid and compensated"
        if self.row.state is PayoutState.PAID:
            assert self.visa.payments + self.visa.returns == 1, "phantom"
        if self.row.returned_at is not None:
            assert self.visa.returns == 1, "S8: recorded as returned, and it was not"
        if self.row.state in UNPAID_ENDS and not self.contradicted:
            assert self.visa.payments == 0, "orphan"

    # ---- and in the end

    def teardown(self) -> None:
        """P1: once faults stop, the row's own schedule leads it to an end or to a person, and then rests."""
        self.calls = [call for call in self.calls if call.report is None and call.reply is not None]
        self.intents.clear()
        for _ in range(STEPS_TO_AN_END):
            self.visa.complete_pending(approve=True)
            if self._rests():
                return
            assert self.row.due_at is not None, f"K4: {self.row.state}/{self.row.compensation} is never driven again"
            self.now = max(self.now, self.row.due_at)
            self._drive_without_faults()
        raise AssertionError(f"P1: still {self.row.state}/{self.row.compensation} after {STEPS_TO_AN_END} steps")

    def _rests(self) -> bool:
        row = self.row
        if row.held or row.state is PayoutState.IN_REVIEW:
            return row.held or row.due_at is None
        ours = row.compensation_executor is Executor.PROCESSOR
        running = row.compensation not in (
            CompensationState.NONE,
            CompensationState.COMPENSATED,
            CompensationState.MANUAL,
        )
        watched = row.state is PayoutState.PAID and row.is_account_payout and row.due_at is not None
        if not row.is_terminal or (ours and running) or watched:
            return False
        assert row.due_at is None, "K4: a row that needs nothing of ours is driven for ever"
        return True

    def _drive_without_faults(self) -> None:
        version = self.row.version
        if self.row.state is PayoutState.RECEIVED:
            self._apply(Validated("corridors-1"))
        elif self.row.state is PayoutState.VALIDATED:
            self._apply(self._screened(ScreeningVerdict.CLEARED))
        else:
            self._drive(1, "approve", "truth", lost="nothing")
        if self.row.version == version and self.row.due_at is not None:
            # Ledger.due moves due_at forward without a version (K4).
            self.row = replace(self.row, due_at=self.now + timedelta(seconds=SCHEDULE.stage_patience_seconds))

    def _drive(self, worker: int, push_fate: str, query_fate: str, *, lost: str) -> None:
        """One worker, undisturbed: what it decides, begins, hears and what that allows next."""
        self.snapshots[worker] = self.row
        decision = plan(self.row, self._clock(worker), SCHEDULE)
        self.intents.pop(worker, None)
        if isinstance(decision, Step):
            self._commit_and_follow(worker, self.row, decision, None, "no")
        if isinstance(decision, MakeCall):
            self.intents[worker] = (self.row, decision.call)
        while worker in self.intents:
            seen, kind = self.intents.pop(worker)
            version = self.row.version
            self._begin(worker, seen, kind, sends=True)
            if self.row.version == version:
                return
            call = self.calls[-1]
            moves_money = kind in MONEY_MOVING_CALLS
            if not moves_money or lost != "request":
                self._arrive(call, push_fate if moves_money else query_fate)
            call.report = UNKNOWN if call.reply is None or (lost == "reply" and moves_money) else call.reply
            self._record(call, call.report, "no")


class AccountMachine(PayoutMachine):
    """The same with a payout to an account, at a Visa that keeps nothing from being paid twice."""

    destination = DestinationKind.ACCOUNT
    submission, question = CallKind.ACCOUNT_SEND, CallKind.ACCOUNT_QUERY
    unwatched = False
    """It came back when nobody asked any more."""

    def _visa(self) -> ModelVisa:
        return ModelAccounts()

    @precondition(lambda self: self.visa.verdict == "APPROVED")
    @rule()
    def visa_gets_it_back(self) -> None:
        """Delivered, and returned: before anybody has asked, or long after it was reported paid."""
        assert isinstance(self.visa, ModelAccounts)
        self.visa.bring_back()
        self.unwatched = self.row.state is PayoutState.PAID and self.row.due_at is None

    def teardown(self) -> None:
        """As for a card; and what came back while it was asked about is known by then."""
        super().teardown()
        seen = self.row.returned_at is not None or self.row.held
        if self.row.state is PayoutState.PAID and self.visa.returns and not self.unwatched:
            assert seen, "S8: it came back, and nobody knows"


LIVES = {
    "from the request on": ("RECEIVED", "IN_REVIEW", "CLEARED", "CLEARED", "UNKNOWN", "UNKNOWN", "DECLINED"),
    "from an ambiguous push on": ("UNKNOWN",),
    "from failures of its own on": ("FAILING",),
    "from a decline of captured funding on": ("DECLINED",),
}


@pytest.mark.parametrize("machine", [PayoutMachine, AccountMachine], ids=["card", "account"])
@pytest.mark.parametrize("life", sorted(LIVES))
def test_no_interleaving_pays_twice_loses_or_compensates_a_paid_payout(
    make_row: Callable[..., PayoutRow], now: datetime, life: str, machine: type[PayoutMachine]
) -> None:
    """P1 to P4, with L2, L3, L12, K2, K3, S1 to S8, C1 to C4, R1."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: machine(make_row, now, LIVES[life]),
        settings=settings(
            max_examples=300,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
