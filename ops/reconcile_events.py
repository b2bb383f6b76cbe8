"""The topics' side of a reconciliation: what was published of each payout, and requests that the ledger does not know.

Read without a group, from the beginning of the day to what is there now: what ended in the day is told in it or later.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from ledger.interface import InboundPosition, Ledger
from ops.environment import codec_for, registry_of
from ops.events import Event, decoded_event
from ops.failures import unreachable
from ops.intake import MISSING_MAX, batches_of
from ops.kafka import (
    Place,
    Reading,
    Span,
    committed_offsets,
    connect_admin,
    offset_of,
    offsets,
    our_topics,
    reader,
    spans,
    spans_of,
)
from ops.output import message, progress
from ops.redaction import redacted
from processors.reconciliation.sides import ResultTold, Told
from schemas.codec import Codec, PinnedResolver, RegistryResolver, Undecodable
from schemas.topics import topic_of
from streams.completeness import KafkaRecords, missing_of
from streams.holes import Unreadable
from streams.kafka_connection import confluent_config
from streams.settings import Settings

RESULTS: Final = "payout_results"
DEMANDS: Final = "payout_failed_requires_compensation"
COMPENSATIONS: Final = "payout_compensation_results"
REQUESTS: Final = "payout_requests"
CLOCK_SKEW: Final = timedelta(minutes=5)
"""Records carry the producer's time, steps the database's; the clocks of one installation are closer than this."""
UNDECODABLE_SHOWN_MAX: Final = 20


@dataclass(slots=True)
class Topics:
    """What the topics said."""

    told: dict[str, Told]
    of_the_day: set[str] = field(default_factory=set)
    """Payouts whose result was published on the day itself: the ledger must have these."""
    events: int = 0
    undecodable: int = 0


def what_was_told(settings: Settings, begin: datetime, end: datetime, timeout_seconds: float) -> Topics:
    """Every result, demand and compensation since `begin`; the day is over at `end`.

    Raises CommandFailed, RegistryUnavailable.
    """
    admin = connect_admin(settings)
    names = our_topics(admin, settings, (RESULTS, DEMANDS, COMPENSATIONS))
    to_read = spans(admin, names, since=begin - CLOCK_SKEW)
    total = sum(max(0, span.end - span.first) for span in to_read)
    found = Topics(defaultdict(Told))
    with (
        reader(settings) as consumer,
        codec_for(settings) as codec,
        progress("events read", total) as step,
    ):
        reading = Reading(consumer, to_read, follow=False, timeout_seconds=timeout_seconds)
        for record in reading.records():
            step()
            try:
                event = decoded_event(record, codec)
            except Undecodable as error:
                found.undecodable += 1
                if found.undecodable <= UNDECODABLE_SHOWN_MAX:
                    message(redacted(f"{record.topic()}[{record.partition()}]@{offset_of(record)}: {error.code}"))
                continue
            topic = topic_of(event["meta"]["topic"], settings.payouts_topic_prefix).name
            _keep(found, topic, event, is_of_the_day=begin <= (event["meta"]["at"] or begin) < end)
        if not reading.complete:
            raise unreachable(
                "the topics were not read to their end in time",
                why="so what seems to be missing may only not have been read",
                next_step="give a longer --timeout",
            )
    return found


def _keep(found: Topics, topic: str, event: Event, *, is_of_the_day: bool) -> None:
    found.events += 1
    told = found.told[event["payout_id"]]
    if topic == RESULTS:
        amount: Mapping[str, Any] = event["amount"]
        told.add_result(event["version"], ResultTold(event["status"], amount["amount_minor"], amount["currency"]))
        if is_of_the_day:
            found.of_the_day.add(event["payout_id"])
    elif topic == DEMANDS:
        told.add_demand(event["version"])
    else:
        told.add_compensation(event["version"], event["status"])


async def unknown_requests(
    settings: Settings, ledger: Ledger, begin: datetime, end: datetime, timeout_seconds: float
) -> tuple[int, list[InboundPosition]] | None:
    """How many committed requests of these hours were looked up in the ledger, and those that it does not know.

    None: nobody knows how far they were committed. Raises CommandFailed, LedgerUnavailable, RegistryUnavailable.
    """
    ranges = _requests_between(connect_admin(settings), settings, begin, end)
    if ranges is None:
        return None
    url = registry_of(settings)
    codec = Codec(RegistryResolver(url) if url else PinnedResolver(), topic_prefix=settings.payouts_topic_prefix)
    records = KafkaRecords(confluent_config(settings), settings.group)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _looked_up(ledger, codec, records, ranges, settings.payouts_topic_prefix)
    except (Unreadable, TimeoutError) as error:
        why = str(error) or f"not within {timeout_seconds:g} s"
        raise unreachable("the requests could not be read", why=why, next_step="give a longer --timeout") from None
    finally:
        await records.close()
        await codec.close()


async def _looked_up(
    ledger: Ledger, codec: Codec, records: KafkaRecords, ranges: Sequence[Span], prefix: str
) -> tuple[int, list[InboundPosition]]:
    missing: list[InboundPosition] = []
    looked_up = 0
    async for slot, span in batches_of(records, ranges, "requests looked up"):
        missing += await missing_of(ledger, codec, slot, span, prefix)
        looked_up += len(span.records)
        if len(missing) >= MISSING_MAX:
            message(f"Stopped at {MISSING_MAX} unknown requests: there are more.")
            break
    return looked_up, missing


def _requests_between(admin: AdminClient, settings: Settings, begin: datetime, end: datetime) -> Sequence[Span] | None:
    names = our_topics(admin, settings, [REQUESTS])
    places = [(name, number) for name, count in names.items() for number in range(count)]
    ends: Mapping[Place, int] = offsets(admin, places, OffsetSpec.for_timestamp(int(end.timestamp() * 1000)))
    committed = committed_offsets(settings, places)
    ranges = []
    for span in spans_of(admin, places, since=begin):
        place = (span.topic, span.partition)
        last = span.end if ends[place] < 0 else ends[place]
        if span.first < last and place not in committed:
            return None  # a group without offsets has passed nothing, or they have expired
        ranges.append(Span(*place, span.first, min(last, committed.get(place, 0))))
    return [asked for asked in ranges if not asked.is_empty]
