"""Finished spans to an OpenTelemetry collector: the only module that imports OpenTelemetry, and only when it is on.

A collector that is away, slow or full never slows a payout: spans wait in a bounded queue that a thread of its own
empties, and what finds no room, or is not taken, is dropped and counted (`payouts_tracing_failures_total`).
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

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


class SpanRecorder:
    """Makes OpenTelemetry's spans of ours, and hands them to a processor. Never raises, never waits."""

    def __init__(self, processor: SpanProcessor, metrics: Metrics, *, worker: str, environment: str) -> None:
        self._metrics = metrics
        self._ids = _GivenIds()
        # `Resource.create` would read the environment, which may say anything.
        resource = Resource(
            {
                "service.name": SERVICE_NAME,
                "service.instance.id": worker,
                "deployment.environment.name": environment,
            }
        )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SCOPE)

    def __call__(self, finished: FinishedSpan) -> None:
        """Record one. What cannot be recorded is counted: no payout may fail for it."""
        try:
            self._record(finished)
        except Exception as error:  # noqa: BLE001 - whatever a library does, the payout goes on
            self._metrics.tracing_failures.labels("span").inc()
            log.debug("span not made", extra={"error": type(error).__name__})

    def shutdown(self) -> None:
        """Export what waits, and stop. Waits for the collector."""
        self._provider.shutdown()

    def _record(self, finished: FinishedSpan) -> None:
        parent = Context() if finished.parent is None else _in_context(finished.parent)
        self._ids.next_ones = finished.context
        span = self._tracer.start_span(
            finished.name,
            parent,
            _KINDS[finished.kind],
            _masked(finished.attributes),
            [Link(_span_context(link)) for link in finished.links],
            finished.begun_nanoseconds,
        )
        for event in finished.events:
            span.add_event(event.name, _masked(event.attributes), event.at_nanoseconds)
        if finished.error is not None:
            span.set_attribute(ERROR_TYPE, finished.error)
            span.set_status(Status(StatusCode.ERROR, finished.error))
        span.end(finished.ended_nanoseconds)


class BoundedExport(SpanProcessor):
    """OpenTelemetry's own batches, with a bound that counts what finds no room, the batch under way included."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics, *, queue_max: int) -> None:
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue_max = queue_max
        self._dropped = metrics.tracing_failures.labels("dropped")
        self._batches = BatchSpanProcessor(
            _CountedExporter(exporter, metrics, self._taken),
            max_queue_size=queue_max,
            schedule_delay_millis=EXPORT_EVERY_MILLISECONDS,
            max_export_batch_size=min(EXPORT_MAX, queue_max),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, if there is room."""
        with self._lock:
            has_room = self._waiting < self._queue_max
            self._waiting += has_room
        if has_room:
            self._batches.on_end(span)
        else:
            self._dropped.inc()

    def shutdown(self) -> None:
        """Export what waits, and stop."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits; waits for the collector."""
        return self._batches.force_flush(timeout_millis)

    def _taken(self, spans: int) -> None:
        with self._lock:
            self._waiting -= spans


class _CountedExporter(SpanExporter):
    """Counts what was not taken, and says so once, and when it works again."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics, taken: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._failures = metrics.tracing_failures.labels("export")
        self._taken = taken
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """In the exporting thread: one batch."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - counted below; the thread must live
            log.debug("spans not exported", extra={"error": type(error).__name__})
        finally:
            self._taken(len(spans))
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self._failures.inc(len(spans))
        if failed is not self._is_failing:
            self._is_failing = failed
            if failed:
                log.warning("the collector does not take spans: they are dropped until it does")
            else:
                log.info("the collector takes spans again")
        return result

    def shutdown(self) -> None:
        """Ends a try under way."""
        self._exporter.shutdown()


class _GivenIds(IdGenerator):
    """Ids are chosen where a span is opened, so that others can point to it; the library only asks for them here."""

    def __init__(self) -> None:
        self.next_ones: TraceContext | None = None

    def generate_trace_id(self) -> int:
        """Of a span without a parent."""
        return int(self._next().trace_id, 16)

    def generate_span_id(self) -> int:
        """Of any."""
        return int(self._next().span_id, 16)

    def _next(self) -> TraceContext:
        if self.next_ones is None:
            raise RuntimeError("a span that was not opened by this program")
        return self.next_ones


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
        BoundedExport(exporter, metrics, queue_max=settings.payouts_tracing_queue_max),
        metrics,
        worker=worker,
        environment=settings.payouts_profile.value,
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


def _in_context(place: TraceContext) -> Context:
    return set_span_in_context(NonRecordingSpan(_span_context(place)), Context())


def _span_context(place: TraceContext) -> SpanContext:
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=_SAMPLED)
