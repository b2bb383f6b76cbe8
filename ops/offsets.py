"""`payouts offsets show|plan|apply|verify|undo|backup|restore`: where the workers' group stands, and how it is moved.

Moving is two steps with a file between them: `plan` reads and shows payouts and money, `apply` does exactly what the
file says, or refuses. What is skipped is held (rule R2), what is read again the ledger recognises.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from ops.application import ending, new_app
from ops.asynchronous import run
from ops.effects import totals_text
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused, unreachable, usage_error
from ops.offset_apply import (
    Accounts,
    Back,
    Done,
    Partly,
    apply_plan,
    dry_check,
    effects,
    look_back,
    take_back,
    verify_plan,
    write_new,
)
from ops.offset_cluster import Cluster
from ops.offset_effects import effect_text
from ops.offset_plans import (
    CANNOT_BE_SEEN,
    FILE_BYTES_MAX,
    INACTIVE,
    MAX_AGE_SECONDS,
    UNDO_AGE_SECONDS,
    BeyondTheLog,
    CommittedPlace,
    FileChanged,
    FileUnreadable,
    Move,
    OffsetBackup,
    OffsetPlan,
    Place,
    Scenario,
    Target,
    TargetUnusable,
    decode_backup,
    decode_plan,
    encode,
    in_the_past,
    parse_csv,
    parse_datetime,
    parse_duration,
    parse_topics,
    resolve,
    skip_refusal,
)
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, YesOption, answers, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from streams.clock import utc_now
from streams.holes import Unreadable

WAIT_MAX_SECONDS: Final = 3_600.0

Result = TypeVar("Result")

PLACE_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("committed", "COMMITTED", right=True),
    Column("earliest", "EARLIEST", right=True),
    Column("latest", "END", right=True),
    Column("lag", "LAG", right=True),
)
MOVE_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("old", "OLD", right=True),
    Column("new", "NEW", right=True),
    Column("delta", "DELTA", right=True),
    Column("direction", "DIRECTION"),
    Column("clamped", "CLAMPED"),
)
FATE_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("planned", "PLANNED", right=True),
    Column("committed", "COMMITTED", right=True),
    Column("fate", "FATE"),
)
CODES: Final = (
    ExitCode.FOUND, ExitCode.REFUSED, ExitCode.GROUP_ACTIVE, ExitCode.PARTIAL, ExitCode.UNREACHABLE,
)  # fmt: skip

GroupOption = Annotated[str | None, typer.Option(help="Show this consumer group; the workers' own when not given.")]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="The file that `payouts offsets plan` wrote.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write the plan here, for `apply`.")]
MaxAgeOption = Annotated[
    int, typer.Option(min=1, max=UNDO_AGE_SECONDS, help="Seconds after which the plan is refused.")
]

app = new_app("Where the group stands in its topics, and moving it: planned in payouts and money, and undoable.")


@app.command(
    "show",
    epilog=ending(
        "payouts offsets show",
        "payouts offsets show --wait-empty 120",
        "payouts offsets show --output json",
        codes=(ExitCode.REFUSED, ExitCode.GROUP_ACTIVE, ExitCode.UNREACHABLE),
    ),
)
def show(
    group: GroupOption = None,
    wait_empty: Annotated[
        float | None,
        typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds until nobody is in the group."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the group's state and members, and what it has committed in each partition. Changes nothing.

    With --wait-empty, exit code 4 if somebody still is in the group when the wait ends.
    """
    cluster = Cluster(settings_for(KAFKA), group)
    found = cluster.members() if wait_empty is None else cluster.wait_until_empty(wait_empty)
    rows = _places(cluster)
    summary = {"group": cluster.group, "state": found.state, "members": list(found.members)}
    if output is Output.JSON:
        emit_object(summary | {"partitions": rows}, output)
    else:
        emit_object(summary, output)
        print()
        emit_rows(rows, PLACE_COLUMNS, output)
    if found.state in INACTIVE:
        message(CANNOT_BE_SEEN)


