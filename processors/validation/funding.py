"""Whether an originator's money was captured, what proves it, and whether we could hand it back ourselves.

`captured` decides what a receipt is claimed for (rule L7) and what needs compensation (rule C1), so it looks at the
status alone: a captured pull whose other facts are incomplete is refused, and its money is still owed back.

A receipt is the originator's name for a card pull; Visa gives the pull back by names of its own. Those are claimed, too
(`pull_keys`), because one pull under two receipts would be handed back twice, or behind a payout that it paid for.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from processors.payout.row import FundingKind
from processors.personal_data import Card, is_plain_text
from processors.validation.opened import OpenedRequest
from processors.validation.reason_codes import Finding, ReasonCode
from processors.validation.request import AftFunding, AftStatus, Funding, PayoutRequest, PisStatus
from schemas.card_numbers import looks_like_card_number

# A reference is an index key in the ledger; originators' identifiers are far shorter.
LONGEST_REFERENCE_CHARACTERS: Final = 255
# Visa's OpenAPI for reverse funds: what the original card pull is named by.
_TRANSACTION_IDENTIFIER: Final = re.compile(r"[0-9]{15}")
_RETRIEVAL_REFERENCE_NUMBER: Final = re.compile(r"[0-9]{12}")
_APPROVAL_CODE: Final = re.compile(r"[A-Za-z0-9]{6}")
_ACQUIRING_BIN: Final = re.compile(r"[0-9]{6,11}")
_LARGEST_STAN: Final = 999_999
# What is hashed is part of a claim that lasts for ever: another form would let a pull be claimed a second time.
_TRACE_FORM: Final = "card-pull-trace/1"
_TRANSACTION_FORM: Final = "card-pull-transaction/1"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a captured funding is known by, for ever and once (rule L7); the ledger adds the originator."""

    kind: FundingKind
    reference: str


@dataclass(frozen=True, slots=True)
class PullKeys:
    """What a captured card pull is known by at Visa, for ever and once, whoever the originator is (rule L7).

    Hashes, so that no digits of theirs can be taken for a card number (promise P6), and without a key: a key is
    changed one day, and under a new one the same pull would be claimed again.
    """

    trace: bytes | None
    """Acquiring BIN, RRN and STAN: what a reversal names."""
    transaction: bytes | None
    """Visa's transaction identifier: what an adjustment names, and nothing else."""


@dataclass(frozen=True, slots=True)
class FundingFacts:
    """What the ledger's row keeps about a payout's funding."""

    kind: FundingKind
    captured: bool
    reference: str | None
    captured_at: datetime | None
    pull: PullKeys
    reversible: bool
    """Every fact that reverse funds needs is present and readable."""


def captured(funding: Funding) -> bool:
    """Whether the originator's money is taken: debit confirmed with a reference, AFT APPROVED, or PIS EXECUTED."""
    match funding.kind:
        case FundingKind.INTERNAL:
            return funding.internal is not None and bool(
                funding.internal.debit_confirmed and funding.internal.confirmation_ref
            )
        case FundingKind.AFT:
            return funding.aft is not None and funding.aft.status is AftStatus.APPROVED
        case FundingKind.PIS:
            return funding.pis is not None and funding.pis.status is PisStatus.EXECUTED
        case FundingKind.UNSPECIFIED:
            return False


def receipt(funding: Funding) -> Receipt | None:
    """The receipt that a captured funding claims; None when nothing was captured.

    Also None when the reference cannot be stored: empty, too long, unprintable, or itself a card number (promise P6).
    Such a request is refused, and nothing can be handed back by a reference that must not be written down.
    """
    if not captured(funding):
        return None
    reference = _reference(funding)
    return Receipt(funding.kind, reference) if _is_storable_reference(reference) else None


def pull_keys(funding: Funding) -> PullKeys:
    """The names of a captured card pull that are there and readable; a pull of which other facts are missing has them.

    Without them nothing of ours hands the pull back, but a person may (rule C2), and then it must not pay for anything.
    """
    aft = funding.aft if funding.kind is FundingKind.AFT and captured(funding) else None
    if aft is None:
        return PullKeys(None, None)
    return PullKeys(_trace_key(aft), _transaction_key(aft))


def reversal_gaps(aft: AftFunding, funding_card: object) -> tuple[str, ...]:
    """The names of the fields that a reversal of this pull would lack, in schema order; empty when it could be made."""
    present = {
        "transaction_identifier": _matches(_TRANSACTION_IDENTIFIER, aft.transaction_identifier),
        "systems_trace_audit_number": _is_trace_number(aft.systems_trace_audit_number),
        "retrieval_reference_number": _matches(_RETRIEVAL_REFERENCE_NUMBER, aft.retrieval_reference_number),
        "approval_code": _matches(_APPROVAL_CODE, aft.approval_code),
        "acquiring_bin": _matches(_ACQUIRING_BIN, aft.acquiring_bin),
        "captured_at": aft.captured_at is not None,
        "encrypted_card": isinstance(funding_card, Card),
    }
    return tuple(name for name, is_present in present.items() if not is_present)


