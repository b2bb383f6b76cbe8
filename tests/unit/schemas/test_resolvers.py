"""A registry that is away stops the partition; one that answers decides; ours is never written to (P8, design 3)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from schemas import catalog, resolvers
from schemas.codec import (
    BlockingCodec,
    Codec,
    PinnedResolver,
    RegistryClient,
    RegistryResolver,
    RegistryUnavailable,
    SchemaNotRegistered,
    Undecodable,
    UnknownSchemaId,
)

from .conftest import FakeRegistry

Load = Callable[[str], dict[str, Any]]
SUBJECT = "payout_retry-value"


@pytest.fixture
async def resolver(registry: FakeRegistry) -> AsyncIterator[RegistryResolver]:
    opened = RegistryResolver(RegistryClient(registry.url, timeout_seconds=2.0))
    yield opened
    await opened.close()


async def test_pinned_ids_are_reserved_and_each_names_one_schema() -> None:
    """Ids of the pinned table cannot be mistaken for a registry's (design 11)."""
    pinned = PinnedResolver()
    ids = [await pinned.id_for(name, "any") for name in catalog.RECORDS]
    assert len(set(ids)) == len(ids)
    for name, number in zip(catalog.RECORDS, ids, strict=True):
        assert 2_000_000_000 < number < 2**31
        assert await pinned.schema(number) == catalog.schema_text(name)
    with pytest.raises(UnknownSchemaId):
        await pinned.schema(1)


async def test_with_a_registry_the_record_carries_the_registrys_id(
    registry: FakeRegistry, resolver: RegistryResolver, golden_record: Load
) -> None:
    registry.add("other-value", '"string"')
    number = registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    codec = Codec(resolver)
    data = await codec.encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    assert data[1:5] == number.to_bytes(4, "big")
    assert (await codec.decode("PayoutRetry", data)).record == golden_record("PayoutRetry.v1")


async def test_the_subject_follows_the_topics_prefix(
    registry: FakeRegistry, resolver: RegistryResolver, golden_record: Load
) -> None:
    registry.add(f"demo-{SUBJECT}", catalog.schema_text("PayoutRetry"))
    await Codec(resolver, topic_prefix="demo-").encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    assert registry.calls == [f"POST /subjects/demo-{SUBJECT}"]


async def test_a_pinned_id_is_read_although_a_registry_is_set(
    registry: FakeRegistry, resolver: RegistryResolver, golden_bytes: dict[str, bytes]
) -> None:
    """Records written before the registry was there stay readable, even while it is away."""
    registry.answer = web.Response(status=503)
    decoded = await Codec(resolver).decode("PayoutRetry", golden_bytes["PayoutRetry.v1"])
    assert decoded.schema_id == catalog.pinned_ids()["PayoutRetry", 1]
    assert registry.calls == []


async def test_an_unknown_id_in_the_pinned_range_is_not_asked_for(
    registry: FakeRegistry, resolver: RegistryResolver
) -> None:
    with pytest.raises(UnknownSchemaId):
        await resolver.schema(catalog.PINNED_ID_LAST)
    assert registry.calls == []


async def test_an_answer_is_asked_for_once(registry: FakeRegistry, resolver: RegistryResolver) -> None:
    number = registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    for _ in range(3):
        await resolver.schema(number)
        await resolver.id_for("PayoutRetry", "payout_retry")
    assert registry.calls == [f"GET /schemas/ids/{number}", f"POST /subjects/{SUBJECT}"]


async def test_many_who_ask_at_once_are_one_question(registry: FakeRegistry, resolver: RegistryResolver) -> None:
    """A hundred tasks of a worker meet a new id together; the one that is cancelled takes nobody with it."""
    number = registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    registry.gate = asyncio.Event()
    waiting = [asyncio.create_task(resolver.schema(number)) for _ in range(100)]
    await asyncio.wait_for(registry.reached.wait(), 5)
    waiting[0].cancel()
    registry.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {catalog.schema_text("PayoutRetry")}
    assert len(registry.calls) == 1


