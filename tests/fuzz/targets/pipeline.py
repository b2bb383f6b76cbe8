"""Records of every topic through the whole worker, over the ledger's model: every one has an end, and none is a leak.

An input is a few frames (`tests.fuzz.frames`); a frame is a byte that says where it goes, a byte that says under which
key, and a value in the wire format. In place of a JWE a record may hold `seal:` and a plaintext, which is encrypted on
the way in, so that what stands inside is fuzzed too and no input depends on a key.
"""

import asyncio
import functools
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import fastavro

from ledger.interface import InboundPosition
from ledger.memory import MemoryLedger
from processors.payout.state_machine import compensation_id
from processors.sealing import encrypt_compact, load_public_key
from processors.visa.exchange import Answered
from processors.visa.identity import Operation
from schemas import catalog
from schemas.card_numbers import find_card_numbers, looks_like_card_number
from schemas.codec import RECORD_LIMIT_BYTES
from streams.keys import create_keys, load_keys
from streams.pump import Record
from tests.fuzz import frames
from tests.fuzz.harness import Target, check
from tests.fuzz.targets.contracts import changed_value, golden, header, loop
from tests.fuzz.values import CARDS, change_json, hostile_text
from tests.unit.streams.streams_world import (
    REQUESTS,
    START,
    Behaviour,
    Visa,
    World,
    approved,
    lost_reply,
    refused,
)

SEAL: Final = "seal:"
ADDRESS: Final = {
    "line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US",
}  # fmt: skip
_HEADER_BYTES: Final = 5
_TRANSACTION_IDENTIFIER_DIGITS: Final = 15
_SECONDS_A_STEP: Final = 45.0
TOPICS: Final[Mapping[int, tuple[str, str]]] = {
    8: ("payout_validated", "ValidatedPayout"),
    9: ("payout_cleared", "ClearedPayout"),
    10: ("payout_retry", "PayoutRetry"),
    11: ("payout_failed_requires_compensation", "PayoutFailedRequiresCompensation"),
    12: ("payout_compensation_confirmations", "CompensationConfirmation"),
    13: ("payout_review_decisions", "ReviewDecision"),
}
VISA_FRAME, TIME_FRAME, FRAME_KINDS = 14, 15, 16
INBOUND: Final = frozenset({REQUESTS, "payout_compensation_confirmations", "payout_review_decisions"})
_BEHAVIOURS: Final[tuple[Behaviour | None, ...]] = (
    None,
    lambda _: approved("05"),
    lambda _: approved("91"),
    lambda _: lost_reply(),
    lambda _: refused(400),
    lambda _: refused(429, retry_after="3"),
    lambda _: refused(500),
    lambda _: Answered(202, {}, {"statusIdentifier": "1763_VDP_WS"}, None, "corr-visa", 0.01),
)


@functools.cache
def world() -> World:
    """One world for all inputs of the process: keys and policies take a while to make."""
    with tempfile.TemporaryDirectory(prefix="payout-fuzz-") as folder:
        directory = Path(folder) / "keys"
        create_keys(directory)
        return World(load_keys(directory), directory)


def fresh() -> World:
    """The world as it was at its beginning, with a new worker."""
    found = world()
    found.now = START
    found.model = MemoryLedger(found.clock)
    found.broker.topics.clear()
    found.next_offset.clear()
    found.boundary.passed.clear()
    found.visa = Visa(found.boundary)
    found.worker = found.start_worker()
    return found


def _intake(data: bytes) -> None:
    """Every frame is a request."""
    loop().run(_flow(data, only_requests=True))


def _events(data: bytes) -> None:
    """Frames go to any topic; some make Visa behave, some let time pass."""
    loop().run(_flow(data, only_requests=False))


async def _flow(data: bytes, *, only_requests: bool) -> None:
    here = fresh()
    sent: list[Record] = []
    planted: set[str] = set()
    for frame in frames.split(data):
        if len(frame) < 2:
            continue
        kind = frame[0] % FRAME_KINDS
        if only_requests or kind < VISA_FRAME:
            record, numbers = _put(here, frame, 0 if only_requests else kind)
            sent.append(record)
            planted |= numbers
        elif kind == VISA_FRAME:
            here.visa.script[Operation.PUSH_FUNDS].append(_BEHAVIOURS[frame[1] % len(_BEHAVIOURS)])
        else:
            here.advance(_SECONDS_A_STEP)
            await here.worker.sweeper.sweep()
        await here.deliver_all()
        # Only the announcer's own task waits between two turns of the loop, and it does not run here.
        await asyncio.sleep(0)
    await _check_accounted(here, sent)
    _check_paid_once(here)
    await _check_nothing_in_clear(here, planted)


