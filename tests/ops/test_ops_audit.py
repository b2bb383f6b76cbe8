"""`payouts audit tail|verify|export`: whoever changes the history, in the tables or in the topic, is found (L10)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from typer.testing import CliRunner, Result

from ledger.interface import Change
from ledger.postgres import PostgresLedger
from ledger.seal_chain import Head, Line, Origin, record_of
from ops.exit_codes import ExitCode
from ops.kafka import ConfirmedProducer, connect_admin, wait_until_served
from ops.main import app
from processors.payout.row import PayoutState
from sandbox.servers.kafka import ForeignKafka, KafkaCluster
from schemas.codec import BlockingCodec
from schemas.topics import topic_name
from streams.audit_topic import AUDIT_TOPIC, SCHEMA
from streams.settings import Settings
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import stored

__all__ = ["ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

CARD = "4957030420210462"
Records = list[dict[str, Any]]
REASON = "AUD-7: yearly audit"
LINES = 9
"""Of the history that every test begins with."""


@dataclass(frozen=True)
class Audited:
    """A ledger with a sealed history, its topic, and somebody who may do everything to both."""

    environment: dict[str, str]

    def run(self, *words: str, **more: str) -> Result:
        """Run `payouts WORDS…`."""
        return CliRunner().invoke(app, list(words), env={**self.environment, **more})

    def verify(self, *words: str, code: ExitCode = ExitCode.OK) -> list[tuple[str, int | None]]:
        """Where, and at which record, something is wrong; the exit code is checked."""
        result = self.run("audit", "verify", *words, "--output", "json")
        assert result.exit_code == code, result.stderr + result.stdout
        return [(flaw["chain"], flaw["sequence"]) for flaw in json.loads(result.stdout)["flaws"]]

    @property
    def settings(self) -> Settings:
        """The commands' settings."""
        return Settings.model_validate({name.lower(): value for name, value in self.environment.items()})

    @property
    def topic(self) -> str:
        """The audit's topic."""
        return topic_name(AUDIT_TOPIC, self.settings.payouts_topic_prefix)

    def tamper(self, *statements: str) -> None:
        """As a superuser who switches off whatever is in his way."""

        async def work() -> None:
            connection = await asyncpg.connect(self.environment["DATABASE_URL"])
            try:
                await connection.execute("SET session_replication_role = replica")
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(work())

    def produce(self, values: Sequence[bytes]) -> None:
        """What anybody who may write to the topic writes there."""
        producer = ConfirmedProducer(self.settings)
        for value in values:
            producer.send(self.topic, None, value, [])
        producer.finish()
        assert producer.acknowledged == len(values)

    def publish(self, change: Callable[[Records], Records] = lambda records: records) -> Records:
        """Publish what is sealed, after somebody on the way has changed it."""

        async def work() -> Records:
            async with await PostgresLedger.connect(self.environment["DATABASE_URL"], pool_min=1) as ledger:
                for _ in range(400):  # other transactions of the server may still run
                    await ledger.seals.seal(500)
                    records = list(await ledger.seals.unpublished(500))
                    if len(records) == LINES:
                        break
                    await asyncio.sleep(0.05)
                await ledger.seals.published_up_to(records[-1]["sequence"])
                return records

        records = asyncio.run(work())
        assert len(records) == LINES
        with BlockingCodec() as codec:
            self.produce([codec.encode(SCHEMA, record) for record in change(records)])
        return records


@pytest.fixture
def audited(kafka: KafkaCluster | ForeignKafka, ledger_url: str) -> Iterator[Audited]:
    """Four payouts and a hold, sealed by nobody yet, and an empty topic."""
    prefix = f"a{uuid.uuid4().hex[:8]}-"
    here = Audited(
        {
            "PAYOUTS_PROFILE": "test",
            "PAYOUTS_TOPIC_PREFIX": prefix,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "DATABASE_URL": ledger_url,
            "PAYOUTS_OPERATOR": "maria",
            "SCHEMA_REGISTRY_URL": "",
        }
    )
    admin = connect_admin(here.settings)
    admin.create_topics([NewTopic(here.topic, 1, 1)])[here.topic].result(30)
    wait_until_served(admin, [here.topic])

    async def work() -> None:
        async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
            rows = [await stored(ledger, PayoutState.CLEARED) for _ in range(4)]
            held = replace(rows[0], held=True, hold_reason="OPERATOR: INC-1")
            await ledger.commit(Change(rows[0], held, "held", "maria", {"reason": "OPERATOR: INC-1"}))

    asyncio.run(work())
    yield here
    admin.delete_topics([here.topic])[here.topic].result(30)


