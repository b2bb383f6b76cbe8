"""One cluster, one database and one set of names for the tests of the commands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner, Result

from ledger.interface import Change, Inserted
from ledger.postgres import PostgresLedger
from ops.kafka import ConfirmedProducer
from ops.main import app
from processors.payout.row import FundingKind, PayoutRow, PayoutState
from sandbox.servers.kafka import ForeignKafka, KafkaCluster
from sandbox.servers.postgres import ForeignPostgres, PostgresServer
from schemas.codec import BlockingCodec
from schemas.headers import event_headers, event_id, event_type
from schemas.sender_reference import sender_reference
from schemas.topics import topic_for
from streams.settings import Settings

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Live:
    """Where the commands of these tests work."""

    environment: Mapping[str, str]
    directory: Path
    prefix: str

    def run(self, *words: str, stdin: bytes | None = None, **environment: Any) -> Result:
        """Run `payouts WORDS…` in this process; its answer has exit_code, stdout and stderr."""
        return CliRunner().invoke(app, list(words), input=stdin, env={**self.environment, **environment})

    def data(self, *words: str, code: int = 0, stdin: bytes | None = None) -> Any:
        """The JSON that a command prints, which must end with `code`."""
        result = self.run(*words, "--output", "json", stdin=stdin)
        assert result.exit_code == code, result.stderr
        return json.loads(result.stdout)

    @property
    def settings(self) -> Settings:
        """The commands' settings."""
        return Settings.model_validate({name.lower(): value for name, value in self.environment.items()})

    def with_ledger(self, work: Callable[[PostgresLedger], Awaitable[Answer]]) -> Answer:
        """Do something with the ledger itself."""

        async def inner() -> Answer:
            async with await PostgresLedger.connect(self.environment["DATABASE_URL"], pool_min=1) as ledger:
                return await work(ledger)

        return asyncio.run(inner())

    def publish(self, schema: str, record: Mapping[str, Any], version: int = 1, *, raw: bytes | None = None) -> None:
        """One event on its topic, as a worker or an originator sends it; `raw` in place of its bytes."""
        payout_id = record["payout_id"]
        with BlockingCodec() as codec:
            value = codec.encode(schema, record) if raw is None else raw
        headers = event_headers(
            event_type(schema), "/test", datetime.now(UTC), "c-1", event_id=event_id(schema, payout_id, version)
        )
        producer = ConfirmedProducer(self.settings)
        producer.send(topic_for(schema, self.prefix), payout_id, value, headers)
        producer.finish()
        assert producer.acknowledged == 1

    def store(self, row: PayoutRow, steps: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> PayoutRow:
        """A row in the ledger, and after it these (transition, changes)."""

        async def work(ledger: PostgresLedger) -> PayoutRow:
            inserted = await ledger.insert(row, "intake")
            assert isinstance(inserted, Inserted)
            current = inserted.row
            for transition, changes in steps:
                change = Change(current, replace(current, **changes), transition, "worker-1", {"attempt": 1})
                stepped = await ledger.commit(change)
                assert stepped is not None
                current = stepped
            return current

        return self.with_ledger(work)


@pytest.fixture(scope="module")
def live(
    kafka: KafkaCluster | ForeignKafka,
    postgres: PostgresServer | ForeignPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """Topics, tables and keys made by the commands themselves."""
    directory = tmp_path_factory.mktemp("payouts")
    database = f"payouts_ops_{uuid.uuid4().hex}"
    prefix = f"t{uuid.uuid4().hex[:8]}-"
    environment = {
        "PAYOUTS_PROFILE": "test",
        "PAYOUTS_TOPIC_PREFIX": prefix,
        "PAYOUTS_KEYS_DIRECTORY": str(directory / "keys"),
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "DATABASE_URL": postgres.create_database(database),
        "PAYOUTS_OPERATOR": "tester",
        "SCHEMA_REGISTRY_URL": "",
    }
    live = Live(environment, directory, prefix)
    try:
        assert live.data("ledger", "migrate")["applied"]
        created = live.data("topics", "ensure", "--partitions", "3", "--replication-factor", "1")
        assert {row["status"] for row in created} == {"created"}
        live.data("keys", "create", str(directory / "keys"))
        yield live
    finally:
        postgres.drop_database(database)


def sample_row(payout_id: str, **changes: Any) -> PayoutRow:
    """A payout as intake writes it."""
    now = datetime.now(UTC)
    row = PayoutRow(
        payout_id=payout_id,
        originator_id="shop-1",
        amount_minor=1250,
        currency="USD",
        source_country="US",
        target_country="US",
        target_currency="USD",
        funding_kind=FundingKind.INTERNAL,
        funding_reference=f"ref-{payout_id}",
        funding_captured=True,
        funding_captured_at=now,
        funding_reversible=False,
        requested_at=now - timedelta(seconds=2),
        expires_at=None,
        received_at=now - timedelta(seconds=1),
        source_topic="elsewhere",
        source_partition=0,
        source_offset=0,
        correlation_id="c-1",
        sender_reference=sender_reference(payout_id),
        content_key_version="k1",
        bytes_hmac=hashlib.sha256(payout_id.encode()).digest(),
        content_hmac=hashlib.sha256(payout_id.encode()).digest(),
        sealed_request=b"sealed",
        state=PayoutState.RECEIVED,
        state_at=now,
    )
    return replace(row, **changes)


def result_record(payout_id: str, **changes: Any) -> dict[str, Any]:
    """A PayoutResult."""
    now = datetime.now(UTC)
    record: dict[str, Any] = {
        "payout_id": payout_id,
        "originator_id": "shop-1",
        "version": 5,
        "status": "PAID",
        "reason_code": None,
        "reason": None,
        "amount": {"amount_minor": 1250, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "rail": "OCT",
        "transaction_identifier": "381228649430015",
        "approval_code": "98765X",
        "action_code": "00",
        "systems_trace_audit_number": 100001,
        "retrieval_reference_number": "532610000001",
        "attempts": 1,
        "policy_version": "p1",
        "list_version": "l1",
        "score": 0,
        "compensation_required": False,
        "sender_reference": sender_reference(payout_id),
        "decided_at": now,
        "requested_at": now,
        "correlation_id": "c-1",
    }  # fmt: skip
    return record | changes


def request_document(payout_id: str, **changes: Any) -> dict[str, Any]:
    """A request as a person writes it, in clear."""
    document: dict[str, Any] = {
        "payout_id": payout_id,
        "originator_id": "shop-1",
        "amount": {"amount_minor": 1250, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "funding": {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": f"ref-{payout_id}"}},
        "destination": {
            "kind": "CARD",
            "card": {"card": {"primary_account_number": "4111111111111111", "expiry": "2030-01"}},
        },
        "personal_data": {"sender": {"name": "Wilhelmina Marchetti"}, "recipient": {"name": "Bartholomew Okonkwo"}},
    }  # fmt: skip
    return document | changes
