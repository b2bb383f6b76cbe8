"""Sets aside what cannot become a payout, encrypted to our own key: it may hold a card number (rule K6)."""

import hashlib
import logging
import re
from datetime import UTC, datetime

from ledger.interface import Disposition, IntakeRecord, Ledger
from processors.pii.redaction import redact_text
from schemas.card_numbers import looks_like_card_number
from schemas.codec import RECORD_LIMIT_BYTES
from schemas.headers import header_text
from schemas.topics import topic_name
from schemas.trace_context import TRACEPARENT_HEADER, header_context
from streams.keys import Keys
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record
from streams.tracing import Kind, current_span, open_span, sending

log = logging.getLogger(__name__)

DEAD_LETTER_TOPIC = "payout_dead_letters"
EXPLANATION_CHARACTERS_MAX = 500
KEY_BYTES_MAX = 1024
"""Kept of a key: no payout_id is longer, and neither is anything else that becomes a payout."""
REPLAYED_HEADER = "dead_letter"
"""On a record that an operator has put back: the dead letter that it was, by its source."""
FIRST_TAKEN_HEADER = "dead_letter_timestamp"
"""Beside it: when the broker took the record that became the dead letter (ISO 8601)."""
EARLIEST = datetime(2011, 1, 1, tzinfo=UTC)
_LETTER_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}-[0-9]{1,10}-[0-9]{1,19}")


class DeadLetters:
    """Publishes the record's bytes encrypted, with where it came from; a long record as a prefix."""

    def __init__(self, ledger: Ledger, publisher: Publisher, keys: Keys, *, prefix: str, metrics: Metrics) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._sealer = keys.dead_letters
        self._prefix = prefix
        self._topic = topic_name(DEAD_LETTER_TOPIC, prefix)
        self._metrics = metrics

    async def set_aside(self, record: Record, reason_code: str, explanation: str) -> None:
        """Ledger, broker, log, in this order (rule K1). What `explanation` quotes of the record is masked."""
        value = record.value or b""
        intake = IntakeRecord(record.topic, record.partition, record.offset, Disposition.DEAD_LETTER, None, reason_code)
        await self._ledger.record_intake(intake)
        told = redact_text(explanation, longest_characters=EXPLANATION_CHARACTERS_MAX)
        kept = value[:RECORD_LIMIT_BYTES]
        headers = [
            ("source_topic", record.topic.encode()),
            ("source_partition", str(record.partition).encode()),
            ("source_offset", str(record.offset).encode()),
            ("source_timestamp", record.timestamp.isoformat().encode()),
            ("reason_code", reason_code.encode()),
            ("error", told.encode("utf-8", "replace")),
            ("sha256", hashlib.sha256(value).hexdigest().encode()),
            ("length", str(len(value)).encode()),
            ("truncated", b"true" if len(kept) < len(value) else b"false"),
            ("encryption_key_id", self._sealer.key_id.encode()),
            ("content-type", b"application/jose"),
        ]
        if record.key is not None:
            headers.append(("key_sealed", self._sealer.seal(record.key[:KEY_BYTES_MAX])))
        headers += _of_an_earlier_letter(record)
        context = header_context(record.headers)
        if context is not None:
            headers.append((TRACEPARENT_HEADER, context.traceparent.encode()))
        current_span().fail(reason_code)
        with open_span(f"send {DEAD_LETTER_TOPIC}", Kind.PRODUCER, sending(self._prefix, DEAD_LETTER_TOPIC)):
            try:
                await self._publisher.publish_bytes(
                    self._topic, record.source.encode(), self._sealer.seal(kept), headers
                )
            except Exception:
                self._metrics.letter_failures.inc()
                raise
        self._metrics.dead_letters.labels(record.topic, reason_code).inc()
        log.error(
            "record dead-lettered: funding may be captured behind it",
            extra={"source": record.source, "reason_code": reason_code, "why": told},
        )


def _of_an_earlier_letter(record: Record) -> list[tuple[str, bytes]]:
    """What a record that was put back says of the letter that it was; anybody may write it, so only what it can be."""
    found = []
    letter, taken = (header_text(record.headers, name) for name in (REPLAYED_HEADER, FIRST_TAKEN_HEADER))
    if letter and _LETTER_NAME.fullmatch(letter) and not looks_like_card_number(letter):
        found.append((REPLAYED_HEADER, letter.encode()))
    at = None if taken is None else time_of(taken)
    if at is not None:
        found.append((FIRST_TAKEN_HEADER, at.isoformat().encode()))
    return found


def time_of(text: str) -> datetime | None:
    """A header's time, None when it is none, has no zone, or is from before there was Kafka: anybody may write it."""
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.utcoffset() is not None and at >= EARLIEST else None
    except (ValueError, OverflowError):
        return None
