"""The sandbox-only port: what a tool, a test or an auditor may read and set. Visa has nothing of the kind."""

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from sandbox.visa_direct.account_ledger import settle
from sandbox.visa_direct.credentials import VALIDITY
from sandbox.visa_direct.effects import record_funding
from sandbox.visa_direct.faults import FaultEngine, FaultPlan
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.keyring import Keyring, RotationError
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.messages import CURRENCIES, Funding, problems
from sandbox.visa_direct.settings import ADMIN_PAGE_DEFAULT, ADMIN_PAGE_MAX, BODY_BYTES_MAX
from sandbox.visa_direct.store import Row, Store, Table, as_json, iso_time

# Ten years: nothing issued here is kept that long.
VALIDITY_MAX_SECONDS = 10 * 365 * 24 * 3600


class Admin:
    """Plain HTTP on loopback: ledger, attempt log, fault plan, AFT fixtures, keys and certificates, health."""

    def __init__(
        self,
        store: Store,
        faults: FaultEngine,
        keyring: Keyring,
        knobs: Knobs,
        fingerprint_key: bytes,
        in_flight: Callable[[], int],
    ) -> None:
        self._store = store
        self._faults = faults
        self._keyring = keyring
        self._knobs = knobs
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
        application.router.add_get("/sandbox/knobs", self._get_knobs)
        application.router.add_put("/sandbox/knobs", self._put_knobs)
        application.router.add_delete("/sandbox/knobs", self._delete_knobs)
        application.router.add_get("/sandbox/keys", self._get_keys)
        application.router.add_put("/sandbox/keys", self._put_keys)
        application.router.add_post("/sandbox/keys/mle", self._add_mle_key)
        application.router.add_delete("/sandbox/keys/mle/{key_id}", self._retire_mle_key)
        application.router.add_post("/sandbox/keys/client", self._issue_client_certificate)
        application.router.add_delete("/sandbox/keys/client/{serial}", self._revoke_client_certificate)
        application.router.add_post("/sandbox/keys/server", self._renew_server_certificate)
        application.router.add_post("/sandbox/keys/reload", self._reload_tls)
        return application

    async def _health(self, _: web.Request) -> web.Response:
        await self._settle()
        rules = {"in_flight": self._in_flight(), "fault_rules": len(self._faults.plan.rules)}
        return web.json_response({"status": "ok"} | self._store.counts() | rules)

    async def _settle(self) -> None:
        """What account payouts owe by now stands in the ledger before anybody reads it."""
        now_ms = int(self._knobs.clock() * 1000)
        await self._store.write(lambda connection: settle(connection, now_ms))

    async def _ledger(self, request: web.Request) -> web.Response:
        await self._settle()
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

    async def _get_knobs(self, _: web.Request) -> web.Response:
        return web.json_response(self._knobs.now.model_dump())

    async def _put_knobs(self, request: web.Request) -> web.Response:
        """Turn the knobs named; the others stay as they are."""
        try:
            change = json.loads(await request.read())
            self._knobs.turn(change)
        except ValidationError as error:
            raise _bad_request(f"the knobs are not valid: {problems(error)}") from error
        except (ValueError, TypeError) as error:
            raise _bad_request("the body must be a JSON object of knobs") from error
        return await self._get_knobs(request)

    async def _delete_knobs(self, request: web.Request) -> web.Response:
        self._knobs.reset()
        return await self._get_knobs(request)

    # Keys and certificates.

    async def _get_keys(self, _: web.Request) -> web.Response:
        return web.json_response(self._keyring.state())

    async def _put_keys(self, request: web.Request) -> web.Response:
        """``{"answers_with": key id}``: close every answer with that one; null: each with its request's."""
        answers_with = (await _document(request, "answers_with")).get("answers_with")
        if answers_with is not None and not isinstance(answers_with, str):
            raise _bad_request("answers_with must be a key id or null")
        with _conflicts():
            self._keyring.answer_with(answers_with)
        return await self._get_keys(request)

    async def _add_mle_key(self, _: web.Request) -> web.Response:
        with _conflicts():
            return web.json_response(await self._keyring.add_mle_key(), status=201)

    async def _retire_mle_key(self, request: web.Request) -> web.Response:
        with _conflicts():
            self._keyring.retire_mle_key(request.match_info["key_id"])
        return await self._get_keys(request)

    async def _issue_client_certificate(self, request: web.Request) -> web.Response:
        """``{"valid_seconds": n}`` for one that ends soon."""
        seconds = (await _document(request, "valid_seconds")).get("valid_seconds", VALIDITY.total_seconds())
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= VALIDITY_MAX_SECONDS:
            raise _bad_request(f"valid_seconds must be above 0 and at most {VALIDITY_MAX_SECONDS}")
        issued = await self._keyring.issue_client_certificate(datetime.timedelta(seconds=seconds))
        return web.json_response(issued, status=201)

    async def _revoke_client_certificate(self, request: web.Request) -> web.Response:
        with _conflicts():
            await self._keyring.revoke_client_certificate(request.match_info["serial"])
        return await self._get_keys(request)

    async def _renew_server_certificate(self, request: web.Request) -> web.Response:
        with _conflicts():
            await self._keyring.renew_server_certificate()
        return await self._get_keys(request)

    async def _reload_tls(self, request: web.Request) -> web.Response:
        with _conflicts():
            await self._keyring.reload_tls()
        return await self._get_keys(request)


@contextlib.contextmanager
def _conflicts() -> Iterator[None]:
    try:
        yield
    except RotationError as error:
        raise _refused(web.HTTPConflict, str(error)) from error


async def _document(request: web.Request, name: str) -> dict[str, Any]:
    """The body, which may be absent and holds at most the one name."""
    content = await request.read()
    try:
        document = json.loads(content) if content else {}
    except ValueError as error:
        raise _bad_request("the body is not JSON") from error
    if not isinstance(document, dict) or document.keys() - {name}:
        raise _bad_request(f"the body must be an object that holds {name} at most")
    return document


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