def _put(here: World, frame: bytes, kind: int) -> tuple[Record, set[str]]:
    """Produce a frame's record: (record, the card numbers in it)."""
    topic, schema = TOPICS.get(kind, (REQUESTS, "PayoutRequest"))
    value = header(schema) + frame[2:] if frame[1] & 0x80 else frame[2:]
    value, numbers, payout_id = _sealed(here, schema, value)
    keys = (payout_id, None, b"another-payout", b"\xff\x00", payout_id, payout_id, payout_id, payout_id)
    headers = (("ce_id", frame[2:40]), ("traceparent", b"\xff")) if frame[1] & 0x40 else ()
    return here.broker.put(topic, keys[frame[1] % len(keys)], value or None, headers), numbers


def _sealed(here: World, schema: str, value: bytes) -> tuple[bytes, set[str], bytes | None]:
    """The value with what it marks encrypted; as it is where it cannot be read."""
    parsed = catalog.parsed(catalog.schema_text(schema))
    if value[:_HEADER_BYTES] != header(schema) or len(value) > RECORD_LIMIT_BYTES:
        return value, set(), None
    try:
        record = fastavro.schemaless_reader(io.BytesIO(value[_HEADER_BYTES:]), parsed)
        numbers = set(_numbers_in(record))
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, _encrypted(here, record))
    except Exception:  # noqa: BLE001 - the library's own: then the bytes go as they are
        return value, set(), None
    # What stands behind the record stays behind it.
    read = len(_rewritten(parsed, value))
    return header(schema) + buffer.getvalue() + value[_HEADER_BYTES + read :], numbers, _key_of(record)


def _rewritten(parsed: Any, value: bytes) -> bytes:
    reader = io.BytesIO(value[_HEADER_BYTES:])
    fastavro.schemaless_reader(reader, parsed)
    return value[_HEADER_BYTES : _HEADER_BYTES + reader.tell()]


def _key_of(record: Any) -> bytes | None:
    return str(record["payout_id"]).encode("utf-8", "replace")


def _encrypted(here: World, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encrypted(here, item) for name, item in value.items()}
    if isinstance(value, str) and value.startswith(SEAL):
        return encrypt_compact(load_public_key(here.party_key), value.removeprefix(SEAL).encode())
    return value


def _numbers_in(value: Any) -> Iterator[str]:
    """Every card number of a record, as its digits; 15 of them may be a transaction identifier of Visa's."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers_in(name)
            yield from _numbers_in(item)
    elif isinstance(value, str):
        for start, end in find_card_numbers(value):
            digits = "".join(filter(str.isdigit, value[start:end]))
            if len(digits) != _TRANSACTION_IDENTIFIER_DIGITS:
                yield digits


# --- what must hold afterwards ------------------------------------------------------------------------------------


async def _check_accounted(here: World, sent: list[Record]) -> None:
    """P1, P8, K6, K7, K9: every record from outside is a row, a repeat, a refusal, handled or a dead letter."""
    for record in sent:
        if record.topic in INBOUND:
            payout_id = await _payout_id_of(here, record)
            position = InboundPosition(record.topic, record.partition, record.offset, payout_id)
            check(not await here.model.unaccounted([position]), f"a record of {record.topic} has no end")


async def _payout_id_of(here: World, record: Record) -> str | None:
    for row in here.rows():
        if (row.source_topic, row.source_partition, row.source_offset) == (
            record.topic,
            record.partition,
            record.offset,
        ):
            return row.payout_id
    return None


def _check_paid_once(here: World) -> None:
    """P2: the stand-in of this world saw at most one push a payout."""
    references = [push["senderReference"] for push in here.visa.pushes]
    check(len(references) == len(set(references)), "one payout was pushed twice")


async def _check_nothing_in_clear(here: World, planted: set[str]) -> None:
    """P6: no card number that was sent stands in a row, in its history, or in any event of ours."""
    values = [getattr(row, item.name) for row in here.rows() for item in fields(row)]
    texts = [value for value in values if isinstance(value, str)]
    check(not any(map(looks_like_card_number, texts)), "what looks like a card number stands in a row")
    shown = list(map(str, values))
    for row in here.rows():
        shown += [json.dumps(entry.detail, default=str) for entry in await here.model.history(row.payout_id)]
    for topic, records in here.broker.topics.items():
        for record in records:
            ours = topic not in (REQUESTS, *(name for name, _ in TOPICS.values())) or _is_ours(record)
            if ours:
                shown += [(record.value or b"").decode("latin-1"), (record.key or b"").decode("latin-1")]
                shown += [f"{name} {value!r}" for name, value in record.headers]
    for number in planted:
        check(not any(number in text for text in shown), "a card number of the input stands in clear")


def _is_ours(record: Record) -> bool:
    """Our events carry a ce_source; what a frame puts on a topic has none."""
    return any(name == "ce_source" for name, _ in record.headers)


# --- seeds and mutations ------------------------------------------------------------------------------------------


def _marked(here: World, payout_id: str, **changes: Any) -> dict[str, Any]:
    """The world's own request with plaintexts in place of what it encrypts."""
    card = {"primary_account_number": CARDS[0], "expiry": "2031-12"}
    parties = {"sender": {"name": "Mara Lindqvist", "address": ADDRESS}, "recipient": {"name": "Tomas Okafor"}}
    record = here.request(payout_id) | {
        "personal_data": SEAL + json.dumps(parties),
        "destination": {
            "kind": "CARD", "card": {"token_reference": None, "encrypted_card": SEAL + json.dumps(card)},
            "account": None, "wallet": None, "alias": None,
        },
    }  # fmt: skip
    return record | changes


