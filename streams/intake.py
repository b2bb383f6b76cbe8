"""The validate agent: from a raw request to a row, a repeat, a refusal or a dead letter (rules L1, K6, K7, L8)."""

import logging
import time
from datetime import datetime
from typing import Any

from ledger.interface import Disposition, Existing, Inserted, IntakeRecord, Ledger, LedgerError
from processors.content import ContentDigest, same_content
from processors.payout.row import FundingKind, PayoutRow
from processors.payout.schedule import Schedule
from processors.payout.step import after
from processors.payout.trace import root_context
from processors.validation.clear_text import storable
from processors.validation.funding import funding_facts
from processors.validation.opened import OpenedRequest
from processors.validation.request import PayoutRequest, RequestMalformed
from schemas.card_numbers import looks_like_card_number
from schemas.codec import Undecodable
from schemas.headers import event_id, header_text
from schemas.sender_reference import sender_reference
from schemas.trace_context import header_context
from streams.clock import Clock
from streams.dead_letters import FIRST_TAKEN_HEADER, DeadLetters, time_of
from streams.driver import Drives, Work
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record
from streams.request_reader import RequestReader
from streams.tracing import current_span

log = logging.getLogger(__name__)

KEY_LENGTH_MAX = 64
"""The longest payout_id that may become a row, valid or not: it is the key of every event about it."""
MISSING = "[missing]"
"""In place of an empty text: the row and its events need one, and validation refuses the request anyway."""
CLEAR_COLUMN_MAX = 128
"""Characters of a text that is copied in clear into the row; validation refuses longer ones."""


class Intake:
    """Handles one record of `payout_requests`."""

    def __init__(
        self,
        ledger: Ledger,
        reader: RequestReader,
        driver: Drives,
        publisher: Publisher,
        dead_letters: DeadLetters,
        *,
        schedule: Schedule,
        clock: Clock,
        metrics: Metrics,
        worker: str,
        held_for: str | None = None,
    ) -> None:
        """`held_for`: a payout that is new is held from its first moment on, for this reason (rules L12, R2)."""
        self._held_for = held_for
        self._ledger = ledger
        self._reader = reader
        self._driver = driver
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._schedule = schedule
        self._clock = clock
        self._metrics = metrics
        self._worker = worker

    async def __call__(self, record: Record) -> None:
        """Every record ends as a row, a repeat, a refusal or a dead letter; nothing else leaves this function."""
        value = record.value or b""
        try:
            request, opened = await self._reader.read(value)
        except (Undecodable, RequestMalformed) as error:
            code = error.code if isinstance(error, Undecodable) else "REQUEST_MALFORMED"
            await self._dead_letters.set_aside(record, code, str(error))
            return
        problem = key_problem(record.key, request)
        if problem is not None:
            await self._dead_letters.set_aside(record, *problem)
            return
        digest = self._reader.digest(request, opened, value)
        result = await self._insert(self._row(record, request, opened, digest))
        if isinstance(result, Existing):
            await self._known(record, request, opened, result.row)
            return
        self._metrics.dedup.labels("unique").inc()
        self._metrics.initiated.inc()
        current_span().belongs_to(result.row, made_row=True)
        await self._driver.drive(result.row, {Work.VALIDATE}, (request, opened))

    async def _insert(self, row: PayoutRow) -> Inserted | Existing:
        begun = time.monotonic()
        try:
            result = await self._ledger.insert(row, self._worker)
        except LedgerError:
            self._metrics.dedup_errors.inc()
            raise
        self._metrics.dedup_seconds.labels("ledger").observe(time.monotonic() - begun)
        return result

    async def _known(self, record: Record, request: PayoutRequest, opened: OpenedRequest, row: PayoutRow) -> None:
        made_row = _same_source(record, row)
        current_span().belongs_to(row, made_row=made_row)
        if made_row:
            self._metrics.dedup.labels("redelivered").inc()
            await self._driver.drive(row, {Work.VALIDATE})
            return
        stored = ContentDigest(row.content_key_version, row.bytes_hmac, row.content_hmac)
        incoming = self._reader.digest(request, opened, record.value or b"", key_version=row.content_key_version)
        if same_content(stored, incoming):
            await self._repeat(record, row)
        else:
            await self._refuse(record, row)

    async def _repeat(self, record: Record, row: PayoutRow) -> None:
        """P5: the same request again gets the same answer again."""
        await self._remember(record, Disposition.REPEAT, row.payout_id, "SAME_CONTENT")
        self._metrics.repeats.inc()
        self._metrics.dedup.labels("duplicate").inc()
        current_span().event("idempotency.hit", {"payout.state": row.state.value})
        await self._driver.answer_again(await self._driver.drive(row, {Work.VALIDATE}))

    async def _refuse(self, record: Record, row: PayoutRow) -> None:
        """K7: a refused request never touches the payout's row and never compensates; an operator sees it."""
        reason_code = "DUPLICATE_WITH_OTHER_CONTENT"
        await self._remember(record, Disposition.REFUSED, row.payout_id, reason_code)
        refused: dict[str, Any] = {
            "payout_id": row.payout_id,
            "refused_event_id": _event_name(record),
            "source_topic": record.topic,
            "source_partition": record.partition,
            "source_offset": record.offset,
            "reason_code": reason_code,
            "originator_id": row.originator_id,
            "refused_at": record.timestamp,
            "correlation_id": row.correlation_id,
        }
        await self._publisher.publish_event(
            "payout_refusals",
            "RequestRefused",
            refused,
            key=row.payout_id,
            identifier=event_id("RequestRefused", record.source, 0),
            at=record.timestamp,
            correlation_id=row.correlation_id,
            root=root_context(row),
        )
        current_span().fail(reason_code)
        self._metrics.refusals.inc()
        self._metrics.dedup.labels("conflict").inc()
        self._metrics.guard_failures.labels(reason_code, self._metrics.labels.corridor(row)).inc()
        log.error(
            "request refused: its payout_id belongs to other content",
            extra={"payout_id": row.payout_id, "source": record.source},
        )

    async def _remember(self, record: Record, disposition: Disposition, payout_id: str, reason_code: str) -> None:
        await self._ledger.record_intake(
            IntakeRecord(record.topic, record.partition, record.offset, disposition, payout_id, reason_code)
        )

    def _row(self, record: Record, request: PayoutRequest, opened: OpenedRequest, digest: ContentDigest) -> PayoutRow:
        facts = funding_facts(request, opened)
        context = header_context(record.headers)
        now = self._clock()
        return PayoutRow(
            payout_id=request.payout_id,
            originator_id=_clear(request.originator_id),
            amount_minor=request.amount.amount_minor,
            currency=_clear(request.amount.currency),
            source_country=_clear(request.corridor.source_country),
            target_country=_clear(request.corridor.target_country),
            target_currency=_clear(request.corridor.target_currency),
            funding_kind=FundingKind(facts.kind.value),
            funding_reference=facts.reference,
            funding_captured=facts.captured and facts.reference is not None,
            funding_captured_at=facts.captured_at,
            funding_trace=facts.pull.trace,
            funding_transaction=facts.pull.transaction,
            funding_reversible=facts.reversible,
            requested_at=request.requested_at,
            expires_at=request.expires_at,
            received_at=first_taken_at(record),
            source_topic=record.topic,
            source_partition=record.partition,
            source_offset=record.offset,
            correlation_id=_clear(request.correlation_id),
            sender_reference=sender_reference(request.payout_id),
            content_key_version=digest.key_version,
            bytes_hmac=digest.bytes_hmac,
            content_hmac=digest.content_hmac,
            sealed_request=self._reader.seal(record.value or b"", request.payout_id),
            destination_kind=request.destination.kind,
            traceparent=None if context is None else context.traceparent,
            state_at=now,
            held=self._held_for is not None,
            hold_reason=self._held_for,
            due_at=after(self._schedule.stage_patience_seconds, now),
        )


