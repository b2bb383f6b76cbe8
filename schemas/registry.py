"""Our schemas in a registry: check, push, list. Behind `payouts schemas check|push|list`.

Only `push_schemas` changes anything. All functions are for code without an event loop, take a registry's address
(`RegistryAddress`: URL, or what makes a RegistryClient) and the topics' prefix, and raise RegistryUnavailable when
the registry gives no usable answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from schemas.catalog import RECORDS, schema_text
from schemas.lint import lint
from schemas.registry_client import RegistryAddress, RegistryClient, RegistryRefused, connect
from schemas.topics import subject_of, topic_for

# Topics are replayed in incidents: an old consumer reads new records and a new one reads all.
COMPATIBILITY_LEVEL = "FULL_TRANSITIVE"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SubjectState:
    """What a registry has for one of our records."""

    schema: str
    topic: str
    subject: str
    versions: tuple[int, ...]
    """Versions that the registry has; none when the subject is new."""
    schema_id: int | None
    """Id of our current schema; None when it is not registered."""
    level: str | None
    """The subject's own compatibility level; None when it has none."""
    compatible: bool
    """Whether our current schema is registered or would be accepted."""

    @property
    def registered(self) -> bool:
        """Whether our current schema is there."""
        return self.schema_id is not None

    @property
    def level_is_right(self) -> bool:
        """Whether the subject's own level is FULL_TRANSITIVE."""
        return self.level == COMPATIBILITY_LEVEL


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Outcome of a check: findings of our own lint, and each subject's state (empty without a registry)."""

    findings: tuple[str, ...]
    subjects: tuple[SubjectState, ...]

    @property
    def ok(self) -> bool:
        """Whether the schemas may be pushed: no finding, and the registry would accept each."""
        return not self.findings and all(state.compatible for state in self.subjects)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to push: each current schema is registered, under the right level."""
        return self.ok and all(state.registered and state.level_is_right for state in self.subjects)


@dataclass(frozen=True, slots=True)
class PushedSubject:
    """What a push did for one record."""

    schema: str
    subject: str
    schema_id: int
    registered: bool
    """False when the registry had it already."""
    level_set: bool
    """False when the level was right already."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """Outcome of a push. When the check before it failed, nothing was pushed."""

    check: CheckReport
    pushed: tuple[PushedSubject, ...]

    @property
    def ok(self) -> bool:
        """Whether every schema is registered now."""
        return self.check.ok and len(self.pushed) == len(RECORDS)


def check_schemas(registry: RegistryAddress | None = None, prefix: str = "") -> CheckReport:
    """Runs our lint and, with a registry, asks whether it has or would take each schema. Changes nothing."""
    findings = tuple(lint())
    if registry is None:
        return CheckReport(findings, ())
    return CheckReport(findings, list_schemas(registry, prefix))


def list_schemas(registry: RegistryAddress, prefix: str = "") -> tuple[SubjectState, ...]:
    """What the registry has for each of our records, in the order of the flow. Changes nothing."""
    return _run(registry, lambda client: _states(client, prefix))


def push_schemas(registry: RegistryAddress, prefix: str = "") -> PushReport:
    """Sets FULL_TRANSITIVE for each subject and registers our current schemas, if the check finds nothing.

    Safe to repeat: what is there already stays as it is. Raises RegistryRefused when the registry refuses what it
    said that it would accept (somebody pushed in between).
    """
    findings = tuple(lint())
    return _run(registry, lambda client: _push(client, prefix, findings))


def _run(registry: RegistryAddress, work: Callable[[RegistryClient], Awaitable[Result]]) -> Result:
    async def inner() -> Result:
        client = connect(registry)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inner())


async def _states(client: RegistryClient, prefix: str) -> tuple[SubjectState, ...]:
    return tuple([await _state(client, name, prefix) for name in RECORDS])


async def _state(client: RegistryClient, name: str, prefix: str) -> SubjectState:
    topic = topic_for(name, prefix)
    subject = subject_of(topic)
    versions = await client.versions(subject)
    schema_id = await _registered_id(client, subject, name) if versions else None
    compatible = schema_id is not None or await client.is_compatible(subject, schema_text(name))
    level = await client.level(subject)
    return SubjectState(name, topic, subject, versions, schema_id, level, compatible)


async def _registered_id(client: RegistryClient, subject: str, name: str) -> int | None:
    try:
        return await client.lookup(subject, schema_text(name))
    except RegistryRefused as refusal:
        if refusal.not_found:
            return None
        raise


async def _push(client: RegistryClient, prefix: str, findings: tuple[str, ...]) -> PushReport:
    check = CheckReport(findings, await _states(client, prefix))
    if not check.ok:
        return PushReport(check, ())
    return PushReport(check, tuple([await _push_one(client, state) for state in check.subjects]))


async def _push_one(client: RegistryClient, state: SubjectState) -> PushedSubject:
    # The level first: a registration that raced past our check is then refused by the registry itself.
    level_set = not state.level_is_right
    if level_set:
        await client.set_level(state.subject, COMPATIBILITY_LEVEL)
    schema_id = state.schema_id
    if schema_id is None:
        schema_id = await client.register(state.subject, schema_text(state.schema))
    return PushedSubject(state.schema, state.subject, schema_id, not state.registered, level_set)