def one_request(**changes: Any) -> bytes:
    """An input of one request with these fields changed."""
    return frames.join([_frame(0, "PayoutRequest", _marked(fresh(), "payout-0001", **changes))])


def _frame(kind: int, schema: str, record: Mapping[str, Any], key: int = 0) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, catalog.parsed(catalog.schema_text(schema)), record)
    return bytes([kind, key]) + header(schema) + buffer.getvalue()


def _requests(here: World) -> dict[str, dict[str, Any]]:
    """One of every kind that ends in another place."""
    card = SEAL + json.dumps({"primary_account_number": CARDS[1], "expiry": "2031-12"})
    pull = here.card_pull("payout-0002")
    pull["aft"]["encrypted_card"] = card
    suspect = {"sender": {"name": "Vik Drachen", "address": ADDRESS}, "recipient": {"name": "Tomas Okafor"}}
    token = {"token_reference": "tok_1", "encrypted_card": None}
    account = {"encrypted_account": SEAL + '{"account_number":"1"}'}
    kinds: dict[str, Any] = {"kind": "ACCOUNT", "card": None, "wallet": None, "alias": None}
    return {
        "plain": _marked(here, "payout-0001"),
        "pull": _marked(here, "payout-0002", funding=pull),
        "suspect": _marked(here, "payout-0003", personal_data=SEAL + json.dumps(suspect)),
        "token": _marked(
            here, "payout-0004",
            destination={**kinds, "kind": "CARD", "card": token, "account": None},
        ),
        "account": _marked(here, "payout-0005", destination={**kinds, "account": account}),
        "yen": _marked(here, "payout-0006", amount={"amount_minor": 124, "currency": "JPY"}),
        "other": _marked(here, "payout-0001", amount={"amount_minor": 9, "currency": "USD"}),
        "short_id": _marked(here, "a", metadata={"note": CARDS[2]}),
        "number": _marked(here, CARDS[2]),
        "quote": _marked(here, "payout-0007", fx_quote={"quote_id": "q", "rate": "1.5", "expires_at": START}),
    }  # fmt: skip


def _intake_seeds() -> Iterator[bytes]:
    made = {name: _frame(0, "PayoutRequest", record) for name, record in _requests(fresh()).items()}
    yield from (frames.join([frame]) for frame in made.values())
    yield frames.join([made["plain"], made["plain"], made["other"], made["pull"]])
    yield frames.join([bytes([0, 1]) + made["plain"][2:], bytes([0, 2]) + made["plain"][2:], made["suspect"]])
    yield frames.join([b"\x00\x00\x00\x00\x00\x00\x07", b"\x00\x00{}", b"\x00\x01", made["token"][:-3]])


