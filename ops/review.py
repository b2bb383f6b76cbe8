"""`payouts review list|approve|reject`: payouts that wait for a reviewer (rule R1).

Who may decide, and how many have to approve, is decided by the workers when they take the decision; the same pure rules
tell the reviewer here, before anything is published.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from ledger.interface import HistoryEntry
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.effects import effects
from ops.environment import DATABASE, KAFKA, codec_for, operator_name, policies_file, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, usage_error
from ops.kafka import connect_admin, our_topics, send_one
from ops.ledger_queries import ROWS_MAX, open_cases
from ops.money_text import amount_text
from ops.operator_actions import (
    WAIT_MAX_SECONDS,
    Answers,
    DryRunOption,
    YesOption,
    answers,
    refuse_where_nobody_decides,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.people import checked_text
from ops.redaction import redacted
from ops.stuck import age_text
from processors.compliance.review_policy import SHIPPED_REVIEW_POLICY, ReviewPolicy, load_review_policy
from processors.payout.events import Reviewed
from processors.payout.review import BARS_FROM_DECIDING
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.state_machine import apply
from processors.payout.step import Nothing
from processors.payout.trace import root_context
from processors.validation.policy import PolicyInvalid
from schemas.headers import event_headers, event_id, event_type
from schemas.payout_id import is_payout_id
from schemas.topics import topic_name
from streams.handlers import WORD_LENGTH_MAX as NAME_MAX
from streams.settings import Settings

TOPIC: Final = "payout_review_decisions"
SCHEMA: Final = "ReviewDecision"
EVENT_SOURCE: Final = "/payouts/review"
CASES: Final = 100
WAIT_SECONDS: Final = 5.0
"""A worker that is there takes a decision within a second."""
LOOK_EVERY_SECONDS: Final = 0.2
APPROVED: Final = frozenset({"review_approved", "review_approved_once"})
REJECTED: Final = frozenset({"review_rejected"})

_CASE = re.compile(r"(?P<payout_id>[A-Za-z0-9_-]{8,64})\.(?P<version>[1-9][0-9]{0,17})")

COLUMNS: Final = (
    Column("case_id", "CASE"),
    Column("opened_at", "OPENED"),
    Column("age_text", "AGE", right=True),
    Column("overdue", "OVERDUE"),
    Column("amount_text", "AMOUNT", right=True),
    Column("corridor_text", "CORRIDOR"),
    Column("score_basis_points", "SCORE", right=True),
    Column("matched_party", "PARTY"),
    Column("matched_entry_id", "LIST ENTRY"),
    Column("list_version", "LIST VERSION"),
    Column("originator_id", "ORIGINATOR"),
    Column("approvals", "APPROVALS"),
    Column("held", "HELD"),
)

app = new_app("Payouts that wait for a reviewer.")

CaseArgument = Annotated[str, typer.Argument(metavar="CASE_ID", help="The case, as `payouts review list` shows it.")]
ReasonCodeOption = Annotated[
    str, typer.Option("--reason-code", help="Why: one of the review policy's codes, for example FALSE_POSITIVE.")
]
NoteOption = Annotated[str | None, typer.Option(help="For whoever reads the case later. No names, no card numbers.")]
ReviewerOption = Annotated[
    str | None, typer.Option(help="Who decides; the system's user when not given (PAYOUTS_OPERATOR, USER).")
]


WaitOption = Annotated[
    float,
    typer.Option(
        min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds to see whether this decision counts, or another's."
    ),
]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer says about a case."""

    case_id: str
    approved: bool
    reason_code: str
    note: str | None
    reviewer: str

    @property
    def word(self) -> str:
        """As the event says it."""
        return "APPROVE" if self.approved else "REJECT"


