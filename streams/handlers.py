"""What each agent does with a decoded stage event: read the row, see whether the event still means something, drive.

    payout_validated                       comply        VALIDATED rows
    payout_cleared                         submit        CLEARED rows without an intent
    payout_retry                           retry         whatever is due, at the version that the sweeper saw
    payout_failed_requires_compensation    compensate    compensations that are ours to perform
    payout_compensation_confirmations      compensate    the originator's word (rule C2)
    payout_review_decisions                review        a person's word (rule R1)

Stage events carry the payout_id and a version, never the payout: the row is the truth.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ledger.interface import Disposition, IntakeRecord, Ledger
from processors.compliance.review_policy import ReviewPolicy
from processors.payout.events import Confirmed, Held, Reviewed
from processors.payout.review import BARS_FROM_DECIDING, not_this_reviewer
from processors.payout.row import COMPENSATION_ENDS, CompensationState, PayoutRow, PayoutState, with_changes
from schemas.card_numbers import looks_like_card_number
from schemas.codec import Codec, Undecodable
from streams.dead_letters import DeadLetters
from streams.driver import ALL_WORK, Drives, Work
from streams.pump import Record
from streams.tracing import current_span

log = logging.getLogger(__name__)

OUR_ANNOUNCEMENTS = frozenset({"ValidatedPayout", "ClearedPayout", "PayoutFailedRequiresCompensation"})
"""Events of the flow that rows announce; PayoutRetry is the sweeper's and announces nothing."""
WORD_LENGTH_MAX = 128
"""The longest reviewer name, reason code or reference that is kept in the row."""


