"""`payouts ledger roles`: who may do what in the ledger's database (least privilege)."""

import json
from typing import Annotated, Any, Final

import typer

from ledger.roles import (
    OPERATOR_RIGHTS,
    SEQUENCE,
    SEQUENCE_RIGHTS,
    WORKER_RIGHTS,
    Found,
    RoleNames,
    grant_roles,
    look,
    role_statements,
)
from ops.application import ending
from ops.asynchronous import run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, usage_error
from ops.operator_actions import DryRunOption, OperatorOption, YesOption, answers, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message

COLUMNS: Final = (
    Column("role", "ROLE"),
    Column("object", "OBJECT"),
    Column("rights", "MAY"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "roles",
        epilog=ending(
            "payouts ledger roles --print",
            'payouts ledger roles --reason "OPS-12: workers own no table" --dry-run',
            'payouts ledger roles --reason "OPS-12: workers own no table" --operator maria --yes',
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(roles)


def roles(
    reason: Annotated[str, typer.Option(help="Why; stays in the ledger's history. Not needed to look.")] = "",
    prefix: Annotated[str, typer.Option(help="How the names of the roles begin: PREFIX_worker and so on.")] = "payouts",
    print_: Annotated[
        bool, typer.Option("--print", help="Print the SQL for whoever may create roles; change nothing.")
    ] = False,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create the roles worker, operator and auditor, and give each what it needs and nothing else.

    Run it as the owner of the tables, after every migration. Nobody logs in as a role: give it to a login with
    `GRANT payouts_worker TO LOGIN` and put that login into DATABASE_URL. Only the owner migrates, adopts and restores.
    It moves no money. Run again it takes away what was given besides; to undo it, give those rights back by hand.
    """
    names = _names(prefix)
    if print_ and (yes or dry_run):
        raise usage_error("--print changes nothing", next_step="leave out --yes and --dry-run")
    settings = settings_for(DATABASE)
    url = settings.database_url.get_secret_value()
    if print_:
        _print(names, _known(run(look(url, names))))
        return
    why, name = said(reason, "--reason"), who(operator)
    answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    found = _known(run(look(url, names)))
    if output is Output.TABLE:
        emit_rows(_rights(names), COLUMNS, output)
    _tell(names, found)
    if dry_run:
        if output is Output.JSON:
            emit_object(_document(names, found, done=False), output)
        message("Nothing was changed (--dry-run).")
        return
    if not found.may_create_roles and not set(names.all) <= set(found.existing_roles):
        raise refused(
            f"the login {found.user} may not create roles",
            next_step="have what `payouts ledger roles --print` prints run by somebody who may",
        )
    if not yes and not typer.confirm(f"Give these rights, as {name}?", err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")
    run(grant_roles(url, names, operator=name, detail=json.dumps({"reason": why, "roles": list(names.all)})))
    if output is Output.JSON:
        emit_object(_document(names, found, done=True), output)
    message(f"Done. Give them to logins: GRANT {names.worker} TO the login of DATABASE_URL of the workers.")


def _names(prefix: str) -> RoleNames:
    try:
        return RoleNames(prefix)
    except ValueError as error:
        raise usage_error("--prefix cannot be used", why=str(error), next_step="for example --prefix payouts") from None


def _known(found: Found | None) -> Found:
    if found is None or found.missing_tables:
        raise refused(
            "the ledger's tables are not all there",
            why="rights are given on tables",
            next_step="run `payouts ledger migrate` first",
        )
    return found


def _print(names: RoleNames, found: Found) -> None:
    print("BEGIN;")
    for statement in role_statements(names, found):
        print(f"{statement};")
    print("COMMIT;")


def _tell(names: RoleNames, found: Found) -> None:
    new = [role for role in names.all if role not in found.existing_roles]
    message(f"New roles: {', '.join(new) or 'none'}. The tables are {found.owner}'s, who alone migrates and adopts.")
    if found.unknown_tables:
        message(f"Of a newer release, read by the auditor only: {', '.join(found.unknown_tables)}.")


def _document(names: RoleNames, found: Found, *, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "owner": found.owner,
        "new_roles": [role for role in names.all if role not in found.existing_roles],
        "unknown_tables": found.unknown_tables,
        "rights": _rights(names),
    }


def _rights(names: RoleNames) -> list[dict[str, Any]]:
    rows = [
        {"role": role, "object": table, "rights": ", ".join(_short(right) for right in rights)}
        for role, given in ((names.worker, WORKER_RIGHTS), (names.operator, OPERATOR_RIGHTS))
        for table, rights in given.items()
    ]
    rows.append({"role": names.auditor, "object": "every table", "rights": "SELECT"})
    rows.append({"role": names.auditor, "object": "history", "rights": _short(WORKER_RIGHTS["history"][1])})
    rows += [
        {"role": f"{names.prefix}_{name}", "object": SEQUENCE, "rights": right}
        for name, right in SEQUENCE_RIGHTS.items()
    ]
    return rows


def _short(right: str) -> str:
    """`UPDATE of 58 columns` where the list is long."""
    what, _, columns = right.partition(" (")
    count = columns.count(",") + 1
    return right if not columns or count <= 5 else f"{what} of {count} columns"
