"""What Visa, or whatever answers in its place, may send: from bytes on the connection to what they have proven."""

import asyncio
import functools
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import yaml

from processors.payout.outcome import Outcome, OutcomeKind
from processors.secrets import Secret
from processors.visa import outcome as judge
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, Exchange, Failed
from processors.visa.reply_body import read_body
from processors.visa.requests import push_funds_again
from processors.visa.transport import VisaConnection, VisaDirectClient, _correlation_id, _headers_kept
from schemas.card_numbers import looks_like_card_number
from tests.fuzz.harness import Target, check
from tests.fuzz.targets.contracts import loop
from tests.fuzz.values import CARDS, change_json, hostile_text
from tests.unit.visa.visa_testbed import make_pki

AMOUNT, CURRENCY = "25.00", "USD"


@dataclass(frozen=True)
class _Numbers:
    systems_trace_audit_number: int = 451_017
    retrieval_reference_number: str = "606011451018"


Judge = Callable[[Exchange], Outcome]
_ABOUT_QUERY: Final = {"expected_amount": AMOUNT, "expected_currency": CURRENCY, "transaction": _Numbers()}
JUDGES: Final[Mapping[str, Judge]] = {
    "PUSH": judge.outcome_of_push,
    "STATUS": functools.partial(judge.outcome_of_status, status_identifier="1234567_VDP"),
    "QUERY": functools.partial(judge.outcome_of_query, **_ABOUT_QUERY),
    "REVERSE": judge.outcome_of_reversal,
    "REVERSAL_STATUS": judge.outcome_of_reversal_status,
    "REVERSAL_QUERY": functools.partial(judge.outcome_of_reversal_query, **_ABOUT_QUERY),
    "ADJUST": judge.outcome_of_adjustment,
    "ADJUSTMENT_QUERY": functools.partial(judge.outcome_of_adjustment_query, **_ABOUT_QUERY),
}
DUPLICATES_COUNT: Final = frozenset({"PUSH", "STATUS", "QUERY"})
ROW_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "QUERY": frozenset({"CRED VOUCHER"}),
    "REVERSAL_QUERY": frozenset({"SALES REVERSAL"}),
    "ADJUSTMENT_QUERY": frozenset({"SALES REVERSAL", "CRED VOUCHER"}),
}
STATUSES: Final = (200, 202, 303, 200, 400, 401, 403, 404, 405, 415, 429, 500, 502, 503, 504, 201, 204, 302, 418, 599)
_TRANSACTION_IDENTIFIER_DIGITS: Final = 15


# --- what a person who knows the rules would say ------------------------------------------------------------------


@functools.cache
def _declining_codes() -> frozenset[str]:
    text = (Path(judge.__file__).parent / "action_codes.yaml").read_text(encoding="utf-8")
    return frozenset(code for code, entry in yaml.safe_load(text)["codes"].items() if entry["declined"])


def check_outcome(call: str, exchange: Exchange, body: bytes, outcome: Outcome) -> None:
    """S4, S5, C4, P6: what ends a payout is in the bytes of the answer, and the outcome echoes nothing."""
    if outcome.kind in (OutcomeKind.PAID, OutcomeKind.DECLINED):
        check(isinstance(exchange, Answered) and exchange.status == 200, "an end without a 200")
        document = json.loads(body)
        kinds = _proven_by_rows(call, document) if call in ROW_TYPES else {_proven_by(call, document)}
        check(outcome.kind in kinds, f"{call} is {outcome.kind} without its proof in the answer")
    if isinstance(exchange, Failed):
        check((outcome.kind is OutcomeKind.REFUSED) != exchange.bytes_sent, "REFUSED although bytes were sent")
    check(re.fullmatch(r"[A-Z0-9_]{1,64}", outcome.reason_code) is not None, "a reason code echoes the answer")
    check_texts(outcome)


def check_texts(outcome: Outcome) -> None:
    """P6: no text of an outcome is a card number, or longer than a row should carry."""
    identifier = outcome.transaction_identifier
    if identifier is not None and len(identifier) != _TRANSACTION_IDENTIFIER_DIGITS:
        check(not looks_like_card_number(identifier), "a card number as transaction identifier")
    for text in (outcome.approval_code, outcome.status_identifier, outcome.action_code, outcome.visa_correlation_id):
        check(text is None or not looks_like_card_number(text), "a card number in an outcome")
        check(
            text is None or (text.isascii() and text.isprintable() and len(text) <= 128), "an outcome echoes the answer"
        )
    after = outcome.retry_after_seconds
    check(after is None or 0 <= after <= judge.LONGEST_RETRY_AFTER_SECONDS, "a Retry-After out of bounds")


def _code(call: str, facts: Mapping[str, Any]) -> object:
    """The action code that counts."""
    code, original = facts.get("actionCode"), facts.get("originalActionCode")
    if code == "94":
        return original if call in DUPLICATES_COUNT else None
    return code if original in (None, "", code) else None


