"""Kafka headers of our events: CloudEvents 1.0 in binary mode, W3C trace context, and the ids to search by."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.card_numbers import looks_like_card_number
from schemas.topics import TOPIC_OF_SCHEMA, type_of_event
from schemas.trace_context import TRACEPARENT_HEADER, parse_traceparent

CONTENT_TYPE = "application/avro"
# A correlation id is chosen by others: the header carries no more of it than fits a log line.
CORRELATION_ID_LIMIT_CHARACTERS = 256
WITHHELD = "withheld"

# Fixed for ever: an event that is sent again must have the id it had.
_EVENT_IDS = uuid.UUID("6f3c6f0e-3c55-5b0e-9a39-0e1d3f3f5a71")

Headers = list[tuple[str, bytes]]


def event_type(schema_name: str, event: str | None = None) -> str:
    """The ce_type of a record, for example io.payoutstreams.payout.result.v1. KeyError: no such record or event.

    `event` names one of the topic's other events, where a record tells more than one.
    """
    topic = TOPIC_OF_SCHEMA[schema_name]
    return topic.event_type if event is None else type_of_event(topic.more_events[event])


def event_id(name: str, payout_id: str, version: int) -> str:
    """The ce_id of an event: the same for the same name, payout and row version, however often it is sent (K3).

    The name is the record's, or the event's own where a record tells more than one.
    """
    return str(uuid.uuid5(_EVENT_IDS, f"{name}/{payout_id}/{version}"))


def event_headers(
    event_type: str,
    source: str,
    at: datetime,
    correlation_id: str | None,
    traceparent: str | None = None,
    *,
    event_id: str,
    request_id: str | None = None,
) -> Headers:
    """The headers of one event.

    `source` is a URI reference of the component that decided, for example /payouts/submit; `at` is when the ledger
    recorded it; `request_id` is what the payout's calls carry to Visa. An ill-formed traceparent is left out; a
    correlation id that looks like a card number is withheld.
    ValueError: `at` has no time zone.
    """
    if at.utcoffset() is None:
        raise ValueError("the time of an event needs a time zone")
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if traceparent is not None and parse_traceparent(traceparent) is not None:
        headers.append((TRACEPARENT_HEADER, traceparent.encode()))
    if correlation_id is not None:
        headers.append(("correlation_id", _foreign_text(correlation_id)))
    if request_id is not None:
        headers.append(("request_id", _foreign_text(request_id)))
    return headers


def header_text(headers: Iterable[tuple[str, bytes | str | None]] | None, name: str) -> str | None:
    """Text of the first header of a name; None when there is none or it is no UTF-8. For foreign records."""
    for key, value in headers or ():
        if key == name and value is not None:
            return value if isinstance(value, str) else _decoded(value)
    return None


def _decoded(value: bytes) -> str | None:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return None


def _foreign_text(text: str) -> bytes:
    if looks_like_card_number(text):
        return WITHHELD.encode()
    return text[:CORRELATION_ID_LIMIT_CHARACTERS].encode("utf-8", "replace")
