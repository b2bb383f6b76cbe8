"""One small world without a network: a clock that the test moves, topics in memory, a Visa that remembers, workers.

Everything between them is the product's own code, wired as `streams.bootstrap` wires it. `World.settle` delivers every
record, sweeps and lets time pass until nothing is left to do. A `Killed` raised at a boundary is a SIGKILL: the worker
is gone with all it knew, and another one starts from the offsets that were acknowledged.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

from jwcrypto import jwk

from ledger.interface import CommitUnknown, HistoryEntry, Ledger, LedgerUnavailable
from ledger.memory import MemoryLedger
from processors.compliance.decide import Thresholds
from processors.compliance.watch_list import load_watch_list
from processors.payout.modes import Activity, Mode
from processors.payout.row import PayoutRow
from processors.payout.schedule import Schedule
from processors.personal_data import seal_for_processor
from processors.validation.policy import load_policy
from processors.validation.validate import ValidationLimits
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, Exchange, Failed, FailureCause
from processors.visa.identity import Operation
from processors.visa.requests import VisaRequest
from processors.visa.transport import VisaDirectClient
from schemas.codec import Codec, PinnedResolver
from schemas.headers import header_text
from streams.announcer import Announcer
from streams.bootstrap import account_profile, submission_profile
from streams.dead_letters import DeadLetters
from streams.driver import Driver
from streams.gate import Gate
from streams.handlers import StageHandlers
from streams.intake import Intake
from streams.keys import Keys
from streams.metrics import Metrics
from streams.modes import ACTIVITY_OF_TOPIC, ModeWatch
from streams.publisher import BrokerUnavailable, Publisher, PublishUnconfirmed
from streams.pump import Handler, Record
from streams.request_reader import KeyedRequestReader
from streams.settings import Profile, Settings
from streams.stages import Policies, StageRunner
from streams.sweeper import Sweeper
from streams.tracing import NO_TRACING, Tracing
from streams.visa_calls import VisaCalls
from streams.visa_pause import VisaPauses
from streams.visa_rate import VisaRate

START: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RECIPIENT_CARD: Final = "4957030420210462"
SENDER_CARD: Final = "4895142232120006"
ACCOUNT_NUMBER: Final = "000123456789012345"
REQUESTS: Final = "payout_requests"
PASSES_MAX: Final = 4000
"""Passes of one `settle`: far more than any life needs, so that a world that never comes to rest is seen."""
DELIVERIES_MAX: Final = 300
"""Records of one `deliver_all`: more than any test sends, so that events which feed themselves are seen."""

AWAY: Final = (CommitUnknown, LedgerUnavailable, BrokerUnavailable, PublishUnconfirmed)
"""What the pump meets with a pause and another try."""

TURNS_MAX: Final = 100_000
"""Turns of the event loop that `until` gives: seconds, so only a test that fails takes them."""

Headers = Sequence[tuple[str, bytes]]


async def until(condition: Callable[[], bool]) -> None:
    """Let everything run until the condition holds."""
    for _ in range(TURNS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


class Killed(BaseException):
    """SIGKILL at this instruction: no `except Exception` sees it."""


class Boundaries:
    """Counts the points at which a worker touches the outside, and does something at a chosen one."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.kill_at: int | None = None
        self.fail: Callable[[str], BaseException | None] = lambda _: None

    def __call__(self, name: str) -> None:
        """One boundary, for example `ledger.commit:before`."""
        number = len(self.passed)
        self.passed.append(name)
        if number == self.kill_at:
            raise Killed(name)
        error = self.fail(name)
        if error is not None:
            raise error

    def fail_once(self, name: str, error: BaseException, *, after: int = 0) -> None:
        """Raise `error` at the boundary of this name, once `after` others of it have passed."""
        left = [after + 1]

        def fail(passed: str) -> BaseException | None:
            if passed == name:
                left[0] -= 1
            return error if passed == name and left[0] == 0 else None

        self.fail = fail


class BoundedLedger:
    """The model of the ledger, with a boundary before and after every call: `after` means written, answer lost."""

    def __init__(self, model: MemoryLedger, boundary: Boundaries) -> None:
        self.model = model
        self._boundary = boundary

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.model, name)
        if not callable(method):
            return method

        async def call(*arguments: Any, **named: Any) -> Any:
            self._boundary(f"ledger.{name}:before")
            answer = await method(*arguments, **named)
            self._boundary(f"ledger.{name}:after")
            return answer

        return call


