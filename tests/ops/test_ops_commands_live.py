"""The commands against a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from ledger.interface import Change
from ledger.postgres import PostgresLedger
from ops.exit_codes import ExitCode
from ops.kafka import Reading, connect_admin, our_topics, reader, spans
from processors.payout.row import PayoutState
from processors.personal_data import PartyKeys
from sandbox.servers.visa_stand_in import VisaStandIn
from schemas.codec import BlockingCodec, schema_id_of
from schemas.headers import header_text
from schemas.topics import TOPICS
from tests.ops.conftest import Live, request_document, result_record, sample_row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

CARD = "4111111111111111"


def unique(name: str) -> str:
    """A payout_id of this test alone."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def everything(live: Live, topic: str) -> list[Message]:
    """Every record of a topic."""
    admin = connect_admin(live.settings)
    to_read = spans(admin, our_topics(admin, live.settings, [topic]), since=None)
    with reader(live.settings) as consumer:
        reading = Reading(consumer, to_read, follow=False, timeout_seconds=30.0)
        records = list(reading.records())
    assert reading.complete
    return records


def lines(*documents: dict[str, Any]) -> bytes:
    """JSON lines."""
    return "\n".join(json.dumps(document) for document in documents).encode()


def test_topics_are_created_once_and_differences_reported_but_never_altered(live: Live) -> None:
    """Design 3, P9: topics come from our command and the one table; what is there stays; who made them is written."""
    (line,) = live.data("audit", "tail", "--action", "topics_created")
    assert (line["actor"], f"{live.prefix}payout_requests" in line["detail"]) == ("tester", True)
    again = live.data("topics", "ensure", "--partitions", "3", "--replication-factor", "1")
    assert {row["status"] for row in again} == {"ok"}
    listed = live.data("topics", "list")
    assert len(listed) == len(TOPICS)
    assert all(row["exists"] for row in listed)
    topic = f"{live.prefix}payout_retry"
    admin = AdminClient({"bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"]})
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    differing = live.data("topics", "ensure", "--partitions", "6", code=ExitCode.FOUND)
    row = next(row for row in differing if row["topic"] == topic)
    assert row["partitions"] == 3, "partitions are never altered"
    assert "partitions 3, not 6" in row["differences"]
    assert any("retention.ms 1000" in difference for difference in row["differences"])


def test_ledger_status_and_a_second_migration_that_does_nothing(live: Live) -> None:
    """Design 5: migrations run forward and are safe to repeat."""
    assert live.data("ledger", "migrate")["applied"] == []
    status = live.data("ledger", "status")
    assert status["pending"] == []
    assert (status["mode"], status["synchronous_commit"], status["fsync"]) == ("normal", "on", "on")


def test_sent_requests_are_encrypted_acknowledged_and_journalled(live: Live) -> None:
    """P6: a card leaves only encrypted. The journal is the producer's own record of acknowledgements (design 10)."""
    payout_id = unique("send")
    journal = live.directory / f"{payout_id}.jsonl"
    summary = live.data("send", "-", "--journal", str(journal), stdin=lines(request_document(payout_id)))
    assert (summary["lines"], summary["acknowledged"], summary["refused"]) == (1, 1, 0)
    (noted,) = [json.loads(line) for line in journal.read_text().splitlines()]
    (record,) = [r for r in everything(live, "payout_requests") if r.key() == payout_id.encode()]
    value = record.value()
    assert isinstance(value, bytes)
    assert noted["payout_id"] == payout_id
    place = (record.topic(), record.partition(), record.offset())
    assert (noted["topic"], noted["partition"], noted["offset"]) == place
    assert noted["sha256"] == hashlib.sha256(value).hexdigest()
    assert CARD.encode() not in value
    assert b"Marchetti" not in value
    with BlockingCodec(topic_prefix=live.prefix) as codec:
        request = codec.decode_topic(record.topic() or "", value).record
    keys = PartyKeys.from_jwks((live.directory / "keys" / "party_private.jwks.json").read_text())
    assert keys.open_card(request["destination"]["card"]["encrypted_card"]).number.reveal() == CARD
    assert keys.open_personal_data(request["personal_data"]).recipient.name == "Bartholomew Okonkwo"
    assert header_text(record.headers(), "ce_type") == "io.payoutstreams.payout.requested.v1"  # type: ignore[arg-type]
    assert header_text(record.headers(), "correlation_id") == request["correlation_id"]  # type: ignore[arg-type]


