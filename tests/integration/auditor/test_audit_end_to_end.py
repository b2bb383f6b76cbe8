"""The auditor on real Kafka, real PostgreSQL and a real stand-in: clean when clean, and every violation seen.

Every planted violation is an addition, so all of them share one scene: what counts is by how much each term grows.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sandbox.auditor.evidence import EvidenceIncomplete, Position
from sandbox.auditor.verdict import ZERO_TERMS, Verdict
from schemas.topics import topic_name
from tests.integration.auditor.audited_scene import (
    ACCOUNT,
    ANSWER_SECONDS,
    CARD,
    Scene,
    golden,
    stand_in_in_this_process,
)

pytestmark = pytest.mark.servers

COMMAND_SECONDS = 60.0


@pytest.fixture(scope="module")
def scene(
    kafka_bootstrap: str,
    postgres: Any,
    drop_database_later: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("audited")
    name = f"payouts_test_{uuid.uuid4().hex}"
    database_url = postgres.create_database(name)
    try:
        with stand_in_in_this_process(directory / "stand-in") as endpoint:
            made = Scene(kafka_bootstrap, database_url, endpoint, directory)
            made.clean_run()
            yield made
            made.close()
    finally:
        drop_database_later(name)


@pytest.fixture(scope="module")
def clean_verdict(scene: Scene) -> Verdict:
    """The verdict before anything is planted."""
    return scene.audit()


@pytest.fixture
def before(scene: Scene, clean_verdict: Verdict) -> Verdict:
    """The verdict before the test at hand plants anything."""
    del clean_verdict  # taken first, whichever test comes first
    for table in ("modes_copy", "intake_copy", "numbers_copy"):
        scene.execute(f"DROP TABLE IF EXISTS {table}")
    return scene.audit()


def test_clean_run_is_clean(clean_verdict: Verdict) -> None:
    """Design 10, on the real parts: the line, and nothing else to say."""
    assert clean_verdict.problems() == []
    assert clean_verdict.line() == (
        "verdict accepted=10 payouts=7 paid=1 declined=2 rejected=1 denied=1 expired=0 failed=0 cancelled=0 "
        "in_review=1 held=1 unknown=0 refused=1 dead_letters=1 lost=0 double=0 stuck=0 phantom=0 orphan=0 "
        "comp_double=0 leak=0 kills=0 freezes=0 broker_kills=0 db_kills=0 cuts=0 api_faults=0 seed=7"
    )


# One violation each, as it would really come about: what a run would have left behind.


def a_result_is_missing(scene: Scene) -> None:
    scene.row("lost-0001", scene.accept("lost-0001"), "FAILED")


def a_record_is_missing(scene: Scene) -> None:
    scene.accept("lost-0002")


def visa_paid_twice(scene: Scene) -> None:
    scene.paid("double-0001")
    scene.payment("double-0001")


def visa_paid_another_amount(scene: Scene) -> None:
    scene.row("double-0002", scene.accept("double-0002"), "PAID")
    scene.result("double-0002", "PAID")
    scene.payment("double-0002", amount="125.51")


def visa_paid_somebody_else(scene: Scene) -> None:
    scene.paid("double-0003", recipient="tok_approve_7")


def an_account_was_credited_twice(scene: Scene) -> None:
    """S3: a send has no duplicate key, so a second one is a second payment."""
    scene.paid_to_account("double-0004")
    scene.account_payment("double-0004", "VP-double-0004-again")


def an_account_was_credited_twice_and_once_in_vain(scene: Scene) -> None:
    """S3, S8: that one of the two came back makes it no single payment."""
    scene.paid_to_account("double-0005")
    scene.account_payment("double-0005", "VP-double-0005-again")
    scene.account_payment("double-0005", "VP-double-0005-again", "account_return")


def somebody_elses_account_was_credited(scene: Scene) -> None:
    scene.row("double-0006", scene.accept("double-0006"), "PAID")
    scene.result("double-0006", "PAID")
    scene.account_payment("double-0006", "VP-double-0006")


def an_account_was_never_credited(scene: Scene) -> None:
    scene.row("phantom-0002", scene.accept("phantom-0002", recipient=ACCOUNT), "PAID")
    scene.result("phantom-0002", "PAID")
    scene.account_payment("phantom-0002", "VP-phantom-0002", "account_return")


def an_account_was_credited_for_an_unpaid_payout(scene: Scene) -> None:
    scene.unpaid("orphan-0003", "DECLINED", recipient=ACCOUNT)
    scene.account_payment("orphan-0003", "VP-orphan-0003")


def an_account_was_credited_for_nobody(scene: Scene) -> None:
    scene.account_payment("never-accepted-either", "VP-never-accepted")


def it_came_back_before_anybody_called_it_paid(scene: Scene) -> None:
    """S8: then it is DECLINED, and nothing is wrong with it."""
    scene.unpaid("returned-0001", "DECLINED", recipient=ACCOUNT)
    scene.account_payment("returned-0001", "VP-returned-0001")
    scene.account_payment("returned-0001", "VP-returned-0001", "account_return")


def a_payout_does_not_end(scene: Scene) -> None:
    scene.row("stuck-0001", scene.accept("stuck-0001"), "PENDING")


def nobody_was_paid(scene: Scene) -> None:
    scene.row("phantom-0001", scene.accept("phantom-0001"), "PAID")
    scene.result("phantom-0001", "PAID")


def an_unpaid_payout_was_paid(scene: Scene) -> None:
    scene.unpaid("orphan-0001", "EXPIRED")
    scene.payment("orphan-0001")


def a_paid_payout_is_compensated(scene: Scene) -> None:
    scene.row("orphan-0002", scene.accept("orphan-0002"), "PAID", compensation="REQUIRED")
    scene.result("orphan-0002", "PAID")
    scene.payment("orphan-0002")
    scene.demand("orphan-0002", "ORIGINATOR")


def visa_paid_for_nobody(scene: Scene) -> None:
    scene.payment("never-accepted")


def a_pull_was_reversed_twice(scene: Scene) -> None:
    scene.handed_back_by_us("reversed-twice-0001", "361228649430016")
    scene.hand_back("361228649430016")


def a_pull_was_reversed_and_adjusted(scene: Scene) -> None:
    scene.handed_back_by_us("reversed-and-adjusted-0001", "361228649430032")
    scene.hand_back("361228649430032", "adjustment")


def both_parties_handed_back(scene: Scene) -> None:
    scene.handed_back_by_us("both-0001", "361228649430040")
    scene.confirmation("both-0001")


def operators_said_paid(scene: Scene) -> None:
    """S6: an operator's word makes nothing paid."""
    scene.row("resolved-0001", scene.accept("resolved-0001"), "PAID")
    scene.execute(
        "INSERT INTO history (payout_id, version, actor, transition, to_state) "
        "VALUES ($1, 1, 'op', 'resolved', 'PAID')",
        "resolved-0001",
    )
    scene.result("resolved-0001", "PAID")


