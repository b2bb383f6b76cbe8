"""K1, K8: whatever the order in which work finishes, acknowledgements come in offset order and never skip work.

What may be committed never lies behind work, or behind a hole that nobody has passed.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.ack_window import AckWindow, OffsetOutOfOrder


class WindowMachine(RuleBasedStateMachine):
    """K1 as invariants over everything a window has said."""

    def __init__(self) -> None:
        super().__init__()
        self.window: AckWindow[str] = AckWindow()
        self.first: int | None = None
        self.started: list[int] = []
        self.finished: set[int] = set()
        self.holes: list[range] = []
        self.passed: list[range] = []
        self.acknowledged: list[int] = []

    @initialize(first=st.none() | st.integers(0, 3))
    def begin(self, first: int | None) -> None:
        self.first = first
        self.window = AckWindow(first)

    @rule(step=st.integers(1, 5))
    def start_the_next(self, step: int) -> None:
        last = self.started[-1] if self.started else None if self.first is None else self.first - 1
        offset = step if last is None else last + step
        hole = self.window.start(offset, f"event {offset}")
        expected = [] if last is None else list(range(last + 1, offset))
        assert list(hole) == expected, "a hole is reported exactly, before the first offset if that one is known"
        self.started.append(offset)
        if hole:
            self.holes.append(hole)

    @precondition(lambda self: self.holes)
    @rule(data=st.data())
    def pass_a_hole(self, data: st.DataObject) -> None:
        hole = data.draw(st.sampled_from(self.holes))
        self.holes.remove(hole)
        self.passed.append(hole)
        items = self.window.pass_hole(hole)
        self.acknowledged += [int(item.removeprefix("event ")) for item in items]

    @precondition(lambda self: self.started)
    @rule(back=st.integers(0, 8))
    def starting_backwards_is_refused(self, back: int) -> None:
        waiting = len(self.window)
        with pytest.raises(OffsetOutOfOrder):
            self.window.start(self.started[-1] - back, "again")
        assert len(self.window) == waiting, "what was refused leaves no trace"

    @precondition(lambda self: set(self.started) - self.finished)
    @rule(data=st.data())
    def finish_one(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(set(self.started) - self.finished)))
        self.finished.add(offset)
        items = self.window.finish(offset)
        self.acknowledged += [int(item.removeprefix("event ")) for item in items]

    @rule(offset=st.integers(-3, 200))
    def finishing_twice_or_the_unknown_acknowledges_nothing(self, offset: int) -> None:
        if offset not in self.started or offset in self.finished:
            assert self.window.finish(offset) == []

    @invariant()
    def acknowledged_in_order_and_up_to_the_first_unfinished(self) -> None:
        blocked = [offset for offset in self.started if offset not in self.finished] + [h.start for h in self.holes]
        until = min(blocked, default=None)
        prefix = [offset for offset in self.started if until is None or offset < until]
        assert self.acknowledged == prefix, "all finished offsets before the first unfinished one, once, in order"
        places = [*self.started, *(hole.start for hole in (*self.holes, *self.passed))]
        assert len(self.window) == len([place for place in places if until is not None and place >= until])
        assert self.window.oldest == until
        committable = self.window.committable
        assert committable is None or until is None or committable <= until, "K8: nothing is committed past a hole"
        assert committable == (until if until is not None and prefix else committable)
        if self.started and until is None:
            assert committable == self.started[-1] + 1


WindowMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAckWindow = WindowMachine.TestCase


@given(st.integers(1, 40).flatmap(lambda count: st.permutations(range(count))))
@settings(deadline=None)
def test_every_offset_is_acknowledged_once_when_all_are_finished(order: list[int]) -> None:
    """K1: nothing is forgotten in the window."""
    window: AckWindow[int] = AckWindow()
    for offset in range(len(order)):
        window.start(offset + 1000, offset)
    acknowledged = [item for finished in order for item in window.finish(finished + 1000)]
    assert acknowledged == list(range(len(order)))
    assert len(window) == 0


def test_finishing_in_a_hole_does_not_release_what_comes_after() -> None:
    """K1, K8: an offset that was never delivered can neither be finished nor stand for another."""
    window: AckWindow[str] = AckWindow()
    window.start(10, "ten")
    hole = window.start(13, "thirteen")
    assert list(hole) == [11, 12]
    assert window.finish(11) == window.finish(12) == []
    assert window.finish(13) == []
    assert window.finish(10) == ["ten"]
    assert window.committable == 11, "not 14: nobody knows yet what was at 11 and 12"
    assert window.finish(11) == window.finish(12) == []
    assert window.pass_hole(hole) == ["thirteen"]
    assert (window.committable, window.oldest) == (14, None)


def test_what_comes_before_the_first_event_is_a_hole() -> None:
    """K8: the first event after an assignment must stand at the committed offset."""
    window: AckWindow[str] = AckWindow(7)
    assert list(window.start(9, "nine")) == [7, 8]
    assert window.finish(9) == []
    assert window.committable is None
    assert window.pass_hole(range(7, 9)) == ["nine"]
    assert window.committable == 10


def test_a_passed_hole_may_be_committed_before_the_work_behind_it_ends() -> None:
    """K8: what was looked into once needs no second look after a restart."""
    window: AckWindow[str] = AckWindow(7)
    hole = window.start(9, "nine")
    assert window.pass_hole(hole) == []
    assert window.committable == 9


def test_a_window_that_was_emptied_remembers_how_far_it_was() -> None:
    """K1: going backwards is noticed after everything was acknowledged, too."""
    window: AckWindow[str] = AckWindow()
    window.start(5, "five")
    assert window.finish(5) == ["five"]
    assert window.finish(5) == []
    with pytest.raises(OffsetOutOfOrder, match="5"):
        window.start(5, "five again")
    assert list(window.start(6, "six")) == []
