"""A client of the stand-in that shares no code with it but the file names: httpx, and jwcrypto for MLE."""

import asyncio
import contextlib
import functools
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from jwcrypto import jwe, jwk

PUSH = "/visadirect/fundstransfer/v1/pushfundstransactions"
REVERSE = "/visadirect/fundstransfer/v1/reversefundstransactions"
ADJUSTMENT = "/visadirect/v1/adjustment"
QUERY = "/visadirect/v1/transactionquery"
HELLO = "/vdp/helloworld"
JWKS = "/.well-known/jwks"
PAYOUTS = "/visapayouts/v3/payouts"
CANCEL = "/visapayouts/v3/payouts/cancel"
ATTRIBUTES = "/paai/fundstransferattinq/v5/cardattributes/fundstransferinquiry"
VALIDATION = "/pav/v1/cardvalidation"
ALIAS = "/visaaliasdirectory/v1/resolve"
RATES = "/forexrates/v2/foreignexchangerates"
PARTY = 1002

APPROVED_CARD = "4957030420210462"


EVENTUALLY_SECONDS = 30.0
ANSWER_SECONDS = 30.0
"""For a busy machine: no answer of the stand-in takes long by itself."""
LONG_SECONDS = 20.0
"""Of work in flight that a test looks at; it ends it itself, by the stand-in's clock."""

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]]) -> T:
    """The first true result of ``probe``, asked again and again; a failure after half a minute."""
    until = time.monotonic() + EVENTUALLY_SECONDS
    while not (found := await probe()):
        assert time.monotonic() < until, f"still {found!r} after {EVENTUALLY_SECONDS} s"
        await asyncio.sleep(0.02)
    return found


def push_body(number: int = 1, recipient: str = "tok_approve_1", **changes: Any) -> dict[str, Any]:
    """A push as our processor would send it; ``number`` makes its trace number and reference its own."""
    body: dict[str, Any] = {
        "acquirerCountryCode": 840,
        "acquiringBin": 408999,
        "amount": "124.05",
        "businessApplicationId": "FD",
        "cardAcceptor": {
            "name": "Acme",
            "idCode": "ACME",
            "terminalId": "T1",
            "address": {
                "country": "USA",
                "city": "Foster City",
                "county": "San Mateo",
                "state": "CA",
                "zipCode": "94404",
            },
        },
        "localTransactionDateTime": "2026-01-31T12:00:00",
        "retrievalReferenceNumber": f"603112{number // 900000:06d}",
        "systemsTraceAuditNumber": 100000 + number % 900000,
        "transactionCurrencyCode": "USD",
        "senderReference": f"REF{number:013d}",
        "senderName": "Acme Inc",
        "senderAddress": "1 Market St",
        "senderCity": "Foster City",
        "senderStateCode": "CA",
        "senderPostalCode": "94404",
        "senderCountryCode": "USA",
        "sourceOfFundsCode": "05",
    }
    if recipient.isdigit():
        body["recipientPrimaryAccountNumber"] = recipient
    else:
        body["recipientPaymentCredentialReference"] = {"type": "PCI_TOKEN_REFID", "value": recipient}
    return body | changes


def funding(number: int = 1, **changes: Any) -> dict[str, Any]:
    """The fixture for an AFT that ``reverse_body`` of the same number undoes."""
    return {
        "acquiringBin": "408999",
        "stan": f"{700000 + number}",
        "rrn": f"603111{number:06d}",
        "transactionIdentifier": f"{300000000000000 + number}",
        "approvalCode": "98765X",
        "amount": "50.00",
        "currency": "USD",
        "captured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "recipient": "tok_approve_7",
    } | changes


