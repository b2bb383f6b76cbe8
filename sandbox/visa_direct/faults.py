"""Faults on demand: a plan of rules, a seeded draw, and a table of what each fault does.

A new fault is one line in ``FAULTS``, with a function for the moment at which it acts:

* ``arrival``  before the body is read
* ``before``   before any effect; it answers (or drops the connection) and nothing happens
* ``delay``    how long the work takes; ``answers_202`` makes the answer a 202 at once
* ``reply``    after the effect is durable, on the answer before it is encrypted
* ``after``    after the effect is durable; it may replace, hold or drop the encrypted answer
* ``rows``     on the rows that a query found
* ``refuses_connections``  from when the plan is set, for all of the rule's ``seconds``
"""

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from typing import Annotated, Final, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sandbox.visa_direct.refusal import (
    ACCESS_DENIED,
    NO_CODE,
    TOKEN_VALIDATION_FAILED,
    VALIDATION_ERROR,
    envelope,
    error_response,
)
from sandbox.visa_direct.settings import CLIENT_ID_CHARACTERS_MAX, FAULT_RULES_MAX, FAULT_SECONDS_MAX, SILENCE_SECONDS
from sandbox.visa_direct.store import Row, Store, set_meta

# A silent connection is looked at this often to see whether the client has left.
SILENCE_POLL_SECONDS: Final = 0.05
DELAY_SECONDS_DEFAULT: Final = 2.0
RETRY_AFTER_SECONDS_DEFAULT: Final = 1
# Counts per rule and payout kept in memory (about 200 bytes each); past it the oldest payout is forgotten.
COUNTERS_MAX: Final = 500_000

Operation = Literal[
    "push", "status", "query", "report", "reverse", "adjustment",
    "account_send", "account_query", "account_cancel", "account_validate",
    "attributes", "validation", "alias", "rates",
    "jwks", "connect",
]  # fmt: skip
POSTS: Final[frozenset[Operation]] = frozenset({"push", "reverse", "adjustment"})
READS: Final[frozenset[Operation]] = frozenset({"status", "query"})
REPORT: Final[frozenset[Operation]] = frozenset({"report"})
ACCOUNT_POSTS: Final[frozenset[Operation]] = frozenset({"account_send", "account_cancel"})
ACCOUNT_QUERY: Final[frozenset[Operation]] = frozenset({"account_query"})
# Questions that move nothing: whatever happens to them, nobody is paid.
INQUIRIES: Final[frozenset[Operation]] = frozenset({"attributes", "validation", "alias", "rates", "account_validate"})
JWKS: Final[frozenset[Operation]] = frozenset({"jwks"})
CONNECT: Final[frozenset[Operation]] = frozenset({"connect"})


class FaultRule(BaseModel):
    """One rule. It matches by operation and, if given, by payout; the first rule that fires wins.

    ``times`` counts per payout, or over all of them with ``scope: total``. ``seconds`` is the delay of slow,
    late_202 and query_lag, the age until which the stale queries are stale, the longest silence of the silent ones,
    and how long connections are refused (without it until the plan changes).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: Operation
    fault: str
    sender_reference: Annotated[str, Field(min_length=1, max_length=35)] | None = None
    client_transaction_id: Annotated[str, Field(min_length=1, max_length=CLIENT_ID_CHARACTERS_MAX)] | None = None
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    times: Annotated[int, Field(ge=1)] | None = None
    scope: Literal["payout", "total"] = "payout"
    seconds: Annotated[float, Field(ge=0, le=FAULT_SECONDS_MAX)] | None = None
    retry_after: Annotated[int, Field(ge=0, le=86_400)] | None = None
    retry_after_form: Literal["seconds", "date"] = "seconds"

    @model_validator(mode="after")
    def _check_fault(self) -> Self:
        fault = FAULTS.get(self.fault)
        if fault is None:
            raise ValueError(f"unknown fault {self.fault!r}; known are {', '.join(sorted(FAULTS))}")
        if self.operation not in fault.operations:
            allowed = ", ".join(sorted(fault.operations))
            raise ValueError(f"fault {self.fault!r} is for {allowed}, not for {self.operation}")
        if fault.arrival is not None and self.sender_reference is not None:
            raise ValueError(
                f"fault {self.fault!r} acts before the body is read, so it cannot know sender_reference; "
                "use client_transaction_id"
            )
        if self.operation in JWKS | REPORT and (self.sender_reference or self.client_transaction_id):
            raise ValueError(
                "keys and reports belong to no payout: leave sender_reference and client_transaction_id away"
            )
        if self.client_transaction_id is not None and self.operation in READS | ACCOUNT_QUERY:
            raise ValueError("client_transaction_id is a header of POSTs only; use sender_reference")
        if fault.refuses_connections and self.model_fields_set - {"operation", "fault", "seconds"}:
            raise ValueError(f"fault {self.fault!r} meets every connection: only seconds can be given")
        return self


class FaultPlan(BaseModel):
    """What ``PUT /sandbox/faults`` takes. The same seed and the same payouts meet the same faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    rules: Annotated[list[FaultRule], Field(max_length=FAULT_RULES_MAX)] = []

    @property
    def refuses_connections(self) -> FaultRule | None:
        """The rule that keeps the public port shut, if there is one."""
        return next((rule for rule in self.rules if FAULTS[rule.fault].refuses_connections), None)


