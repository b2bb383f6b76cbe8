"""`payouts review list|approve|reject`: payouts that wait for a person after a watch-list match."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, codec_for, operator_name, settings_for
from ops.exit_codes import ExitCode
from ops.failures import refused, usage_error
from ops.kafka import connect_admin, our_topics, send_one
from ops.ledger_queries import ROWS_MAX, open_cases
from ops.money_text import amount_text
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.people import checked_text
from ops.redaction import redacted
from processors.payout.row import PayoutRow, PayoutState
from schemas.headers import event_headers, event_id, event_type
from schemas.payout_id import is_payout_id
from schemas.topics import topic_name
from streams.settings import Settings

TOPIC: Final = "payout_review_decisions"
SCHEMA: Final = "ReviewDecision"
EVENT_SOURCE: Final = "/payouts/review"
CASES: Final = 100

_CASE = re.compile(r"(?P<payout_id>[A-Za-z0-9_-]{8,64})\.(?P<version>[1-9][0-9]{0,17})")
_REASON_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")

COLUMNS: Final = (
    Column("case_id", "CASE"),
    Column("opened_at", "OPENED"),
    Column("amount_text", "AMOUNT", right=True),
    Column("corridor_text", "CORRIDOR"),
    Column("score_basis_points", "SCORE", right=True),
    Column("matched_party", "PARTY"),
    Column("matched_entry_id", "LIST ENTRY"),
    Column("list_version", "LIST VERSION"),
    Column("originator_id", "ORIGINATOR"),
    Column("held", "HELD"),
)

app = new_app("Payouts that wait for a reviewer.")

CaseArgument = Annotated[str, typer.Argument(metavar="CASE_ID", help="The case, as `payouts review list` shows it.")]
ReasonCodeOption = Annotated[str, typer.Option("--reason-code", help="A word in capitals, for example FALSE_POSITIVE.")]
NoteOption = Annotated[str | None, typer.Option(help="For whoever reads the case later. No names, no card numbers.")]
ReviewerOption = Annotated[
    str | None, typer.Option(help="Who decides; the system's user when not given (PAYOUTS_OPERATOR, USER).")
]


@app.command(
    "list",
    epilog=ending(
        "payouts review list",
        "payouts review list --limit 20 --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def list_(
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="At most so many, oldest first.")] = CASES,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the open cases, oldest first: what was matched, how well (in basis points), and the money that waits."""
    settings = settings_for(DATABASE)
    cases = run(open_cases(settings.database_url.get_secret_value(), limit))
    emit_rows([_shown(case) for case in cases], COLUMNS, output)
    if len(cases) == limit:
        message(f"Stopped at the limit of {limit} cases: there may be more.")


@app.command(
    "approve",
    epilog=ending(
        'payouts review approve order-2026-000017.3 --reason-code FALSE_POSITIVE --note "other year of birth"',
        "payouts review approve order-2026-000017.3 --reason-code FALSE_POSITIVE --reviewer maria --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def approve(
    case_id: CaseArgument,
    reason_code: ReasonCodeOption,
    note: NoteOption = None,
    reviewer: ReviewerOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the payout of an open case go on to be paid.

    The decision is an event: a worker takes it, once, if the case is still open then.
    """
    _decide(case_id, "APPROVE", reason_code, note, reviewer, output)


@app.command(
    "reject",
    epilog=ending(
        "payouts review reject order-2026-000017.3 --reason-code CONFIRMED_MATCH --reviewer maria",
        'payouts review reject order-2026-000017.3 --reason-code CONFIRMED_MATCH --note "same date of birth"',
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def reject(
    case_id: CaseArgument,
    reason_code: ReasonCodeOption,
    note: NoteOption = None,
    reviewer: ReviewerOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deny the payout of an open case; captured funding is handed back.

    The decision is an event: a worker takes it, once, if the case is still open then.
    """
    _decide(case_id, "REJECT", reason_code, note, reviewer, output)


def _decide(
    case_id: str, decision: str, reason_code: str, note: str | None, reviewer: str | None, output: Output
) -> None:
    payout_id, version = parse_case(case_id)
    if not _REASON_CODE.fullmatch(reason_code):
        raise usage_error("--reason-code is 2 to 64 capitals, digits and underscores, for example FALSE_POSITIVE")
    who = checked_text(reviewer or operator_name() or "", "--reviewer")
    if not who:
        raise usage_error("who decides is not known", next_step="give --reviewer NAME")
    remark = None if note is None else checked_text(note, "--note")
    settings = settings_for(DATABASE, KAFKA)
    row = run(_open_row(settings, payout_id, case_id))
    record = {
        "case_id": case_id,
        "payout_id": payout_id,
        "decision": decision,
        "reviewer": who,
        "reason_code": reason_code,
        "note": remark,
        "decided_at": datetime.now(UTC),
    }
    # Named after who decided what: the same decision given again is the same event (R1).
    identifier = event_id(SCHEMA, f"{case_id}/{who}/{decision}", version)
    _publish(settings, row, record, identifier)
    emit_object(
        {
            "case_id": case_id,
            "payout_id": payout_id,
            "decision": decision,
            "reviewer": who,
            "reason_code": reason_code,
            "amount": amount_text(row.amount_minor, row.currency),
            "funding_captured": row.funding_captured,
            "event_id": identifier,
        },
        output,
    )
    message(f"The decision is published; a worker takes it. See `payouts show {payout_id}`.")


def parse_case(case_id: str) -> tuple[str, int]:
    """(payout_id, row version at opening) of a case's id. Raises CommandFailed (usage)."""
    parts = _CASE.fullmatch(case_id)
    if parts is None or not is_payout_id(parts["payout_id"]):
        raise usage_error("this is no case id: it is PAYOUT_ID.VERSION", next_step="copy it from `payouts review list`")
    return parts["payout_id"], int(parts["version"])


async def _open_row(settings: Settings, payout_id: str, case_id: str) -> PayoutRow:
    async with connected_ledger(settings) as ledger:
        row = await ledger.read(payout_id)
    if row is None or row.review_case_id is None:
        raise refused(f"there is no case {case_id}", next_step="see `payouts review list`")
    if row.state is not PayoutState.IN_REVIEW or row.review_case_id != case_id:
        raise refused(
            f"the case {case_id} is not open",
            why=f"the payout is {row.state.value}; its newest case is {row.review_case_id}",
            next_step=f"see `payouts show {payout_id}`",
        )
    return row


def _publish(settings: Settings, row: PayoutRow, record: Mapping[str, Any], identifier: str) -> None:
    our_topics(connect_admin(settings), settings, [TOPIC])
    topic = topic_name(TOPIC, settings.payouts_topic_prefix)
    with codec_for(settings) as codec:
        value = codec.encode(SCHEMA, record)
    headers = event_headers(
        event_type(SCHEMA), EVENT_SOURCE, record["decided_at"], row.correlation_id, event_id=identifier
    )
    send_one(settings, topic, row.payout_id, value, headers)


def _shown(case: Mapping[str, Any]) -> dict[str, Any]:
    corridor = f"{case['source_country']}/{case['currency']} to {case['target_country']}/{case['target_currency']}"
    return {
        **case,
        "originator_id": redacted(case["originator_id"]),
        "amount_text": amount_text(case["amount_minor"], case["currency"]),
        "corridor_text": corridor,
    }
