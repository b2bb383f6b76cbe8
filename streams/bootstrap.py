"""Wires one worker: settings, keys, policies, ledger, Visa, Kafka. Everything is made here and nowhere else."""

import asyncio
import io
import logging
import os
import platform
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import faust
import uvloop
from faust.exceptions import ConsumerNotStarted

from ledger.connections import Timeouts
from ledger.interface import Ledger
from ledger.postgres import PostgresLedger
from ledger.waiting import PATIENCE_SECONDS, PATIENCE_TEST_SECONDS
from processors.compliance.decide import Thresholds
from processors.compliance.review_policy import SHIPPED_REVIEW_POLICY, load_review_policy
from processors.compliance.watch_list import load_watch_list
from processors.payout.modes import Activity, calls_leave, connects
from processors.validation.policy import load_policy
from processors.validation.validate import ValidationLimits
from processors.visa.account_payouts import AccountProfile
from processors.visa.errors import error_table
from processors.visa.requests import CardAcceptor, SubmissionProfile
from processors.visa.transport import VisaDirectClient
from schemas.codec import Codec, PinnedResolver, RegistryResolver
from schemas.topics import topic_name, topic_of
from streams.announcer import Announcer
from streams.audit_topic import AuditTopic
from streams.away import what_is_away
from streams.backlog import Backlog
from streams.clock import utc_now
from streams.completeness import Follower, KafkaRecords
from streams.dead_letters import DeadLetters
from streams.driver import Driver
from streams.faust_sensor import WorkerSensor
from streams.gate import Gate
from streams.handlers import StageHandlers
from streams.health import HealthServer
from streams.holes import HoleJudge, PartitionReader, Slot
from streams.intake import Intake
from streams.kafka_app import PayoutsApp, create_app
from streams.kafka_connection import confluent_config
from streams.keys import Keys, load_keys
from streams.lag import LagReader
from streams.ledger_figures import LedgerLooks
from streams.ledger_guard import LedgerGuard
from streams.logs import configure_logs
from streams.metric_labels import PayoutLabels
from streams.metrics import Metrics
from streams.modes import ACTIVITY_OF_TOPIC, ModeWatch, Stage
from streams.publisher import Publisher
from streams.pump import Handler, Pump, Record
from streams.readiness import Parts, Pulse
from streams.request_reader import KeyedRequestReader
from streams.sealer import Sealer
from streams.settings import AGENT_NAMES, Settings, SettingsInvalid, load_settings, settings_file
from streams.stacks import tell_on_signal, told_in_time
from streams.stages import Policies, StageRunner
from streams.sweeper import Sweeper
from streams.topic_ids import TopicIds
from streams.tracing import NO_TRACING, Tracing
from streams.visa_calls import VisaCalls
from streams.visa_client import ClientSource
from streams.visa_jwks import jwks_keys
from streams.visa_keeper import VisaKeeper
from streams.visa_material import material_in_use
from streams.visa_pause import VisaPauses
from streams.visa_rate import VisaRate
from streams.watchdog import Watchdog, Work

log = logging.getLogger(__name__)

EXIT_CODE_UNCONFIRMED = 71
"""A publish was not confirmed in time (rule K5), or a background task died; the supervisor starts it again."""
EXIT_CODE_RECORD_LOST = 72
"""A record was found that should have been delivered and was not (rule K8): the next start reads it."""
EXIT_CODE_TOPIC_MADE_ANEW = 73
"""A topic is another one than the one that was read (rule K8): the next start reads it from its first record."""
REBALANCES_STUCK = 4
"""Rebalance time-outs after which a worker that still waits for its partitions will wait for ever."""
LOOKS_PER_STANDSTILL = 4
"""A record that nobody takes is seen well before the limit."""
TICK_SECONDS = 0.5
"""Between two beats of the event loop: what liveness and the watchdog see."""
DISTRIBUTION = "payout-streams"
DRAIN_MARGIN_SECONDS = 3.0
"""After the longest call, for its outcome's commit and publish."""

AGENT_TOPICS = {
    "validate": ("payout_requests",),
    "comply": ("payout_validated",),
    "submit": ("payout_cleared",),
    "retry": ("payout_retry",),
    "compensate": ("payout_failed_requires_compensation", "payout_compensation_confirmations"),
    "review": ("payout_review_decisions",),
}
AGENTS_THAT_CALL_VISA = frozenset({"submit", "retry", "compensate"})


