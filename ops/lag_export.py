"""`payouts lag export`: the lag for Prometheus, from a process that lives while the workers do not.

Names are those that several exporters share (`kafka_consumergroup_group_*`, `kafka_partition_*`), so that dashboards
made for them work; what they have no name for is `payouts_consumergroup_*`. No label names a member: members come and
go with every rebalance. There is never a number that is not known: nothing committed, no lag; Kafka away, no samples.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import ops.kafka
from ops.application import as_failure
from ops.failures import usage_error
from ops.group_members import GroupState
from ops.lag_look import RECORDS_SECONDS, GroupLag, LagSource, PartitionLag, Watch
from ops.lag_status import PARTITION_STATUSES
from ops.output import message
from ops.repeating import Rhythm, ending_signals, in_thread, repeat
from streams.settings import Settings

REQUEST_BYTES_MAX: Final = 1024
"""Nobody has anything to send here."""
KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than the usual interval of a scraper, who then keeps his connection."""
SHUTDOWN_SECONDS: Final = 2.0
QUESTIONS: Final = 6
"""A look asks Kafka so many things, each with the same time-out."""

_GROUP: Final = ("cluster_name", "group")
_TOPIC: Final = (*_GROUP, "topic")
_PARTITION: Final = (*_TOPIC, "partition")
_LOG: Final = ("cluster_name", "topic", "partition")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 is a free one."""

    host: str
    port: int


class LagMetrics(Collector):
    """The last look as metrics. Samples of the lag are there only while the last look is a good one and young."""

    def __init__(self, cluster_name: str, keep_seconds: float, clock: Callable[[], float] = time.time) -> None:
        """A look older than `keep_seconds` counts as failed: the one after it hangs."""
        self._cluster_name = cluster_name
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._look: GroupLag | None = None
        self._seen = Watch()
        self._updated_at: float | None = None
        self._took_seconds: float | None = None

    @property
    def up(self) -> bool:
        """Whether the last look is good and young enough to be shown."""
        return (
            self._look is not None
            and self._updated_at is not None
            and self._clock() - self._updated_at <= self._keep_seconds
        )

    @property
    def updated_at(self) -> float | None:
        """When the last good look was taken, since the epoch."""
        return self._updated_at

    def took(self, look: GroupLag, seconds: float, at_monotonic_seconds: float) -> None:
        """A look that succeeded, and how long it took."""
        self._look = look
        self._updated_at = self._clock()
        self._took_seconds = seconds
        self._seen.add(look, at_monotonic_seconds)

    def failed(self, seconds: float) -> None:
        """A look that failed: what was known is old now."""
        self._look = None
        self._took_seconds = seconds

    def collect(self) -> Iterator[Metric]:
        """Every family that there is something to say of."""
        yield self._one("kafka_lag_exporter_up", "1 while Kafka answers.", float(self.up))
        if self._updated_at is not None:
            yield self._one(
                "kafka_lag_exporter_last_update_timestamp_seconds", "Time of the last good look.", self._updated_at
            )
        if self._took_seconds is not None:
            yield self._one(
                "kafka_lag_exporter_scrape_duration_seconds", "Seconds that the last look took.", self._took_seconds
            )
        look = self._look
        if look is None or not self.up:
            return
        yield from self._of_partitions(look)
        yield from self._of_group(look)

    def _one(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["cluster_name"])
        family.add_metric([self._cluster_name], value)
        return family

    def _of_partitions(self, look: GroupLag) -> Iterator[Metric]:
        def per_partition(name: str, text: str, value: Callable[[PartitionLag], float | None]) -> Metric:
            samples = ((self._labels(look, p.topic, str(p.partition)), value(p)) for p in look.partitions)
            return _family(name, text, _PARTITION, samples)

        def per_log(name: str, text: str, value: Callable[[PartitionLag], float | None]) -> Metric:
            samples = (((self._cluster_name, p.topic, str(p.partition)), value(p)) for p in look.partitions)
            return _family(name, text, _LOG, samples)

        yield per_partition(
            "kafka_consumergroup_group_offset", "Offset that the group has committed.", lambda p: p.committed_offset
        )
        yield per_partition(
            "kafka_consumergroup_group_lag", "Offsets from what is committed to the end.", lambda p: p.lag_records
        )
        yield per_partition(
            "kafka_consumergroup_group_lag_seconds",
            "Age of the first record that is not finished; 0 where none waits.",
            lambda p: p.lag_seconds,
        )
        yield per_partition(
            "payouts_consumergroup_expired_records",
            "Offsets that retention removed before the group came to them.",
            lambda p: None if p.committed_offset is None else p.expired_records,
        )
        yield per_log("kafka_partition_earliest_offset", "First offset there is.", lambda p: p.earliest_offset)
        yield per_log(
            "kafka_partition_latest_offset", "Offset that comes next, for a committed reader.", lambda p: p.end_offset
        )
        yield _family(
            "payouts_consumergroup_partition_status",
            "1 for the status by Burrow's rules; OK also while the window is not complete.",
            (*_PARTITION, "status"),
            (
                (self._labels(look, p.topic, str(p.partition), status), float(self._seen.window(p).status() is status))
                for p in look.partitions
                if p.committed_offset is not None
                for status in PARTITION_STATUSES
            ),
        )

    def _of_group(self, look: GroupLag) -> Iterator[Metric]:
        def of_group(name: str, text: str, value: float | None) -> Metric:
            return _family(name, text, _GROUP, [(self._labels(look), value)])

        yield of_group("kafka_consumergroup_group_max_lag", "Largest lag of a partition.", look.max_lag_records)
        yield of_group(
            "kafka_consumergroup_group_max_lag_seconds",
            "Largest lag in seconds of a partition; absent while one is not known.",
            look.max_lag_seconds,
        )
        yield of_group("kafka_consumergroup_group_sum_lag", "Lag of all partitions with a commit.", look.lag_records)
        yield _family(
            "kafka_consumergroup_group_topic_sum_lag",
            "Lag of a topic's partitions with a commit.",
            _TOPIC,
            ((self._labels(look, topic), lag) for topic, lag in look.by_topic().items()),
        )
        yield _family(
            "kafka_consumergroup_group_state",
            "1 for the state that the group is in.",
            (*_GROUP, "state"),
            ((self._labels(look, state.value), float(look.state is state)) for state in GroupState),
        )
        yield of_group("payouts_consumergroup_members", "Members of the group.", len(look.members))
        yield of_group(
            "payouts_consumergroup_uncommitted_partitions",
            "Partitions for which nothing was ever committed: they have no lag.",
            look.uncommitted,
        )
        yield of_group(
            "payouts_consumergroup_unknown_lag_seconds_partitions",
            "Partitions whose first waiting record did not come in time.",
            look.unknown_seconds,
        )
        yield of_group(
            "payouts_consumergroup_window_complete_ratio",
            "How much of the looks is there that a status needs, 0 to 1.",
            self._seen.complete_ratio(),
        )

    def _labels(self, look: GroupLag, *more: str) -> tuple[str, ...]:
        return (self._cluster_name, look.group, *more)


def _family(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float | None]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


async def serve(settings: Settings, address: Address, cluster_name: str, rhythm: Rhythm) -> None:
    """Look and serve until a signal. Raises CommandFailed (usage) when the address cannot be listened on."""
    look_seconds_max = QUESTIONS * ops.kafka.ADMIN_SECONDS + RECORDS_SECONDS
    metrics = LagMetrics(cluster_name, rhythm.interval_seconds + look_seconds_max)
    with ending_signals() as ended, LagSource(settings) as source:
        looking = _Looking(source, metrics)
        runner = await _listening(address, metrics, looking, rhythm.interval_seconds + look_seconds_max)
        try:
            await repeat(looking.step, rhythm, ended)
        finally:
            await runner.cleanup()


class _Looking:
    """Takes looks; tells on stderr when Kafka begins or ceases to answer, not at every look in between."""

    def __init__(self, source: LagSource, metrics: LagMetrics) -> None:
        self._source = source
        self._metrics = metrics
        self._was_up: bool | None = None
        self.ended_at = time.monotonic()
        """When the last look ended, on the monotonic clock."""

    async def step(self) -> None:
        """One look."""
        begun = time.monotonic()
        try:
            look = await in_thread(self._source.look)
        except Exception as error:  # noqa: BLE001 - an exporter that ends at the first broken broker tells nobody
            self._metrics.failed(time.monotonic() - begun)
            failure = as_failure(error)
            self._tell(False, f"no lag to show: {failure.what}: {failure.why}")
        else:
            self._metrics.took(look, time.monotonic() - begun, begun)
            self._tell(True, f"the lag of group {look.group} is shown")
        self.ended_at = time.monotonic()

    def _tell(self, up: bool, text: str) -> None:
        if up is not self._was_up:
            message(text)
        self._was_up = up


async def _listening(
    address: Address, metrics: LagMetrics, looking: _Looking, silent_seconds_max: float
) -> web.AppRunner:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(metrics)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_health(_: web.Request) -> web.Response:
        lives = time.monotonic() - looking.ended_at <= silent_seconds_max
        detail: dict[str, Any] = {
            "status": "alive" if lives else "hanging",
            "kafka_answers": metrics.up,
            "last_update_timestamp_seconds": metrics.updated_at,
        }
        return web.json_response(detail, status=200 if lives else 503, dumps=json.dumps)

    app = web.Application(client_max_size=REQUEST_BYTES_MAX)
    app.add_routes([web.get("/metrics", show_metrics), web.get("/health", show_health)])
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=KEEP_ALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise usage_error(
            f"cannot listen on {address.host}:{address.port}",
            why=error.strerror or type(error).__name__,
            next_step="choose another --port or --host",
        ) from None
    message(f"metrics on http://{address.host}:{runner.addresses[0][1]}/metrics")
    return runner
