"""One payout through real Kafka, PostgreSQL and Visa's stand-in is one tree at a real collector's door."""

from __future__ import annotations

import secrets

import pytest

from schemas.topics import topic_name
from schemas.trace_context import parse_traceparent
from tests.integration.pipeline.pipeline_harness import Pipeline, new_id, one_event, until
from tests.integration.pipeline.span_collector import SpanCollector, paths

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

ROOT = "process payout_requests"
VALIDATED = f"{ROOT} > send payout_validated > process payout_validated"
CLEARED = f"{VALIDATED} > send payout_cleared > process payout_cleared"
EXPECTED = sorted(
    [
        ROOT, f"{ROOT} > validate", f"{ROOT} > send payout_validated", VALIDATED, f"{VALIDATED} > comply",
        f"{VALIDATED} > send payout_cleared", CLEARED, f"{CLEARED} > visa PUSH", f"{CLEARED} > send payout_results",
    ]
)  # fmt: skip


def test_s3_37_a_payout_is_one_tree_with_every_hop_and_call(running: Pipeline, collector: SpanCollector) -> None:
    """S3-37, B10, P6: by OTLP over HTTP, from the originator's span to the result, whose header names its sender."""
    caller = parse_traceparent(f"00-a{secrets.token_hex(15)}b-a{secrets.token_hex(7)}b-01")
    assert caller is not None
    request = running.request(new_id())
    value = running.encode("PayoutRequest", request)
    payout_id = request["payout_id"]
    running.produce_with_headers("payout_requests", value, payout_id.encode(), {"traceparent": caller.traceparent})
    running.wait_row(payout_id, state="PAID")

    def whole() -> bool:
        """Every hop and call, and nothing that hangs on nothing. On a slow machine the sweeper may add drives."""
        found = collector.trace(caller.trace_id)
        shown = paths(found, caller.span_id)
        return set(EXPECTED) <= set(shown) and len(shown) == len({span.span_id for span in found})

    until("every span, as one tree", whole)
    spans = collector.trace(caller.trace_id)
    results = running.events_of("payout_results", payout_id)
    assert one_event(results)
    named = [parse_traceparent(result.headers["traceparent"].decode()) for result in results]
    assert {(one.trace_id, one.sampled) for one in named if one is not None} == {(caller.trace_id, True)}
    sent = next(span for span in spans if span.name == "send payout_results")
    assert sent.span_id in {one.span_id for one in named if one is not None}
    assert topic_name("payout_results", running.prefix) in sent.attributes
    assert "Rosalind" not in str(spans)
