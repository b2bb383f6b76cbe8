"""K5, P8: new work waits while something that everybody needs is away, and goes on when it is back."""

import asyncio

import pytest

from streams.gate import Gate


class Away(Exception):
    """Something everybody needs is away."""


def away(error: Exception) -> str | None:
    return "database" if isinstance(error, Away) else None


async def let_run() -> None:
    """Give every ready task a few turns."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_closed_gate_holds_new_work_until_the_last_reason_is_gone() -> None:
    """K5: two reasons, closed twice each, need as many opens."""
    gate = Gate()
    gate.close("database")
    gate.close("database")
    gate.close("broker")
    waiting = asyncio.create_task(gate.passed())
    for reason in ("broker", "database"):
        gate.open(reason)
        await let_run()
        assert not waiting.done()
    assert gate.reasons == ("database",)
    gate.open("database")
    await asyncio.wait_for(waiting, 1.0)
    assert gate.reasons == ()


async def test_opening_what_was_not_closed_changes_nothing() -> None:
    """K5: a stray open cannot let work through that another reason holds back."""
    gate = Gate()
    gate.open("broker")
    gate.close("database")
    gate.open("broker")
    gate.open("broker")
    assert gate.reasons == ("database",)
    gate.open("database")
    gate.close("database")
    assert gate.reasons == ("database",), "the stray opens were not saved up"


async def test_work_is_tried_again_until_what_was_away_is_back() -> None:
    """K5: no try is the last one while the failure is not the record's."""
    gate = Gate()
    tries: list[tuple[str, ...]] = []

    async def work() -> None:
        tries.append(gate.reasons)
        if len(tries) < 6:
            raise Away

    await gate.retry_while_away(work, away)
    assert len(tries) == 6
    assert gate.reasons == ()


async def test_the_gate_stays_closed_while_the_next_try_is_under_way() -> None:
    """K5: new work pauses while the database is away, and nobody knows that it is back before a try has succeeded."""
    gate = Gate()
    seen: list[tuple[str, ...]] = []

    async def work() -> None:
        await let_run()  # a try takes time: a connect time-out, for example
        seen.append(gate.reasons)
        if len(seen) < 3:
            raise Away

    await gate.retry_while_away(work, away)
    assert seen == [(), ("database",), ("database",)]
    assert gate.reasons == ()


async def test_the_records_own_error_is_raised_and_leaves_the_gate_open() -> None:
    """P8: one bad record never stops a partition."""
    gate = Gate()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Away
        raise ValueError("the record's own")

    with pytest.raises(ValueError, match="own"):
        await gate.retry_while_away(work, away)
    assert gate.reasons == ()


async def test_a_cancelled_try_gives_its_reason_back() -> None:
    """K5: a worker that is being stopped does not leave the gate closed for ever."""
    gate = Gate()
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        raise Away

    task = asyncio.create_task(gate.retry_while_away(work, away))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.reasons == ()
