"""Account and wallet payouts as a client sees them, over HTTP: send, query, cancel, validate.

``clientReferenceId`` with ``initiatingPartyId`` is all that names a payout, and nothing that Visa publishes says that a
repeat is recognised: here it is **a second payout**, unless the knob ``accounts_repeat`` says otherwise.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web

from sandbox.visa_direct.account_ledger import Found, Payout, accept, cancel, find, new_payout_id, shown
from sandbox.visa_direct.account_lives import Life, Lives
from sandbox.visa_direct.account_messages import (
    REPEATED_CODE,
    TOO_LATE_CODE,
    WRONG_CODE,
    PayoutRequest,
    check_quote,
    not_found,
    parse_cancel,
    parse_payout,
    refused,
)
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.gateway import Call, Gateway
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.messages import CURRENCIES
from sandbox.visa_direct.refusal import NO_CODE, Refusal
from sandbox.visa_direct.store import Store, insert_request

PAYOUTS_PATH: Final = "/visapayouts/v3/payouts"
# A TypeScript client of Visa's uses the first; the second is ours, by analogy.
VALIDATE_PATH: Final = "/visapayouts/v3/payouts/validate"
CANCEL_PATH: Final = "/visapayouts/v3/payouts/cancel"
SEND_BYTES_MAX: Final = 100 * 1024  # Visa's pages on its older account payouts


class Accounts:
    """The handlers and what they share."""

    def __init__(self, knobs: Knobs, gateway: Gateway, store: Store, fingerprint_key: bytes) -> None:
        self._knobs = knobs
        self._gateway = gateway
        self._store = store
        self._fingerprint_key = fingerprint_key
        self._lives = Lives()

    def add_routes(self, application: web.Application) -> None:
        application.router.add_post(PAYOUTS_PATH, self._send)
        application.router.add_get(PAYOUTS_PATH, self._query)
        application.router.add_post(VALIDATE_PATH, self._validate)
        application.router.add_post(CANCEL_PATH, self._cancel)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "account_send")
        message = await self._opened(request, call)
        if isinstance(message, web.Response):
            return message
        life = self._checked(message)
        late = call.hit is not None and call.hit.fault.answers_202
        if not late:
            await self._gateway.delay(call, self._knobs.now.latency_seconds)
        delay_seconds = call.hit.delay_seconds if late and call.hit is not None else 0.0
        found = await self._accept(call, self._payout(message, life, delay_seconds), late=late)
        if late:
            return self._gateway.encrypted(request, 202, {"payoutId": found.payout.payout_id})
        return await self._gateway.reply(request, call, shown(found))

    async def _validate(self, request: web.Request) -> web.StreamResponse:
        """What is checked of a send, and nothing else: no reference is used up, no money moves."""
        call = self._gateway.begin(request, "account_validate")
        message = await self._opened(request, call)
        if isinstance(message, web.Response):
            return message
        self._checked(message)
        await self._gateway.delay(call)
        reference = message.transaction_detail.client_reference_id
        return await self._gateway.reply(request, call, {"status": "VALID", "clientReferenceId": reference})

    async def _opened(self, request: web.Request, call: Call) -> PayoutRequest | web.Response:
        """The checked body, or the answer of a fault."""
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        if (request.content_length or 0) > SEND_BYTES_MAX:
            raise Refusal(413, NO_CODE, "The body is larger than 100 KB")
        message = parse_payout(await self._gateway.open(request))
        call.sender_reference = message.transaction_detail.client_reference_id
        return await self._gateway.fault_before(request, call) or message

    def _checked(self, message: PayoutRequest) -> Life:
        check_quote(message.transaction_detail.quote_id, self._gateway.now_ms() / 1000)
        life = self._lives.of(message.destination.account_number)
        if life.refused is not None:
            place = "bank" if message.payout_method == "B" else "wallet"
            raise refused(f"recipientDetail.{place}.accountNumber", "is not an account", life.refused)
        return life

    def _payout(self, message: PayoutRequest, life: Life, delay_seconds: float) -> Payout:
        """The payout as accepted after a delay, with when which status comes."""
        detail = message.transaction_detail
        accepted_at_ms = self._gateway.now_ms() + int(delay_seconds * 1000)
        places = [*range(1, len(life.steps)), len(life.steps) - 1 + life.last_step_after]
        pace_ms = int(self._knobs.now.accounts_pace_seconds * 1000)
        return Payout(
            payout_id=new_payout_id(),
            client_reference_id=detail.client_reference_id,
            initiating_party_id=detail.initiating_party_id,
            accepted_at_ms=accepted_at_ms,
            amount=detail.transaction_amount,
            currency=CURRENCIES[detail.transaction_currency_code][0],
            method=message.payout_method,
            recipient_fingerprint=recipient_fingerprint(self._fingerprint_key, message.destination.account_number),
            speed=life.speed,
            funding_status=life.funding_status,
            steps=tuple(
                (accepted_at_ms + pace_ms * place, step) for place, step in zip(places, life.steps, strict=False)
            ),
        )

    async def _accept(self, call: Call, payout: Payout, *, late: bool) -> Found:
        http_status = call.hit.fault.http_status if call.hit is not None else 200
        logged = call.row(202 if late else http_status)
        refuse_repeat = self._knobs.now.accounts_repeat == "refused"
        if not await self._store.write(lambda connection: accept(connection, payout, refuse_repeat=refuse_repeat)):
            raise refused("transactionDetail.clientReferenceId", "was used before", REPEATED_CODE)
        call.logged = True
        self._store.write_soon(lambda connection: insert_request(connection, logged))
        return Found(payout, payout.status(self._gateway.now_ms(), None))

    async def _query(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "account_query")
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        self._gateway.check_read(request)
        name, by, party = _asked(request.query)
        call.sender_reference = name if by == "CLIENT_REFERENCE_ID" else None
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call)
        found = self._visible(call, await self._find(name, by, party))
        if not found and self._knobs.now.accounts_no_match == "404":
            raise not_found()
        if any(one.at_ms > self._gateway.now_ms() for one in found):
            return self._gateway.encrypted(request, 202, {})  # answered with 202, and not accepted yet
        documents = [shown(one) for one in found]
        document = documents[0] if len(documents) == 1 else documents
        return await self._gateway.reply(request, call, document)

    async def _find(self, name: str, by: str, party: str) -> list[Found]:
        now_ms = self._gateway.now_ms()
        return await self._store.write(lambda connection: find(connection, name, by, party, now_ms))

    def _visible(self, call: Call, found: list[Found]) -> list[Found]:
        """What a query shows, as the fault that fired leaves it."""
        if call.hit is None or call.hit.fault.rows is None:
            return found
        rows = [{"at_ms": one.at_ms, "status": one.status, "found": one} for one in found]
        kept = call.hit.fault.rows(call.hit.rule, rows, self._gateway.now_ms())
        return [replace(row["found"], status=row["status"]) for row in kept]

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        call = self._gateway.begin(request, "account_cancel")
        dropped = await self._gateway.arrival_fault(request, call)
        if dropped is not None:
            return dropped
        message = parse_cancel(await self._gateway.open(request))
        call.sender_reference = message.id if message.id_type == "CLIENT_REFERENCE_ID" else None
        answer = await self._gateway.fault_before(request, call)
        if answer is not None:
            return answer
        await self._gateway.delay(call)
        found = await self._find(message.id, message.id_type, message.initiating_party_id)
        if not found:
            raise not_found()
        now_ms = self._gateway.now_ms()
        decided_at_ms = now_ms + int(self._knobs.now.accounts_pace_seconds * 1000)
        taken = await self._store.write(lambda connection: cancel(connection, found[0], now_ms, decided_at_ms))
        if not taken:
            raise refused("id", "can no longer be cancelled", TOO_LATE_CODE)
        (after, *_) = await self._find(message.id, message.id_type, message.initiating_party_id)
        return await self._gateway.reply(request, call, shown(after))


def _asked(parameters: Mapping[str, str]) -> tuple[str, str, str]:
    name, by, party = (parameters.get(name, "") for name in ("id", "idType", "initiatingPartyId"))
    if not 1 <= len(name) <= 64:
        raise refused("id", "is needed, with at most 64 characters", WRONG_CODE)
    if by not in ("CLIENT_REFERENCE_ID", "PAYOUT_ID"):
        raise refused("idType", "must be CLIENT_REFERENCE_ID or PAYOUT_ID", WRONG_CODE)
    if not (party.isascii() and party.isdigit() and len(party) <= 19):
        raise refused("initiatingPartyId", "is needed, as a number", WRONG_CODE)
    return name, by, party
