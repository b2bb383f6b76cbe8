"""Sets aside what cannot become a payout, encrypted to our own key: it may hold a card number (rule K6)."""

import hashlib
import logging

from ledger.interface import Disposition, IntakeRecord, Ledger
from schemas.codec import RECORD_LIMIT_BYTES
from schemas.topics import topic_name
from streams.keys import Keys
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record

log = logging.getLogger(__name__)

DEAD_LETTER_TOPIC = "payout_dead_letters"


class DeadLetters:
    """Publishes the record's bytes encrypted, with where it came from; a long record as a prefix."""

    def __init__(self, ledger: Ledger, publisher: Publisher, keys: Keys, *, prefix: str, metrics: Metrics) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._sealer = keys.dead_letters
        self._topic = topic_name(DEAD_LETTER_TOPIC, prefix)
        self._metrics = metrics

    async def set_aside(self, record: Record, reason_code: str, explanation: str) -> None:
        """Ledger, broker, log, in this order (rule K1). `explanation` must quote nothing of the record."""
        value = record.value or b""
        intake = IntakeRecord(record.topic, record.partition, record.offset, Disposition.DEAD_LETTER, None, reason_code)
        await self._ledger.record_intake(intake)
        kept = value[:RECORD_LIMIT_BYTES]
        headers = [
            ("source_topic", record.topic.encode()),
            ("source_partition", str(record.partition).encode()),
            ("source_offset", str(record.offset).encode()),
            ("source_timestamp", record.timestamp.isoformat().encode()),
            ("reason_code", reason_code.encode()),
            ("error", explanation.encode()[:500]),
            ("sha256", hashlib.sha256(value).hexdigest().encode()),
            ("length", str(len(value)).encode()),
            ("truncated", b"true" if len(kept) < len(value) else b"false"),
            ("encryption_key_id", self._sealer.key_id.encode()),
            ("content-type", b"application/jose"),
        ]
        if record.key is not None:
            headers.append(("key_sealed", self._sealer.seal(record.key[:1024])))
        await self._publisher.publish_bytes(self._topic, record.source.encode(), self._sealer.seal(kept), headers)
        self._metrics.dead_letters.labels(record.topic, reason_code).inc()
        log.error(
            "record dead-lettered: funding may be captured behind it",
            extra={"source": record.source, "reason_code": reason_code, "why": explanation},
        )
