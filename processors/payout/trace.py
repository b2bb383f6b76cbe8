"""Where a payout stands in its trace: a function of its row, so that what is published again stays in it (K2).

The trace is the one that the originator's request came in; without one it derives from the payout_id. Its root is the
hop that made the row. Spans that others point to have ids that derive from names, so that nobody has to remember them.
Nothing is decided by any of this.
"""

import functools
from typing import Final

from processors.payout.row import PayoutRow
from schemas.trace_context import TraceContext, derived_span_id, derived_trace_id, parse_traceparent

ROOT: Final = "root"


def callers_context(traceparent: str | None) -> TraceContext | None:
    """The originator's own span, where its request named one."""
    return parse_traceparent(traceparent)


@functools.lru_cache(maxsize=4_096)  # asked for with each hop, event and call of a payout
def root_of(payout_id: str, traceparent: str | None) -> TraceContext:
    """The hop that made the payout's row, in the payout's trace; `traceparent` as the row keeps it.

    `sampled` is the originator's word; a worker that records a trace says so itself.
    """
    caller = parse_traceparent(traceparent)
    trace_id = derived_trace_id(payout_id) if caller is None else caller.trace_id
    sampled = caller is not None and caller.sampled
    return TraceContext(trace_id, _span_id(payout_id, ROOT), sampled)


def root_context(row: PayoutRow) -> TraceContext:
    """As `root_of`, for a row."""
    return root_of(row.payout_id, row.traceparent)


def event_span_id(payout_id: str, identifier: str) -> str:
    """The span that sends an event, and that the event's header names: the same for the same `ce_id` (K3)."""
    return _span_id(payout_id, f"event/{identifier}")


def attempt_span_id(payout_id: str, call: str, attempt: int) -> str:
    """The span of one attempt to move money, numbered from 1: what later attempts and questions point to."""
    return _span_id(payout_id, f"call/{call}/{attempt}")


def _span_id(payout_id: str, name: str) -> str:
    return derived_span_id(f"{payout_id}/{name}")
