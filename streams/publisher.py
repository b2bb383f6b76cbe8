"""Publish and wait for the broker's own confirmation (rule K1); nothing is fire-and-forget."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from processors.payout.publications import Publication, publications
from processors.payout.row import PayoutRow
from processors.payout.trace import root_context
from processors.visa.correlation import RequestIds
from schemas.codec import Codec
from schemas.headers import event_headers, event_id, event_type
from schemas.topics import topic_name
from schemas.trace_context import TraceContext
from streams.metrics import Metrics
from streams.tracing import NO_TRACING, Tracing

log = logging.getLogger(__name__)

EVENT_SOURCE = "/payout-streams"
"""`ce_source` of every event that we publish."""


class PublishUnconfirmed(Exception):
    """A publish was not confirmed in time: whether the broker has it is unknown. The process ends (rule K5)."""


class BrokerUnavailable(Exception):
    """The broker refused or could not take the record; it was not stored."""


class Send(Protocol):
    """The transport's send: returns an awaitable that ends when the broker has confirmed."""

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]: ...


class Publisher:
    """Encodes and sends events; returns only when the broker has them."""

    def __init__(
        self,
        send: Send,
        codec: Codec,
        *,
        prefix: str,
        unconfirmed_seconds: float,
        on_unconfirmed: Callable[[str], None],
        metrics: Metrics,
        request_ids: RequestIds | None = None,
        permitted: Callable[[], Awaitable[None]] | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """`request_ids` names what the calls to Visa carry, so that events carry it too.

        `permitted` is awaited before anything but the audit is sent: it ends when the mode lets events out (L9). What
        waits there is not acknowledged, so nothing is lost with the process.
        """
        self._permitted = permitted
        self._request_ids = request_ids
        self._tracing = tracing
        self._send = send
        self._codec = codec
        self._prefix = prefix
        self._unconfirmed_seconds = unconfirmed_seconds
        self._on_unconfirmed = on_unconfirmed
        self._metrics = metrics

    async def publish_row(self, row: PayoutRow, *, since_version: int = 0) -> None:
        """Publish what the row announces, newer than `since_version`, in order."""
        for publication in publications(row):
            if publication.version > since_version:
                await self.publish(publication, row)

    async def publish(self, publication: Publication, row: PayoutRow) -> None:
        """Publish one event under the payout's key. Same event, same `ce_id` (rule K3)."""
        await self.publish_event(
            publication.topic,
            publication.schema,
            publication.record,
            key=row.payout_id,
            identifier=event_id(publication.event or publication.schema, row.payout_id, publication.version),
            at=publication.at,
            correlation_id=row.correlation_id,
            request_id=None if self._request_ids is None else self._request_ids.of(row),
            event=publication.event,
            root=root_context(row),
        )

    async def publish_event(
        self,
        topic: str,
        schema: str,
        record: Mapping[str, Any],
        *,
        key: str,
        identifier: str,
        at: datetime,
        correlation_id: str | None,
        request_id: str | None = None,
        event: str | None = None,
        root: TraceContext,
    ) -> None:
        """Encode and publish one record. Raises BrokerUnavailable; ends the process when unconfirmed.

        `root` is where its payout's trace begins: the event's own place in it follows from `identifier`.
        """
        name = topic_name(topic, self._prefix)
        place = self._tracing.event_context(key, root, identifier)
        said = {"messaging.message.id": identifier, "payout.id": key}
        with self._tracing.send(topic, place, root, said):
            value = await self._codec.encode(schema, record, name)
            headers = event_headers(
                event_type(schema, event),
                EVENT_SOURCE,
                at,
                correlation_id,
                place.traceparent,
                event_id=identifier,
                request_id=request_id,
            )
            await self.publish_bytes(name, key.encode(), value, headers)

    async def publish_in_order(self, topic: str, records: Sequence[tuple[bytes, Sequence[tuple[str, bytes]]]]) -> None:
        """Send (value, headers) without keys, one behind the other, and wait until the broker has all of them.

        Raises BrokerUnavailable: a part of them may be there. Ends the process when unconfirmed.
        """
        try:
            async with asyncio.timeout(self._unconfirmed_seconds):
                confirmations = [
                    asyncio.ensure_future(await self._send(topic, None, value, headers)) for value, headers in records
                ]
                await asyncio.gather(*confirmations)
        except TimeoutError:
            self._metrics.produce_errors.inc()
            self._on_unconfirmed(topic)
            raise PublishUnconfirmed(f"no confirmation for {topic} in {self._unconfirmed_seconds} s") from None
        except Exception as error:
            self._metrics.produce_errors.inc()
            raise BrokerUnavailable(f"the broker did not take a record for {topic}: {type(error).__name__}") from error
        self._metrics.published.labels(topic).inc(len(records))

    async def publish_bytes(self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Send raw bytes to a topic of this cluster and wait for the confirmation."""
        if self._permitted is not None:
            await self._permitted()
        begun = time.monotonic()
        try:
            confirmation = asyncio.ensure_future(await self._send(topic, key, value, headers))
            if not confirmation.done():
                await asyncio.wait([confirmation], timeout=self._unconfirmed_seconds)  # which cancels nothing
            _take(confirmation)
        except TimeoutError:
            self._metrics.produce_errors.inc()
            self._on_unconfirmed(topic)
            raise PublishUnconfirmed(f"no confirmation for {topic} in {self._unconfirmed_seconds} s") from None
        except Exception as error:
            self._metrics.produce_errors.inc()
            raise BrokerUnavailable(f"the broker did not take a record for {topic}: {type(error).__name__}") from error
        self._metrics.published.labels(topic).inc()
        self._metrics.produce_seconds.observe(time.monotonic() - begun)


def _take(confirmation: asyncio.Future[Any]) -> None:
    """Raises what the broker said, or TimeoutError while it has said nothing."""
    if not confirmation.done():
        raise TimeoutError
    confirmation.result()
