"""`payouts topics ensure|list`: topics are made by us, never by Faust or by auto-creation."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from ledger.operator_notes import TOPICS_CREATED
from ops.application import ending, new_app
from ops.environment import KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused
from ops.kafka import ADMIN_SECONDS, answer, connect_admin, reason_of, wait_until_served
from ops.operator_actions import (
    OperatorOption,
    OptionalReasonOption,
    recorded_if_reachable,
    who_or_what,
    why_if_given,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message
from schemas.topics import TOPICS, Topic, topic_name
from streams.settings import Settings

PARTITIONS_MAX: Final = 1000
REPLICATION_FACTOR_MAX: Final = 9

COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("status", "STATUS"),
    Column("partitions", "PARTITIONS", right=True),
    Column("replication_factor", "REPLICAS", right=True),
    Column("differences", "DIFFERENCES"),
)
LIST_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("exists", "EXISTS"),
    Column("partitions", "PARTITIONS", right=True),
    Column("replication_factor", "REPLICAS", right=True),
    Column("retention_days", "RETENTION DAYS", right=True),
    Column("record", "RECORD"),
    Column("description", "DESCRIPTION"),
)

app = new_app("The topics of the payout flow on the cluster.")


@app.command(
    "ensure",
    epilog=ending(
        "payouts topics ensure",
        "payouts topics ensure --replication-factor 1 --partitions 4",
        "payouts topics ensure --dry-run --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def ensure(
    output: OutputOption = Output.TABLE,
    replication_factor: Annotated[
        int | None,
        typer.Option(min=1, max=REPLICATION_FACTOR_MAX, help="Replicas of new topics; the table's when not given."),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=PARTITIONS_MAX, help="Partitions of new topics; the table's when not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be created, create nothing.")] = False,
    reason: OptionalReasonOption = None,
    operator: OperatorOption = None,
) -> None:
    """Create what is missing and report what differs from the table of topics; change nothing that is there.

    Partitions of an existing topic are never altered: a payout's records would move to another partition. It moves no
    money. What was created is in the ledger's history, if there is a ledger yet. To undo it delete the topic while it
    is empty, with the cluster's own tools.
    """
    name, why = who_or_what(operator), why_if_given(reason)
    settings = settings_for(KAFKA)
    admin = connect_admin(settings)
    rows = ensure_topics(admin, settings, replication_factor=replication_factor, partitions=partitions, dry_run=dry_run)
    emit_rows(rows, COLUMNS, output)
    created = [row["topic"] for row in rows if row["status"] == "created"]
    if dry_run:
        missing = sum(row["status"] == "missing" for row in rows)
        message(f"{missing} topic(s) would be created. Nothing was changed (--dry-run).")
    elif created:
        recorded_if_reachable(settings, name, TOPICS_CREATED, {"topics": created, **why})
    if any(row["status"] == "differs" for row in rows):
        message("Some topics differ from the table. Compare, then correct them with the cluster's own tools.")
        raise typer.Exit(ExitCode.FOUND)


@app.command(
    "list",
    epilog=ending(
        "payouts topics list",
        "payouts topics list --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def list_(output: OutputOption = Output.TABLE) -> None:
    """Show the table of topics, and which of them the cluster has."""
    settings = settings_for(KAFKA)
    present = _described(connect_admin(settings))
    emit_rows([_listed(topic, settings, present) for topic in TOPICS.values()], LIST_COLUMNS, output)


def ensure_topics(
    admin: AdminClient,
    settings: Settings,
    *,
    replication_factor: int | None = None,
    partitions: int | None = None,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Create missing topics; one row a topic with its status (created, missing, ok, differs) and the differences.

    Raises KafkaException, CommandFailed (refused: production wants more replicas than there are brokers).
    """
    prefix = settings.payouts_topic_prefix
    present = _described(admin)
    missing = [topic for topic in TOPICS.values() if topic_name(topic.name, prefix) not in present]
    if missing and not dry_run:
        brokers = len(admin.list_topics(timeout=ADMIN_SECONDS).brokers)
        _create(
            admin,
            [
                _new_topic(topic, settings, _replicas(topic, settings, brokers, replication_factor), partitions)
                for topic in missing
            ],
        )
        wait_until_served(admin, [topic_name(topic.name, prefix) for topic in missing])
    missing_names = {topic.name for topic in missing}
    existing = [topic for topic in TOPICS.values() if topic.name not in missing_names]
    compared = _compare(admin, settings, existing, present, replication_factor, partitions)
    rows = {row["topic"]: row for row in compared}
    for topic in missing:
        name = topic_name(topic.name, prefix)
        rows[name] = {
            "topic": name,
            "status": "missing" if dry_run else "created",
            "partitions": _partitions(topic, partitions),
            "replication_factor": replication_factor,
            "differences": [],
        }
    if not dry_run and missing:
        after = _described(admin)
        for name in (topic_name(topic.name, prefix) for topic in missing):
            rows[name] |= after.get(name, {})
    return [rows[topic_name(topic.name, prefix)] for topic in TOPICS.values()]