def test_one_bad_line_stops_the_file_unless_partial_is_given(live: Live) -> None:
    """Issue: `payouts send` refuses a bad line with its number and sends the good ones only with --partial."""
    good, bad = unique("good"), unique("bad")
    text = lines(request_document(good), request_document(bad, originator_id=f"shop {CARD}"))
    refused = live.run("send", "-", stdin=text)
    assert refused.exit_code == ExitCode.USAGE
    assert "-:2: originator_id" in refused.stderr
    assert CARD not in refused.stderr + refused.stdout
    assert not [r for r in everything(live, "payout_requests") if r.key() in (good.encode(), bad.encode())]
    summary = live.data("send", "-", "--partial", code=ExitCode.PARTIAL, stdin=text)
    assert (summary["acknowledged"], summary["refused"]) == (1, 1)
    assert [r.key() for r in everything(live, "payout_requests") if r.key() in (good.encode(), bad.encode())] == [
        good.encode()
    ]


def test_results_are_filtered_deduplicated_and_followed(live: Live) -> None:
    """K3: the same event has the same ce_id, and --dedupe shows it once. The undecodable is named and skipped."""
    paid, declined = unique("paid"), unique("declined")
    live.publish("PayoutResult", result_record(paid))
    live.publish("PayoutResult", result_record(paid))
    live.publish("PayoutResult", result_record(declined, status="DECLINED", reason_code="ISSUER_DECLINED"))
    live.publish("PayoutResult", {"payout_id": paid}, raw=b"\x00\x00\x00\x00\x07no schema of ours")
    twice = live.run("results", "--from-beginning", "--payout-id", paid, "--output", "json")
    assert twice.exit_code == 0
    assert len(json.loads(twice.stdout)) == 2
    assert "UNKNOWN_SCHEMA_ID" in twice.stderr
    (once,) = live.data("results", "--since", "1h", "--payout-id", paid, "--dedupe")
    assert (once["status"], once["amount"]["amount_minor"], once["meta"]["schema"]) == ("PAID", 1250, "PayoutResult")
    (only,) = live.data("results", "--from-beginning", "--status", "declined")
    assert only["payout_id"] == declined
    assert live.data("results", "--from-beginning", "--originator", "nobody") == []
    followed = live.run(
        "results", "--follow", "--from-beginning", "--limit", "1", "--payout-id", declined, "-o", "json"
    )
    assert followed.exit_code == 0
    assert json.loads(followed.stdout)["payout_id"] == declined
    table = live.run("results", "--from-beginning", "--payout-id", declined)
    assert "12.50 USD" in table.stdout
    waited = live.run("results", "--follow", "--limit", "1", "--timeout", "0.5")
    assert waited.exit_code == ExitCode.PARTIAL


