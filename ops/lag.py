"""`payouts lag`: how far the workers are behind, as the brokers see it; once, again and again, or for Prometheus."""

import asyncio
import re
import sys
import time
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from ops.application import as_failure, ending
from ops.environment import KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, usage_error
from ops.group_members import GroupState
from ops.lag_look import GroupLag, LagSource, PartitionLag, Watch, unreadable_sentence
from ops.lag_status import SAMPLE_SECONDS
from ops.options import OutputOption
from ops.output import Column, JsonLines, LineTable, LineWriter, Output, emit_object, emit_rows, message
from ops.repeating import Rhythm, ending_signals, in_thread, repeat
from streams.settings import Settings

INTERVAL_MAX_SECONDS: Final = 300.0
"""Looks further apart would not see what happens between them."""
WATCH_MAX_SECONDS: Final = 86_400.0
EXPORT_PORT: Final = 6067
"""Beside the worker's 6066."""
EXPORT_CLUSTER_NAME: Final = "kafka"
CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

PARTITION_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("committed_offset", "COMMITTED", right=True),
    Column("end_offset", "END", right=True),
    Column("lag_records", "LAG", right=True),
    Column("lag_seconds", "SECONDS", right=True),
    Column("member", "MEMBER"),
)
WATCHED_COLUMNS: Final = (*PARTITION_COLUMNS[:-1], Column("shown_status", "STATUS"), PARTITION_COLUMNS[-1])
LINE_COLUMNS: Final = (
    Column("at", "AT", 24),
    Column("state", "STATE", 20),
    Column("members", "MEMBERS", 7, right=True),
    Column("lag_records", "LAG", 9, right=True),
    Column("max_lag_seconds", "MAX SECONDS", 11, right=True),
    Column("uncommitted_partitions", "UNCOMMITTED", 11, right=True),
    Column("shown_status", "STATUS", 12),
    Column("worst_partition", "WORST PARTITION", 40),
)
SUMMARY: Final = ("group", "state", "members", "lag_records", "max_lag_seconds", "uncommitted_partitions")

_LAG_CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    no_args_is_help=False,
)