def _partitions(topic: Topic, asked: int | None) -> int:
    # The audit chain has one partition by design: its order is the chain.
    return topic.partitions if asked is None or topic.partitions == 1 else asked


def _replicas(topic: Topic, settings: Settings, brokers: int, asked: int | None) -> int:
    if asked is not None:
        return asked
    if brokers >= topic.replication_factor or not settings.production:
        return min(topic.replication_factor, brokers)
    raise refused(
        f"{topic.name} wants {topic.replication_factor} replicas and the cluster has {brokers} broker(s)",
        why="in production a record that one broker holds can be lost with it",
        next_step="add brokers, or decide otherwise with --replication-factor",
    )


def _new_topic(topic: Topic, settings: Settings, replicas: int, partitions: int | None) -> NewTopic:
    return NewTopic(
        topic_name(topic.name, settings.payouts_topic_prefix),
        num_partitions=_partitions(topic, partitions),
        replication_factor=replicas,
        config=topic.broker_settings(replicas),
    )


def _create(admin: AdminClient, topics: list[NewTopic]) -> None:
    futures = admin.create_topics(topics, operation_timeout=ADMIN_SECONDS, request_timeout=ADMIN_SECONDS)
    failed = []
    for name, future in futures.items():
        try:
            answer(future)
        except KafkaException as error:
            # Somebody else was faster, which is as good; the comparison that follows looks at it.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                failed.append(f"{name}: {reason_of(error)}")
    if failed:
        code = ExitCode.PARTIAL if len(failed) < len(futures) else ExitCode.UNREACHABLE
        raise CommandFailed(
            code,
            f"{len(failed)} of {len(futures)} topics were not created",
            why="; ".join(failed),
            next_step="correct the cause and run it again: what exists already stays",
        )


def _described(admin: AdminClient) -> dict[str, dict[str, Any]]:
    """Partitions and replicas of every topic on the cluster."""
    found = {}
    for name, topic in admin.list_topics(timeout=ADMIN_SECONDS).topics.items():
        if topic.error is None and topic.partitions:
            replicas = min(len(partition.replicas) for partition in topic.partitions.values())
            found[name] = {"partitions": len(topic.partitions), "replication_factor": replicas}
    return found


def _compare(
    admin: AdminClient,
    settings: Settings,
    topics: list[Topic],
    present: Mapping[str, Mapping[str, Any]],
    replication_factor: int | None,
    partitions: int | None,
) -> list[dict[str, Any]]:
    if not topics:
        return []
    prefix = settings.payouts_topic_prefix
    resources = [ConfigResource(ResourceType.TOPIC, topic_name(topic.name, prefix)) for topic in topics]
    configs = {
        resource.name: {name: entry.value for name, entry in answer(future).items()}
        for resource, future in admin.describe_configs(resources, request_timeout=ADMIN_SECONDS).items()
    }
    rows = []
    for topic in topics:
        name = topic_name(topic.name, prefix)
        differences = _differences(topic, present[name], configs[name], settings, replication_factor, partitions)
        status = "differs" if differences else "ok"
        rows.append({"topic": name, "status": status, **present[name], "differences": differences})
    return rows


def _differences(
    topic: Topic,
    found: Mapping[str, Any],
    config: Mapping[str, str | None],
    settings: Settings,
    replication_factor: int | None,
    partitions: int | None,
) -> list[str]:
    differences = []
    # A laptop's topics have fewer partitions and replicas on purpose; production's are held to the table.
    wanted_partitions = _partitions(topic, partitions)
    if (settings.production or partitions is not None) and found["partitions"] != wanted_partitions:
        differences.append(f"partitions {found['partitions']}, not {wanted_partitions}")
    wanted_replicas = replication_factor or topic.replication_factor
    if (settings.production or replication_factor is not None) and found["replication_factor"] != wanted_replicas:
        differences.append(f"replicas {found['replication_factor']}, not {wanted_replicas}")
    for name, wanted in topic.broker_settings(found["replication_factor"]).items():
        if config.get(name) != wanted:
            differences.append(f"{name} {config.get(name)}, not {wanted}")
    return differences


def _listed(topic: Topic, settings: Settings, present: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    name = topic_name(topic.name, settings.payouts_topic_prefix)
    found = present.get(name)
    return {
        "topic": name,
        "exists": found is not None,
        "partitions": found["partitions"] if found else None,
        "replication_factor": found["replication_factor"] if found else None,
        "retention_days": None if topic.retention_ms < 0 else topic.retention_ms // 86_400_000,
        "record": topic.schema,
        "inbound": topic.inbound,
        "description": topic.description,
    }
