"""Requests and events of the simulation, carried as Python values: what encryption and Avro cost is left out.

Everything that decides reads the same fields as in the product. Codec, reader and stages stand in for the product's,
whose own tests are elsewhere; keys and sealed boxes are real.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from processors.content import ContentDigest
from processors.money import Money
from processors.payout.events import Event, Rejected, Screened, ScreeningVerdict, Validated
from processors.payout.row import DestinationKind, FundingKind, PayoutRow
from processors.payout.step import Stage
from processors.personal_data import Address, BankAccount, Card, Party, PersonalData
from processors.secrets import CardNumber, Secret
from processors.validation.opened import OpenedRequest
from processors.validation.policy import ComplianceScope, CorridorRules
from processors.validation.request import (
    AccountDestination,
    AftFunding,
    AftStatus,
    CardDestination,
    Corridor,
    Destination,
    Funding,
    InternalFunding,
    PayoutRequest,
    PisFunding,
    PisStatus,
    RequestMalformed,
)
from sandbox.simulation.plan import PayoutPlan, Verdict
from schemas.codec import Undecodable
from streams.stages import OpenRequest

ASKING_NOTHING = CorridorRules(False, ComplianceScope.ALL, frozenset(DestinationKind), sys.maxsize)

RECIPIENT_CARD = "4957030420210462"
ACCOUNT_NUMBER = "000123456789012345"
SENDER_CARD = "4895142232120006"
"""Two of Visa's published test numbers."""
POLICY_VERSION = "simulation"
COUNTRY_OF = {"USD": "US", "JPY": "JP", "KWD": "KW"}


class Encoded(bytes):
    """The bytes of a record, together with what they say."""

    schema: str
    record: Mapping[str, Any]

    @classmethod
    def of(cls, schema: str, record: Mapping[str, Any]) -> Encoded:
        """One encoded record."""
        value = cls(b"\x00simulated")
        value.schema, value.record = schema, record
        return value


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the codec gives: only the record is ever looked at."""

    record: Mapping[str, Any]


class SimulatedCodec:
    """`schemas.codec.Codec` without Avro."""

    async def encode(self, schema: str, record: Mapping[str, Any], _topic: str | None = None) -> bytes:
        """A record's bytes."""
        return Encoded.of(schema, record)

    async def decode(self, schema: str, value: bytes) -> Decoded:
        """What they say. Raises Undecodable for bytes of nobody, or of another schema."""
        if not isinstance(value, Encoded) or value.schema != schema:
            raise Undecodable("FRAMING", "not a record of this schema")
        return Decoded(value.record)


class SimulatedRequest(bytes):
    """The bytes of a payout request."""

    request: PayoutRequest
    opened: OpenedRequest
    content: bytes
    number: bytes
    """Which of a payout's copies this is: a producer that encrypts again sends other bytes with the same content."""

    @classmethod
    def of(cls, request: PayoutRequest, opened: OpenedRequest, content: bytes, number: bytes) -> SimulatedRequest:
        """One request as it lies in its topic."""
        value = cls(b"\x00request")
        value.request, value.opened, value.content, value.number = request, opened, content, number
        return value


class SimulatedReader:
    """`streams.request_reader.RequestReader` over values."""

    async def read(self, value: bytes) -> OpenRequest:
        """Raises Undecodable, RequestMalformed."""
        if not isinstance(value, SimulatedRequest):
            if value == b"malformed":
                raise RequestMalformed("amount is missing or is not a record")
            raise Undecodable("FRAMING", "not a record of this schema")
        return value.request, value.opened

    def digest(
        self, _request: PayoutRequest, _opened: OpenedRequest, value: bytes, *, key_version: str | None = None
    ) -> ContentDigest:
        """Bytes differ from copy to copy, content only where the originator changed something."""
        assert isinstance(value, SimulatedRequest)
        return ContentDigest(key_version or "1", value.content + value.number, value.content)

    def seal(self, _value: bytes, _payout_id: str) -> bytes:
        """The simulation keeps requests in the open, beside the ledger."""
        return b""


