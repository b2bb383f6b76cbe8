"""Takes records in without going on with their payouts: each is held (rules L12, R2).

    skipping = holding_handlers(ledger, codec, keys, publisher, reason=…, operator=…, …)
    await skipping(record)

What an operator skips is handled by the workers' own handlers, with a driver that holds where theirs drives. So a
request that nobody has seen becomes a row, held from its first moment; a repeat, a refusal and a dead letter stay what
they are; the payout behind a stage event, a decision or a confirmation is held, and the word itself does nothing. Every
record is accounted for afterwards (K9), and handling it twice changes nothing more.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from ledger.interface import Change, CommitUnknown, Ledger, LedgerUnavailable
from processors.payout import state_machine
from processors.payout.events import Event, Held
from processors.payout.row import COMPENSATION_ENDS, PayoutRow
from processors.payout.schedule import Schedule
from processors.payout.step import Nothing
from schemas.codec import Codec
from schemas.topics import topic_of
from streams.away import what_is_away
from streams.clock import Clock
from streams.dead_letters import DeadLetters
from streams.driver import ALL_WORK, Work
from streams.handlers import StageHandlers
from streams.intake import Intake
from streams.keys import Keys
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Handler, Record
from streams.request_reader import KeyedRequestReader
from streams.stages import OpenRequest

log = logging.getLogger(__name__)

TRIES_MAX = 50
"""How often one hold is decided again. No worker runs, so a second try is rare."""


def has_ended(row: PayoutRow) -> bool:
    """Nothing will ever be done for it again: to hold it would stop nothing."""
    return row.is_terminal and row.compensation in COMPENSATION_ENDS


@dataclass(slots=True)
class HoldCounts:
    """What became of the payouts behind the records, each counted when it was held."""

    records: int = 0
    held: int = 0
    """Held by this."""


class HoldingDriver:
    """In place of `Driver`: whatever a handler wants done with a row, the row is held."""

    def __init__(
        self, ledger: Ledger, *, reason: str, operator: str, schedule: Schedule, clock: Clock, counts: HoldCounts
    ) -> None:
        self._ledger = ledger
        self._reason = reason
        self._operator = operator
        self._schedule = schedule
        self._clock = clock
        self._counts = counts

    async def drive(
        self,
        row: PayoutRow,
        work: Collection[Work] = ALL_WORK,  # noqa: ARG002 - nothing of it is done
        opened: OpenRequest | None = None,  # noqa: ARG002
    ) -> PayoutRow:
        """Hold it. Raises LedgerUnavailable."""
        return await self._hold(row)

    async def announce(self, row: PayoutRow) -> PayoutRow:
        """Hold it; what it announces, the workers' sweeper publishes (K2)."""
        return await self._hold(row)

    async def answer_again(self, row: PayoutRow) -> None:
        """A repeat that is skipped is not answered."""

    async def apply(self, row: PayoutRow, event: Event) -> PayoutRow:
        """Hold it; the word does nothing, but that of a handler which failed: a person shall see that (P8)."""
        return await self._hold(row, event.reason if isinstance(event, Held) else None)

    async def _hold(self, row: PayoutRow, failed: str | None = None) -> PayoutRow:
        reason = failed or self._reason
        for _ in range(TRIES_MAX):
            if has_ended(row) or (row.held and not self._is_new(row)):
                return row
            step = state_machine.apply(row, Held(reason), self._clock(), self._schedule)
            after, transition, detail = (
                (row, "held", {"reason": reason})  # inserted so: the history shall say who, and why
                if isinstance(step, Nothing)
                else (step.row, step.transition, step.detail)
            )
            try:
                committed = await self._ledger.commit(Change(row, after, transition, self._operator, detail))
            except CommitUnknown:
                committed = None
            if committed is not None:
                self._counts.held += 1
                return committed
            found = await self._ledger.read(row.payout_id)
            if found is None:
                raise LedgerUnavailable("a row that existed cannot be read: is this the same database?")
            row = found
        raise LedgerUnavailable("a payout changes faster than it can be held: is the group really empty?")

    def _is_new(self, row: PayoutRow) -> bool:
        return row.version == 1 and row.hold_reason == self._reason


class SkippedRecords:
    """Handles one skipped record after the other. Make one with `holding_handlers`."""

    def __init__(self, handlers: dict[str, Handler], stages: StageHandlers, prefix: str, counts: HoldCounts) -> None:
        self._handlers = handlers
        self._stages = stages
        self._prefix = prefix
        self.counts = counts

    async def __call__(self, record: Record) -> None:
        """Account for it, and hold its payout. Raises what `what_is_away` names."""
        try:
            await self._handlers[topic_of(record.topic, self._prefix).name](record)
        except Exception as error:
            if what_is_away(error) is not None:
                raise
            log.exception("skipped record not handled", extra={"source": record.source})
            await self._stages.on_bug(record, error)
        self.counts.records += 1


def holding_handlers(
    ledger: Ledger,
    codec: Codec,
    keys: Keys,
    publisher: Publisher,
    *,
    reason: str,
    operator: str,
    schedule: Schedule,
    clock: Clock,
    metrics: Metrics,
    prefix: str,
) -> SkippedRecords:
    """The handlers of every topic that workers read, with a driver that holds."""
    counts = HoldCounts()
    driver = HoldingDriver(ledger, reason=reason, operator=operator, schedule=schedule, clock=clock, counts=counts)
    dead_letters = DeadLetters(ledger, publisher, keys, prefix=prefix, metrics=metrics)
    intake = Intake(
        ledger,
        KeyedRequestReader(codec, keys),
        driver,
        publisher,
        dead_letters,
        schedule=schedule,
        clock=clock,
        metrics=metrics,
        worker=operator,
        held_for=reason,
    )
    stages = StageHandlers(ledger, codec, driver, dead_letters)
    handlers: dict[str, Handler] = {
        "payout_requests": intake,
        "payout_validated": stages.comply,
        "payout_cleared": stages.submit,
        "payout_retry": stages.retry,
        "payout_failed_requires_compensation": stages.compensate,
        "payout_compensation_confirmations": stages.confirm,
        "payout_review_decisions": stages.review,
    }
    return SkippedRecords(handlers, stages, prefix, counts)
