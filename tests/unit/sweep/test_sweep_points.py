"""The sweep's own judgement: what counts as a point, as hit, and as ended well (K1, P1, P2, P4)."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from sandbox.sweep.channel import Channel
from sandbox.sweep.judge import Seen, wrong
from sandbox.sweep.lives import LIVES, UNSURE_REVERSAL
from sandbox.sweep.points import AFTER, BEFORE, FIRST_WRITE, Trap, chosen
from sandbox.sweep.sweep import Outcome, Report

ROW: dict[str, Any] = {
    "state": "PAID",
    "compensation": "NONE",
    "held": False,
    "announced_version": 6,
    "announce_version": 6,
}
PAID = Seen(pushes=("25.00",), results=(("id-1", "PAID"), ("id-1", "PAID")), row=ROW)
REVERSED = Seen(
    hand_backs=("reverse",),
    results=(("id-1", "DECLINED"),),
    demands=(("id-2", "PROCESSOR"),),
    compensation_ends=(("id-3", "COMPENSATED"),),
    row=ROW | {"state": "DECLINED", "compensation": "COMPENSATED"},
)


class Sprung(Exception):
    """In place of SIGKILL."""


def trap(passed: list[str]) -> Trap:
    def spring(point: str) -> None:
        raise Sprung(point)

    return Trap(passed.append, spring)


def test_points_are_counted_from_the_payouts_first_write() -> None:
    """An idle worker's sweeps are nobody's points; the same place again is another point."""
    passed: list[str] = []
    armed = trap(passed)
    armed.passing(FIRST_WRITE, BEFORE)
    armed.arm(None)
    armed.passing("ledger.due", BEFORE)
    armed.passing(FIRST_WRITE, BEFORE)
    for _ in range(3):
        armed.passing("ledger.due", BEFORE, once=True)
    armed.passing("ack payout_retry", AFTER)
    armed.passing("ack payout_retry", AFTER)
    numbered = ["ledger.due before #1", "ack payout_retry after #1", "ack payout_retry after #2"]
    assert passed == [f"{FIRST_WRITE} before #1", *numbered]
    armed.arm(None)
    armed.passing(FIRST_WRITE, BEFORE)
    assert passed[-1] == f"{FIRST_WRITE} before #1", "counted anew for the next payout"


def test_the_trap_springs_at_its_point_and_nowhere_else() -> None:
    """It tells the point first: who is killed can tell nothing more."""
    passed: list[str] = []
    armed = trap(passed)
    armed.arm("ack payout_retry before #2")
    armed.passing(FIRST_WRITE, BEFORE)
    armed.passing("ack payout_retry", BEFORE)
    with pytest.raises(Sprung, match="ack payout_retry before #2"):
        armed.passing("ack payout_retry", BEFORE)
    assert passed[-1] == "ack payout_retry before #2"


def test_what_ended_well_is_well() -> None:
    """Repeats of the same event are no second result (design: what is not promised)."""
    assert wrong(LIVES["first_try"], PAID, "25.00") == []
    assert wrong(LIVES["compensation"], REVERSED, "25.00") == []


def test_a_reversal_that_nobody_can_prove_is_a_persons() -> None:
    """S3, C4: killed between intent and first byte, it is MANUAL and not reversed; anything else would be a guess."""
    manual = replace(
        REVERSED, hand_backs=(), compensation_ends=(("id-3", "MANUAL"),), row=REVERSED.row | {"compensation": "MANUAL"}
    )
    life = LIVES["compensation"]
    assert [wrong(life, manual, "25.00", point) for point in UNSURE_REVERSAL] == [[], []]
    assert wrong(life, manual, "25.00", "http.send REVERSE after #1") != []
    assert wrong(life, REVERSED, "25.00", UNSURE_REVERSAL[0]) != []


@pytest.mark.parametrize(
    ("life", "seen", "sentence"),
    [
        ("first_try", replace(PAID, pushes=("25.00", "25.00")), "pushes that moved money"),
        ("first_try", replace(PAID, pushes=()), "pushes that moved money"),
        ("first_try", replace(PAID, pushes=("26.00",)), "pushes that moved money"),
        ("first_try", replace(PAID, results=()), "result: none"),
        ("first_try", replace(PAID, results=(("1", "PAID"), ("2", "PAID"))), "result: "),
        ("first_try", replace(PAID, results=(("1", "FAILED"),)), "result: "),
        ("first_try", replace(PAID, demands=(("1", "ORIGINATOR"),)), "a demand for compensation"),
        ("first_try", replace(PAID, hand_backs=("reverse",)), "hand-backs"),
        ("first_try", replace(PAID, set_aside=("payout_dead_letters",)), "set aside"),
        ("first_try", replace(PAID, behind=("payout_retry",)), "not committed"),
        ("first_try", replace(PAID, row={}), "no row"),
        ("first_try", replace(PAID, row=ROW | {"announced_version": 5}), "announced"),
        ("first_try", replace(PAID, row=ROW | {"held": True}), "held"),
        ("compensation", replace(REVERSED, hand_backs=("reverse", "reverse")), "hand-backs"),
        ("compensation", replace(REVERSED, pushes=("25.00",)), "pushes that moved money"),
        ("compensation", replace(REVERSED, demands=(("2", "ORIGINATOR"),)), "demand"),
        ("compensation", replace(REVERSED, compensation_ends=()), "compensation result"),
        ("confirmation", REVERSED, "hand-backs"),
    ],
)
def test_each_thing_that_is_wrong_is_seen(life: str, seen: Seen, sentence: str) -> None:
    """P1, P2, P4: by the stand-in's ledger and the topics first, then by the row."""
    found = wrong(LIVES[life], seen, "25.00")
    assert any(sentence in problem for problem in found), found


def test_a_point_that_was_never_hit_fails_the_sweep() -> None:
    """Nothing is dropped: what timing did not let happen is a failure with its reason."""
    good = Outcome("retry", "ack payout_retry after #1", True, "PAID/NONE", (), 1, 9.0, 1)
    missed = Outcome("retry", "ack payout_retry after #2", False, "PAID/NONE", (), 4, 9.0, 0)
    lost = Outcome("retry", "publish payout_results before #1", True, "PAID/NONE", ("result: none",), 1, 90.0, 1)
    assert Report([good]).clean
    report = Report([good, missed, lost])
    assert not report.clean
    assert report.line() == "sweep points=3 killed=2 ok=1 failed=2 coverage=66%"
    assert missed.line().endswith("FAILED never hit")
    assert lost.line().endswith("FAILED result: none")
    assert not Report([]).clean, "a sweep of nothing proves nothing"
    assert not Report([good], findings=["double: two"]).clean


def test_every_nth_point_is_chosen_of_those_that_contain_the_text() -> None:
    """`--every` and `--containing` together."""
    points = ["publish a before #1", "ack a before #1", "publish b before #1", "publish c before #1"]
    assert chosen(points, 2, "publish") == ["publish a before #1", "publish c before #1"]
    assert chosen(points, 2, "publish", first=3) == ["publish b before #1"]
    assert chosen(points, 1, "", first=3) == points


def test_what_a_dead_process_had_said_is_still_heard() -> None:
    """The hit is told before the kill, so the sweep knows of it."""
    ours, theirs = socket.socketpair()
    listening, speaking = Channel(ours), Channel(theirs)
    speaking.send({"passed": "a"})
    speaking.send({"hit": "b"})
    speaking.close()
    heard: list[dict[str, Any]] = []
    while not listening.ended:
        heard += listening.receive(1.0)
    listening.close()
    assert heard == [{"passed": "a"}, {"hit": "b"}]
