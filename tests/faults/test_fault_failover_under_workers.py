"""The primary dies under running workers, behind a synchronous standby that had stalled: L4, L11, K5, P1, P2.

Commits wait for the standby for as long as a write may take, so workers know of none what became of it; whatever only
the primary had is gone when the standby takes over. It ends no worker: `DATABASE_URL` names both hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox.servers.postgres import PostgresServer, PostgresStandby, fetch_value
from sandbox.servers.visa_stand_in import VisaStandIn
from streams.bootstrap import EXIT_CODE_UNCONFIRMED
from tests.faults.audited_pipeline import Audited
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'payouts %'"
MAY_BE_PAID = "SELECT payout_id FROM payouts WHERE state IN ('SUBMITTING', 'UNKNOWN', 'PENDING')"
CALLING_MIN = 5
"""With fewer calls under way the test would show little; a busy machine has few at any one moment."""


@dataclass(frozen=True)
class Pair:
    """A primary and its synchronous standby, as one server."""

    primary: PostgresServer
    standby: PostgresStandby

    def create_database(self, name: str) -> str:
        """An address that names both hosts."""
        self.primary.create_database(name)
        return self.standby.shared_url(name)

    def fail_over(self) -> None:
        """Kill both at once; the standby takes over with what it has on disk, not what is in its sockets."""
        self.primary.kill()
        self.standby.kill()
        self.standby.restart()
        self.standby.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    primary = PostgresServer()
    try:
        primary.start()
        standby = PostgresStandby(primary)
        try:
            standby.start()
            yield Pair(primary, standby)
        finally:
            standby.stop()
    finally:
        primary.stop()


def test_the_primary_dies_behind_a_stalled_standby(
    pair: Pair, own_visa: VisaStandIn, make_pipeline: MakePipeline
) -> None:
    """L4, K5, P1, P2, P3: calls under way, intents and outcomes in doubt; the same two processes go on."""
    pipeline = make_pipeline(pair, own_visa=own_visa)
    audited = Audited(pipeline)
    audited.start("first", "second")
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": 0.7})
    payout_ids = audited.send(200)
    until("the load is under way", lambda: sum(pipeline.approved_counts(payout_ids).values()) > 20)
    calling = until("calls are under way", lambda: _more_than(CALLING_MIN, pipeline.fetch(MAY_BE_PAID)))
    # Not later: a commit whose wait for the standby was cut short by a time-out can be seen, and is not kept (L4).
    confirmed = {row["payout_id"]: row["version"] for row in pipeline.fetch("SELECT payout_id, version FROM payouts")}
    pair.standby.pause()
    primary_url = pair.primary.url_for("postgres")
    until("commits wait for the standby", lambda: fetch_value(primary_url, WAITING))
    payout_ids += audited.send(20)
    until("both workers pause", lambda: all(_waits_for_database(worker.health()) for worker in audited.workers))
    in_doubt = fetch_value(primary_url, WAITING)
    before = pipeline.approved_counts(payout_ids)
    pair.fail_over()
    kept = {row["payout_id"]: row["version"] for row in pipeline.fetch("SELECT payout_id, version FROM payouts")}
    assert in_doubt
    assert all(kept.get(payout_id, 0) >= version for payout_id, version in confirmed.items()), "L4: seen and gone"
    pipeline.visa_faults()
    payout_ids += audited.send(20)
    audited.until_paid(payout_ids, 90.0)
    audited.assert_clean(len(payout_ids))
    assert any(before[row["payout_id"]] for row in calling), "no effect whose outcome was in doubt"
    # A publish that stays unconfirmed may end a worker (K5); a commit may not.
    assert set(pipeline.exit_codes) <= {EXIT_CODE_UNCONFIRMED}, "nobody had to start a worker again for the database"


def _waits_for_database(health: dict[str, object]) -> bool:
    return "database" in str(health.get("paused_for", ""))


def _more_than(count: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return rows if len(rows) > count else None
