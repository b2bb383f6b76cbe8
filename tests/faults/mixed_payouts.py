"""A few payouts of every kind of end, brought to it: what the replays and repeats of this room start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.integration.pipeline.pipeline_harness import Pipeline, Seen, fault, until

EACH = 4


@dataclass(frozen=True)
class Ended:
    """How every payout stands, and all that was ever said and done about them."""

    rows: Mapping[str, Mapping[str, Any]]
    approved: Mapping[str, int]
    results: frozenset[tuple[str, bytes | None]]
    compensations: frozenset[tuple[str, bytes | None]]


COLUMNS = "payout_id, state, state_version, compensation, compensation_version, attempts, identity_number, reason_code"


def bring_to_their_ends(pipeline: Pipeline) -> list[str]:
    """Paid, paid after an unknown, declined with compensation, rejected: each a few times. Returns their ids."""
    paid = [pipeline.request() for _ in range(EACH)]
    declined = [pipeline.request(card="tok_decline_05_1") for _ in range(EACH)]
    rejected = [pipeline.request(amount_minor=-5) for _ in range(EACH)]
    lost = [pipeline.request() for _ in range(EACH)]
    pipeline.visa_faults(*(fault(request["payout_id"], "push", "effect_then_500", times=1) for request in lost))
    for request in (*paid, *declined, *rejected, *lost):
        pipeline.send(request)
    pipeline.wait_all([request["payout_id"] for request in (*paid, *lost)])
    for request in declined:
        pipeline.wait_row(request["payout_id"], state="DECLINED")
        pipeline.confirm_compensation(request["payout_id"])
        pipeline.wait_row(request["payout_id"], compensation="COMPENSATED")
    for request in rejected:
        pipeline.wait_row(request["payout_id"], state="REJECTED")
    return [request["payout_id"] for request in (*paid, *declined, *rejected, *lost)]


def look(pipeline: Pipeline, payout_ids: list[str]) -> Ended:
    """What there is now, in a form that can be compared."""
    rows = pipeline.fetch(f"SELECT {COLUMNS} FROM payouts ORDER BY payout_id")
    return Ended(
        rows={row["payout_id"]: row for row in rows},
        approved=pipeline.approved_counts(payout_ids),
        results=_said(pipeline.events("payout_results")),
        compensations=_said(pipeline.events("payout_failed_requires_compensation")),
    )


def _said(records: list[Seen]) -> frozenset[tuple[str, bytes | None]]:
    """K3: the same event may be said twice, so it is compared by its id and bytes."""
    return frozenset((record.event_id, record.value) for record in records)


def wait_until_read(pipeline: Pipeline, topics: list[str]) -> None:
    """The group has committed everything that these topics hold now."""
    ends = {topic: _ends(pipeline, topic) for topic in topics}

    def read() -> bool:
        return all(
            pipeline.committed(topic, partition) >= end
            for topic, partitions in ends.items()
            for partition, end in partitions.items()
        )

    until(f"everything of {', '.join(topics)} read", read)


def _ends(pipeline: Pipeline, topic: str) -> dict[int, int]:
    ends: dict[int, int] = {}
    for record in pipeline.events(topic):
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    return ends
