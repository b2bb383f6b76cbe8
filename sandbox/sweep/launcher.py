"""The product's own worker with a trap at every point: runs in a process that the nursery forked.

The product has no switch for this. The launcher wraps what the worker calls at each boundary (`instrument`) and leaves
the calls as they are; only announcement marks are written one by one instead of together, so that each of them is a
point of its own. `break_order` puts a step before the one that must come first, to show that the sweep sees it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, NoReturn

import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

from ledger.interface import Change, InboundPosition, IntakeRecord, NotBegun
from ledger.postgres import PostgresLedger
from processors.payout.events import CallKind
from processors.payout.row import PayoutRow
from processors.visa import transport
from processors.visa.aiohttp_transport import AiohttpTransport, _Request
from processors.visa.deadline import Deadline
from processors.visa.requests import VisaRequest
from sandbox.sweep.channel import Channel
from sandbox.sweep.points import AFTER, BEFORE, BROKEN_ORDERS, Trap
from streams import announcer, kafka_app
from streams.bootstrap import run_worker
from streams.completeness import Follower, KafkaRecords
from streams.holes import Slot
from streams.publisher import Publisher
from streams.pump import Pump
from streams.settings import load_settings
from streams.visa_calls import VisaCalls

COMMIT_POLL_SECONDS: Final = 0.1

_CALL: ContextVar[str] = ContextVar("_CALL", default="")
"""Which call to Visa the task is in."""


def work(environment: Mapping[str, str], control: socket.socket) -> NoReturn:
    """Be a worker until a signal or the trap ends it. Call it in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    channel = Channel(control)

    def spring(point: str) -> None:
        channel.send({"hit": point})
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is for the whole process; this thread may still be on its way out

    trap = Trap(lambda point: channel.send({"passed": point}), spring)
    threading.Thread(target=_listen, args=(channel, trap), name="sweep control", daemon=True).start()
    settings = load_settings()
    break_order(environment.get("PAYOUTS_SWEEP_BREAK", ""))
    instrument(trap, settings.payouts_topic_prefix)
    run_worker(settings)
    raise SystemExit(0)


def _listen(channel: Channel, trap: Trap) -> None:
    while not channel.ended:
        for message in channel.receive(timeout_seconds=3600.0):
            trap.arm(message["arm"])
            channel.send({"armed": message["arm"]})
    os._exit(0)  # the sweep is gone


def instrument(trap: Trap, prefix: str) -> None:
    """A trap before and after every write to the ledger, publish, HTTP call, acknowledgement and offset commit."""
    announcer.MARK_EVERY_SECONDS = 0.0
    _instrument_ledger(trap, prefix)
    _instrument_kafka(trap, prefix)
    _instrument_visa(trap)