Act = Callable[[web.Request, FaultRule], Awaitable[web.Response]]
After = Callable[[web.Request, FaultRule, web.Response], Awaitable[web.Response]]
Reply = Callable[[dict[str, object]], dict[str, object]]
Rows = Callable[[FaultRule, list[Row], int], list[Row]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What one fault does. ``http_status`` is what the attempt log says was answered (None: nothing)."""

    operations: frozenset[Operation]
    http_status: int | None = None
    arrival: Act | None = None
    before: Act | None = None
    reply: Reply | None = None
    after: After | None = None
    rows: Rows | None = None
    delays: bool = False
    answers_202: bool = False
    refuses_connections: bool = False


def drop(request: web.Request) -> web.Response:
    """Cut the connection without a word. The response returned is never written."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def silence(request: web.Request, rule: FaultRule) -> web.Response:
    """Say nothing until the client leaves or the rule's time is over, then cut the connection."""
    loop = asyncio.get_running_loop()
    until = loop.time() + (SILENCE_SECONDS if rule.seconds is None else rule.seconds)
    while loop.time() < until:
        if request.transport is None or request.transport.is_closing():
            break
        await asyncio.sleep(SILENCE_POLL_SECONDS)
    return drop(request)


async def _reset(request: web.Request, _: FaultRule) -> web.Response:
    return drop(request)


async def _silence_after(request: web.Request, rule: FaultRule, _response: web.Response) -> web.Response:
    return await silence(request, rule)


async def _reset_after(request: web.Request, _: FaultRule, __: web.Response) -> web.Response:
    return drop(request)


_MESSAGES: Final = {
    400: "Invalid input found, please correct the input data",
    401: "Token validation failed",
    403: "URL access not permitted",
    404: "Resource not found",
    429: "Traffic exceeds configuration rate limit",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable. Recommend not to re-post transaction and check settlement report",
    504: "Gateway timeout. Recommend not to re-post transaction and check settlement report",
}


# Visa's specification of the rates; the other products' errors are the gateway's.
RATES_PATH: Final = "/forexrates/v2/foreignexchangerates"
_RATES_REASONS: Final = {400: VALIDATION_ERROR, 403: "4001", 500: "3004"}
_CODES: Final = {400: VALIDATION_ERROR, 401: TOKEN_VALIDATION_FAILED, 403: ACCESS_DENIED}


def _error(status: int, request: web.Request | None = None) -> web.Response:
    if request is not None and request.path.startswith(RATES_PATH):
        refusal = error_response(status, _RATES_REASONS.get(status, str(status)), _MESSAGES[status])
        return web.json_response(refusal.document, status=status)
    return web.Response(
        status=status,
        body=envelope(status, _CODES.get(status, NO_CODE), _MESSAGES[status]),
        content_type="application/json",
    )


def _error_before(status: int) -> Act:
    async def act(request: web.Request, _: FaultRule) -> web.Response:
        return _error(status, request)

    return act


def _error_after(status: int) -> After:
    async def act(request: web.Request, _: FaultRule, __: web.Response) -> web.Response:
        return _error(status, request)

    return act


async def _rate_limit(_: web.Request, rule: FaultRule) -> web.Response:
    response = _error(429)
    seconds = RETRY_AFTER_SECONDS_DEFAULT if rule.retry_after is None else rule.retry_after
    as_date = rule.retry_after_form == "date"
    response.headers["Retry-After"] = formatdate(time.time() + seconds, usegmt=True) if as_date else str(seconds)
    return response


async def _malformed(_: web.Request, __: FaultRule, response: web.Response) -> web.Response:
    body = response.body
    whole = body if isinstance(body, bytes) else b""
    return web.Response(status=response.status, body=whole[: len(whole) // 2], content_type="application/json")


async def _web_page(_: web.Request, __: FaultRule, ___: web.Response) -> web.Response:
    return web.Response(text="<html><body>Please try again later</body></html>", content_type="text/html")


async def _other_key_ids(_: web.Request, __: FaultRule, response: web.Response) -> web.Response:
    """A set in which nobody finds the key id they look for."""
    keys = json.loads(response.text or "{}")["keys"]
    return web.json_response({"keys": [key | {"kid": f"other-{index}"} for index, key in enumerate(keys)]})


async def _undecryptable(_: web.Request, __: FaultRule, response: web.Response) -> web.Response:
    text = response.text or ""
    compact = str(json.loads(text).get("encData", ""))
    head, tag = compact.rsplit(".", 1)
    other = json.dumps({"encData": f"{head}.{tag[::-1]}"})
    return web.Response(status=response.status, text=other, content_type="application/json")


def _without_action_code(reply: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in reply.items() if name != "actionCode"}


def _with_every_field(reply: dict[str, object]) -> dict[str, object]:
    """Every optional field of Visa's OpenAPI that an OCT's answer may have; flags are the words, not booleans."""
    return {
        "networkId": 3,
        "feeProgramIndicator": "ABC",
        "prepaidBalance": 100.5,
        "prepaidBalanceCurrency": 840,
        "settlementFlags": {
            "settlementServiceFlag": "8",
            "settlementResponsibilityFlag": "true",
            "givUpdatedFlag": "false",
            "givPreviouslyUpdatedFlag": "false",
        },
        "settlementInfo": {
            "settlementAmount": 1.5,
            "settlementCurrencyCode": "USD",
            "settlementConversionRate": "1.0",
        },
        "persistentFX": {"exchangeRate": "1.0", "visaRateTableId": "A1", "visaRateProvider": "V"},
        "responseReasonCode": "01",
        "merchantVerificationValue": "ABCDEF1234",
        "enablerVerificationValue": "ABCDE",
        "transactionLinkIdentifier": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
        "statusIdentifier": "1491819372_186_81_l73c003_VDP_ARM",
        "somethingNew": {"nested": [1, None, True]},
    } | reply


def _as_bare_duplicate(reply: dict[str, object]) -> dict[str, object]:
    hidden = {"approvalCode", "originalActionCode"}
    return {name: value for name, value in reply.items() if name not in hidden} | {"actionCode": "94"}


def _as_told_duplicate(reply: dict[str, object]) -> dict[str, object]:
    """As if the network had seen the request twice: the first answer stands in originalActionCode."""
    if reply.get("actionCode") == "94":
        return reply
    kept = {name: value for name, value in reply.items() if name != "approvalCode"}
    return kept | {"actionCode": "94", "originalActionCode": reply.get("actionCode")}


def _is_stale(rule: FaultRule, row: Row, now_ms: int) -> bool:
    """Whether the row is shown as it was earlier: younger than the rule's seconds, or any age without them."""
    return rule.seconds is None or now_ms - int(row["at_ms"]) < rule.seconds * 1000


def _in_progress_still(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """A snapshot from before the work was done."""
    nothing_yet = dict.fromkeys(("action_code", "original_action_code", "approval_code", "response_code"))
    earlier = nothing_yet | {"query_status": "IN_PROGRESS"}
    return [row | earlier if _is_stale(rule, row, now_ms) else row for row in rows]


def _only_duplicates(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """Of each transaction the row of a repeat alone: 94 with the original's code."""
    return [
        row | {"action_code": "94", "original_action_code": row["original_action_code"] or row["action_code"]}
        if _is_stale(rule, row, now_ms)
        else row
        for row in rows
    ]


def _only_bare_duplicates(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """Of each transaction the row of a repeat alone: 94, and not what it repeats."""
    bare = {"action_code": "94", "original_action_code": None, "approval_code": None}
    return [row | bare if _is_stale(rule, row, now_ms) else row for row in rows]


def _cancelled(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """As if a push that was held back had been cancelled: no code, and no money."""
    nothing = dict.fromkeys(("action_code", "original_action_code", "approval_code", "response_code"))
    cancelled = nothing | {"query_status": "CANCELLED"}
    return [row | cancelled if _is_stale(rule, row, now_ms) else row for row in rows]


def _hide_young(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    seconds = DELAY_SECONDS_DEFAULT if rule.seconds is None else rule.seconds
    return [row for row in rows if now_ms - int(row["at_ms"]) >= seconds * 1000]


def _hide_all(_: FaultRule, __: list[Row], ___: int) -> list[Row]:
    return []


def _first_status(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """A snapshot from when the payout was accepted."""
    return [row | {"status": "PAYMENT_RECEIVED"} if _is_stale(rule, row, now_ms) else row for row in rows]


def _unheard_of(rule: FaultRule, rows: list[Row], now_ms: int) -> list[Row]:
    """A status that nobody has published."""
    return [row | {"status": "PAYMENT_PONDERED"} if _is_stale(rule, row, now_ms) else row for row in rows]


def _expired_quote(reply: dict[str, object]) -> dict[str, object]:
    """A quote that was over before it came; without one nothing changes."""
    if "quoteId" not in reply:
        return reply
    return reply | {"quoteId": f"Q1000000000-{'0' * 16}", "quoteIdExpiryDateTime": "2001-09-09T01:46:40.0Z"}


def _worse_rate(reply: dict[str, object]) -> dict[str, object]:
    """The market has moved by five per cent against whoever asks."""
    worse = Decimal(str(reply["conversionRate"])) * Decimal("0.95")
    kept: str | float = str(worse) if isinstance(reply["conversionRate"], str) else float(worse)
    return reply | {"conversionRate": kept}


_MOVES = POSTS | ACCOUNT_POSTS
_LATE = POSTS | frozenset[Operation]({"account_send"})
_QUERIES = ACCOUNT_QUERY | frozenset[Operation]({"query"})
_RATES = frozenset[Operation]({"rates"})
_ENCRYPTED = POSTS | READS | REPORT | ACCOUNT_POSTS | ACCOUNT_QUERY | INQUIRIES
_ALL = _ENCRYPTED | JWKS
FAULTS: Final[dict[str, Fault]] = {
    "refuse_connections": Fault(CONNECT, refuses_connections=True),
    "refuse": Fault(_ALL, arrival=_reset),
    "silence_before_effect": Fault(_ALL, before=silence),
    "reset_before_effect": Fault(_ALL, before=_reset),
    "429": Fault(_ALL, 429, before=_rate_limit),
    "400": Fault(_ALL, 400, before=_error_before(400)),
    "401": Fault(_ALL, 401, before=_error_before(401)),
    "403": Fault(_ALL, 403, before=_error_before(403)),
    "404": Fault(_ALL, 404, before=_error_before(404)),
    "500": Fault(_ALL, 500, before=_error_before(500)),
    "502": Fault(_ALL, 502, before=_error_before(502)),
    "503": Fault(_ALL, 503, before=_error_before(503)),
    "504": Fault(_ALL, 504, before=_error_before(504)),
    "slow": Fault(_ALL, 200, delays=True),
    "late_202": Fault(_LATE, 202, delays=True, answers_202=True),
    "effect_then_silence": Fault(_MOVES, after=_silence_after),
    "effect_then_reset": Fault(_MOVES, after=_reset_after),
    "effect_then_500": Fault(_MOVES, 500, after=_error_after(500)),
    "effect_then_502": Fault(_MOVES, 502, after=_error_after(502)),
    "effect_then_503": Fault(_MOVES, 503, after=_error_after(503)),
    "effect_then_504": Fault(_MOVES, 504, after=_error_after(504)),
    "malformed_body": Fault(_ALL, 200, after=_malformed),
    "undecryptable_body": Fault(_ENCRYPTED, 200, after=_undecryptable),
    "no_action_code": Fault(POSTS, 200, reply=_without_action_code),
    "duplicate_without_original": Fault(POSTS, 200, reply=_as_bare_duplicate),
    "duplicate_with_original": Fault(POSTS, 200, reply=_as_told_duplicate),
    "every_field": Fault(frozenset({"push", "reverse"}), 200, reply=_with_every_field),
    "query_cancelled": Fault(frozenset({"query"}), 200, rows=_cancelled),
    "web_page": Fault(JWKS, 200, after=_web_page),
    "other_key_ids": Fault(JWKS, 200, after=_other_key_ids),
    "account_status_first": Fault(ACCOUNT_QUERY, 200, rows=_first_status),
    "account_status_unknown": Fault(ACCOUNT_QUERY, 200, rows=_unheard_of),
    "quote_expired": Fault(_RATES, 200, reply=_expired_quote),
    "rate_moved": Fault(_RATES, 200, reply=_worse_rate),
    "query_lag": Fault(_QUERIES, 200, rows=_hide_young),
    "query_not_found": Fault(_QUERIES, 200, rows=_hide_all),
    "query_stale_in_progress": Fault(frozenset({"query"}), 200, rows=_in_progress_still),
    "query_stale_duplicate": Fault(frozenset({"query"}), 200, rows=_only_duplicates),
    "query_stale_bare_duplicate": Fault(frozenset({"query"}), 200, rows=_only_bare_duplicates),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that fires on the request at hand."""

    name: str
    rule: FaultRule
    fault: Fault

    @property
    def delay_seconds(self) -> float:
        if not self.fault.delays:
            return 0.0
        return DELAY_SECONDS_DEFAULT if self.rule.seconds is None else self.rule.seconds


@dataclass(slots=True)
class _Count:
    draws: int = 0
    hits: int = 0


@dataclass(slots=True)
class FaultEngine:
    """Draws faults. The plan and what was drawn are kept in the store, so a restart goes on where it was."""

    store: Store
    plan: FaultPlan = field(default_factory=FaultPlan)
    fired: list[int] = field(default_factory=list)  # per rule, since this process or plan began
    on_change: Callable[[FaultPlan], Awaitable[None]] | None = None
    _counts: dict[tuple[int, str], _Count] = field(default_factory=dict)

    def load(self) -> None:
        """Read plan and counts from the store."""
        written = self.store.meta("fault_plan")
        if written is not None:
            self.plan = FaultPlan.model_validate_json(written)
        self.fired = [0] * len(self.plan.rules)
        for row in self.store.fault_counts():
            self._counts[row["rule"], row["payout"]] = _Count(row["draws"], row["hits"])

    async def set(self, plan: FaultPlan) -> None:
        """Replace the plan; counts start from zero."""
        text = plan.model_dump_json()
        self.plan = plan
        self.fired = [0] * len(plan.rules)
        self._counts.clear()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM fault_counts")
            set_meta(connection, "fault_plan", text)

        await self.store.write(write)
        if self.on_change is not None:
            await self.on_change(plan)

    def watches(self, operation: Operation) -> bool:
        """Whether any rule is about this operation: only then is it worth finding out whose payout it is."""
        return any(rule.operation == operation for rule in self.plan.rules)

    def draw(
        self,
        operation: Operation,
        payout: str,
        *,
        sender_reference: str | None,
        client_transaction_id: str | None,
        on_arrival: bool = False,
    ) -> Hit | None:
        """The first rule that fires, or None. ``payout`` tells payouts apart for counting and drawing."""
        for index, rule in enumerate(self.plan.rules):
            fault = FAULTS[rule.fault]
            if rule.operation != operation or (fault.arrival is not None) != on_arrival:
                continue
            if rule.sender_reference not in (None, sender_reference):
                continue
            if rule.client_transaction_id not in (None, client_transaction_id):
                continue
            if self._fires(index, rule, payout):
                self.fired[index] += 1
                return Hit(rule.fault, rule, fault)
        return None

    def _fires(self, index: int, rule: FaultRule, payout: str) -> bool:
        if rule.times is None and rule.probability >= 1:
            return True
        count = self._count(index, "" if rule.scope == "total" else payout)
        if rule.times is not None and count.hits >= rule.times:
            return False
        draw = count.draws if rule.scope == "payout" else self._draws_of(index, payout)
        fires = _fraction(f"{self.plan.seed}:{index}:{payout}:{draw}") < rule.probability
        count.draws += 1
        count.hits += fires
        self._remember(index, "" if rule.scope == "total" else payout, count)
        return fires

    def _draws_of(self, index: int, payout: str) -> int:
        """With a total count, the draw still depends on the payout alone, not on who came before it."""
        count = self._count(index, payout)
        count.draws += 1
        self._remember(index, payout, count)
        return count.draws - 1

    def _count(self, index: int, payout: str) -> _Count:
        if len(self._counts) >= COUNTERS_MAX and (index, payout) not in self._counts:
            self._counts.pop(next(iter(self._counts)))
        return self._counts.setdefault((index, payout), _Count())

    def _remember(self, index: int, payout: str, count: _Count) -> None:
        values = (index, payout, count.draws, count.hits)
        self.store.write_soon(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO fault_counts (rule, payout, draws, hits) VALUES (?, ?, ?, ?)", values
            )
        )


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, so the order of arrival does not matter."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56
