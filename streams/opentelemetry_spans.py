"""Finished spans to an OpenTelemetry collector: the only module that imports OpenTelemetry, and only when it is on.

A collector that is away, slow or full never slows a payout: spans wait in a bounded queue that a thread of its own
empties, and what finds no room, or is not taken, is dropped and counted (`payouts_tracing_failures_total`).
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, cast

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from processors.pii.redaction import redact_fields
from schemas.trace_context import TraceContext
from streams.logs import SERVICE_NAME, WITHHELD
from streams.metrics import Metrics
from streams.settings import Settings
from streams.telemetry import ATTRIBUTES, ERROR_TYPE, SCOPE
from streams.tracing import Attributes, FinishedSpan, Kind, Tracing

log = logging.getLogger(__name__)

EXPORT_EVERY_MILLISECONDS: Final = 1_000
EXPORT_MAX: Final = 512
"""Spans in one request: about a megabyte before compression."""
EXPORT_SECONDS: Final = 5.0
"""Tries of one request included. What the collector has not taken by then is dropped: newer spans wait behind it."""
CLOSE_SECONDS: Final = 3.0
"""At the end of a worker, for what is still queued."""
VALUE_CHARACTERS_MAX: Final = 256
"""No code, id or name of ours is longer."""

_KINDS: Final = {kind: SpanKind[kind.value] for kind in Kind}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope(SCOPE)


class SpanRecorder:
    """Queues finished spans for OpenTelemetry's exporting thread. Never raises, never waits.

    There they become OpenTelemetry's, many at once: one by one beside the payouts it would cost three times as much.
    """

    def __init__(
        self, exporter: SpanExporter, metrics: Metrics, *, worker: str, environment: str, queue_max: int
    ) -> None:
        """`queue_max` counts the batch under way, too; what finds no room is dropped and counted."""
        # `Resource.create` would read the environment, which may say anything.
        resource = Resource(
            {
                "service.name": SERVICE_NAME,
                "service.instance.id": worker,
                "deployment.environment.name": environment,
            }
        )
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue_max = queue_max
        self._dropped = metrics.tracing_failures.labels("dropped")
        self._batches = BatchSpanProcessor(
            _Exporting(exporter, metrics, resource, self._taken),
            max_queue_size=queue_max,
            schedule_delay_millis=EXPORT_EVERY_MILLISECONDS,
            max_export_batch_size=min(EXPORT_MAX, queue_max),
        )

    def __call__(self, finished: FinishedSpan) -> None:
        """Queue one, if there is room."""
        with self._lock:
            has_room = self._waiting < self._queue_max
            self._waiting += has_room
        if has_room:
            self._batches.on_end(cast("ReadableSpan", _Queued(finished)))
        else:
            self._dropped.inc()

    def flush(self) -> None:
        """Export what waits; waits for the collector."""
        self._batches.force_flush()

    def shutdown(self) -> None:
        """The same, and stop."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def _taken(self, spans: int) -> None:
        with self._lock:
            self._waiting -= spans


class _Queued:
    """What OpenTelemetry's queue looks at of a span, which becomes one only when it is exported."""

    __slots__ = ("finished",)
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, finished: FinishedSpan) -> None:
        self.finished = finished