def operators_took_it_back(scene: Scene) -> None:
    """L12: a resolution that was undone is no end, and nothing is wrong with it."""
    scene.row("undone-0001", scene.accept("undone-0001"), "UNKNOWN", held=True)
    scene.execute(
        "INSERT INTO history (payout_id, version, actor, transition, to_state) "
        "VALUES ($1, 99, 'op', 'resolution_undone', 'UNKNOWN')",
        "undone-0001",
    )
    scene.result("undone-0001", "PAID")


def the_originator_was_told_twice(scene: Scene) -> None:
    scene.released_by_originator("released-twice-0001")
    scene.compensated("released-twice-0001", "ORIGINATOR", version=3)


PLANTED: list[tuple[Callable[[Scene], None], dict[str, int]]] = [
    (a_result_is_missing, {"lost": 1}),
    (a_record_is_missing, {"lost": 1}),
    (visa_paid_twice, {"double": 1}),
    (visa_paid_another_amount, {"double": 1}),
    (visa_paid_somebody_else, {"double": 1}),
    (an_account_was_credited_twice, {"double": 1}),
    (an_account_was_credited_twice_and_once_in_vain, {"double": 1}),
    (somebody_elses_account_was_credited, {"double": 1}),
    (an_account_was_never_credited, {"phantom": 1}),
    (an_account_was_credited_for_an_unpaid_payout, {"orphan": 1}),
    (an_account_was_credited_for_nobody, {"orphan": 1}),
    (it_came_back_before_anybody_called_it_paid, {}),
    (a_payout_does_not_end, {"stuck": 1, "lost": 1}),
    (nobody_was_paid, {"phantom": 1}),
    (an_unpaid_payout_was_paid, {"orphan": 1}),
    (a_paid_payout_is_compensated, {"orphan": 1}),
    (visa_paid_for_nobody, {"orphan": 1}),
    (a_pull_was_reversed_twice, {"comp_double": 1}),
    (the_originator_was_told_twice, {"comp_double": 1}),
    (a_pull_was_reversed_and_adjusted, {"comp_double": 1}),
    (both_parties_handed_back, {"comp_double": 1}),
    (operators_said_paid, {"phantom": 1}),
    (operators_took_it_back, {}),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_violation_is_seen_and_counted_once(
    scene: Scene, before: Verdict, plant: Callable[[Scene], None], expected: dict[str, int]
) -> None:
    """Design 10: every zero is computed, and a test plants one violation of each and sees it."""
    plant(scene)
    assert growth(before, scene.audit()) == expected


def leak_into_a_key(scene: Scene) -> None:
    scene.produce(topic_name("payout_retry", scene.prefix), b"", CARD.encode(), [])


def leak_into_a_header(scene: Scene) -> None:
    headers = [("error", f"no such card {CARD[:4]} {CARD[4:8]} {CARD[8:12]} {CARD[12:]}".encode())]
    scene.produce(topic_name("payout_dead_letters", scene.prefix), b"", b"key", headers)


def leak_into_a_value(scene: Scene) -> None:
    record = golden("PayoutFailedRequiresCompensation.v1") | {"payout_id": "rejected-0001", "reason": f"card {CARD}"}
    record |= {"executor": "ORIGINATOR", "compensation_id": "comp-rejected-0001"}
    scene.event("PayoutFailedRequiresCompensation", record)


def leak_into_a_text_column(scene: Scene) -> None:
    scene.insert("modes_copy", {"reason": f"card {CARD[::-1]}", "data": b""})


def leak_into_a_binary_column(scene: Scene) -> None:
    scene.insert("intake_copy", {"reason": "", "data": b"\x00" + CARD.encode("utf-16-le") + b"\x00"})


def leak_into_a_json_column(scene: Scene) -> None:
    scene.execute(
        "INSERT INTO history (actor, transition, to_state, detail) VALUES ('t', 't', 't', $1)", f'{{"note": "{CARD}"}}'
    )


def leak_into_packed_bytes(scene: Scene) -> None:
    """An encoding inside a byte column, which the database prints in hexadecimal."""
    scene.insert("intake_copy", {"reason": "", "data": b"\xff\xfe" + base64.b64encode(b"pan " + CARD.encode())})


def leak_of_escapes_in_a_column(scene: Scene) -> None:
    """Backslashes, which the database's copy doubles."""
    scene.insert("modes_copy", {"reason": "".join(f"\\u{ord(digit):04x}" for digit in CARD), "data": b""})


def leak_of_a_stranger_after_a_line_break(scene: Scene) -> None:
    """A line break is a letter in a database's copy: the number stands alone all the same."""
    scene.insert("modes_copy", {"reason": "card:\n5555 5555 5555 4444\tis refused", "data": b""})


def leak_into_a_number_column(scene: Scene) -> None:
    scene.execute("CREATE TABLE IF NOT EXISTS numbers_copy (seen bigint)")
    scene.insert("numbers_copy", {"seen": int(CARD)})


def leak_into_a_foreign_record(scene: Scene) -> None:
    """Bytes that are no record of ours, in a topic that others write to."""
    topic = topic_name("payout_review_decisions", scene.prefix)
    scene.produce(topic, b"\x01" + CARD.encode("utf-16-be"), b"key", [])


def leak_into_a_compressed_record(scene: Scene) -> None:
    """What the broker keeps compressed is searched as it was written."""
    producer = Producer({"bootstrap.servers": scene.bootstrap_servers, "compression.type": "gzip", "log_level": 0})
    topic = topic_name("payout_compensation_confirmations", scene.prefix)
    producer.produce(topic, b"." * 10_000 + CARD.encode("utf-16-le") + b"." * 10_000, b"key")
    assert producer.flush(ANSWER_SECONDS) == 0


def leak_into_a_log(scene: Scene) -> None:
    (scene.logs / "worker.log").write_text(f'{{"message": "card {CARD.encode().hex()}"}}\n')


def leak_of_a_stranger(scene: Scene) -> None:
    """Not one of the run's own, but a card number by its form."""
    (scene.logs / "metrics.txt").write_text('payouts_total{recipient="5555555555554444"} 1.0\n')


def leak_at_the_stand_in(scene: Scene) -> None:
    (scene.stand_in_directory / "core").write_bytes(b"\x7fELF\x00" + CARD.encode())


LEAKS = [
    leak_into_a_key,
    leak_into_a_header,
    leak_into_a_value,
    leak_into_a_text_column,
    leak_into_a_binary_column,
    leak_into_a_json_column,
    leak_into_packed_bytes,
    leak_of_escapes_in_a_column,
    leak_of_a_stranger_after_a_line_break,
    leak_into_a_number_column,
    leak_into_a_foreign_record,
    leak_into_a_compressed_record,
    leak_into_a_log,
    leak_of_a_stranger,
    leak_at_the_stand_in,
]


@pytest.mark.parametrize("plant", LEAKS, ids=[plant.__name__ for plant in LEAKS])
def test_leak_is_seen_and_its_artefact_counted_once(
    scene: Scene, before: Verdict, plant: Callable[[Scene], None]
) -> None:
    """P6, design 10: topics by key, header and value, tables by every column, files of every kind."""
    for table in ("modes_copy", "intake_copy"):
        scene.execute(f"CREATE TABLE {table} (reason text, data bytea)")
    plant(scene)
    after = scene.audit()
    assert growth(before, after) == {"leak": 1}
    assert CARD not in "".join(after.problems())


def test_request_topic_and_input_files_are_excepted_where_named(scene: Scene, before: Verdict, tmp_path: Path) -> None:
    """Design 10: the request topic and input files of a test that plants a number are excepted."""
    record = golden("PayoutRequest.v1.aft-card") | {"payout_id": "rejected-0001", "metadata": {"note": f"card {CARD}"}}
    position = scene.accept_bytes(scene.codec.encode("PayoutRequest", record), "rejected-0001", record["amount"], CARD)
    scene.set_aside(position, "REFUSED", "rejected-0001")
    scene.refusal("rejected-0001", position)
    (tmp_path / "input.yaml").write_text(CARD)
    scan = [scene.directory, tmp_path]
    assert growth(before, scene.audit(scan=scan)) == {"leak": 2}
    excepted = {"excepted_topics": ["payout_requests"], "excepted_files": [tmp_path / "input.yaml"]}
    assert growth(before, scene.audit(scan=scan, **excepted)) == {}


def growth(before: Verdict, after: Verdict) -> dict[str, int]:
    """By how much each zero of the line grew."""
    grown = {term: after.count(term) - before.count(term) for term in ZERO_TERMS}
    return {term: number for term, number in grown.items() if number}


# The command, and what is no verdict at all.


def test_command_prints_line_and_problems_and_exits_1(scene: Scene, before: Verdict, tmp_path: Path) -> None:
    """stdout is the line, stderr the problems, 1 says that a check found something."""
    numbers = tmp_path / "numbers.txt"
    numbers.write_text(f"{CARD}\n")
    nobody = scene.accept("lost-by-the-command")
    report = tmp_path / "verdict.json"
    words = ["--card-numbers", str(numbers), "--scan", str(scene.logs), "--kills", "3", "--report", str(report)]
    done = run_command(scene, *words)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("verdict accepted=")
    assert f" lost={before.count('lost') + 1} " in done.stdout
    assert " kills=3 " in done.stdout
    assert "lost: payout lost-by-the-command has no result" in done.stderr
    assert "records in" in done.stderr
    assert json.loads(report.read_text("utf-8"))["line"] == done.stdout.strip()
    assert CARD not in done.stderr + done.stdout
    assert nobody.topic.startswith(scene.prefix)


def test_evidence_that_cannot_be_read_is_no_verdict(scene: Scene) -> None:
    """A zero that rests on nothing would be a lie: another prefix has no topics, so there is no line."""
    done = run_command(scene, "--topic-prefix", "of-nobody-")
    assert (done.returncode, done.stdout) == (6, "")
    assert "no verdict: topic of-nobody-payout_requests cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("away", "named"),
    [
        ({"bootstrap_servers": "127.0.0.1:1"}, "Kafka"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/none"}, "ledger"),
        ({"stand_in_admin_url": "http://127.0.0.1:1"}, "stand-in"),
    ],
)
def test_server_that_is_away_is_no_verdict(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, away: dict[str, str], named: str
) -> None:
    for module in ("collect", "topics"):
        monkeypatch.setattr(f"sandbox.auditor.{module}.CALL_SECONDS_MAX", 1.0)
    with pytest.raises(EvidenceIncomplete, match=named):
        scene.audit(**away)


def test_acknowledged_record_that_the_broker_does_not_hold_is_told(scene: Scene, before: Verdict) -> None:
    """P1: a broker that lost what it had acknowledged is seen, whatever became of the payout."""
    scene.note_accepted(Position(topic_name("payout_requests", scene.prefix), 1, 999_999), b"", None, None, None)
    after = scene.audit()
    assert after.count("evidence") == before.count("evidence") + 1
    assert "999999 was acknowledged, but the topic does not hold it" in "".join(after.problems())


def test_second_reader_finds_what_one_finds(scene: Scene, before: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large run is read by two processes: the same verdict, to the last sentence."""
    monkeypatch.setattr("sandbox.auditor.topics.PARALLEL_RECORDS_MIN", 1)
    after = scene.audit()
    assert after.line() == before.line()
    # Which of an artefact's places are told depends on the order of reading.
    assert told_without_places(after) == told_without_places(before)


def told_without_places(verdict: Verdict) -> set[tuple[str, str]]:
    return {(finding.term, finding.subject) for finding in verdict.findings}


def test_second_reader_that_is_killed_is_no_verdict(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the topics is no evidence."""
    monkeypatch.setattr("sandbox.auditor.topics.PARALLEL_RECORDS_MIN", 1)
    monkeypatch.setattr("sandbox.auditor.topics._help", os.abort)
    with pytest.raises(EvidenceIncomplete, match="second reader"):
        scene.audit()


def test_page_is_searched(scene: Scene, before: Verdict) -> None:
    """P6: a metrics page is an artefact; the stand-in's own page serves as one, with a planted number in it."""
    scene.payment("page-of-0001", response=json.dumps({"pan": CARD}), money_moved=0)
    pages = [f"{scene.endpoint.admin_url}/sandbox/ledger?limit=5000"]
    grown = growth(before, scene.audit(scan_urls=pages))
    assert grown["leak"] >= 1
    with pytest.raises(EvidenceIncomplete, match="is the worker up"):
        scene.audit(scan_urls=["http://127.0.0.1:1/metrics"])


def test_partition_that_says_nothing_is_no_verdict(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is down ends the audit in bounded time, with the partitions that it could not read."""
    monkeypatch.setattr("sandbox.auditor.topics.SILENCE_SECONDS_MAX", 0.0)
    monkeypatch.setattr("sandbox.auditor.topics.FETCH_SECONDS", 0.001)
    with pytest.raises(EvidenceIncomplete, match="no record for 0 s"):
        scene.audit()


def test_truncated_topic_is_told(scene: Scene, before: Verdict) -> None:
    """P1: a zero that rests on a topic of which the beginning is gone would be a lie."""
    topic = topic_name("payout_results", scene.prefix)
    client = AdminClient({"bootstrap.servers": scene.bootstrap_servers})
    for partition in (0, 1):
        for done in client.delete_records([TopicPartition(topic, partition, 1)]).values():
            done.result(ANSWER_SECONDS)
    after = scene.audit()
    assert after.count("evidence") == before.count("evidence") + 2
    assert f"{topic}-0 begins at offset 1: older records are gone" in "".join(after.problems())


def run_command(scene: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": scene.bootstrap_servers,
        "DATABASE_URL": scene.database_url,
    }
    command = [sys.executable, "-m", "sandbox.auditor", "--journal", str(scene.journal)]
    command += ["--stand-in", scene.endpoint.admin_url, "--topic-prefix", scene.prefix]
    command += ["--fingerprint-key", str(scene.stand_in_directory / "credentials" / "fingerprint.key")]
    return subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
