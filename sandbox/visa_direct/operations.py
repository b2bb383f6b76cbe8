"""Visa Direct's operations as its clients see them, over HTTP."""

import asyncio
import datetime
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from aiohttp import web

from sandbox.visa_direct.cards import Cards
from sandbox.visa_direct.conditions import check_acceptor, check_push
from sandbox.visa_direct.effects import Draft, accept_for_later, status_identifier, take_effect
from sandbox.visa_direct.faults import FaultEngine, Hit
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.gateway import Call, Gateway
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.messages import CURRENCIES, AdjustRequest, PushRequest, ReverseRequest, parse
from sandbox.visa_direct.query import TransactionQuery, in_flight_row, parse_query, query_answer
from sandbox.visa_direct.refusal import (
    NO_CODE,
    VALIDATION_ERROR,
    Refusal,
)
from sandbox.visa_direct.report import parse_report, report_row
from sandbox.visa_direct.settings import (
    FORCED_TIMEOUT_MS,
    FORCED_TIMEOUT_WORK_SECONDS,
    QUERY_ROWS_MAX,
    QUERY_WINDOW_SECONDS,
    STATUS_WINDOW_SECONDS,
    TRANSACTION_TIMEOUT_MAX_MS,
    Settings,
)
from sandbox.visa_direct.store import Row, Store

PUSH_PATH: Final = "/visadirect/fundstransfer/v1/pushfundstransactions"
REVERSE_PATH: Final = "/visadirect/fundstransfer/v1/reversefundstransactions"
ADJUSTMENT_PATH: Final = "/visadirect/v1/adjustment"
QUERY_PATH: Final = "/visadirect/v1/transactionquery"
REPORT_PATH: Final = "/visadirect/reports/v1/transactiondata"
HELLO_PATH: Final = "/vdp/helloworld"
_PATHS: Final[dict[str, str]] = {"push": PUSH_PATH, "reverse": REVERSE_PATH}

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class InFlight:
    """A request whose effect has not come yet. ``answered_202`` once the client no longer waits for it."""

    draft: Draft
    accepted_at_ms: int
    answered_202: bool = False


