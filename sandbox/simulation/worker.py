"""One worker: the product's pumps, driver, sweeper, announcer and calls, on links to simulated servers.

What `streams.bootstrap` wires to Faust, asyncpg and httpx is wired here to the simulated broker, ledger and Visa.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from ledger.interface import CommitUnknown, Ledger, LedgerError, LedgerUnavailable
from processors.payout.modes import Activity
from processors.payout.schedule import Schedule
from processors.visa.deadline import Deadline
from processors.visa.exchange import Exchange
from processors.visa.requests import VisaRequest
from processors.visa.transport import VisaDirectClient
from sandbox.simulation.broker import SESSION_SECONDS, Slot, Stored
from sandbox.simulation.virtual_loop import Process, context_of, run_in
from schemas.codec import Codec
from schemas.topics import READ_BY_WORKERS
from streams.announcer import Announcer
from streams.away import what_is_away
from streams.dead_letters import DeadLetters
from streams.driver import Driver
from streams.gate import Gate
from streams.handlers import StageHandlers
from streams.intake import Intake
from streams.modes import ACTIVITY_OF_TOPIC, LOOK_EVERY_SECONDS, ModeWatch, Stage
from streams.publisher import BrokerUnavailable, Publisher, PublishUnconfirmed
from streams.pump import Handler, Pump, Record
from streams.stages import StageRunner
from streams.sweeper import SWEEP_EVERY_SECONDS, Sweeper
from streams.visa_calls import VisaCalls
from streams.visa_pause import VisaPauses
from streams.visa_rate import VisaRate

if TYPE_CHECKING:
    from ledger.interface import NotBegun
    from processors.payout.row import PayoutRow
    from sandbox.simulation.world import World

COMMIT_EVERY_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 1.0
UNCONFIRMED_SECONDS: Final = 5.0
RESTART_SECONDS: Final = (0.5, 4.0)
DRAIN_SECONDS: Final = 6.0
STATEMENT_SECONDS_MIN: Final = 0.0005
STATEMENT_SECONDS_SPREAD: Final = 0.0095
LATE_ANSWER_CHANCE: Final = 0.125
"""That an answer of the database is on its way for as long again."""
SWEEP_SECONDS: Final = 2 * SWEEP_EVERY_SECONDS
"""Half as often as the product: most sweeps find nothing, and all of them are a tenth of a world's time."""
QUIET_SECONDS: Final = 5.0
"""With nothing appended for so long the sweeper may sleep until something is due: days pass in a world's outage."""
SWEEP_AT_LEAST_SECONDS: Final = 300.0
LONG_AFTER_SECONDS: Final = 200.0
OUTAGE_SWEEP_SECONDS: Final = 600.0
"""In an outage of days, after its first minutes: as often as the longest probe, or a world would take minutes."""
IN_FLIGHT_MAX: Final = 64
CALLS_MAX: Final = 16

WRITES: Final = frozenset(
    {"insert", "commit", "begin", "issue_identity_number", "due", "mark_announced", "record_intake", "settle"}
)


