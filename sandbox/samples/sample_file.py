"""The sample file, read into what is to be sent, what is to be played, and where everything must end."""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from processors.personal_data import seal_for_processor

SAMPLE_FILE = Path(__file__).with_name("payouts.yaml")
ADDRESSES: Mapping[str, Mapping[str, str]] = {
    "US": {"line1": "1 Sample Street", "city": "Foster City", "state": "CA", "postal_code": "94404", "country": "US"},
    "JP": {"line1": "1-1 Mihon", "city": "Tokyo", "postal_code": "1000001", "country": "JP"},
    "KW": {"line1": "1 Sample Street", "city": "Kuwait City", "postal_code": "13001", "country": "KW"},
    "MX": {"line1": "Calle Muestra 1", "city": "Mexico City", "postal_code": "06000", "country": "MX"},
    "GB": {"line1": "1 Sample Road", "city": "London", "postal_code": "EC1A 1BB", "country": "GB"},
    "BR": {"line1": "Rua Amostra 1", "city": "Sao Paulo", "postal_code": "01000", "country": "BR"},
}
TARGET_CURRENCIES = {"US": "USD", "JP": "JPY", "KW": "KWD", "MX": "MXN", "BR": "BRL", "GB": "GBP"}
QUOTED_RATES = {"GB": "0.79"}
"""For a US dollar; where Visa is asked, its stand-in's own."""
CARD_EXPIRY = "2031-12"