def funding_facts(request: PayoutRequest, opened: OpenedRequest) -> FundingFacts:
    """The funding columns of the ledger's row."""
    funding = request.funding
    claimed = receipt(funding)
    aft = funding.aft if funding.kind is FundingKind.AFT else None
    return FundingFacts(
        kind=funding.kind,
        captured=captured(funding),
        reference=claimed.reference if claimed else None,
        captured_at=aft.captured_at if aft else None,
        pull=pull_keys(funding),
        reversible=aft is not None and captured(funding) and not reversal_gaps(aft, opened.funding_card),
    )


def check_funding(request: PayoutRequest, opened: OpenedRequest) -> Finding | None:
    """The guard of the funding's kind: None when the money is captured and completely described."""
    funding = request.funding
    records = {
        FundingKind.INTERNAL: funding.internal,
        FundingKind.AFT: funding.aft,
        FundingKind.PIS: funding.pis,
    }
    if records.get(funding.kind) is None or sum(record is not None for record in records.values()) != 1:
        return Finding(
            ReasonCode.FUNDING_INVALID,
            "funding.kind must be INTERNAL, AFT or PIS, and exactly the record of that kind must be set",
        )
    if not captured(funding):
        return _NOT_CAPTURED[funding.kind](funding)
    if receipt(funding) is None:
        return Finding(
            ReasonCode.FUNDING_INVALID,
            f"the funding reference must have 1 to {LONGEST_REFERENCE_CHARACTERS} printable characters",
        )
    return _check_aft(request, funding.aft, opened) if funding.aft else None


def _check_aft(request: PayoutRequest, aft: AftFunding, opened: OpenedRequest) -> Finding | None:
    gaps = reversal_gaps(aft, opened.funding_card)
    if gaps:
        return Finding(
            ReasonCode.FUNDING_INVALID,
            f"a reversal of this card pull could not be made; missing or malformed: {', '.join(gaps)}",
        )
    if aft.amount and (
        aft.amount.currency != request.amount.currency or aft.amount.amount_minor < request.amount.amount_minor
    ):
        return Finding(
            ReasonCode.FUNDING_INVALID,
            "the card pull does not cover the payout: its amount must be in the payout's currency and not smaller",
        )
    return None


def _internal_not_captured(_: Funding) -> Finding:
    return Finding(
        ReasonCode.LEDGER_NOT_CONFIRMED,
        "funding.internal needs debit_confirmed true and a confirmation_ref; debit your ledger first",
    )


def _aft_not_captured(funding: Funding) -> Finding:
    if funding.aft and funding.aft.status is AftStatus.DECLINED:
        return Finding(ReasonCode.AFT_DECLINED, "the card pull was declined, so there is no money to pay out")
    return Finding(ReasonCode.FUNDING_NOT_CAPTURED, "funding.aft.status must be APPROVED before a payout is requested")


def _pis_not_captured(funding: Funding) -> Finding:
    if funding.pis and funding.pis.status is PisStatus.FAILED:
        return Finding(ReasonCode.PIS_FAILED, "the open-banking pull failed, so there is no money to pay out")
    return Finding(ReasonCode.FUNDING_NOT_CAPTURED, "funding.pis.status must be EXECUTED before a payout is requested")


_NOT_CAPTURED: Final[Mapping[FundingKind, Callable[[Funding], Finding]]] = {
    FundingKind.INTERNAL: _internal_not_captured,
    FundingKind.AFT: _aft_not_captured,
    FundingKind.PIS: _pis_not_captured,
}


def _reference(funding: Funding) -> str:
    if funding.kind is FundingKind.INTERNAL and funding.internal:
        return funding.internal.confirmation_ref
    if funding.kind is FundingKind.AFT and funding.aft:
        return funding.aft.receipt_id
    return funding.pis.payment_id if funding.pis else ""


def _is_storable_reference(reference: str) -> bool:
    return (
        0 < len(reference) <= LONGEST_REFERENCE_CHARACTERS
        and is_plain_text(reference)
        and not looks_like_card_number(reference)
    )


def _trace_key(aft: AftFunding) -> bytes | None:
    named = (
        _matches(_ACQUIRING_BIN, aft.acquiring_bin)
        and _matches(_RETRIEVAL_REFERENCE_NUMBER, aft.retrieval_reference_number)
        and _is_trace_number(aft.systems_trace_audit_number)
    )
    if not named or aft.acquiring_bin is None:
        return None
    # Visa gets the BIN as a JSON number, to which a leading zero is nothing.
    acquiring_bin = str(int(aft.acquiring_bin))
    return _key(_TRACE_FORM, acquiring_bin, aft.retrieval_reference_number, aft.systems_trace_audit_number)


def _transaction_key(aft: AftFunding) -> bytes | None:
    if not _matches(_TRANSACTION_IDENTIFIER, aft.transaction_identifier):
        return None
    return _key(_TRANSACTION_FORM, aft.transaction_identifier)


def _key(*parts: str | int | None) -> bytes:
    """All of them as one hash; a slash is in none but the form, which comes first."""
    return hashlib.sha256("/".join(map(str, parts)).encode("ascii")).digest()


def _is_trace_number(number: int | None) -> bool:
    return number is not None and 0 < number <= _LARGEST_STAN


def _matches(pattern: re.Pattern[str], text: str | None) -> bool:
    return text is not None and pattern.fullmatch(text) is not None
