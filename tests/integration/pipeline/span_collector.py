"""What an OpenTelemetry collector is to a worker: an address that takes spans by OTLP over HTTP; it keeps them."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PATH = "/v1/traces"


@dataclass(frozen=True)
class CollectedSpan:
    """One span as it came over the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it has none."""
    attributes: str
    """All of them as text, to be searched."""


class SpanCollector:
    """Listens on loopback while it is entered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[CollectedSpan] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if self.path == PATH else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="collector", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What a worker needs to be told."""
        port = self._server.server_address[1]
        return {"PAYOUTS_TRACING": "otlp", "PAYOUTS_TRACING_ENDPOINT": f"http://127.0.0.1:{port}{PATH}"}

    def count(self) -> int:
        with self._lock:
            return len(self._spans)

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        with self._lock:
            return [span for span in self._spans if span.trace_id == trace_id]

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        taken = [
            CollectedSpan(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                f"{span.attributes} {span.events} {span.status}",
            )
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += taken


def paths(spans: list[CollectedSpan], above: str) -> list[str]:
    """Each span with all that it hangs on, `root > child > …`; what hangs on nothing that was collected is missing."""
    names: dict[str, str] = {}
    children: dict[str, list[CollectedSpan]] = defaultdict(list)
    for span in spans:
        children[span.parent_id].append(span)
    todo = [(above, "")]
    while todo:
        parent, path = todo.pop()
        for span in children[parent]:
            names[span.span_id] = f"{path} > {span.name}".removeprefix(" > ")
            todo.append((span.span_id, names[span.span_id]))
    return sorted(names.values())