def _places(cluster: Cluster) -> list[dict[str, Any]]:
    places = cluster.places()
    committed, bounds = cluster.committed(places), cluster.bounds(places)
    rows = []
    for place in places:
        held, found = bounds[place], committed.get(place)
        lag = None if found is None else max(0, held.latest - found)
        row = {"topic": place[0], "partition": place[1], "committed": found}
        rows.append(row | {"earliest": held.earliest, "latest": held.latest, "lag": lag})
    return rows


@app.command(
    "plan",
    epilog=ending(
        "payouts offsets plan --topic payout_requests --to-earliest --out plan.json",
        "payouts offsets plan --topic payout_requests:0,1 --shift-by -100 --out plan.json",
        "payouts offsets plan --all-topics --to-datetime 2026-11-22T17:00:00.000 --out plan.json",
        "payouts offsets plan --from-file offsets.csv --out plan.json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def plan(
    topic: Annotated[list[str] | None, typer.Option(help="A topic, or t:0,1 for some partitions; repeatable.")] = None,
    all_topics: Annotated[
        bool, typer.Option("--all-topics", help="Every topic that the workers read, or the group committed.")
    ] = False,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="To the first record there is.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Behind the last record.")] = False,
    to_current: Annotated[bool, typer.Option("--to-current", help="To what is committed; to the end else.")] = False,
    to_offset: Annotated[int | None, typer.Option(min=0, help="To this offset.")] = None,
    shift_by: Annotated[int | None, typer.Option(help="So many forward (skip), or with - back (read again).")] = None,
    to_datetime: Annotated[
        str | None, typer.Option(metavar="TIME", help="To the first record as young: YYYY-MM-DDTHH:mm:ss.sss, UTC.")
    ] = None,
    by_duration: Annotated[
        str | None, typer.Option(metavar="PnDTnHnMnS", help="To the first record as young as now minus this.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option(help="To the offsets of a CSV: topic,partition,offset or group,topic,….")
    ] = None,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Take the nearest offset there is for one beyond the log.")
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Print topic,partition,offset for --from-file in place of the plan.")
    ] = False,
    max_age: MaxAgeOption = MAX_AGE_SECONDS,
    out: OutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what moving the group would skip or read again, in payouts and money; write it to a file. Changes nothing.

    The flags are those of kafka-consumer-groups.sh. An offset beyond the log is refused without --clamp; --shift-by
    stops at the log's ends, and says so. Forward is a skip: every payout behind it will be held, not paid.
    """
    now = utc_now()
    given = {
        Scenario.TO_EARLIEST: to_earliest or None,
        Scenario.TO_LATEST: to_latest or None,
        Scenario.TO_CURRENT: to_current or None,
        Scenario.TO_OFFSET: to_offset,
        Scenario.SHIFT_BY: shift_by,
        Scenario.TO_DATETIME: to_datetime,
        Scenario.BY_DURATION: by_duration,
        Scenario.FROM_FILE: from_file,
    }
    target, topics = _asked(given, topic, all_topics=all_topics, now=now)
    cluster = _cluster()
    if from_file is not None:
        target = replace(target, offsets=_offsets_of(from_file, cluster))
        places = sorted(target.offsets or ())
    else:
        places = cluster.places(topics)
    made = _planned(cluster, target, places, now, max_age, clamp=clamp)
    _tell_plan(made, out, output, export=export)


def _asked(
    given: Mapping[Scenario, object], topic: list[str] | None, *, all_topics: bool, now: datetime
) -> tuple[Target, dict[str, frozenset[int] | None] | None]:
    """Where to, and of which topics (None: all). Raises CommandFailed."""
    chosen = [(scenario, value) for scenario, value in given.items() if value is not None]
    if len(chosen) != 1:
        flags = ", ".join(f"--{scenario.value}" for scenario in given)
        raise usage_error("exactly one place to go to must be given", next_step=f"choose one of {flags}")
    ((scenario, value),) = chosen
    has_scope = bool(topic) + all_topics
    if scenario is Scenario.FROM_FILE:
        if has_scope:
            raise usage_error("--from-file names the partitions itself", next_step="leave out --topic and --all-topics")
    elif has_scope != 1:
        raise usage_error("which topics is not said", next_step="give --topic (repeatable), or --all-topics alone")
    return _usable(lambda: (_target(scenario, value, now), None if all_topics or not topic else parse_topics(topic)))


def _target(scenario: Scenario, value: object, now: datetime) -> Target:
    match scenario:
        case Scenario.TO_DATETIME:
            return Target(scenario, at=in_the_past(parse_datetime(str(value)), now))
        case Scenario.BY_DURATION:
            try:
                at = now - parse_duration(str(value))
            except OverflowError:
                raise TargetUnusable("a duration of that length leads before the year 1") from None
            return Target(scenario, at=in_the_past(at, now))
        case Scenario.TO_OFFSET | Scenario.SHIFT_BY:
            return Target(scenario, number=int(str(value)))
        case _:
            return Target(scenario)


def _usable(parse: Callable[[], Result]) -> Result:
    try:
        return parse()
    except TargetUnusable as error:
        raise usage_error(str(error), next_step="`payouts offsets plan --help` has examples") from None


def _offsets_of(path: Path, cluster: Cluster) -> dict[Place, int]:
    try:
        text = _read(path).decode()
    except UnicodeDecodeError:
        raise usage_error("the file is no text in UTF-8") from None
    found = _usable(lambda: parse_csv(text, cluster.group))
    return {cluster.places({name: frozenset({number})})[0]: offset for (name, number), offset in found.items()}


def _planned(
    cluster: Cluster,
    target: Target,
    places: Sequence[Place],
    now: datetime,
    max_age: int,
    *,
    clamp: bool,
) -> OffsetPlan:
    """The plan, with its payouts and money. Raises CommandFailed."""
    if not places:
        raise not_found("there is no partition to move", next_step="`payouts topics list`, `payouts offsets show`")
    moves = _moves(cluster, target, places, clamp=clamp)
    skip, replay = _read_them(lambda: run(effects(cluster.settings, moves)))
    return OffsetPlan(
        kind="restore" if target.scenario is Scenario.RESTORE else "reset",
        cluster_id=cluster.cluster_id(),
        group=cluster.group,
        made_at=now,
        max_age_seconds=max_age,
        target=target.text,
        topic_ids=cluster.topic_ids(name for name, _ in places),
        moves=tuple(moves),
        skip=skip,
        replay=replay,
    )


def _moves(cluster: Cluster, target: Target, places: Sequence[Place], *, clamp: bool) -> list[Move]:
    committed, bounds = cluster.committed(places), cluster.bounds(places)
    found_at = {} if target.at is None else cluster.found_at(places, target.at)
    moves = []
    for place in places:
        held, old = bounds[place], committed.get(place)
        try:
            aim = resolve(target, place, held, committed=old, found_at=found_at.get(place), clamp=clamp)
        except BeyondTheLog as error:
            raise refused(
                f"the offset is beyond the log: {error}",
                why="a typing error here skips everything, or reads everything again",
                next_step="correct it, or take the nearest there is with --clamp, as Kafka's own tool does",
            ) from None
        except TargetUnusable as error:
            raise usage_error(str(error), next_step="leave the partition out, or choose another place") from None
        if aim.note is not None:
            message(f"warning: {aim.note}")
        moves.append(
            Move(
                topic=place[0],
                partition=place[1],
                earliest=held.earliest,
                latest=held.latest,
                old=old,
                new=aim.offset,
                clamped=aim.clamped,
            )
        )
    return moves


def _tell_plan(made: OffsetPlan, out: Path | None, output: Output, *, export: bool = False) -> None:
    if out is not None:
        write_new(out, encode(made))
    if export:
        for move in made.moves:
            print(f"{move.topic},{move.partition},{move.new}")
    else:
        _show_plan(made, output)
    _tell_effect(made)
    if out is not None:
        message(
            f"Written to {out}. Let a second person read it, then `payouts offsets apply`; nothing was changed yet."
        )


def _show_plan(made: OffsetPlan, output: Output) -> None:
    if output is Output.JSON:
        emit_object(_document(made), output)
        return
    emit_rows([_move_row(move) for move in made.moves], MOVE_COLUMNS, output)
    print()
    emit_object({"skipped": effect_text(made.skip), "read again": effect_text(made.replay)}, output)


def _document(made: OffsetPlan) -> dict[str, Any]:
    content = made.model_dump(mode="json") | {"moves": [_move_row(move) for move in made.moves]}
    return content | {"digest": made.digest}


def _move_row(move: Move) -> dict[str, Any]:
    direction = "skip" if move.delta > 0 else "replay" if move.delta < 0 else "none"
    shown = {"topic": move.topic, "partition": move.partition, "old": move.old, "new": move.new, "delta": move.delta}
    return shown | {"direction": direction, "clamped": move.clamped, "earliest": move.earliest, "latest": move.latest}


def _tell_effect(made: OffsetPlan) -> None:
    if made.skip.records:
        message(
            f"SKIPS {made.skip.payouts} payouts ({totals_text(made.skip.money)}): each that has no outcome yet is held "
            f"until somebody releases it, and is not paid meanwhile."
        )
    if made.replay.records:
        message(
            f"Reads {made.replay.payouts} payouts again ({totals_text(made.replay.money)}); {made.replay.ended} have "
            f"an outcome already. The ledger recognises them: nothing is paid twice."
        )
    if not made.skip.records and not made.replay.records:
        message("No record is skipped or read again.")


# Applying.


@app.command(
    "apply",
    epilog=ending(
        'payouts offsets apply plan.json --reason "INC-9: read again" --dry-run',
        'payouts offsets apply plan.json --reason "INC-9: read again" --operator maria --yes',
        'payouts offsets apply plan.json --reason "INC-9: poisoned" --skip-payouts 17 --yes',
        codes=CODES,
    ),
)
def apply(
    plan_file: PlanArgument,
    reason: ReasonOption,
    skip_payouts: Annotated[
        int | None, typer.Option(min=0, help="How many payouts are skipped, exactly as the plan says.")
    ] = None,
    undo_plan: Annotated[
        Path | None, typer.Option(help="Where the plan that takes it back is written; PLAN.undo.json when not given.")
    ] = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move the group as the plan says, while nobody is in it. Every payout skipped is held first.

    Refused: a changed, old or applied plan, another cluster, group or topic, offsets that moved since, an active group.
    Undo with `payouts offsets undo` and the plan that this writes before it acts.
    """
    why, name = said(reason, "--reason"), who(operator)
    wanted = answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    made = _plan_of(plan_file)
    if made.kind == "undo":
        raise usage_error("this is an undo plan", next_step="`payouts offsets undo` takes it")
    refusal = skip_refusal(made, skip_payouts)
    if refusal is not None:
        raise refusal
    cluster = _cluster()
    _read_them(lambda: run(dry_check(cluster, made)))
    if output is Output.TABLE or dry_run:
        _show_plan(made, output)
    _tell_effect(made)
    message(CANNOT_BE_SEEN)
    if dry_run:
        message("Every check passed; nothing was changed (--dry-run).")
        return
    _agreed(f"Move {cluster.group}, as {name}?", yes=wanted.yes)
    undo_file = undo_plan or plan_file.with_suffix(".undo.json")
    done = _carried_out(
        lambda: run(apply_plan(cluster, made, operator=name, reason=why, undo_file=undo_file)), made, output
    )
    _tell_done(made, done, output, {"undo_plan": str(undo_file)})
    message(f"Now `payouts offsets verify {plan_file}`, then start the workers. To take it back: {undo_file}.")


