"""A whole system in which nobody is more than he needs: the owner migrates, a worker works, an operator operates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ops.exit_codes import ExitCode
from ops.main import app
from sandbox.servers.postgres import PostgresServer
from tests.integration.ledger.test_ledger_roles import Logins
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, assert_paid_once, new_id
from tests.integration.pipeline.test_pipeline_dropped_publish import FOR_REVIEW

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Owned:
    """Stands where a pipeline asks for a server: its database is there, and the owner of its tables makes them."""

    url: str

    def create_database(self, _name: str) -> str:
        return self.url


@pytest.fixture
def logins(postgres_server: PostgresServer) -> Iterator[Logins]:
    """A database, its roles, and a login of each."""
    made = Logins(postgres_server)
    try:
        asyncio.run(made.make())
        yield made
    finally:
        made.drop()


def test_each_login_has_the_rights_that_its_work_needs_and_no_other(
    make_pipeline: MakePipeline, logins: Logins
) -> None:
    """Issue 7: paid, declined and handed back, reviewed, held, halted, started again; no right was missing anywhere."""
    pipeline = make_pipeline(server=Owned(logins.url("owner")))
    as_worker = {"DATABASE_URL": logins.url("worker")}

    def payouts(*words: str, codes: tuple[ExitCode, ...] = (ExitCode.OK,)) -> Result:
        """A command of the operator's."""
        environment = pipeline.environment("command") | {"DATABASE_URL": logins.url("operator")}
        answer = CliRunner().invoke(app, [*words, "--output", "json"], env=environment | {"PAYOUTS_OPERATOR": "maria"})
        assert answer.exit_code in codes, f"{words}\n{answer.stderr}\n{answer.stdout}"
        assert "ermission denied" not in answer.stdout + answer.stderr
        return answer

    first = pipeline.worker("first", extra=as_worker).wait_until_assigned()
    paid, declined, reviewed, held = (new_id() for _ in range(4))
    pipeline.send(pipeline.request(paid))
    pipeline.send(pipeline.request(declined, "tok_decline_51"))
    pipeline.send(pipeline.request(reviewed, recipient=FOR_REVIEW))
    pipeline.wait_row(paid, state="PAID")
    pipeline.wait_row(declined, state="DECLINED", compensation="REQUIRED")
    pipeline.confirm_compensation(declined)
    case = pipeline.wait_row(reviewed, state="IN_REVIEW")["review_case_id"]

    why = ("--reason", "OPS-12: least privilege", "--yes")
    payouts("hold", reviewed, *why)
    payouts("release", reviewed, *why)
    payouts("review", "approve", case, "--reason-code", "FALSE_POSITIVE", "--reviewer", "jan", "--yes", "--wait", "60")
    pipeline.wait_row(reviewed, state="PAID")
    pipeline.wait_row(declined, compensation="COMPENSATED")
    pipeline.send(pipeline.request(held, recipient=FOR_REVIEW))
    pipeline.wait_row(held, state="IN_REVIEW")
    payouts("modes", "set", "halted", "--reason", "OPS-12")
    payouts("hold", held, *why)
    payouts("modes", "set", "normal", *why)
    _restarted(pipeline, first, as_worker)
    payouts("cancel", held, *why)
    later = new_id()
    pipeline.send(pipeline.request(later))
    pipeline.wait_row(later, state="PAID")
    pipeline.wait_row(held, state="CANCELLED")

    # Whatever they find: that they may look is what is asked here.
    looked = (ExitCode.OK, ExitCode.FOUND)
    assert json.loads(payouts("ledger", "status", codes=looked).stdout)["pending"] == []
    payouts("stuck", codes=looked)
    payouts("report", "daily")
    payouts("intake", "verify")
    payouts("audit", "tail", "--people")
    assert_paid_once(pipeline, [paid, reviewed, later])
    pipeline.workers[-1].terminate()
    for worker in pipeline.workers:
        log = worker.log()
        assert "InsufficientPrivilege" not in log
        assert "permission denied" not in log


def _restarted(pipeline: Pipeline, worker: Worker, extra: dict[str, Any]) -> None:
    """Drained, ended, and another one in its place."""
    assert worker.terminate() == 0
    pipeline.worker("second", extra=extra).wait_until_assigned()