@app.command(
    "list",
    epilog=ending(
        "payouts review list",
        "payouts review list --overdue",
        "payouts review list --limit 20 --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def list_(
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those open longer than the policy allows.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="At most so many, oldest first.")] = CASES,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the open cases, oldest first: what was matched, how well (in basis points), and the money that waits.

    Exit code 1: a case is overdue, whether it is shown or not.
    """
    settings = settings_for(DATABASE)
    policy = review_policy(settings)
    cases = [_shown(case, policy) for case in run(open_cases(settings.database_url.get_secret_value(), limit))]
    late = [case for case in cases if case["overdue"]]
    emit_rows(late if overdue else cases, COLUMNS, output)
    if len(cases) == limit:
        message(f"Stopped at the limit of {limit} cases: there may be more.")
    if late:
        allowed = age_text(policy.sla_seconds)
        message(f"{len(late)} case(s) are open for longer than {allowed}: {_money_of(late)} wait.")
        raise typer.Exit(ExitCode.FOUND)


def _money_of(cases: Sequence[Mapping[str, Any]]) -> str:
    totals: dict[str, int] = {}
    for case in cases:
        totals[case["currency"]] = totals.get(case["currency"], 0) + case["amount_minor"]
    return ", ".join(amount_text(minor, currency) for currency, minor in sorted(totals.items()))


def review_policy(settings: Settings) -> ReviewPolicy:
    """The policy in force here. Raises CommandFailed (usage)."""
    try:
        return load_review_policy(policies_file(settings, SHIPPED_REVIEW_POLICY))
    except PolicyInvalid as error:
        raise usage_error(
            "the review policy cannot be used", why=str(error), next_step="correct the file: `payouts doctor`"
        ) from None


@app.command(
    "approve",
    epilog=ending(
        "payouts review approve order-2026-000017.3 --reason-code FALSE_POSITIVE --dry-run",
        'payouts review approve order-2026-000017.3 --reason-code FALSE_POSITIVE --note "other year of birth" --yes',
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def approve(
    case_id: CaseArgument,
    reason_code: ReasonCodeOption,
    note: NoteOption = None,
    reviewer: ReviewerOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = WAIT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the payout of an open case go on to be paid; above the policy's amount, once a second person says so too.

    The decision is an event: a worker takes it, once, if the case is still open then. Its originator, and who held the
    payout, cannot give it. If another's decision came first, this one is refused (3). There is no undo once a worker
    has it; `payouts hold` stops the payout.
    """
    _decide(case_id, True, reason_code, note, reviewer, answers(yes=yes, dry_run=dry_run, wait=wait, output=output))