class _Exporting(SpanExporter):
    """In the exporting thread: makes the spans, counts what was not taken, says so once, and when it works again."""

    def __init__(
        self, exporter: SpanExporter, metrics: Metrics, resource: Resource, taken: Callable[[int], None]
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._failures = metrics.tracing_failures
        self._taken = taken
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """One batch of `_Queued`."""
        result = SpanExportResult.FAILURE
        made: list[ReadableSpan] = []
        try:
            made = self._made(cast("Sequence[_Queued]", spans))
            result = self._exporter.export(made)
        except Exception as error:  # noqa: BLE001 - counted below; the thread must live
            log.debug("spans not exported", extra={"error": type(error).__name__})
        finally:
            self._taken(len(spans))
        self._say(made, failed=result is not SpanExportResult.SUCCESS)
        return result

    def _made(self, queued: Sequence[_Queued]) -> list[ReadableSpan]:
        made = []
        for one in queued:
            try:
                made.append(readable_span(one.finished, self._resource))
            except Exception as error:  # noqa: BLE001 - one that cannot be made must not take the others with it
                self._failures.labels("span").inc()
                log.debug("span not made", extra={"error": type(error).__name__})
        return made

    def _say(self, spans: Sequence[ReadableSpan], *, failed: bool) -> None:
        if failed:
            self._failures.labels("export").inc(len(spans))
        if failed is self._is_failing:
            return
        self._is_failing = failed
        if failed:
            log.warning("the collector does not take spans: they are dropped until it does")
        else:
            log.info("the collector takes spans again")

    def shutdown(self) -> None:
        """Ends a try under way."""
        self._exporter.shutdown()


def readable_span(finished: FinishedSpan, resource: Resource) -> ReadableSpan:
    """OpenTelemetry's form of a finished span, masked."""
    attributes = _masked(finished.attributes)
    status = Status(StatusCode.UNSET)
    if finished.error is not None:
        attributes[ERROR_TYPE] = finished.error
        status = Status(StatusCode.ERROR, finished.error)
    return ReadableSpan(
        finished.name,
        _span_context(finished.context, is_remote=False),
        None if finished.parent is None else _span_context(finished.parent),
        resource,
        attributes,
        [Event(event.name, _masked(event.attributes), event.at_nanoseconds) for event in finished.events],
        [Link(_span_context(link)) for link in finished.links],
        _KINDS[finished.kind],
        status=status,
        start_time=finished.begun_nanoseconds,
        end_time=finished.ended_nanoseconds,
        instrumentation_scope=_SCOPE,
    )


def open_tracing(settings: Settings, worker: str, metrics: Metrics) -> tuple[Tracing, SpanRecorder]:
    """Tracing as it is set, exporting to the collector that is named. Connects to nobody yet."""
    for library in ("opentelemetry", "urllib3"):
        # They quote what a collector answers; that it fails is counted, and said by us.
        logging.getLogger(library).setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(
        endpoint=settings.payouts_tracing_endpoint,
        certificate_file=None if settings.payouts_tracing_ca_path is None else str(settings.payouts_tracing_ca_path),
        headers=settings.tracing_headers,
        timeout=EXPORT_SECONDS,
        compression=Compression.Gzip,
        session=_session(),
    )
    recorder = SpanRecorder(
        exporter,
        metrics,
        worker=worker,
        environment=settings.payouts_profile.value,
        queue_max=settings.payouts_tracing_queue_max,
    )
    tracing = Tracing(
        recorder,
        ratio=settings.payouts_tracing_ratio,
        prefix=settings.payouts_topic_prefix,
        group=settings.group,
    )
    return tracing, recorder


async def close_recorder(recorder: SpanRecorder) -> None:
    """Give what is queued a moment; a collector that does not answer must not keep a worker from ending."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def shut_down() -> None:
        recorder.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, name="last spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), CLOSE_SECONDS)


def _session() -> requests.Session:
    """No proxy and no password file of the environment, and nothing follows a collector to another address."""
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    return session


def _masked(attributes: Attributes) -> dict[str, str | bool | int]:
    """What may be shown of them (P6): the way that log lines go."""
    shown = redact_fields(attributes, ATTRIBUTES, longest_characters=VALUE_CHARACTERS_MAX)
    WITHHELD.update(shown.withheld)
    return {name: value for name, value in shown.fields.items() if isinstance(value, (str, bool, int))}


def _span_context(place: TraceContext, *, is_remote: bool = True) -> SpanContext:
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=is_remote, trace_flags=_SAMPLED)
