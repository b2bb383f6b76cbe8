"""What every operation goes through: Basic, message level encryption, error shapes, the attempt log and faults."""

import base64
import hmac
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from sandbox.visa_direct.credentials import SandboxCredentials
from sandbox.visa_direct.encryption import MessageEncryption, MlePairs
from sandbox.visa_direct.faults import FaultEngine, Hit, Operation
from sandbox.visa_direct.keyring import Keyring
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.refusal import (
    BAD_CREDENTIALS,
    CREDENTIALS_MISSING,
    NO_CODE,
    VALIDATION_ERROR,
    ProductRefusal,
    Refusal,
    envelope,
)
from sandbox.visa_direct.settings import CLIENT_ID_CHARACTERS_MAX, Settings
from sandbox.visa_direct.store import Row, Store, insert_request

JWKS_PATH: Final = "/.well-known/jwks"

_logger = logging.getLogger(__name__)
_JSON: Final = "application/json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Call:
    """One request as the attempt log will show it; filled in as more becomes known."""

    operation: Operation
    at_ms: int
    client_transaction_id: str | None = None
    acquiring_bin: str | None = None
    stan: str | None = None
    rrn: str | None = None
    id_code: str | None = None
    terminal_id: str | None = None
    sender_reference: str | None = None
    hit: Hit | None = None
    logged: bool = False

    @property
    def payout(self) -> str:
        """What tells this payout from others when faults are counted: the best name there is."""
        numbers = f"{self.acquiring_bin}:{self.stan}:{self.rrn}"
        return self.sender_reference or self.client_transaction_id or numbers

    def row(self, http_status: int | None) -> Row:
        return {
            "at_ms": self.at_ms,
            "operation": self.operation,
            "acquiring_bin": self.acquiring_bin,
            "stan": self.stan,
            "rrn": self.rrn,
            "id_code": self.id_code,
            "terminal_id": self.terminal_id,
            "client_transaction_id": self.client_transaction_id,
            "sender_reference": self.sender_reference,
            "http_status": http_status,
            "fault": self.hit.name if self.hit else None,
        }


CALL: Final = web.RequestKey("call", Call)
_PAIRS: Final = web.RequestKey("pairs", MlePairs)


