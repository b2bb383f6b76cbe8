"""The originators of a fault run: what they ask for (pure, seeded), and how it reaches Kafka.

    planned = plan_payout(seed=1, number=17)      # the same for ever
    load = Load(...); load.start()                # a thread: builds, produces, keeps the journal of acknowledgements

A payout's content depends on seed and number alone; when it is sent depends on how fast the workers are. The load
goes directly to the brokers, not through the proxy: what it believes was accepted must be true.
"""

from __future__ import annotations

import http.client
import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, Message, Producer

from processors.personal_data import seal_for_processor
from sandbox.auditor.evidence import append_accepted
from sandbox.samples.sample_file import ADDRESSES, CARD_EXPIRY, TARGET_CURRENCIES, account_details, raw_record
from schemas.codec import BlockingCodec
from schemas.topics import topic_name

REQUESTS: Final = "payout_requests"
FUNDING_CARD: Final = "4895142232120006"
CARDS_APPROVED: Final = ("4957030420210462", "4957030420210454")
CARDS_DECLINED: Final = ("4957030420210496", "4000000000000507", "4000000000005100", "4000000000006207")
DECLINING_CODES: Final = ("05", "14", "51", "54", "57", "61", "62", "65")
UNSURE_TOKENS: Final = ("tok_decline_91", "tok_decline_96", "tok_duplicate_94_paid")
"""Their first answer proves nothing: only the query tells."""
HELD_TOKENS: Final = ("tok_approve_partial", "tok_failed_96")
"""They end with a person: a partial approval, and a query that says FAILED."""
ACCOUNT_LIVES: Final[Mapping[str, str]] = {
    "account": "TESTDELIVER",
    "wallet": "TESTPREMIUM",
    "account_rejected": "TESTREJECT",
    "account_returned_early": "TESTRETURN",
    "account_returned_late": "TESTRETURNLATE",
    "account_returned_slow": "TESTRETURNSLOW",
}
"""Accounts and wallets by purpose, with what becomes of a payout to them (sandbox/visa_direct/test_accounts.yaml)."""
ACCOUNTS_OF_EVERY: Final = (2_000, 1_600)
"""Of so many numbers, these from the first on may be such payouts. What never arrived waits half a minute before a
person is shown it (rule S3), and nobody should wait for that at the end of a run."""
COMES_BACK: Final = frozenset({"account_returned_late", "account_returned_slow"})
"""Credited first: DECLINED if it is back before anybody has asked, else PAID with a second fact (rule S8)."""
INITIATING_PARTY_ID: Final = "1002"
"""Ours at the account rail, in a run of our own."""
NAME_USUAL, NAME_LIKE_LISTED, NAME_LISTED = "Rosalind Example", "Vik Drachen", "Viktor Drachenfels"
ACQUIRING_BIN: Final = "408999"
OLD_PULL: Final = timedelta(hours=30)
"""Past the 24 hours in which Visa reverses a card pull."""
YOUNG_PULL: Final = timedelta(hours=1)
LIFETIMES: Final[Mapping[str, timedelta]] = {"expired": timedelta(minutes=-1), "expires_soon": timedelta(seconds=4)}
"""What is over on arrival, and what is over soon: before its first intent or not, as the faults will have it."""
BATCH_RECORDS: Final = 25
"""Records that a repeated batch sends again."""
DELIVERY_SECONDS: Final = 600.0
"""The client repeats a record for so long before it gives up: far longer than any broker is away."""
IDLE_SECONDS: Final = 0.02
FLUSH_SECONDS: Final = 120.0

