"""How a payout must have ended: by the stand-in's own ledger and the topics, then by the row (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.sweep.lives import Life


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found of one payout, and of the lane that was its own."""

    pushes: Sequence[str] = ()
    """The amount of every push that moved money, by the stand-in's ledger."""
    hand_backs: Sequence[str] = ()
    """Operations that handed its card pull back, by the same."""
    results: Sequence[tuple[str, str]] = ()
    """(ce_id, status) of every record of `payout_results`, repeats included."""
    demands: Sequence[tuple[str, str]] = ()
    """(ce_id, executor) of `payout_failed_requires_compensation`."""
    compensation_ends: Sequence[tuple[str, str]] = ()
    """(ce_id, status) of `payout_compensation_results`."""
    set_aside: Sequence[str] = ()
    """Topics of dead letters and refusals that hold a record."""
    row: Mapping[str, Any] = field(default_factory=dict)
    behind: Sequence[str] = ()
    """Partitions not committed, or not verified, up to their end."""


def wrong(life: Life, seen: Seen, amount: str, target: str | None = None) -> list[str]:
    """What is not as it must be, or not yet; empty when the payout has come to its end and all of it is settled.

    `target` is where its worker was to be killed: after some points another end is the right one.
    """
    found: list[str] = []
    compensation = life.compensation_after(target)
    reversed_once = life.executor == "PROCESSOR" and compensation == "COMPENSATED"
    _expect(found, "pushes that moved money", list(seen.pushes), [amount] if life.is_paid else [])
    _expect(found, "hand-backs at Visa", list(seen.hand_backs), ["reverse"] if reversed_once else [])
    _expect_event(found, "result", seen.results, life.status)
    _expect_event(found, "demand for compensation", seen.demands, life.executor)
    _expect_event(found, "compensation result", seen.compensation_ends, compensation if life.executor else None)
    _expect(found, "topics with records set aside", list(seen.set_aside), [])
    return (
        found
        + _row_problems(life, compensation, seen.row)
        + [f"not committed or verified to its end: {p}" for p in seen.behind]
    )


def _expect(found: list[str], what: str, is_so: object, must_be: object) -> None:
    if is_so != must_be:
        found.append(f"{what}: {is_so}, not {must_be}")


def _expect_event(found: list[str], what: str, events: Sequence[tuple[str, str]], content: str | None) -> None:
    """The same event may come again, with the same ce_id and content; another one may not."""
    different = sorted(set(events))
    if content is None:
        _expect(found, f"a {what}", different, [])
    elif [said for _, said in different] != [content]:
        found.append(f"{what}: {different or 'none'}, not one {content}")


def _row_problems(life: Life, compensation: str, row: Mapping[str, Any]) -> list[str]:
    if not row:
        return ["no row"]
    found: list[str] = []
    for name, value in (("state", life.status), ("compensation", compensation), ("held", False)):
        _expect(found, name, row[name], value)
    if row["announced_version"] < row["announce_version"]:
        found.append("its row waits to be announced")
    return found
