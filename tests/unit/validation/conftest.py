"""One key pair and one builder of requests for the tests of this room."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jwcrypto import jwk

from processors.personal_data import PartyKeys, seal_for_processor
from processors.validation.opened import OpenedRequest, open_request
from processors.validation.policy import CorridorPolicy, load_policy
from processors.validation.request import PayoutRequest, parse_request
from processors.validation.validate import Invalid, Valid, ValidationLimits, validate

NOW = datetime(2026, 10, 14, 12, 0, tzinfo=UTC)
RECIPIENT_CARD = "4957030420210462"
SENDER_CARD = "4895142232120006"


def _parties() -> dict[str, Any]:
    return {
        "sender": {
            "name": "Mara Lindqvist",
            "address": {"line1": "1 High Street", "city": "Leeds", "postal_code": "LS1 1AA", "country": "GB"},
        },
        "recipient": {"name": "Tomas Okafor"},
    }


@dataclass
class Requests:
    """Makes Avro-shaped records with real encryption, and runs them through validation."""

    public_jwk: Mapping[str, Any]
    keys: PartyKeys
    policy: CorridorPolicy
    now: datetime = NOW
    parties: Callable[[], dict[str, Any]] = field(default=_parties)

    def seal(self, document: Mapping[str, Any]) -> str:
        return seal_for_processor(self.public_jwk, document)

    def record(self, **changes: Any) -> dict[str, Any]:
        """A valid domestic US payout from internal funding; `changes` replace whole top-level fields."""
        return {
            "payout_id": "po_01JAB7Q2Z8",
            "originator_id": "acme",
            "funding": self.internal_funding(),
            "destination": self.card_destination(),
            "amount": {"amount_minor": 12405, "currency": "USD"},
            "corridor": self.corridor("US", "US", "USD", "USD"),
            "fx_quote": None,
            "personal_data": self.seal(self.parties()),
            "business_application_id": "AA",
            "purpose": None,
            "requested_at": self.now - timedelta(seconds=2),
            "expires_at": self.now + timedelta(hours=1),
            "correlation_id": "corr-1",
            "metadata": {"batch": "b-7"},
        } | changes

    def corridor(self, source: str, target: str, source_currency: str, target_currency: str) -> dict[str, Any]:
        return {
            "source_country": source,
            "target_country": target,
            "source_currency": source_currency,
            "target_currency": target_currency,
        }

    def internal_funding(self, **changes: Any) -> dict[str, Any]:
        internal = {"debit_confirmed": True, "confirmation_ref": "debit-1"} | changes
        return {"kind": "INTERNAL", "internal": internal, "aft": None, "pis": None}

    def pis_funding(self, **changes: Any) -> dict[str, Any]:
        return {
            "kind": "PIS",
            "internal": None,
            "aft": None,
            "pis": {"payment_id": "p-1", "status": "EXECUTED"} | changes,
        }

    def aft_funding(self, **changes: Any) -> dict[str, Any]:
        aft = {
            "receipt_id": "aft-1",
            "status": "APPROVED",
            "transaction_identifier": "381228649430015",
            "systems_trace_audit_number": 451018,
            "retrieval_reference_number": "628712451018",
            "approval_code": "12AB56",
            "acquiring_bin": "408999",
            "captured_at": self.now - timedelta(minutes=3),
            "amount": {"amount_minor": 12405, "currency": "USD"},
            "encrypted_card": self.seal({"primary_account_number": SENDER_CARD, "expiry": "2030-01"}),
        } | changes
        return {"kind": "AFT", "internal": None, "aft": aft, "pis": None}

    def card_destination(self, number: str = RECIPIENT_CARD) -> dict[str, Any]:
        card = {"token_reference": None, "encrypted_card": self.seal({"primary_account_number": number})}
        return {"kind": "CARD", "card": card, "account": None, "wallet": None, "alias": None}

    def quote(self, **changes: Any) -> dict[str, Any]:
        return {"quote_id": "q-1", "rate": "17.0542", "expires_at": self.now + timedelta(minutes=5)} | changes

    def opened(self, record: Mapping[str, Any]) -> tuple[PayoutRequest, OpenedRequest]:
        request = parse_request(record)
        return request, open_request(request, self.keys)

    def verdict(
        self, record: Mapping[str, Any], *, receipt_owned: bool = True, limits: ValidationLimits | None = None
    ) -> Valid | Invalid:
        request, opened = self.opened(record)
        return validate(
            request,
            opened,
            receipt_owned=receipt_owned,
            policy=self.policy,
            now=self.now,
            profile=limits or ValidationLimits(),
        )

    def code(
        self, record: Mapping[str, Any], *, receipt_owned: bool = True, limits: ValidationLimits | None = None
    ) -> str:
        """VALID, or the reason code."""
        verdict = self.verdict(record, receipt_owned=receipt_owned, limits=limits)
        return "VALID" if isinstance(verdict, Valid) else str(verdict.reason_code)


@pytest.fixture(scope="session")
def private_jwk() -> dict[str, Any]:
    key: dict[str, Any] = jwk.JWK.generate(kty="RSA", size=2048, kid="party-1").export_private(as_dict=True)
    return key


@pytest.fixture(scope="session")
def requests(private_jwk: dict[str, Any]) -> Requests:
    return Requests(
        public_jwk={name: private_jwk[name] for name in ("kty", "n", "e", "kid")},
        keys=PartyKeys([private_jwk]),
        policy=load_policy(),
    )
