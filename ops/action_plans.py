"""One operator's action on one payout: planned on the row as it is, done as planned, and told as it ended (L2, L4).

Every action is a pure event of `processors.payout.events`, decided by the state machine and written by one
compare-and-set with its line of history: there is no other way in which a command changes a payout.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ledger.interface import Change, CommitUnknown, HistoryEntry, Ledger, LedgerError, LedgerUnavailable, RowRejected
from ops.effects import effects, warnings
from ops.output import cell
from ops.redaction import redacted
from processors.payout.events import Event
from processors.payout.row import PayoutRow
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply
from processors.payout.step import Nothing, Step
from streams.clock import Clock

TRIES_MAX: Final = 50
"""How often one action is decided again while workers move the row: twice a call, and a hold must win in time."""
LOOK_EVERY_SECONDS: Final = 0.2
LATELY: Final = 8
"""Lines of history that a plan repeats: the last call, its answer and what operators did since."""
PUBLISHED_LATER: Final = "a worker's sweeper publishes it"

EventOf = Callable[[PayoutRow, Sequence[HistoryEntry]], "Event | Nothing"]


class Ended(StrEnum):
    """What became of the action on one payout."""

    PLANNED = "planned"
    DONE = "done"
    UNCHANGED = "unchanged"
    """It was already as it was asked to be."""
    REFUSED = "refused"
    NOT_FOUND = "not found"
    NOT_KNOWN = "not known"
    """The database did not say whether it took the change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What an operator asks for, the same for every payout that he names."""

    name: str
    operator: str
    event: EventOf
    is_so_already: Callable[[PayoutRow], str | None] = lambda _: None
    """Why nothing needs to be done, if that is so."""
    whatever_changed: bool = False
    """Wanted also when the payout moved on since the plan was shown; else that is a refusal."""
    every_fact: bool = False
    in_every_mode: bool = False
    """Also where the mode lets people decide nothing: what only stops a payout."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One payout as it is, and what the action would make of it."""

    payout_id: str
    row: PayoutRow | None
    step: Step | None
    ended: Ended
    """PLANNED, or why there is no step."""
    why: str = ""
    effects: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    lately: tuple[str, ...] = ()
    """The newest lines of its history: what Visa last said, and who did what."""

    @property
    def promise(self) -> tuple[object, ...]:
        """What was agreed to: the same again may be done on a newer version of the row, something else may not."""
        return (self.ended, self.step and self.step.transition, self.effects)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    plan: Plan
    ended: Ended
    why: str = ""
    row: PayoutRow | None = None
    announced: bool | None = None
    """None where nothing new is announced, or nobody waited for it."""


async def look(ledger: Ledger, action: Action, payout_id: str, clock: Clock, schedule: Schedule) -> Plan:
    """The payout as it is now, and what the action would make of it. Raises LedgerUnavailable."""
    row = await ledger.read(payout_id)
    if row is None:
        return Plan(payout_id, None, None, Ended.NOT_FOUND, "the ledger has no such payout")
    already = action.is_so_already(row)
    if already is not None:
        return Plan(payout_id, row, None, Ended.UNCHANGED, already)
    history = await ledger.history(payout_id)
    lately = tuple(line(entry) for entry in history[-LATELY:])
    event, now = action.event(row, history), clock()
    step = event if isinstance(event, Nothing) else apply(row, event, now, schedule)
    if isinstance(step, Nothing):
        return Plan(payout_id, row, None, Ended.REFUSED, step.reason, lately=lately)
    return Plan(
        payout_id,
        row,
        step,
        Ended.PLANNED,
        effects=tuple(effects(row, step.row, now, schedule)),
        warnings=tuple(warnings(row, now, schedule)),
        lately=lately,
    )


def line(entry: HistoryEntry) -> str:
    """One step of a payout in one line, without what looks like a card number."""
    detail = ", ".join(f"{name}={value}" for name, value in entry.detail.items() if value is not None)
    return redacted(f"{cell(entry.at)} version {entry.version}: {entry.transition} by {entry.actor} ({detail})")


