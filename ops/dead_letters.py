"""Dead letters as operators meet them: where each came from, what became of it, and what is in it (rule K6).

A letter says its provenance in clear; its bytes open only with the dead-letter key, and even then only what may be
shown is shown (P6).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, cast

from confluent_kafka import Message

from ledger.letter_actions import LetterAction, LetterDone
from ops.kafka import Reading, connect_admin, offset_of, our_topics, reader, record_time, spans
from ops.money_text import corridor_text, money_text
from ops.redaction import redacted
from ops.timeline import SHOWN_FIELDS
from processors.sealing import EnvelopeOpener, SealingError
from processors.validation.request import RequestMalformed, parse_request
from schemas.codec import BlockingCodec, Undecodable
from schemas.headers import header_text
from schemas.topics import READ_BY_WORKERS, TOPICS, topic_name
from schemas.trace_context import header_context
from streams.dead_letters import (
    DEAD_LETTER_TOPIC,
    FIRST_TAKEN_HEADER,
    KEY_BYTES_MAX,
    REPLAYED_HEADER,
    time_of,
)
from streams.intake import key_problem
from streams.settings import Settings

REQUESTS: Final = "payout_requests"
READ_SECONDS: Final = 60.0
JSON_NAMES_MAX: Final = 20

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LetterState(StrEnum):
    """What became of a letter."""

    OPEN = "open"
    REPLAY_BEGUN = "replay begun"
    """Somebody was about to put it back and did not say that he had: it may be on the topic."""
    REPLAYED = "replayed"
    DISCARDED = "discarded"


_STATES: Final = {
    LetterAction.REPLAY_BEGUN: LetterState.REPLAY_BEGUN,
    LetterAction.REPLAYED: LetterState.REPLAYED,
    LetterAction.DISCARDED: LetterState.DISCARDED,
}


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of `payout_dead_letters`. `sealed` and `sealed_key` stay closed here."""

    topic: str
    partition: int
    offset: int
    """The place of the record that it was."""
    taken_at: datetime | None
    first_taken_at: datetime | None
    """Earlier than `taken_at` where that record had been put back before."""
    set_aside_at: datetime | None
    reason_code: str
    error: str
    sha256: str
    length_bytes: int
    truncated: bool
    key_id: str
    replay_of: str | None
    place: tuple[str, int, int]
    """Where the letter itself lies."""
    sealed: bytes = field(repr=False)
    sealed_key: bytes | None = field(repr=False)
    traceparent: str | None = None
    """The trace context of the record that it was, if that was usable."""

    @property
    def name(self) -> str:
        """As operators name it: the place of the record that it was."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def source(self) -> tuple[str, int, int]:
        """That place."""
        return self.topic, self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Contents:
    """The record that a letter was. Prints nothing of it."""

    key: bytes | None = field(repr=False)
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the record is to a worker of this release."""

    schema: str | None = None
    payout_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    problem: str | None = None
    """The code for which it would be set aside again; None when it would be taken."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """What may be shown of it."""


class NotOpened(Exception):
    """The letter cannot be opened or is not whole; the text says why, without content."""


def letter_of(record: Message, *, with_content: bool = True) -> Letter | None:
    """A letter out of its record; None when that has not the headers of one."""
    headers = cast("list[tuple[str, str | bytes | None]]", record.headers() or [])

    def text(name: str) -> str:
        return header_text(headers, name) or ""

    value = record.value()
    try:
        partition, offset, length = (int(text(name)) for name in ("source_partition", "source_offset", "length"))
    except ValueError:
        return None
    if not (0 <= partition < 2**31 and 0 <= offset < 2**63 and 0 <= length < 2**31):
        return None
    if not (_TOPIC.fullmatch(text("source_topic")) and _SHA256.fullmatch(text("sha256")) and isinstance(value, bytes)):
        return None
    taken, earlier = time_of(text("source_timestamp")), time_of(text(FIRST_TAKEN_HEADER))
    times = [at for at in (taken, earlier) if at is not None]
    own_partition = record.partition()
    context = header_context(headers)
    return Letter(
        topic=text("source_topic"),
        partition=partition,
        offset=offset,
        taken_at=taken,
        first_taken_at=min(times) if times else None,
        set_aside_at=record_time(record),
        reason_code=redacted(text("reason_code")),
        error=redacted(text("error")),
        sha256=text("sha256"),
        length_bytes=length,
        truncated=text("truncated") != "false",
        key_id=redacted(text("encryption_key_id")),
        replay_of=redacted(text(REPLAYED_HEADER)) or None,
        place=(record.topic() or "", -1 if own_partition is None else own_partition, offset_of(record)),
        sealed=value if with_content else b"",
        sealed_key=_sealed_key(headers) if with_content else None,
        traceparent=None if context is None else context.traceparent,
    )


def _sealed_key(headers: Sequence[tuple[str, str | bytes | None]]) -> bytes | None:
    text = header_text(headers, "key_sealed")
    return None if text is None else text.encode()


class Shelf:
    """Reads the topic of dead letters, outside every group; says afterwards whether it came to the end."""

    def __init__(self, settings: Settings, *, since: datetime | None = None, seconds: float = READ_SECONDS) -> None:
        self._settings = settings
        self._since = since
        self._seconds = seconds
        self.complete = False
        self.strangers = 0
        """Records that are no letters."""

    def letters(self, *, with_content: bool = True) -> Iterator[Letter]:
        """Every letter, by partition and in order. Raises CommandFailed."""
        admin = connect_admin(self._settings)
        to_read = spans(admin, our_topics(admin, self._settings, [DEAD_LETTER_TOPIC]), since=self._since)
        with reader(self._settings) as consumer:
            reading = Reading(consumer, to_read, follow=False, timeout_seconds=self._seconds)
            for record in reading.records():
                letter = letter_of(record, with_content=with_content)
                if letter is None:
                    self.strangers += 1
                else:
                    yield letter
            self.complete = reading.complete


def state_of(done: Sequence[LetterDone]) -> tuple[LetterState, LetterDone | None]:
    """What became of a letter, and by which action."""
    for action in reversed(done):
        if action.action in _STATES:
            return _STATES[action.action], action
    return LetterState.OPEN, None


def table_name(topic: str, prefix: str) -> str | None:
    """The table's name of a topic that letters of ours can come from; None when it is not ours."""
    return next((name for name in READ_BY_WORKERS if topic_name(name, prefix) == topic), None)


