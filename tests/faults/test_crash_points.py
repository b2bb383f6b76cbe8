"""The crash-point sweep, in part, as it is run whole by `make sweep`; and that a worker in the wrong order fails it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.servers.kafka import ForeignKafka, KafkaCluster
from sandbox.servers.postgres import ForeignPostgres, PostgresServer
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.sweep.points import BOUNDARIES, boundary_of
from sandbox.sweep.sweep import Options, Report, Sweep

pytestmark = pytest.mark.servers

EVERY = 22
"""Of each life, beginning with another point each: some twenty points, in about half a minute."""
SeeSweep = Callable[[Options], Report]


@pytest.fixture
def see_sweep(
    tmp_path: Path,
    kafka: KafkaCluster | ForeignKafka,
    postgres: PostgresServer | ForeignPostgres,
    own_visa: VisaStandIn,
) -> SeeSweep:
    """Carries out a sweep on the session's servers and a stand-in of its own."""

    def carry_out(options: Options) -> Report:
        said: list[str] = []
        sweep = Sweep(
            options,
            tmp_path,
            bootstrap_servers=kafka.bootstrap_servers,
            postgres=postgres,
            visa=own_visa,
            say=said.append,
        )
        with sweep:
            return sweep.carry_out()

    return carry_out


@pytest.mark.timeout(300)
def test_a_worker_killed_at_any_point_loses_nothing_and_pays_once(see_sweep: SeeSweep) -> None:
    """K1, K2, L3, S2, S3, P1, P2, P4: every n-th point of every life; the list of all is `make sweep`."""
    report = see_sweep(Options(every=EVERY))
    failed = [outcome.line() for outcome in report.outcomes if not outcome.ok]
    assert failed == []
    assert report.findings == []
    assert report.clean
    for life, points in report.points.items():
        assert {boundary_of(point) for point in points} == set(BOUNDARIES), life
    assert f" kills={len(report.outcomes)} " in report.verdict
    assert report.line().endswith("failed=0 coverage=100%")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("order", "point", "sentence"),
    [
        ("ack_first", "ledger.insert received before", "no row"),
        ("marks_first", "publish payout_results before", "result: none"),
    ],
)
def test_a_worker_in_the_wrong_order_fails_the_sweep(
    see_sweep: SeeSweep, order: str, point: str, sentence: str
) -> None:
    """K1, K2: acknowledged before the ledger has it, marked before the broker has it: the point says so."""
    report = see_sweep(Options(lives=("first_try",), containing=point, lanes=1, end_seconds=20.0, broken_order=order))
    (outcome,) = report.outcomes
    assert outcome.killed
    assert not outcome.ok
    assert any(sentence in problem for problem in outcome.problems), outcome.line()
    assert any(finding.startswith("lost: ") for finding in report.findings), report.findings
    assert report.line() == "sweep points=1 killed=1 ok=0 failed=1 coverage=100%"