WEIGHTS: Final[Mapping[str, float]] = {
    "approved": 63.0,
    "declined": 10.0,
    "unsure": 2.0,
    "held": 0.2,
    "review": 3.0,
    "listed": 2.0,
    "corridor_unknown": 1.5,
    "over_limit": 1.5,
    "negative": 1.0,
    "expired": 1.0,
    "expires_soon": 0.8,
    "card_in_clear": 1.0,
    "not_captured": 1.0,
    "account_unreadable": 0.5,
    "account": 4.0,
    "wallet": 2.0,
    "account_rejected": 1.0,
    "account_returned_early": 0.5,
    "account_returned_late": 0.5,
    "account_returned_slow": 0.5,
}
"""What an originator asks for, in shares; the rest of the world (duplicates, rubbish) comes on top."""
FUNDING_WEIGHTS: Final[Mapping[str, float]] = {"INTERNAL": 50, "PIS": 15, "AFT_YOUNG": 25, "AFT_OLD": 10}
CORRIDOR_WEIGHTS: Final[Mapping[str, float]] = {"US-US-USD": 65, "JP-JP-JPY": 15, "KW-KW-KWD": 12, "US-MX-USD": 8}
ACCOUNT_CORRIDOR: Final = "US-US-USD"
"""The one of these that the corridor policy opens to accounts and wallets."""
AMOUNTS_MAX: Final[Mapping[str, int]] = {"USD": 90_000, "JPY": 140_000, "KWD": 29_000}
"""In minor units, below the corridors' limits; KWD goes in tens, which is all that Visa can express."""
EXTRA_WEIGHTS: Final[Mapping[str, float]] = {
    "none": 95.0,
    "repeat": 2.0,
    "conflict": 1.0,
    "undecodable": 0.5,
    "card_in_rubbish": 0.3,
    "unknown_schema": 0.4,
    "foreign_key": 0.4,
    "oversized": 0.1,
    "batch_repeat": 0.3,
}
"""What follows a payout's record."""


@dataclass(frozen=True, slots=True)
class PlannedPayout:
    """What one originator asks for; a pure function of seed and number."""

    number: int
    payout_id: str
    purpose: str
    funding: str
    corridor: str
    amount_minor: int
    currency: str
    recipient: str
    """`token:NAME`, `card:NUMBER`, `account:NUMBER` or `wallet:NUMBER`."""
    extra: str
    """What is sent behind it."""

    @property
    def card(self) -> str:
        """The number or token reference that is to be paid, an account's number too."""
        return self.recipient.partition(":")[2]


def payout_number(payout_id: str) -> int:
    """The number in an id of ours."""
    return int(payout_id.rpartition("n")[2])


def plan_payout(
    seed: int,
    number: int,
    weights: Mapping[str, float] = WEIGHTS,
    funding_weights: Mapping[str, float] = FUNDING_WEIGHTS,
    extra_weights: Mapping[str, float] = EXTRA_WEIGHTS,
) -> PlannedPayout:
    """The `number`-th payout of a run and what follows it."""
    dice = random.Random(f"{seed}:{number}")
    purpose = _draw(dice, weights)
    if purpose in ACCOUNT_LIVES and number % ACCOUNTS_OF_EVERY[0] >= ACCOUNTS_OF_EVERY[1]:
        purpose = "approved"
    funding = _draw(dice, funding_weights)
    corridor = ACCOUNT_CORRIDOR if purpose in ACCOUNT_LIVES else _draw(dice, CORRIDOR_WEIGHTS)
    currency = corridor[-3:]
    minor = dice.randint(1, AMOUNTS_MAX[currency])
    minor = minor // 10 * 10 + 10 if currency == "KWD" else minor
    minor = {"negative": -minor, "over_limit": 10_000_000 + minor * 10}.get(purpose, minor)
    return PlannedPayout(
        number=number,
        payout_id=f"run{seed}-n{number:08d}",
        purpose=purpose,
        funding=funding,
        corridor=corridor,
        amount_minor=minor,
        currency=currency,
        recipient=_recipient(purpose, number, dice),
        extra=_draw(dice, extra_weights),
    )


def _draw(dice: random.Random, weights: Mapping[str, float]) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]


def _recipient(purpose: str, number: int, dice: random.Random) -> str:
    match purpose:
        case "declined":
            choices = [f"token:tok_decline_{dice.choice(DECLINING_CODES)}_{number:07d}"]
            choices += [f"card:{dice.choice(CARDS_DECLINED)}"]
        case "unsure":
            choices = [f"token:{dice.choice(UNSURE_TOKENS)}_{number:07d}"]
        case "held":
            choices = [f"token:{dice.choice(HELD_TOKENS)}_{number:07d}"]
        case _ if purpose in ACCOUNT_LIVES:
            kind = "wallet" if purpose == "wallet" else "account"
            choices = [f"{kind}:{ACCOUNT_LIVES[purpose]}{number:07d}"]
        case _:
            choices = [f"token:tok_approve_{number:07d}", f"card:{dice.choice(CARDS_APPROVED)}"]
    return dice.choice(choices)


