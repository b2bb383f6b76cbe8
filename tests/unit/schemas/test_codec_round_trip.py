"""What is encoded is decoded as it was, and what does not fit the schema is refused by name (P6, K7)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import catalog, compatibility
from schemas.codec import RECORD_LIMIT_BYTES, BlockingCodec, Codec, PinnedResolver, Unencodable, schema_id_of

Load = Callable[[str], dict[str, Any]]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
}


def records_of(schema: Any, names: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Every record that fits a schema."""
    if isinstance(schema, list):
        return st.none() | records_of(schema[1], names)
    if isinstance(schema, str):
        return PRIMITIVES[schema] if schema in PRIMITIVES else records_of(names[schema], names)
    kind = schema["type"]
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: records_of(field["type"], names) for field in schema["fields"]})
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    if kind == "map":
        return st.dictionaries(TEXT, records_of(schema["values"], names), max_size=3)
    return TIMES if schema.get("logicalType") == "timestamp-micros" else records_of(kind, names)


def strategy(name: str) -> st.SearchStrategy[Any]:
    names: dict[str, Any] = {}
    return records_of(compatibility.expand(json.loads(catalog.schema_text(name)), names), names)


@pytest.fixture(scope="module")
def codec() -> Any:
    with BlockingCodec() as opened:
        yield opened


@pytest.mark.parametrize("name", catalog.RECORDS)
@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_every_record_comes_back_as_it_was(name: str, codec: BlockingCodec, data: st.DataObject) -> None:
    record = data.draw(strategy(name))
    decoded = codec.decode(name, codec.encode(name, record))
    assert decoded.record == record
    assert decoded.schema_name == name


def test_the_wire_format_is_a_zero_byte_and_the_pinned_id(codec: BlockingCodec, golden_record: Load) -> None:
    data = codec.encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    assert data[0] == 0
    assert int.from_bytes(data[1:5], "big") == schema_id_of(data) == catalog.pinned_ids()["PayoutRetry", 1]


def test_fields_with_a_default_may_be_left_out(codec: BlockingCodec, golden_record: Load) -> None:
    record = golden_record("PayoutRequest.v1.internal-alias")
    for name in ("fx_quote", "personal_data", "metadata", "expires_at"):
        record.pop(name)
    decoded = codec.decode("PayoutRequest", codec.encode("PayoutRequest", record)).record
    assert (decoded["fx_quote"], decoded["metadata"]) == (None, {})


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("version", True, "version"),
        ("version", 1.0, "version"),
        ("version", 2**63, "version"),
        ("attempts", 2**31, "attempts"),
        ("status", "LOST", "status"),
        ("payout_id", 7, "payout_id"),
        ("payout_id", None, "payout_id"),
        ("payout_id", "\ud800", "payout_id"),
        ("compensation_required", 1, "compensation_required"),
        ("decided_at", datetime(2025, 1, 1), "decided_at"),  # noqa: DTZ001
        ("decided_at", 1_700_000_000_000_000, "decided_at"),
        ("amount", {"amount_minor": 1}, "amount.currency"),
        ("amount", {"amount_minor": 1, "currency": "USD", "cents": 1}, "amount"),
        ("amount", {"amount_minor": 1.5, "currency": "USD"}, "amount.amount_minor"),
        ("amount", ("Money", {}), "amount"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_field(
    field: str, value: Any, named: str, codec: BlockingCodec, golden_record: Load
) -> None:
    """Naive datetimes, bools for ints, floats for money: all silently accepted by the Avro library."""
    record = golden_record("PayoutResult.v1.paid") | {field: value}
    with pytest.raises(Unencodable) as refused:
        codec.encode("PayoutResult", record)
    assert refused.value.field == named


def test_unknown_and_missing_fields_are_refused(codec: BlockingCodec, golden_record: Load) -> None:
    record = golden_record("PayoutRetry.v1")
    with pytest.raises(Unencodable, match="does not know: attempt"):
        codec.encode("PayoutRetry", record | {"attempt": 1})
    with pytest.raises(Unencodable, match="payout_id: is missing"):
        codec.encode("PayoutRetry", {key: value for key, value in record.items() if key != "payout_id"})
    with pytest.raises(Unencodable):
        codec.encode("PayoutRetry", "payout")  # type: ignore[arg-type]


def test_no_refusal_quotes_a_value(codec: BlockingCodec, golden_record: Load) -> None:
    """P6: a value, or a field's name, may be a card number that somebody put in the wrong place."""
    number = "4111111111111111"
    for wrong in ({"status": number}, {number: 1}, {"version": number}, {"amount": number}):
        with pytest.raises(Unencodable) as refused:
            codec.encode("PayoutResult", golden_record("PayoutResult.v1.paid") | wrong)
        assert number not in str(refused.value) + repr(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__context__ is None


def test_a_record_over_the_limit_is_not_written(codec: BlockingCodec, golden_record: Load) -> None:
    """K6: what we wrote ourselves must never be a dead letter."""
    record = golden_record("AuditRecord.v1")
    room = RECORD_LIMIT_BYTES - len(codec.encode("AuditRecord", record | {"detail": "x" * 100_000})) + 100_000
    data = codec.encode("AuditRecord", record | {"detail": "x" * room})
    assert len(data) == RECORD_LIMIT_BYTES
    assert codec.decode("AuditRecord", data).record["detail"] == "x" * room
    with pytest.raises(Unencodable, match="longer than"):
        codec.encode("AuditRecord", record | {"detail": "x" * (room + 1)})


def test_times_keep_their_instant_and_their_microseconds(codec: BlockingCodec, golden_record: Load) -> None:
    at = datetime(2025, 3, 30, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    record = golden_record("PayoutRetry.v1") | {"requested_at": at}
    decoded = codec.decode("PayoutRetry", codec.encode("PayoutRetry", record)).record["requested_at"]
    assert decoded == at
    assert decoded.utcoffset() == timedelta(0)


def test_a_decoded_record_does_not_print_itself(codec: BlockingCodec, golden_record: Load) -> None:
    """P6: a log line of a decoded event holds nothing of its content."""
    data = codec.encode("PayoutRequest", golden_record("PayoutRequest.v1.aft-card"))
    assert "payout-golden" not in repr(codec.decode("PayoutRequest", data))


async def test_an_unknown_record_is_a_mistake_of_ours() -> None:
    codec = Codec(PinnedResolver())
    with pytest.raises(KeyError, match="PayoutRequest"):
        await codec.encode("Payout", {})


async def test_a_topics_name_chooses_the_record(golden_bytes: dict[str, bytes]) -> None:
    codec = Codec(PinnedResolver(), topic_prefix="demo-7.")
    decoded = await codec.decode_topic("demo-7.payout_retry", golden_bytes["PayoutRetry.v1"])
    assert decoded.schema_name == "PayoutRetry"
    for foreign in ("payout_retry", "demo-7.other", "demo-7.payout_dead_letters"):
        with pytest.raises(KeyError):
            await codec.decode_topic(foreign, golden_bytes["PayoutRetry.v1"])
