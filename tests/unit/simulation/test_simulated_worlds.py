"""Small simulated worlds: clean as they are, the same every time, and a judge that sees what is planted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.interface import Disposition, IntakeRecord
from processors.visa.identity import Operation
from sandbox.simulation.plan import Accident, draw
from sandbox.simulation.visa import Effect
from sandbox.simulation.world import World

REPOSITORY = Path(__file__).resolve().parents[3]
PAYOUTS = 40


def simulation(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """As anybody runs it: in processes of its own, where what killed workers leave behind disturbs nobody."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox.simulation", *arguments],
        cwd=REPOSITORY,
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_same_seed_is_the_same_world_to_the_last_line() -> None:
    """A seed that fails can be looked at again, on any machine."""
    once = simulation("--seed", "7", "--payouts", str(PAYOUTS), hash_seed="1")
    again = simulation("--seed", "7", "--payouts", str(PAYOUTS), hash_seed="2")
    assert once.returncode == again.returncode == 0, once.stderr
    assert once.stdout == again.stdout
    assert "worker-1 starts" in once.stdout


def test_misuse_is_told() -> None:
    """No world is run for a seed that cannot be one."""
    assert simulation("--seed", "-1").returncode == 2
    assert simulation("--seeds", "0").returncode == 2
    assert simulation("--with", "NOTHING_OF_THE_KIND").returncode == 2


@pytest.fixture
def world() -> World:
    """One that has come to rest, without accidents: nothing was killed, so nothing is left behind."""
    quiet = replace(draw(11, PAYOUTS), kinds=frozenset(), accidents=(), ends_at_seconds=60.0, workers=1)
    world = World(quiet)
    assert world.run().violations == ()
    return world


def paid(world: World) -> str:
    return next(row.payout_id for row in world.rows() if row.state == "PAID")


def terms(world: World) -> set[str]:
    """What the judge says of a world that was changed behind its back."""
    world.watch.violations.clear()
    return {violation.term for violation in world.watch.judge()}


def _paid_twice(world: World) -> None:
    effect = world.visa.pushes_of(paid(world))[-1]
    world.visa._book(replace(effect))


def test_a_second_oct_is_seen_when_it_happens(world: World) -> None:
    """P2."""
    _paid_twice(world)
    assert [violation.term for violation in world.watch.violations] == ["double"]


def test_an_oct_of_another_amount_is_seen(world: World) -> None:
    """P2: the amount that was asked for, exactly."""
    payout_id = paid(world)
    del world.visa.by_payout[payout_id]
    world.visa._book(Effect(Operation.PUSH_FUNDS, payout_id, (1, "1"), 1, "USD", 1.0, "00"))
    assert [violation.term for violation in world.watch.violations] == ["double"]


def test_a_commit_past_a_record_that_the_ledger_does_not_know_is_seen(world: World) -> None:
    """K1: the same that a restart would lose, seen without one."""
    stored = world.broker.append("payout_requests", b"late", b"late")
    world.watch.committed((stored.topic, stored.partition), 0, stored.offset)
    assert not world.watch.violations
    world.watch.committed((stored.topic, stored.partition), 0, stored.offset + 1)
    assert "K1" in world.watch.violations[0].what


def test_a_send_without_a_lease_is_seen(world: World) -> None:
    """L3."""
    world.watch.bytes_left(world.workers[0], Operation.TRANSACTION_QUERY, paid(world))
    assert "L3" in world.watch.violations[0].what


def _forget_row(world: World) -> None:
    del world.ledger._stored[paid(world)]


def _forget_result(world: World) -> None:
    for records in (world.broker.topics["payout_results", number] for number in range(world.broker.partitions_of)):
        records[:] = [record for record in records if record.key != paid(world).encode()]


def _forget_effect(world: World) -> None:
    del world.visa.by_payout[paid(world)]


def _never_end(world: World) -> None:
    _change(world, state="UNKNOWN")


def _end_unpaid(world: World) -> None:
    _change(world, state="DECLINED")


def _hand_back(world: World) -> None:
    world.watch.handed_back(paid(world))


def _say_a_card_number(world: World) -> None:
    _change(world, reason="not accepted: 4957030420210462")


def _account_wrongly(world: World) -> None:
    record = IntakeRecord("payout_requests", 0, 10_000, Disposition.REFUSED, paid(world), "TEST")
    world.run_now(world.ledger.record_intake(record))


def _change(world: World, **changes: object) -> None:
    stored = world.ledger._stored[paid(world)]
    stored.row = replace(stored.row, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plant", "term"),
    [
        (_forget_row, "lost"),
        (_forget_result, "lost"),
        (_account_wrongly, "lost"),
        (_forget_effect, "phantom"),
        (_never_end, "stuck"),
        (_end_unpaid, "orphan"),
        (_hand_back, "orphan"),
        (_say_a_card_number, "leak"),
    ],
)
def test_what_is_planted_is_seen(world: World, plant: Callable[[World], None], term: str) -> None:
    """P1–P6: one violation of each term, planted in a clean world."""
    plant(world)
    assert term in terms(world)


def test_a_seed_is_drawn_the_same_way_whatever_is_asked_for_besides() -> None:
    """`--with` adds trouble; what was there stays."""
    plain, more = draw(5, 10), draw(5, 10, always=frozenset({Accident.MODES}))
    assert plain.kinds <= more.kinds
    assert plain.arrivals_seconds == more.arrivals_seconds