def planted_cards() -> list[str]:
    """Every card number that the load uses: what the leak check looks for."""
    return sorted({FUNDING_CARD, *CARDS_APPROVED, *CARDS_DECLINED})


class RequestMaker:
    """Turns a planned payout into the record that an originator sends; personal data and cards are sealed."""

    def __init__(self, party_key: Mapping[str, Any]) -> None:
        self._party_key = party_key

    def record(self, planned: PlannedPayout, now: datetime, amount_minor: int | None = None) -> dict[str, Any]:
        """The PayoutRequest; `amount_minor` in place of the planned one makes it a conflict."""
        source, target, currency = planned.corridor.split("-")
        amount = {"amount_minor": amount_minor or planned.amount_minor, "currency": currency}
        unknown = planned.purpose == "corridor_unknown"
        lifetime = LIFETIMES.get(planned.purpose)
        quote = {"quote_id": f"quote-{planned.number}", "rate": "18.25", "expires_at": now + timedelta(days=1)}
        clear = {"note": f"card {CARDS_APPROVED[0]}"} if planned.purpose == "card_in_clear" else {}
        return {
            "payout_id": planned.payout_id,
            "originator_id": "acme-marketplace",
            "funding": self._funding(planned, amount, now),
            "destination": self._destination(planned),
            "amount": amount,
            "corridor": {
                "source_country": source,
                "target_country": "BR" if unknown else target,
                "source_currency": currency,
                "target_currency": "BRL" if unknown else TARGET_CURRENCIES[target],
            },
            "fx_quote": quote if target == "MX" else None,
            "personal_data": self._parties(planned, source, target),
            "business_application_id": None,
            "purpose": None,
            "requested_at": now,
            "expires_at": None if lifetime is None else now + lifetime,
            "correlation_id": f"corr-{planned.payout_id}",
            "metadata": clear,
        }

    def aft_facts(self, planned: PlannedPayout, now: datetime) -> dict[str, Any]:
        """The card pull behind a payout: what the stand-in is told, and the request repeats.

        Its retrieval number has an hour of 90 and more, which no number of the processor has.
        """
        captured_at = now - (OLD_PULL if planned.funding == "AFT_OLD" else YOUNG_PULL)
        number = planned.number
        return {
            "transaction_identifier": str(300_000_000_000_000 + number),
            "systems_trace_audit_number": 100_000 + number % 900_000,
            "retrieval_reference_number": f"{captured_at:%y}"[-1] + f"{captured_at:%j}" + f"{90_000_000 + number:08d}",
            "approval_code": f"{number % 1_000_000:06d}",
            "acquiring_bin": ACQUIRING_BIN,
            "captured_at": captured_at,
        }

    def _funding(self, planned: PlannedPayout, amount: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        captured = planned.purpose != "not_captured"
        kind = planned.funding.partition("_")[0]
        funding: dict[str, Any] = {"kind": kind, "internal": None, "aft": None, "pis": None}
        reference = f"{kind.lower()}-{planned.payout_id}"
        if kind == "INTERNAL":
            funding["internal"] = {"debit_confirmed": captured, "confirmation_ref": reference}
        elif kind == "PIS":
            funding["pis"] = {"payment_id": reference, "status": "EXECUTED" if captured else "FAILED"}
        else:
            funding["aft"] = {
                "receipt_id": reference,
                "status": "APPROVED" if captured else "DECLINED",
                **self.aft_facts(planned, now),
                "amount": {**amount, "amount_minor": abs(amount["amount_minor"])},
                "encrypted_card": self._card(FUNDING_CARD),
            }
        return funding

    def _destination(self, planned: PlannedPayout) -> dict[str, Any]:
        kinds: dict[str, Any] = {"kind": "CARD", "card": None, "account": None, "wallet": None, "alias": None}
        if planned.purpose == "account_unreadable":
            sealed = seal_for_processor(self._party_key, {"account_number": "DE00 0000 0000 0000 0000 00"})
            return {**kinds, "kind": "ACCOUNT", "account": {"encrypted_account": sealed}}
        kind, _, number = planned.recipient.partition(":")
        if kind in ("account", "wallet"):
            sealed = seal_for_processor(self._party_key, account_details(kind, number))
            return {**kinds, "kind": kind.upper(), kind: {f"encrypted_{kind}": sealed}}
        by_card = planned.recipient.startswith("card:")
        return {
            **kinds,
            "card": {
                "token_reference": None if by_card else planned.card,
                "encrypted_card": self._card(planned.card) if by_card else None,
            },
        }

    def _parties(self, planned: PlannedPayout, source: str, target: str) -> str:
        recipient = {"review": NAME_LIKE_LISTED, "listed": NAME_LISTED}.get(planned.purpose, NAME_USUAL)
        parties = {
            "sender": {"name": "Acme Marketplace", "address": ADDRESSES[source]},
            "recipient": {"name": recipient, "address": ADDRESSES[target]},
        }
        return seal_for_processor(self._party_key, parties)

    def _card(self, number: str) -> str:
        return seal_for_processor(self._party_key, {"primary_account_number": number, "expiry": CARD_EXPIRY})


@dataclass(frozen=True, slots=True)
class _Record:
    key: bytes
    value: bytes
    kind: str
    planned: PlannedPayout | None = None
    amount_minor: int | None = None


class LoadFailed(Exception):
    """The load could not be produced; the message says why. Without a whole journal there is no verdict."""


class Load:
    """Sends payouts as fast as `may_send` allows, in a thread, and writes down what the brokers acknowledged."""

    def __init__(
        self,
        *,
        seed: int,
        bootstrap_servers: str,
        topic_prefix: str,
        party_key: Mapping[str, Any],
        admin_url: str,
        journal: Path,
        may_send: Callable[[], int],
        plan: Callable[[int, int], PlannedPayout] = plan_payout,
    ) -> None:
        """`may_send` says how many payouts may have been sent by now; `plan` what each is, by seed and number."""
        self._seed = seed
        self._plan = plan
        self._topic = topic_name(REQUESTS, topic_prefix)
        self._maker = RequestMaker(party_key)
        self._codec = BlockingCodec(topic_prefix=topic_prefix)
        self._journal = journal
        self._may_send = may_send
        self._funding = FundingDesk(admin_url)
        self._recent: list[_Record] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": 1_000_000,
                "message.timeout.ms": int(DELIVERY_SECONDS * 1000),
                "linger.ms": 5,
                "log_level": 0,
            }
        )
        self.sent = 0
        """Payouts handed to the producer."""
        self.returned_late: list[str] = []
        """Those of them whose money comes back after it was delivered."""
        self.acknowledged = 0
        """Records that a broker has acknowledged, of every kind."""
        self.failure: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Send nothing new and wait until everything sent was acknowledged. Raises LoadFailed."""
        self._stopping.set()
        self._thread.join(FLUSH_SECONDS + DELIVERY_SECONDS)
        if self.failure is None and self._thread.is_alive():
            self.failure = "the load did not stop"
        self.check()

    def check(self) -> None:
        """Raises LoadFailed if a record was not acknowledged or the load came to an end by itself."""
        if self.failure is not None:
            raise LoadFailed(self.failure)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self.sent < self._may_send():
                    self._send_next()
                    self._producer.poll(0)
                else:
                    self._producer.poll(IDLE_SECONDS)
            left = self._producer.flush(FLUSH_SECONDS)
            if left:
                self.failure = f"{left} records were not acknowledged in {FLUSH_SECONDS:.0f} s"
        except Exception as error:  # noqa: BLE001 - told to whoever asks; a thread has nobody above it
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._funding.close()
            self._codec.close()

    def _send_next(self) -> None:
        planned = self._plan(self._seed, self.sent)
        now = datetime.now(UTC)
        if planned.funding.startswith("AFT") and planned.purpose not in ("not_captured", "negative"):
            self._funding.record(planned, self._maker.aft_facts(planned, now))
        key = planned.payout_id.encode()
        record = self._maker.record(planned, now)
        payout = _Record(key, self._encode(record), "payout", planned, planned.amount_minor)
        self._produce(payout)
        if planned.purpose in COMES_BACK:
            self.returned_late.append(planned.payout_id)
        self.sent += 1
        self._recent = [*self._recent[1 - BATCH_RECORDS :], payout]
        for extra in self._extras(planned, payout, now):
            self._produce(extra)

    def _extras(self, planned: PlannedPayout, payout: _Record, now: datetime) -> Iterator[_Record]:
        match planned.extra:
            case "none":
                return
            case "repeat":
                yield _Record(payout.key, payout.value, "repeat", planned, payout.amount_minor)
            case "batch_repeat":
                for earlier in self._recent:
                    yield _Record(earlier.key, earlier.value, "repeat", earlier.planned, earlier.amount_minor)
            case "conflict":
                other = planned.amount_minor + 1000
                yield _Record(
                    payout.key, self._encode(self._maker.record(planned, now, other)), "conflict", planned, other
                )
            case "foreign_key":
                foreign = replace(planned, payout_id=f"{planned.payout_id}-f", funding="INTERNAL")
                yield _Record(b"some-other-payout", self._encode(self._maker.record(foreign, now)), "raw")
            case "card_in_rubbish":
                yield _Record(payout.key + b"-r", f"{{card: {CARDS_APPROVED[1]}}}".encode(), "raw")
            case kind:
                key, value = raw_record(kind, 1)
                yield _Record(key + secrets.token_hex(2).encode(), value, "raw")

    def _encode(self, record: Mapping[str, Any]) -> bytes:
        return self._codec.encode("PayoutRequest", record, self._topic)

    def _produce(self, record: _Record) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failure = f"a record was not acknowledged: {error.str()}"
                return
            self._write_down(record, int(message.partition() or 0), int(message.offset() or 0))

        deadline = time.monotonic() + DELIVERY_SECONDS
        while True:
            try:
                self._producer.produce(self._topic, record.value, record.key, on_delivery=delivered)
            except BufferError:
                if time.monotonic() > deadline:
                    raise
                self._producer.poll(IDLE_SECONDS)
            else:
                return

    def _write_down(self, record: _Record, partition: int, offset: int) -> None:
        planned = record.planned
        append_accepted(
            self._journal,
            payout_id=planned.payout_id if planned else None,
            topic=self._topic,
            partition=partition,
            offset=offset,
            value=record.value,
            amount_minor=record.amount_minor,
            currency=planned.currency if planned else None,
            recipient=planned.card if planned and planned.purpose != "account_unreadable" else None,
            kind=record.kind,
        )
        self.acknowledged += 1


class FundingDesk:
    """Tells the stand-in of the card pulls that originators made; one connection, kept open."""

    def __init__(self, admin_url: str) -> None:
        address = urlsplit(admin_url)
        self._address = (str(address.hostname), int(address.port or 0))
        self._connection: http.client.HTTPConnection | None = None

    def record(self, planned: PlannedPayout, facts: Mapping[str, Any]) -> None:
        """Record one pull; a repeat of the same is the same. Raises LoadFailed."""
        exponent = {"JPY": 0, "KWD": 3}.get(planned.currency, 2)
        units, rest = divmod(abs(planned.amount_minor), 10**exponent)
        body = {
            "acquiringBin": facts["acquiring_bin"],
            "stan": str(facts["systems_trace_audit_number"]),
            "rrn": facts["retrieval_reference_number"],
            "transactionIdentifier": facts["transaction_identifier"],
            "approvalCode": facts["approval_code"],
            "amount": f"{units}.{rest:0{exponent}d}" if exponent else str(units),
            "currency": planned.currency,
            "captured_at": facts["captured_at"].isoformat(),
            "recipient": FUNDING_CARD,
        }
        status, text = self._post(json.dumps(body).encode())
        if status not in (200, 201):
            raise LoadFailed(f"the stand-in refused the card pull of {planned.payout_id}: {status} {text[:300]}")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _post(self, body: bytes) -> tuple[int, str]:
        for last in (False, True):
            connection = self._connection or http.client.HTTPConnection(*self._address, timeout=10)
            self._connection = connection
            try:
                connection.request("POST", "/sandbox/funding", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                # A kept connection may have been closed meanwhile; a new one must work.
                with suppress(OSError):
                    connection.close()
                self._connection = None
                if last:
                    raise
        raise AssertionError
