"""One payout's life in order: the ledger's history merged with what the topics hold. Pure; holds no personal data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ledger.interface import HistoryEntry
from ops.money_text import amount_text, corridor_text, money_text
from ops.output import cell
from ops.redaction import redacted
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.trace import root_context
from processors.validation.reason_codes import EXPLANATIONS, ReasonCode
from processors.visa.correlation import RequestIds
from processors.visa.errors import error_named, error_table

Event = Mapping[str, Any]

# Fields of each record that may be shown. Free text of others is masked; encrypted fields are not here at all.
SHOWN_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "PayoutRequest": ("originator_id", "requested_at", "expires_at"),
    "ValidatedPayout": (),
    "ClearedPayout": (),
    "PayoutRetry": ("reason",),
    "PayoutResult": (
        "status",
        "reason_code",
        "action_code",
        "transaction_identifier",
        "attempts",
        "compensation_required",
    ),
    "PayoutFailedRequiresCompensation": ("reason_code", "action", "executor", "funding_kind", "priority", "stage"),
    "CompensationConfirmation": ("outcome", "confirmation_reference"),
    "CompensationResult": ("status", "action", "executor", "reason_code", "transaction_identifier"),
    "ReviewCase": ("case_id", "reason_code", "score_basis_points", "matched_party", "matched_entry_id", "list_version"),
    "ReviewDecision": ("case_id", "decision", "reviewer", "reason_code"),
    "RequestRefused": ("reason_code", "source_topic", "source_partition", "source_offset", "refused_event_id"),
}
# Digits only, and not card numbers: masking one that passes the check digit by chance would hide a fact.
UNMASKED_FIELDS: Final = frozenset({"transaction_identifier"})
REQUEST: Final = "PayoutRequest"

_LAST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a payout's life."""

    at: datetime | None
    source: str
    """`ledger`, or the topic's name on the cluster."""
    what: str
    version: int | None
    detail: Mapping[str, Any]
    from_state: str | None = None
    to_state: str | None = None
    actor: str | None = None
    partition: int | None = None
    offset: int | None = None
    ce_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Every field that is set."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in named.items() if value is not None}

    def as_row(self) -> dict[str, Any]:
        """What the table shows."""
        step = f"{self.from_state} > {self.to_state}" if self.from_state != self.to_state else self.to_state
        place = f"[{self.partition}]@{self.offset}" if self.offset is not None else ""
        return {
            "at": self.at,
            "source": f"{self.source}{place}",
            "what": self.what,
            "version": self.version,
            "state": (step or "").removeprefix("None > ") if self.to_state else None,
            "detail": {name: value for name, value in self.detail.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class _Placed:
    moment: Moment
    at: datetime
    rank: int
    order: tuple[Any, ...] = field(default=())

    @property
    def key(self) -> tuple[Any, ...]:
        return self.at, self.rank, self.order


def timeline(
    history: Sequence[HistoryEntry],
    events: Iterable[Event],
    intake: Iterable[Mapping[str, Any]] = (),
    first_request: tuple[str, int, int] | None = None,
) -> list[Moment]:
    """Everything that is known, in order.

    The ledger's own order is its versions. An event that reports a version never stands before the entry of that
    version, and the request that made the row never after it, whatever the clocks of their machines said.
    `first_request` is the row's source (topic, partition, offset).
    """
    by_version: dict[int, datetime] = {}
    placed = []
    latest = None
    for entry in history:
        # A later version may carry an earlier time when a standby took over.
        latest = entry.at if latest is None else max(latest, entry.at)
        by_version[entry.version] = latest
        placed.append(_Placed(_of_history(entry), latest, 1, (entry.version,)))
    received = min(by_version.values(), default=None)
    placed += [_place(event, by_version, received, first_request) for event in events]
    placed += [_Placed(_of_intake(record), record["recorded_at"], 1) for record in intake]
    return [item.moment for item in sorted(placed, key=lambda item: item.key)]


def _place(
    event: Event,
    by_version: Mapping[int, datetime],
    received: datetime | None,
    first_request: tuple[str, int, int] | None,
) -> _Placed:
    moment, meta = of_event(event), event["meta"]
    order = (moment.version or 0, meta["topic"], meta["partition"], meta["offset"])
    at = moment.at or _LAST
    if meta["schema"] == REQUEST:
        if received is not None and (meta["topic"], meta["partition"], meta["offset"]) == first_request:
            at = min(at, received)
        return _Placed(moment, at, 0, order)
    if moment.version is not None and moment.version in by_version:
        at = max(at, by_version[moment.version])
    return _Placed(moment, at, 2, order)


def _of_history(entry: HistoryEntry) -> Moment:
    return Moment(
        at=entry.at,
        source="ledger",
        what=entry.transition,
        version=entry.version,
        detail=_masked(entry.detail),
        from_state=entry.from_state,
        to_state=entry.to_state,
        actor=redacted(entry.actor),
    )


def _of_intake(record: Mapping[str, Any]) -> Moment:
    return Moment(
        at=record["recorded_at"],
        source="ledger",
        what=f"request {record['disposition'].lower()}",
        version=None,
        detail=_masked({name: record[name] for name in ("reason_code", "topic", "partition", "offset")}),
    )


def of_event(event: Event) -> Moment:
    """What may be shown of one decoded record."""
    meta = event["meta"]
    detail: dict[str, Any] = _masked({name: event.get(name) for name in SHOWN_FIELDS.get(meta["schema"], ())})
    if meta["schema"] == REQUEST:
        detail |= _masked(
            {
                "amount": money_text(event["amount"]),
                "corridor": corridor_text(event["corridor"]),
                "funding": event["funding"]["kind"],
                "destination": event["destination"]["kind"],
            }
        )
    version = event.get("version")
    return Moment(
        at=meta["at"],
        source=meta["topic"],
        what=meta["schema"],
        version=version if isinstance(version, int) else None,
        detail=detail,
        partition=meta["partition"],
        offset=meta["offset"],
        ce_id=None if meta["ce_id"] is None else redacted(meta["ce_id"]),
    )


def _masked(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: redacted(value) if isinstance(value, str) and name not in UNMASKED_FIELDS else value
        for name, value in detail.items()
    }


def payout_facts(row: PayoutRow) -> dict[str, Any]:
    """Where a payout stands, without its encrypted parts."""
    return {
        "payout_id": row.payout_id,
        "state": row.state.value,
        "version": row.version,
        "since": row.state_at,
        "held": row.held,
        "hold_reason": row.hold_reason,
        "reason_code": row.reason_code,
        "reason": None if row.reason is None else redacted(row.reason),
        "originator_id": redacted(row.originator_id),
        "amount": amount_text(row.amount_minor, row.currency),
        "corridor": f"{row.source_country}/{row.currency} to {row.target_country}/{row.target_currency}",
        "funding": row.funding_kind.value,
        "destination": row.destination_kind.value,
        "returned_at": row.returned_at,
        "returned_reason_code": row.returned_reason_code,
        "funding_captured": row.funding_captured,
        "receipt_owned": row.receipt_owned,
        "requested_at": row.requested_at,
        "received_at": row.received_at,
        "expires_at": row.expires_at,
        "policy_version": row.policy_version,
        "list_version": row.list_version,
        "score_basis_points": row.score_basis_points,
        "review_case_id": row.review_case_id,
        "reviewer": None if row.reviewer is None else redacted(row.reviewer),
        "due_at": row.due_at,
        "lease_owner": row.lease_owner,
        "lease_until": row.lease_until,
        "announced": row.announced_version >= row.announce_version,
        "correlation_id": redacted(row.correlation_id),
        "trace_id": root_context(row).trace_id,
    }


def visa_facts(row: PayoutRow, request_ids: RequestIds) -> dict[str, Any]:
    """What identifies the payout at Visa, and what Visa said last."""
    return {
        "request_id": request_ids.of(row),
        "sender_reference": row.sender_reference,
        "systems_trace_audit_number": row.systems_trace_audit_number,
        "retrieval_reference_number": row.retrieval_reference_number,
        "transaction_identifier": row.transaction_identifier,
        "action_code": row.action_code,
        "approval_code": row.approval_code,
        "status_identifier": row.status_identifier,
        "visa_correlation_id": row.visa_correlation_id,
        "attempts": row.attempts,
        "inquiries": row.inquiries,
        "ambiguous": row.ambiguous,
        "first_intent_at": row.first_intent_at,
        "last_intent_at": row.last_intent_at,
    }


def error_facts(row: PayoutRow, history: Sequence[HistoryEntry]) -> dict[str, Any] | None:
    """The name of what went wrong last, and what can be done about it; None where nothing has a name (rule S9).

    A payout without an end is named after the last answer to one of its calls.
    """
    if row.state is PayoutState.PAID:
        return None
    told = [
        str(entry.detail["reason_code"])
        for entry in history
        if "call" in entry.detail and "reason_code" in entry.detail
    ]
    reason_code = row.reason_code if row.is_terminal else next(reversed(told), None)
    if reason_code is None:
        return None
    declined = row.state is PayoutState.DECLINED
    error = (
        error_table()["TRANSACTION_DECLINED"] if declined else error_named(reason_code, rail=row.destination_kind.value)
    )
    if error is not None:
        return {
            "name": error.name,
            "category": error.category.value,
            "reason_code": reason_code,
            "meaning": error.message,
            "advice": error.recommended_action,
        }
    if reason_code in EXPLANATIONS:
        explained = EXPLANATIONS[ReasonCode(reason_code)]
        return {"reason_code": reason_code, "meaning": explained.meaning, "advice": explained.advice}
    return None


def compensation_facts(row: PayoutRow) -> dict[str, Any]:
    """Where the hand-back of the funding stands."""
    return {
        "state": row.compensation.value,
        "since": row.compensation_at,
        "action": row.compensation_action.value if row.compensation_action else None,
        "executor": row.compensation_executor.value if row.compensation_executor else None,
        "reason_code": row.compensation_reason_code,
        "reference": None if row.compensation_reference is None else cell(row.compensation_reference),
        "attempts": row.compensation_attempts,
        "ambiguous": row.compensation_ambiguous,
    }