def test_l10_an_untouched_history_holds(audited: Audited) -> None:
    """L10, K2: sealed, published, published again, and lines that nobody has sealed yet."""
    records = audited.publish(lambda records: [*records, *records[3:]])
    assert audited.verify() == []
    audited.tamper("INSERT INTO history (actor, transition, to_state) VALUES ('maria', 'mode_set', 'halted')")
    result = audited.run("audit", "verify")
    assert result.exit_code == ExitCode.OK, result.stderr
    assert "1 line(s) not sealed yet" in result.stderr
    assert f"head {len(records)}" in result.stderr
    assert f"{LINES} record(s) in the ledger, 15 in payout_audit (6 repeats)" in result.stderr


HISTORY_ID = "(SELECT history_id FROM seals WHERE sequence = {})"
TABLE: dict[str, tuple[list[str], list[tuple[str, int | None]]]] = {
    "changed": (
        [f"UPDATE history SET actor = 'mallory' WHERE id = {HISTORY_ID.format(3)}"],
        [("ledger", 3)],
    ),
    "evidence changed": (
        [f"UPDATE history SET detail = detail || '{{\"paid\": true}}' WHERE id = {HISTORY_ID.format(9)}"],
        [("ledger", 9)],
    ),
    "seal changed": (
        ["UPDATE seals SET hash = repeat('0', 64) WHERE sequence = 4"],
        [("ledger", 4), ("ledger", 5), ("topic", 4)],
    ),
    "removed": (
        [f"DELETE FROM history WHERE id = {HISTORY_ID.format(5)}"],
        [("ledger", 5)],
    ),
    "removed with its seal": (
        [f"DELETE FROM history WHERE id = {HISTORY_ID.format(5)}", "DELETE FROM seals WHERE sequence = 5"],
        [("ledger", 5), ("topic", 5)],
    ),
    "removed from the end": (
        [
            f"DELETE FROM history WHERE id = {HISTORY_ID.format(9)}",
            "DELETE FROM seals WHERE sequence = 9",
            "UPDATE seal_head SET sequence = 8, hash = (SELECT hash FROM seals WHERE sequence = 8), "
            "published_sequence = 8",
        ],
        [("topic", 9)],
    ),
    "inserted behind the sealer's back": (
        ["INSERT INTO history (actor, transition, to_state, written_by) VALUES ('maria', 'x', 'X', '1')"],
        [("ledger", None)],
    ),
    "inserted behind the head": (
        [
            "INSERT INTO history (actor, transition, to_state) VALUES ('mallory', 'x', 'X')",
            "INSERT INTO seals SELECT 10, max(id), repeat('0', 64), repeat('1', 64), '7', 1, 1 FROM history",
        ],
        [("ledger", 10), ("ledger", 10), ("ledger", 10)],
    ),
    "put in another order": (
        [
            "CREATE TEMP TABLE swapped AS SELECT sequence, history_id FROM seals WHERE sequence IN (2, 6)",
            "UPDATE seals SET history_id = -sequence WHERE sequence IN (2, 6)",
            "UPDATE seals AS s SET history_id = w.history_id FROM swapped AS w "
            "WHERE s.sequence IN (2, 6) AND w.sequence = 8 - s.sequence",
        ],
        [("ledger", 2), ("ledger", 6)],
    ),
}


@pytest.mark.parametrize("how", list(TABLE))
def test_l10_tampering_with_the_tables_is_found_at_its_place(audited: Audited, how: str) -> None:
    """L10: a superuser changes, removes, inserts, reorders: exit code 1, and the place; and so without the topic, but

    where the end was cut off: only the topic knows of that.
    """
    audited.publish()
    statements, wanted = TABLE[how]
    audited.tamper(*statements)
    assert sorted(audited.verify(code=ExitCode.FOUND), key=str) == sorted(wanted, key=str)
    only_tables = [flaw for flaw in wanted if flaw[0] == "ledger"]
    code = ExitCode.FOUND if only_tables else ExitCode.OK
    assert sorted(audited.verify("--no-topic", code=code), key=str) == sorted(only_tables, key=str)


