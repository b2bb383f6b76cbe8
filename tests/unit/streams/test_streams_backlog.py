"""Design 6: whether a record waits is asked of the brokers, and only where nothing has moved since the last look."""

from collections.abc import Mapping
from typing import Any, cast

from streams.backlog import Backlog
from streams.holes import PartitionReader, Slot, Unreadable

A: Slot = ("payout_requests", 0)
B: Slot = ("payout_requests", 1)


class Reader:
    """Partitions with a record at or after the position, or none."""

    def __init__(self) -> None:
        self.first: dict[Slot, int | None] = {A: None, B: None}
        self.asked: list[Mapping[Slot, int]] = []
        self.is_away = False

    def first_records(self, starts: Mapping[Slot, int]) -> dict[Slot, int | None]:
        self.asked.append(dict(starts))
        if self.is_away:
            raise Unreadable("no broker")
        return {slot: self.first[slot] for slot in starts}


async def test_a_record_that_nobody_takes_is_seen_at_the_second_look() -> None:
    """A partition that moves is not asked about; one that stands is, and only a record counts, not an offset."""
    reader, positions = Reader(), {A: 5, B: 9}
    backlog = Backlog(cast("PartitionReader", cast("Any", reader)), lambda: positions, every_seconds=1.0)
    reader.first = {A: 6, B: None}
    await backlog.look()
    assert (reader.asked, backlog.waiting) == ([], frozenset())
    await backlog.look()
    assert backlog.waiting == {A}
    positions[A] = 7
    assert backlog.waiting == frozenset(), "it moved"
    await backlog.look()
    assert reader.asked == [{A: 5, B: 9}, {B: 9}]


async def test_without_an_answer_nobody_is_to_blame() -> None:
    """K5: brokers that are away make no worker wedged."""
    reader, positions = Reader(), {A: 5}
    backlog = Backlog(cast("PartitionReader", cast("Any", reader)), lambda: positions, every_seconds=1.0)
    reader.first = {A: 5}
    await backlog.look()
    await backlog.look()
    assert backlog.waiting == {A}
    reader.is_away = True
    await backlog.look()
    assert backlog.waiting == frozenset()