def _proven_by(call: str, document: Any) -> OutcomeKind | None:
    code = _code(call, document) if isinstance(document, dict) else None
    if code in ("00", "11"):
        return OutcomeKind.PAID
    return OutcomeKind.DECLINED if code in _declining_codes() else None


def _proven_by_rows(call: str, document: Any) -> set[OutcomeKind]:
    """PAID needs one completed approval of the right type; DECLINED needs every row completed and none approved."""
    rows = [row for row in document if _type(row) in ROW_TYPES[call]]
    codes = [_code(call, row) for row in rows if row.get("statusCode") == "COMPLETED"]
    if any(code in ("00", "11") for code in codes):
        return {OutcomeKind.PAID} if len(_approved_identifiers(call, rows)) < 2 else set()
    return {OutcomeKind.DECLINED} if rows and len(codes) == len(rows) and None not in codes else set()


def _approved_identifiers(call: str, rows: list[dict[str, Any]]) -> set[int]:
    """Of the approvals among the rows; what is no number of at most 19 digits is no identifier."""
    approved = [row for row in rows if row.get("statusCode") == "COMPLETED" and _code(call, row) in ("00", "11")]
    texts = {str(row.get("transactionIdentifier")) for row in approved}
    return {int(text) for text in texts if re.fullmatch("[0-9]{1,19}", text)}


def _type(row: Any) -> str:
    value = row.get("transactionType") if isinstance(row, dict) else None
    return " ".join(value.upper().replace("_", " ").split()) if isinstance(value, str) else ""


# --- a status, headers, a body ------------------------------------------------------------------------------------


def _reply(data: bytes) -> None:
    """A byte for the status, lines of headers, an empty line, the body: judged as the answer to every kind of call."""
    if not data:
        return
    exchange, body = answered(data)
    for call, judges in JUDGES.items():
        check_outcome(call, exchange, body, judges(exchange))


def answered(data: bytes) -> tuple[Answered, bytes]:
    """An input, a byte for the status, lines of headers, an empty line and the body, as the client hands it over."""
    head, _, body = data[1:].partition(b"\n\n")
    headers = _headers(head)
    value, problem = read_body(body, None)
    exchange = Answered(
        status=STATUSES[data[0] % len(STATUSES)],
        headers=_headers_kept(headers),
        body=value,
        body_problem=problem,
        visa_correlation_id=_correlation_id(headers),
    )
    return exchange, body


def _headers(head: bytes) -> httpx.Headers:
    lines = [line.partition(b":") for line in head.split(b"\n") if b":" in line]
    return httpx.Headers([(name.strip(), value.strip()) for name, _, value in lines])


_APPROVED: Final[Mapping[str, Any]] = {
    "transactionIdentifier": 587010322176105, "actionCode": "00", "approvalCode": "20304B", "responseCode": "5",
}  # fmt: skip
_ROW: Final[Mapping[str, Any]] = {
    "transactionIdentifier": 587010322176105, "actionCode": "00", "approvalCode": "20304B", "statusCode": "COMPLETED",
    "transactionType": "CRED VOUCHER", "amount": "25.00", "transactionCurrencyCode": "840",
    "systemsTraceAuditNumber": "451017", "retrievalReferenceNumber": "606011451018", "originalActionCode": None,
}  # fmt: skip
_BODIES: Final[tuple[Any, ...]] = (
    _APPROVED,
    {**_APPROVED, "actionCode": "94", "originalActionCode": "00"},
    {**_APPROVED, "actionCode": "05"},
    {"statusIdentifier": "1763_VDP_WS"},
    "1763_VDP_WS",
    {"responseStatus": {"status": 400, "code": "3001", "severity": "ERROR", "message": "x", "info": ""}},
    {"errorResponse": {"status": 404, "reason": "9125", "correlationId": "x"}},
    [],
    [_ROW],
    [{**_ROW, "transactionType": "SALES DRAFT"}, {**_ROW, "transactionType": "SALES REVERSAL"}],
    [{**_ROW, "statusCode": "IN_PROGRESS"}, {**_ROW, "actionCode": "94", "originalActionCode": "11"}],
    [{**_ROW, "actionCode": "05", "amount": 25.0, "transactionCurrencyCode": "USD"}],
    [{**_ROW, "transactionIdentifier": 1}, {**_ROW, "transactionIdentifier": 2}],
)
_HEADERS: Final = (
    b"x-correlation-id: 1763_VDP_WS\nretry-after: 120\ndate: Sun, 01 Mar 2026 12:00:00 GMT",
    b"location: /visadirect/v1/status/1763_VDP_WS\nretry-after: Sun, 01 Mar 2026 13:00:00 GMT",
    b"link: </status/1763_VDP_WS>; rel=\"status\"\nx-pagination: true",
    b"",
)  # fmt: skip