def _around(
    trap: Trap,
    owner: type,
    name: str,
    what: Callable[..., str],
    happened: Callable[[Any], bool] = lambda _: True,
    *,
    once: bool = False,
) -> None:
    """Wrap an async method: `what` names the place from its arguments, `happened` whether there is an after."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(method)
    async def trapped(self: Any, *arguments: Any, **named: Any) -> Any:
        place = what(*arguments)
        trap.passing(place, BEFORE, once=once)
        result = await method(self, *arguments, **named)
        if happened(result):
            trap.passing(place, AFTER)
        return result

    setattr(owner, name, trapped)


def _instrument_ledger(trap: Trap, prefix: str) -> None:
    """A write that lost its compare-and-set changed nothing: it has no after."""

    def change_of(change: Change, *_: object) -> str:
        return change.transition

    def inserting(*_: object) -> str:
        return "ledger.insert received"

    def marking(announced: list[tuple[str, int]]) -> str:
        return "ledger.mark_announced " + ",".join(f"v{version}" for _, version in announced)

    def remembering(record: IntakeRecord) -> str:
        return f"ledger.record_intake {record.topic.removeprefix(prefix)}"

    def verifying(topic: str, *_: object) -> str:
        return f"ledger.verified_up_to {topic.removeprefix(prefix)}"

    _around(trap, PostgresLedger, "insert", inserting)
    _around(trap, PostgresLedger, "commit", lambda *a: f"ledger.commit {change_of(*a)}", lambda row: row is not None)
    begun: Callable[[Any], bool] = lambda row: not isinstance(row, NotBegun)  # noqa: E731
    _around(trap, PostgresLedger, "begin", lambda *a: f"ledger.begin {change_of(*a)}", begun)
    _around(trap, PostgresLedger, "issue_identity_number", lambda: "ledger.issue_identity_number")
    _around(trap, PostgresLedger, "settle", lambda: "ledger.settle")
    _around(trap, PostgresLedger, "mark_announced", marking)
    _around(trap, PostgresLedger, "record_intake", remembering)
    _around(trap, PostgresLedger, "verified_up_to", verifying)
    # Asked twice a second for ever: the first time counts, and each time that it moves a row.
    _around(trap, PostgresLedger, "due", lambda *_: "ledger.due", bool, once=True)


def _instrument_kafka(trap: Trap, prefix: str) -> None:
    def publishing(topic: str, *_: object) -> str:
        return f"publish {topic.removeprefix(prefix)}"

    def marking(slot: Slot, *_: object) -> str:
        return f"offset_commit verified/{slot[0].removeprefix(prefix)}"

    _around(trap, Publisher, "publish_bytes", publishing)
    _around(trap, KafkaRecords, "mark", marking)
    acknowledge = Pump._acknowledge
    commit: Callable[..., Awaitable[bool]] = kafka_app.OrderedConsumer._commit

    def acknowledging(self: Pump, event: Any, window: Any) -> None:
        place = f"ack {event.message.topic.removeprefix(prefix)}"
        trap.passing(place, BEFORE)
        acknowledge(self, event, window)
        trap.passing(place, AFTER)

    async def committing(self: Any, offsets: Mapping[Any, int]) -> bool:
        """One commit moves several topics: each of them is a point, before it and after it."""
        places = sorted(f"offset_commit {place.topic.removeprefix(prefix)}" for place in offsets)
        for place in places:
            trap.passing(place, BEFORE)
        done = await commit(self, offsets)
        for place in places if done else ():
            trap.passing(place, AFTER)
        return done

    Pump._acknowledge = acknowledging  # type: ignore[method-assign]
    kafka_app.OrderedConsumer._commit = committing  # type: ignore[method-assign]


def _instrument_visa(trap: Trap) -> None:
    """Nothing has left; the last byte has left; an answer is here and its body not read; and the end of it."""
    make = VisaCalls.make
    send = transport.VisaDirectClient.send
    before_sending = transport._Attempt.before_sending
    handle = AiohttpTransport.handle_async_request

    async def making(self: VisaCalls, row: PayoutRow, call: CallKind, *rest: Any) -> Any:
        _CALL.set(call.value)
        return await make(self, row, call, *rest)

    async def sending(self: transport.VisaDirectClient, request: VisaRequest, deadline: Deadline) -> Any:
        """Back with an answer, or with the knowledge that there is none."""
        exchange = await send(self, request, deadline)
        trap.passing(f"http.receive {_CALL.get()}", AFTER)
        return exchange

    def leaving(self: transport._Attempt) -> None:
        trap.passing(f"http.send {_CALL.get()}", BEFORE)
        before_sending(self)

    async def answering(self: AiohttpTransport, request: httpx.Request) -> httpx.Response:
        response = await handle(self, request)
        trap.passing(f"http.receive {_CALL.get()}", BEFORE)
        return response

    VisaCalls.make = making  # type: ignore[method-assign, assignment]
    transport.VisaDirectClient.send = sending  # type: ignore[method-assign]
    transport._Attempt.before_sending = leaving  # type: ignore[method-assign]
    AiohttpTransport.handle_async_request = answering  # type: ignore[method-assign]
    _instrument_last_byte(trap)


def _instrument_last_byte(trap: Trap) -> None:
    """A request without a body has left with `send`, one with a body with `write_bytes`."""
    send = _Request.send
    write_bytes = _Request.write_bytes

    async def sending(self: _Request, conn: Connection) -> Any:
        response = await send(self, conn)
        if not self.body:
            trap.passing(f"http.send {_CALL.get()}", AFTER)
        return response

    async def writing(
        self: _Request, writer: AbstractStreamWriter, conn: Connection, length: int | None = None
    ) -> None:
        await write_bytes(self, writer, conn, length)
        trap.passing(f"http.send {_CALL.get()}", AFTER)

    _Request.send = sending  # type: ignore[method-assign]
    _Request.write_bytes = writing  # type: ignore[method-assign, assignment]


def break_order(order: str) -> None:
    """Do a later step first, as a worker must never do; for the test that the sweep sees it."""
    match order:
        case "marks_first":
            _mark_before_publishing()
        case "ack_first":
            _acknowledge_before_working()
        case "":
            pass
        case _:
            raise ValueError(f"no such broken order: {order}; choose from {', '.join(BROKEN_ORDERS)}")


def _mark_before_publishing() -> None:
    """The ledger believes that the broker has what was never handed to it (against K2)."""
    announce = announcer.Announcer.announce

    async def marked_first(self: announcer.Announcer, row: PayoutRow, *, again: bool = False) -> None:
        if row.announced_version < row.announce_version:
            await self._ledger.mark_announced([(row.payout_id, row.announce_version)])
        await announce(self, row, again=again)

    announcer.Announcer.announce = marked_first  # type: ignore[method-assign]


def _acknowledge_before_working() -> None:
    """Acknowledge and commit the offset, then begin (against K1); nobody drives in what is missing then (K9)."""
    handle = Pump._work
    confirmed = kafka_app.Offsets.confirmed
    committed: dict[Slot, int] = {}

    def noted(self: kafka_app.Offsets, offsets: Mapping[Slot, int]) -> None:
        confirmed(self, offsets)
        committed.update(offsets)

    async def acknowledged_first(self: Pump, event: Any, window: Any) -> None:
        message = event.message
        for done in window.finish(message.offset):
            self._acknowledge(done, window)
        while committed.get((message.topic, message.partition), 0) <= message.offset:  # noqa: ASYNC110 - of Faust
            await asyncio.sleep(COMMIT_POLL_SECONDS)
        await handle(self, event, window)

    async def left_out(self: Follower, slot: Slot, suspects: Sequence[InboundPosition]) -> None:
        """The follower would save the payout, as it should."""

    kafka_app.Offsets.confirmed = noted  # type: ignore[method-assign]
    Pump._work = acknowledged_first  # type: ignore[method-assign]
    Follower._drive_in = left_out  # type: ignore[method-assign]