def test_compensations_show_what_is_required_and_what_became_of_it(live: Live) -> None:
    """C2: the event names its executor."""
    payout_id = unique("comp")
    common = {
        "payout_id": payout_id,
        "originator_id": "shop-1",
        "compensation_id": f"{payout_id}.compensation",
        "amount": {"amount_minor": 1250, "currency": "USD"},
        "executor": "ORIGINATOR",
        "action": "RELEASE_HOLD",
        "correlation_id": "c-1",
    }
    now = datetime.now(UTC)
    required = {
        "saga_id": payout_id, "version": 3, "type": "COMPENSATION_REQUIRED", "funding_kind": "INTERNAL",
        "funding_reference": "ref", "priority": "HIGH", "reason_code": "X", "reason": "x", "stage": "DECLINED",
        "attempts": 1, "failed_at": now,
    }  # fmt: skip
    done = {
        "version": 4, "status": "COMPENSATED", "transaction_identifier": None, "confirmation_reference": "r",
        "reason_code": None, "decided_at": now,
    }  # fmt: skip
    live.publish("PayoutFailedRequiresCompensation", common | required)
    live.publish("CompensationResult", common | done)
    events = live.data("compensations", "--from-beginning", "--payout-id", payout_id)
    assert [event["meta"]["schema"] for event in events] == ["PayoutFailedRequiresCompensation", "CompensationResult"]
    (waiting,) = live.data("compensations", "--since", "1h", "--status", "REQUIRED", "--payout-id", payout_id)
    assert waiting["executor"] == "ORIGINATOR"


def test_a_review_decision_is_published_only_for_the_open_case(live: Live) -> None:
    """R1: a decision names its case and counts only while that case is open."""
    payout_id = unique("review")
    case_id = f"{payout_id}.3"
    waiting = {"state": PayoutState.IN_REVIEW, "review_case_id": case_id, "score_basis_points": 7800}
    row = live.store(
        sample_row(payout_id), [("validated", {"state": PayoutState.VALIDATED}), ("review_opened", waiting)]
    )
    (case,) = [case for case in live.data("review", "list") if case["payout_id"] == payout_id]
    assert (case["case_id"], case["score_basis_points"], case["amount_text"]) == (case_id, 7800, "12.50 USD")
    other = live.run("review", "approve", f"{payout_id}.2", "--reason-code", "FALSE_POSITIVE", "--yes")
    assert other.exit_code == ExitCode.REFUSED
    assert "is not open" in other.stderr
    words = (
        "review",
        "approve",
        case_id,
        "--reason-code",
        "FALSE_POSITIVE",
        "--note",
        "other year",
        "--reviewer",
        "maria",
        "--yes",
    )
    first, second = live.data(*words), live.data(*words)
    assert first["event_id"] == second["event_id"], "the same decision is the same event"
    records = [r for r in everything(live, "payout_review_decisions") if r.key() == payout_id.encode()]
    assert len(records) == 2
    with BlockingCodec(topic_prefix=live.prefix) as codec:
        decision = codec.decode_topic(records[0].topic() or "", records[0].value()).record
    assert (decision["case_id"], decision["decision"], decision["reviewer"]) == (case_id, "APPROVE", "maria")
    live.with_ledger(
        lambda ledger: ledger.commit(
            Change(row, replace(row, state=PayoutState.CLEARED), "review_approved", "worker-1")
        )
    )
    closed = live.run("review", "reject", case_id, "--reason-code", "CONFIRMED_MATCH", "--yes")
    assert closed.exit_code == ExitCode.REFUSED
    assert "CLEARED" in closed.stderr