def _event_seeds() -> Iterator[bytes]:
    here = fresh()
    made = {name: _frame(0, "PayoutRequest", record) for name, record in _requests(here).items()}
    decline, time = bytes([VISA_FRAME, 1]), bytes([TIME_FRAME, 0])
    yield from (
        frames.join([bytes([VISA_FRAME, index]), made["plain"], time, time]) for index in range(len(_BEHAVIOURS))
    )
    yield frames.join([decline, made["pull"], time, time])
    for kind, name, decision in ((13, "suspect", "APPROVE"), (13, "suspect", "REJECT")):
        yield frames.join([made[name], _frame(kind, "ReviewDecision", _decision(here, "payout-0003", decision)), time])
    for outcome in ("COMPLETED", "REFUSED"):
        yield frames.join(
            [decline, made["plain"], _frame(12, "CompensationConfirmation", _confirmation(here, outcome))]
        )
    for kind, schema in ((8, "ValidatedPayout"), (9, "ClearedPayout"), (10, "PayoutRetry")):
        yield frames.join([made["plain"], *(_golden_frames(kind, schema))])
    yield frames.join([made["pull"], *(_golden_frames(11, "PayoutFailedRequiresCompensation"))])


def _golden_frames(kind: int, schema: str) -> Iterator[bytes]:
    for name, value in golden():
        if name == schema:
            record = fastavro.schemaless_reader(
                io.BytesIO(value[_HEADER_BYTES:]), catalog.parsed(catalog.schema_text(schema))
            )
            yield _frame(kind, schema, {**cast("dict[str, Any]", record), "payout_id": "payout-0001"})


def _decision(here: World, payout_id: str, decision: str) -> dict[str, Any]:
    return {
        "case_id": f"{payout_id}.3", "payout_id": payout_id, "decision": decision, "reviewer": "reviewer-a",
        "reason_code": "FALSE_POSITIVE", "note": f"not {CARDS[2]}", "decided_at": here.now,
    }  # fmt: skip


def _confirmation(here: World, outcome: str) -> dict[str, Any]:
    return {
        "compensation_id": compensation_id("payout-0001"), "payout_id": "payout-0001", "originator_id": "acme",
        "confirmed_at": here.now, "confirmation_reference": f"release {CARDS[2]}", "outcome": outcome, "note": None,
    }  # fmt: skip


def _change_flow(data: bytes, random: Random) -> bytes:
    return frames.mutated(data, random, _change_frame)


def _change_frame(frame: bytes, random: Random) -> bytes:
    if len(frame) < 2 + _HEADER_BYTES:
        return frame
    if random.random() < 0.1:
        return bytes([random.randrange(FRAME_KINDS), random.choice((0, 0, 1, 2, 3, 0x40))]) + frame[2:]
    _, schema = TOPICS.get(frame[0] % FRAME_KINDS, (REQUESTS, "PayoutRequest"))
    if random.random() < 0.4:
        return frame[:2] + _changed_plaintext(schema, frame[2:], random)
    return frame[:2] + changed_value(schema, frame[2:], random)


def _changed_plaintext(schema: str, value: bytes, random: Random) -> bytes:
    """One of the marked plaintexts changed, still JSON mostly."""
    parsed = catalog.parsed(catalog.schema_text(schema))
    try:
        record = cast("dict[str, Any]", fastavro.schemaless_reader(io.BytesIO(value[_HEADER_BYTES:]), parsed))
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, _changed_marks(record, random))
    except Exception:  # noqa: BLE001 - the library's own: the frame stays as it is
        return value
    return header(schema) + buffer.getvalue()


def _changed_marks(value: Any, random: Random) -> Any:
    if isinstance(value, dict):
        return {name: _changed_marks(item, random) for name, item in value.items()}
    if not isinstance(value, str) or not value.startswith(SEAL) or random.random() < 0.5:
        return value
    try:
        return SEAL + json.dumps(change_json(json.loads(value.removeprefix(SEAL)), random))
    except (ValueError, RecursionError):
        return SEAL + hostile_text(random).encode("utf-8", "replace").decode()


TARGETS: Final = (
    Target(
        "intake", "payout requests through the whole worker, over the ledger's model", _intake, _intake_seeds,
        _change_flow, longest_bytes=8_192,
    ),
    Target(
        "events", "stage events, reviews and confirmations around payouts that live", _events, _event_seeds,
        _change_flow, longest_bytes=8_192,
    ),
)  # fmt: skip