async def carry_out(ledger: Ledger, action: Action, shown: Plan, clock: Clock, schedule: Schedule) -> Result:
    """Do what was shown, and nothing else; a lost race is decided again, a lost answer is looked up (L2, L4)."""
    plan, unsure = shown, list[Plan]()
    try:
        for _ in range(TRIES_MAX):
            if plan.row is None or plan.step is None:
                return Result(shown, plan.ended, plan.why, plan.row)
            try:
                change = Change(plan.row, plan.step.row, plan.step.transition, action.operator, plan.step.detail)
                committed = await ledger.commit(change)
            except CommitUnknown:
                unsure.append(plan)
                committed = None
            if committed is not None:
                return Result(shown, Ended.DONE, _who_publishes(plan), committed)
            plan = await look(ledger, action, shown.payout_id, clock, schedule)
            # In this order: what arrives after the look is lost to by the next try, and found then.
            if unsure and (mine := await _found_again(ledger, action, unsure)) is not None:
                return Result(shown, Ended.DONE, "the database's answer was lost; the ledger has the change", mine)
            if plan.promise != shown.promise and not action.whatever_changed:
                return Result(shown, Ended.REFUSED, _what_changed(shown, plan), plan.row)
    except RowRejected as error:
        return Result(shown, Ended.REFUSED, f"the ledger cannot store it: {error}", shown.row)
    except LedgerError as error:
        return _without_the_ledger(shown, unsure, error)
    return Result(shown, Ended.REFUSED, "the payout changes faster than can be decided: run it again", plan.row)


async def _found_again(ledger: Ledger, action: Action, unsure: Sequence[Plan]) -> PayoutRow | None:
    """The row, if one of the changes whose answer was lost is in its history for good.

    A change that is not there yet may still arrive: then the next compare-and-set on the same version loses, and this
    finds it. What was read is durable only after a commit of our own (L4).
    """
    payout_id = unsure[0].payout_id
    by_version = {entry.version: entry for entry in await ledger.history(payout_id)}
    for plan in unsure:
        step = plan.step
        entry = None if step is None else by_version.get(step.row.version)
        if step is not None and entry is not None and _is_this(entry, step, action.operator):
            await ledger.settle()
            return await ledger.read(payout_id)
    return None


def _is_this(entry: HistoryEntry, step: Step, operator: str) -> bool:
    return (entry.actor, entry.transition, dict(entry.detail)) == (operator, step.transition, dict(step.detail))


def _without_the_ledger(shown: Plan, unsure: Sequence[Plan], error: LedgerError) -> Result:
    if unsure or isinstance(error, CommitUnknown):
        why = f"it is not known whether PostgreSQL took the change ({error}); running it again is harmless"
    else:
        why = f"the ledger cannot be used, nothing was changed ({error})"
    return Result(shown, Ended.NOT_KNOWN, why, None)


def _what_changed(shown: Plan, now: Plan) -> str:
    """A sentence for whoever agreed to the plan that is no longer true."""
    if shown.row is None or now.row is None:
        return now.why
    was = f"{shown.row.state.value} at version {shown.row.version}"
    found = f"{now.row.state.value} at version {now.row.version}"
    held = f", held: {redacted(now.row.hold_reason or '')}" if now.row.held and not shown.row.held else ""
    more = f"; {now.why}" if now.why else ""
    return (
        f"it changed since the plan was shown: was {was}, is {found}{held}{more}; nothing was changed by this command"
    )


def _who_publishes(plan: Plan) -> str:
    """K2: a command publishes nothing; it changes the row, and what the row announces is the sweeper's."""
    if plan.row is None or plan.step is None or plan.step.row.announce_version <= plan.row.announce_version:
        return ""
    return PUBLISHED_LATER


async def wait_until_announced(ledger: Ledger, result: Result, until: float) -> Result:
    """Look until the broker has confirmed what the changed row announces, or until time.monotonic() is `until`."""
    row = result.row
    if result.ended is not Ended.DONE or row is None:
        return result
    wanted = row.announce_version
    try:
        while row is not None and row.announced_version < wanted:
            if time.monotonic() >= until:
                return replace(result, announced=False, why="done, but no worker has published it yet")
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            row = await ledger.read(result.plan.payout_id)
    except LedgerUnavailable as error:
        return replace(result, announced=False, why=f"done; whether it was published is not known ({error})")
    why = "published" if result.why == PUBLISHED_LATER else result.why
    return replace(result, announced=True, row=row, why=why)
