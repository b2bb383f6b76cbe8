"""Strangers' clients, stock confluent-kafka with the registry and its own serializers, against a running worker."""

from __future__ import annotations

import json
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sandbox.servers.registry import ApicurioRegistry
from schemas import catalog
from schemas.registry import push_schemas
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import REPOSITORY, Pipeline, new_id, one_event, until
from tests.node_projects import EXAMPLES as NODE_EXAMPLES
from tests.node_projects import INSTALL_SECONDS, installed

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

SCRIPT_SECONDS = 40.0
SCRIPTS = ("produce_request.py", "consume_results.py", "consume_compensations.py")
NODE_SCRIPTS = ("send_payout.mjs", "read_results.mjs", "read_compensations.mjs")
# The card that the README's card.json holds: one of the stand-in's, approved.
NODE_CARD = re.compile(r'`(\{"primary_account_number": .+?\})`')
# What a kafkajs program sends that does not know the registry: README, "When something is wrong".
WITHOUT_AVRO = """
import { Kafka, Partitioners, logLevel } from 'kafkajs'
const kafka = new Kafka({ brokers: process.env.KAFKA_BOOTSTRAP_SERVERS.split(','), logLevel: logLevel.WARN })
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
await producer.connect()
const topic = process.env.PAYOUTS_TOPIC_PREFIX + 'payout_requests'
const value = JSON.stringify({ payout_id: 'order-20009' })
const [place] = await producer.send({ topic, messages: [{ key: 'order-20009', value }] })
console.log(JSON.stringify({ topic, partition: place.partition, offset: Number(place.baseOffset) }))
await producer.disconnect()
"""