def can_be_a_key(payout_id: str) -> bool:
    """Whether a record of this payout, and so the payout, may exist at all."""
    return 0 < len(payout_id) <= KEY_LENGTH_MAX and payout_id.isascii() and payout_id.isprintable()


def key_problem(key: bytes | None, request: PayoutRequest) -> tuple[str, str] | None:
    """K6: a record whose key is not its payout_id cannot become a payout; a missing key is no error."""
    payout_id = request.payout_id
    if not can_be_a_key(payout_id):
        return "PAYOUT_ID_UNUSABLE", f"payout_id must have 1 to {KEY_LENGTH_MAX} printable ASCII characters"
    if looks_like_card_number(payout_id):
        return "PAYOUT_ID_UNUSABLE", "payout_id looks like a card number and may not become a key"
    if key is not None and key != payout_id.encode():
        return "KEY_IS_NOT_PAYOUT_ID", "the record's key is not its payout_id: was it produced for another payout?"
    return None


def _clear(text: str) -> str:
    """A text that may stand in clear in the row and in events; anything doubtful is withheld."""
    return storable(text)[:CLEAR_COLUMN_MAX] or MISSING


def _same_source(record: Record, row: PayoutRow) -> bool:
    """Whether this very record made the row; a topic that was made anew gives its places again, at another time."""
    return (record.topic, record.partition, record.offset, first_taken_at(record)) == (
        row.source_topic,
        row.source_partition,
        row.source_offset,
        row.received_at,
    )


def first_taken_at(record: Record) -> datetime:
    """When a broker first took the request: a dead letter that was put back is as old as the record that it was.

    After a restored copy was adopted nobody knows whether it was put back, and paid, before: by this time it is held
    like everything else of then (L11). Whoever makes the time up gets his own payouts held; none is made younger.
    """
    given = header_text(record.headers, FIRST_TAKEN_HEADER)
    first = None if given is None else time_of(given)
    return record.timestamp if first is None else min(first, record.timestamp)


def _event_name(record: Record) -> str:
    """The refused event's own id, where its producer gave one, else its place in the log."""
    given = header_text(record.headers, "ce_id")
    return given if given and len(given) <= CLEAR_COLUMN_MAX and not looks_like_card_number(given) else record.source