def account_details(kind: str, number: str) -> dict[str, str]:
    """A bank account or wallet in the United States, as an originator seals it."""
    place = {"account_number": number, "country": "US", "currency": "USD"}
    return place | ({"operator_name": "Sample Wallet"} if kind == "wallet" else {"bank_code": "021000000"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(_Strict):
    """Where a sample must end."""

    state: str | None = None
    reason_code: str | None = None
    compensation: str | None = None
    held: bool = False
    returned: bool = False
    """It came back after it was paid, and that was said."""
    attempts_min: int = 0
    disposition: Literal["repeat", "refused", "dead_letter"] | None = None


class Play(_Strict):
    """What the people around the processor do."""

    reviewer: Literal["approves", "rejects"] | None = None
    originator: Literal["confirms", "refuses"] | None = None


class Send(_Strict):
    """A record that is not simply this sample's own request."""

    repeat_of: str | None = None
    conflict_of: str | None = None
    amount: str | None = None
    raw: Literal["undecodable", "unknown_schema", "foreign_key", "oversized"] | None = None


class Sample(_Strict):
    """One line of the file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{3,40}$")]
    amount: str | None = None
    corridor: str | None = None
    to: str | None = None
    funding: Literal["internal", "aft", "pis"] = "internal"
    captured: bool = True
    recipient_name: str | None = None
    fx_quote: bool = False
    fx_rate: str | None = None
    expires_in_seconds: int | None = None
    metadata: dict[str, str] = {}
    visa: list[dict[str, Any]] = []
    send: Send | None = None
    play: Play = Play()
    expect: Expectation


class SampleDefaults(_Strict):
    """What every sample has unless it says otherwise."""

    originator_id: str
    corridor: str
    recipient_name: str
    sender_name: str


class SampleFile(_Strict):
    """The whole file."""

    defaults: SampleDefaults
    payouts: list[Sample]


def load_samples(path: Path = SAMPLE_FILE) -> SampleFile:
    """Read and check the file. Raises pydantic.ValidationError naming the place."""
    samples = SampleFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    names = [sample.name for sample in samples.payouts]
    if len(set(names)) != len(names):
        raise ValueError("two samples have the same name")
    return samples


def money(text: str) -> dict[str, Any]:
    """`2500 USD` as Money in minor units."""
    amount, currency = text.split()
    return {"amount_minor": int(amount), "currency": currency}


class RequestBuilder:
    """Builds PayoutRequest records for one run, personal data sealed to the processor's key."""

    def __init__(self, defaults: SampleDefaults, party_key: Mapping[str, Any], run: str, now: datetime) -> None:
        self._defaults = defaults
        self._party_key = party_key
        self._run = run
        self._now = now

    def payout_id(self, name: str) -> str:
        """The sample's id in this run."""
        return f"{name}-{self._run}"

    def record(self, sample: Sample, amount: str | None = None) -> dict[str, Any]:
        """The request as the originator sends it."""
        source, target = (sample.corridor or self._defaults.corridor).split("-")
        value = money(amount or sample.amount or "0 USD")
        payout_id = self.payout_id(sample.name)
        expires = sample.expires_in_seconds
        return {
            "payout_id": payout_id,
            "originator_id": self._defaults.originator_id,
            "funding": self._funding(sample, payout_id, value),
            "destination": self._destination(sample),
            "amount": value,
            "corridor": {
                "source_country": source,
                "target_country": target,
                "source_currency": value["currency"],
                "target_currency": TARGET_CURRENCIES[target],
            },
            "fx_quote": self._quote(sample, target) if sample.fx_quote else None,
            "personal_data": self._personal_data(sample, source, target),
            "business_application_id": None,
            "purpose": None,
            "requested_at": self._now,
            "expires_at": self._now + timedelta(seconds=expires) if expires is not None else None,
            "correlation_id": f"corr-{payout_id}",
            "metadata": sample.metadata,
        }

    def aft_facts(self, sample: Sample) -> dict[str, Any]:
        """The card pull behind an AFT-funded sample: what the stand-in is told and the request repeats."""
        number = int.from_bytes(self.payout_id(sample.name).encode(), "big")
        return {
            "transaction_identifier": str(300_000_000_000_000 + number % 99_999_999_999_999),
            "systems_trace_audit_number": 100_000 + number % 899_999,
            "retrieval_reference_number": f"{self._now:%y}"[-1] + f"{self._now:%j}" + f"{number % 99_999_999:08d}",
            "approval_code": f"{number % 999_999:06d}",
            "acquiring_bin": "408999",
            "captured_at": self._now - timedelta(hours=1),
        }

    def _funding(self, sample: Sample, payout_id: str, value: dict[str, Any]) -> dict[str, Any]:
        funding: dict[str, Any] = {"kind": sample.funding.upper(), "internal": None, "aft": None, "pis": None}
        if sample.funding == "internal":
            funding["internal"] = {"debit_confirmed": sample.captured, "confirmation_ref": f"debit-{payout_id}"}
        elif sample.funding == "pis":
            funding["pis"] = {"payment_id": f"pis-{payout_id}", "status": "EXECUTED" if sample.captured else "FAILED"}
        else:
            funding["aft"] = {
                "receipt_id": f"aft-{payout_id}",
                "status": "APPROVED" if sample.captured else "DECLINED",
                **self.aft_facts(sample),
                "amount": value,
                "encrypted_card": self._card("4895142232120006"),
            }
        return funding

    def _destination(self, sample: Sample) -> dict[str, Any]:
        kinds: dict[str, Any] = {"kind": "CARD", "card": None, "account": None, "wallet": None, "alias": None}
        kind, _, value = (sample.to or "token:tok_approve").partition(":")
        if kind == "alias":
            sealed = seal_for_processor(self._party_key, {"alias": value})
            return {**kinds, "kind": "ALIAS", "alias": {"alias_type": "EMAIL", "encrypted_alias": sealed}}
        if kind in ("account", "wallet"):
            sealed = seal_for_processor(self._party_key, account_details(kind, value))
            return {**kinds, "kind": kind.upper(), kind: {f"encrypted_{kind}": sealed}}
        card = {"token_reference": value, "encrypted_card": None}
        if kind == "card":
            card = {"token_reference": None, "encrypted_card": self._card(value)}
        return {**kinds, "card": card}

    def _card(self, number: str) -> str:
        return seal_for_processor(self._party_key, {"primary_account_number": number, "expiry": CARD_EXPIRY})

    def _personal_data(self, sample: Sample, source: str, target: str) -> str:
        recipient = sample.recipient_name or self._defaults.recipient_name
        parties = {
            "sender": {"name": self._defaults.sender_name, "address": ADDRESSES[source]},
            "recipient": {"name": recipient, "address": ADDRESSES[target]},
        }
        return seal_for_processor(self._party_key, parties)

    def _quote(self, sample: Sample, target: str) -> dict[str, Any]:
        rate = sample.fx_rate or QUOTED_RATES.get(target, "18.25")
        return {"quote_id": f"quote-{self._run}", "rate": rate, "expires_at": self._now + timedelta(minutes=10)}


def raw_record(kind: str, pinned_id: int) -> tuple[bytes, bytes]:
    """Key and value of a record that is no payout."""
    key = f"raw-{kind}-{secrets.token_hex(4)}".replace("_", "-").encode()
    values = {
        "undecodable": b"{this is not Avro}",
        "unknown_schema": b"\x00\x7f\xff\xff\x01" + secrets.token_bytes(40),
        "oversized": b"\x00" + pinned_id.to_bytes(4, "big") + secrets.token_bytes(300 * 1024),
    }
    return key, values[kind]


def planted_card_numbers(path: Path = SAMPLE_FILE) -> list[str]:
    """Every card number of the file: what the leak check looks for in everything that a run wrote."""
    found = re.findall(r"\b[0-9]{13,19}\b", path.read_text(encoding="utf-8"))
    return sorted({*found, "4895142232120006"})


def utc_now() -> datetime:
    """Now."""
    return datetime.now(UTC)
