"""Visa, simulated: effects with times, a memory for duplicates, a query that may lag, and every way to lose an answer.

It decides nothing of the product's: it reads the bodies it is sent, keeps its own account, and is the only judge of
what was paid. Duplicates are known for 24 hours by (STAN, RRN), as reference documents say of card OCTs; a reversal
shares the numbers of its pull, and an adjustment is protected by nothing.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from processors.visa.exchange import Answered, Exchange, Failed, FailureCause
from processors.visa.identity import Operation
from processors.visa.requests import VisaRequest
from sandbox.simulation.accounts import AccountRail, found, money_of, shown
from sandbox.simulation.plan import Accident, CardPlan
from sandbox.simulation.virtual_loop import context_of

if TYPE_CHECKING:
    import asyncio

    from processors.visa.deadline import Deadline
    from sandbox.simulation.worker import SimulatedWorker
    from sandbox.simulation.world import World

REMEMBERED_SECONDS: Final = 24 * 3600.0
HTTP_TOTAL_SECONDS: Final = 3.0
"""The test profile's longest call."""
LATEST_EFFECT_SECONDS: Final = 7.5
"""Within the in-flight horizon of the test profile (8 s): later than this nothing of a call takes effect."""
MINOR_DIGITS: Final = {"USD": 2, "JPY": 0, "KWD": 3}
DEFINITE_STATUSES: Final = frozenset({400, 401, 403, 404, 405, 415, 429})
DECLINES: Final = ("05", "14", "51", "61")
UNLISTED: Final = "91"
FAULT_CHANCE: Final = 0.22
PAYMENTS: Final = frozenset({Operation.PUSH_FUNDS, Operation.SEND_PAYOUT})
MOVES_MONEY: Final = PAYMENTS | {Operation.REVERSE_FUNDS, Operation.ADJUSTMENT}
CURRENCY_MEMBERS: Final = ("transactionCurrencyCode", "senderCurrencyCode")


class Fault(StrEnum):
    """What goes wrong with one call."""

    NONE = "NONE"
    REFUSE = "REFUSE"
    SILENCE_BEFORE = "SILENCE_BEFORE"
    EFFECT_THEN_SILENCE = "EFFECT_THEN_SILENCE"
    EFFECT_THEN_500 = "EFFECT_THEN_500"
    LATE_EFFECT = "LATE_EFFECT"
    """Our time is over before the effect."""
    RATE = "RATE"
    AWAY = "AWAY"
    ERROR = "ERROR"
    MALFORMED = "MALFORMED"
    PENDING = "PENDING"
    DUPLICATE_WITHOUT_CODE = "DUPLICATE_WITHOUT_CODE"
    DUPLICATE_OF_THE_PULL = "DUPLICATE_OF_THE_PULL"
    """A reversal shares the numbers of its pull, and is taken for it: 94, and nothing has moved (C4)."""
    STALE = "STALE"
    """A query that does not know yet, or still says in progress."""


PUSH_FAULTS: Final = (
    Fault.REFUSE, Fault.SILENCE_BEFORE, Fault.EFFECT_THEN_SILENCE, Fault.EFFECT_THEN_SILENCE, Fault.EFFECT_THEN_500,
    Fault.RATE, Fault.AWAY, Fault.ERROR, Fault.MALFORMED, Fault.PENDING, Fault.DUPLICATE_WITHOUT_CODE,
)  # fmt: skip
ASK_FAULTS: Final = (Fault.REFUSE, Fault.SILENCE_BEFORE, Fault.RATE, Fault.AWAY, Fault.ERROR, Fault.STALE, Fault.STALE)


@dataclass(slots=True)
class Effect:
    """Money that moved, or an OCT that was declined: one line of Visa's own account."""

    operation: Operation
    payout_id: str
    numbers: tuple[int, str]
    amount_minor: int
    currency: str
    at_seconds: float
    code: str
    pull: int | None = None
    """For a hand-back: which card pull it gives back."""
    returned: bool = False
    """An account payout that was delivered and came back (S8)."""

    @property
    def approved(self) -> bool:
        """Whether money moved."""
        return self.code in ("00", "11")


@dataclass(slots=True)
class Sent:
    """One request whose bytes left a worker."""

    at_seconds: float
    operation: Operation
    payout_id: str
    numbers: tuple[int, str]
    body: bytes | None
    worker: str
    definite: bool = False
    """Its worker was told that this attempt had no effect (S4)."""