class Message:
    """A record as Faust hands it over."""

    __slots__ = ("generation_id", "headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(self, stored: Stored, generation: int) -> None:
        self.topic, self.partition, self.offset = stored.topic, stored.partition, stored.offset
        self.timestamp, self.key, self.headers = stored.timestamp, stored.key, stored.headers
        self.value: Any = stored.value
        self.generation_id = generation


class Event:
    """Faust's event: a message and its acknowledgement."""

    __slots__ = ("_worker", "message", "value")

    def __init__(self, message: Message, worker: SimulatedWorker) -> None:
        self.message, self.value, self._worker = message, message.value, worker

    def ack(self) -> None:
        """Nothing leaves with it: what is committed is what the window says, a moment later."""
        self._worker.acknowledged()


class LedgerLink:
    """One worker's way to the ledger: statements take time, get lost, and arrive after the worker was frozen."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self._world = worker.world

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._world.ledger, name)
        is_write = name in WRITES

        worker, world = self._worker, self._world
        counts = worker.counts_boundaries and is_write
        rng = world.database_rng

        async def call(*arguments: Any) -> object:  # one coroutine: there are twenty calls a payout
            if counts:
                await worker.boundary(f"ledger.{name}{_which(name, arguments)}:before")
            seconds = STATEMENT_SECONDS_MIN + STATEMENT_SECONDS_SPREAD * rng.random()
            if not worker.may_skip(seconds):
                await worker.pass_time(seconds)
            if world.loop.now < world.database_away_until:
                await worker.pass_time(0.2)
                raise LedgerUnavailable("the database is away")
            lost = is_write and rng.random() < world.lost_answer_chance
            if lost and rng.random() < 0.5:
                await worker.pass_time(0.5)
                raise CommitUnknown("not applied, and nobody knows")
            answer: object = await method(*arguments)
            if name == "begin":
                world.watch.begun(cast("PayoutRow | NotBegun", answer), arguments[1])
            if lost:
                await worker.pass_time(0.5)
                raise CommitUnknown("applied, and nobody knows")
            if counts:
                await worker.boundary(f"ledger.{name}{_which(name, arguments)}:after")
            elif rng.random() < LATE_ANSWER_CHANCE:
                await worker.pass_time(STATEMENT_SECONDS_MIN + STATEMENT_SECONDS_SPREAD * rng.random())
            return answer

        setattr(self, name, call)
        return call


def _which(name: str, arguments: tuple[Any, ...]) -> str:
    return f"[{arguments[0].transition}]" if name in ("commit", "begin") else ""


class VisaLink:
    """`processors.visa.transport.VisaDirectClient` on the simulated Visa."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """See the product's."""
        return await self._worker.world.visa.send(self._worker, request, deadline)

    async def aclose(self) -> None:
        """Nothing to close."""


class SimulatedWorker:
    """A process: killed, frozen and started again."""

    def __init__(self, world: World, name: str, skew_seconds: float) -> None:
        self.world = world
        self.name = name
        self.skew = timedelta(seconds=skew_seconds)
        self.process = Process(name)
        self.rng = random.Random(f"{world.plan.seed}/{name}")
        self._look_rng = random.Random(f"look-{world.plan.seed}/{name}")
        """Of its own, so that worlds in which nobody sets the mode stay as they were."""
        self.generation: int | None = None
        self.positions: dict[Slot, int] = {}
        self.first_offsets: dict[Slot, int] = {}
        self.times_stopped = 0
        self.stopping = False
        self.counts_boundaries = world.crash_points is not None
        self._dirty = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        """Readers that have read everything, by topic."""
        self._turn: dict[str, int] = dict.fromkeys(READ_BY_WORKERS, 0)
        self._tasks: list[asyncio.Task[Any]] = []
        self.lose_next: int = 0
        """Records to lose between the broker and the handler, as Faust does (K8)."""
        self._wire()

    # The process.

    def start(self) -> None:
        """Run the worker; everything it starts belongs to its process."""
        run_in(self.process, self._start)

    def _start(self) -> None:
        loop = self.world.loop
        jobs = [pump.run(self._events(topic)) for topic, pump in self.pumps.items()]
        jobs += [self.announcer.mark_forever(), self._sweep_forever(), self._commit_forever()]
        self._look()
        self._tasks = [loop.create_task(job) for job in jobs]
        self.world.broker.join(self)

    def end(self, why: str) -> None:
        """The process ends itself, or is killed: the supervisor starts another one."""
        if self.process.dead:
            return
        world = self.world
        world.tell(f"{self.name} ends: {why}")
        world.loop.kill(self.process)
        self.times_stopped += 1
        neutral = context_of(None)
        world.loop.call_later(SESSION_SECONDS, world.broker.expire, self, self.times_stopped, context=neutral)
        world.restart_later(self)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long; its session may be over by then."""
        if self.process.dead or self.process.frozen:
            return
        world = self.world
        self.times_stopped += 1
        world.tell(f"{self.name} frozen for {seconds:.1f} s")
        world.loop.freeze(self.process)
        neutral = context_of(None)
        world.loop.call_later(SESSION_SECONDS, world.broker.expire, self, self.times_stopped, context=neutral)
        world.loop.call_later(seconds, self._thaw, context=neutral)

    def _thaw(self) -> None:
        if self.process.dead:
            return
        self.times_stopped += 1
        self.world.loop.thaw(self.process)
        after = self.rng.uniform(0.0, HEARTBEAT_SECONDS)
        self.world.loop.call_later(after, self._heartbeat, context=context_of(self.process))

    def _heartbeat(self) -> None:
        """Its coordinator tells it that it was thrown out, if it was."""
        broker = self.world.broker
        if broker.members.get(self.name) is not self and not self.stopping:
            self._forget()
            broker.join(self)

    async def stop(self) -> None:
        """SIGTERM: take nothing new, let what is in work end, commit, leave."""
        self.stopping = True
        self.mode.stop()
        self.visa_pauses.stop()
        await asyncio.gather(*(pump.drain(DRAIN_SECONDS) for pump in self.pumps.values()))
        self._commit()
        await self.announcer.mark_now()
        self.world.broker.leave(self)
        self.world.tell(f"{self.name} has drained")
        self.world.loop.kill(self.process)

    async def pass_time(self, seconds: float) -> None:
        """Wait, frozen or not. As asyncio.sleep, for much less: it is called more than anything else here."""
        loop = self.world.loop
        if self.may_skip(seconds):
            return
        over = loop.create_future()
        loop.call_later(seconds, over.set_result, None)
        await over

    def may_skip(self, seconds: float) -> bool:
        """Whether nothing else happens meanwhile: then the time has passed already."""
        return not (self.process.frozen or self.process.dead) and self.world.loop.skip(seconds)

    async def boundary(self, name: str) -> None:
        """A point at which the worker touches the outside; the crash points are counted here."""
        if self.counts_boundaries:
            await self.world.passes(self, name)

    # The mode.

    def look_soon(self) -> None:
        """Its next look at the mode. It looks only when there is something to see: looking costs a world its time."""
        after = self._look_rng.uniform(0.0, LOOK_EVERY_SECONDS)
        self.world.loop.call_later(after, self._look, context=context_of(self.process))

    def _look(self) -> None:
        world = self.world
        if world.loop.now < world.database_away_until:
            self.look_soon()
            return
        self.mode.saw(world.run_now(world.ledger.mode()).mode)

    # Kafka.

    def assigned(self, generation: int, slots: Sequence[Slot]) -> None:
        """The group's word, however late it comes: what was ours before is forgotten first."""
        broker = self.world.broker
        if broker.members.get(self.name) is not self or (self.generation or 0) >= generation:
            return  # thrown out, or an older word that comes after a newer one
        self._forget()
        if generation != broker.generation:
            return  # a newer word is on its way
        self.generation = generation
        for slot in slots:
            broker.owners[slot] = self
            self.positions[slot] = self.first_offsets[slot] = broker.committed.get(slot, 0)
        for topic in READ_BY_WORKERS:
            self.notice(topic)

    def _forget(self) -> None:
        self.generation = None
        self.positions.clear()
        self.first_offsets.clear()
        for pump in self.pumps.values():
            pump.forget(None)

    def notice(self, topic: str) -> None:
        """There may be something new to read."""
        waiting = self._waiting.pop(topic, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _events(self, topic: str) -> AsyncIterator[Event]:
        while True:
            event = self._next(topic)
            if event is None:
                self._waiting[topic] = self.world.loop.create_future()
                await self._waiting[topic]
                await self.pass_time(self.rng.uniform(0.001, 0.02))
            else:
                yield event

    def _next(self, topic: str) -> Event | None:
        """The next record of the topic's partitions that are ours, in turns."""
        generation = self.generation
        if generation is None:
            return None
        count = self.world.broker.partitions_of
        for step in range(count):
            slot = topic, (self._turn[topic] + step) % count
            position = self.positions.get(slot)
            records = self.world.broker.topics[slot]
            if position is None or position >= len(records):
                continue
            if self.lose_next and position + 1 < len(records):
                self.lose_next -= 1
                self.world.tell(f"{self.name} loses {slot[0]}-{slot[1]}-{position}")
                position += 1
            self._turn[topic] = (slot[1] + 1) % count
            self.positions[slot] = position + 1
            return Event(Message(records[position], generation), self)
        return None

    def acknowledged(self) -> None:
        """Something may be committed soon."""
        self._dirty.set()

    async def _commit_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await self.pass_time(COMMIT_EVERY_SECONDS)
            self._dirty.clear()
            await self.boundary("offsets.commit:before")
            self._commit()
            await self.boundary("offsets.commit:after")

    def _commit(self) -> None:
        generation = self.generation
        if generation is None:
            return
        for slot in list(self.positions):
            offset = self.pumps[slot[0]].committable(slot)
            if offset is not None and offset > self.world.broker.committed.get(slot, 0):
                self.world.broker.commit(self, generation, slot, offset)

    def confirmed(self, topic: str, confirmation: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """The confirmation as the worker sees it: with a boundary behind it where crash points are counted."""
        if not self.counts_boundaries:
            return confirmation

        async def seen() -> None:
            await confirmation
            await self.boundary(f"publish.{topic}:after")

        return asyncio.ensure_future(seen())

    async def _judge(self, slot: Slot, hole: range) -> int | None:
        """Whether there is a record in the hole, as a reader without a group finds."""
        await self.pass_time(0.05)
        records = self.world.broker.topics[slot]
        return next((offset for offset in hole if offset < len(records)), None)

    # The sweeper.

    async def _sweep_forever(self) -> None:
        world = self.world
        while True:
            await self.pass_time(self._until_next_sweep())
            try:
                await self.sweeper.sweep()
            except (LedgerError, BrokerUnavailable, PublishUnconfirmed):
                continue
            except Exception as error:  # noqa: BLE001 - as the product's: logged there, a finding here
                world.watch.bug(f"sweep: {type(error).__name__}: {error}")

    def _until_next_sweep(self) -> float:
        world = self.world
        jitter = self.rng.uniform(0.9, 1.1)
        if world.now_seconds > world.plan.arrivals_seconds + LONG_AFTER_SECONDS and world.is_visa_paused:
            return OUTAGE_SWEEP_SECONDS * jitter
        if world.now_seconds - world.last_append < QUIET_SECONDS:
            return SWEEP_SECONDS * jitter
        return min(max(world.seconds_to_next_due(), SWEEP_SECONDS), SWEEP_AT_LEAST_SECONDS) * jitter

    # Wiring, as streams.bootstrap does it.

    def _clock(self) -> datetime:
        return self.world.now() + self.skew

    async def _send(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        self.world.watch.published(self, topic, self.mode.mode)
        return await self.world.broker.send(self, topic, key, value, headers)

    async def _lag_of(self, topic: str) -> int:
        return self.world.broker.lag(topic)

    async def _bug(self, record: Record, error: Exception) -> None:
        self.world.watch.bug(f"{record.source}: {type(error).__name__}: {error}")
        await self.stage_handlers.on_bug(record, error)

    def _unconfirmed(self, topic: str) -> None:
        self.end(f"a publish to {topic} was not confirmed (K5)")

    def _wire(self) -> None:
        world = self.world
        metrics, schedule, settings = world.metrics, world.schedule, world.settings
        ledger = cast("Ledger", LedgerLink(self))
        self.gate = Gate()
        self.mode = mode = ModeWatch(ledger, metrics)
        self.visa_pauses = VisaPauses(
            after_failures=settings.visa_pause_after_failures,
            probe_max_seconds=world.probe_max_seconds,
            clock=world.loop.time,
            metrics=metrics,
        )
        codec = cast("Codec", world.codec)
        publisher = Publisher(
            self._send,
            codec,
            prefix="",
            unconfirmed_seconds=UNCONFIRMED_SECONDS,
            on_unconfirmed=self._unconfirmed,
            metrics=metrics,
            permitted=lambda: mode.until(Activity.PUBLISH),
        )
        self.announcer = Announcer(ledger, publisher)
        dead_letters = DeadLetters(ledger, publisher, world.keys, prefix="", metrics=metrics)
        stages = cast("StageRunner", world.stages)
        calls = VisaCalls(
            cast("VisaDirectClient", VisaLink(self)),
            ledger,
            stages,
            profile=world.profile,
            accounts=world.accounts,
            keys=world.keys,
            pauses=self.visa_pauses,
            calls_max=CALLS_MAX,
            clock=self._clock,
            metrics=metrics,
            rate=VisaRate(calls_max=CALLS_MAX, metrics=metrics, clock=world.loop.time),
            boottime=world.loop.time,
        )
        driver = Driver(
            ledger,
            stages=stages,
            calls=calls,
            announcer=self.announcer,
            schedule=schedule,
            owner=self.name,
            metrics=metrics,
            clock=self._clock,
            allows=mode.allows,
        )
        self._wire_agents(ledger, codec, driver, publisher, dead_letters, schedule)

    def _wire_agents(
        self,
        ledger: Ledger,
        codec: Codec,
        driver: Driver,
        publisher: Publisher,
        dead_letters: DeadLetters,
        schedule: Schedule,
    ) -> None:
        world = self.world
        intake = Intake(
            ledger,
            world.reader,
            driver,
            publisher,
            dead_letters,
            schedule=schedule,
            clock=self._clock,
            metrics=world.metrics,
            worker=self.name,
        )
        self.stage_handlers = handlers = StageHandlers(ledger, codec, driver, dead_letters)
        self.sweeper = Sweeper(
            ledger,
            publisher,
            self.announcer,
            schedule=schedule,
            lag_of=self._lag_of,
            clock=self._clock,
            metrics=world.metrics,
            is_paused=lambda: bool(self.gate.reasons),
            is_visa_paused=lambda: self.visa_pauses.stop_payouts,
            may_publish=lambda: self.mode.allows(Activity.PUBLISH),
        )
        by_topic: dict[str, Handler] = {
            "payout_requests": intake,
            "payout_validated": handlers.comply,
            "payout_cleared": handlers.submit,
            "payout_retry": handlers.retry,
            "payout_failed_requires_compensation": handlers.compensate,
            "payout_compensation_confirmations": handlers.confirm,
            "payout_review_decisions": handlers.review,
        }
        self.pumps = {
            topic: Pump(
                topic,
                handler,
                in_flight_max=IN_FLIGHT_MAX,
                gate=self.gate,
                away=what_is_away,
                on_bug=self._bug,
                metrics=world.metrics,
                generation=lambda: self.generation,
                first_offset=self.first_offsets.get,
                went_back=lambda slot: self.end(f"reading before the committed offset of {slot}"),
                judge=self._judge,
                on_loss=lambda what: self.end(f"a record was lost (K8): {what}"),
                admission=Stage(lambda: self.mode, ACTIVITY_OF_TOPIC[topic]),
            )
            for topic, handler in by_topic.items()
        }