class SimulatedStages:
    """`streams.stages.StageRunner`: gives each payout the verdict that its plan has for it."""

    def __init__(self, plans: Mapping[str, PayoutPlan], opened: Mapping[str, OpenRequest]) -> None:
        self._plans = plans
        self._opened = opened

    async def open(self, row: PayoutRow) -> OpenRequest:
        """The request, as it was when the row was made."""
        return self._opened[row.payout_id]

    def rules_for(self, _: PayoutRow) -> CorridorRules:
        """No corridor here asks Visa anything before the first intent."""
        return ASKING_NOTHING

    async def run(self, stage: Stage, row: PayoutRow, _already_open: OpenRequest | None = None) -> Event:
        """Validation or screening of one row."""
        verdict = self._plans[row.payout_id].verdict
        if stage is Stage.VALIDATE:
            if verdict is Verdict.REJECT or (row.funding_captured and not row.receipt_owned):
                return Rejected("SIMULATED", "the plan says so, or the receipt is another payout's", POLICY_VERSION)
            return Validated(POLICY_VERSION)
        word = {Verdict.REVIEW: ScreeningVerdict.NEEDS_REVIEW, Verdict.DENY: ScreeningVerdict.DENIED}.get(
            verdict, ScreeningVerdict.CLEARED
        )
        # Some score high and are cleared all the same, as with another threshold: `manual_review` stops them.
        score = 8_000 if self._plans[row.payout_id].number % 7 == 0 else 0
        return Screened(word, "SIMULATED", "the plan says so", POLICY_VERSION, "list", score, None, None)


_ADDRESS = Address(line1="1 High Street", city="Leeds", state="CA", postal_code="94404", country="US")
_PERSONAL = PersonalData(sender=Party(name="Mara Lindqvist", address=_ADDRESS), recipient=Party(name="Tomas Okafor"))
_RECIPIENT = Card(number=CardNumber(RECIPIENT_CARD), expiry="2031-12")
_SENDER = Card(number=CardNumber(SENDER_CARD), expiry="2031-12")
_OPENED = OpenedRequest(personal=_PERSONAL, destination_card=_RECIPIENT, funding_card=None, destination_details=None)
_OPENED_WITH_PULL = replace(_OPENED, funding_card=_SENDER)
_ACCOUNT = BankAccount(account_number=Secret(ACCOUNT_NUMBER), bank_code="021000021", country="US", currency="USD")
_DESTINATION = Destination(kind=DestinationKind.CARD, card=CardDestination(encrypted_card="jwe"))
_ACCOUNT_DESTINATION = Destination(kind=DestinationKind.ACCOUNT, account=AccountDestination(encrypted_account="jwe"))


def request_of(plan: PayoutPlan, at: datetime) -> OpenRequest:
    """The request that an originator sends at this time."""
    country = COUNTRY_OF[plan.currency]
    request = PayoutRequest(
        payout_id=plan.payout_id,
        originator_id=plan.originator,
        funding=_funding(plan, at),
        destination=_ACCOUNT_DESTINATION if plan.to_account else _DESTINATION,
        amount=Money(plan.amount_minor, plan.currency),
        corridor=Corridor(
            source_country=country, target_country=country, source_currency=plan.currency, target_currency=plan.currency
        ),
        fx_quote=None,
        personal_data="jwe",
        business_application_id=None,
        purpose=None,
        requested_at=at,
        expires_at=None if plan.expires_in_seconds is None else at + timedelta(seconds=plan.expires_in_seconds),
        correlation_id=f"corr-{plan.payout_id}",
        metadata={},
    )
    opened = _OPENED_WITH_PULL if plan.funding is FundingKind.AFT else _OPENED
    return request, replace(opened, destination_account=_ACCOUNT) if plan.to_account else opened


def content_of(request: PayoutRequest) -> bytes:
    """What must be equal in two copies of one request."""
    return hashlib.sha256(
        f"{request.payout_id}/{request.amount.amount_minor}/{request.amount.currency}".encode()
    ).digest()


def _funding(plan: PayoutPlan, at: datetime) -> Funding:
    if plan.funding is FundingKind.INTERNAL:
        internal = InternalFunding(debit_confirmed=plan.captured, confirmation_ref=plan.receipt)
        return Funding(kind=FundingKind.INTERNAL, internal=internal)
    if plan.funding is FundingKind.PIS:
        status = PisStatus.EXECUTED if plan.captured else PisStatus.FAILED
        return Funding(kind=FundingKind.PIS, pis=PisFunding(payment_id=plan.receipt, status=status))
    aft = AftFunding(
        receipt_id=plan.receipt,
        status=AftStatus.APPROVED if plan.captured else AftStatus.DECLINED,
        transaction_identifier=_identifier(plan),
        systems_trace_audit_number=400_000 + plan.number,
        retrieval_reference_number="606011451018",
        approval_code="12AB56",
        acquiring_bin="408999",
        captured_at=at - timedelta(seconds=plan.pull_age_seconds) if plan.pull_complete else None,
        amount=Money(plan.amount_minor, plan.currency),
        encrypted_card="jwe",
    )
    return Funding(kind=FundingKind.AFT, aft=aft)


def _identifier(plan: PayoutPlan) -> str:
    return SENDER_CARD if plan.card_number_as_identifier else str(381_228_649_430_014 + plan.number)
