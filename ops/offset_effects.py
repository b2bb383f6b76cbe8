"""What a plan skips or reads again, in payouts and money: the records are read, decoded, and looked up in the ledger.

A payout that many records name is counted once, however many there are: the names stand in a private database of
SQLite on disk, so that memory stays bounded.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Message

from ledger.offset_actions import OffsetActions, Payout
from ops.effects import totals_text
from ops.environment import registry_of
from ops.offset_plans import Effect, Move, Place
from ops.output import Step, progress
from processors.payout.row import COMPENSATION_ENDS, TERMINAL_STATES
from processors.validation.request import RequestMalformed, parse_request
from schemas.codec import Codec, PinnedResolver, RegistryResolver, Undecodable
from schemas.topics import topic_of
from streams.completeness import KafkaRecords, record_of
from streams.intake import KEY_LENGTH_MAX, key_problem
from streams.kafka_connection import confluent_config
from streams.pump import Record
from streams.settings import Settings

REQUESTS: Final = "payout_requests"
CACHE_KIBIBYTES: Final = 8_192
UNKNOWN_CURRENCY: Final = "???"
AMOUNT_MAX: Final = 2**62
"""What a record may claim; our schema and SQLite hold no more."""


class Kind(StrEnum):
    """What a record is to us."""

    PAYOUT = "PAYOUT"
    UNDECODABLE = "UNDECODABLE"
    FOREIGN = "FOREIGN"


@dataclass(frozen=True, slots=True)
class Named:
    """A record, and the payout that it names, with the money that a request asks for."""

    message: Message
    record: Record
    kind: Kind
    payout_id: str = ""
    currency: str = UNKNOWN_CURRENCY
    amount_minor: int = 0
    is_request: bool = False


class Reader:
    """Reads ranges without a group, in batches, and says what each record is."""

    def __init__(self, settings: Settings, codec: Codec, records: KafkaRecords) -> None:
        self.codec = codec
        self.records = records
        self._prefix = settings.payouts_topic_prefix

    async def batches(self, place: Place, span: range, step: Step) -> AsyncIterator[list[Named]]:
        """Some hundred records at a time. Raises Unreadable, RegistryUnavailable."""
        first = span.start
        while first < span.stop:
            found = await self.records.read(place, first, span.stop)
            yield [await self.named(message) for message in found.records]
            for _ in range(found.next_offset - first):
                step()
            first = found.next_offset

    async def named(self, message: Message) -> Named:
        """What one record is. Raises RegistryUnavailable."""
        record = record_of(message)
        try:
            topic = topic_of(record.topic, self._prefix)
        except KeyError:
            return Named(message, record, Kind.FOREIGN)
        if topic.schema is None:
            return Named(message, record, Kind.FOREIGN)
        try:
            content = (await self.codec.decode(topic.schema, record.value or b"")).record
            if topic.name == REQUESTS:
                return _of_request(message, record, content)
        except (Undecodable, RequestMalformed):
            return Named(message, record, Kind.UNDECODABLE)
        payout_id = str(content.get("payout_id", ""))
        if not _may_be_a_row(payout_id) or (record.key is not None and record.key != payout_id.encode()):
            return Named(message, record, Kind.FOREIGN)
        return Named(message, record, Kind.PAYOUT, payout_id)


def _may_be_a_row(payout_id: str) -> bool:
    return 0 < len(payout_id) <= KEY_LENGTH_MAX and payout_id.isascii() and payout_id.isprintable()


def _of_request(message: Message, record: Record, content: Mapping[str, Any]) -> Named:
    request = parse_request(content)
    if key_problem(record.key, request) is not None:
        return Named(message, record, Kind.FOREIGN)
    currency, amount = request.amount.currency, request.amount.amount_minor
    known = len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()
    return Named(
        message,
        record,
        Kind.PAYOUT,
        request.payout_id,
        currency if known else UNKNOWN_CURRENCY,
        max(-AMOUNT_MAX, min(AMOUNT_MAX, amount)),
        is_request=True,
    )


def has_ended(payout: Payout) -> bool:
    """It has its outcome, and nothing is to be handed back any more."""
    return payout.state in TERMINAL_STATES and payout.compensation in COMPENSATION_ENDS


class Tally:
    """Counts records, and each payout once. Close it, or use `with`."""

    def __init__(self) -> None:
        self._names = sqlite3.connect("")  # a file of its own, deleted with the connection
        self._names.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._names.execute(
            "CREATE TABLE named (payout_id TEXT PRIMARY KEY, fate TEXT, currency TEXT, minor INTEGER) WITHOUT ROWID"
        )
        self._records = dict.fromkeys(Kind, 0)

    def add(self, named: Sequence[Named], known: Mapping[str, Payout]) -> None:
        """One batch, and those of its payouts that the ledger has."""
        lines = []
        for one in named:
            payout = known.get(one.payout_id)
            kind = one.kind if one.kind is not Kind.PAYOUT or one.is_request or payout else Kind.FOREIGN
            self._records[kind] += 1
            if kind is not Kind.PAYOUT:
                continue
            if payout is None:
                lines.append((one.payout_id, "unseen", one.currency, one.amount_minor))
            else:
                fate = "ended" if has_ended(payout) else "open"
                currency = payout.currency if len(payout.currency) == 3 else UNKNOWN_CURRENCY
                lines.append((one.payout_id, fate, currency, payout.amount_minor))
        self._names.executemany("INSERT OR IGNORE INTO named VALUES (?, ?, ?, ?)", lines)

    def effect(self) -> Effect:
        """Everything counted so far."""
        fates: dict[str, int] = dict(self._names.execute("SELECT fate, count(*) FROM named GROUP BY fate"))
        money: dict[str, int] = {}
        # Added here: SQLite's own sum ends at 64 bits, and a stranger's amounts may be any.
        for currency, minor in self._names.execute("SELECT currency, minor FROM named ORDER BY currency"):
            shown = currency if currency.isascii() and currency.isalpha() and currency.isupper() else UNKNOWN_CURRENCY
            money[shown] = money.get(shown, 0) + minor
        return Effect(
            records=sum(self._records.values()),
            payouts=sum(fates.values()),
            ended=fates.get("ended", 0),
            open=fates.get("open", 0),
            unseen=fates.get("unseen", 0),
            undecodable=self._records[Kind.UNDECODABLE],
            foreign=self._records[Kind.FOREIGN],
            money=dict(sorted(money.items())),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._names.close()


def effect_text(effect: Effect) -> str:
    """`12 payouts, 250.00 USD, in 14 records, …`; `nothing` of nothing. Pure."""
    parts = [f"{effect.payouts} payouts", totals_text(effect.money), f"in {effect.records} records"]
    parts += [f"{effect.ended} have an outcome already", f"{effect.open} are open"]
    if effect.unseen:
        parts.append(f"{effect.unseen} the ledger has not seen")
    if effect.undecodable or effect.foreign:
        parts.append(f"{effect.undecodable} records cannot be decoded, {effect.foreign} are nobody's payout here")
    return ", ".join(parts) if effect.records else "nothing"


@asynccontextmanager
async def open_reader(settings: Settings) -> AsyncIterator[Reader]:
    """A reader without a group, closed at the end."""
    url = registry_of(settings)
    codec = Codec(RegistryResolver(url) if url else PinnedResolver(), topic_prefix=settings.payouts_topic_prefix)
    records = KafkaRecords(confluent_config(settings), settings.group)
    try:
        yield Reader(settings, codec, records)
    finally:
        await records.close()
        await codec.close()


async def known_of(actions: OffsetActions, named: Sequence[Named]) -> Mapping[str, Payout]:
    """The rows of the payouts that these records name."""
    ids = sorted({one.payout_id for one in named if one.kind is Kind.PAYOUT})
    return await actions.payouts(ids) if ids else {}


async def effect_of(
    reader: Reader, actions: OffsetActions, moves: Sequence[Move], span_of: Callable[[Move], range], what: str
) -> Effect:
    """What these spans hold. Raises Unreadable, LedgerUnavailable, RegistryUnavailable."""
    total = sum(len(span_of(move)) for move in moves)
    with Tally() as tally, progress(what, total) as step:
        for move in moves:
            async for named in reader.batches(move.place, span_of(move), step):
                tally.add(named, await known_of(actions, named))
        return tally.effect()