def run_worker(settings: Settings, agents: tuple[str, ...] = AGENT_NAMES) -> None:
    """Run until a signal; exits the process. Raises SettingsInvalid before anything is opened."""
    unknown = sorted(set(agents) - set(AGENT_NAMES))
    if unknown or not agents:
        raise SettingsInvalid(f"no such agent: {', '.join(unknown) or '(none)'}; choose from {', '.join(AGENT_NAMES)}")
    problems = settings.problems(needs_visa=bool(AGENTS_THAT_CALL_VISA & set(agents)))
    if problems:
        raise SettingsInvalid("This worker may not start:\n  " + "\n  ".join(problems))
    name = settings.payouts_worker_name or f"{socket.gethostname()}-{os.getpid()}"
    configure_logs(name, settings.payouts_log_level, settings.payouts_log_format)
    # Its default would end a worker that is told to reload before there is anything to reload.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    worker = WorkerRuntime(settings, agents, name)
    faust.Worker(
        worker.app,
        loglevel=settings.payouts_log_level,
        override_logging=False,
        quiet=True,
        redirect_stdouts=False,
        stdout=io.StringIO(),  # its progress spinner: on a full disk it ended the worker
    ).execute_from_commandline()


class WorkerRuntime:
    """Everything one worker holds open."""

    def __init__(self, settings: Settings, agents: tuple[str, ...], name: str) -> None:
        self.settings = settings
        self.agents = agents
        self.name = name
        self.gate = Gate()
        self.metrics = Metrics()
        self.metrics.build.labels(
            version(DISTRIBUTION), platform.python_version(), settings.payouts_profile.value, name
        ).set(1)
        self.visa_pauses = VisaPauses(
            after_failures=settings.visa_pause_after_failures,
            probe_max_seconds=settings.visa_probe_max_seconds,
            clock=time.monotonic,
            metrics=self.metrics,
        )
        self.visa_rate = VisaRate(
            calls_max=settings.visa_calls_max,
            metrics=self.metrics,
            credential_per_second=settings.visa_rate_limit_per_second,
            originator_per_second=settings.visa_originator_rate_limit_per_second,
        )
        self._closers: list[Any] = []
        self.tracing = self._open_tracing()
        self.app: PayoutsApp = create_app(settings, name)
        self.app.on_lost = self._forget
        self.app.on_sender_ended = _end_without_sender
        self.app.on_commit = self._count_commit
        self.app.sensors.add(WorkerSensor(self.metrics))
        self.app.on_begin = self._begin
        self.app.on_end = self._end
        self.app.committable = self._committable
        names = [topic_name(t, settings.payouts_topic_prefix) for agent in agents for t in AGENT_TOPICS[agent]]
        self._topic_ids = TopicIds(confluent_config(settings), names)
        self.app.topic_id = self._topic_ids.of
        self._mode: ModeWatch | None = None
        """None until the ledger is open: nothing is taken before."""
        self._stood: frozenset[str] = frozenset()
        self.app.stands = lambda name: not self._takes(topic_of(name, settings.payouts_topic_prefix).name)
        self.app.drain = self._drain
        self._pumps: dict[str, Pump] = {}
        self._pump_of: dict[str, Pump] = {}
        """By the topic's name on the cluster."""
        self._handlers: dict[str, Handler] = {}
        self._on_bug: Any = None
        self._stages: StageRunner | None = None
        self._calls: VisaCalls | None = None
        self._ledger: PostgresLedger | None = None
        self._ticked_at = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._visa_keeper: VisaKeeper | None = None
        self._visa_source: ClientSource | None = None
        self._assigned_at = time.monotonic()
        self._background: list[asyncio.Task[None]] = []
        self._judge = HoleJudge(confluent_config(settings), self.metrics)
        self._watchdog = Watchdog(
            max(10.0, settings.unconfirmed_seconds * 2), settings.standstill_seconds, self._tell_where
        )
        self._backlog = Backlog(
            PartitionReader(confluent_config(settings)),
            self._idle_positions,
            every_seconds=settings.standstill_seconds / LOOKS_PER_STANDSTILL,
        )
        self._closers += [self._judge.close, self._backlog.close]
        self._add_agents()

    def _tell_where(self, why: str) -> None:
        told_in_time(why, self._loop)

    def _open_tracing(self) -> Tracing:
        """OpenTelemetry is imported only by who wants it; closed last, so that the last spans go, too."""
        if self.settings.payouts_tracing == "off":
            return NO_TRACING
        from streams.opentelemetry_spans import close_recorder, open_tracing

        tracing, recorder = open_tracing(self.settings, self.name, self.metrics)
        self._closers.append(lambda: close_recorder(recorder))
        return tracing

    def _add_agents(self) -> None:
        """One Faust agent a topic, each a thin shell around a pump."""
        for agent in self.agents:
            for topic in AGENT_TOPICS[agent]:
                self._add_agent(agent, topic)

    def _add_agent(self, agent: str, topic: str) -> None:
        pump = Pump(
            topic,
            self._dispatch(topic),
            in_flight_max=self.settings.payouts_in_flight_max,
            gate=self.gate,
            away=what_is_away,
            on_bug=self._bug,
            metrics=self.metrics,
            generation=lambda: self.app.consumer_generation_id,
            first_offset=self.app.offsets.first,
            went_back=self.app.offsets.went_back,
            judge=self._judge,
            on_loss=_end_after_loss,
            admission=Stage(lambda: self._watch, ACTIVITY_OF_TOPIC[topic]),
            stand=self.app.stand,
            tracing=self.tracing,
        )
        self._pumps[topic] = pump
        name = topic_name(topic, self.settings.payouts_topic_prefix)
        self._pump_of[name] = pump

        async def consume(stream: Any) -> None:
            await pump.run(_events(stream))

        channel = self.app.topic(name, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
        self.app.agent(channel, name=f"{agent}.{topic}", concurrency=1)(consume)

    def _dispatch(self, topic: str) -> Handler:
        """The handlers exist only once the ledger is open; records arrive later than that."""

        async def handle(record: Record) -> None:
            await self._handlers[topic](record)

        return handle

    async def _bug(self, record: Record, error: Exception) -> None:
        await self._on_bug(record, error)

    async def _begin(self) -> None:
        settings = self.settings
        schedule = settings.schedule
        keys = load_keys(settings.payouts_keys_directory)
        ledger = await self._open_ledger()
        mode = self._mode = ModeWatch(ledger, self.metrics, self._obey)
        codec = Codec(
            RegistryResolver(settings.schema_registry_url) if settings.schema_registry_url else PinnedResolver(),
            topic_prefix=settings.payouts_topic_prefix,
        )
        self._closers.append(codec.close)
        publisher = Publisher(
            self.app.send_record,
            codec,
            prefix=settings.payouts_topic_prefix,
            unconfirmed_seconds=settings.unconfirmed_seconds,
            on_unconfirmed=_end_process,
            metrics=self.metrics,
            request_ids=settings.request_ids,
            permitted=lambda: mode.until(Activity.PUBLISH),
            tracing=self.tracing,
        )
        announcer = Announcer(ledger, publisher)
        self._closers.append(announcer.mark_now)
        dead_letters = DeadLetters(ledger, publisher, keys, prefix=settings.payouts_topic_prefix, metrics=self.metrics)
        policies = load_policies(settings)
        self.metrics.labels = PayoutLabels(
            {f"{source}-{target}" for source, target, *_ in policies.corridors.corridors},
            settings.metrics_originators,
        )
        self._stages = stages = StageRunner(codec, keys, policies, utc_now)
        calls = self._calls = (
            self._open_visa(ledger, stages, keys) if AGENTS_THAT_CALL_VISA & set(self.agents) else None
        )
        driver = Driver(
            ledger,
            stages=stages,
            calls=calls,
            announcer=announcer,
            schedule=schedule,
            owner=self.name,
            metrics=self.metrics,
            clock=utc_now,
            allows=mode.allows,
        )
        intake = Intake(
            ledger,
            KeyedRequestReader(codec, keys),
            driver,
            publisher,
            dead_letters,
            schedule=schedule,
            clock=utc_now,
            metrics=self.metrics,
            worker=self.name,
        )
        handlers = StageHandlers(ledger, codec, driver, dead_letters, policies.review)
        self._on_bug = handlers.on_bug
        self._handlers = {
            "payout_requests": intake,
            "payout_validated": handlers.comply,
            "payout_cleared": handlers.submit,
            "payout_retry": handlers.retry,
            "payout_failed_requires_compensation": handlers.compensate,
            "payout_compensation_confirmations": handlers.confirm,
            "payout_review_decisions": handlers.review,
        }
        sweeper = Sweeper(
            ledger,
            publisher,
            announcer,
            schedule=schedule,
            lag_of=LagReader(confluent_config(settings), settings.group, settings.payouts_topic_prefix).lag_of,
            clock=utc_now,
            metrics=self.metrics,
            is_paused=lambda: bool(self.gate.reasons),
            is_visa_paused=lambda: self.visa_pauses.stop_payouts,
            may_publish=lambda: mode.allows(Activity.PUBLISH),
        )
        figures = LedgerLooks(
            ledger,
            lambda: ledger.figures.look(
                patience_seconds=PATIENCE_SECONDS if settings.production else PATIENCE_TEST_SECONDS,
                resend_limit_seconds=schedule.resend_limit_seconds,
            ),
            self.metrics,
        )
        health = HealthServer(
            host=settings.payouts_http_host,
            port=settings.payouts_http_port,
            port_file=settings.payouts_http_port_file,
            database=lambda: _database(ledger),
            parts=self._parts,
            pulse=self._pulse,
            metrics=self.metrics,
            assignment=self._assignment,
            refresh=self._refresh_gauges,
            visa=lambda: None if self._visa_keeper is None else self._visa_keeper.detail,
            mode=self._mode_facts,
            about=lambda: self._about(policies),
        )
        await health.start()
        self._closers.append(health.stop)
        self._loop = asyncio.get_running_loop()
        tell_on_signal(self._loop)
        self._watchdog.start()
        audit = AuditTopic(confluent_config(settings), codec, settings.payouts_topic_prefix)
        self._closers.append(audit.close)
        guard = LedgerGuard(ledger.seals, audit, self.gate, self.metrics)
        guard.close()  # before any record: the first look takes a moment
        sealer = Sealer(
            ledger.seals,
            publisher,
            codec,
            prefix=settings.payouts_topic_prefix,
            metrics=self.metrics,
            is_permitted=lambda: mode.allows(Activity.AUDIT),
        )
        follower = self._follower(ledger, codec)
        self._background = [
            asyncio.create_task(mode.watch_forever(), name="mode"),
            asyncio.create_task(guard.watch_forever(), name="ledger guard"),
            asyncio.create_task(sealer.seal_forever(), name="sealer"),
            asyncio.create_task(follower.follow_forever(), name="completeness"),
            asyncio.create_task(self._backlog.look_forever(), name="backlog"),
            asyncio.create_task(announcer.mark_forever(), name="announcement marks"),
            asyncio.create_task(sweeper.run_forever(), name="sweeper"),
            asyncio.create_task(figures.look_forever(), name="gauges"),
            asyncio.create_task(self._beat(), name="watchdog beat"),
            asyncio.create_task(self._topic_ids.watch_forever(_end_after_other_topic), name="topic ids"),
        ]
        if self._visa_keeper is not None:
            self._background += [
                asyncio.create_task(self._visa_keeper.keep_forever(), name="visa keeper"),
                asyncio.create_task(self._visa_keeper.keep_keys_forever(), name="visa keys"),
            ]
        for task in self._background:
            task.add_done_callback(_ended_on_its_own)
        await self._topic_ids.learn()
        log.info("worker open", extra={"agents": ",".join(self.agents), "profile": settings.payouts_profile.value})

    def _follower(self, ledger: Ledger, codec: Codec) -> Follower:
        settings = self.settings
        records = KafkaRecords(confluent_config(settings), settings.group, self._topic_ids.of)
        self._closers.append(records.close)
        return Follower(
            ledger,
            codec,
            records,
            prefix=settings.payouts_topic_prefix,
            committed=lambda: self.app.offsets.committed,
            drive=lambda record: self._pump_of[record.topic].handle_again(record),
            gate=self.gate,
            away=what_is_away,
            patience_seconds=60.0 if settings.production else 6.0,
            every_seconds=2.0 if settings.production else 0.5,
            metrics=self.metrics,
            permitted=lambda: self._watch.until(Activity.PUBLISH),
        )

    async def _open_ledger(self) -> PostgresLedger:
        ledger = await PostgresLedger.connect(
            self.settings.database_url.get_secret_value(),
            pool_max=self.settings.database_pool_max,
            timeouts=_ledger_timeouts(self.settings.unconfirmed_seconds),
            application_name=f"payouts {self.name}",
            guarded=True,
        )
        self._closers.append(ledger.close)
        ledger.on_wait(self._count_wait)
        self._ledger = ledger
        if self.settings.production:
            durability = await ledger.durability()
            if not durability.is_safe:
                raise SettingsInvalid(
                    f"The database confirms commits before they are durable: {durability}. Repair it."
                )
        return ledger

    def _open_visa(self, ledger: PostgresLedger, stages: StageRunner, keys: Keys) -> VisaCalls:
        settings = self.settings
        error_table()  # read now: nothing that only names errors may fail between a call and its outcome
        material = material_in_use(settings, utc_now())
        source = ClientSource(
            VisaDirectClient(material.connection),
            on_exchange=lambda exchange: keeper.saw(exchange),
            on_returned=lambda why: keeper.returned(why),
        )
        visa_keys, breaker = jwks_keys(settings, load_settings, self.metrics) or (None, None)
        keeper = self._visa_keeper = VisaKeeper(
            source,
            material,
            worker=self.name,
            orders=ledger.visa_orders,
            load_settings=load_settings,
            settings_file=settings_file(),
            pauses=self.visa_pauses,
            metrics=self.metrics,
            clock=utc_now,
            keys=visa_keys,
            breaker=breaker,
            may_connect=self._may_connect,
        )
        self._visa_source = source
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, keeper.ask_to_reload)
        calls = VisaCalls(
            source,
            ledger,
            stages,
            profile=submission_profile(settings),
            accounts=account_profile(settings),
            keys=keys,
            pauses=self.visa_pauses,
            calls_max=settings.visa_calls_max,
            clock=utc_now,
            metrics=self.metrics,
            rate=self.visa_rate,
            request_ids=self.settings.request_ids,
        )
        self._closers += [calls.close, keeper.leave]
        return calls

    async def _drain(self) -> None:
        """Take nothing new; let what is in work end, for at most the longest call."""
        if self._mode is not None:
            self._mode.stop()
        self.visa_pauses.stop()
        self.visa_rate.stop()
        limit = self.settings.http_total_seconds + DRAIN_MARGIN_SECONDS
        done = await asyncio.gather(*(pump.drain(limit) for pump in self._pumps.values()))
        log.info("drained", extra={"complete": all(done)})

    async def _end(self) -> None:
        self._watchdog.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for close in reversed(self._closers):
            try:
                await asyncio.wait_for(close(), 10.0)
            except Exception as error:  # noqa: BLE001 - the rest must be closed too
                log.warning("not closed cleanly", extra={"error": type(error).__name__})

    async def _beat(self) -> None:
        while True:
            self._ticked_at = time.monotonic()
            self._watchdog.beat(self._work())
            self._end_if_never_assigned()
            if self._stages is not None:
                self._stages.forget_old()
            if self._calls is not None:
                self._calls.preflight.forget_old()
            await asyncio.sleep(TICK_SECONDS)
            self.metrics.loop_lag_seconds.set(max(0.0, time.monotonic() - self._ticked_at - TICK_SECONDS))

    def _end_if_never_assigned(self) -> None:
        """K5: a worker that waits in a rebalance works on nothing, and the watchdog has no partition to look at."""
        now = time.monotonic()
        if not self.app.rebalancing:
            self._assigned_at = now
        elif now - self._assigned_at > REBALANCES_STUCK * self.settings.rebalance_timeout_seconds:
            _end_process("a rebalance that does not end")

    def _work(self) -> Work:
        """How our partitions stand, for the watchdog."""
        committed = self.app.offsets.committed
        in_work = {slot for pump in self._pumps.values() for slot, count in pump.waiting.items() if count}
        unconfirmed = {slot for slot, offset in committed.items() if (self._committable(slot) or 0) > offset}
        paused = bool(self._paused_for()) or bool(self.app.rebalancing) or self.visa_rate.is_holding_back
        waiting = in_work | unconfirmed | self._backlog.waiting
        return Work(committed, frozenset(slot for slot in waiting if not self.app.stands(slot[0])), paused)

    def _idle_positions(self) -> dict[Slot, int]:
        """The next offset of every partition in which nothing is in work."""
        busy = {slot for pump in self._pumps.values() for slot, count in pump.waiting.items() if count}
        committed = self.app.offsets.committed.items()
        return {slot: max(offset, self._committable(slot) or 0) for slot, offset in committed if slot not in busy}

    def _committable(self, slot: Slot) -> int | None:
        pump = self._pump_of.get(slot[0])
        return pump.committable(slot) if pump is not None else None

    def _forget(self, lost: Iterable[tuple[str, int]]) -> None:
        for pump in self._pumps.values():
            pump.forget(None)
        log.info("partitions given back", extra={"partitions": len(list(lost))})

    @property
    def _watch(self) -> ModeWatch:
        if self._mode is None:
            raise AssertionError("the ledger is opened before anything asks for the mode")
        return self._mode

    def _takes(self, topic: str) -> bool:
        """Whether the mode lets this topic be consumed."""
        return self._mode is not None and self._mode.allows(ACTIVITY_OF_TOPIC[topic])

    def _may_connect(self) -> bool:
        """Whether the mode lets a worker connect to Visa for itself, to try new certificates."""
        return self._mode is not None and self._mode.mode is not None and connects(self._mode.mode)

    def _obey(self) -> None:
        """After each look: topics whose agents stand are not fetched any more, and no socket to Visa is left open."""
        standing = frozenset(topic for topic in self._pumps if not self._takes(topic))
        for slot in self.app.offsets.committed if standing else ():
            if topic_of(slot[0], self.settings.payouts_topic_prefix).name in standing:
                self.app.stand(slot)
        if self._stood - standing:
            self.app.go_on()
        self._stood = standing
        mode = self._watch.mode
        if self._visa_source is not None and mode is not None and not calls_leave(mode):
            self._visa_source.close_idle()

    def _mode_facts(self) -> dict[str, Any]:
        """For the health page: the mode that this worker obeys, which agents stand, and what is still in work."""
        known = None if self._mode is None or self._mode.mode is None else self._mode.mode.value
        in_work = sum(pump.in_work for pump in self._pumps.values())
        stands = sorted(topic for topic in self._pumps if not self._takes(topic))
        return {"obeyed": known, "stands": stands, "in_work": in_work}

    def _paused_for(self) -> tuple[str, ...]:
        """Why new work waits: what everybody needs is away, or Visa serves nobody (rules K5, S7)."""
        return self.gate.reasons + self.visa_pauses.reasons

    def _assignment(self) -> list[str]:
        """None while the consumer starts: the health page is open before it."""
        try:
            return sorted(f"{tp.topic}-{tp.partition}" for tp in self.app.consumer.assignment())
        except ConsumerNotStarted:
            return []

    def _about(self, policies: Policies) -> dict[str, Any]:
        """For the detailed page: what runs, what it decides by, and what is in work."""
        return {
            "version": version(DISTRIBUTION),
            "worker": self.name,
            "in_progress": {pump.name: pump.in_work for pump in self._pumps.values()},
            "policies": {
                "corridors": policies.corridors.stamp,
                "watch_list": policies.watch_list.version,
                "review": None if policies.review is None else policies.review.version,
            },
        }

    def _pulse(self) -> Pulse:
        """For the liveness page: nothing of it is asked of anybody else."""
        return Pulse(self._ticked_at, self.app.polled_at, bool(self.app.offsets.committed) and not self.app.rebalancing)

    def _parts(self, database: Mapping[str, Any]) -> Parts:
        """For the readiness page; `database` is what it has found."""
        keeper = self._visa_keeper
        return Parts(
            database=database,
            ledger_verified=not any(reason.startswith("ledger") for reason in self.gate.reasons),
            joined=self.app.consumer_generation_id > 0 and not self.app.rebalancing,
            producer=self.app.is_producing,
            certificates={} if keeper is None else keeper.expiries,
            paused_for=self._paused_for(),
        )

    def _refresh_gauges(self) -> None:
        for pump in self._pumps.values():
            self.metrics.in_work.labels(pump.name).set(pump.in_work)
        self.metrics.paused.set(1 if self.gate.reasons else 0)
        self.metrics.show_paused_for(self.gate.reasons)
        partitions = Counter(place.rpartition("-")[0] for place in self._assignment())
        for topic in self._pump_of:
            self.metrics.assigned_partitions.labels(topic).set(partitions[topic])
        if self._ledger is not None:
            connections = self._ledger.connections
            for state in ("idle", "in_use"):
                self.metrics.pool_connections.labels(state).set(connections[state])
            self.metrics.pool_connections_max.set(connections["max"])

    def _count_wait(self, seconds: float, connected: bool) -> None:
        self.metrics.pool_wait_seconds.observe(seconds)
        self.metrics.pool_timeouts.inc(not connected)

    def _count_commit(self, seconds: float, done: bool) -> None:
        self.metrics.commit_seconds.observe(seconds)
        self.metrics.commit_errors.inc(not done)