def test_l10_a_chain_that_was_written_anew_is_found_by_the_topic(audited: Audited) -> None:
    """L10: who may write to the database can compute every hash again; what was published says otherwise."""
    records = audited.publish()
    statements, head = [], Head(4, str(records[3]["hash"]))
    for record in records[4:]:
        evidence = json.loads(record["detail"])
        line = Line(
            evidence["history_id"], record["at"], "mallory", record["action"], record["payout_id"], record["version"],
            record["from_state"], record["to_state"], evidence["evidence"],
        )  # fmt: skip
        origin = Origin(record["system_identifier"], record["timeline"], evidence["identity_position"])
        forged = record_of(Head(head.sequence + 1, head.hash), line, origin)
        statements += [
            f"UPDATE history SET actor = 'mallory' WHERE id = {evidence['history_id']}",
            f"UPDATE seals SET previous_hash = '{forged['previous_hash']}', hash = '{forged['hash']}' "
            f"WHERE sequence = {forged['sequence']}",
        ]
        head = Head(int(forged["sequence"]), str(forged["hash"]))
    audited.tamper(*statements, f"UPDATE seal_head SET hash = '{head.hash}'")
    assert audited.verify("--no-topic") == []
    assert audited.verify(code=ExitCode.FOUND) == [("topic", sequence) for sequence in range(5, LINES + 1)]


PUBLISHED: dict[str, tuple[Callable[[Records], Records], set[tuple[str, int | None]]]] = {
    "changed": (lambda r: [*r[:2], r[2] | {"actor": "mallory"}, *r[3:]], {("topic", 3)}),
    "removed": (lambda r: [*r[:4], *r[6:]], {("topic", 5)}),
    "removed at the beginning": (lambda r: r[2:], {("topic", 1)}),
    "removed at the end": (lambda r: r[:-2], {("topic", 8)}),
    "put in another order": (lambda r: [*r[:3], r[4], r[3], *r[5:]], {("topic", 4)}),
    "changed and sent again": (lambda r: [*r, r[2] | {"actor": "mallory", "hash": "0" * 64}], {("topic", 3)}),
    "inserted": (
        lambda r: [*r, record_of(Head(10, str(r[-1]["hash"])), _forged_line(), Origin("7", 1, 1))],
        {("topic", 10)},
    ),
}


def _forged_line() -> Line:
    from datetime import UTC, datetime

    return Line(77, datetime(2026, 3, 1, tzinfo=UTC), "mallory", "held", None, None, None, "X", {})


@pytest.mark.parametrize("how", list(PUBLISHED))
def test_l10_tampering_with_the_topic_is_found_at_its_place(audited: Audited, how: str) -> None:
    """L10: changed, removed, inserted, reordered there, while the tables are well."""
    change, wanted = PUBLISHED[how]
    audited.publish(change)
    assert set(audited.verify(code=ExitCode.FOUND)) == wanted
    assert audited.verify("--no-topic") == []


def test_l10_foreign_bytes_and_a_topic_that_was_cut_are_found(audited: Audited) -> None:
    """L10: what is no record at all; and records that somebody deleted from the beginning."""
    audited.publish()
    audited.produce([b"not one of ours"])
    result = audited.run("audit", "verify")
    assert result.exit_code == ExitCode.FOUND
    assert f"offset {LINES}" in result.stdout
    assert "is no audit record" in result.stdout
    admin = connect_admin(audited.settings)
    cut = TopicPartition(audited.topic, 0, 4)
    admin.delete_records([cut])[cut].result(30)  # type: ignore[attr-defined]
    assert ("topic", 1) in audited.verify(code=ExitCode.FOUND)


# Exporting and listing.


