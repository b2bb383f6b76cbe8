"""An opened request is kept for the next stage, for a moment, and never taken for another's (P6, L8)."""

from types import SimpleNamespace
from typing import Any

import pytest

from streams.stages import KEPT_MAX, KEPT_SECONDS, RecentlyOpened


class Moment:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def moment() -> Moment:
    """Now."""
    return Moment()


@pytest.fixture
def recent(moment: Moment) -> RecentlyOpened:
    """Nothing kept yet."""
    return RecentlyOpened(moment)


def row(payout_id: str = "payout-1", content: bytes = b"hmac-1") -> Any:
    """What it looks at of a row."""
    return SimpleNamespace(payout_id=payout_id, bytes_hmac=content)


def opened(name: str) -> Any:
    """Stands for a request and its parts: nobody looks into them here."""
    return (name, name)


def test_what_was_kept_is_taken_once(recent: RecentlyOpened) -> None:
    """Speed: the next stage of the same row finds it; it is gone then."""
    recent.keep(row(), opened("a"))
    assert recent.take(row()) == opened("a")
    assert recent.take(row()) is None


def test_other_content_under_the_same_id_is_another_request(recent: RecentlyOpened) -> None:
    """P5, L8: nobody is paid by the content of a refused duplicate."""
    recent.keep(row(content=b"hmac-1"), opened("a"))
    assert recent.take(row(content=b"hmac-2")) is None
    assert recent.take(row("payout-2", b"hmac-1")) is None


def test_it_is_forgotten_after_a_moment_even_if_nothing_follows(recent: RecentlyOpened, moment: Moment) -> None:
    """P6: personal data does not wait in memory."""
    recent.keep(row(), opened("a"))
    moment.seconds += KEPT_SECONDS / 2
    recent.keep(row("payout-2"), opened("b"))
    moment.seconds += KEPT_SECONDS / 2 + 0.1
    assert len(recent) == 2
    recent.forget_old()
    assert len(recent) == 1
    moment.seconds += KEPT_SECONDS
    assert recent.take(row("payout-2")) is None, "too old to be used, too"
    assert len(recent) == 0


def test_no_more_than_the_most_are_kept(recent: RecentlyOpened) -> None:
    """Bounded whatever the backlog; the oldest go first."""
    for number in range(KEPT_MAX + 10):
        recent.keep(row(f"payout-{number}"), opened(str(number)))
    assert len(recent) == KEPT_MAX
    assert recent.take(row("payout-9")) is None
    assert recent.take(row("payout-10")) == opened("10")