@dataclass
class SimulatedVisa:
    """The account, and everything that was sent to it."""

    world: World
    rng: random.Random
    sent: dict[str, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    pending: dict[str, tuple[Effect, float]] = field(default_factory=dict)
    away_until: float = 0.0
    calls: int = 0
    faults: int = 0
    first_faults: list[Fault] = field(default_factory=list)
    """For the first calls that move money, before chance has its say."""
    by_numbers: dict[tuple[int, str], list[Effect]] = field(default_factory=lambda: defaultdict(list))
    by_payout: dict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    by_pull: dict[int, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    _nobody: Context = field(default_factory=lambda: context_of(None))

    def __post_init__(self) -> None:
        self.accounts = AccountRail(self)

    def pushes_of(self, payout_id: str) -> list[Effect]:
        """What this account has of a payout's OCT, or of its account payout."""
        return [e for e in self.by_payout[payout_id] if e.operation in PAYMENTS]

    def delivered(self, payout_id: str, detail: Mapping[str, Any]) -> Effect:
        """An account payout has reached its recipient."""
        amount_minor, currency = money_of(detail, MINOR_DIGITS)
        numbers = (0, str(detail["clientReferenceId"]))
        effect = Effect(Operation.SEND_PAYOUT, payout_id, numbers, amount_minor, currency, self.world.now_seconds, "00")
        self._book(effect)
        return effect

    async def send(self, worker: SimulatedWorker, request: VisaRequest, deadline: Deadline) -> Exchange:
        """What `VisaDirectClient.send` promises: an exchange, whatever happens."""
        await worker.boundary(f"http.{request.operation.value}:before")
        await worker.pass_time(self.rng.uniform(0.001, 0.05))
        if deadline.expired():
            return Failed(False, FailureCause.DEADLINE_PASSED)
        if self.world.now_seconds < self.away_until and self.rng.random() < 0.5:
            await worker.pass_time(0.05)
            return Failed(False, FailureCause.CONNECT_FAILED)
        exchange = await self._receive(worker, request)
        await worker.boundary(f"http.{request.operation.value}:after")
        return exchange

    def _receive(self, worker: SimulatedWorker, request: VisaRequest) -> asyncio.Future[Exchange]:
        """The bytes have left: what follows happens whether or not the worker lives to see it."""
        world = self.world
        self.calls += 1
        reply: asyncio.Future[Exchange] = world.loop.create_future()
        body, numbers, payout_id = self._read(request)
        now = world.now_seconds
        self.sent[payout_id].append(Sent(now, request.operation, payout_id, numbers, request.body, worker.name))
        world.watch.bytes_left(worker, request.operation, payout_id)
        fault = self._fault(request.operation)
        if fault is not Fault.NONE:
            self.faults += 1
        if fault is Fault.REFUSE:
            self._answer(reply, 0.01, Failed(False, FailureCause.CONNECT_FAILED))
            self.sent[payout_id].pop()
            return reply
        at, answer_after = self._times(fault)
        call = _Call(request.operation, payout_id, numbers, body, fault, self.sent[payout_id][-1])
        world.loop.call_at(now + at, self._arrive, call, reply, answer_after, context=self._nobody)
        self._answer(reply, HTTP_TOTAL_SECONDS, Failed(True, FailureCause.READ_TIMEOUT, HTTP_TOTAL_SECONDS))
        return reply

    def _answer(self, reply: asyncio.Future[Exchange], after_seconds: float, exchange: Exchange) -> None:
        self.world.loop.call_later(after_seconds, _set, reply, exchange, context=self._nobody)

    def _times(self, fault: Fault) -> tuple[float, float]:
        """When the request arrives, and how much later its answer does."""
        if fault is Fault.LATE_EFFECT:
            return self.rng.uniform(HTTP_TOTAL_SECONDS, LATEST_EFFECT_SECONDS), 0.01
        return self.rng.uniform(0.005, 0.2), self.rng.uniform(0.005, 0.6)

    def _fault(self, operation: Operation) -> Fault:
        world, rng = self.world, self.rng
        if world.now_seconds < self.away_until:
            return rng.choice((Fault.SILENCE_BEFORE, Fault.AWAY))
        moves = operation in MOVES_MONEY
        if moves and self.first_faults:
            return self.first_faults.pop(0)
        if world.is_calm:
            return Fault.NONE
        if Accident.VISA_LATE_EFFECTS in world.plan.kinds and moves and rng.random() < 0.05:
            return Fault.LATE_EFFECT
        if Accident.VISA_FAULTS not in world.plan.kinds or rng.random() > FAULT_CHANCE:
            return Fault.NONE
        if operation is Operation.REVERSE_FUNDS and rng.random() < 0.2:
            return Fault.DUPLICATE_OF_THE_PULL
        return rng.choice(PUSH_FAULTS if moves else ASK_FAULTS)

    def _read(self, request: VisaRequest) -> tuple[Mapping[str, Any], tuple[int, str], str]:
        """Body, numbers, and whose call it is: the correlation id says so, the reference must agree."""
        payout_id = (request.correlation_id or "").removeprefix("corr-")
        if request.body is not None:
            body: dict[str, Any] = json.loads(request.body, parse_float=Decimal)
            if request.operation is Operation.PUSH_FUNDS:
                self.world.watch.reference(payout_id, str(body["senderReference"]))
            if request.operation is Operation.SEND_PAYOUT:
                reference = str(body["transactionDetail"]["clientReferenceId"])
                self.world.watch.reference(payout_id, reference)
                return body, (0, reference), payout_id
            return body, (int(body["systemsTraceAuditNumber"]), str(body["retrievalReferenceNumber"])), payout_id
        asked = dict(request.query)
        numbers = (int(asked["stan"]), str(asked["rrn"])) if "stan" in asked else (0, asked.get("id", ""))
        return {}, numbers, payout_id

    def _arrive(self, call: _Call, reply: asyncio.Future[Exchange], answer_after: float) -> None:
        """The request is at Visa: its effect, and the answer that may be lost."""
        if call.fault is Fault.SILENCE_BEFORE:
            return
        exchange = _without_effect(call.fault) or self._served(call)
        if exchange is not None:
            call.sent.definite = isinstance(exchange, Answered) and exchange.status in DEFINITE_STATUSES
            self._answer(reply, answer_after, exchange)

    def _served(self, call: _Call) -> Exchange | None:
        """What a request comes to that nothing has kept from its effect; None: its answer is lost."""
        match call.operation:
            case Operation.TRANSACTION_QUERY:
                return self._query(call)
            case Operation.PUSH_FUNDS_STATUS:
                return self._status(call)
            case Operation.SEND_PAYOUT:
                return self._send_payout(call)
            case Operation.PAYOUT_QUERY:
                return found(self.accounts.query(call.numbers[1], stale=call.fault is Fault.STALE), answer)
            case _:
                return self._move(call)

    def _send_payout(self, call: _Call) -> Exchange | None:
        fault = call.fault
        taken = self.accounts.send(call.payout_id, call.body, at_once=self.rng.random() < 0.3)
        if taken is None:
            return answer(400, {}, {"reason": "InvalidPayoutRequest", "details": [{"code": "4003"}]})
        if fault in (Fault.EFFECT_THEN_SILENCE, Fault.LATE_EFFECT):
            return None
        if fault is Fault.EFFECT_THEN_500:
            return answer(500, {}, None)
        if fault is Fault.MALFORMED:
            return answer(200, {}, {"payoutId": "A-1"})
        return answer(202, {}, {"payoutId": "A-1"}) if fault is Fault.PENDING else answer(200, {}, shown(taken))

    def _move(self, call: _Call) -> Exchange | None:
        fault = call.fault
        if self._is_invalid(call):
            return answer(400, {}, {"responseStatus": {"status": 400, "code": "3001"}})
        known = self._duplicate_of(call)
        if known is not None:
            if fault in (Fault.EFFECT_THEN_SILENCE, Fault.LATE_EFFECT):
                return None
            original = {} if fault is Fault.DUPLICATE_WITHOUT_CODE else {"originalActionCode": known.code}
            return approved("94", **original)
        effect = self._effect(call)
        if fault is Fault.PENDING and call.operation is Operation.PUSH_FUNDS:
            return self._pend(call, effect)
        self._book(effect)
        if fault in (Fault.EFFECT_THEN_SILENCE, Fault.LATE_EFFECT):
            return None
        if fault is Fault.EFFECT_THEN_500:
            return answer(500, {}, None)
        if fault is Fault.MALFORMED:
            return answer(200, {}, {"transactionIdentifier": 1})
        return approved(effect.code)

    def _book(self, effect: Effect) -> None:
        self.by_numbers[effect.numbers].append(effect)
        self.by_payout[effect.payout_id].append(effect)
        if effect.pull is not None:
            self.by_pull[effect.pull].append(effect)
        self.world.watch.effect(effect)

    def _pend(self, call: _Call, effect: Effect) -> Exchange:
        """202: it takes effect a while later, or not at all yet."""
        after = self.rng.uniform(0.2, 6.0)
        self.pending[call.payout_id] = effect, self.world.now_seconds + after
        self.world.loop.call_later(after, self._book, effect, context=self._nobody)
        identifier = f"status-{call.payout_id}"
        location = f"</visadirect/fundstransfer/v1/pushfundstransactions/{identifier}>"
        return answer(202, {"location": location}, {"statusIdentifier": identifier})

    def _effect(self, call: _Call) -> Effect:
        body = call.body
        plan = self.world.plans[call.payout_id]
        currency = str(next(body[name] for name in CURRENCY_MEMBERS if name in body))
        minor = Decimal(str(body["amount"])) * 10 ** MINOR_DIGITS[currency]
        if call.operation is Operation.PUSH_FUNDS:
            code = {
                CardPlan.DECLINE: DECLINES[plan.number % len(DECLINES)],
                CardPlan.UNLISTED: UNLISTED,
                CardPlan.PARTIAL: "10",
            }.get(plan.card, "00")
            pull = None
        else:
            code = "05" if plan.hand_back_declined else "00"
            pull = plan.number
        return Effect(
            call.operation, call.payout_id, call.numbers, int(minor), currency, self.world.now_seconds, code, pull
        )

    def _is_invalid(self, call: _Call) -> bool:
        return call.operation is Operation.PUSH_FUNDS and self.world.plans[call.payout_id].card is CardPlan.INVALID

    def _duplicate_of(self, call: _Call) -> Effect | None:
        """Only an OCT, and a reversal of a pull, are known again by their numbers; nothing protects an adjustment."""
        if call.operation is Operation.ADJUSTMENT:
            return None
        if call.operation is Operation.PUSH_FUNDS and call.payout_id in self.pending:
            effect, _ = self.pending[call.payout_id]
            if effect.numbers == call.numbers:
                return effect
        for effect in self.by_numbers[call.numbers]:
            remembered = self.world.now_seconds - effect.at_seconds < REMEMBERED_SECONDS
            if effect.operation is call.operation and remembered:
                return effect
        return None

    def _query(self, call: _Call) -> Exchange:
        fault = call.fault
        rows = [_row(effect) for effect in self.by_numbers[call.numbers]]
        pull = self.world.pull_amount(call.numbers)
        if pull is not None:
            rows.append(_pull_row(call.numbers, *pull))
        pending = self.pending.get(call.payout_id)
        if pending is not None and pending[0].numbers == call.numbers and not rows:
            rows.append(_row(pending[0]) | {"statusCode": "IN_PROGRESS", "actionCode": None})
        if fault is Fault.STALE:
            # Right after an attempt the query may not know it yet, or may see it in progress; never once it is settled.
            fresh = any(self.world.now_seconds - effect.at_seconds < 2.0 for effect in self.by_numbers[call.numbers])
            rows = [] if fresh else [row | {"statusCode": "IN_PROGRESS", "actionCode": None} for row in rows]
        return answer(200, {}, rows)

    def _status(self, call: _Call) -> Exchange:
        fault = call.fault
        known = self.pending.get(call.payout_id)
        if known is None:
            return answer(404, {}, {"responseStatus": {"status": 404, "code": "3001"}})
        effect, at = known
        if fault is Fault.STALE or self.world.now_seconds < at:
            return answer(202, {}, {"statusIdentifier": f"status-{call.payout_id}"})
        return approved(effect.code)


@dataclass(frozen=True, slots=True)
class _Call:
    operation: Operation
    payout_id: str
    numbers: tuple[int, str]
    body: Mapping[str, Any]
    fault: Fault
    sent: Sent


def _without_effect(fault: Fault) -> Answered | None:
    """The answer of a fault that comes before any effect."""
    match fault:
        case Fault.RATE:
            return answer(429, {"retry-after": "1"}, {"responseStatus": {"status": 429, "code": "3001"}})
        case Fault.AWAY:
            return answer(503, {}, None)
        case Fault.ERROR:
            return answer(500, {}, None)
        case Fault.DUPLICATE_OF_THE_PULL:
            return approved("94", originalActionCode="00")
        case _:
            return None


def _set(reply: asyncio.Future[Exchange], exchange: Exchange) -> None:
    if not reply.done():
        reply.set_result(exchange)


def answer(status: int, headers: Mapping[str, str], body: object | None) -> Answered:
    """An HTTP answer."""
    return Answered(status, headers, body, None if body is not None else "EMPTY", "corr-visa", 0.01)


def approved(code: str, **more: Any) -> Answered:
    """A 200 with an action code."""
    return answer(
        200, {}, {"transactionIdentifier": 587010322176105, "actionCode": code, "approvalCode": "20304B", **more}
    )


def _row(effect: Effect) -> dict[str, Any]:
    kind = "CRED VOUCHER" if effect.operation is Operation.PUSH_FUNDS else "SALES REVERSAL"
    return _query_row(kind, effect.numbers, effect.amount_minor, effect.currency, effect.code)


def _pull_row(numbers: tuple[int, str], amount_minor: int, currency: str) -> dict[str, Any]:
    return _query_row("SALES DRAFT", numbers, amount_minor, currency, "00")


def _query_row(kind: str, numbers: tuple[int, str], amount_minor: int, currency: str, code: str) -> dict[str, Any]:
    return {
        "statusCode": "COMPLETED",
        "actionCode": code,
        "transactionType": kind,
        "transactionIdentifier": 587010322176105,
        "systemsTraceAuditNumber": numbers[0],
        "retrievalReferenceNumber": numbers[1],
        "amount": Decimal(amount_minor).scaleb(-MINOR_DIGITS[currency]),
    }
