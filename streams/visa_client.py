"""The connection to Visa that calls use, exchanged while calls are under way (requirements S0-05, S0-06).

    source = ClientSource(client)
    await source.send(request, deadline)              what `VisaCalls` does; the connection of that moment
    await source.replace(candidate, probe)            probe, swap, verify; undone when the verification fails
    await source.roll_back()                          back to the one before

A call keeps the connection that it began with: what was encrypted with one key is answered to that key, and nothing is
sent twice. The connection before the one in use stays open, so that going back needs no file; an older one is closed
when its last call has ended.

What a probe cannot show is whether Visa can read what we encrypt: it has no body. So the first calls with one are
watched: if one is refused for its credentials or its answer cannot be opened, or some in a row are refused as invalid,
the source goes back by itself. The next call uses the old connection; refused ones come again by their schedule.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from processors.visa.deadline import Deadline
from processors.visa.exchange import Exchange
from processors.visa.probe import (
    GREETING,
    absolves,
    condemns,
    greeting_failure,
    is_refused_as_invalid,
    question,
    question_failure,
)
from processors.visa.requests import VisaRequest

log = logging.getLogger(__name__)

REFUSED_IN_A_ROW = 3
"""Which code Visa gives to a body that it cannot decrypt is not published: HTTP 400 to each of the first calls is taken
for it. Fewer than a payout's budget of failures; one bad payout alone does not undo a rotation."""
PROBE_SECONDS = 10.0
"""One call of a probe: nobody waits for it, and Visa answers a greeting within one."""


class VisaClient(Protocol):
    """What sends one call: `processors.visa.transport.VisaDirectClient`, or what stands before it."""

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """Make the call, to be over before `deadline`. Never raises for what the network or Visa does."""

    def close_idle(self) -> None:
        """Close the connections that no call is under way on."""

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""


Probe = Callable[[VisaClient], Awaitable[str | None]]
"""Tries a connection: why it cannot be used, or None."""


class ReloadResult(StrEnum):
    """What became of an exchange of connections."""

    SUCCESS = "success"
    UNCHANGED = "unchanged"
    """The files are those in use."""
    FAILURE = "failure"
    """The new one was not taken: the old one goes on."""
    ROLLED_BACK = "rolled_back"
    """It was taken, failed, and the one before is in use again; or somebody asked for that."""


@dataclass(frozen=True, slots=True)
class Reload:
    """How it ended, and why."""

    result: ReloadResult
    why: str | None = None


@dataclass(slots=True, eq=False)
class _Held:
    """A connection, how many calls it has under way, and whether anybody may still want it."""

    client: VisaClient
    calls: int = 0
    wanted: bool = True
    watched: bool = False
    """Nobody has seen it work yet with what moves money."""
    refused: int = 0
    """Calls with a body that were refused as invalid, in a row, while watched."""


class ClientSource:
    """Gives each call the connection of the moment. For one event loop."""

    def __init__(
        self,
        client: VisaClient,
        *,
        on_exchange: Callable[[Exchange], None] = lambda _: None,
        on_returned: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_exchange` sees how every call ended; `on_returned` hears why the source went back by itself."""
        self._current = _Held(client)
        self._previous: _Held | None = None
        self._on_exchange = on_exchange
        self._on_returned = on_returned
        self._one_at_a_time = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> VisaClient:
        """The one that the next call uses."""
        return self._current.client

    @property
    def can_roll_back(self) -> bool:
        """Whether there is one to go back to."""
        return self._previous is not None

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """See `VisaClient.send`."""
        async with self._lease() as held:
            exchange = await held.client.send(request, deadline)
        self._on_exchange(exchange)
        if held.watched:
            self._judge(held, request, exchange)
        return exchange

    async def replace(self, candidate: VisaClient, probe: Probe) -> Reload:
        """Use `candidate` from the next call on, if it can be used. It is closed when it is not taken.

        `probe` is asked before the swap, when calls still use the old one, and once more after it, through the source.
        """
        async with self._one_at_a_time:
            why = await _asked(probe, candidate)
            if why is not None:
                await candidate.aclose()
                return Reload(ReloadResult.FAILURE, why)
            taken = _Held(candidate, watched=True)
            self._retire(self._previous)
            self._previous, self._current = self._current, taken
            why = await _asked(probe, self)
            if why is not None or self._current is not taken:
                self._return(taken)
                return Reload(ReloadResult.ROLLED_BACK, why or "the first call over it was refused")
            return Reload(ReloadResult.SUCCESS)

    async def roll_back(self) -> Reload:
        """Use the connection before from the next call on; there is one step back, not two."""
        async with self._one_at_a_time:
            if self._previous is None:
                return Reload(ReloadResult.FAILURE, "there is no connection to go back to")
            self._return(self._current)
            return Reload(ReloadResult.ROLLED_BACK)

    def close_idle(self) -> None:
        """No socket to Visa but those of calls under way: the mode lets no call leave (E5, `isolation`)."""
        for held in (self._current, self._previous):
            if held is not None:
                held.client.close_idle()

    async def aclose(self) -> None:
        """Close every connection; calls under way fail."""
        closing = [held.client.aclose() for held in (self._current, self._previous) if held is not None]
        await asyncio.gather(*closing, *self._closing, return_exceptions=True)

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[_Held]:
        held = self._current
        held.calls += 1
        try:
            yield held
        finally:
            held.calls -= 1
            self._close_unwanted(held)

    def _judge(self, held: _Held, request: VisaRequest, exchange: Exchange) -> None:
        """The first call with a body that Visa has read ends the watch; what speaks against the material undoes it."""
        if request.body is not None:
            held.watched = not absolves(exchange)
            held.refused = held.refused + 1 if is_refused_as_invalid(exchange) else 0
        if (condemns(exchange) or held.refused >= REFUSED_IN_A_ROW) and held is self._current and self._previous:
            why = "the first calls over the new connection were refused or could not be read"
            log.critical("back to the connection to Visa before", extra={"why": why})
            self._return(held)
            self._on_returned(why)

    def _return(self, condemned: _Held) -> None:
        if condemned is self._current and self._previous is not None:
            self._current, self._previous = self._previous, None
            self._retire(condemned)

    def _retire(self, held: _Held | None) -> None:
        if held is not None:
            held.wanted = False
            self._close_unwanted(held)

    def _close_unwanted(self, held: _Held) -> None:
        if not held.wanted and held.calls == 0:
            closing = asyncio.get_running_loop().create_task(held.client.aclose(), name="retired connection to Visa")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _asked(probe: Probe, client: VisaClient) -> str | None:
    try:
        return await probe(client)
    except Exception as error:  # what cannot be probed is not used
        log.exception("a probe failed")
        return f"the probe itself failed: {type(error).__name__}"


def probe_of(acquiring_bin: str) -> Probe:
    """The probe without money: a greeting, then a question whose answer comes encrypted."""

    async def probe(client: VisaClient) -> str | None:
        greeted = greeting_failure(await client.send(GREETING, Deadline.after(PROBE_SECONDS)))
        if greeted is not None:
            return greeted
        return question_failure(await client.send(question(acquiring_bin), Deadline.after(PROBE_SECONDS)))

    return probe