def test_s4_31_an_export_is_whole_and_whatever_is_changed_shows(audited: Audited, tmp_path: Path) -> None:
    """S4-31, P6: CSV and JSON with a manifest, checked without a server; nothing of a person in them."""
    audited.tamper(
        "INSERT INTO history (actor, transition, to_state, detail) VALUES ('maria', 'mode_set', 'halted', "
        f'\'{{"reason": "card {CARD}"}}\')'
    )
    _seal_all(audited)
    for form in ("csv", "json"):
        directory = tmp_path / form
        result = audited.run(
            "audit", "export", str(directory), "--format", form, "--reason", REASON, "--output", "json"
        )
        assert result.exit_code == ExitCode.OK, result.stderr
        manifest = json.loads(result.stdout)
        assert (manifest["first_sequence"], manifest["records"]) == (1, LINES + 1)
        assert (manifest["retention_days"], manifest["masked_sequences"]) == (2555, [LINES + 1])
        file = directory / manifest["files"][0]["name"]
        assert CARD not in file.read_text() + result.stdout + result.stderr
        checked = audited.run("audit", "verify", "--manifest", str(directory / "manifest.json"), DATABASE_URL="x")
        assert checked.exit_code == ExitCode.OK, checked.stderr
        file.write_text(file.read_text().replace("OPERATOR: INC-1", "OPERATOR: INC-2"))
        tampered = audited.run("audit", "verify", "--manifest", str(directory / "manifest.json"))
        assert tampered.exit_code == ExitCode.FOUND
        assert "SHA-256" in tampered.stdout
        assert "its content is not what was sealed" in tampered.stdout
    again = audited.run("audit", "export", str(tmp_path / "csv"))
    assert again.exit_code == ExitCode.REFUSED, "an export is never written over"
    # Data left: who, when, which records, why; written down before they did.
    taken = audited.run("audit", "tail", "--action", "audit_export_begun", "--output", "json")
    assert [(line["actor"], json.loads(line["detail"])) for line in json.loads(taken.stdout)] == 2 * [
        ("maria", {"first_sequence": 1, "last_sequence": LINES + 1, "reason": REASON})
    ]


def _seal_all(audited: Audited) -> None:
    async def work() -> None:
        async with await PostgresLedger.connect(audited.environment["DATABASE_URL"], pool_min=1) as ledger:
            for _ in range(400):
                await ledger.seals.seal(500)
                if len(await ledger.seals.unpublished(500)) > LINES:
                    return
                await asyncio.sleep(0.05)

    asyncio.run(work())


def test_s4_31_an_export_has_a_time_and_no_broken_history(audited: Audited, tmp_path: Path) -> None:
    """S4-31, L10: nothing of that time is exit code 1; a history that does not hold is not exported as evidence."""
    audited.publish()
    none = audited.run("audit", "export", str(tmp_path / "none"), "--until", "2000-01-01T00:00:00Z")
    assert none.exit_code == ExitCode.FOUND
    assert not (tmp_path / "none").exists()
    assert audited.run("audit", "export", str(tmp_path / "x"), "--from", "yesterday").exit_code == ExitCode.USAGE
    audited.tamper(f"UPDATE history SET actor = 'mallory' WHERE id = {HISTORY_ID.format(3)}")
    broken = audited.run("audit", "export", str(tmp_path / "broken"))
    assert broken.exit_code == ExitCode.FOUND
    assert "does not hold at record 3" in broken.stderr
    assert not (tmp_path / "broken" / "manifest.json").exists()


def test_s4_22_what_was_done_can_be_listed(audited: Audited) -> None:
    """S4-22: the newest last, by whom, sealed or not yet; what people did by itself."""
    audited.publish()
    audited.tamper("INSERT INTO history (actor, transition, to_state) VALUES ('jan', 'mode_set', 'halted')")

    def lines(*words: str) -> Any:
        result = audited.run("audit", "tail", *words, "--output", "json")
        assert result.exit_code == ExitCode.OK, result.stderr
        return json.loads(result.stdout)

    every = lines()
    assert len(every) == LINES + 1
    assert (every[-1]["actor"], every[-1]["sequence"]) == ("jan", None)
    assert [line["history_id"] for line in lines("--limit", "3")] == [line["history_id"] for line in every[-3:]]
    assert [(line["actor"], line["action"]) for line in lines("--people")] == [("maria", "held"), ("jan", "mode_set")]
    assert [line["action"] for line in lines("--actor", "maria")] == ["held"]
    payout_id = every[0]["payout_id"]
    assert {line["payout_id"] for line in lines("--payout-id", payout_id)} == {payout_id}
    assert audited.run("audit", "tail", "--payout-id", CARD).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("days", ["2554", "3654", "0", "seven years"])
def test_s4_33_a_retention_out_of_its_bounds_starts_nothing(audited: Audited, days: str) -> None:
    """S4-33: seven to ten years; anything else is a usage error that names the variable."""
    result = audited.run("audit", "tail", AUDIT_RETENTION_DAYS=days)
    assert result.exit_code == ExitCode.USAGE
    assert "AUDIT_RETENTION_DAYS" in result.stderr
    assert audited.run("audit", "tail", AUDIT_RETENTION_DAYS="3653").exit_code == ExitCode.OK
