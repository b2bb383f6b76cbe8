"""`payouts lag`: how far the workers are behind, as the brokers see it."""

from typing import Any, Final

import typer
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription  # type: ignore[attr-defined]

from ops.application import ending
from ops.environment import KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found
from ops.kafka import ADMIN_SECONDS, answer, committed_offsets, connect_admin, latest_offset, offsets, our_topics
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from streams.settings import Settings

CONSUMED: Final = (
    "payout_requests",
    "payout_validated",
    "payout_cleared",
    "payout_retry",
    "payout_failed_requires_compensation",
    "payout_compensation_confirmations",
    "payout_review_decisions",
)
"""Topics that the agents read."""

COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("committed", "COMMITTED", right=True),
    Column("end", "END", right=True),
    Column("lag", "LAG", right=True),
    Column("member", "MEMBER"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "lag",
        epilog=ending(
            "payouts lag",
            "payouts lag --output json",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(lag)


def lag(output: OutputOption = Output.TABLE) -> None:
    """Show the group's state and members, and for each partition what is committed, its end and the lag.

    "-" (null) means that nothing was ever committed there: there is no lag to speak of then, only what waits.
    """
    settings = settings_for(KAFKA)
    values = group_lag(connect_admin(settings), settings)
    if output is Output.JSON:
        emit_object(values, output)
    else:
        summary = {name: values[name] for name in ("group", "state", "members", "lag", "uncommitted_partitions")}
        emit_object(summary, output)
        print()
        emit_rows(values["partitions"], COLUMNS, output)
    if values["members"] == 0:
        message("No worker is in the group: nothing is being worked on. Start one with `payouts worker`.")


def group_lag(admin: AdminClient, settings: Settings) -> dict[str, Any]:
    """Group, state, members and partitions. Raises KafkaException, CommandFailed (not found: there is no group)."""
    described = _described(admin, settings.group)
    members = {
        (place.topic, place.partition): member.client_id
        for member in described.members
        for place in (member.assignment.topic_partitions if member.assignment else [])
    }
    topics = our_topics(admin, settings, CONSUMED)
    places = [(topic, number) for topic, count in topics.items() for number in range(count)]
    committed = committed_offsets(settings, places)
    ends = offsets(admin, places, latest_offset())
    rows = [_row(place, committed.get(place), ends[place], members.get(place)) for place in places]
    known = [row["lag"] for row in rows if row["lag"] is not None]
    return {
        "group": settings.group,
        "state": described.state.name,
        "members": len(described.members),
        # No number where nothing is known: a sum over nothing would say that all is done.
        "lag": sum(known) if known else None,
        "uncommitted_partitions": len(rows) - len(known),
        "partitions": rows,
    }


def _described(admin: AdminClient, group: str) -> ConsumerGroupDescription:
    futures = admin.describe_consumer_groups([group], request_timeout=ADMIN_SECONDS)
    unknown = not_found(
        f"the cluster has no consumer group {group}",
        why="no worker ever joined it, or PAYOUTS_TOPIC_PREFIX is another one",
        next_step="start a worker with `payouts worker`",
    )
    try:
        described: ConsumerGroupDescription = answer(futures[group])
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            raise unknown from None
        raise
    if described.state is ConsumerGroupState.DEAD:
        raise unknown
    return described


def _row(place: tuple[str, int], committed: int | None, end: int, member: str | None) -> dict[str, Any]:
    return {
        "topic": place[0],
        "partition": place[1],
        "committed": committed,
        "end": end,
        # The end was read after the commit: never below it, but for a topic that was made anew.
        "lag": None if committed is None else max(0, end - committed),
        "member": member,
    }