def _ledger_timeouts(unconfirmed_seconds: float) -> Timeouts:
    """Lock < statement < write: each bound ends before the one that contains it (rule L4)."""
    statement = min(8.0, unconfirmed_seconds * 0.6)
    return Timeouts(lock_seconds=statement / 2, statement_seconds=statement, write_seconds=unconfirmed_seconds)


async def _database(ledger: PostgresLedger) -> dict[str, Any]:
    """For the health page. Raises LedgerError."""
    record = await ledger.mode()
    return {"status": "ok", "mode": record.mode.value, "poolStats": ledger.connections}


async def _events(stream: Any) -> AsyncIterator[Any]:
    """Events without Faust's own acknowledgement: the window decides (rule K1)."""
    async for event in stream.noack().events():
        yield event


def _ended_on_its_own(task: asyncio.Task[None]) -> None:
    """A background task has no end of its own: without it the worker would look alive and be half of one."""
    if not task.cancelled():
        log.critical(
            "background task ended: ending the worker", extra={"task": task.get_name()}, exc_info=task.exception()
        )
        logging.shutdown()
        os._exit(EXIT_CODE_UNCONFIRMED)


def _end_after_loss(what: str) -> None:
    """K8: nothing from the lost record on was committed, so the next start reads it again."""
    log.critical("a record was lost on its way to us: ending the worker", extra={"record": what})
    logging.shutdown()
    os._exit(EXIT_CODE_RECORD_LOST)


