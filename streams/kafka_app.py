"""The Faust application, with what stock Faust lacks (see ARCHITECTURE.md, "Faust").

Idempotent producer forced on; acknowledgement windows reset before Faust's own revoke handling; a bounded drain at
shutdown instead of an unbounded wait; no tables, no leader topic, no web server, no topic creation.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import faust
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.settings import Settings

log = logging.getLogger(__name__)

COMMIT_INTERVAL_SECONDS = 0.5
"""Bounds the repeats after a kill to what half a second of work acknowledges."""
HEARTBEATS_PER_SESSION = 6
"""Several may be lost before the broker gives the partitions away."""
STREAM_BUFFER_MAX = 4096
"""Records fetched and not started; with MAX_POLL_RECORDS it bounds memory whatever the backlog."""
MAX_POLL_RECORDS = 500
PRODUCER_LINGER_SECONDS = 0.002


class IdempotentProducer(driver.Producer):
    """aiokafka's retries may neither duplicate nor reorder our events."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class PayoutsApp(faust.App):
    """One worker. `on_lost` forgets lost partitions; `on_begin` and `on_end` open and close our parts."""

    on_lost: Callable[[Iterable[tuple[str, int]]], None]
    on_begin: Callable[[], Awaitable[None]]
    on_end: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]]

    async def on_first_start(self) -> None:
        """Open the ledger and Visa before the first record is fetched. Faust would only make a table directory here."""
        await self.on_begin()

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.on_lost((tp.topic, tp.partition) for tp in revoked)
        await super()._on_partitions_revoked(revoked)

    async def on_stop(self) -> None:
        """Finish what is in work for a bounded time, commit it, then leave the group."""
        await self.drain()
        consumer = self._consumer
        if consumer is not None:
            try:
                await asyncio.wait_for(consumer.commit(), timeout=5.0)
            except Exception as error:  # noqa: BLE001 - leaving without the commit only repeats work
                log.warning("last commit not possible", extra={"error": type(error).__name__})
        await super().on_stop()
        await self.on_end()

    async def send_record(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        """Hand a record to the producer; the result ends when the broker has it."""
        producer = await self.maybe_start_producer()
        confirmation: Awaitable[Any] = await producer.send(topic, key, value, None, None, list(headers))
        return confirmation


def create_app(settings: Settings, worker_name: str) -> PayoutsApp:
    """An application without agents; `streams.bootstrap` adds them."""
    brokers = [f"kafka://{address.strip()}" for address in settings.kafka_bootstrap_servers.split(",")]
    session = settings.session_timeout_seconds
    app = PayoutsApp(
        settings.group,
        broker=brokers,
        broker_credentials=_credentials(settings),
        broker_client_id=f"{settings.group}-{worker_name}",
        processing_guarantee="at_least_once",
        broker_session_timeout=session,
        broker_heartbeat_interval=session / HEARTBEATS_PER_SESSION,
        broker_rebalance_timeout=settings.rebalance_timeout_seconds,
        broker_request_timeout=max(90.0, settings.rebalance_timeout_seconds + 10.0),
        broker_commit_interval=COMMIT_INTERVAL_SECONDS,
        broker_max_poll_records=MAX_POLL_RECORDS,
        broker_check_crcs=True,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=STREAM_BUFFER_MAX,
        stream_wait_empty=False,
        producer_linger=PRODUCER_LINGER_SECONDS,
        producer_request_timeout=max(5.0, settings.unconfirmed_seconds * 4),
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        autodiscover=False,
    )
    app.transport.Producer = IdempotentProducer  # type: ignore[misc]
    return app


def _credentials(settings: Settings) -> SSLCredentials | SASLCredentials | None:
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_path)
    if settings.kafka_ssl_certificate_path is not None:
        context.load_cert_chain(settings.kafka_ssl_certificate_path, settings.kafka_ssl_key_path)
    if settings.kafka_security_protocol == "SSL":
        return SSLCredentials(context)
    password = settings.kafka_sasl_password
    return SASLCredentials(
        username=settings.kafka_sasl_username,
        password=password.get_secret_value() if password else None,
        mechanism=settings.kafka_sasl_mechanism,
        ssl_context=context,
    )


def confluent_config(settings: Settings) -> dict[str, str]:
    """The same connection for confluent-kafka clients (lag, commands). Holds the password: never print it."""
    config = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
    }
    optional = {
        "ssl.ca.location": settings.kafka_ssl_ca_path,
        "ssl.certificate.location": settings.kafka_ssl_certificate_path,
        "ssl.key.location": settings.kafka_ssl_key_path,
    }
    config |= {name: str(value) for name, value in optional.items() if value is not None}
    if settings.kafka_security_protocol == "SASL_SSL":
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username or ""
        config["sasl.password"] = (
            settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else ""
        )
    return config
