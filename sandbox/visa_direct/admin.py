"""The sandbox-only port: what a tool, a test or an auditor may read and set. Visa has nothing of the kind."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from sandbox.visa_direct.effects import record_funding
from sandbox.visa_direct.faults import FaultEngine, FaultPlan
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.messages import CURRENCIES, Funding, problems
from sandbox.visa_direct.settings import ADMIN_PAGE_DEFAULT, ADMIN_PAGE_MAX, BODY_BYTES_MAX
from sandbox.visa_direct.store import Row, Store, Table, as_json, iso_time


class Admin:
    """Plain HTTP on loopback: ledger, attempt log, fault plan, AFT fixtures, health."""

    def __init__(self, store: Store, faults: FaultEngine, fingerprint_key: bytes, in_flight: Callable[[], int]) -> None:
        self._store = store
        self._faults = faults
        self._fingerprint_key = fingerprint_key
        self._in_flight = in_flight

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_get("/sandbox/health", self._health)
        application.router.add_get("/sandbox/ledger", self._ledger)
        application.router.add_get("/sandbox/requests", self._requests)
        application.router.add_get("/sandbox/faults", self._get_faults)
        application.router.add_put("/sandbox/faults", self._put_faults)
        application.router.add_delete("/sandbox/faults", self._delete_faults)
        application.router.add_post("/sandbox/funding", self._funding)
        return application

    async def _health(self, _: web.Request) -> web.Response:
        rules = {"in_flight": self._in_flight(), "fault_rules": len(self._faults.plan.rules)}
        return web.json_response({"status": "ok"} | self._store.counts() | rules)

    async def _ledger(self, request: web.Request) -> web.Response:
        return self._page(request, "entries")

    async def _requests(self, request: web.Request) -> web.Response:
        return self._page(request, "requests")

    def _page(self, request: web.Request, table: Table) -> web.Response:
        after = _number(request, "after", 0)
        limit = _number(request, "limit", ADMIN_PAGE_DEFAULT)
        if not 1 <= limit <= ADMIN_PAGE_MAX:
            raise _bad_request(f"limit must be between 1 and {ADMIN_PAGE_MAX}")
        rows = self._store.page(table, after, limit + 1, request.query.get("sender_reference"))
        shown = [as_json(row) for row in rows[:limit]]
        return web.json_response(
            {
                table: shown,
                "next_after": shown[-1]["id"] if shown else after,
                "has_more": len(rows) > limit,
            }
        )

    async def _get_faults(self, _: web.Request) -> web.Response:
        plan = self._faults.plan.model_dump(mode="json")
        return web.json_response(plan | {"fired": self._faults.fired})

    async def _put_faults(self, request: web.Request) -> web.Response:
        try:
            plan = FaultPlan.model_validate_json(await request.read())
        except ValidationError as error:
            raise _bad_request(f"the fault plan is not valid: {problems(error)}") from error
        await self._faults.set(plan)
        return await self._get_faults(request)

    async def _delete_faults(self, request: web.Request) -> web.Response:
        await self._faults.set(FaultPlan())
        return await self._get_faults(request)

    async def _funding(self, request: web.Request) -> web.Response:
        """Record an AFT that an originator is supposed to have made. 201 new, 200 same again, 409 other."""
        try:
            # Decimals stay text, as in the processor's own requests.
            document = json.loads(await request.read(), parse_float=str)
            funding = Funding.model_validate(document)
        except ValidationError as error:
            raise _bad_request(f"the funding is not valid: {problems(error)}") from error
        except ValueError as error:
            raise _bad_request("the funding is not JSON") from error
        entry = _funding_entry(funding, self._fingerprint_key)
        entry_id, outcome = await self._store.write(lambda connection: record_funding(connection, entry))
        if outcome == "other":
            raise _refused(
                web.HTTPConflict, f"entry {entry_id} has these numbers with other content; the ledger keeps it"
            )
        return web.json_response({"id": entry_id}, status=201 if outcome == "made" else 200)


def _funding_entry(funding: Funding, fingerprint_key: bytes) -> Row:
    at_ms = int(funding.captured_at.timestamp() * 1000)
    response = {
        "transactionIdentifier": int(funding.transaction_identifier),
        "actionCode": "00",
        "approvalCode": funding.approval_code,
        "responseCode": "5",
        "transmissionDateTime": iso_time(at_ms),
    }
    return {
        "at_ms": at_ms,
        "operation": "funding",
        "money_moved": 1,
        "transaction_identifier": funding.transaction_identifier,
        "acquiring_bin": funding.acquiring_bin,
        "stan": funding.stan,
        "rrn": funding.rrn,
        "id_code": None,
        "terminal_id": None,
        "client_transaction_id": None,
        "sender_reference": None,
        "amount": funding.amount,
        "currency": CURRENCIES[funding.currency][0],
        "recipient_fingerprint": recipient_fingerprint(fingerprint_key, funding.recipient),
        "last4": funding.recipient[-4:] if funding.recipient.isdigit() else None,
        "action_code": "00",
        "original_action_code": None,
        "duplicate_of": None,
        "approval_code": funding.approval_code,
        "response_code": "5",
        "query_status": "COMPLETED",
        "status_identifier": None,
        "response": json.dumps(response),
    }


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _bad_request(f"{name} must be a number")
    return int(text)


def _bad_request(why: str) -> web.HTTPException:
    return _refused(web.HTTPBadRequest, why)


def _refused(kind: Callable[..., web.HTTPException], why: str) -> web.HTTPException:
    body: dict[str, Any] = {"error": why}
    return kind(text=json.dumps(body), content_type="application/json")