async def test_an_unknown_id_is_believed_for_a_while_only(
    registry: FakeRegistry, resolver: RegistryResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of bad records must not become a flood of questions; a late follower must be asked again."""
    for _ in range(3):
        with pytest.raises(UnknownSchemaId):
            await resolver.schema(1)
    assert len(registry.calls) == 1
    now = resolvers.time.monotonic()
    monkeypatch.setattr(resolvers.time, "monotonic", lambda: now + resolvers.UNKNOWN_ID_SECONDS + 1)
    registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    assert await resolver.schema(1) == catalog.schema_text("PayoutRetry")


async def test_a_registry_that_came_back_empty_does_not_make_records_undecodable(
    registry: FakeRegistry, resolver: RegistryResolver, golden_record: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: it answers "unknown" to every id. Good payouts wait; they do not go to the dead letters."""
    registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    codec = Codec(resolver)
    await codec.encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    kept = dict(registry.subjects)
    now = resolvers.time.monotonic()
    monkeypatch.setattr(resolvers.time, "monotonic", lambda: now + resolvers.CONFIRMED_SECONDS + 1)
    registry.subjects.clear()
    for _ in range(2):
        with pytest.raises(SchemaNotRegistered, match="payouts schemas push"):
            await codec.decode("PayoutRetry", b"\x00\x00\x00\x00\x09abc")
    registry.subjects.update(kept)
    with pytest.raises(UnknownSchemaId):
        await codec.decode("PayoutRetry", b"\x00\x00\x00\x00\x09abc")


async def test_bad_records_in_a_row_are_not_two_questions_each(
    registry: FakeRegistry, resolver: RegistryResolver
) -> None:
    registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    codec = Codec(resolver)
    for schema_id in range(10, 20):
        with pytest.raises(UnknownSchemaId):
            await codec.decode("PayoutRetry", b"\x00" + schema_id.to_bytes(4, "big") + b"abc")
    assert sum(call.startswith("POST") for call in registry.calls) == 1


async def test_an_id_that_no_registry_hands_out_is_not_asked_for(
    registry: FakeRegistry, resolver: RegistryResolver
) -> None:
    """Some registries answer it like a wrong path: one bad record would stop the partition (P8)."""
    for schema_id in (2**31, 2**32 - 1):
        with pytest.raises(UnknownSchemaId):
            await resolver.schema(schema_id)
    assert registry.calls == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error_code": 50001}'),
        (503, b""),
        (429, b"{}"),
        (401, b'{"error_code": 401}'),
        (403, b"{}"),
        (302, b""),
        (404, b"<html>no such page</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (404, b'{"error_code": "40403"}'),
        (422, b'{"error_code": 42201}'),
        (200, b"<html>sign in</html>"),
        (200, b'{"id": 1}'),
        (200, b'{"schema": 1}'),
        (200, b"[" * 50_000),
        (200, b"x" * 2_000_000),
    ],
    ids=range(15),
)
async def test_an_answer_that_is_not_clear_stops_the_partition(
    status: int, body: bytes, registry: FakeRegistry, resolver: RegistryResolver
) -> None:
    """P8: a proxy's 404 page must never send good payouts to the dead letters. And it recovers by itself."""
    number = registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    registry.answer = web.Response(status=status, body=body, content_type="application/json")
    codec = Codec(resolver)
    with pytest.raises(RegistryUnavailable):
        await codec.decode("PayoutRetry", b"\x00" + number.to_bytes(4, "big") + b"abc")
    registry.answer = None
    with pytest.raises(Undecodable):
        await codec.decode("PayoutRetry", b"\x00" + number.to_bytes(4, "big") + b"abc")


async def test_a_registry_that_does_not_answer_in_time(registry: FakeRegistry) -> None:
    registry.gate = asyncio.Event()
    slow = RegistryResolver(RegistryClient(registry.url, timeout_seconds=0.2))
    with pytest.raises(RegistryUnavailable, match="Timeout"):
        await slow.schema(1)
    await slow.close()


async def test_a_registry_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = RegistryResolver(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RegistryUnavailable):
            await away.schema(1)
        await away.close()


async def test_a_schema_that_nobody_pushed_is_named_and_not_registered(
    registry: FakeRegistry, resolver: RegistryResolver, golden_record: Load
) -> None:
    """Registration only by `payouts schemas push` (design 3); until then the partition waits."""
    with pytest.raises(SchemaNotRegistered, match="payouts schemas push"):
        await Codec(resolver).encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))
    await Codec(resolver).encode("PayoutRetry", golden_record("PayoutRetry.v1"))
    assert not any("versions" in call for call in registry.calls)


async def test_closing_ends_the_questions_in_flight(registry: FakeRegistry) -> None:
    registry.gate = asyncio.Event()
    closing = RegistryResolver(registry.url)
    asked = asyncio.create_task(closing.schema(1))
    await asyncio.wait_for(registry.reached.wait(), 5)
    await closing.close()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_the_blocking_codec_works_with_a_registry_and_a_maker_of_clients(
    registry: FakeRegistry, golden_record: Load
) -> None:
    registry.add(SUBJECT, catalog.schema_text("PayoutRetry"))

    def work() -> dict[str, Any]:
        with BlockingCodec(lambda: RegistryClient(registry.url)) as codec:
            data = codec.encode("PayoutRetry", golden_record("PayoutRetry.v1"))
            return codec.decode_topic("payout_retry", data).record

    assert await asyncio.to_thread(work) == golden_record("PayoutRetry.v1")


@pytest.mark.parametrize("url", ["registry:8081", "ftp://registry", "http://", "http://user:word@registry:8081"])
def test_an_address_that_cannot_be_one_is_refused_without_being_printed(url: str) -> None:
    """A password in an address would reach every error message."""
    with pytest.raises(ValueError, match="registry's address") as refused:
        RegistryClient(url)
    assert "word@" not in str(refused.value)
