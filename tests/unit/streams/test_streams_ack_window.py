"""K1: whatever the order in which work finishes, acknowledgements come in offset order and never skip work."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.ack_window import AckWindow, OffsetOutOfOrder


class WindowMachine(RuleBasedStateMachine):
    """K1 as invariants over everything a window has said."""

    def __init__(self) -> None:
        super().__init__()
        self.window: AckWindow[str] = AckWindow()
        self.started: list[int] = []
        self.finished: set[int] = set()
        self.acknowledged: list[int] = []

    @rule(step=st.integers(1, 5))
    def start_the_next(self, step: int) -> None:
        last = self.started[-1] if self.started else None
        offset = step if last is None else last + step
        hole = self.window.start(offset, f"event {offset}")
        expected = [] if last is None else list(range(last + 1, offset))
        assert list(hole) == expected, "a hole is reported exactly, and the first offset has none before it"
        self.started.append(offset)

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
        prefix = []
        for offset in self.started:
            if offset not in self.finished:
                break
            prefix.append(offset)
        assert self.acknowledged == prefix, "all finished offsets before the first unfinished one, once, in order"
        assert len(self.window) == len(self.started) - len(prefix)
        assert self.window.oldest == (self.started[len(prefix)] if len(prefix) < len(self.started) else None)


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
    assert list(window.start(13, "thirteen")) == [11, 12]
    assert window.finish(11) == []
    assert window.finish(13) == []
    assert window.finish(10) == ["ten", "thirteen"]


def test_a_window_that_was_emptied_remembers_how_far_it_was() -> None:
    """K1: going backwards is noticed after everything was acknowledged, too."""
    window: AckWindow[str] = AckWindow()
    window.start(5, "five")
    assert window.finish(5) == ["five"]
    assert window.finish(5) == []
    with pytest.raises(OffsetOutOfOrder, match="5"):
        window.start(5, "five again")
    assert list(window.start(6, "six")) == []