def _end_after_other_topic(topic: str) -> None:
    """K8: what is committed from here on would be for the old topic, and skip records of the new one."""
    log.critical("a topic was made anew: ending the worker, the next start reads it whole", extra={"topic": topic})
    logging.shutdown()
    os._exit(EXIT_CODE_TOPIC_MADE_ANEW)


def _end_without_sender(error: BaseException | None) -> None:
    """K5: a producer whose sender is gone takes nothing more, for ever; only a new one does."""
    log.critical("the producer's sender ended: ending the worker", exc_info=error)
    logging.shutdown()
    os._exit(EXIT_CODE_UNCONFIRMED)


def _end_process(what: str) -> None:
    """K5: with a publish of unknown outcome the only safe producer is a new one."""
    log.critical("not confirmed in time: ending the worker", extra={"unconfirmed": what})
    logging.shutdown()
    os._exit(EXIT_CODE_UNCONFIRMED)


def load_policies(settings: Settings) -> Policies:
    """The corridor policy, the watch list and the thresholds that this worker decides by."""
    directory = settings.payouts_policies_directory
    return Policies(
        corridors=load_policy(directory / "corridors.yaml" if directory else None),
        watch_list=load_watch_list(directory / "watch_list.csv" if directory else None),
        thresholds=Thresholds(
            settings.payouts_review_threshold_basis_points, settings.payouts_deny_threshold_basis_points
        ),
        limits=ValidationLimits(accounts_offered=settings.visa_initiating_party_id is not None),
        review=load_review_policy(directory / SHIPPED_REVIEW_POLICY if directory else None),
    )


def submission_profile(settings: Settings) -> SubmissionProfile:
    """What is the same in every call of this enrolment."""
    acceptor = CardAcceptor(
        name=settings.visa_card_acceptor_name,
        id_code=settings.visa_card_acceptor_id,
        terminal_id=settings.visa_terminal_id,
        country=settings.visa_card_acceptor_country,
        city=settings.visa_card_acceptor_city,
        state=settings.visa_card_acceptor_state,
        county=settings.visa_card_acceptor_county,
        zip_code=settings.visa_card_acceptor_zip_code,
        legal_business_name=settings.visa_legal_business_name,
    )
    return SubmissionProfile(
        acquiring_bin=settings.visa_acquiring_bin,
        acquirer_country_code=settings.visa_acquirer_country_code,
        card_acceptor=acceptor,
        business_application_id=settings.visa_business_application_id,
        merchant_category_code=settings.visa_merchant_category_code,
    )


def account_profile(settings: Settings) -> AccountProfile | None:
    """The same of the account and wallet rail; None where this enrolment has none."""
    if settings.visa_initiating_party_id is None:
        return None
    return AccountProfile(
        initiating_party_id=settings.visa_initiating_party_id,
        business_application_id=settings.visa_business_application_id,
    )
