"""A client of anything that speaks Visa Direct: httpx over two-way TLS, jwcrypto for message level encryption."""

import asyncio
import contextlib
import copy
import datetime
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
from jwcrypto import jwe, jwk

PUSH: Final = "/visadirect/fundstransfer/v1/pushfundstransactions"
REVERSE: Final = "/visadirect/fundstransfer/v1/reversefundstransactions"
ADJUSTMENT: Final = "/visadirect/v1/adjustment"
QUERY: Final = "/visadirect/v1/transactionquery"
HELLO: Final = "/vdp/helloworld"

# Visa's published sandbox number that is approved.
APPROVED_CARD: Final = "4957030420210462"
# Longer than Visa's own time-out of 30 s.
TOTAL_SECONDS: Final = 40.0
SETTLED_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05

T = TypeVar("T")
Body = dict[str, Any]


class Mismatch(Exception):
    """What was found is not what Visa documents. The message never holds a value of a request."""


class NotApplicable(Exception):
    """The case cannot be decided here; the message says why."""


def same(what: str, found: object, expected: object) -> None:
    """Raises Mismatch, with both, unless they are equal."""
    if found != expected:
        raise Mismatch(f"{what}: {found!r} instead of {expected!r}")


def holds(what: str, condition: bool) -> None:
    """Raises Mismatch unless the condition holds. ``what`` says what should be."""
    if not condition:
        raise Mismatch(f"not so: {what}")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and the credentials. ``admin_url`` is the stand-in's own port; Visa has none."""

    base_url: str
    user_id: str
    password: str = field(repr=False)
    certificate: Path
    key: Path
    ca: Path | None
    mle_key_id: str
    mle_server_certificate: Path
    mle_private_key: Path
    admin_url: str | None = None
    acquiring_bin: str = "408999"
    acquirer_country: str = "840"
    initiating_party_id: str = "1002"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer with its body decrypted, and whether it had to be."""

    status: int
    body: Any = field(repr=False)
    headers: httpx.Headers = field(repr=False)
    encrypted: bool
    jose_header: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def code(self) -> object:
        """The gateway's code of an error, None if the body has no such shape."""
        envelope = self.body.get("responseStatus") if isinstance(self.body, dict) else None
        return envelope.get("code") if isinstance(envelope, dict) else None

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - what a document holds is what the cases check
        """A member of the body. Raises Mismatch if it is not there."""
        if not isinstance(self.body, dict) or name not in self.body:
            raise Mismatch(f"the answer ({self.status}) has no {name}")
        return self.body[name]


