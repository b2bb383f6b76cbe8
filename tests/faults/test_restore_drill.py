"""Both servers are lost under load and put back into empty ones, in order; `make drill` destroys larger ones for good.

To see it fail: let `ops.adopt` publish before it holds what is in doubt, let the ledger insert a request that is sent
again by the broker's time alone, or run `python -m sandbox.drill --break sent-as-new`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ops.main import app
from sandbox.auditor.verdict import ZERO_TERMS
from sandbox.drill import Drill, Options, Said, Servers
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer
from sandbox.servers.visa_stand_in import VisaStandIn

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]  # the drill has its own, which say what was late

BEFORE, DURING, AFTER, FRESH = 25, 12, 16, 4
WRONG_ORDERS = {
    "topics before the ledger": 3,
    "offsets before the ledger": 3,
    "adopting nothing": 6,
    "offsets before the topics": 3,
    "a ledger over the ledger": 3,
    "topics over topics": 3,
    "offsets under a worker": 4,
    "a worker before adopting": 0,
}
"""What was tried, and the command's exit code; the worker does not end, it waits."""


def in_this_process(environment: Mapping[str, str], words: Sequence[str]) -> Said:
    """A command here, to save a second each."""
    result = CliRunner().invoke(app, list(words), env=environment)
    return result.exit_code, result.stdout, result.stderr


def test_every_server_is_lost_and_nothing_is_paid_twice(
    kafka_bootstrap: str,
    database_url: str,
    topic_prefix: str,
    own_kafka: KafkaCluster,
    own_postgres: PostgresServer,
    own_visa: VisaStandIn,
    tmp_path: Path,
) -> None:
    """Issue 7, S2-16, S3-31, S4-32, L11, P1, P2, P4: by the stand-in's own ledger, over both lives."""
    empty = Servers(own_kafka.bootstrap_servers, own_postgres.url)
    options = Options(before=BEFORE, during=DURING, after=AFTER, fresh=FRESH, rate=12.0, workers=1)
    first = Servers(kafka_bootstrap, database_url)
    drill = Drill(options, first, lambda: empty, own_visa, tmp_path, topic_prefix=topic_prefix, command=in_this_process)
    outcome = drill.carry_out()
    said = (*outcome.lines(), *outcome.problems)
    assert outcome.problems == [], said
    assert {refusal.what: refusal.code for refusal in outcome.refusals} == WRONG_ORDERS, said
    verdict = outcome.verdict
    assert verdict is not None
    assert {term: verdict.count(term) for term in ZERO_TERMS} == dict.fromkeys(ZERO_TERMS, 0), said
    assert verdict.clean, said
    assert verdict.counts["payouts"] >= BEFORE + AFTER + FRESH, said
    assert outcome.facts["sent_again"] > 0, "the backup was older than what happened"
    assert outcome.facts["resolved_paid"] + outcome.facts["released"] > 0, "and people had to find out"
