"""Seals the history and publishes it, in every worker, one at a time (rule L10).

What was committed is chained, then published to the broker's confirmation, then marked as published: a lost publish, or
a lost mark, is made good in order by whoever comes next (as K1, K2). Sealed is what was committed a moment before; a
database that nobody has verified is neither sealed nor published (L11).
"""

import asyncio
import logging
from collections.abc import Callable

from ledger.interface import LedgerError
from ledger.seals import Seals
from schemas.codec import Codec, RegistryUnavailable, SchemaNotRegistered
from schemas.topics import topic_name
from streams.audit_topic import AUDIT_TOPIC, SCHEMA, TAIL_RECORDS, headers_of
from streams.metrics import Metrics
from streams.publisher import BrokerUnavailable, Publisher, PublishUnconfirmed

log = logging.getLogger(__name__)

SEAL_EVERY_SECONDS = 1.0
"""What a restored copy may have lost unnoticed by a worker that starts afterwards is about as old as this."""
BUSY_SECONDS = 0.1
"""Between two passes while there is more: 5,000 lines a second are sealed at most, and payouts come first."""
LINES_MAX = TAIL_RECORDS
"""Lines a pass: a statement of some milliseconds, and what the guard reads of the topic's end."""


class Sealer:
    """One pass: seal what was committed, publish what is sealed, mark what is published."""

    def __init__(
        self,
        seals: Seals,
        publisher: Publisher,
        codec: Codec,
        *,
        prefix: str,
        metrics: Metrics,
        is_permitted: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_permitted`: whether the mode lets the audit out (L9); what it keeps in is sealed afterwards."""
        self._is_permitted = is_permitted
        self._seals = seals
        self._publisher = publisher
        self._codec = codec
        self._topic = topic_name(AUDIT_TOPIC, prefix)
        self._metrics = metrics

    async def seal_forever(self) -> None:
        """Seal until cancelled; what fails is made good in a later pass."""
        while True:
            is_behind = False
            try:
                is_behind = await self.seal_once()
            except (
                LedgerError,
                BrokerUnavailable,
                PublishUnconfirmed,
                RegistryUnavailable,
                SchemaNotRegistered,
            ) as error:
                self._metrics.audit_failures.inc()
                log.warning("the history is not sealed now", extra={"error": type(error).__name__})
            except Exception:
                self._metrics.audit_failures.inc()
                log.exception("sealing the history failed")
            await asyncio.sleep(BUSY_SECONDS if is_behind else SEAL_EVERY_SECONDS)

    async def seal_once(self) -> bool:
        """One pass; True when there is more."""
        if not self._seals.is_trusted or not self._is_permitted():
            return False
        sealed = await self._seals.seal(LINES_MAX)
        self._metrics.sealed.inc(sealed)
        published = await self._publish()
        return max(sealed, published) >= LINES_MAX

    async def _publish(self) -> int:
        records = await self._seals.unpublished(LINES_MAX)
        if not records or not self._seals.is_trusted:  # asking may have met a copy, whose mark is old
            return 0
        await self._publisher.publish_in_order(
            self._topic,
            [(await self._codec.encode(SCHEMA, record, self._topic), headers_of(record)) for record in records],
        )
        await self._seals.published_up_to(records[-1]["sequence"])
        self._metrics.seals_published.inc(len(records))
        return len(records)
