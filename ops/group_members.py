"""Who is in the consumer group, asked in plain Python.

Not by confluent-kafka's administrator: librdkafka aborts the process when a question to a group's coordinator meets a
broken connection (its issues 3663, 4605, 5040), and who watches lag must outlive brokers.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import ops.kafka
from ops.failures import unreachable
from ops.redaction import redacted
from streams.settings import Settings

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

AGAIN_SECONDS: Final = 0.1


class GroupState(StrEnum):
    """What the coordinator says of a group."""

    STABLE = "STABLE"
    EMPTY = "EMPTY"
    """Offsets and no members."""
    PREPARING_REBALANCE = "PREPARING_REBALANCE"
    COMPLETING_REBALANCE = "COMPLETING_REBALANCE"
    DEAD = "DEAD"
    """There is no such group."""
    UNKNOWN = "UNKNOWN"
    """A state that this program does not know."""


STATES: Final = {
    "Stable": GroupState.STABLE,
    "Empty": GroupState.EMPTY,
    "PreparingRebalance": GroupState.PREPARING_REBALANCE,
    "CompletingRebalance": GroupState.COMPLETING_REBALANCE,
    "Dead": GroupState.DEAD,
}
"""By their names in Kafka's DescribeGroups."""


@dataclass(frozen=True, slots=True)
class Member:
    """One consumer of the group and the partitions (topic, number) that it has."""

    client_id: str
    host: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The group as its coordinator sees it."""

    state: GroupState
    members: tuple[Member, ...]


def describe_group(settings: Settings, group: str) -> GroupMembers:
    """State and members. Raises CommandFailed (unreachable)."""
    from aiokafka.errors import KafkaError as AiokafkaError

    try:
        with _silent(logging.getLogger("aiokafka")):
            return asyncio.run(_describe(settings, group))
    except TimeoutError:
        raise unreachable(f"Kafka did not say who is in the group within {ops.kafka.ADMIN_SECONDS:g} s") from None
    except (AiokafkaError, OSError) as error:
        raise unreachable("Kafka does not say who is in the group", why=redacted(str(error))) from None


@contextmanager
def _silent(log: logging.Logger) -> Iterator[None]:
    """Every question has its own answer or time-out here; the library's commentary would mix with ours on stderr."""
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


async def _describe(settings: Settings, group: str) -> GroupMembers:
    from aiokafka.admin import AIOKafkaAdminClient

    async with asyncio.timeout(ops.kafka.ADMIN_SECONDS):
        client = AIOKafkaAdminClient(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=ops.kafka.CLIENT_ID,
            request_timeout_ms=round(ops.kafka.ADMIN_SECONDS * 1000),
            **_credentials(settings),
        )
        try:
            await client.start()
            return await _asked_until_it_is_known(client, group)
        finally:
            await client.close()


def _credentials(settings: Settings) -> dict[str, Any]:
    """How to connect. Holds the password: never print it."""
    if settings.kafka_security_protocol == "PLAINTEXT":
        return {}
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_path)
    if settings.kafka_ssl_certificate_path is not None:
        context.load_cert_chain(settings.kafka_ssl_certificate_path, settings.kafka_ssl_key_path)
    found: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol, "ssl_context": context}
    if settings.kafka_security_protocol == "SASL_SSL":
        password = settings.kafka_sasl_password
        found |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": None if password is None else password.get_secret_value(),
        }
    return found


async def _asked_until_it_is_known(client: "AIOKafkaAdminClient", group: str) -> GroupMembers:
    """A coordinator may be on its way from one broker to another."""
    from aiokafka.errors import KafkaError as AiokafkaError
    from aiokafka.errors import for_code

    while True:
        try:
            (response,) = await client.describe_consumer_groups([group])
            found = response.groups[0]
            code, _, state, _, _, members = found[:6]
            if code == 0:
                return GroupMembers(STATES.get(state, GroupState.UNKNOWN), tuple(_member(*m[1:5]) for m in members))
            raise for_code(code)
        except AiokafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


def _member(client_id: str, host: str, _subscription: bytes, assignment: bytes) -> Member:
    return Member(client_id, host.removeprefix("/"), tuple(_assigned(assignment)))


def _assigned(assignment: bytes) -> Iterator[tuple[str, int]]:
    from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

    # Empty while the group rebalances.
    if not assignment:
        return
    topics: Sequence[tuple[str, Sequence[int]]] = ConsumerProtocolMemberAssignment.decode(assignment).assignment
    for topic, numbers in topics:
        for number in numbers:
            yield topic, number
