"""`payouts schemas check|push|list`: the contracts, here and in the registry."""

from collections.abc import Mapping
from typing import Any, Final

import typer

from ledger.operator_notes import SCHEMAS_PUSHED
from ops.application import ending, new_app
from ops.environment import registry_of, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found, usage_error
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    OptionalReasonOption,
    recorded_if_reachable,
    who_or_what,
    why_if_given,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message
from schemas.catalog import RECORDS, pinned_ids, versions
from schemas.registry import CheckReport, SubjectState, check_schemas, list_schemas, push_schemas
from schemas.topics import subject_of, topic_for
from streams.settings import Settings

COLUMNS: Final = (
    Column("record", "RECORD"),
    Column("subject", "SUBJECT"),
    Column("pinned_id", "PINNED ID", right=True),
    Column("versions", "VERSIONS"),
    Column("schema_id", "REGISTERED ID", right=True),
    Column("level", "COMPATIBILITY"),
    Column("status", "STATUS"),
)

app = new_app("The Avro schemas of the topics, here and in the registry.")


@app.command(
    "check",
    epilog=ending(
        "payouts schemas check",
        "SCHEMA_REGISTRY_URL=http://127.0.0.1:8081 payouts schemas check --output json",
        codes=(ExitCode.FOUND, ExitCode.UNREACHABLE),
    ),
)
def check(output: OutputOption = Output.TABLE) -> None:
    """Check our schemas against their rules and, with a registry, against what it has. Changes nothing.

    Exit code 1 when a rule is broken, the registry would refuse a schema, or one is still to be pushed.
    """
    settings = settings_for()
    report = check_schemas(registry_of(settings), settings.payouts_topic_prefix)
    emit_rows(_rows(settings, report.subjects), COLUMNS, output)
    _say(report)
    if not (report.ok if registry_of(settings) is None else report.complete):
        raise typer.Exit(ExitCode.FOUND)


@app.command(
    "push",
    epilog=ending(
        "payouts schemas push",
        "payouts schemas push --dry-run",
        "payouts schemas check && payouts schemas push --output json",
        codes=(ExitCode.FOUND, ExitCode.UNREACHABLE),
    ),
)
def push(
    reason: OptionalReasonOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set FULL_TRANSITIVE for each subject and register our schemas, if the check finds nothing. Safe to repeat.

    It moves no money; partitions that waited for a schema go on. What was registered is in the ledger's history, if
    there is one in reach. There is no undo and none is needed: a schema that nobody writes disturbs nobody.
    """
    name, why = who_or_what(operator), why_if_given(reason)
    settings = settings_for()
    registry = registry_of(settings)
    if registry is None:
        raise usage_error(
            "there is no registry to push to",
            why="SCHEMA_REGISTRY_URL is not set; schema ids come from the repository's pinned table",
            next_step="set SCHEMA_REGISTRY_URL, or push nothing: a registry is optional",
        )
    if dry_run:
        _plan_push(settings, registry, output)
        return
    report = push_schemas(registry, settings.payouts_topic_prefix)
    if not report.ok:
        _say(report.check)
        emit_rows(_rows(settings, report.check.subjects), COLUMNS, output)
        raise not_found("nothing was pushed: the check found problems")
    emit_rows(_rows(settings, list_schemas(registry, settings.payouts_topic_prefix)), COLUMNS, output)
    pushed = [subject.subject for subject in report.pushed if subject.registered]
    message(f"{len(pushed)} schema(s) registered; {len(report.pushed) - len(pushed)} were there already.")
    if pushed:
        recorded_if_reachable(settings, name, SCHEMAS_PUSHED, {"subjects": pushed, **why})


def _plan_push(settings: Settings, registry: str, output: Output) -> None:
    """What a push would register. Raises CommandFailed where it would be refused."""
    report = check_schemas(registry, settings.payouts_topic_prefix)
    emit_rows(_rows(settings, report.subjects), COLUMNS, output)
    if not report.ok:
        _say(report)
        raise not_found("nothing would be pushed: the check found problems")
    missing = sum(not state.registered for state in report.subjects)
    message(f"{missing} schema(s) would be registered. Nothing was changed (--dry-run).")


@app.command(
    "list",
    epilog=ending(
        "payouts schemas list",
        "payouts schemas list --output json",
        codes=(ExitCode.UNREACHABLE,),
    ),
)
def list_(output: OutputOption = Output.TABLE) -> None:
    """Show each record's subject and ids: the pinned one and, with a registry, the registered one."""
    settings = settings_for()
    registry = registry_of(settings)
    subjects = () if registry is None else list_schemas(registry, settings.payouts_topic_prefix)
    emit_rows(_rows(settings, subjects), COLUMNS, output)


def _rows(settings: Settings, subjects: tuple[SubjectState, ...]) -> list[dict[str, Any]]:
    states: Mapping[str, SubjectState] = {state.schema: state for state in subjects}
    return [_row(name, settings, states.get(name)) for name in RECORDS]


def _row(name: str, settings: Settings, state: SubjectState | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "record": name,
        "subject": subject_of(topic_for(name, settings.payouts_topic_prefix)),
        "pinned_id": pinned_ids()[name, versions(name)[-1]],
    }
    if state is None:
        return row | {"versions": None, "schema_id": None, "level": None, "status": "pinned"}
    return row | {
        "versions": list(state.versions),
        "schema_id": state.schema_id,
        "level": state.level,
        "status": _status(state),
    }


def _status(state: SubjectState) -> str:
    if not state.compatible:
        return "incompatible"
    if not state.registered:
        return "not pushed"
    return "ok" if state.level_is_right else "wrong level"


def _say(report: CheckReport) -> None:
    for finding in report.findings:
        message(f"finding: {finding}")
    for state in report.subjects:
        if not state.compatible:
            message(f"finding: the registry would refuse {state.schema} under {state.subject}")
    if report.ok and report.subjects and not report.complete:
        message("Some schemas are still to be pushed: run `payouts schemas push`.")