@app.command(
    "undo",
    epilog=ending(
        'payouts offsets undo plan.undo.json --reason "INC-9: was wrong" --dry-run',
        'payouts offsets undo plan.undo.json --reason "INC-9: was wrong" --operator maria --yes',
        codes=CODES,
    ),
)
def undo(
    undo_file: Annotated[Path, typer.Argument(metavar="UNDO_PLAN", help="The file that `apply` wrote.")],
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a plan back: release what it holds, and move the group to where it stood, while nobody is in it.

    What was skipped is read then, and paid. A partition that the workers have read beyond its old place stays where it
    is. What somebody released or held for another reason meanwhile is left alone. Undo of the undo: a new plan.
    """
    why, name = said(reason, "--reason"), who(operator)
    wanted = answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    made = _plan_of(undo_file)
    cluster = _cluster()
    back = _read_them(lambda: run(look_back(cluster, made)))
    if output is Output.TABLE or dry_run:
        _show_back(back, output)
    message(CANNOT_BE_SEEN)
    if dry_run:
        message("Every check passed; nothing was changed (--dry-run).")
        return
    _agreed(f"Take it back, as {name}?", yes=wanted.yes)
    done = _carried_out(lambda: run(take_back(cluster, back, operator=name, reason=why)), back.plan, output)
    _tell_done(back.plan, done, output, {"left_held": done.left_held})


def _show_back(back: Back, output: Output) -> None:
    released = {currency: minor for currency, (_, minor) in back.held.items()}
    payouts = sum(count for count, _ in back.held.values())
    if output is Output.JSON:
        emit_object(_document(back.plan) | {"releases": {"payouts": payouts, "money": released}}, output)
        return
    emit_rows([_move_row(move) for move in back.plan.moves], MOVE_COLUMNS, output)
    print()
    emit_object(
        {
            "released": f"{payouts} payouts, {totals_text(released)}: MONEY MOVES once workers run",
            "read again": effect_text(back.plan.replay),
            "passed, and known": effect_text(back.plan.skip),
        },
        output,
    )


def _agreed(question: str, *, yes: bool) -> None:
    if not yes and not typer.confirm(question, err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")


def _carried_out(work: Callable[[], Done], made: OffsetPlan, output: Output) -> Done:
    try:
        return _read_them(work)
    except Partly as error:
        _tell_done(made, error.done, output, {"why": error.why.what})
        _partly_done(error)


def _partly_done(error: Partly) -> NoReturn:
    done = error.done
    raise CommandFailed(
        ExitCode.PARTIAL,
        f"done in part: {done.held} payouts held, {done.released} released, {len(done.moved)} partitions moved, "
        f"{len(done.failed)} not",
        why="; ".join(part for part in (error.why.what, error.why.why) if part),
        next_step="the same command again finishes it; the undo plan takes it back. Nothing is lost meanwhile: what "
        "was not moved is read by the workers",
    ) from None


def _tell_done(made: OffsetPlan, done: Done, output: Output, more: Mapping[str, Any]) -> None:
    values = {"plan": made.undoes or made.digest, **done.counts(), **more}
    if output is Output.JSON:
        failed = [{"topic": name, "partition": number, "why": why} for (name, number), why in done.failed.items()]
        emit_object(values | {"moved": [_move_row(move) for move in done.moved], "failed": failed}, output)
    else:
        print()
        emit_object(values, output)


@app.command(
    "verify",
    epilog=ending(
        "payouts offsets verify plan.json",
        "payouts offsets verify plan.json --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def verify(plan_file: PlanArgument, output: OutputOption = Output.TABLE) -> None:
    """Look whether the group stands where the plan put it, or went on from there, and whether anything was lost.

    Every record skipped must be accounted for: its payout held or ended, or it a repeat, refusal or dead letter.
    Changes nothing. Exit code 1: something is not as it should be.
    """
    made = _plan_of(plan_file)
    rows, skipped, passed = _read_them(lambda: run(verify_plan(_cluster(), made)))
    accounts = {"skipped": _accounts(skipped), "read again": _accounts(passed)}
    if output is Output.JSON:
        emit_object({"partitions": rows, **accounts}, output)
    else:
        emit_rows(rows, FATE_COLUMNS, output)
        print()
        emit_object(accounts, output)
    elsewhere = sum(row["fate"] == "not as planned" for row in rows)
    if elsewhere or skipped.missing or passed.missing:
        message(f"{elsewhere} partition(s) elsewhere, {skipped.missing + passed.missing} record(s) not accounted for.")
        raise typer.Exit(ExitCode.FOUND)
    message("The group stands as planned, and every record is accounted for.")


def _accounts(found: Accounts) -> dict[str, Any]:
    return {
        "records": found.records,
        "held": found.held,
        "seen": found.seen,
        "released": found.released,
        "missing": found.missing,
        "samples": found.samples,
    }


# Backups.


@app.command(
    "backup",
    epilog=ending(
        "payouts offsets backup offsets.json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; must not be there yet.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Write down what the group has committed, with a digest. Changes nothing, and may be done while workers run."""
    cluster = Cluster(settings_for(KAFKA))
    places = cluster.places()
    committed = cluster.committed(places)
    if not committed:
        raise not_found("the group has committed nothing", next_step="`payouts offsets show`")
    kept = OffsetBackup(
        cluster_id=cluster.cluster_id(),
        group=cluster.group,
        made_at=utc_now(),
        topic_ids=cluster.topic_ids(name for name, _ in committed),
        offsets=tuple(
            CommittedPlace(topic=name, partition=number, offset=offset)
            for (name, number), offset in sorted(committed.items())
        ),
    )
    write_new(file, encode(kept))
    emit_object({"file": str(file), "group": kept.group, "partitions": len(kept.offsets)}, output)


@app.command(
    "restore",
    epilog=ending(
        "payouts offsets restore offsets.json --out plan.json",
        "payouts offsets restore offsets.json --although-other-cluster --out plan.json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `payouts offsets backup` wrote.")],
    although_other_cluster: Annotated[
        bool,
        typer.Option("--although-other-cluster", help="The topics were restored elsewhere, with the same offsets."),
    ] = False,
    max_age: MaxAgeOption = MAX_AGE_SECONDS,
    out: OutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a plan that puts the group back to a backup; `payouts offsets apply` carries it out, within its rules.

    A backup that was changed, or is of another cluster or topic, is refused. Undo as of every plan.
    """
    try:
        kept = decode_backup(_read(file))
    except FileChanged as error:
        raise refused(str(error), why="it was changed or damaged", next_step="take another backup") from None
    except FileUnreadable as error:
        raise usage_error(str(error), next_step="give a file that `payouts offsets backup` wrote") from None
    cluster = _cluster()
    if kept.group != cluster.group:
        raise refused(
            "the backup is of another group",
            why=f"this is about {cluster.group}",
            next_step="set PAYOUTS_TOPIC_PREFIX as it was",
        )
    here = cluster.topic_ids(kept.topic_ids)
    if not although_other_cluster and (cluster.cluster_id() != kept.cluster_id or here != dict(kept.topic_ids)):
        raise refused(
            "the backup is of another cluster, or a topic was made anew since",
            why="its offsets name other records here",
            next_step="if the topics were restored with their offsets, say so with --although-other-cluster",
        )
    offsets = {(one.topic, one.partition): one.offset for one in kept.offsets}
    places = cluster.places({name: _numbers(offsets, name) for name in kept.topic_ids})
    target = Target(Scenario.RESTORE, offsets=offsets)
    _tell_plan(_planned(cluster, target, places, utc_now(), max_age, clamp=True), out, output)


def _numbers(offsets: Mapping[Place, int], topic: str) -> frozenset[int]:
    return frozenset(number for name, number in offsets if name == topic)


# Files.


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise usage_error("there is no such file", next_step="look at its name") from None
    except OSError as error:
        raise unreachable("the file cannot be read", why=str(error.strerror)) from None


def _plan_of(path: Path) -> OffsetPlan:
    """Raises CommandFailed."""
    try:
        return decode_plan(_read(path))
    except FileChanged as error:
        raise refused(str(error), why="a plan is what was read and agreed to", next_step="make a new plan") from None
    except FileUnreadable as error:
        raise usage_error(str(error), next_step="give a file that `payouts offsets plan` or `apply` wrote") from None


def _cluster() -> Cluster:
    """About the workers' own group: no other is moved, because nobody would hold what another group skips (R2)."""
    return Cluster(settings_for(KAFKA, DATABASE))


def _read_them(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except Unreadable as error:
        raise unreachable("Kafka could not be read", why=str(error), next_step="try again when it answers") from None