class StageHandlers:
    """The handlers of every topic but the requests."""

    def __init__(
        self,
        ledger: Ledger,
        codec: Codec,
        driver: Drives,
        dead_letters: DeadLetters,
        review_policy: ReviewPolicy | None = None,
    ) -> None:
        """Without a review policy one approval is enough, whoever gives it (the simulation's reviewers)."""
        self._ledger = ledger
        self._codec = codec
        self._driver = driver
        self._dead_letters = dead_letters
        self._review_policy = review_policy

    async def comply(self, record: Record) -> None:
        """Screen a validated payout."""
        found = await self._event("ValidatedPayout", record)
        if found is None:
            return
        event, row = found
        current = row.state is PayoutState.VALIDATED and event["version"] == row.state_version
        await self._drive(row, {Work.COMPLY} if current else frozenset())

    async def submit(self, record: Record) -> None:
        """Make the first intent of a cleared payout; a refused one waits for its schedule."""
        found = await self._event("ClearedPayout", record)
        if found is None:
            return
        event, row = found
        current = row.state is PayoutState.CLEARED and row.attempts == 0 and event["version"] == row.state_version
        await self._drive(row, {Work.PAY} if current else frozenset())

    async def retry(self, record: Record) -> None:
        """Drive what the sweeper found due. Any write since then made the event stale: the row has a newer schedule."""
        found = await self._event("PayoutRetry", record)
        if found is None:
            return
        event, row = found
        await self._drive(row, ALL_WORK if event["version"] == row.version else frozenset())

    async def compensate(self, record: Record) -> None:
        """Begin a compensation that is ours; the originator's own waits for his confirmation."""
        found = await self._event("PayoutFailedRequiresCompensation", record)
        if found is None:
            return
        _, row = found
        current = row.compensation is CompensationState.REQUIRED and row.compensation_attempts == 0
        await self._drive(row, {Work.COMPENSATE} if current else frozenset())

    async def confirm(self, record: Record) -> None:
        """The originator performed, or refused, the compensation that is his (rule C2)."""
        found = await self._event("CompensationConfirmation", record)
        if found is None:
            return
        event, row = found
        if event["originator_id"] != row.originator_id or event["outcome"] not in ("COMPLETED", "REFUSED"):
            await self._dead_letters.set_aside(
                record, "CONFIRMATION_NOT_USABLE", "it names another originator, or an outcome that is not known here"
            )
            return
        confirmed = Confirmed(
            event["compensation_id"], event["outcome"] == "COMPLETED", _word(event["confirmation_reference"])
        )
        await self._drive(await self._driver.apply(row, confirmed), frozenset())
        await self._handled(record, row.payout_id)

    async def review(self, record: Record) -> None:
        """A reviewer's decision on an open case (rule R1)."""
        found = await self._event("ReviewDecision", record)
        if found is None:
            return
        event, row = found
        if event["decision"] not in ("APPROVE", "REJECT") or not event["reviewer"].strip():
            await self._dead_letters.set_aside(
                record, "DECISION_NOT_USABLE", "a decision must be APPROVE or REJECT and name its reviewer"
            )
            return
        reviewed = await self._decision(row, event)
        is_open = row.state is PayoutState.IN_REVIEW and reviewed.case_id == row.review_case_id
        refused = is_open and not_this_reviewer(row, reviewed) is not None
        if refused:
            log.warning("a review decision does not count: four eyes", extra={"payout_id": row.payout_id})
        await self._drive(await self._driver.apply(row, reviewed), frozenset())
        await self._handled(record, row.payout_id, "FOUR_EYES" if refused else "HANDLED")

    async def _decision(self, row: PayoutRow, event: Mapping[str, Any]) -> Reviewed:
        """The decision with what the policy in force and the payout's life say of who may take it."""
        reviewed = Reviewed(
            event["case_id"], event["decision"] == "APPROVE", _word(event["reviewer"]), _word(event["reason_code"])
        )
        if self._review_policy is None:
            return reviewed
        history = await self._ledger.history(row.payout_id)
        return replace(
            reviewed,
            approvals_needed=self._review_policy.approvals_needed(row.amount_minor, row.currency),
            not_by=frozenset(entry.actor for entry in history if entry.transition in BARS_FROM_DECIDING),
        )

    async def on_bug(self, record: Record, error: Exception) -> None:
        """A handler failed in a way nobody foresaw: hold the payout, set the record aside, go on (P8)."""
        payout_id = record.key.decode("utf-8", "replace") if record.key is not None else None
        row = await self._ledger.read(payout_id) if payout_id and "\0" not in payout_id else None
        if row is not None:
            current_span().belongs_to(row)
        if row is not None and not (row.is_terminal and row.compensation in COMPENSATION_ENDS):
            await self._driver.apply(row, Held(f"PROCESSING_FAILED:{type(error).__name__}"))
        await self._dead_letters.set_aside(record, "PROCESSING_FAILED", type(error).__name__)

    async def _handled(self, record: Record, payout_id: str, reason_code: str = "HANDLED") -> None:
        """K9: a word from outside leaves a trace, also one that meant nothing (any more)."""
        await self._ledger.record_intake(
            IntakeRecord(record.topic, record.partition, record.offset, Disposition.HANDLED, payout_id, reason_code)
        )

    async def _drive(self, row: PayoutRow, work: frozenset[Work] | set[Work]) -> None:
        """With nothing to do the row is only announced, if that is open: a redelivery makes a lost publish good."""
        if work:
            await self._driver.drive(row, work)
        else:
            await self._driver.announce(row)

    async def _event(self, schema: str, record: Record) -> tuple[Mapping[str, Any], PayoutRow] | None:
        try:
            event = (await self._codec.decode(schema, record.value or b"")).record
        except Undecodable as error:
            await self._dead_letters.set_aside(record, error.code, str(error))
            return None
        payout_id = str(event["payout_id"])
        if record.key is not None and record.key != payout_id.encode():
            await self._dead_letters.set_aside(record, "KEY_IS_NOT_PAYOUT_ID", "the record's key is not its payout_id")
            return None
        row = await self._ledger.read(payout_id) if "\0" not in payout_id else None
        if row is None:
            await self._dead_letters.set_aside(record, "PAYOUT_NOT_KNOWN", "the ledger has no such payout")
            return None
        current_span().belongs_to(row)
        if schema in OUR_ANNOUNCEMENTS:
            # That we read the event proves that the broker has it, whether or not its mark is written yet (K2).
            row = with_changes(row, announced_version=max(row.announced_version, event["version"]))
        return event, row


def _word(text: str) -> str:
    """A short clear word from outside, fit for the row: no control characters, no card number, bounded."""
    shown = "".join(character for character in text[:WORD_LENGTH_MAX] if character.isprintable())
    return "[withheld]" if looks_like_card_number(shown) else shown
