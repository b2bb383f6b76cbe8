"""Where schema ids come from: the repository's pinned table, or a registry with the pinned table behind it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from schemas import catalog
from schemas.errors import RegistryUnavailable, SchemaNotRegistered, UnknownSchemaId
from schemas.registry_client import RegistryClient, RegistryRefused
from schemas.topics import subject_of

# Schemas held in memory; we have a dozen records, each with a handful of versions and producers.
CACHE_LIMIT = 1_024
# How long "no such id" is believed: short, since a follower of a registry may learn of a new schema late.
UNKNOWN_ID_SECONDS = 10.0
# How long a registry that was seen to know our schema is believed to have its schemas.
CONFIRMED_SECONDS = 10.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class Resolver(Protocol):
    """Turns schema ids into schemas and back."""

    async def schema(self, schema_id: int) -> str:
        """Text of the schema. Raises UnknownSchemaId or RegistryUnavailable."""

    async def id_for(self, schema_name: str, topic: str) -> int:
        """Id that our current schema is written with on a topic. Raises RegistryUnavailable, KeyError."""

    async def confirm(self, schema_name: str, topic: str) -> None:
        """Makes sure that "no such id" is an answer: raises RegistryUnavailable if our own schema is unknown too."""

    async def close(self) -> None:
        """Lets go of connections."""


class PinnedResolver:
    """The pinned table: works without a network, knows our own schemas in every version."""

    async def schema(self, schema_id: int) -> str:
        """Text of the schema. Raises UnknownSchemaId."""
        return pinned_schema(schema_id)

    async def id_for(self, schema_name: str, topic: str) -> int:  # noqa: ARG002 - the protocol's shape
        """The id of the newest version of a record. KeyError: there is no such record."""
        return catalog.pinned_ids()[schema_name, catalog.versions(schema_name)[-1]]

    async def confirm(self, schema_name: str, topic: str) -> None:
        """The table is part of this program: its answers stand."""

    async def close(self) -> None:
        """Nothing to let go of."""


def pinned_schema(schema_id: int) -> str:
    """Text of a schema of the pinned table. Raises UnknownSchemaId."""
    key = catalog.pinned_names().get(schema_id)
    if key is None:
        raise UnknownSchemaId(f"schema id {schema_id} is not in the pinned table")
    return catalog.schema_text(*key)


class RegistryResolver:
    """A registry, read only: looks schemas up and never registers one. Pinned ids are answered from the table.

    Answers are kept (an id never changes its meaning), equal questions in flight are asked once, and "no such id"
    is believed for `UNKNOWN_ID_SECONDS`. Belongs to one event loop.
    """

    def __init__(self, client: RegistryClient | str) -> None:
        self._client = RegistryClient(client) if isinstance(client, str) else client
        self._schemas: OrderedDict[int, str] = OrderedDict()
        self._unknown: OrderedDict[int, float] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._schema_flights: dict[int, asyncio.Task[str]] = {}
        self._id_flights: dict[tuple[str, str], asyncio.Task[int]] = {}
        self._confirmed: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def close(self) -> None:
        """Ends questions in flight and closes the connections."""
        flights: list[asyncio.Task[str] | asyncio.Task[int]] = [
            *self._schema_flights.values(),
            *self._id_flights.values(),
        ]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._client.close()

    async def schema(self, schema_id: int) -> str:
        """Text of the schema. Raises UnknownSchemaId or RegistryUnavailable."""
        if catalog.is_pinned_range(schema_id):
            return pinned_schema(schema_id)
        if schema_id in self._schemas:
            return self._schemas[schema_id]
        if schema_id > catalog.REGISTRY_ID_LAST:
            raise UnknownSchemaId(f"schema id {schema_id} is higher than any registry's")
        if time.monotonic() < self._unknown.get(schema_id, 0.0):
            raise UnknownSchemaId(f"the registry knew no schema id {schema_id} a moment ago")
        return await _once(self._schema_flights, schema_id, lambda: self._fetch(schema_id))

    async def id_for(self, schema_name: str, topic: str) -> int:
        """Id of our current schema under the topic's subject. Raises RegistryUnavailable, KeyError."""
        key = (schema_name, topic)
        if key in self._ids:
            return self._ids[key]
        return await _once(self._id_flights, key, lambda: self._find(schema_name, topic))

    async def confirm(self, schema_name: str, topic: str) -> None:
        """Asks anew for our own schema before a record is given up for an unknown id.

        A registry that came back empty, or the wrong one, answers every id with "unknown": that must stop the
        partition and not empty it into the dead letters (P8). Raises RegistryUnavailable.
        """
        key = (schema_name, topic)
        if time.monotonic() >= self._confirmed.get(key, 0.0):
            await _once(self._id_flights, key, lambda: self._find(schema_name, topic))

    async def _fetch(self, schema_id: int) -> str:
        try:
            text = await self._client.schema_by_id(schema_id)
        except RegistryRefused as refusal:
            if not refusal.not_found:
                raise RegistryUnavailable(str(refusal)) from None
            _keep(self._unknown, schema_id, time.monotonic() + UNKNOWN_ID_SECONDS)
            raise UnknownSchemaId(f"the registry knows no schema id {schema_id}") from None
        _keep(self._schemas, schema_id, text)
        return text

    async def _find(self, schema_name: str, topic: str) -> int:
        subject = subject_of(topic)
        try:
            number = await self._client.lookup(subject, catalog.schema_text(schema_name))
        except RegistryRefused as refusal:
            raise SchemaNotRegistered(
                f"the registry does not have our {schema_name} under {subject} (HTTP {refusal.status}, "
                f"error code {refusal.code}); run: payouts schemas push"
            ) from None
        _keep(self._ids, (schema_name, topic), number)
        _keep(self._confirmed, (schema_name, topic), time.monotonic() + CONFIRMED_SECONDS)
        return number


def _keep(cache: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    cache[key] = value
    if len(cache) > CACHE_LIMIT:
        cache.popitem(last=False)


async def _once(flights: dict[Key, asyncio.Task[Value]], key: Key, ask: Callable[[], Awaitable[Value]]) -> Value:
    """Asks one question once however many wait for it; a waiter that is cancelled does not cancel the others."""
    flight = flights.get(key)
    if flight is None:
        flight = flights[key] = asyncio.ensure_future(ask())

        def landed(task: asyncio.Task[Value]) -> None:
            flights.pop(key, None)
            if not task.cancelled():
                # Marks the error as seen: all who waited may be gone.
                task.exception()

        flight.add_done_callback(landed)
    return await asyncio.shield(flight)
