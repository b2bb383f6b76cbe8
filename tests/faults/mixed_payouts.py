"""A few payouts of every kind of end, brought to it: what the replays and repeats of this room start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.samples.sample_file import account_details
from tests.integration.pipeline.pipeline_harness import Pipeline, Seen, fault, until

EACH = 3


@dataclass(frozen=True)
class Ended:
    """How every payout stands, and all that was ever said and done about them."""

    rows: Mapping[str, Mapping[str, Any]]
    approved: Mapping[str, int]
    results: frozenset[tuple[str, bytes | None]]
    compensations: frozenset[tuple[str, bytes | None]]


COLUMNS = (
    "payout_id, state, state_version, compensation, compensation_version, attempts, identity_number, reason_code, "
    "returned_version"
)


def bring_to_their_ends(pipeline: Pipeline) -> list[str]:
    """Paid, paid after an unknown, declined with compensation, rejected, and paid to an account, also after an unknown
    and with a return: each a few times. Returns their ids."""
    paid = [pipeline.request() for _ in range(EACH)]
    declined = [pipeline.request(card="tok_decline_05_1") for _ in range(EACH)]
    rejected = [pipeline.request(amount_minor=-5) for _ in range(EACH)]
    lost = [pipeline.request() for _ in range(EACH)]
    sent = [pipeline.request(destination=_account(pipeline, "TESTPREMIUM1")) for _ in range(EACH)]
    back = [pipeline.request(destination=_account(pipeline, "TESTRETURNSLOW1")) for _ in range(EACH)]
    pipeline.visa_faults(
        *(fault(request["payout_id"], "push", "effect_then_500", times=1) for request in lost),
        fault(sent[0]["payout_id"], "account_send", "effect_then_500", times=1),
    )
    everything = (*paid, *declined, *rejected, *lost, *sent, *back)
    for request in everything:
        pipeline.send(request)
    pipeline.wait_all([request["payout_id"] for request in (*paid, *lost, *sent, *back)])
    for request in declined:
        pipeline.wait_row(request["payout_id"], state="DECLINED")
        pipeline.confirm_compensation(request["payout_id"])
        pipeline.wait_row(request["payout_id"], compensation="COMPENSATED")
    for request in rejected:
        pipeline.wait_row(request["payout_id"], state="REJECTED")
    until("what came back noticed and said", lambda: _returned(pipeline, [one["payout_id"] for one in back]) == EACH)
    return [request["payout_id"] for request in everything]


def _account(pipeline: Pipeline, number: str) -> dict[str, Any]:
    return {"kind": "ACCOUNT", "account": {"encrypted_account": pipeline.seal(account_details("account", number))}}


def _returned(pipeline: Pipeline, payout_ids: list[str]) -> int:
    """S8: how many have the second fact, announced."""
    statement = (
        "SELECT count(*) AS rows FROM payouts WHERE payout_id = ANY ($1) AND returned_at IS NOT NULL "
        "AND announced_version >= returned_version"
    )
    pipeline.supervise()
    return int(pipeline.fetch(statement, payout_ids)[0]["rows"])


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
        pipeline.supervise()
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