def opened(opener: EnvelopeOpener, letter: Letter) -> Contents:
    """The record that it was. Raises NotOpened."""
    try:
        value = opener.open(letter.sealed)
        key = None if letter.sealed_key is None else opener.open(letter.sealed_key)
    except SealingError as error:
        raise NotOpened(str(error)) from None
    if not letter.truncated and hashlib.sha256(value).hexdigest() != letter.sha256:
        raise NotOpened("what is in it is not what its SHA-256 says: it was changed, or written by somebody else")
    return Contents(key, value)


def is_whole(letter: Letter, contents: Contents) -> str | None:
    """Why the record cannot be put back as it was; None when it can."""
    if letter.truncated:
        return "only its beginning is kept, because it was over the limit: its sender has to send it again"
    if contents.key is not None and len(contents.key) >= KEY_BYTES_MAX:
        return "its key is too long to be kept whole: its sender has to send it again"
    return None


def meaning_of(letter: Letter, contents: Contents, codec: BlockingCodec, prefix: str) -> Meaning:
    """What a worker of this release would make of the record. Raises RegistryUnavailable."""
    name = table_name(letter.topic, prefix)
    schema = None if name is None else TOPICS[name].schema
    if schema is None:
        return Meaning(problem="NOT_OUR_TOPIC", shown=_shape(contents.value))
    try:
        record = codec.decode(schema, contents.value).record
    except Undecodable as error:
        return Meaning(schema, problem=error.code, shown=_shape(contents.value))
    shown = _shown(schema, record)
    if schema == "PayoutRequest":
        return _request_meaning(contents, record, shown)
    payout_id = str(record["payout_id"])
    is_foreign = contents.key is not None and contents.key != payout_id.encode()
    return Meaning(schema, redacted(payout_id), problem="KEY_IS_NOT_PAYOUT_ID" if is_foreign else None, shown=shown)


def _request_meaning(contents: Contents, record: Mapping[str, Any], shown: Mapping[str, Any]) -> Meaning:
    try:
        request = parse_request(record)
    except RequestMalformed:
        return Meaning("PayoutRequest", problem="REQUEST_MALFORMED", shown=shown)
    problem = key_problem(contents.key, request)
    return Meaning(
        "PayoutRequest",
        redacted(request.payout_id),
        request.amount.amount_minor,
        redacted(request.amount.currency),
        None if problem is None else problem[0],
        shown,
    )


def _shown(schema: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that the timeline shows of such a record, masked; nothing else of it."""
    values = {name: record.get(name) for name in ("payout_id", *SHOWN_FIELDS.get(schema, ()))}
    if schema == "PayoutRequest":
        values |= {"amount": money_text(record["amount"]), "corridor": corridor_text(record["corridor"])}
    return {
        name: redacted(value) if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None
    }


def _shape(value: bytes) -> dict[str, Any]:
    """Of what cannot be read only its form: any of its bytes may be somebody's name or card."""
    if not value:
        return {"form": "empty"}
    if value[0] == 0 and len(value) > 5:
        return {"form": "Avro in the wire format", "schema_id": int.from_bytes(value[1:5], "big")}
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return {"form": "something else"}
    if not isinstance(document, dict):
        return {"form": "JSON"}
    names = [redacted(name) for name in list(document)[:JSON_NAMES_MAX] if _MEMBER.fullmatch(name)]
    return {"form": "JSON", "members": names}