@pytest.fixture(scope="module")
def registered(make_pipeline: MakePipeline, registry_server: ApicurioRegistry) -> Pipeline:
    """Schemas registered by us, one partition of results so that their order is known, one worker."""
    pipeline = make_pipeline(registry_url=registry_server.url, payout_results=1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(push_schemas, registry_server.url, pipeline.prefix).result(30).ok
    pipeline.worker("registered").wait_until_assigned()
    return pipeline


def _run(pipeline: Pipeline, script: str, *arguments: str) -> list[dict[str, Any]]:
    """What a script prints, in an environment that knows nothing of our code."""
    return _printed(pipeline, [sys.executable, str(REPOSITORY / "examples" / script), *arguments], pipeline.directory)


def _run_node(pipeline: Pipeline, arguments: Sequence[str], standard_input: str | None = None) -> list[dict[str, Any]]:
    """The same of Node, in the folder of its examples, where their libraries are."""
    return _printed(pipeline, ["node", *arguments], NODE_EXAMPLES, standard_input)


def _printed(
    pipeline: Pipeline, command: Sequence[str], folder: Path, standard_input: str | None = None
) -> list[dict[str, Any]]:
    environment = pipeline.environment("stranger")
    del environment["PYTHONPATH"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        input=standard_input,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _commands_of_the_readme(
    folder: Path = REPOSITORY / "examples", prefix: str = "python examples/"
) -> list[list[str]]:
    """Script and arguments of each command that the README tells people to type."""
    lines = (folder / "README.md").read_text("utf-8").splitlines()
    return [shlex.split(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_imports_nothing_of_ours(script: str) -> None:
    """A stranger has no payout-streams installed: the example must not need it."""
    rooms = ("schemas", "processors", "ledger", "streams", "ops", "sandbox", "faust")
    lines = (REPOSITORY / "examples" / script).read_text("utf-8").splitlines()
    imported = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
    assert set(imported).isdisjoint(rooms)


@pytest.mark.parametrize("script", NODE_SCRIPTS)
def test_a_node_example_imports_nothing_of_ours(script: str) -> None:
    """Only Node's own modules and the three packages that its package.json names."""
    named = set(json.loads((NODE_EXAMPLES / "package.json").read_text("utf-8"))["dependencies"])
    assert named == {"kafkajs", "@kafkajs/confluent-schema-registry", "jose"}
    imported = re.findall(r"^import .+ from '(.+)'$", (NODE_EXAMPLES / script).read_text("utf-8"), re.MULTILINE)
    assert {name for name in imported if not name.startswith("node:")} <= named


@pytest.mark.timeout(INSTALL_SECONDS + 3 * SCRIPT_SECONDS)
def test_the_node_examples_explain_themselves() -> None:
    """Each runs as a script with --help, without a broker."""
    installed(NODE_EXAMPLES)
    for script in NODE_SCRIPTS:
        command = ["node", str(NODE_EXAMPLES / script), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=True)
        assert done.stdout.startswith(f"usage: {script}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_explains_itself(script: str) -> None:
    """Each runs as a script with --help, without a broker."""
    command = [sys.executable, str(REPOSITORY / "examples" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=True)
    assert done.stdout.startswith(f"usage: {script}")


def test_a_stranger_is_paid_and_told(registered: Pipeline) -> None:
    """P5, K3, C2: the README's commands: requests, a repeat, results without repeats, a compensation confirmed."""
    first, second, results_command, compensations_command = _commands_of_the_readme()
    paid, declined = first[1], second[1]
    [place] = _run(registered, *first)
    [written] = registered.events_of("payout_requests", paid)
    assert (place["partition"], place["offset"]) == (written.partition, written.offset)
    _, schema_id = struct.unpack(">BI", (written.value or b"")[:5])
    assert not catalog.is_pinned_range(schema_id), "the stranger's serializer takes the registry's id"
    registered.wait_row(paid, state="PAID")

    _run(registered, *first)
    answers = until("the repeated answer", lambda: _at_least(registered.events_of("payout_results", paid), 2))
    assert len({answer.event_id for answer in answers}) == 1

    _run(registered, *second)
    registered.wait_row(declined, state="DECLINED", compensation="REQUIRED")
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(_run, registered, *results_command)
        confirming = pool.submit(_run, registered, *compensations_command)
        results, compensations = reading.result(), confirming.result()
    shown = [(result["payout_id"], result["status"], result["compensation_required"]) for result in results]
    assert shown == [(paid, "PAID", False), (declined, "DECLINED", True)]
    assert results[0]["amount"] == {"amount_minor": 4200, "currency": "USD"}
    assert [(event["payout_id"], event["executor"]) for event in compensations] == [(declined, "ORIGINATOR")]

    row = registered.wait_row(declined, compensation="COMPENSATED")
    assert row["compensation_reference"] == f"released-debit-of-{declined}"
    assert one_event(registered.events_of("payout_compensation_results", declined))
    assert registered.approved_counts([paid, declined]) == {paid: 1, declined: 0}


@pytest.mark.timeout(INSTALL_SECONDS + 4 * SCRIPT_SECONDS)
def test_a_stranger_in_node_is_paid_and_told(registered: Pipeline) -> None:
    """P2, P5, K6, C2, E9: kafkajs, its registry client and jose, which nobody here wrote: the README's commands.

    Its two partitioners put one payout on two partitions: at the same time it is paid once, and after its end the
    repeat is answered again.
    """
    installed(NODE_EXAMPLES)
    *sends, results_command, compensations_command = _commands_of_the_readme(NODE_EXAMPLES, "node ")
    first, again, by_card, declined = ([word for word in send if word != "<card.json"] for send in sends)
    told = NODE_CARD.search((NODE_EXAMPLES / "README.md").read_text("utf-8"))
    assert told is not None
    by_card_too = [*by_card, "--partitioner", "default"]
    at_once = [first, by_card, by_card_too, declined, ["--input-type=module", "--eval", WITHOUT_AVRO]]
    with ThreadPoolExecutor(len(at_once)) as pool:
        jobs = [pool.submit(_run_node, registered, send, told[1]) for send in at_once]
        places = [place for job in jobs for place in job.result()]
    assert places[1]["partition"] != places[2]["partition"]
    paid_ids = [first[1], by_card[1]]
    registered.wait_all(paid_ids)
    registered.wait_row(declined[1], state="DECLINED", compensation="REQUIRED")

    assert again[1] == first[1]
    places += _run_node(registered, again)
    assert places[-1]["partition"] != places[0]["partition"], "the README's id is one that they put apart"
    answers = until("the repeated answer", lambda: _at_least(registered.events_of("payout_results", first[1]), 2))
    assert len({answer.event_id for answer in answers}) == 1
    written = {(seen.partition, seen.offset) for seen in registered.events("payout_requests")}
    assert {(place["partition"], place["offset"]) for place in places} <= written

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(_run_node, registered, _counted(registered, "payout_results", results_command))
        confirming = pool.submit(
            _run_node, registered, _counted(registered, "payout_failed_requires_compensation", compensations_command)
        )
        results, compensations = reading.result(), confirming.result()
    shown = {result["payout_id"]: (result["status"], result["amount"]["amount_minor"]) for result in results}
    assert len(shown) == len(results), "no repeats"
    wanted = {first[1]: ("PAID", 4200), by_card[1]: ("PAID", 2500), declined[1]: ("DECLINED", 2500)}
    assert wanted.items() <= shown.items()
    assert ("ORIGINATOR", declined[1]) in [(event["executor"], event["payout_id"]) for event in compensations]
    row = registered.wait_row(declined[1], compensation="COMPENSATED")
    assert row["compensation_reference"] == f"released-debit-of-{declined[1]}"

    repeats = "SELECT payout_id, count(*) FROM intake WHERE disposition = 'REPEAT' AND payout_id = ANY($1) GROUP BY 1"
    until("both repeats", lambda: len(registered.fetch(repeats, paid_ids)) == len(paid_ids))
    assert registered.approved_counts([*paid_ids, declined[1]]) == dict.fromkeys(paid_ids, 1) | {declined[1]: 0}

    name = "{topic}-{partition}-{offset}".format(**places[4])
    letters = until("the dead letter", lambda: registered.events_of("payout_dead_letters", name))
    assert {letter.headers["reason_code"] for letter in letters} == {b"NO_MAGIC_BYTE"}


def _counted(pipeline: Pipeline, topic: str, command: list[str]) -> list[str]:
    """The README's command, told of as many events as there are: its group reads from the beginning."""
    assert command[-2] == "--count"
    return [*command[:-1], str(len({seen.event_id for seen in pipeline.events(topic)}))]


def test_a_registry_that_is_away_stops_and_loses_nothing(
    registered: Pipeline, registry_server: ApicurioRegistry
) -> None:
    """P8, K5, L11: a worker that can read no schema cannot know its database either: it begins nothing, says what is

    away, and goes on when the registry does; no dead letter.
    """
    assert registered.workers[0].terminate() == 0
    letters = len(registered.events("payout_dead_letters"))
    registry_server.pause()
    try:
        worker = registered.worker("without-registry").wait_until_assigned()
        payout_id = new_id()
        partition, offset = registered.send(registered.request(payout_id))
        until("the pause", lambda: "schema registry" in worker.health().get("paused_for", ()))
        assert "ledger:NOT_LOOKED_AT" in worker.page()["paused_for"]
        assert registered.approved(payout_id) == []
        assert registered.committed("payout_requests", partition) <= offset
        assert registered.events_of("payout_validated", payout_id) == []
    finally:
        registry_server.resume()
    registered.wait_row(payout_id, state="PAID")
    until("the commit", lambda: registered.committed("payout_requests", partition) > offset)
    assert len(registered.events("payout_dead_letters")) == letters
    assert len(registered.approved(payout_id)) == 1


def _at_least(events: list[Any], count: int) -> list[Any]:
    return events if len(events) >= count else []
