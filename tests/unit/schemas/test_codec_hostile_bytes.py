"""Whatever bytes arrive, decoding ends soon, in a record or an Undecodable: one bad record never stops a
partition (P8, K6)."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import catalog
from schemas.bounds import ITEM_LIMIT
from schemas.codec import (
    RECORD_LIMIT_BYTES,
    BlockingCodec,
    Codec,
    Malformed,
    NoMagicByte,
    OverLimit,
    TrailingBytes,
    Undecodable,
    UnknownSchemaId,
    WrongSchema,
)

NULLS = {"type": "array", "items": "null"}
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def zigzag(value: int) -> bytes:
    raw = (value << 1) ^ (value >> 63)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def header(name: str) -> bytes:
    return b"\x00" + catalog.pinned_ids()[name, 1].to_bytes(4, "big")


class OneSchema:
    """A registry in which one foreign schema has id 1."""

    def __init__(self, schema: Any) -> None:
        self.text = schema if isinstance(schema, str) else json.dumps(schema)

    async def schema(self, schema_id: int) -> str:
        assert schema_id == 1
        return self.text

    async def id_for(self, schema_name: str, topic: str) -> int:  # noqa: ARG002
        return 1

    async def confirm(self, schema_name: str, topic: str) -> None:  # noqa: ARG002
        return

    async def close(self) -> None:
        return


def current(name: str) -> Any:
    return json.loads(catalog.schema_text(name))


@pytest.fixture(scope="module")
def codec() -> Any:
    with BlockingCodec() as opened:
        yield opened


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (None, NoMagicByte),
        (b"", NoMagicByte),
        (b"\x00\x00\x00", NoMagicByte),
        (b'{"payout_id": 1}', NoMagicByte),
        (b"\x01\x00\x00\x00\x01abc", NoMagicByte),
        (b"\x00\x00\x00\x00\x07abc", UnknownSchemaId),
        (b"\x00\xff\xff\xff\xffabc", UnknownSchemaId),
        (header("PayoutResult") + b"abc", WrongSchema),
        (header("PayoutRetry"), Malformed),
        (header("PayoutRetry") + b"\x00" * RECORD_LIMIT_BYTES, OverLimit),
    ],
)
def test_each_fault_has_its_own_error(data: bytes | None, error: type[Undecodable], codec: BlockingCodec) -> None:
    with pytest.raises(error) as refused:
        codec.decode("PayoutRetry", data)
    assert type(refused.value) is error


def test_every_error_has_its_own_code() -> None:
    errors = [NoMagicByte, UnknownSchemaId, WrongSchema, Malformed, TrailingBytes, OverLimit]
    assert len({error.code for error in errors}) == len(errors)


def test_bytes_behind_the_record_are_refused(codec: BlockingCodec, golden_bytes: dict[str, bytes]) -> None:
    with pytest.raises(TrailingBytes):
        codec.decode("PayoutRetry", golden_bytes["PayoutRetry.v1"] + b"\x00")


def test_every_truncation_is_refused(codec: BlockingCodec, golden_bytes: dict[str, bytes]) -> None:
    """A shorter prefix of a record must never be read as another record."""
    for stem, data in golden_bytes.items():
        for end in range(len(data)):
            with pytest.raises(Undecodable):
                codec.decode(stem.split(".")[0], data[:end])


@given(data=st.binary(max_size=400), name=st.sampled_from(catalog.RECORDS), with_header=st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
def test_random_bytes(codec: BlockingCodec, data: bytes, name: str, with_header: bool) -> None:
    try:
        codec.decode(name, header(name) + data if with_header else data)
    except Undecodable as error:
        assert error.__context__ is None  # noqa: PT017 - the library's text, which quotes values, is not carried


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
def test_mutated_records(codec: BlockingCodec, golden_bytes: dict[str, bytes], data: st.DataObject) -> None:
    stem = data.draw(st.sampled_from(sorted(golden_bytes)))
    value = bytearray(golden_bytes[stem])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(5, len(value) - 1))
        change = data.draw(st.sampled_from(["flip", "insert", "cut", "bomb"]))
        if change == "flip":
            value[place] = data.draw(st.integers(0, 255))
        elif change == "insert":
            value[place:place] = data.draw(st.binary(max_size=12))
        elif change == "cut":
            del value[place : place + data.draw(st.integers(1, 4))]
            value.extend(b"\x00" * max(0, 6 - len(value)))
        else:
            value[place:place] = zigzag(data.draw(st.integers(-(2**63), 2**63 - 1)))
    name = stem.split(".")[0]
    try:
        decoded = codec.decode(name, bytes(value))
    except Undecodable:
        return
    # What was accepted is a record of the schema: it can be written again.
    again = codec.encode(name, decoded.record)
    assert codec.decode(name, again).record == decoded.record


@pytest.mark.parametrize("length", [-1, -(2**63), 10_000, 2**31, 2**62, 2**63 - 1])
def test_a_text_that_says_it_is_longer_than_its_record(length: int, codec: BlockingCodec) -> None:
    """A negative length makes the library read to the end; a huge one makes it ask for that much memory."""
    with pytest.raises(Malformed):
        codec.decode("PayoutRetry", header("PayoutRetry") + zigzag(length) + b"x" * 50)


@pytest.mark.parametrize("index", [-1, 4, 2**40])
def test_an_enum_index_outside_its_symbols(index: int, codec: BlockingCodec) -> None:
    """The library reads index -1 as the last symbol."""
    data = header("PayoutRetry") + zigzag(8) + b"payout-1" + zigzag(1) + zigzag(index) + zigzag(5) + zigzag(1) + b"c"
    with pytest.raises(Malformed, match="enum"):
        codec.decode("PayoutRetry", data)


@pytest.mark.parametrize("index", [-1, 2, 2**40])
def test_a_union_index_outside_its_branches(index: int, codec: BlockingCodec, golden_bytes: dict[str, bytes]) -> None:
    data = golden_bytes["ReviewDecision.v1"]
    place = data.index(b"Other date of birth.") - 2
    assert data[place] == 2
    with pytest.raises(Malformed, match="union"):
        codec.decode("ReviewDecision", data[:place] + zigzag(index) + data[place + 1 :])


@pytest.mark.parametrize("count", [ITEM_LIMIT + 1, 2**40, 2**63 - 1, -(2**63), -(ITEM_LIMIT + 1)])
def test_a_map_that_says_it_has_more_entries_than_anybody_needs(
    count: int, codec: BlockingCodec, golden_bytes: dict[str, bytes]
) -> None:
    data = golden_bytes["PayoutRequest.v1.internal-alias"]
    assert data.endswith(b"\x00")
    with pytest.raises(Malformed):
        codec.decode("PayoutRequest", data[:-1] + zigzag(count) + b"\x00" * 20)


def test_a_number_that_does_not_end(codec: BlockingCodec) -> None:
    for tail in (b"\xff" * 5, b"\xff" * 11, b"\xff" * 9 + b"\x7f"):
        with pytest.raises(Malformed):
            codec.decode("PayoutRetry", header("PayoutRetry") + tail)


async def test_a_foreign_schema_that_makes_items_of_nothing_is_bounded() -> None:
    """An array of nulls has items of no bytes: nine bytes could ask for 2**60 of them."""
    schema = current("PayoutRetry")
    schema["fields"].append({"name": "extra", "type": NULLS, "default": []})
    codec = Codec(OneSchema(schema))
    record = b"\x00\x00\x00\x00\x01" + zigzag(8) + b"payout-1" + zigzag(1) + zigzag(1) + zigzag(5) + zigzag(1) + b"c"
    assert (await codec.decode("PayoutRetry", record + zigzag(100) + b"\x00")).record["payout_id"] == "payout-1"
    started = time.process_time()
    tracemalloc.start()
    for count in (2**60, -(2**60), ITEM_LIMIT + 1):
        with pytest.raises(Malformed):
            await codec.decode("PayoutRetry", record + zigzag(count) + b"\x00\x00")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
    assert time.process_time() - started < 5.0


async def test_a_foreign_schema_that_nests_without_end_is_bounded() -> None:
    schema = current("PayoutRetry")
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    schema["fields"].append({"name": "extra", "type": ["null", node], "default": None})
    codec = Codec(OneSchema(schema))
    record = b"\x00\x00\x00\x00\x01" + zigzag(8) + b"payout-1" + zigzag(1) + zigzag(1) + zigzag(5) + zigzag(1) + b"c"
    assert (await codec.decode("PayoutRetry", record + b"\x02" * 5 + b"\x00")).record["version"] == 1
    with pytest.raises(Malformed, match="nested"):
        await codec.decode("PayoutRetry", record + b"\x02" * 100_000 + b"\x00")


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '"string"', "7", '{"type": "record"}', '{"type": "record", "name": "X"}', "[" * 100_000],
    ids=range(9),
)
async def test_what_a_registry_calls_a_schema_and_is_none(text: str) -> None:
    with pytest.raises(WrongSchema):
        await Codec(OneSchema(text)).decode("PayoutRetry", b"\x00\x00\x00\x00\x01abc")


async def test_a_schema_in_other_units_is_refused_and_not_misread() -> None:
    """Milliseconds for microseconds resolve without an error in the library: requests would expire in 1970."""
    schema = current("PayoutRetry")
    schema["fields"][3]["type"]["logicalType"] = "timestamp-millis"
    with pytest.raises(WrongSchema, match="requested_at"):
        await Codec(OneSchema(schema)).decode("PayoutRetry", b"\x00\x00\x00\x00\x01abc")


async def test_a_later_version_is_read_as_ours() -> None:
    """FULL_TRANSITIVE: a newer image writes an optional field and an enum symbol that we do not know."""
    later = current("PayoutRetry")
    later["fields"].append({"name": "shard", "type": ["null", "string"], "default": None})
    later["fields"][2]["type"]["symbols"].append("ASKED")
    record = (
        zigzag(8) + b"payout-1" + zigzag(1) + zigzag(4) + zigzag(5) + zigzag(1) + b"c" + zigzag(1) + zigzag(2) + b"s7"
    )
    decoded = await Codec(OneSchema(later)).decode("PayoutRetry", b"\x00\x00\x00\x00\x01" + record)
    assert decoded.record["reason"] == "UNSPECIFIED"
    assert "shard" not in decoded.record


async def test_defaults_that_were_filled_in_are_not_shared(golden_bytes: dict[str, bytes]) -> None:
    """The library hands out the schema's own empty map: one record's label would appear in the next."""
    earlier = current("PayoutRequest")
    assert earlier["fields"].pop()["name"] == "metadata"
    data = golden_bytes["PayoutRequest.v1.internal-alias"]
    assert data.endswith(b"\x00")
    codec = Codec(OneSchema(earlier))
    written = b"\x00\x00\x00\x00\x01" + data[5:-1]
    first = (await codec.decode("PayoutRequest", written)).record
    first["metadata"]["label"] = "mine"
    assert (await codec.decode("PayoutRequest", written)).record["metadata"] == {}


def test_a_record_with_as_many_labels_as_fit_is_read_quickly(
    codec: BlockingCodec, golden_bytes: dict[str, bytes]
) -> None:
    """The most work that a record may make: as many small items as are allowed, up to the record's limit."""
    data = golden_bytes["PayoutRequest.v1.internal-alias"]
    assert data.endswith(b"\x00")
    labels = b"".join(zigzag(5) + f"{number:05}".encode() + zigzag(15) + b"x" * 15 for number in range(ITEM_LIMIT))
    full = data[:-1] + zigzag(ITEM_LIMIT) + labels + b"\x00"
    assert RECORD_LIMIT_BYTES * 0.8 < len(full) <= RECORD_LIMIT_BYTES
    started = time.process_time()
    decoded = codec.decode("PayoutRequest", full)
    assert time.process_time() - started < 2.0
    assert len(decoded.record["metadata"]) == ITEM_LIMIT
