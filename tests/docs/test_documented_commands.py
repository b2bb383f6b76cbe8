"""Every command of README.md and RUNBOOK.md, in their order, against one running system."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.metrics_document import worker_metrics
from sandbox.samples.sample_file import planted_card_numbers
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer
from tests.docs.documents import Command, commands, functions, named_tests
from tests.docs.running_system import PARTITIONS, Answer, RunningSystem, missing_programs, running_system
from tests.promtool import NEEDS_PROMTOOL, what_promtool_says

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

DOCUMENTED = [command for document in ("README.md", "RUNBOOK.md") for command in commands(document)]
# The demo and the tests are run by others; here their targets are checked (test_documents.py).
EXECUTED = [c for c in DOCUMENTED if c.not_executed is None and not c.text.startswith("make ")]
NOT_HERE_AT_ALL = {"needs compose", "needs Alertmanager", "needs a Kubernetes cluster"}
MAY_STAY_UNEXECUTED = NOT_HERE_AT_ALL | {"needs a registry", "starts servers of its own"}
REVIEW_SECONDS_MAX = 30.0


@pytest.fixture(scope="module")
def system(
    kafka_server: KafkaCluster, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningSystem]:
    """One worker, a paid payout, one held, two in review, one that waits for its originator, a dead letter."""
    assert missing_programs() == [], "the documents' commands need these programs: install them"
    with running_system(kafka_server, postgres_server, tmp_path_factory.mktemp("documents")) as running:
        yield running


@pytest.mark.parametrize("command", EXECUTED, ids=str)
def test_a_documented_command_does_what_it_says(system: RunningSystem, command: Command) -> None:
    """It ends with a documented code, prints JSON where it says so, and no secret or card number anywhere (P6)."""
    answer = system.run(command)
    assert answer.exit_code in _exits(command), f"{command}\n{answer.stdout[-1500:]}\n{answer.stderr[-1500:]}"
    _really_did_it(command, answer)
    if "--output json" in command.text:
        assert isinstance(_json(answer.stdout), list | dict)
    said = answer.stdout + answer.stderr
    assert "Traceback" not in said
    for secret in (system.environment["VISA_PASSWORD"], *planted_card_numbers()):
        assert secret not in said


def _exits(command: Command) -> tuple[int, ...]:
    """A block's codes are those of our commands; psql, curl and Kafka's tools say by theirs that they have failed."""
    return command.exits if command.text.startswith("payouts ") else (0,)


def _really_did_it(command: Command, answer: Answer) -> None:
    """Kafka's tools end with 0 when they refuse, and psql when it finds nothing."""
    said = answer.stdout + answer.stderr
    if command.text.startswith("kafka-"):
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
    if "--reset-offsets" in command.text:
        lines = [line.split() for line in answer.stdout.splitlines() if "payout_requests" in line]
        assert len(lines) == PARTITIONS, said
        assert {line[-1] for line in lines} == {"0"}, said
    if "FROM history" in command.text or "FROM seals" in command.text:
        assert not re.search(r"\(0 \S+\)", said), f"no line of the history is what the runbook looks for: {command}"


def _steps(system: RunningSystem, sample: str) -> list[tuple[str, str]]:
    """What was done to a payout, and by whom, in order."""
    history = system.fetch(
        "SELECT transition, actor FROM history WHERE payout_id = $1 ORDER BY version", system.row(sample)["payout_id"]
    )
    return [(entry["transition"], entry["actor"]) for entry in history]


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]  # events: one object a line


def test_the_commands_are_a_program_of_their_own(system: RunningSystem) -> None:
    """Ours are executed in this process above, to save two seconds each; here as an operator's shell does it."""
    answer = system.shell("payouts modes show --output json | grep normal", "RUNBOOK.md")
    assert answer.exit_code == 0, answer


def test_what_the_commands_decided_has_happened(system: RunningSystem) -> None:
    """R1, L9, L12, S6: the approved case is paid, the rejected one denied, the withdrawn one cancelled, the resolution

    made by two people and taken back, and the mode is normal at the end of the book.
    """
    deadline = time.monotonic() + REVIEW_SECONDS_MAX
    wanted = {"watch-list-approved": "PAID", "watch-list-rejected": "DENIED", "watch-list-withdrawn": "CANCELLED"}
    wanted["partial-approval-held"] = "UNKNOWN"
    while (found := {name: system.row(name)["state"] for name in wanted}) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert system.fetch("SELECT mode FROM modes") == [{"mode": "normal"}]
    assert system.row("declined-aft-reversed")["compensation"] == "COMPENSATED"
    assert _steps(system, "declined-aft-reversed")[-2:] == [
        ("hand_back_proposed", "maria"),
        ("hand_back_agreed", "jan"),
    ]
    assert _steps(system, "watch-list-withdrawn")[-3:] == [
        ("held", "maria"), ("released", "maria"), ("cancelled", "maria"),
    ]  # fmt: skip
    assert _steps(system, "partial-approval-held")[-3:] == [
        ("resolution_proposed", "maria"), ("resolved_paid", "jan"), ("resolution_undone", "jan"),
    ]  # fmt: skip


def test_e6_a_live_worker_shows_the_documented_metrics(system: RunningSystem) -> None:
    """E6: every documented metric is in a live worker's exposition and no other; readiness is what its page says."""
    page = f"http://127.0.0.1:{system.environment['PAYOUTS_HTTP_PORT']}"
    scraped = httpx.get(f"{page}/metrics", timeout=30).text
    families = {family.name: family for family in text_string_to_metric_families(scraped)}
    documented = {one.name.removesuffix("_total"): one for one in worker_metrics()}
    assert set(families) == set(documented)
    for name, family in families.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} <= set(documented[name].labels), sample
    assert families["payouts_ready"].samples[0].value == (httpx.get(f"{page}/health/critical").status_code == 200)
    assert families["payouts_by_status"].samples, "the ledger was counted"
    assert sum(sample.value for sample in families["payouts_rebalances"].samples) >= 1, "Faust's sensor is asked"
    assert families["worker_assigned_partitions"].samples
    detail = httpx.get(f"{page}/health/detailed").json()
    assert detail["policies"]["corridors"], "S0-39: the page says what the worker decides by"
    assert set(detail["database"]["poolStats"]) == {"size", "idle", "in_use", "max"}


@NEEDS_PROMTOOL
def test_e6_promtool_finds_nothing_to_say_of_what_is_scraped(system: RunningSystem) -> None:
    """4.2: a live worker's metrics, and the exporter's that the runbook has started."""
    ports = [system.environment["PAYOUTS_HTTP_PORT"]]
    ports += [system.environment["PAYOUTS_LAG_PORT"] for one in system.exporters if one.poll() is None]
    for port in ports:
        assert what_promtool_says(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).content) == ""


def test_what_is_not_executed_is_named() -> None:
    """Nobody gets a command past this test by marking it: what needs no cluster or Docker, another test executes."""
    unexecuted = [command for command in DOCUMENTED if command.not_executed]
    for command in unexecuted:
        reason, _, where = str(command.not_executed).partition(", executed ")
        assert reason in MAY_STAY_UNEXECUTED, command
        elsewhere = named_tests(where)
        assert elsewhere or reason in NOT_HERE_AT_ALL or "curl" in command.text, command
        assert all(name in functions(path) for path, name in elsewhere), command
    assert len(unexecuted) * 8 < len(DOCUMENTED)
