"""Drives a payout as far as it can go now: decide (pure), commit (ledger), call (Visa), announce (Kafka)."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Protocol

from ledger.interface import Change, CommitUnknown, Ledger, LedgerUnavailable, NotBegun
from processors.compliance.decide import ComplianceUnavailable
from processors.payout import state_machine
from processors.payout.events import (
    COMPENSATION_CALLS,
    SUBMISSIONS,
    Answered,
    CallKind,
    Event,
    Inquired,
    InquiryVerdict,
    Rejected,
    ReviewWanted,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.modes import Activity, activity_of, next_activity
from processors.payout.next_step import IntentNotAllowed
from processors.payout.row import PayoutRow
from processors.payout.schedule import Schedule
from processors.payout.step import MakeCall, Nothing, RunStage, Stage, Step
from streams.announcer import Announcer
from streams.clock import Clock, utc_now
from streams.gate import pauses
from streams.metrics import Metrics
from streams.payout_counts import count_step
from streams.preflight import PreflightOpen, Question
from streams.stages import OpenRequest, StageRunner
from streams.tracing import current_span, open_span
from streams.visa_calls import CallNotBuildable, VisaCalls

log = logging.getLogger(__name__)

STEPS_MAX = 12
"""Steps of one payout in one drive: more than any path needs, so that a decision that loops is seen, not endured."""
OWN_COMMITS_MAX = 10_000
"""Far more payouts than a worker has in work at once. One that falls out costs a commit more before it is announced."""
EVIDENCE_TRIES_MAX = 40
"""How often an answer is written again while the database is away; then the lease runs out and the query finds it."""


STAGE_NAMES = {Stage.VALIDATE: "validation", Stage.COMPLY: "compliance"}
"""Of our own stages, as the metrics have them."""


class Work(StrEnum):
    """The kinds of work an agent may take on: a worker that runs a subset of agents does only theirs."""

    VALIDATE = "VALIDATE"
    COMPLY = "COMPLY"
    PAY = "PAY"
    COMPENSATE = "COMPENSATE"


ALL_WORK = frozenset(Work)


class Drives(Protocol):
    """What the handlers of records need: `Driver`, or whoever does something else with the payout behind a record."""

    async def drive(
        self, row: PayoutRow, work: Collection[Work] = ALL_WORK, opened: OpenRequest | None = None
    ) -> PayoutRow:
        """See `Driver.drive`."""

    async def announce(self, row: PayoutRow) -> PayoutRow:
        """See `Driver.announce`."""

    async def answer_again(self, row: PayoutRow) -> None:
        """See `Driver.answer_again`."""

    async def apply(self, row: PayoutRow, event: Event) -> PayoutRow:
        """See `Driver.apply`."""


class Driver:
    """The shell around the pure core. Stateless: everything it knows is in the row."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        stages: StageRunner,
        calls: VisaCalls | None,
        announcer: Announcer,
        schedule: Schedule,
        owner: str,
        metrics: Metrics,
        clock: Clock = utc_now,
        allows: Callable[[Activity], bool] = lambda _: True,
    ) -> None:
        """`allows` says what the mode lets this worker do; of calls the ledger has the last word (L9)."""
        self._allows = allows
        self.ledger = ledger
        self.schedule = schedule
        self.clock = clock
        self._stages = stages
        self._calls = calls
        self._announcer = announcer
        self._owner = owner
        self._metrics = metrics
        self._calls_begun = itertools.count(1)
        self._own_commits: dict[str, int] = {}
        """Versions whose commit this worker saw acknowledged and has not announced yet, the newest last.

        Bounded: not every commit is followed by an announcement here (a drive that failed, a hold after a bug).
        """

    async def drive(
        self, row: PayoutRow, work: Collection[Work] = ALL_WORK, opened: OpenRequest | None = None
    ) -> PayoutRow:
        """Run what the row needs until nothing more can be done now, and announce where it stands.

        `work` limits what this agent does; `opened` is the request, where the caller has it open already. An agent of
        one stage waits while calls to Visa are paused, so that the rest waits in its topic; whoever drives all the work
        of a row came by its schedule and leaves it to that. Raises
        LedgerUnavailable, CommitUnknown and the publisher's errors: the caller pauses and drives again from what the
        ledger then says.
        """
        patient = frozenset(work) != ALL_WORK
        for _ in range(STEPS_MAX):
            row, more = await self._next(row, work, opened, patient=patient)
            if not more:
                break
        else:
            log.error("payout did not settle in one drive", extra={"payout_id": row.payout_id, "state": row.state})
        return await self.announce(row)

    async def announce(self, row: PayoutRow) -> PayoutRow:
        """Publish what the row announces and the broker has not confirmed yet (rules K1, K2).

        A row that was only read is not durable yet: something of our own is committed first (rule L4).
        """
        own_version = self._own_commits.pop(row.payout_id, None)
        if row.announced_version < row.announce_version:
            if own_version != row.version:
                await self.ledger.settle()
            await self._announcer.announce(row)
        return row

    async def answer_again(self, row: PayoutRow) -> None:
        """P5: a repeated request is answered again with the same events."""
        await self.ledger.settle()
        await self._announcer.announce(row, again=True)

    async def apply(self, row: PayoutRow, event: Event) -> PayoutRow:
        """Apply an event by compare-and-set, deciding again on the newer row when somebody was faster (L2)."""
        for _ in range(STEPS_MAX):
            step = state_machine.apply(row, event, self.clock(), self.schedule)
            if isinstance(step, Nothing):
                log.debug("nothing to do", extra={"payout_id": row.payout_id, "because": step.reason})
                return row
            committed = await self._commit(row, step)
            if committed is not None:
                return committed
            row = await self._again(row.payout_id)
        raise LedgerUnavailable("a row changed faster than it could be read; it is driven again later")

    async def _next(
        self, row: PayoutRow, work: Collection[Work], opened: OpenRequest | None, *, patient: bool
    ) -> tuple[PayoutRow, bool]:
        """One step further: the row as it is then, and whether this drive goes on.

        What the mode forbids is left as it is: it spends nothing, and comes by its schedule when the mode allows it.
        """
        if not self._allows(next_activity(row)):
            return row, False
        kind = Work.COMPENSATE if row.is_terminal else Work.PAY
        match state_machine.plan(row, self.clock(), self.schedule):
            case RunStage(stage=stage) if Work(stage.value) in work:
                return await self._run(stage, row, opened), True
            case Step() as step if kind in work:
                return await self._commit(row, step) or await self._again(row.payout_id), True
            case MakeCall(call=call, needs_identity=first) if kind in work and self._calls is not None:
                return await self._call(self._calls, row, call, first=first, patient=patient)
            case _:
                return row, False

    async def _run(self, stage: Stage, row: PayoutRow, opened: OpenRequest | None) -> PayoutRow:
        with self._metrics.staged(STAGE_NAMES[stage]):
            return await self.apply(row, await self._decided(stage, row, opened))

    async def _decided(self, stage: Stage, row: PayoutRow, opened: OpenRequest | None) -> Event:
        with open_span(stage.value.lower()) as span:
            try:
                event = await self._stages.run(stage, row, opened)
            except ComplianceUnavailable:
                self._metrics.screening_unavailable.inc()
                raise
            span.set(_said_by_stage(event))
            return event

    async def _call(
        self, calls: VisaCalls, row: PayoutRow, call: CallKind, *, first: bool = False, patient: bool = False
    ) -> tuple[PayoutRow, bool]:
        """Intent committed → call → outcome committed (rule S2). Then the drive ends: the row has its schedule.

        Before a first intent what its corridor's policy wants to know is asked, a question each time (B3).
        """
        if first and call in SUBMISSIONS:
            try:
                question = await calls.open_question(row)
            except CallNotBuildable as error:
                return await self.apply(row, Unbuildable(error.reason_code, str(error), call)), False
            if question is not None:
                return await self._ask(calls, row, question, call)
        async with calls.permit(call, row.originator_id, patient=patient) as permit:
            if permit is None:
                return row, False
            if permit.waited:
                row = await self._again(row.payout_id)
                if state_machine.plan(row, self.clock(), self.schedule) != MakeCall(call, first):
                    return row, True
            started = time.monotonic()
            try:
                prepared = await calls.prepare(row, call, first=first)
            except CallNotBuildable as error:
                return await self.apply(row, Unbuildable(error.reason_code, str(error), call)), False
            except PreflightOpen:
                return row, True  # what was known is too old by now: it is asked again
            deadline = calls.deadline(self.schedule.lease_seconds)
            try:
                step = state_machine.begin_call(
                    row, call, self.clock(), self.schedule, identity=prepared.identity, sealed_body=prepared.sealed_body
                )
            except IntentNotAllowed as error:
                log.info("call not begun", extra={"payout_id": row.payout_id, "call": call.value, "why": str(error)})
                return row, False
            asked_at = self.clock()
            owner = f"{self._owner}/{next(self._calls_begun)}"
            begun = await self._begin(row, step, owner, activity_of(call))
            if isinstance(begun, NotBegun):
                return await self._not_begun(row, begun)
            outcome = await calls.make(begun, call, prepared, deadline, permit)
        attempt = begun.compensation_attempts if call in COMPENSATION_CALLS else begun.attempts
        row, follow_up = await self._record(begun, Answered(call, attempt, outcome, asked_at), owner)
        self._metrics.stage_seconds.labels(_stage_of(call)).observe(time.monotonic() - started)
        if follow_up is not None:
            return await self._call(calls, row, follow_up)
        return row, False

    async def _ask(
        self, calls: VisaCalls, row: PayoutRow, question: Question, call: CallKind
    ) -> tuple[PayoutRow, bool]:
        """One question before the first intent: permit, lease and mode, call, commit, as for any call (L3, L9, S7).

        Nobody waits for a paused lane: other corridors' payouts, which ask nothing, stand behind him in the topic.
        """
        async with calls.permit(question, row.originator_id, patient=False) as permit:
            if permit is None:
                return row, False
            if permit.waited:
                row = await self._again(row.payout_id)
                if state_machine.plan(row, self.clock(), self.schedule) != MakeCall(call, needs_identity=True):
                    return row, True
            started = time.monotonic()
            request = await calls.preflight.prepare(question)
            deadline = calls.deadline(self.schedule.lease_seconds)
            try:
                step = state_machine.begin_inquiry(
                    row, question.name, calls.policy_version, self.clock(), self.schedule
                )
            except IntentNotAllowed as error:
                log.info("question not asked", extra={"payout_id": row.payout_id, "why": str(error)})
                return row, False
            owner = f"{self._owner}/{next(self._calls_begun)}"
            begun = await self._begin(row, step, owner, Activity.SUBMIT)  # it is asked only to submit
            if isinstance(begun, NotBegun):
                return await self._not_begun(row, begun)
            inquired = await calls.ask(begun, question, request, deadline, permit)
        row, _ = await self._record(begun, inquired, owner)
        self._metrics.stage_seconds.labels("preflight").observe(time.monotonic() - started)
        return row, inquired.verdict is InquiryVerdict.PASSED

    async def _begin(self, row: PayoutRow, step: Step, owner: str, activity: Activity) -> PayoutRow | NotBegun:
        change = Change(row, step.row, step.transition, self._owner, step.detail)
        begun = await self.ledger.begin(change, owner, self.schedule.lease_seconds, activity)
        if isinstance(begun, NotBegun):
            self._metrics.not_begun.labels(begun.value).inc()
        else:
            self._moved(row, begun, step)
        return begun

    async def _not_begun(self, row: PayoutRow, why: NotBegun) -> tuple[PayoutRow, bool]:
        """Somebody was faster: decide again. The mode wants a reviewer: ask for one. Else it waits as it is."""
        if why is NotBegun.LOST:
            return await self._again(row.payout_id), True
        if why is NotBegun.REVIEW:
            return await self.apply(row, ReviewWanted()), False
        return row, False

    async def _record(
        self, row: PayoutRow, answered: Answered | Inquired, owner: str
    ) -> tuple[PayoutRow, CallKind | None]:
        """Write what a call has proven, however long the database takes to come back (rules L2, S2)."""
        for pause_seconds in itertools.islice(pauses(), EVIDENCE_TRIES_MAX):
            try:
                step = state_machine.apply(row, answered, self.clock(), self.schedule)
                if isinstance(step, Nothing):
                    return row, None
                committed = await self._commit(row, step, owner)
                if committed is not None:
                    return committed, step.follow_up
                row = await self._again(row.payout_id)
            except (LedgerUnavailable, CommitUnknown):
                await asyncio.sleep(pause_seconds)
                row = await self._read_if_possible(row)
        raise LedgerUnavailable("an answer could not be recorded; the lease runs out and the query finds it")

    async def _read_if_possible(self, row: PayoutRow) -> PayoutRow:
        try:
            return await self._again(row.payout_id)
        except LedgerUnavailable:
            return row

    async def _commit(self, row: PayoutRow, step: Step, owner: str | None = None) -> PayoutRow | None:
        change = Change(row, step.row, step.transition, self._owner, step.detail)
        committed = await self.ledger.commit(change, owner)
        if committed is None:
            self._metrics.compare_and_set_lost.inc()
            return None
        self._moved(row, committed, step)
        if committed.held and (not row.held or committed.hold_reason != row.hold_reason):
            # Also when it was held already: an approval after an unpaid end pages whoever else holds the row (L2).
            current_span().event("payout held for a person", {"payout.hold_reason": committed.hold_reason})
            log.error(
                "payout held for a person",
                extra={"payout_id": row.payout_id, "correlation_id": row.correlation_id, "why": committed.hold_reason},
            )
        if committed.returned_at is not None and row.returned_at is None:
            log.error(
                "payout came back after it was paid",
                extra={"payout_id": row.payout_id, "correlation_id": row.correlation_id},
            )
        return committed

    def _moved(self, before: PayoutRow, row: PayoutRow, step: Step) -> None:
        self._own_commits.pop(row.payout_id, None)
        self._own_commits[row.payout_id] = row.version
        if len(self._own_commits) > OWN_COMMITS_MAX:
            self._own_commits.pop(next(iter(self._own_commits)))
        self._metrics.transitions.labels(step.transition).inc()
        count_step(self._metrics, before, row, step)
        current_span().event(
            "payout moved",
            {
                "payout.transition": step.transition,
                "payout.state": row.state.value,
                "payout.compensation": row.compensation.value,
                "payout.version": row.version,
            },
        )
        log.info(
            "payout moved",
            extra={
                "payout_id": row.payout_id,
                "correlation_id": row.correlation_id,
                "transition": step.transition,
                "state": row.state.value,
                "compensation": row.compensation.value,
                "version": row.version,
            },
        )

    async def _again(self, payout_id: str) -> PayoutRow:
        row = await self.ledger.read(payout_id)
        if row is None:
            raise LedgerUnavailable("a row that existed cannot be read: is this the same database?")
        return row


def _stage_of(call: CallKind) -> str:
    if call in COMPENSATION_CALLS:
        return "compensation"
    return "submission" if call in SUBMISSIONS else "query"


def _said_by_stage(event: Event) -> dict[str, str | int | bool | None]:
    """What a stage's span says of its decision: codes and versions, nobody's name."""
    match event:
        case Validated():
            return {"payout.policy_version": event.policy_version}
        case Rejected():
            return {"payout.policy_version": event.policy_version, "payout.reason_code": event.reason_code}
        case Screened():
            return {
                "payout.policy_version": event.policy_version,
                "visa.compliance.allowed": event.verdict is ScreeningVerdict.CLEARED,
                "visa.compliance.reason": event.reason_code,
                "visa.compliance.list_version": event.list_version,
            }
        case _:
            return {}