@app.command(
    "reject",
    epilog=ending(
        "payouts review reject order-2026-000017.3 --reason-code CONFIRMED_MATCH --dry-run",
        'payouts review reject order-2026-000017.3 --reason-code CONFIRMED_MATCH --note "same date of birth" --yes',
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def reject(
    case_id: CaseArgument,
    reason_code: ReasonCodeOption,
    note: NoteOption = None,
    reviewer: ReviewerOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = WAIT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deny the payout of an open case; captured funding is handed back. One person is enough.

    The decision is an event: a worker takes it, once, if the case is still open then. If another's decision came first,
    this one is refused (3). There is no undo: the result is published, and who wants the money paid after all sends a
    new payout.
    """
    _decide(case_id, False, reason_code, note, reviewer, answers(yes=yes, dry_run=dry_run, wait=wait, output=output))


def _decide(
    case_id: str, approved: bool, reason_code: str, note: str | None, reviewer: str | None, wanted: Answers
) -> None:
    payout_id, version = parse_case(case_id)
    name = checked_text(reviewer or operator_name() or "", "--reviewer")
    if not name:
        raise usage_error("who decides is not known", next_step="give --reviewer NAME")
    remark = None if note is None else checked_text(note, "--note")
    settings = settings_for(DATABASE, KAFKA)
    policy = review_policy(settings)
    _check_reason_code(policy, reason_code, approved=approved)
    decision = Decision(case_id, approved, reason_code, remark, name)
    row, follows = run(_looked_at(settings, payout_id, decision, policy))
    # Named after who decided what: the same decision given again is the same event (R1).
    identifier = event_id(SCHEMA, f"{case_id}/{name}/{decision.word}", version)
    shown = _described(decision, row, follows, identifier)
    if wanted.output is Output.TABLE or wanted.dry_run:
        emit_object(shown, wanted.output)
    if wanted.dry_run:
        message("Nothing was published (--dry-run).")
        return
    if not wanted.yes and not typer.confirm(f"Decide so ({decision.word}, as {name})?", err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was published", why="the decision was not agreed to")
    record = {
        "case_id": case_id,
        "payout_id": payout_id,
        "decision": decision.word,
        "reviewer": name,
        "reason_code": reason_code,
        "note": remark,
        "decided_at": datetime.now(UTC),
    }
    _publish(settings, row, record, identifier)
    found, says = run(_waited_for(settings, payout_id, decision, wanted.wait_seconds or 0.0))
    if wanted.output is Output.JSON:
        emit_object(shown | {"standing": found.value}, wanted.output)
    if found is Standing.OVERTAKEN:
        raise refused(
            "the decision is published and does not count: another one came first",
            why=says,
            next_step=f"see `payouts show {payout_id}`; talk to whoever decided",
        )
    message(says)


class Standing(StrEnum):
    """What became of a published decision."""

    COUNTS = "counts"
    OVERTAKEN = "overtaken"
    """The case was ended by somebody else's, or in another way."""
    NOT_TAKEN_YET = "not taken yet"


def standing(decision: Decision, row: PayoutRow, history: Sequence[HistoryEntry]) -> tuple[Standing, str]:
    """Whether the case went on by this decision, and who decided it if not. Pure."""
    of_case = [
        entry
        for entry in history
        if entry.transition in APPROVED | REJECTED and entry.detail.get("case_id") == decision.case_id
    ]
    own = APPROVED if decision.approved else REJECTED
    # The worker keeps as much of a name.
    if any(entry.transition in own and entry.detail["reviewer"] == decision.reviewer[:NAME_MAX] for entry in of_case):
        return Standing.COUNTS, f"A worker has taken the decision: the payout is {row.state.value}."
    if row.state is PayoutState.IN_REVIEW and row.review_case_id == decision.case_id:
        return (
            Standing.NOT_TAKEN_YET,
            f"The decision is published; no worker has taken it yet. See `payouts show {row.payout_id}`.",
        )
    if of_case:
        last = of_case[-1]
        return Standing.OVERTAKEN, f"{last.transition} by {redacted(str(last.detail['reviewer']))}"
    return Standing.OVERTAKEN, f"the payout is {row.state.value}: nobody's decision ended the case"


async def _waited_for(
    settings: Settings, payout_id: str, decision: Decision, wait_seconds: float
) -> tuple[Standing, str]:
    until = time.monotonic() + wait_seconds
    async with connected_ledger(settings) as ledger:
        while True:
            row = await ledger.read(payout_id)
            if row is None:
                raise refused(f"the ledger has no payout {payout_id} any more")
            found, says = standing(decision, row, await ledger.history(payout_id))
            if found is not Standing.NOT_TAKEN_YET or time.monotonic() >= until:
                return found, says
            await asyncio.sleep(LOOK_EVERY_SECONDS)


def _check_reason_code(policy: ReviewPolicy, reason_code: str, *, approved: bool) -> None:
    """Raises CommandFailed (usage), naming the codes that there are."""
    codes = policy.codes(approved=approved)
    if reason_code not in codes:
        raise usage_error(
            f"--reason-code is none of the review policy {policy.version} for this decision",
            why="; ".join(f"{code}: {meaning}" for code, meaning in codes.items()),
            next_step="choose one of these; compliance adds codes to review.yaml",
        )


def _described(decision: Decision, row: PayoutRow, follows: Sequence[str], identifier: str) -> dict[str, Any]:
    return {
        "case_id": decision.case_id,
        "payout_id": row.payout_id,
        "decision": decision.word,
        "reviewer": decision.reviewer,
        "reason_code": decision.reason_code,
        "amount": amount_text(row.amount_minor, row.currency),
        "funding_captured": row.funding_captured,
        "event_id": identifier,
        "effects": list(follows),
    }


def parse_case(case_id: str) -> tuple[str, int]:
    """(payout_id, row version at opening) of a case's id. Raises CommandFailed (usage)."""
    parts = _CASE.fullmatch(case_id)
    if parts is None or not is_payout_id(parts["payout_id"]):
        raise usage_error("this is no case id: it is PAYOUT_ID.VERSION", next_step="copy it from `payouts review list`")
    return parts["payout_id"], int(parts["version"])


async def _looked_at(
    settings: Settings, payout_id: str, decision: Decision, policy: ReviewPolicy
) -> tuple[PayoutRow, Sequence[str]]:
    """The open case's row, and what the decision does to it, as a worker would decide now. Raises CommandFailed."""
    case_id = decision.case_id
    async with connected_ledger(settings) as ledger:
        row = await ledger.read(payout_id)
        history = await ledger.history(payout_id)
        refuse_where_nobody_decides((await ledger.mode()).mode, "a review")
    if row is None or row.review_case_id is None:
        raise refused(f"there is no case {case_id}", next_step="see `payouts review list`")
    if row.state is not PayoutState.IN_REVIEW or row.review_case_id != case_id:
        raise refused(
            f"the case {case_id} is not open",
            why=f"the payout is {row.state.value}; its newest case is {row.review_case_id}",
            next_step=f"see `payouts show {payout_id}`",
        )
    event = Reviewed(
        case_id,
        decision.approved,
        decision.reviewer,
        decision.reason_code,
        policy.approvals_needed(row.amount_minor, row.currency),
        frozenset(entry.actor for entry in history if entry.transition in BARS_FROM_DECIDING),
    )
    now = datetime.now(UTC)
    step = apply(row, event, now, settings.schedule)
    if isinstance(step, Nothing):
        raise refused("this decision does not count", why=step.reason, next_step="let another person decide")
    if step.transition == "review_approved_once":
        return row, ["the case stays open: a second person has to approve, because of the amount"]
    return row, effects(row, step.row, now, settings.schedule)


def _publish(settings: Settings, row: PayoutRow, record: Mapping[str, Any], identifier: str) -> None:
    our_topics(connect_admin(settings), settings, [TOPIC])
    topic = topic_name(TOPIC, settings.payouts_topic_prefix)
    with codec_for(settings) as codec:
        value = codec.encode(SCHEMA, record)
    headers = event_headers(
        event_type(SCHEMA),
        EVENT_SOURCE,
        record["decided_at"],
        row.correlation_id,
        root_context(row).traceparent,
        event_id=identifier,
    )
    send_one(settings, topic, row.payout_id, value, headers)


def _shown(case: Mapping[str, Any], policy: ReviewPolicy) -> dict[str, Any]:
    corridor = f"{case['source_country']}/{case['currency']} to {case['target_country']}/{case['target_currency']}"
    needed = policy.approvals_needed(case["amount_minor"], case["currency"])
    return {
        **case,
        "originator_id": redacted(case["originator_id"]),
        "approved_by": None if case["approved_by"] is None else redacted(case["approved_by"]),
        "amount_text": amount_text(case["amount_minor"], case["currency"]),
        "corridor_text": corridor,
        "age_text": age_text(case["age_seconds"]),
        "overdue": case["age_seconds"] > policy.sla_seconds,
        "approvals_needed": needed,
        "approvals": f"{0 if case['approved_by'] is None else 1} of {needed}",
    }
