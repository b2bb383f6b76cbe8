"""Calls a second, latency and CPU a call of the Visa client over mutual TLS and message encryption, without Kafka.

    python -m bench.visa_client [--in-flight 1,10,100,500] [--seconds 5] [--output table|json]

Three ways to make the same push: `client` is the product's; `aiohttp` is bare aiohttp with the same encryption and
JSON; `httpx pool` is httpx on its own pool. Two servers, each in a process of its own: `stand-in`, which decrypts,
books and encrypts, and on two cores is what limits; and `canned`, which answers at once and always the same, so that
the client limits. CPU is this process's alone. Every answer must be an approval.

Then the CPU of one call of `client` at 100 in flight, split: JSON (build and read), JWE (encrypt and decrypt) and TLS
(the records of one request and one answer) are each measured by themselves; HTTP is the rest: httpx, aiohttp, the event
loop and what is ours. `of_aiohttp` is the share of bare aiohttp's calls a second, on the same server with as many in
flight: machines differ, so only such shares of one run can be compared. Asserts nothing.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from processors.secrets import CardNumber, Secret
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered
from processors.visa.identity import identity_from_sequence
from processors.visa.mle import DecryptionKey, MessageEncryption
from processors.visa.reply_body import read_body
from processors.visa.requests import CardAcceptor, Party, Recipient, SubmissionProfile, VisaRequest, push_funds
from processors.visa.transport import VisaConnection, VisaDirectClient, _tls_context
from sandbox.servers.visa_stand_in import VisaStandIn

LONGEST_CALL_SECONDS: Final = 60.0
SPLIT_IN_FLIGHT: Final = 100
HEAD_BYTES: Final = 500
"""About what a head of ours and of Visa's has."""
ALONE: Final = 300
"""How often a step is measured by itself."""
OUTPUT_COLUMNS: Final = 110
CARD: Final = "4957030420210462"
PROFILE: Final = SubmissionProfile(
    acquiring_bin="408999",
    acquirer_country_code="840",
    merchant_category_code="6012",
    card_acceptor=CardAcceptor(
        name="Payouts Inc", id_code="PAYOUTS01", terminal_id="PAYOUT01", country="US", city="Foster City", state="CA",
        county="San Mateo", zip_code="94404",
    ),
)  # fmt: skip
SENDER: Final = Party(
    name="Payouts Inc", address_line="1 Market St", city="Foster City", state_code="CA", postal_code="94404",
    country_code="US",
)  # fmt: skip
APPROVAL: Final = {
    "transactionIdentifier": 587010322176105, "actionCode": "00", "approvalCode": "20304B", "responseCode": "5",
    "transmissionDateTime": "2026-03-01T12:00:00.000Z", "retrievalReferenceNumber": "606012451018",
    "merchantCategoryCode": 6012, "cardAcceptor": {"name": "Payouts Inc", "idCode": "PAYOUTS01"},
}  # fmt: skip

Call = Callable[[VisaRequest], Awaitable[object]]
"""Makes the call and gives the answer's JSON."""
Client = Callable[["Server", int], contextlib.AbstractAsyncContextManager[Call]]
"""Of a server and calls in flight."""
_numbers = itertools.count()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.visa_client", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--in-flight", type=_numbers_in, default=[1, 10, 100, 500], help="calls at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="payouts-bench-") as name:
        figures, split = uvloop.run(_measure(Path(name), options.in_flight, options.seconds))
    if options.output == "json":
        sys.stdout.write(json.dumps({"calls": figures, "cpu_ms_a_call": split}, indent=1) + "\n")
    else:
        _print(figures, split)
    return 0