class VisaDirect:
    """The handlers and what they share. ``start`` resumes what a kill interrupted; ``stop`` drops it again."""

    def __init__(
        self,
        settings: Settings,
        knobs: Knobs,
        gateway: Gateway,
        store: Store,
        faults: FaultEngine,
        fingerprint_key: bytes,
    ) -> None:
        self._acquirers = settings.acquirers
        self._knobs = knobs
        self._gateway = gateway
        self._store = store
        self._faults = faults
        self._fingerprint_key = fingerprint_key
        self._cards = Cards.from_file()
        self._in_flight: dict[str, InFlight] = {}
        self._by_client_id: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Row]] = set()

    def add_routes(self, application: web.Application) -> None:
        """The card operations, and the connectivity probe."""
        application.router.add_get(HELLO_PATH, self._hello)
        application.router.add_post(PUSH_PATH, self._push)
        application.router.add_get(f"{PUSH_PATH}/{{status_identifier}}", self._status)
        application.router.add_post(REVERSE_PATH, self._reverse)
        application.router.add_get(f"{REVERSE_PATH}/{{status_identifier}}", self._status)
        application.router.add_post(ADJUSTMENT_PATH, self._adjust)
        application.router.add_get(QUERY_PATH, self._query)
        application.router.add_get(REPORT_PATH, self._report)

    def start(self) -> None:
        """Take up the work that was answered with 202 before a restart."""
        for row in self._store.pending():
            draft = Draft.from_json(row["draft"])
            self._enter(InFlight(draft, int(row["accepted_at_ms"]), answered_202=True))
            delay_seconds = max(0.0, (int(row["due_at_ms"]) - self._gateway.now_ms()) / 1000)
            self._start_effect(draft, delay_seconds, Call(draft.operation, self._gateway.now_ms()))

    async def stop(self) -> None:
        """Stop working. What was answered with 202 is on disk and goes on at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def in_flight_count(self) -> int:
        return len(self._in_flight)

    # Operations.

    async def _hello(self, _: web.Request) -> web.Response:
        at = datetime.datetime.fromtimestamp(self._knobs.clock(), datetime.UTC)
        return web.json_response({"timestamp": at.isoformat(timespec="milliseconds"), "message": "helloworld"})

    async def _push(self, request: web.Request) -> web.StreamResponse:
        return await self._post(request, "push", self._push_draft)

    async def _reverse(self, request: web.Request) -> web.StreamResponse:
        return await self._post(request, "reverse", self._reverse_draft)

    async def _adjust(self, request: web.Request) -> web.StreamResponse:
        return await self._post(request, "adjustment", self._adjustment_draft)

    async def _post(
        self,
        request: web.Request,
        operation: Literal["push", "reverse", "adjustment"],
        make_draft: Callable[[bytes, str | None], Draft],
    ) -> web.StreamResponse:
        call = self._gateway.begin(request, operation)
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        timeout_ms = _timeout_ms(request)
        plaintext = await self._gateway.open(request)
        draft = make_draft(plaintext, call.client_transaction_id)
        _describe(call, draft)
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        twin = self._twin_in_flight(draft)
        if twin is not None:
            return self._see_other(request, twin)
        return await self._process(request, call, draft, timeout_ms)

    async def _process(self, request: web.Request, call: Call, draft: Draft, timeout_ms: int) -> web.StreamResponse:
        """Do the work within the client's patience, or answer 202 and do it later."""
        hit = call.hit
        delay_seconds = self._knobs.now.latency_seconds + (hit.delay_seconds if hit else 0.0)
        late = hit is not None and hit.fault.answers_202
        self._enter(InFlight(draft, call.at_ms))
        if late or timeout_ms <= FORCED_TIMEOUT_MS:
            delay_seconds += 0.0 if late else FORCED_TIMEOUT_WORK_SECONDS
            return await self._accept_at_once(request, call, draft, delay_seconds)
        task = self._start_effect(draft, delay_seconds, call)
        try:
            entry = await asyncio.wait_for(asyncio.shield(task), patience_seconds(timeout_ms))
        except TimeoutError:
            if await self._accept(call, draft, delay_seconds):
                return self._accepted(request, draft.status_identifier)
            entry = await task
        call.logged = True
        return await self._gateway.reply(request, call, json.loads(entry["response"]))

    async def _accept_at_once(
        self, request: web.Request, call: Call, draft: Draft, delay_seconds: float
    ) -> web.Response:
        try:
            await self._accept(call, draft, delay_seconds)
        except BaseException:
            self._leave(draft)  # Nothing was promised and nothing will come.
            raise
        self._start_effect(draft, delay_seconds, call)
        return self._accepted(request, draft.status_identifier)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        """GET {statusIdentifier}: 202 while pending, 200 for 24 h after, 404 for what is unknown or older."""
        call = self._gateway.begin(request, "status")
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        self._gateway.check_read(request)
        identifier = request.match_info["status_identifier"]
        waiting = self._in_flight.get(identifier)
        entry = self._store.entry_by_status(identifier)
        self._describe_status(call, waiting, entry)
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call)
        oldest_ms = self._gateway.now_ms() - STATUS_WINDOW_SECONDS * 1000
        if entry is not None and int(entry["at_ms"]) > oldest_ms and _owns(request, entry["operation"]):
            return await self._gateway.reply(request, call, json.loads(entry["response"]))
        if waiting is not None and _owns(request, waiting.draft.operation):
            return self._accepted(request, identifier)
        raise Refusal(404, NO_CODE, "The statusIdentifier is unknown or older than 24 hours")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "query")
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        self._gateway.check_read(request)
        query = parse_query(request.query)
        self._describe_query(call, query)
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call)
        rows = self._visible_rows(query, call.hit)
        if not rows and self._knobs.now.query_no_match == "404":
            raise Refusal(404, NO_CODE, "No transaction matches the query")
        return await self._query_response(request, call, query, rows)

    async def _query_response(
        self, request: web.Request, call: Call, query: TransactionQuery, rows: list[Row]
    ) -> web.Response:
        shown = query_answer(query, rows, self._gateway.now_ms(), self._knobs.now.query_amount_after_seconds)
        response = self._gateway.encrypted(request, 200, shown)
        if len(rows) > QUERY_ROWS_MAX:
            response.headers["x-pagination"] = "true"
        return await self._gateway.spoiled(request, call, response)

    async def _report(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "report")
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        self._gateway.check_read(request)
        report = parse_report(request.query, self._gateway.now_ms())
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call)
        offset = (report.page - 1) * report.limit
        rows = self._store.moved_between(report.from_ms, report.until_ms, limit=report.limit, offset=offset)
        return await self._gateway.reply(request, call, [report_row(row, report.fields) for row in rows])

    # What a request becomes.

    def _push_draft(self, plaintext: bytes, client_transaction_id: str | None) -> Draft:
        message = parse(PushRequest, plaintext)
        scenario = self._cards.scenario(message.recipient)
        check_push(message, scenario.issuer_country, self._acquirers)
        card_number = message.recipient_primary_account_number
        return Draft(
            operation="push",
            status_identifier=status_identifier(self._gateway.now_ms()),
            acquiring_bin=message.acquiring_bin,
            stan=message.systems_trace_audit_number,
            rrn=message.retrieval_reference_number,
            id_code=message.card_acceptor.id_code,
            terminal_id=message.card_acceptor.terminal_id,
            client_transaction_id=client_transaction_id,
            sender_reference=message.sender_reference,
            amount=message.amount,
            currency=CURRENCIES[message.transaction_currency_code][0],
            recipient_fingerprint=recipient_fingerprint(self._fingerprint_key, message.recipient),
            last4=card_number[-4:] if card_number else None,
            action_code=scenario.action_code,
            reply_action_code=scenario.reply_action_code,
            approval_code=scenario.approval_code,
            query_status=scenario.query_status,
            response_code=scenario.response_code,
        )

    def _reverse_draft(self, plaintext: bytes, client_transaction_id: str | None) -> Draft:
        message = parse(ReverseRequest, plaintext)
        check_acceptor(message.card_acceptor.address)
        original = message.original_data_elements
        if (original.acquiring_bin, original.systems_trace_audit_number) != (
            message.acquiring_bin,
            message.systems_trace_audit_number,
        ):
            raise Refusal(400, VALIDATION_ERROR, "originalDataElements differ from the reversal's own numbers")
        scenario = self._cards.scenario(message.sender)
        card_number = message.sender_primary_account_number
        return Draft(
            operation="reverse",
            status_identifier=status_identifier(self._gateway.now_ms()),
            acquiring_bin=message.acquiring_bin,
            stan=message.systems_trace_audit_number,
            rrn=message.retrieval_reference_number,
            id_code=message.card_acceptor.id_code,
            terminal_id=message.card_acceptor.terminal_id,
            client_transaction_id=client_transaction_id,
            sender_reference=message.sender_reference,
            amount=message.amount,
            currency=CURRENCIES[message.sender_currency_code][0],
            recipient_fingerprint=recipient_fingerprint(self._fingerprint_key, message.sender),
            last4=card_number[-4:] if card_number else None,
            action_code=scenario.action_code,
            reply_action_code=scenario.reply_action_code,
            approval_code=None,
            query_status=scenario.query_status,
            transaction_identifier=message.transaction_identifier,
            original_approval_code=original.approval_code,
        )

    def _adjustment_draft(self, plaintext: bytes, client_transaction_id: str | None) -> Draft:
        message = parse(AdjustRequest, plaintext)
        check_acceptor(message.card_acceptor.address)
        card_number = message.sender_primary_account_number
        scenario = self._cards.scenario(card_number)
        return Draft(
            operation="adjustment",
            status_identifier=status_identifier(self._gateway.now_ms()),
            acquiring_bin=message.acquiring_bin,
            stan=message.systems_trace_audit_number,
            rrn=message.retrieval_reference_number,
            id_code=message.card_acceptor.id_code,
            terminal_id=message.card_acceptor.terminal_id,
            client_transaction_id=client_transaction_id,
            sender_reference=message.sender_reference,
            amount=message.amount,
            currency=CURRENCIES[message.sender_currency_code][0],
            recipient_fingerprint=recipient_fingerprint(self._fingerprint_key, card_number),
            last4=card_number[-4:],
            action_code=scenario.action_code,
            reply_action_code=scenario.reply_action_code,
            approval_code=None,
            query_status=scenario.query_status,
            transaction_identifier=message.transaction_identifier,
        )

    # Work in flight.

    def _enter(self, work: InFlight) -> None:
        identifier = work.draft.status_identifier
        self._in_flight[identifier] = work
        if work.draft.client_transaction_id is not None:
            self._by_client_id[work.draft.client_transaction_id] = identifier

    def _leave(self, draft: Draft) -> None:
        self._in_flight.pop(draft.status_identifier, None)
        client_id = draft.client_transaction_id
        if client_id is not None and self._by_client_id.get(client_id) == draft.status_identifier:
            del self._by_client_id[client_id]

    def _twin_in_flight(self, draft: Draft) -> InFlight | None:
        """The original of a resend with the same client transaction id *and* the same details.

        Nothing that Visa publishes protects an adjustment, so here nothing does.
        """
        if draft.operation == "adjustment":
            return None
        twin = self._in_flight.get(self._by_client_id.get(draft.client_transaction_id or "", ""))
        if twin is None or _key_fields(twin.draft) != _key_fields(draft):
            return None
        return twin

    def _start_effect(self, draft: Draft, delay_seconds: float, call: Call) -> asyncio.Task[Row]:
        task = asyncio.create_task(self._effect(draft, delay_seconds, call))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def _effect(self, draft: Draft, delay_seconds: float, call: Call) -> Row:
        http_status = call.hit.fault.http_status if call.hit is not None else 200
        logged = call.row(http_status)
        clock = self._knobs.clock
        try:
            await self._knobs.wait(delay_seconds)
            return await self._store.write(
                lambda connection: take_effect(connection, draft, int(clock() * 1000), logged)
            )
        finally:
            self._leave(draft)

    def _finished(self, task: asyncio.Task[Row]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("an effect could not be written: %s", type(task.exception()).__name__)

    async def _accept(self, call: Call, draft: Draft, delay_seconds: float) -> bool:
        """Write the 202 down before it is answered. False if the effect was faster."""
        due_at_ms = call.at_ms + int(delay_seconds * 1000)
        logged = call.row(202)
        accepted = await self._store.write(
            lambda connection: accept_for_later(connection, draft, call.at_ms, due_at_ms, logged)
        )
        call.logged = True
        work = self._in_flight.get(draft.status_identifier)
        if work is not None:
            work.answered_202 = accepted
        return accepted

    # Answers.

    def _accepted(self, request: web.Request, identifier: str) -> web.Response:
        """202 in either of the two forms that Visa has used: an object, or the bare identifier."""
        if self._knobs.now.accepted_body == "text":
            response = web.Response(status=202, text=identifier)
        else:
            response = self._gateway.encrypted(request, 202, {"statusIdentifier": identifier})
        if self._knobs.now.accepted_headers == "location":
            response.headers["Location"] = _status_path(request, identifier)
        if self._knobs.now.accepted_headers == "link":
            response.headers["Link"] = f'<{_status_path(request, identifier)}>; rel="status"'
        return response

    def _see_other(self, request: web.Request, twin: InFlight) -> web.Response:
        identifier = twin.draft.status_identifier
        response = self._gateway.encrypted(request, 303, {"statusIdentifier": identifier})
        response.headers["Location"] = f"{_PATHS[twin.draft.operation]}/{identifier}"
        return response

    # Reading.

    def _describe_status(self, call: Call, waiting: InFlight | None, entry: Row | None) -> None:
        if entry is not None:
            _describe_by_row(call, entry)
        elif waiting is not None:
            _describe(call, waiting.draft)

    def _describe_query(self, call: Call, query: TransactionQuery) -> None:
        call.acquiring_bin, call.stan, call.rrn = query.acquiring_bin, query.stan, query.rrn
        if not self._faults.watches("query"):
            return
        if query.stan is not None and query.rrn is not None:
            call.sender_reference = self._store.sender_reference_by_numbers(query.stan, query.rrn)
        elif query.transaction_identifier is not None:
            rows = self._store.entries_by_identifier(query.acquiring_bin, query.transaction_identifier)
            if rows:
                _describe_by_row(call, rows[0])

    def _visible_rows(self, query: TransactionQuery, hit: Hit | None) -> list[Row]:
        now_ms = self._gateway.now_ms()
        newest_ms = now_ms - int(self._knobs.now.query_lag_seconds * 1000)
        oldest_ms = now_ms - QUERY_WINDOW_SECONDS * 1000
        rows = [row for row in self._matching_rows(query) if oldest_ms < int(row["at_ms"]) <= newest_ms]
        rows = [row for row in rows if query.covers(row)]
        if hit is not None and hit.fault.rows is not None:
            return hit.fault.rows(hit.rule, rows, now_ms)
        return rows

    def _matching_rows(self, query: TransactionQuery) -> list[Row]:
        if query.transaction_identifier is not None:
            return self._store.entries_by_identifier(query.acquiring_bin, query.transaction_identifier)
        assert query.stan is not None
        assert query.rrn is not None
        numbers = (query.acquiring_bin, query.stan, query.rrn)
        waiting = [
            in_flight_row(work.draft, work.accepted_at_ms, answered_202=work.answered_202)
            for work in self._in_flight.values()
            if work.draft.numbers == numbers
        ]
        return self._store.entries_by_numbers(*numbers) + waiting


def _describe(call: Call, draft: Draft) -> None:
    call.acquiring_bin, call.stan, call.rrn = draft.numbers
    call.id_code, call.terminal_id = draft.id_code, draft.terminal_id
    call.sender_reference = draft.sender_reference


def _describe_by_row(call: Call, row: Row) -> None:
    call.acquiring_bin, call.stan, call.rrn = row["acquiring_bin"], row["stan"], row["rrn"]
    call.sender_reference = row["sender_reference"]


def _key_fields(draft: Draft) -> tuple[str, ...]:
    return draft.operation, *draft.numbers, draft.id_code, draft.terminal_id


def _status_path(request: web.Request, identifier: str) -> str:
    path = request.path
    return path if path.endswith(f"/{identifier}") else f"{path}/{identifier}"


def _owns(request: web.Request, operation: str) -> bool:
    return request.path.startswith(f"{_PATHS[operation]}/")


def _timeout_ms(request: web.Request) -> int:
    text = request.headers.get("X-Transaction-Timeout-MS", str(TRANSACTION_TIMEOUT_MAX_MS))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Refusal(400, VALIDATION_ERROR, "X-Transaction-Timeout-MS must be a number of milliseconds")
    return int(text)


def patience_seconds(timeout_ms: int) -> float | None:
    """Visa's header page: a value above the maximum means that the time-out does not occur."""
    return None if timeout_ms > TRANSACTION_TIMEOUT_MAX_MS else timeout_ms / 1000