def _reply_seeds() -> Iterator[bytes]:
    for place, body in enumerate(_BODIES):
        for status in (0, 1, 4, 7, 11):
            yield bytes([status]) + _HEADERS[place % len(_HEADERS)] + b"\n\n" + json.dumps(body).encode()
    yield b"\x00\n\n" + b'{"actionCode":"05","actionCode":"00"}'
    yield b"\x00\n\n" + b"[" * 200
    yield b"\x01\n\n" + CARDS[0].encode()


def change_reply(data: bytes, random: Random) -> bytes:
    """A header more, or another body."""
    head, separator, body = data.partition(b"\n\n")
    if random.random() < 0.2:
        name = random.choice((b"location", b"link", b"retry-after", b"date", b"x-pagination", b"x-correlation-id"))
        text = hostile_text(random).encode("utf-8", "replace")
        return head + b"\n" + name + b": " + random.choice((b"", b"/status/", b"<")) + text + separator + body
    try:
        return head + separator + json.dumps(change_json(json.loads(body), random)).encode()
    except (ValueError, RecursionError):
        return data


# --- bytes on the connection --------------------------------------------------------------------------------------

_REQUEST: Final = push_funds_again(b'{"amount":25.00}', payout_id="payout-0001", correlation_id="corr-1")


@functools.cache
def _client() -> VisaDirectClient:
    with tempfile.TemporaryDirectory(prefix="payout-fuzz-") as folder:
        pki = make_pki(Path(folder))
        return VisaDirectClient(
            VisaConnection(
                base_url="https://127.0.0.1:1",
                user_id="user-1",
                password=Secret("basic-pass-word"),
                client_certificate_path=pki.path("client.pem"),
                client_key_path=pki.path("client.key"),
                ca_path=pki.path("ca.pem"),
                largest_reply_bytes=2_048,
            )
        )


class _Wire(asyncio.Transport):
    """Takes a request, and gives the input's bytes for an answer, then the end."""

    def __init__(self, protocol: asyncio.Protocol, pieces: list[bytes]) -> None:
        super().__init__()
        self._protocol = protocol
        self._pieces = pieces
        self._written = self._closed = False
        protocol.connection_made(self)

    def write(self, _: Any) -> None:
        if not self._written:
            self._written = True
            self._next()

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def _next(self) -> None:
        asyncio.get_running_loop().call_soon(self._feed)

    def _feed(self) -> None:
        if self._closed:
            return
        if not self._pieces:
            self.close()
            return
        self._protocol.data_received(self._pieces.pop(0))
        self._next()


def _http(data: bytes) -> None:
    """The first byte says where the bytes are cut in two; the rest is what comes back over the connection."""
    if not data:
        return
    cut = len(data) * data[0] // 256
    pieces = [piece for piece in (data[1:cut], data[max(1, cut) :]) if piece]
    exchange = loop().run(_exchange(pieces))
    if isinstance(exchange, Failed):
        check(exchange.bytes_sent, "the request was written, and is called not sent")
    for call, judges in JUDGES.items():
        outcome = judges(exchange)
        paid_or_declined = outcome.kind in (OutcomeKind.PAID, OutcomeKind.DECLINED)
        check(not paid_or_declined or b"actionCode" in data or b"\\u" in data, f"{call} ends without an action code")
        check_texts(outcome)


async def _exchange(pieces: list[bytes]) -> Exchange:
    client = _client()
    transport: Any = client._client._transport
    # The session and its connector are the real ones; only what they take for a network gives the input's bytes.
    transport._session = session = transport._new_session()
    connector = session.connector

    async def connected(*_: Any) -> asyncio.Protocol:
        protocol: asyncio.Protocol = connector._factory()
        _Wire(protocol, pieces)
        return protocol

    connector._create_connection = connected
    try:
        return await client.send(_REQUEST, Deadline.after(30.0))
    finally:
        await session.close()


def _http_seeds() -> Iterator[bytes]:
    for place, body in enumerate(_BODIES):
        content = json.dumps(body).encode()
        head = _HEADERS[place % len(_HEADERS)].replace(b"\n", b"\r\n")
        status = STATUSES[place % len(STATUSES)]
        start = b"\x40HTTP/1.1 %d X\r\n" % status + (head + b"\r\n" if head else b"")
        yield start + b"content-length: %d\r\n\r\n" % len(content) + content
        yield start + b"\r\n" + content
        yield start + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    yield b"\x00HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b"
    yield b"\x80HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


TARGETS: Final = (
    Target(
        "visa_reply",
        "status, headers and body of every kind of call, query rows too",
        _reply,
        _reply_seeds,
        change_reply,
    ),
    Target("visa_http", "bytes on Visa's connection, through the whole client", _http, _http_seeds),
)