@dataclass
class Broker:
    """Topics of one partition each."""

    boundary: Boundaries
    now: Callable[[], datetime]
    topics: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers) -> Awaitable[Any]:
        """As the transport: the record is stored now, the confirmation comes with the awaitable."""
        self.boundary(f"publish.{topic}:before")
        self.put(topic, key, value, headers)

        async def confirmation() -> None:
            self.boundary(f"publish.{topic}:after")

        return confirmation()

    def put(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> Record:
        """A producer's record."""
        records = self.topics[topic]
        record = Record(topic, 0, len(records), self.now(), key, value, tuple(headers))
        records.append(record)
        return record


def approved(code: str = "00", **more: Any) -> Answered:
    """A 200 with an action code."""
    facts = {"transactionIdentifier": 587010322176105, "actionCode": code, "approvalCode": "20304B", **more}
    return Answered(200, {}, facts, None, "corr-visa", 0.01)


def refused(status: int, **headers: str) -> Answered:
    """An error that is definite for its attempt."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, named, {"responseStatus": {"status": status, "code": "3001"}}, None, "corr-visa", 0.01)


def lost_reply() -> Failed:
    """Bytes were sent and nothing came back."""
    return Failed(True, FailureCause.READ_TIMEOUT, 3.0)


Behaviour = Callable[[VisaRequest], Exchange]


class Visa:
    """Remembers effects for ever and duplicates by (STAN, RRN), as far as the tests need it.

    `script` is asked first, call by call; an entry may be None for "as usual". `lose_effect` of an entry's wrapper
    decides whether the effect happens before the answer is replaced.
    """

    def __init__(self, boundary: Boundaries) -> None:
        self.boundary = boundary
        self.requests: list[VisaRequest] = []
        self.pushes: list[dict[str, Any]] = []
        self.reversals: list[dict[str, Any]] = []
        self.adjustments: list[dict[str, Any]] = []
        self.account_payouts: list[dict[str, Any]] = []
        self.account_status = "PAYMENT_RECEIVED"
        """What has become of every account payout that is known."""
        self.answers: dict[Operation, Mapping[str, Any]] = {
            Operation.CARD_ATTRIBUTES: {
                "visaNetworkInfo": [
                    {
                        "issuerCountryCode": 826,
                        "nonMoneyTransferPushFundsDomestic": "N",
                        "nonMoneyTransferPushFundsCrossBorder": "Y",
                    }
                ]
            },
            Operation.CARD_VALIDATION: {"actionCode": "85"},
            Operation.ALIAS_RESOLUTION: {"recipientPrimaryAccountNumber": RECIPIENT_CARD},
            Operation.RATE_QUOTE: {"conversionRate": "0.79"},
            Operation.VALIDATE_PAYOUT: {"status": "VALID"},
        }
        """What questions before a payout are answered with."""
        self.script: dict[Operation, list[Behaviour | None]] = defaultdict(list)
        self.pause: Callable[[VisaRequest], Awaitable[None]] | None = None

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """What `VisaDirectClient.send` promises: an exchange, whatever happens."""
        self.boundary(f"visa.{request.operation.value}:before")
        if self.pause is not None:
            await self.pause(request)
        if deadline.expired():
            return Failed(False, FailureCause.DEADLINE_PASSED)
        self.requests.append(request)
        planned = self.script[request.operation]
        behaviour = planned.pop(0) if planned else None
        exchange = (behaviour or self.usual)(request)
        self.boundary(f"visa.{request.operation.value}:after")
        return exchange

    async def aclose(self) -> None:
        """Nothing to close."""

    def calls(self, operation: Operation) -> list[VisaRequest]:
        """The requests of one operation, oldest first."""
        return [request for request in self.requests if request.operation is operation]

    def usual(self, request: VisaRequest) -> Exchange:
        """An approval, once an identity."""
        match request.operation:
            case Operation.PUSH_FUNDS:
                return self.push(request)
            case Operation.REVERSE_FUNDS:
                return self.reverse(request)
            case Operation.ADJUSTMENT:
                return self.adjust(request)
            case Operation.TRANSACTION_QUERY:
                return self.query(request)
            case Operation.SEND_PAYOUT:
                return self.send_payout(request)
            case Operation.PAYOUT_QUERY:
                return self.query_payout(request)
            case operation if operation in self.answers:
                return Answered(200, {}, dict(self.answers[operation]), None, "corr-visa", 0.01)
            case _:
                return refused(404)

    def push(self, request: VisaRequest) -> Exchange:
        """One effect an identity; the second time it is a 94 with the first one's code."""
        body = json.loads(request.body or b"", parse_float=Decimal)
        if any(_numbers(known) == _numbers(body) for known in self.pushes):
            return approved("94", originalActionCode="00")
        self.pushes.append(body)
        return approved()

    def reverse(self, request: VisaRequest) -> Exchange:
        """One effect a pull; the second time it is a 94 that proves nothing (C4)."""
        body = json.loads(request.body or b"", parse_float=Decimal)
        if any(_numbers(known) == _numbers(body) for known in self.reversals):
            return approved("94", originalActionCode="00")
        self.reversals.append(body)
        return approved()

    def adjust(self, request: VisaRequest) -> Exchange:
        """Every request is an effect: nothing that Visa publishes protects an adjustment (S3)."""
        self.adjustments.append(json.loads(request.body or b"", parse_float=Decimal))
        return approved()

    def send_payout(self, request: VisaRequest) -> Exchange:
        """Every request is a payment of its own: nothing that Visa publishes protects this rail (S3)."""
        self.account_payouts.append(json.loads(request.body or b"", parse_float=Decimal))
        return Answered(200, {}, self._account_payout(self.account_payouts[-1]), None, "corr-visa", 0.01)

    def query_payout(self, request: VisaRequest) -> Exchange:
        """What is known under the reference that was asked for."""
        asked = dict(request.query)["id"]
        known = [body for body in self.account_payouts if body["transactionDetail"]["clientReferenceId"] == asked]
        if not known:
            return refused(404)
        return Answered(200, {}, [self._account_payout(body) for body in known], None, "corr-visa", 0.01)

    def _account_payout(self, body: Mapping[str, Any]) -> dict[str, Any]:
        detail = body["transactionDetail"]
        same = {name: detail[name] for name in ("clientReferenceId", "transactionAmount", "transactionCurrencyCode")}
        return {"payoutId": f"A-{len(self.account_payouts)}", "status": self.account_status, "transactionDetail": same}

    def query(self, request: VisaRequest) -> Exchange:
        """The rows under the numbers that were asked for."""
        asked = dict(request.query)
        numbers = (int(asked["stan"]), asked["rrn"])
        rows = [_query_row(body, "CRED VOUCHER") for body in self.pushes if _numbers(body) == numbers]
        handed_back = self.reversals + self.adjustments
        rows += [_query_row(body, "SALES REVERSAL") for body in handed_back if _numbers(body) == numbers]
        return Answered(200, {}, rows, None, "corr-visa", 0.01)

    def silent_after_effect(self, request: VisaRequest) -> Exchange:
        """The effect, then no answer."""
        self.usual(request)
        return lost_reply()


def _numbers(body: Mapping[str, Any]) -> tuple[int, str]:
    return int(body["systemsTraceAuditNumber"]), str(body["retrievalReferenceNumber"])


def _query_row(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    stan, rrn = _numbers(body)
    return {
        "statusCode": "COMPLETED",
        "actionCode": "00",
        "transactionType": kind,
        "transactionIdentifier": 587010322176105,
        "systemsTraceAuditNumber": stan,
        "retrievalReferenceNumber": rrn,
        "amount": body["amount"],
    }


@dataclass
class Worker:
    """What one worker process holds: gone with it when it is killed."""

    owner: str
    gate: Gate
    metrics: Metrics
    publisher: Publisher
    announcer: Announcer
    driver: Driver
    calls: VisaCalls
    handlers: Mapping[str, Handler]
    stage_handlers: StageHandlers
    sweeper: Sweeper
    mode: ModeWatch


class World:
    """A ledger, a broker, a Visa, and workers one after the other."""

    def __init__(self, keys: Keys, keys_directory: Path) -> None:
        self.now = START
        self.boundary = Boundaries()
        self.schedule = Schedule.test()
        self.keys = keys
        self.party_key = json.loads((keys_directory / "party_public.jwks.json").read_text())["keys"][0]
        self.letters_key = jwk.JWK.from_json((keys_directory / "dead_letter_private.jwk.json").read_text())
        self.model = MemoryLedger(self.clock)
        self.broker = Broker(self.boundary, self.clock)
        self.visa = Visa(self.boundary)
        self.codec = Codec(PinnedResolver())
        self.settings = Settings(payouts_profile=Profile.TEST, visa_initiating_party_id=1002)
        limits = ValidationLimits(accounts_offered=True)
        self.policies = Policies(load_policy(None), load_watch_list(None), Thresholds(), limits)
        self.tracing: Tracing = NO_TRACING
        self.lag: dict[str, int] = {}
        self.unconfirmed: list[str] = []
        self.next_offset: dict[str, int] = defaultdict(int)
        self.workers = 0
        self.worker = self.start_worker()

    def clock(self) -> datetime:
        """This world's time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def now_in(self, seconds: float) -> datetime:
        """A moment so many seconds from now."""
        return self.now + timedelta(seconds=seconds)

    def start_worker(self) -> Worker:
        """A fresh worker process, wired as `streams.bootstrap` does."""
        self.workers += 1
        owner = f"worker-{self.workers}"
        ledger = cast("Ledger", BoundedLedger(self.model, self.boundary))
        gate, metrics = Gate(), Metrics()
        mode = ModeWatch(ledger, metrics)
        mode.saw(Mode.NORMAL)
        pauses = VisaPauses(
            after_failures=self.settings.visa_pause_after_failures,
            probe_max_seconds=self.settings.visa_probe_max_seconds,
            clock=lambda: self.now.timestamp(),
            metrics=metrics,
            sleep=self._let_pass,
        )
        publisher = Publisher(
            self.broker.send,
            self.codec,
            prefix="",
            unconfirmed_seconds=5.0,
            on_unconfirmed=self.unconfirmed.append,
            metrics=metrics,
            request_ids=self.settings.request_ids,
            permitted=lambda: mode.until(Activity.PUBLISH),
            tracing=self.tracing,
        )
        announcer = Announcer(ledger, publisher)
        dead_letters = DeadLetters(ledger, publisher, self.keys, prefix="", metrics=metrics)
        stages = StageRunner(self.codec, self.keys, self.policies, self.clock)
        calls = VisaCalls(
            cast("VisaDirectClient", self.visa),
            ledger,
            stages,
            profile=submission_profile(self.settings),
            accounts=account_profile(self.settings),
            keys=self.keys,
            pauses=pauses,
            calls_max=8,
            clock=self.clock,
            metrics=metrics,
            rate=VisaRate(
                calls_max=8, metrics=metrics, clock=lambda: self.now.timestamp(), call_later=self._call_later
            ),
            request_ids=self.settings.request_ids,
            boottime=lambda: self.now.timestamp(),
        )
        driver = Driver(
            ledger,
            stages=stages,
            calls=calls,
            announcer=announcer,
            schedule=self.schedule,
            owner=owner,
            metrics=metrics,
            clock=self.clock,
            allows=mode.allows,
        )
        intake = Intake(
            ledger,
            KeyedRequestReader(self.codec, self.keys),
            driver,
            publisher,
            dead_letters,
            schedule=self.schedule,
            clock=self.clock,
            metrics=metrics,
            worker=owner,
        )
        stage_handlers = StageHandlers(ledger, self.codec, driver, dead_letters, self.policies.review)
        handlers: dict[str, Handler] = {
            REQUESTS: intake,
            "payout_validated": stage_handlers.comply,
            "payout_cleared": stage_handlers.submit,
            "payout_retry": stage_handlers.retry,
            "payout_failed_requires_compensation": stage_handlers.compensate,
            "payout_compensation_confirmations": stage_handlers.confirm,
            "payout_review_decisions": stage_handlers.review,
        }
        sweeper = Sweeper(
            ledger,
            publisher,
            announcer,
            schedule=self.schedule,
            lag_of=self._lag_of,
            clock=self.clock,
            metrics=metrics,
            is_visa_paused=lambda: pauses.stop_payouts,
            may_publish=lambda: mode.allows(Activity.PUBLISH),
        )
        return Worker(
            owner, gate, metrics, publisher, announcer, driver, calls, handlers, stage_handlers, sweeper, mode
        )

    async def _let_pass(self, event: asyncio.Event, seconds: float | None) -> None:
        """Who waits for Visa in this world lets its time pass; one who waits for another's probe lets that one run."""
        if seconds is None:
            await event.wait()
        elif not event.is_set():
            self.advance(seconds)

    def _call_later(self, seconds: float, wake: Callable[[], None]) -> asyncio.Handle:
        """Who waits for a rate lets this world's time pass, too."""

        def later() -> None:
            self.advance(seconds)
            wake()

        return asyncio.get_running_loop().call_soon(later)

    async def _lag_of(self, topic: str) -> int:
        return self.lag.get(topic, 0)

    # --- what originators and reviewers send ---

    def seal(self, document: Mapping[str, Any]) -> str:
        """Encrypted to the processor."""
        return seal_for_processor(self.party_key, document)

    def request(self, payout_id: str, **changes: Any) -> dict[str, Any]:
        """A valid domestic payout to a card, from internal funding; `changes` replace whole fields."""
        address = {"line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US"}
        parties = {
            "sender": {"name": "Mara Lindqvist", "address": address},
            "recipient": {"name": "Tomas Okafor"},
        }
        card = {"primary_account_number": RECIPIENT_CARD, "expiry": "2031-12"}
        destination = {"token_reference": None, "encrypted_card": self.seal(card)}
        return {
            "payout_id": payout_id,
            "originator_id": "acme",
            "funding": self.internal(payout_id),
            "destination": {"kind": "CARD", "card": destination, "account": None, "wallet": None, "alias": None},
            "amount": {"amount_minor": 2500, "currency": "USD"},
            "corridor": {
                "source_country": "US",
                "target_country": "US",
                "source_currency": "USD",
                "target_currency": "USD",
            },
            "fx_quote": None,
            "personal_data": self.seal(parties),
            "business_application_id": None,
            "purpose": None,
            "requested_at": self.now,
            "expires_at": None,
            "correlation_id": f"corr-{payout_id}",
            "metadata": {},
        } | changes

    def account(self, **changes: Any) -> dict[str, Any]:
        """A bank account as a destination."""
        plaintext = {"account_number": ACCOUNT_NUMBER, "bank_code": "021000021", "country": "US", "currency": "USD"}
        sealed = {"encrypted_account": self.seal(plaintext | changes)}
        return {"kind": "ACCOUNT", "card": None, "account": sealed, "wallet": None, "alias": None}

    def wallet(self) -> dict[str, Any]:
        """A digital wallet as a destination."""
        plaintext = {"account_number": "+15550100", "operator_name": "W", "country": "US", "currency": "USD"}
        sealed = {"encrypted_wallet": self.seal(plaintext)}
        return {"kind": "WALLET", "card": None, "account": None, "wallet": sealed, "alias": None}

    def alias(self, alias: str = "rosalind@example.com") -> dict[str, Any]:
        """An alias as a destination."""
        named = {"alias_type": "EMAIL", "encrypted_alias": self.seal({"alias": alias})}
        return {"kind": "ALIAS", "card": None, "account": None, "wallet": None, "alias": named}

    def abroad(self, **changes: Any) -> dict[str, Any]:
        """What a request over the shipped corridor that asks Visa first has beside the usual."""
        corridor = {
            "source_country": "US",
            "target_country": "GB",
            "source_currency": "USD",
            "target_currency": "GBP",
        }
        quote = {"quote_id": "quote-1", "rate": "0.79", "expires_at": self.now + timedelta(minutes=10)}
        return {"corridor": corridor, "fx_quote": quote | changes}

    def internal(self, payout_id: str) -> dict[str, Any]:
        """Money that the originator debited in its own books."""
        record = {"debit_confirmed": True, "confirmation_ref": f"debit-{payout_id}"}
        return {"kind": "INTERNAL", "internal": record, "aft": None, "pis": None}

    def card_pull(self, payout_id: str) -> dict[str, Any]:
        """Money pulled from a card a few minutes ago; every payout has a pull of its own (rule L7)."""
        number = int("".join(filter(str.isdigit, payout_id)) or 0)
        record = {
            "receipt_id": f"aft-{payout_id}",
            "status": "APPROVED",
            "transaction_identifier": str(381228649430014 + number),
            "systems_trace_audit_number": 451017 + number,
            "retrieval_reference_number": "606011451018",
            "approval_code": "12AB56",
            "acquiring_bin": "408999",
            "captured_at": self.now - timedelta(minutes=3),
            "amount": {"amount_minor": 2500, "currency": "USD"},
            "encrypted_card": self.seal({"primary_account_number": SENDER_CARD, "expiry": "2031-12"}),
        }
        return {"kind": "AFT", "internal": None, "aft": record, "pis": None}

    async def produce(self, topic: str, schema: str, record: Mapping[str, Any], *, key: str | None = None) -> Record:
        """One event, keyed by its payout_id unless the test says otherwise."""
        value = await self.codec.encode(schema, record)
        return self.broker.put(topic, (key or str(record["payout_id"])).encode(), value)

    async def ask(self, payout_id: str, *, headers: Headers = (), **changes: Any) -> Record:
        """A payout request."""
        value = await self.codec.encode("PayoutRequest", self.request(payout_id, **changes))
        return self.broker.put(REQUESTS, payout_id.encode(), value, headers)

    # --- running ---

    async def set_mode(self, mode: Mode, *, obeyed: bool = True) -> None:
        """`payouts modes set`, and what the worker sees of it; a worker that has not looked yet does not obey."""
        await self.model.set_mode(mode, "operator", "a test", 0.0)
        if obeyed:
            await self.worker.mode.look()

    async def deliver(self, record: Record, worker: Worker | None = None) -> None:
        """Hand one record to its handler, whether or not it was handled before."""
        with self.tracing.hop(record):
            await (worker or self.worker).handlers[record.topic](record)

    async def deliver_all(self, *, mark: bool = True) -> int:
        """Every record not handled yet, in order; a failure leaves its record to be delivered again.

        `mark`: what was announced is marked at once, as the background task does within milliseconds.
        """
        delivered = 0
        for topic in self.worker.handlers:
            if not self.worker.mode.allows(ACTIVITY_OF_TOPIC[topic]):
                continue  # its pump stands
            while self.next_offset[topic] < len(self.broker.topics[topic]):
                await self.deliver(self.broker.topics[topic][self.next_offset[topic]])
                self.next_offset[topic] += 1
                delivered += 1
                if delivered > DELIVERIES_MAX:
                    raise AssertionError(f"events feed themselves: {topic} never ends")
                if mark:
                    await self.worker.announcer.mark_now()
        return delivered

    async def settle(self, *, seconds: float = 120.0) -> None:
        """Deliver, mark, sweep and let time pass until nothing is due and all is announced, or time is over.

        A killed worker is replaced; what the product calls "away" is tried again, as the pump does.
        """
        until = self.now + timedelta(seconds=seconds)
        for _ in range(PASSES_MAX):
            try:
                moved = await self.deliver_all()
                await self.worker.announcer.mark_now()
                moved += await self.worker.sweeper.sweep()
            except Killed:
                self.worker = self.start_worker()
                continue
            except AWAY:
                continue
            if moved:
                continue
            if self.now >= until or await self._is_at_rest():
                return
            self.advance(0.5)
        raise AssertionError("the world does not come to rest")

    async def _is_at_rest(self) -> bool:
        rows = [row for row in self.rows() if not row.held]
        waiting = [row for row in rows if row.due_at is not None or row.announced_version < row.announce_version]
        return not waiting

    def rows(self) -> list[PayoutRow]:
        """Every row of the ledger."""
        return [stored.row for stored in self.model._stored.values()]

    async def row(self, payout_id: str) -> PayoutRow:
        """The row, which must exist."""
        row = await self.model.read(payout_id)
        assert row is not None, f"no row for {payout_id}"
        return row

    async def life(self, payout_id: str) -> list[str]:
        """The names of a payout's transitions, oldest first."""
        entries: Sequence[HistoryEntry] = await self.model.history(payout_id)
        return [entry.transition for entry in entries]

    async def events(self, topic: str, payout_id: str | None = None) -> list[dict[str, Any]]:
        """Decoded records of one of our topics."""
        decoded = [(await self.codec.decode_topic(topic, record.value)).record for record in self.broker.topics[topic]]
        return [record for record in decoded if payout_id in (None, record["payout_id"])]

    def event_ids(self, topic: str) -> list[str | None]:
        """`ce_id` of every record of a topic."""
        return [header_text(record.headers, "ce_id") for record in self.broker.topics[topic]]

    async def put_row(self, row: PayoutRow, **changes: Any) -> PayoutRow:
        """Overwrite a row as a damaged or aged one, behind the ledger's back."""
        changed = replace(row, **changes)
        self.model._stored[row.payout_id].row = changed
        return changed