@app.callback(
    epilog=ending(
        "payouts lag",
        "payouts lag --output json",
        "payouts lag --watch --interval 30",
        "payouts lag --watch --seconds 300 --output json",
        "payouts lag export --port 6067 --interval 15",
        codes=_LAG_CODES,
    )
)
def lag(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until SIGINT or SIGTERM.")] = False,
    interval_seconds: Annotated[
        float, typer.Option("--interval", min=1, max=INTERVAL_MAX_SECONDS, help="Seconds between two looks.")
    ] = SAMPLE_SECONDS,
    count: Annotated[int | None, typer.Option(min=1, help="With --watch: end after so many looks.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, max=WATCH_MAX_SECONDS, help="With --watch: end after so many seconds.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the group's state and members, and for each partition what is committed, its end and the lag.

    The lag in seconds is the age of the first record that is not finished. "-" (null) means that a number is not known:
    nothing was ever committed there, or the record did not come in time (exit code 5).

    --watch redraws a terminal, and appends one line a look anywhere else. It adds a status: OK, WARN (the lag never
    falls), STALL (a member is there, the offset does not move), STOP (nobody has been there), REWIND (the offset went
    back). It needs ten looks of at least 15 s; until then it is OK with how many there are, such as OK 3/10.
    """
    if context.invoked_subcommand is not None:
        return
    if not watch and (count is not None or seconds is not None):
        raise usage_error("--count and --seconds bound --watch", next_step="add --watch, or leave them out")
    settings = settings_for(KAFKA)
    with LagSource(settings) as source:
        if watch:
            asyncio.run(_Watching(source, output).run(Rhythm(interval_seconds, count, seconds)))
        else:
            _show_once(source.look(), output)


@app.command(
    epilog=ending(
        "payouts lag export",
        "payouts lag export --port 6067 --interval 15 --cluster-name eu-1",
        codes=(ExitCode.FOUND, ExitCode.REFUSED),
    )
)
def export(
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, envvar="PAYOUTS_LAG_PORT", help="Where to listen; 0 chooses a free port."),
    ] = EXPORT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    interval_seconds: Annotated[
        float, typer.Option("--interval", min=1, max=INTERVAL_MAX_SECONDS, help="Seconds between two looks.")
    ] = SAMPLE_SECONDS,
    cluster_name: Annotated[str, typer.Option(help="Value of the label cluster_name.")] = EXPORT_CLUSTER_NAME,
) -> None:
    """Serve the lag as metrics for Prometheus on /metrics, until SIGINT or SIGTERM; /health says that it lives.

    One process a cluster is enough, and it runs while no worker does. While Kafka does not answer,
    kafka_lag_exporter_up is 0 and there are no samples of the lag: none is better than an old one.
    """
    from ops.lag_export import Address, serve

    if not CLUSTER_NAME.fullmatch(cluster_name):
        raise usage_error("--cluster-name cannot be a label", why="it takes 1 to 64 letters, digits, '.', '_' and '-'")
    settings = settings_for(KAFKA)
    asyncio.run(serve(settings, Address(host, port), cluster_name, Rhythm(interval_seconds)))


def group_lag(settings: Settings) -> dict[str, Any]:
    """What `payouts lag --output json` prints. Raises KafkaException, CommandFailed (not found, unreachable)."""
    with LagSource(settings) as source:
        return as_object(_existing(source.look()), None)


def _show_once(look: GroupLag, output: Output) -> None:
    values = as_object(_existing(look), None)
    if output is Output.JSON:
        emit_object(values, output)
    else:
        emit_object({name: values[name] for name in SUMMARY}, output)
        print()
        emit_rows(values["partitions"], PARTITION_COLUMNS, output)
    if not look.members:
        message("No worker is in the group: nothing is being worked on. Start one with `payouts worker`.")
    if (sentence := unreadable_sentence(look)) is not None:
        message(sentence)
        raise typer.Exit(ExitCode.PARTIAL)


def _existing(look: GroupLag) -> GroupLag:
    if look.state is GroupState.DEAD:
        raise not_found(
            f"the cluster has no consumer group {look.group}",
            why="no worker ever joined it, or PAYOUTS_TOPIC_PREFIX is another one",
            next_step="start a worker with `payouts worker`",
        )
    return look


def as_object(look: GroupLag, seen: Watch | None) -> dict[str, Any]:
    """A look as JSON has it; units are in the names. Without looks before it there is no status to tell."""
    return {
        "at": look.at,
        "group": look.group,
        "state": look.state.value,
        "members": len(look.members),
        "lag_records": look.lag_records,
        "max_lag_records": look.max_lag_records,
        "max_lag_seconds": _rounded(look.max_lag_seconds),
        "uncommitted_partitions": look.uncommitted,
        "unknown_lag_seconds_partitions": look.unknown_seconds,
        "status": None if seen is None else seen.status().value,
        "window_complete_ratio": None if seen is None else round(seen.complete_ratio(), 2),
        "group_members": [
            {"client_id": m.client_id, "host": m.host, "partitions": len(m.partitions)} for m in look.members
        ],
        "topics": [{"topic": topic, "lag_records": lag} for topic, lag in look.by_topic().items()],
        "partitions": [_row(partition, seen) for partition in look.partitions],
    }


def _row(partition: PartitionLag, seen: Watch | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "topic": partition.topic,
        "partition": partition.partition,
        "earliest_offset": partition.earliest_offset,
        "committed_offset": partition.committed_offset,
        "end_offset": partition.end_offset,
        "lag_records": partition.lag_records,
        "lag_seconds": _rounded(partition.lag_seconds),
        "expired_records": partition.expired_records,
        "member": partition.member,
        "member_host": partition.host,
        "status": None,
        "window_complete_ratio": None,
    }
    if seen is not None and partition.committed_offset is not None:
        window = seen.window(partition)
        row["status"] = window.status().value
        row["window_complete_ratio"] = round(window.seen / window.size, 2)
    return row


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


class _Watching:
    """`--watch`: one look after the other, each shown as it comes."""

    def __init__(self, source: LagSource, output: Output) -> None:
        self._source = source
        self._seen = Watch()
        self._redraws = output is Output.TABLE and sys.stdout.isatty()
        self._lines: LineWriter = JsonLines() if output is Output.JSON else LineTable(LINE_COLUMNS)
        self._failed: CommandFailed | None = None
        self._shown = 0

    async def run(self, rhythm: Rhythm) -> None:
        """Until the rhythm or a signal ends it. Raises what the first look raised, or the last one of the rhythm."""
        with ending_signals() as ended:
            await repeat(self._step, rhythm, ended)
            if self._failed is not None and not ended.is_set():
                raise self._failed

    async def _step(self) -> None:
        try:
            look = _existing(await in_thread(self._source.look))
        except Exception as error:
            failure = as_failure(error)
            if not self._shown or failure.code not in (ExitCode.UNREACHABLE, ExitCode.FOUND):
                raise
            self._failed = failure
            # What stood on the terminal is over: no old numbers.
            self._clear()
            message(f"{failure.what}: {failure.why}" if failure.why else failure.what)
            return
        self._failed = None
        self._shown += 1
        self._seen.add(look, time.monotonic())
        self._show(look)

    def _show(self, look: GroupLag) -> None:
        values = as_object(look, self._seen)
        if isinstance(self._lines, JsonLines):
            self._lines.write(values)
        elif self._redraws:
            self._clear()
            emit_object(
                {"at": look.at} | {name: values[name] for name in SUMMARY} | {"status": self._group_status()},
                Output.TABLE,
            )
            print()
            shown = [row | {"shown_status": self._shown_status(row)} for row in values["partitions"]]
            emit_rows(shown, WATCHED_COLUMNS, Output.TABLE)
        else:
            self._lines.write(
                values | {"shown_status": self._group_status(), "worst_partition": _worst_partition(values)}
            )
        if (sentence := unreadable_sentence(look)) is not None:
            message(sentence)

    def _clear(self) -> None:
        if self._redraws:
            Console(file=sys.stdout).clear()

    def _group_status(self) -> str:
        ratio = self._seen.complete_ratio()
        return self._seen.status().value if ratio == 1 else f"{self._seen.status().value} {ratio:.0%} seen"

    def _shown_status(self, row: dict[str, Any]) -> str | None:
        if row["status"] is None:
            return None
        window = self._seen.windows[row["topic"], row["partition"]]
        status = window.status().value
        return status if window.complete else f"{status} {window.seen}/{window.size}"


def _worst_partition(values: dict[str, Any]) -> str | None:
    """The partition with the largest lag, if any has one."""
    known = [row for row in values["partitions"] if row["lag_records"]]
    if not known:
        return None
    row = max(known, key=lambda row: row["lag_records"])
    return f"{row['topic']}-{row['partition']}: {row['lag_records']}"