def test_show_prints_the_whole_life_in_order_and_no_personal_data(live: Live) -> None:
    """Issue: show on a lost reply shows intent, unknown, query, paid, in order (P3, P6)."""
    payout_id = unique("lost")
    live.data("send", "-", stdin=lines(request_document(payout_id)))
    (sent,) = [r for r in everything(live, "payout_requests") if r.key() == payout_id.encode()]
    source = {"source_topic": sent.topic(), "source_partition": sent.partition(), "source_offset": sent.offset()}
    now = datetime.now(UTC)
    intent = {
        "state": PayoutState.SUBMITTING, "attempts": 1, "identity_number": 77, "systems_trace_audit_number": 100077,
        "retrieval_reference_number": "532617000000", "first_intent_at": now, "last_intent_at": now,
    }  # fmt: skip
    paid = {
        "state": PayoutState.PAID, "state_version": 7, "transaction_identifier": "381228649430015", "action_code": "00",
        "ambiguous": False,
    }  # fmt: skip
    steps: list[tuple[str, dict[str, Any]]] = [
        ("validated", {"state": PayoutState.VALIDATED}),
        ("cleared", {"state": PayoutState.CLEARED}),
        ("intent", intent),
        ("answer_lost", {"state": PayoutState.UNKNOWN, "ambiguous": True}),
        ("query_begun", {"inquiries": 1}),
        ("paid", paid),
    ]
    live.store(sample_row(payout_id, **source), steps)
    live.publish("PayoutResult", result_record(payout_id, version=7), 7)
    shown = live.data("show", payout_id)
    assert [moment["what"] for moment in shown["timeline"]] == [
        "PayoutRequest", "received", "validated", "cleared", "intent", "answer_lost", "query_begun", "paid",
        "PayoutResult",
    ]  # fmt: skip
    assert shown["complete"] is True
    assert shown["visa"]["systems_trace_audit_number"] == 100077
    assert shown["visa"]["transaction_identifier"] == "381228649430015"
    table = live.run("show", payout_id)
    for text in (json.dumps(shown), table.stdout + table.stderr):
        assert CARD not in text
        assert "Marchetti" not in text
        assert "eyJ" not in text
    assert "381228649430015" in table.stdout
    alone = live.data("show", payout_id, "--no-topics")
    assert [moment["source"] for moment in alone["timeline"]] == ["ledger"] * 7