def reverse_body(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A reversal of ``funding`` of the same number."""
    aft = funding(number)
    body = push_body(number)
    for name in ("recipientPaymentCredentialReference", "transactionCurrencyCode"):
        del body[name]
    return (
        body
        | {
            "amount": aft["amount"],
            "merchantCategoryCode": 4829,
            "originalDataElements": {
                "acquiringBin": 408999,
                "approvalCode": aft["approvalCode"],
                "systemsTraceAuditNumber": int(aft["stan"]),
                "transmissionDateTime": aft["captured_at"],
            },
            "retrievalReferenceNumber": aft["rrn"],
            "systemsTraceAuditNumber": int(aft["stan"]),
            "transactionIdentifier": int(aft["transactionIdentifier"]),
            "senderCurrencyCode": "USD",
            "senderPaymentCredentialReference": {"type": "PCI_TOKEN_REFID", "value": "tok_approve_7"},
        }
        | changes
    )


def adjustment_body(number: int = 1, **changes: Any) -> dict[str, Any]:
    """An adjustment that hands back ``funding`` of the same number, made from a card; its numbers are its own."""
    aft = funding(number)
    body = push_body(number + 400_000)
    for name in ("recipientPaymentCredentialReference", "transactionCurrencyCode", "sourceOfFundsCode"):
        del body[name]
    return (
        body
        | {
            "amount": aft["amount"],
            "merchantCategoryCode": 4829,
            "messageReasonCode": 2140,
            "transactionTypeCode": 22,
            "pointOfServiceData": {"panEntryMode": "01", "posConditionCode": "00"},
            "senderCurrencyCode": "USD",
            "senderPrimaryAccountNumber": APPROVED_CARD,
            "transactionIdentifier": int(aft["transactionIdentifier"]),
        }
        | changes
    )


def account_reference(number: int) -> str:
    return f"ACC{number:013d}"


def payout_body(number: int = 1, account: str = "TESTDELIVER1", **detail: Any) -> dict[str, Any]:
    """A payout to a bank account; ``number`` makes its reference its own."""
    return {
        "payoutMethod": "B",
        "transactionDetail": {
            "initiatingPartyId": PARTY,
            "businessApplicationId": "FD",
            "clientReferenceId": account_reference(number),
            "transactionAmount": "25.50",
            "transactionCurrencyCode": "USD",
            "senderSourceOfFunds": "05",
        }
        | detail,
        "senderDetail": {"name": "Acme Inc"},
        "recipientDetail": {
            "name": "Rosalind Example",
            "bank": {"accountNumber": account, "countryCode": "GBR", "currencyCode": "GBP"},
        },
    }


@dataclass
class Answer:
    """One HTTP answer with its body decrypted, and whether it had to be."""

    status: int
    body: Any
    headers: httpx.Headers
    encrypted: bool

    @property
    def code(self) -> str:
        """The gateway's code, of an error in the clear."""
        assert not self.encrypted
        code: str = self.body["responseStatus"]["code"]
        return code


@functools.cache
def rsa_key(pem: bytes) -> jwk.JWK:
    """Loading an RSA key checks it, which takes longer than most tests."""
    return jwk.JWK.from_pem(pem)


class VisaClient:
    """Speaks to one running stand-in, from nothing but the client's directory and the two addresses."""

    def __init__(self, base_url: str, admin_url: str, client_directory: Path) -> None:
        self.base_url = base_url
        self.admin_url = admin_url
        self.directory = client_directory
        words = json.loads((client_directory / "credentials.json").read_text())
        self.key_id: str = words["mle_key_id"]
        self.basic = (words["user_id"], words["password"])
        self.server_key = rsa_key((client_directory / "mle_server_certificate.pem").read_bytes())
        self.private_key = rsa_key((client_directory / "mle_client_private_key.pem").read_bytes())
        self.now = time.time
        self.visa = httpx.AsyncClient(
            base_url=base_url, verify=self.tls(), auth=self.basic, timeout=ANSWER_SECONDS, trust_env=False
        )
        self.admin = httpx.AsyncClient(
            base_url=admin_url,
            timeout=ANSWER_SECONDS,
            trust_env=False,
            verify=False,  # noqa: S501 - plain HTTP
        )

    async def close(self) -> None:
        await self.visa.aclose()
        await self.admin.aclose()

    def tls(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if with_certificate:
            context.load_cert_chain(self.directory / "client_certificate.pem", self.directory / "client_key.pem")
        return context

    def encrypt(self, plaintext: bytes, encryption: str = "A128GCM", **header: Any) -> bytes:
        protected = {
            "alg": "RSA-OAEP-256",
            "enc": encryption,
            "kid": self.key_id,
            "iat": int(self.now() * 1000),
        } | header
        token = jwe.JWE(plaintext, protected=json.dumps(protected), recipient=self.server_key)
        return json.dumps({"encData": token.serialize(compact=True)}).encode()

    def decrypt(self, body: bytes) -> tuple[Any, dict[str, Any]]:
        """(document, protected header)"""
        token = jwe.JWE()
        token.deserialize(json.loads(body)["encData"], key=self.private_key)
        return json.loads(token.payload), token.jose_header

    def headers(self, **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"Accept": "application/json", "Content-Type": "application/json", "keyId": self.key_id} | named

    def answer(self, response: httpx.Response) -> Answer:
        if response.content.startswith(b'{"encData"'):
            return Answer(response.status_code, self.decrypt(response.content)[0], response.headers, True)
        is_json = "json" in response.headers.get("content-type", "")
        body = response.json() if is_json else response.text
        return Answer(response.status_code, body, response.headers, False)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        content = self.encrypt(json.dumps(body).encode())
        return self.answer(await self.visa.post(path, content=content, headers=self.headers(**headers)))

    async def push(self, body: dict[str, Any], **headers: str) -> Answer:
        return await self.post(PUSH, body, **headers)

    async def reverse(self, body: dict[str, Any], **headers: str) -> Answer:
        return await self.post(REVERSE, body, **headers)

    async def adjust(self, body: dict[str, Any], **headers: str) -> Answer:
        return await self.post(ADJUSTMENT, body, **headers)

    async def get(self, path: str, **parameters: str) -> Answer:
        return self.answer(await self.visa.get(path, params=parameters, headers=self.headers()))

    async def status(self, identifier: str) -> Answer:
        return await self.get(f"{PUSH}/{identifier}")

    async def settled(self, path: str) -> Answer:
        """The answer of a status URL once it is no longer 202."""

        async def probe() -> Answer | None:
            answer = await self.get(path)
            return None if answer.status == 202 else answer

        answer = await eventually(probe)
        assert answer is not None
        return answer

    @contextlib.contextmanager
    def impatient(self, seconds: float = 0.5) -> Iterator[None]:
        """Wait so briefly for answers that do not come, and as long as ever for all that follow."""
        patient, self.visa.timeout = self.visa.timeout, httpx.Timeout(ANSWER_SECONDS, read=seconds)
        try:
            yield
        finally:
            self.visa.timeout = patient

    async def busy(self) -> bool:
        """Whether something is in flight."""
        in_flight: int = (await self.admin.get("/sandbox/health")).json()["in_flight"]
        return in_flight > 0

    async def query(self, body: dict[str, Any], **more: str) -> Answer:
        """Ask by the numbers of a push or reversal body."""
        return await self.get(
            QUERY,
            acquiringBIN=str(body["acquiringBin"]),
            stan=str(body["systemsTraceAuditNumber"]),
            rrn=body["retrievalReferenceNumber"],
            **more,
        )

    async def send(self, body: dict[str, Any], **headers: str) -> Answer:
        return await self.post(PAYOUTS, body, **headers)

    async def asked(self, number: int) -> Answer:
        """Ask for an account payout by its reference."""
        parameters = {"id": account_reference(number), "idType": "CLIENT_REFERENCE_ID"}
        return await self.get(PAYOUTS, **parameters, initiatingPartyId=str(PARTY))

    async def knobs(self, **values: Any) -> None:
        response = await self.admin.put("/sandbox/knobs", json=values)
        assert response.status_code == 200, response.text

    async def entries(self, **parameters: Any) -> list[dict[str, Any]]:
        response = await self.admin.get("/sandbox/ledger", params=parameters)
        found: list[dict[str, Any]] = response.raise_for_status().json()["entries"]
        return found

    async def requests(self) -> list[dict[str, Any]]:
        response = await self.admin.get("/sandbox/requests")
        found: list[dict[str, Any]] = response.raise_for_status().json()["requests"]
        return found

    async def faults(self, *rules: dict[str, Any], seed: int = 1) -> None:
        response = await self.admin.put("/sandbox/faults", json={"seed": seed, "rules": list(rules)})
        assert response.status_code == 200, response.text

    async def fund(self, fixture: dict[str, Any]) -> httpx.Response:
        return await self.admin.post("/sandbox/funding", json=fixture)