def _numbers_in(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def push(number: int) -> VisaRequest:
    """The same payment under numbers of its own."""
    return push_funds(
        PROFILE,
        identity_from_sequence(number, datetime.now(UTC)),
        payout_id=f"bench-{number:09}",
        amount="25.00",
        currency="USD",
        sender=SENDER,
        recipient=Recipient(
            party=Party(name="Maria Example", country_code="US"), card=CardNumber(CARD), card_expiry="2031-12"
        ),
        sender_reference=f"B{number:015}",
    )


# --- servers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """Where one is, and the settings of its clients."""

    name: str
    url: str
    environment: Mapping[str, str]

    def path(self, variable: str) -> Path:
        return Path(self.environment[variable])

    @functools.cached_property
    def encryption(self) -> MessageEncryption:
        key_id = self.environment["VISA_MLE_KEY_ID"]
        private_key = Secret(self.path("VISA_MLE_PRIVATE_KEY_PATH").read_text())
        return MessageEncryption(
            key_id=key_id,
            server_certificate_pem=self.path("VISA_MLE_SERVER_CERTIFICATE_PATH").read_bytes(),
            decryption_keys=[DecryptionKey(key_id, private_key)],
        )

    def connection(self, in_flight: int) -> VisaConnection:
        return VisaConnection(
            base_url=self.url,
            user_id=self.environment["VISA_USER_ID"],
            password=Secret(self.environment["VISA_PASSWORD"]),
            client_certificate_path=self.path("VISA_CERT_PATH"),
            client_key_path=self.path("VISA_KEY_PATH"),
            ca_path=self.path("VISA_CA_PATH"),
            encryption=self.encryption,
            connect_timeout_seconds=LONGEST_CALL_SECONDS,
            read_timeout_seconds=LONGEST_CALL_SECONDS,
            pool_timeout_seconds=LONGEST_CALL_SECONDS,
            total_timeout_seconds=LONGEST_CALL_SECONDS,
            max_connections=in_flight,
        )


def _sealed_answer(credentials: Path, key_id: str) -> bytes:
    """What Visa would answer: an approval encrypted to us."""
    visas = MessageEncryption(
        key_id=key_id,
        server_certificate_pem=(credentials / "mle_client_certificate.pem").read_bytes(),
        decryption_keys=[DecryptionKey("server", Secret((credentials / "mle_server_private_key.pem").read_text()))],
    )
    return visas.encrypt(json.dumps(APPROVAL).encode())


@contextlib.contextmanager
def _canned(directory: Path, credentials: Path, environment: Mapping[str, str], body: bytes) -> Iterator[Server]:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = directory / "answer"
    answer.write_bytes(head.encode() + body)
    command = [sys.executable, "-m", "bench.canned_visa", str(credentials), str(answer)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Server("canned", f"https://127.0.0.1:{int(process.stdout.readline())}", environment)
        finally:
            process.stdin.close()


# --- clients ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def product_client(server: Server, in_flight: int) -> AsyncIterator[Call]:
    """What a worker has."""
    async with VisaDirectClient(server.connection(in_flight)) as client:

        async def call(request: VisaRequest) -> object:
            exchange = await client.send(request, Deadline.after(LONGEST_CALL_SECONDS))
            assert isinstance(exchange, Answered), exchange
            return exchange.body

        yield call


@contextlib.asynccontextmanager
async def bare_aiohttp(server: Server, in_flight: int) -> AsyncIterator[Call]:
    """No httpx, no deadline, no care."""
    connection = server.connection(in_flight)
    connector = aiohttp.TCPConnector(ssl=_tls_context(connection), limit=in_flight)
    credentials = aiohttp.encode_basic_auth(connection.user_id, connection.password.reveal())
    headers = {"Authorization": credentials, "Accept": "application/json", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(server.url, connector=connector, headers=headers) as session:

        async def call(request: VisaRequest) -> object:
            body = server.encryption.encrypt(request.body or b"")
            async with session.post(request.path, data=body, headers=_headers(server, request)) as response:
                content = await response.read()
            return read_body(content, server.encryption.decrypt)[0]

        yield call


@contextlib.asynccontextmanager
async def httpx_pool(server: Server, in_flight: int) -> AsyncIterator[Call]:
    """httpx as it comes."""
    connection = server.connection(in_flight)
    transport = httpx.AsyncHTTPTransport(
        verify=_tls_context(connection),
        limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
    )
    async with httpx.AsyncClient(
        base_url=server.url,
        transport=transport,
        auth=httpx.BasicAuth(connection.user_id, connection.password.reveal()),
        headers={"Accept": "application/json", "Content-Type": "application/json"},
        timeout=LONGEST_CALL_SECONDS,
    ) as client:

        async def call(request: VisaRequest) -> object:
            body = server.encryption.encrypt(request.body or b"")
            response = await client.post(request.path, content=body, headers=_headers(server, request))
            return read_body(response.content, server.encryption.decrypt)[0]

        yield call


def _headers(server: Server, request: VisaRequest) -> dict[str, str]:
    identifier = request.client_transaction_id or ""
    return {"X-Client-Transaction-ID": identifier, "keyId": server.encryption.key_id}


CLIENTS: Final[Mapping[str, Client]] = {"client": product_client, "aiohttp": bare_aiohttp, "httpx pool": httpx_pool}


# --- measuring ----------------------------------------------------------------------------------------------------


async def _measure(
    directory: Path, levels: Sequence[int], seconds: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    figures: list[dict[str, Any]] = []
    stand_in = VisaStandIn(directory / "visa")
    stand_in.start()
    try:
        environment = stand_in.environment()
        credentials = directory / "visa" / "credentials"
        answer = _sealed_answer(credentials, environment["VISA_MLE_KEY_ID"])
        with _canned(directory, credentials, environment, answer) as canned:
            real = Server("stand-in", stand_in.base_url, environment)
            for server, in_flight in itertools.product((real, canned), levels):
                for name, client in CLIENTS.items():
                    figure = await _load(client, server, in_flight, seconds)
                    figures.append({"server": server.name, "client": name, "in_flight": in_flight, **figure})
            split = await _split(canned, credentials, answer, seconds)
    finally:
        stand_in.stop()
    return with_shares(figures), split


def with_shares(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each figure with its share of bare aiohttp's calls a second in the same run; None where that was not measured."""
    bare = {(one["server"], one["in_flight"]): one["calls_per_second"] for one in figures if one["client"] == "aiohttp"}

    def share(one: Mapping[str, Any]) -> float | None:
        best = bare.get((one["server"], one["in_flight"]))
        return round(one["calls_per_second"] / best, 2) if best else None

    return [{**one, "of_aiohttp": share(one)} for one in figures]


async def _load(client: Client, server: Server, in_flight: int, seconds: float) -> dict[str, float]:
    """`in_flight` callers, each with its next call as soon as it has an answer; connecting is not counted."""
    took: list[float] = []
    async with client(server, in_flight) as call:

        async def caller() -> None:
            while (started := time.perf_counter()) - begun < seconds:
                await _approved(call)
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(_approved(call) for _ in range(in_flight)))
        begun, cpu_begun = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    percentiles = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
    return {
        "calls": len(took),
        "calls_per_second": round(len(took) / wall, 1),
        "p50_ms": round(percentiles[49] * 1000, 1),
        "p99_ms": round(percentiles[98] * 1000, 1),
        "cpu_ms_a_call": round(cpu * 1000 / len(took), 3),
    }


async def _approved(call: Call) -> None:
    body = await call(push(next(_numbers)))
    assert isinstance(body, dict)
    assert body["actionCode"] == "00", "not an approval"


async def _split(canned: Server, credentials: Path, answer: bytes, seconds: float) -> dict[str, float]:
    whole = (await _load(product_client, canned, SPLIT_IN_FLIGHT, seconds))["cpu_ms_a_call"]
    encryption = canned.encryption
    body = push(next(_numbers)).body or b""
    sealed = json.loads(answer)["encData"]
    opened = encryption.decrypt(sealed)
    split = {
        "JSON": _alone(lambda: push(next(_numbers))) + _alone(lambda: read_body(answer, lambda _: opened)),
        "JWE": _alone(lambda: encryption.encrypt(body)) + _alone(lambda: encryption.decrypt(sealed)),
        "TLS": _tls_alone(canned, credentials, len(encryption.encrypt(body)) + HEAD_BYTES, len(answer) + HEAD_BYTES),
    }
    split["HTTP"] = whole - sum(split.values())
    return {"whole": whole, **{name: round(milliseconds, 3) for name, milliseconds in split.items()}}


def _tls_alone(canned: Server, credentials: Path, sent_bytes: int, received_bytes: int) -> float:
    """CPU of encrypting one request and decrypting one answer on a connection that is there, in milliseconds."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(credentials / "server_certificate.pem", credentials / "server_key.pem")
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = _tls_context(canned.connection(1)).wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    request, answer = bytes(sent_bytes), bytes(received_bytes)
    sent = _alone(lambda: (client.write(request), to_server.read()))
    records = []
    for _ in range(ALONE):
        server.write(answer)
        records.append(to_client.read())
    ordered = iter(records)
    return sent + _alone(lambda: (to_client.write(next(ordered)), client.read(received_bytes)))


def _alone(step: Callable[[], object]) -> float:
    """CPU of one step in milliseconds."""
    begun = time.process_time()
    for _ in range(ALONE):
        step()
    return (time.process_time() - begun) * 1000 / ALONE


def _print(figures: Sequence[Mapping[str, Any]], split: Mapping[str, float]) -> None:
    console = Console(width=OUTPUT_COLUMNS)
    table = Table()
    for name in figures[0]:
        table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_row(*map(str, figure.values()))
    console.print(table)
    parts = Table(title=f"CPU of a call in ms, {SPLIT_IN_FLIGHT} in flight, canned")
    for name in split:
        parts.add_column(name)
    parts.add_row(*map(str, split.values()))
    console.print(parts)


if __name__ == "__main__":
    sys.exit(main())