def test_show_says_what_it_does_not_know(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent payout is an answer (1); topics that cannot be read make the answer partial (5)."""
    assert live.run("show", unique("nobody")).exit_code == ExitCode.FOUND
    payout_id = unique("alone")
    live.store(sample_row(payout_id))
    monkeypatch.setattr("ops.kafka.ADMIN_SECONDS", 0.5)
    away = live.run("show", payout_id, "--output", "json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert away.exit_code == ExitCode.PARTIAL
    assert json.loads(away.stdout)["complete"] is False


def test_the_mode_is_set_and_a_live_lease_is_reported(live: Live) -> None:
    """L9: the mode is set all the same, and the command says when calls begun before are still under way."""
    payout_id = unique("lease")
    row = live.store(sample_row(payout_id), [("cleared", {"state": PayoutState.CLEARED})])

    async def begin(ledger: PostgresLedger) -> object:
        after = replace(row, state=PayoutState.SUBMITTING, attempts=1)
        return await ledger.begin(Change(row, after, "intent", "worker-1"), "worker-1", 20.0)

    live.with_ledger(begin)
    live_lease = live.run("modes", "set", "halted", "--reason", "a drill", "--wait", "0.1")
    assert live_lease.exit_code == ExitCode.FOUND
    assert "still live" in live_lease.stderr
    shown = live.data("modes", "show")
    assert (shown["mode"], shown["operator"], shown["reason"]) == ("halted", "tester", "a drill")
    again = live.data("modes", "set", "normal", "--reason", "the drill is over", "--operator", "maria", "--yes")
    assert (again["mode"], again["operator"]) == ("normal", "maria")


def test_a_topic_that_ends_with_an_aborted_transaction_is_read_to_its_end(live: Live) -> None:
    """Markers and aborted records occupy offsets: an end that no record reaches is still an end."""
    producer = Producer(
        {"bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"], "transactional.id": unique("transaction")}
    )
    producer.init_transactions(30)
    topic = f"{live.prefix}payout_audit"
    for value, finish in ((b"kept", producer.commit_transaction), (b"gone", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)
        finish(30)
    assert [record.value() for record in everything(live, "payout_audit")] == [b"kept"]


def test_show_says_when_it_did_not_read_everything(live: Live) -> None:
    """A bounded scan is announced: nobody takes a part for the whole."""
    payout_id = unique("scan")
    live.store(sample_row(payout_id))
    for version in range(3):
        live.publish("PayoutResult", result_record(payout_id, version=version), version)
    part = live.run("show", payout_id, "--scan", "1", "--output", "json")
    assert part.exit_code == ExitCode.PARTIAL
    assert "only the first 1 records" in part.stderr
    assert json.loads(part.stdout)["complete"] is False


def test_lag_gives_no_number_where_nothing_is_committed(live: Live) -> None:
    """Requirements: never a made-up number; an unknown group is said to be unknown."""
    unknown = live.run("lag")
    assert unknown.exit_code == ExitCode.FOUND
    assert "no consumer group" in unknown.stderr
    topic = f"{live.prefix}payout_refusals"  # any record moves an end; the worker's own topics stay as they are
    requests = f"{live.prefix}payout_requests"
    before = len(everything(live, "payout_requests"))
    live.data("send", "-", stdin=lines(request_document(unique("lag"))))
    consumer = Consumer(
        {
            "bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": live.settings.group,
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.commit(offsets=[TopicPartition(requests, 0, 0)], asynchronous=False)
    finally:
        consumer.close()
    values = live.data("lag")
    rows = {(row["topic"], row["partition"]): row for row in values["partitions"]}
    assert (topic, 0) not in rows
    assert rows[requests, 0]["lag_records"] == rows[requests, 0]["end_offset"]
    assert rows[requests, 1]["committed_offset"] is None
    assert rows[requests, 1]["lag_records"] is None
    assert sum(rows[requests, number]["end_offset"] for number in range(3)) == before + 1
    assert (values["members"], values["lag_records"]) == (0, rows[requests, 0]["end_offset"])


def test_doctor_names_what_is_well_and_what_is_missing(live: Live) -> None:
    """One line a check; exit code 1 because the Visa files are not set."""
    findings = live.data("doctor", "--no-visa", code=ExitCode.FOUND)
    by_check: dict[str, list[str]] = {}
    for finding in findings:
        by_check.setdefault(finding["check"], []).append(finding["status"])
        assert finding["status"] == "ok" or finding["advice"], finding
    assert by_check["kafka"] == ["ok"]
    assert by_check["keys"] == ["ok"]
    assert by_check["policies"] == ["ok", "ok", "ok"], "corridors, watch list, review"
    assert by_check["postgresql"] == ["ok"]
    assert by_check["ledger"] == ["ok"]
    assert "fail" in by_check["settings"]
    assert "visa" not in by_check


@pytest.mark.parametrize(
    "words", [("topics", "list"), ("lag",), ("results",), ("send", "-")], ids=lambda words: " ".join(words)
)
def test_a_cluster_that_is_away_is_exit_code_6(
    live: Live, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Design 10: 6 is unreachable."""
    monkeypatch.setattr("ops.kafka.ADMIN_SECONDS", 0.5)
    stdin = lines(request_document(unique("away"))) if words[0] == "send" else None
    result = live.run(*words, stdin=stdin, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Traceback" not in result.stderr


def test_doctor_greets_visa_and_says_when_visa_refuses_us(live: Live) -> None:
    """No call that moves money: a greeting, with the certificate and the password of the settings."""
    visa = VisaStandIn()
    try:
        visa.start()
        variables: dict[str, Any] = dict(visa.environment())
        well = live.run("doctor", "--output", "json", **variables)
        assert well.exit_code == 0, well.stdout
        findings = {(finding["check"], finding["status"]) for finding in json.loads(well.stdout)}
        assert {("visa", "ok"), ("certificates", "ok"), ("settings", "ok")} <= findings
        password = "a-wrong-password"
        wrong = live.run("doctor", "--output", "json", **{**variables, "VISA_PASSWORD": password})
    finally:
        visa.stop()
    assert wrong.exit_code == ExitCode.FOUND
    (refusal,) = [finding for finding in json.loads(wrong.stdout) if finding["status"] == "fail"]
    assert refusal["check"] == "visa"
    assert "401" in refusal["detail"]
    assert password not in wrong.stdout + wrong.stderr


def test_schemas_are_pushed_once_and_requests_carry_the_registered_id(live: Live, registry_url: str) -> None:
    """Design 3: registration only by `payouts schemas push`; with a registry, ids are the registry's."""
    registry: dict[str, Any] = {"SCHEMA_REGISTRY_URL": registry_url}
    payout_id = unique("reg")
    early = live.run("send", "-", stdin=lines(request_document(payout_id)), **registry)
    assert early.exit_code == ExitCode.FOUND
    assert "payouts schemas push" in early.stderr
    assert live.run("schemas", "check", **registry).exit_code == ExitCode.FOUND
    planned = live.run("schemas", "push", "--dry-run", "--output", "json", **registry)
    assert (planned.exit_code, "not pushed" in {row["status"] for row in json.loads(planned.stdout)}) == (0, True)
    assert live.run("schemas", "check", **registry).exit_code == ExitCode.FOUND, "a dry run registers nothing"
    pushed = live.run("schemas", "push", "--output", "json", **registry)
    assert pushed.exit_code == 0, pushed.stderr
    (line,) = live.data("audit", "tail", "--action", "schemas_pushed")
    assert (line["actor"], f"{live.prefix}payout_requests-value" in line["detail"]) == ("tester", True)
    ids = {row["record"]: row["schema_id"] for row in json.loads(pushed.stdout)}
    again = live.run("schemas", "push", **registry)
    assert again.stderr.startswith("0 schema(s) registered")
    assert live.run("schemas", "check", **registry).exit_code == 0
    assert live.run("send", "-", stdin=lines(request_document(payout_id)), **registry).exit_code == 0
    (record,) = [r for r in everything(live, "payout_requests") if r.key() == payout_id.encode()]
    assert schema_id_of(record.value() or b"") == ids["PayoutRequest"] < 1_000_000
    shown = live.run("show", payout_id, "--output", "json", **registry)
    assert [moment["what"] for moment in json.loads(shown.stdout)["timeline"]] == ["PayoutRequest"]


def test_personal_data_in_topics_is_found_by_place_and_never_shown(live: Live) -> None:
    """S0-41, S1-11: in an event's field and in bytes that are no event; what is encrypted is no hit; 1 if anything."""

    def found() -> set[tuple[str, str]]:
        result = live.run("pii-scan", "--topics", "--output", "json")
        assert CARD not in result.stdout + result.stderr
        rows = json.loads(result.stdout)
        assert result.exit_code == (ExitCode.FOUND if rows else ExitCode.OK), result.stderr
        return {(row["kind"], row["place"]) for row in rows}

    before = found()
    sent = live.run("send", "-", stdin=lines(request_document(unique("sealed"))))
    assert sent.exit_code == ExitCode.OK, sent.stderr
    live.publish("PayoutResult", result_record(unique("clean")))
    assert found() == before
    live.publish("PayoutResult", result_record(unique("planted"), originator_id=f"shop {CARD}"))
    live.publish(
        "PayoutRetry", {"payout_id": unique("garbage")}, raw=f'{{"email": "user@example.com {CARD}"}}'.encode()
    )
    planted = {(kind, re.sub(r"\[\d+\]@\d+", "", place)) for kind, place in found() - before}
    results, retry = f"{live.prefix}payout_results", f"{live.prefix}payout_retry"
    assert planted == {
        ("CARD", f"{results} value.originator_id"), ("CARD", f"{retry} value"), ("EMAIL", f"{retry} value"),
    }  # fmt: skip
    only = live.run("pii-scan", "--topic", "payout_retry", "--kind", "EMAIL", "--since", "1h")
    assert only.exit_code == ExitCode.FOUND
    assert "payout_results" not in only.stdout
