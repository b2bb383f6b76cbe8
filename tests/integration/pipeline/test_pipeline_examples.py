"""Strangers' clients, stock confluent-kafka with the registry and its own serializers, against a running worker."""

from __future__ import annotations

import json
import shlex
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandbox.servers.registry import ApicurioRegistry
from schemas import catalog
from schemas.registry import push_schemas
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import REPOSITORY, Pipeline, new_id, until

pytestmark = pytest.mark.servers

SCRIPT_SECONDS = 40.0
SCRIPTS = ("produce_request.py", "consume_results.py", "consume_compensations.py")


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
    environment = pipeline.environment("stranger")
    del environment["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / script), *arguments],
        env=environment,
        cwd=pipeline.directory,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _commands_of_the_readme() -> list[list[str]]:
    """Script and arguments of each command that the README tells people to type."""
    lines = (REPOSITORY / "examples" / "README.md").read_text("utf-8").splitlines()
    prefix = "python examples/"
    return [shlex.split(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_imports_nothing_of_ours(script: str) -> None:
    """A stranger has no payout-streams installed: the example must not need it."""
    rooms = ("schemas", "processors", "ledger", "streams", "ops", "sandbox", "faust")
    lines = (REPOSITORY / "examples" / script).read_text("utf-8").splitlines()
    imported = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
    assert set(imported).isdisjoint(rooms)


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
    assert len(registered.events_of("payout_compensation_results", declined)) == 1
    assert registered.approved_counts([paid, declined]) == {paid: 1, declined: 0}


def test_a_registry_that_is_away_stops_and_loses_nothing(
    registered: Pipeline, registry_server: ApicurioRegistry
) -> None:
    """P8, K5, L11: a worker that can read no schema cannot know its database either: it begins nothing, says what is

    away, and goes on when the registry does; no dead letter.
    """
    assert registered.workers[0].terminate() == 0
    registry_server.pause()
    try:
        worker = registered.worker("without-registry").wait_until_assigned()
        payout_id = new_id()
        partition, offset = registered.send(registered.request(payout_id))
        until("the pause", lambda: "schema registry" in worker.health().get("paused_for", ()))
        assert "ledger:NOT_LOOKED_AT" in worker.health()["paused_for"]
        assert registered.approved(payout_id) == []
        assert registered.committed("payout_requests", partition) <= offset
        assert registered.events_of("payout_validated", payout_id) == []
    finally:
        registry_server.resume()
    registered.wait_row(payout_id, state="PAID")
    until("the commit", lambda: registered.committed("payout_requests", partition) > offset)
    assert registered.events("payout_dead_letters") == []
    assert len(registered.approved(payout_id)) == 1


def _at_least(events: list[Any], count: int) -> list[Any]:
    return events if len(events) >= count else []