class Gateway:
    """Visa's front door, shared by all operations."""

    def __init__(
        self,
        settings: Settings,
        knobs: Knobs,
        credentials: SandboxCredentials,
        keyring: Keyring,
        store: Store,
        faults: FaultEngine,
    ) -> None:
        self._knobs = knobs
        self._keyring = keyring
        self._encryption = MessageEncryption(keyring.pairs, knobs.clock, settings.mle_error_code)
        self._store = store
        self._faults = faults
        words = f"{credentials.user_id}:{credentials.password}".encode()
        self._authorization = b"Basic " + base64.b64encode(words)

    def now_ms(self) -> int:
        return int(self._knobs.clock() * 1000)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around every operation: who asks, how an error looks, the attempt log, the correlation id."""
        try:
            self._authenticate(request)
            response = await handler(request)
        except Refusal as refusal:
            response = _envelope_response(refusal)
        except ProductRefusal as refusal:
            response = web.json_response(refusal.document, status=refusal.status)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            response = _envelope_response(Refusal(error.status, NO_CODE, error.reason, allow))
        except Exception as error:  # noqa: BLE001 - whatever it was, it may quote the request
            _logger.error("internal error: %s", type(error).__name__)  # noqa: TRY400 - no traceback, no values
            response = _envelope_response(Refusal(500, NO_CODE, "Internal error"))
        call = request.get(CALL)
        if call is not None and not call.logged:
            self.log(call, response.status)
        response.headers["X-CORRELATION-ID"] = self._correlation_id()
        return response

    def _authenticate(self, request: web.Request) -> None:
        if request.path == JWKS_PATH:
            return  # Public keys. The client certificate was asked for all the same: it is one port.
        given = request.headers.get("Authorization", "")
        if not given.startswith("Basic "):
            raise Refusal(401, CREDENTIALS_MISSING, "User id and password are missing")
        if not hmac.compare_digest(given.encode(), self._authorization):
            raise Refusal(401, BAD_CREDENTIALS, "User id or password is wrong")

    def _correlation_id(self) -> str:
        return f"{self.now_ms() // 1000}_{secrets.randbelow(900) + 100}_{secrets.token_hex(6)}_VDP_WS"

    # The attempt log and its faults.

    def begin(self, request: web.Request, operation: Operation) -> Call:
        """The line of the attempt log that this request becomes. Raises Refusal (400) for an endless client id."""
        client_id = request.headers.get("X-Client-Transaction-ID") or None
        if client_id is not None and len(client_id) > CLIENT_ID_CHARACTERS_MAX:
            raise Refusal(400, VALIDATION_ERROR, "X-Client-Transaction-ID is too long")
        call = Call(operation, self.now_ms(), client_id)
        request[CALL] = call
        return call

    def log(self, call: Call, http_status: int | None) -> None:
        """Write the line soon; nobody waits for it."""
        call.logged = True
        row = call.row(http_status)
        self._store.write_soon(lambda connection: insert_request(connection, row))

    async def arrival_fault(self, request: web.Request, call: Call) -> web.Response | None:
        """The answer of a fault that acts before the body is read, if one fires."""
        hit = self._draw(call, on_arrival=True)
        if hit is None or hit.fault.arrival is None:
            return None
        self.log(call, hit.fault.http_status)
        return await hit.fault.arrival(request, hit.rule)

    async def fault_before(self, request: web.Request, call: Call) -> web.Response | None:
        """The answer of a fault that acts before any effect, if one fires; ``call.hit`` is what fired."""
        hit = self._draw(call)
        if hit is None or hit.fault.before is None:
            return None
        self.log(call, hit.fault.http_status)
        return await hit.fault.before(request, hit.rule)

    async def delay(self, call: Call, latency_seconds: float = 0.0) -> None:
        """Wait for the usual latency, and as long as the fault that fired says."""
        await self._knobs.wait(latency_seconds + (call.hit.delay_seconds if call.hit is not None else 0.0))

    def _draw(self, call: Call, *, on_arrival: bool = False) -> Hit | None:
        call.hit = self._faults.draw(
            call.operation,
            call.payout,
            sender_reference=call.sender_reference,
            client_transaction_id=call.client_transaction_id,
            on_arrival=on_arrival,
        )
        return call.hit

    # Bodies.

    async def open(self, request: web.Request) -> bytes:
        """The plaintext of an encrypted POST. Raises Refusal (400, 406, 415)."""
        check_accept(request)
        if request.content_type != _JSON:
            raise Refusal(415, NO_CODE, "Content-Type must be application/json")
        return self._encryption.open(self._pairs(request), await request.read())

    def check_read(self, request: web.Request) -> None:
        """What a GET needs before it is looked at. Raises Refusal (400, 406)."""
        check_accept(request)
        self._pairs(request)

    def encrypted(self, request: web.Request, status: int, document: object) -> web.Response:
        """An answer under the key id of its request, or the one that the keyring says."""
        pairs = self._keyring.answering(self._pairs(request))
        body = self._encryption.close(pairs, json.dumps(document).encode())
        return web.Response(status=status, body=body, content_type=_JSON)

    async def reply(
        self, request: web.Request, call: Call, document: dict[str, object] | list[Any], status: int = 200
    ) -> web.Response:
        """``encrypted``, as the fault that fired leaves it."""
        hit = call.hit
        if hit is not None and hit.fault.reply is not None and isinstance(document, dict):
            document = hit.fault.reply(document)
        response = self.encrypted(request, status, document)
        return await self.spoiled(request, call, response)

    async def spoiled(self, request: web.Request, call: Call, response: web.Response) -> web.Response:
        """The answer, or what the fault that fired makes of it."""
        if call.hit is not None and call.hit.fault.after is not None:
            return await call.hit.fault.after(request, call.hit.rule, response)
        return response

    def _pairs(self, request: web.Request) -> MlePairs:
        """Looked up once: a key that is retired meanwhile still closes the answer to what it opened."""
        pairs = request.get(_PAIRS)
        if pairs is None:
            pairs = self._encryption.require_key_id(request.headers.get("keyId"))
            request[_PAIRS] = pairs
        return pairs

    async def jwks(self, request: web.Request) -> web.StreamResponse:
        """The server's encryption certificates as a JWK set, as Visa's own client reads one (visa/mcp)."""
        call = self.begin(request, "jwks")
        answer = await self.arrival_fault(request, call) or await self.fault_before(request, call)
        if answer is not None:
            return answer
        await self.delay(call)
        return await self.spoiled(request, call, web.json_response(self._keyring.jwks()))


def check_accept(request: web.Request) -> None:
    """Visa's header page: without an Accept header the answer is XML, which we do not speak."""
    if "json" not in request.headers.get("Accept", ""):
        raise Refusal(
            406,
            NO_CODE,
            "Visa answers in XML unless asked for JSON, and this stand-in has no XML: send Accept: application/json",
        )


def _envelope_response(refusal: Refusal) -> web.Response:
    headers: Mapping[str, str] = refusal.headers
    return web.Response(
        status=refusal.status,
        body=envelope(refusal.status, refusal.code, refusal.message),
        content_type=_JSON,
        charset="UTF-8",
        headers={
            **headers,
            "x-app-status": str(refusal.status),
            "x-error-origin": "9200",
            "Cache-Control": "no-cache, no-store, must-revalidate",
        },
    )