class Client:
    """Speaks to one target. ``ahead_seconds`` is how far its clock, and a stand-in's, is ahead of the real one."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.ahead_seconds = 0.0
        self.server_key = jwk.JWK.from_pem(target.mle_server_certificate.read_bytes())
        self.private_key = jwk.JWK.from_pem(target.mle_private_key.read_bytes())
        self._visa = httpx.AsyncClient(
            base_url=target.base_url,
            verify=self.tls(),
            auth=(target.user_id, target.password),
            timeout=TOTAL_SECONDS,
            trust_env=False,
        )
        self._admin = httpx.AsyncClient(base_url=target.admin_url or "", timeout=TOTAL_SECONDS, trust_env=False)
        # No two runs against one target use the same numbers within a day, which is as long as Visa remembers them.
        self._numbers = itertools.count(time.time_ns() // 1_000_000 % 10**11)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._visa.aclose()
        await self._admin.aclose()

    def tls(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        """Verifies the server by the target's CA (or the system's); shows our certificate unless told not to."""
        context = ssl.create_default_context(cafile=str(self.target.ca) if self.target.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if with_certificate:
            context.load_cert_chain(self.target.certificate, self.target.key)
        return context

    def now(self) -> float:
        """Seconds since the epoch, as the target sees it."""
        return time.time() + self.ahead_seconds

    # Bodies.

    def numbers(self) -> tuple[int, str]:
        """A STAN and an RRN that nobody has used."""
        number = next(self._numbers)
        at = datetime.datetime.fromtimestamp(self.now(), datetime.UTC)
        # Together they repeat after nine million numbers, hours later, when the RRN has another hour.
        return 100_000 + number % 900_000, f"{at.year % 10}{at:%j%H}{number % 1_000_000:06d}"

    def reference(self) -> str:
        """A reference of 16 characters that nobody has used."""
        return f"CF{next(self._numbers):014d}"

    def push_body(self, recipient: str = APPROVED_CARD, **changes: Any) -> Body:
        """A funds disbursement within the United States, complete; a change to None takes the field away."""
        stan, rrn = self.numbers()
        body: Body = {
            "acquirerCountryCode": self.target.acquirer_country,
            "acquiringBin": self.target.acquiring_bin,
            "amount": "124.05",
            "businessApplicationId": "FD",
            "cardAcceptor": {
                "name": "Conformance",
                "idCode": "CONFORMANCE01",
                "terminalId": "CONF0001",
                "address": {
                    "country": "USA",
                    "city": "Foster City",
                    "county": "San Mateo",
                    "state": "CA",
                    "zipCode": "94404",
                },
            },
            "localTransactionDateTime": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S}",
            "merchantCategoryCode": "6012",
            "retrievalReferenceNumber": rrn,
            "systemsTraceAuditNumber": stan,
            "transactionCurrencyCode": "USD",
            "senderReference": self.reference(),
            "senderName": "Conformance Suite",
            "senderAddress": "901 Metro Center Blvd",
            "senderCity": "Foster City",
            "senderStateCode": "CA",
            "senderPostalCode": "94404",
            "senderCountryCode": "USA",
            "sourceOfFundsCode": "05",
            "recipientName": "Rosalind Example",
            "recipientCardExpiryDate": "2040-10",
        }
        if recipient.isdigit():
            body["recipientPrimaryAccountNumber"] = recipient
        else:
            body["recipientPaymentCredentialReference"] = {"type": "PCI_TOKEN_REFID", "value": recipient}
        return changed(body, changes)

    def funding(self, **changes: Any) -> Body:
        """The facts of a card pull, as the stand-in's admin port takes them."""
        stan, rrn = self.numbers()
        captured = datetime.datetime.fromtimestamp(self.now(), datetime.UTC)
        return {
            "acquiringBin": self.target.acquiring_bin,
            "stan": str(stan),
            "rrn": rrn,
            "transactionIdentifier": str(300_000_000_000_000 + next(self._numbers)),
            "approvalCode": "98765X",
            "amount": "50.00",
            "currency": "USD",
            "captured_at": f"{captured:%Y-%m-%dT%H:%M:%SZ}",
            "recipient": APPROVED_CARD,
        } | changes

    def reverse_body(self, aft: Body, **changes: Any) -> Body:
        """What undoes the pull: its STAN, RRN and identifier again."""
        original = {
            "acquiringBin": aft["acquiringBin"],
            "approvalCode": aft["approvalCode"],
            "systemsTraceAuditNumber": aft["stan"],
            "transmissionDateTime": aft["captured_at"].removesuffix("Z"),
        }
        named = {
            "amount": aft["amount"],
            "originalDataElements": original,
            "retrievalReferenceNumber": aft["rrn"],
            "systemsTraceAuditNumber": aft["stan"],
            "transactionIdentifier": aft["transactionIdentifier"],
            "senderCurrencyCode": aft["currency"],
            "senderPrimaryAccountNumber": aft["recipient"],
            "transactionCurrencyCode": None,
            "recipientPrimaryAccountNumber": None,
        }
        return changed(self.push_body(), named | changes)

    def adjustment_body(self, aft: Body, **changes: Any) -> Body:
        """What hands the pull back at any age: its identifier, numbers of its own."""
        named = {
            "amount": aft["amount"],
            "messageReasonCode": 2140,
            "transactionTypeCode": 22,
            "pointOfServiceData": {"panEntryMode": "01", "posConditionCode": "00"},
            "transactionIdentifier": aft["transactionIdentifier"],
            "senderCurrencyCode": aft["currency"],
            "senderPrimaryAccountNumber": aft["recipient"],
            "transactionCurrencyCode": None,
            "recipientPrimaryAccountNumber": None,
        }
        return changed(self.push_body(), named | changes)

    # Calls.

    def headers(self, **more: str) -> dict[str, str]:
        """The usual headers; an underscore in a name is a hyphen."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        usual = {"Accept": "application/json", "Content-Type": "application/json", "keyId": self.target.mle_key_id}
        return usual | named

    def encrypt(self, plaintext: bytes, encryption: str = "A128GCM", **header: Any) -> bytes:
        """A body around a fresh JWE; a header value None is left out."""
        protected = {
            "alg": "RSA-OAEP-256",
            "enc": encryption,
            "kid": self.target.mle_key_id,
            "iat": int(self.now() * 1000),
        } | header
        present = {name: value for name, value in protected.items() if value is not None}
        token = jwe.JWE(plaintext, protected=json.dumps(present), recipient=self.server_key)
        return json.dumps({"encData": token.serialize(compact=True)}).encode()

    async def raw(self, method: str, path: str, content: bytes | None = None, **more: Any) -> Answer:
        """One request exactly as given. ``auth`` None sends no password."""
        if "auth" in more and more["auth"] is None:
            more["headers"] = {**more.get("headers", {}), "Authorization": ""}
        return self._answer(await self._visa.request(method, path, content=content, **more))

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        """An encrypted POST."""
        content = self.encrypt(json.dumps(body).encode())
        return await self.raw("POST", path, content, headers=self.headers(**headers))

    async def get(self, path: str, **parameters: str) -> Answer:
        """A GET with the usual headers."""
        return await self.raw("GET", path, headers=self.headers(), params=parameters)

    async def push(self, body: Body, **headers: str) -> Answer:
        return await self.post(PUSH, body, **headers)

    async def query(self, body: Body, **more: str) -> Answer:
        """Ask by the numbers of a body."""
        named = {
            "acquiringBIN": str(body["acquiringBin"]),
            "stan": str(body["systemsTraceAuditNumber"]),
            "rrn": str(body["retrievalReferenceNumber"]),
        }
        return await self.get(QUERY, **named, **more)

    async def settled(self, path: str) -> Answer:
        """The answer of a status URL once it is no longer 202."""

        async def ask() -> Answer | None:
            answer = await self.get(path)
            return None if answer.status == 202 else answer

        return await self.eventually(ask)

    async def eventually(self, ask: Callable[[], Awaitable[T | None]]) -> T:
        """The first answer that is there, asked again and again for a minute. Raises Mismatch."""
        until = time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < until:
            found = await ask()
            if found:
                return found
            await asyncio.sleep(POLL_SECONDS)
        raise Mismatch(f"did not come within {SETTLED_SECONDS:.0f} s")

    def _answer(self, response: httpx.Response) -> Answer:
        if response.content.startswith(b'{"encData"'):
            token = jwe.JWE(algs=["RSA-OAEP-256", "A128GCM", "A256GCM"])
            token.deserialize(response.json()["encData"], key=self.private_key)
            return Answer(response.status_code, json.loads(token.payload), response.headers, True, token.jose_header)
        try:
            body = response.json()
        except ValueError:
            body = response.text
        return Answer(response.status_code, body, response.headers, encrypted=False)

    # The stand-in's own port.

    async def admin(self, method: str, path: str, document: object = None) -> Body:
        """One request to the stand-in's own port. Raises NotApplicable where there is none."""
        if self.target.admin_url is None:
            raise NotApplicable("needs the stand-in's own port")
        response = await self._admin.request(method, path, json=document)
        if response.status_code >= 400:
            raise Mismatch(f"the stand-in refused {method} {path}: {response.status_code}")
        answered: Body = response.json()
        return answered

    async def reset(self) -> None:
        """No faults, no knobs turned, the real time."""
        self.ahead_seconds = 0.0
        if self.target.admin_url is not None:
            await self.admin("DELETE", "/sandbox/faults")
            await self.admin("DELETE", "/sandbox/knobs")

    async def faults(self, *rules: Body) -> None:
        await self.admin("PUT", "/sandbox/faults", {"seed": 1, "rules": list(rules)})

    async def turn(self, **knobs: object) -> None:
        await self.admin("PUT", "/sandbox/knobs", knobs)

    async def pass_time(self, seconds: float) -> None:
        """Set the clocks of both sides ahead."""
        await self.turn(clock_ahead_seconds=seconds)
        self.ahead_seconds = seconds

    async def fund(self, **changes: Any) -> Body:
        """A card pull that an originator is supposed to have made."""
        aft = self.funding(**changes)
        await self.admin("POST", "/sandbox/funding", aft)
        return aft

    async def entries(self, reference: str) -> list[Body]:
        """What the stand-in's ledger has under a reference."""
        found: list[Body] = (await self.admin("GET", f"/sandbox/ledger?sender_reference={reference}"))["entries"]
        return found

    async def effects(self, reference: str) -> int:
        """How often money moved under a reference."""
        return sum(bool(entry["money_moved"]) for entry in await self.entries(reference))

    @contextlib.asynccontextmanager
    async def in_flight(self, body: Body, seconds: float, **headers: str) -> AsyncIterator["asyncio.Task[Answer]"]:
        """A push that takes that long; inside the block it has arrived and is not done."""
        await self.turn(latency_seconds=seconds)
        task = asyncio.create_task(self.push(body, **headers))

        async def arrived() -> bool:
            return bool((await self.admin("GET", "/sandbox/health"))["in_flight"])

        try:
            await self.eventually(arrived)
            yield task
        finally:
            await asyncio.gather(task, return_exceptions=True)


def changed(body: Body, changes: Body) -> Body:
    """A copy with the changes; a dotted name goes into objects, None takes a field away."""
    result: Body = copy.deepcopy(body)
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(name, None)
        else:
            place[name] = copy.deepcopy(value)
    return result
