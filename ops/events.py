"""Reads decoded events from our topics, for the commands that show them."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, cast

import typer
from confluent_kafka import Message

from ops.environment import codec_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, usage_error
from ops.kafka import Reading, connect_admin, key_text, offset_of, our_topics, reader, record_time, spans
from ops.output import Column, JsonLines, LineTable, Output, emit_rows, message, parse_time
from ops.redaction import redacted
from schemas.codec import BlockingCodec, Undecodable
from schemas.headers import header_text
from streams.settings import Settings

LIMIT_MAX: Final = 100_000
LIMIT: Final = 1_000
DEFAULT_AGE: Final = timedelta(hours=24)
TIMEOUT_SECONDS: Final = 60.0
# A repeat follows its first within a redelivery; so many ids cover hours of a busy topic.
REMEMBERED_IDS_MAX: Final = 100_000

_AGE = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Event = dict[str, Any]
"""A record's fields, and under `meta` where it is: topic, partition, offset, at, ce_id, ce_type, correlation_id."""

FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on with what comes; only new events by default.")
]
FromBeginningOption = Annotated[bool, typer.Option("--from-beginning", help="Everything that the topic still holds.")]
SinceOption = Annotated[
    str | None, typer.Option(metavar="AGE|TIME", help="From then on: 30m, 24h, 7d, or ISO 8601 with a zone.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, max=LIMIT_MAX, help="Stop after so many events.")]
DedupeOption = Annotated[bool, typer.Option("--dedupe", help="Show an event that was sent again (same ce_id) once.")]
TimeoutOption = Annotated[
    float | None, typer.Option(min=0.1, max=86_400.0, help="Stop after so many seconds (60, or never with --follow).")
]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are wanted, and until when."""

    follow: bool
    since: datetime | None
    only_new: bool
    limit: int | None
    dedupe: bool
    timeout_seconds: float | None
    accepts: Callable[[Event], bool]


def selection(
    *,
    follow: bool,
    from_beginning: bool,
    since: str | None,
    limit: int | None,
    dedupe: bool,
    timeout_seconds: float | None,
    accepts: Callable[[Event], bool],
) -> Selection:
    """The options as one value. Raises CommandFailed (usage) for options that contradict each other."""
    if from_beginning and since is not None:
        raise usage_error("--from-beginning and --since contradict each other", next_step="give one of them")
    start = None if since is None else parse_since(since, datetime.now(UTC))
    only_new = follow and not from_beginning and since is None
    if not follow:
        limit = LIMIT if limit is None else limit
        timeout_seconds = TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        if not from_beginning and start is None:
            start = datetime.now(UTC) - DEFAULT_AGE
    return Selection(follow, start, only_new, limit, dedupe, timeout_seconds, accepts)


def parse_since(text: str, now: datetime) -> datetime:
    """A moment from an age (30m, 24h, 7d) or ISO 8601. Raises CommandFailed (usage)."""
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return now - timedelta(**{_UNITS[age["unit"]]: int(age["count"])})
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        why = str(error) if isinstance(error, ValueError) else "is too long ago"
        raise usage_error("--since cannot be understood", why=why, next_step="give 30m, 24h, 7d or a time") from None


class EventReader:
    """Reads and decodes; keeps count of what it had to leave out."""

    def __init__(self, settings: Settings, topics: Sequence[str], chosen: Selection) -> None:
        self._settings = settings
        self._topics = topics
        self._chosen = chosen
        self._seen: OrderedDict[str, None] = OrderedDict()
        self.skipped = 0
        self.complete = False
        self.limited = False

    def events(self) -> Iterator[Event]:
        """Matching events, as they are found. Raises CommandFailed, RegistryUnavailable."""
        settings, chosen = self._settings, self._chosen
        admin = connect_admin(settings)
        topics = our_topics(admin, settings, self._topics)
        to_read = spans(admin, topics, since=chosen.since, only_new=chosen.only_new)
        with (
            reader(settings) as consumer,
            codec_for(settings) as codec,
        ):
            reading = Reading(consumer, to_read, follow=chosen.follow, timeout_seconds=chosen.timeout_seconds)
            yield from self._matching(reading, codec)
            self.complete = reading.complete

    def _matching(self, reading: Reading, codec: BlockingCodec) -> Iterator[Event]:
        found = 0
        for record in reading.records():
            event = self._decoded(record, codec)
            if event is None or not self._chosen.accepts(event) or self._is_repeat(event):
                continue
            yield event
            found += 1
            if found == self._chosen.limit:
                self.limited = True
                return

    def _decoded(self, record: Message, codec: BlockingCodec) -> Event | None:
        try:
            return decoded_event(record, codec)
        except Undecodable as error:
            self.skipped += 1
            place = f"{record.topic()}[{record.partition()}]@{offset_of(record)}"
            message(redacted(f"skipped {place}: {error.code}: {error}"))
            return None

    def _is_repeat(self, event: Event) -> bool:
        identifier = event["meta"]["ce_id"]
        if not self._chosen.dedupe or identifier is None:
            return False
        if identifier in self._seen:
            return True
        self._seen[identifier] = None
        if len(self._seen) > REMEMBERED_IDS_MAX:
            self._seen.popitem(last=False)
        return False


def decoded_event(record: Message, codec: BlockingCodec) -> Event:
    """A record's fields and where it is. Raises Undecodable, RegistryUnavailable."""
    topic = record.topic() or ""
    value = record.value()
    decoded = codec.decode_topic(topic, value if isinstance(value, bytes) else None)
    # A consumer gives a list; only a producer may hand over a mapping.
    headers = cast("list[tuple[str, str | bytes | None]]", record.headers() or [])
    meta = {
        "topic": topic,
        "partition": record.partition(),
        "offset": offset_of(record),
        "at": record_time(record),
        "key": key_text(record),
        "schema": decoded.schema_name,
        **{name: header_text(headers, name) for name in ("ce_id", "ce_type", "ce_time", "correlation_id")},
    }
    return {**decoded.record, "meta": meta}


def show_events(
    settings: Settings,
    topics: Sequence[str],
    chosen: Selection,
    columns: Sequence[Column],
    output: Output,
    flat: Callable[[Event], Event],
) -> None:
    """Print matching events: line by line while following, else one table or array in the order of time.

    `flat` gives the columns' values. Raises CommandFailed (partial) when the end was not reached in time.
    """
    events = EventReader(settings, topics, chosen)
    if chosen.follow:
        writer = JsonLines() if output is Output.JSON else LineTable(columns)
        for event in events.events():
            writer.write(event if output is Output.JSON else flat(event))
        if chosen.limit is not None and not events.limited:
            raise CommandFailed(ExitCode.PARTIAL, "the time ended before the limit was reached")
        return
    found = sorted(events.events(), key=_order)
    emit_rows(found if output is Output.JSON else [flat(event) for event in found], columns, output)
    if events.limited:
        message(f"Stopped at the limit of {chosen.limit} events: there may be more.")
    elif not events.complete:
        raise CommandFailed(
            ExitCode.PARTIAL, "the end of the topic was not reached in time", next_step="give a longer --timeout"
        )


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


def _order(event: Event) -> tuple[datetime, str, int, int]:
    meta = event["meta"]
    return meta["at"] or _EARLIEST, meta["topic"], meta["partition"], meta["offset"]
