"""S0-04, S0-05, S0-06, S1-08: the connection to Visa is exchanged under calls in flight, or it is not exchanged."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from processors.secrets import Secret
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.mle import ENCRYPTED_MEMBER, MOST_DECRYPTION_KEYS, DecryptionKey, MessageEncryption
from processors.visa.probe import GREETING, GREETING_PATH
from processors.visa.requests import VISA_PATHS, VisaRequest, push_funds_again
from processors.visa.transport import VisaConnection, VisaDirectClient
from streams.visa_client import REFUSED_IN_A_ROW, ClientSource, ReloadResult, VisaClient, probe_of
from tests.unit.visa.visa_testbed import MlePair, Pki, Received, make_pki, mle_pair, read_request, reply, tls_server

BIN = "408999"
PLENTY_SECONDS = 240.0
"""Longer than 400 handshakes and encryptions take on a busy machine: how long they take is no promise."""
IN_FLIGHT = 200
APPROVED = b'{"actionCode":"00","transactionIdentifier":587010322176105}'
OK = Answered(200, body={"actionCode": "00"})
NOT_FOUND = Answered(404)
INVALID = Answered(400, body={"responseStatus": {"code": "3001"}})


def push(number: int) -> VisaRequest:
    return push_funds_again(b'{"amount":1}', payout_id=f"payout-{number:04}", correlation_id=f"corr-{number}")


# --- with TLS and message encryption ------------------------------------------------------------------------------


@dataclass
class PlayedVisa:
    """Answers greetings and questions at once, pushes when it is let go; encrypted to the key that `keyId` names."""

    server: MlePair
    ours: dict[str, MlePair]
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    wait_for: int = IN_FLIGHT
    pushes: Counter[str] = field(default_factory=Counter)
    seen: list[tuple[str, str]] = field(default_factory=list)
    """(certificate's common name, keyId) of each push."""

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: Received) -> None:
        subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])["commonName"]
        while request := await read_request(reader, received):
            head, _, body = request.partition(b"\r\n\r\n")
            line, *headers = head.decode().split("\r\n")
            named = {name.lower(): value for name, value in (header.split(": ", 1) for header in headers)}
            writer.write(await self._answer(line, named, body, subject))
            await writer.drain()

    async def _answer(self, line: str, headers: dict[str, str], body: bytes, subject: str) -> bytes:
        if line.startswith(f"GET {GREETING_PATH} "):
            return reply(200, b'{"message":"helloworld"}')
        visa = MessageEncryption(
            key_id=headers["keyid"],
            server_certificate_pem=self.ours[headers["keyid"]].certificate_pem,
            decryption_keys=[DecryptionKey("server", Secret(self.server.private_pem.decode()))],
        )
        if line.startswith("GET "):
            return reply(200, visa.encrypt(b"[]"))
        visa.decrypt(json.loads(body)[ENCRYPTED_MEMBER])
        self.pushes[headers["x-client-transaction-id"]] += 1
        self.seen.append((subject, headers["keyid"]))
        if len(self.seen) == self.wait_for:
            self.arrived.set()
        await self.let_go.wait()
        return reply(200, visa.encrypt(APPROVED))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def pairs() -> dict[str, MlePair]:
    return {name: mle_pair() for name in ("server", "old", "new")}


def connection(pki: Pki, port: int, name: str, encryption: MessageEncryption) -> VisaConnection:
    return VisaConnection(
        base_url=f"https://127.0.0.1:{port}",
        user_id="user-1",
        password=Secret("secret"),
        client_certificate_path=pki.path(f"{name}.pem"),
        client_key_path=pki.path(f"{name}.key"),
        ca_path=pki.path("ca.pem"),
        encryption=encryption,
        connect_timeout_seconds=PLENTY_SECONDS,
        read_timeout_seconds=PLENTY_SECONDS,
        write_timeout_seconds=PLENTY_SECONDS,
        pool_timeout_seconds=PLENTY_SECONDS,
        total_timeout_seconds=PLENTY_SECONDS,
        max_connections=IN_FLIGHT,
    )


def encryption(pairs: dict[str, MlePair], key_id: str, retired: MessageEncryption | None = None) -> MessageEncryption:
    return MessageEncryption(
        key_id=key_id,
        server_certificate_pem=pairs["server"].certificate_pem,
        decryption_keys=[DecryptionKey(key_id, Secret(pairs[key_id].private_pem.decode()))],
        retired=retired,
    )


@pytest.mark.timeout(300)
async def test_a_swap_under_200_calls_in_flight_loses_none_and_sends_none_twice(
    pki: Pki, pairs: dict[str, MlePair]
) -> None:
    """S0-05, B5: certificate and message keys are new for the next call; calls under way end with what they began."""
    visa = PlayedVisa(pairs["server"], {name: pairs[name] for name in ("old", "new")})
    async with tls_server(pki, visa.behave) as (port, _):
        old = encryption(pairs, "old")
        source = ClientSource(VisaDirectClient(connection(pki, port, "client", old)))
        under_way = [
            asyncio.create_task(source.send(push(number), Deadline.after(PLENTY_SECONDS)))
            for number in range(IN_FLIGHT)
        ]
        await asyncio.wait_for(visa.arrived.wait(), PLENTY_SECONDS)
        candidate = VisaDirectClient(connection(pki, port, "other_host", encryption(pairs, "new", retired=old)))
        done = await source.replace(candidate, probe_of(BIN))
        assert (done.result, done.why) == (ReloadResult.SUCCESS, None)
        assert not any(task.done() for task in under_way)
        visa.wait_for = 2 * IN_FLIGHT
        visa.arrived.clear()
        after = [
            asyncio.create_task(source.send(push(number), Deadline.after(PLENTY_SECONDS)))
            for number in range(IN_FLIGHT, 2 * IN_FLIGHT)
        ]
        await asyncio.wait_for(visa.arrived.wait(), PLENTY_SECONDS)
        visa.let_go.set()
        exchanges = await asyncio.gather(*under_way, *after)
        await source.aclose()

    assert [exchange for exchange in exchanges if not is_approval(exchange)] == []
    assert len(visa.pushes) == 2 * IN_FLIGHT
    assert set(visa.pushes.values()) == {1}, "sent once each"
    assert Counter(visa.seen) == {("client", "old"): IN_FLIGHT, ("other_host", "new"): IN_FLIGHT}


async def test_a_new_certificate_that_visa_refuses_is_not_taken(pki: Pki, pairs: dict[str, MlePair]) -> None:
    """S0-04: the probe fails, calls go on over the old connection, and no payout has seen the new one."""
    visa = PlayedVisa(pairs["server"], {"old": pairs["old"]}, wait_for=1)
    visa.let_go.set()
    async with tls_server(pki, visa.behave) as (port, _):
        old = encryption(pairs, "old")
        source = ClientSource(VisaDirectClient(connection(pki, port, "client", old)))
        stranger = VisaDirectClient(connection(pki, port, "stranger_client", old))
        done = await source.replace(stranger, probe_of(BIN))
        exchange = await source.send(push(1), Deadline.after(PLENTY_SECONDS))
        await source.aclose()
    assert done.result is ReloadResult.FAILURE
    assert done.why is not None
    assert done.why.startswith("Visa cannot be reached")
    assert is_approval(exchange)
    assert visa.seen == [("client", "old")]


def is_approval(exchange: Exchange) -> bool:
    return isinstance(exchange, Answered) and exchange.status == 200 and exchange.body_problem is None


# --- message keys -------------------------------------------------------------------------------------------------


def test_answers_to_the_key_before_are_opened_after_a_rotation(pairs: dict[str, MlePair]) -> None:
    """B5: late answers name the retired key; it is tried as long as there is room, the oldest goes first."""
    at_visa = MessageEncryption(
        key_id="old",
        server_certificate_pem=pairs["old"].certificate_pem,
        decryption_keys=[DecryptionKey("server", Secret(pairs["server"].private_pem.decode()))],
    )
    late = json.loads(at_visa.encrypt(b"{}"))[ENCRYPTED_MEMBER]
    chain = encryption(pairs, "old")
    for generation in range(MOST_DECRYPTION_KEYS - 1):
        renewed = {**pairs, f"new-{generation}": pairs["new"]}
        chain = encryption(renewed, f"new-{generation}", retired=chain)
        assert chain.decrypt(late) == b"{}"
        assert chain.decrypts_with[0] == f"new-{generation}"
    assert len(chain.decrypts_with) == MOST_DECRYPTION_KEYS
    again = encryption({**pairs, "last": pairs["server"]}, "last", retired=chain)
    assert "old" not in again.decrypts_with
    assert len(again.decrypts_with) == MOST_DECRYPTION_KEYS


def test_a_pair_renewed_under_the_same_key_id_keeps_both_keys(pairs: dict[str, MlePair]) -> None:
    """B5: the id alone does not tell which of the two an answer needs."""
    old = encryption({**pairs, "same": pairs["old"]}, "same")
    new = encryption({**pairs, "same": pairs["new"]}, "same", retired=old)
    assert new.decrypts_with == ("same", "same")
    for pair in (pairs["old"], pairs["new"]):
        at_visa = MessageEncryption(
            key_id="same",
            server_certificate_pem=pair.certificate_pem,
            decryption_keys=[DecryptionKey("server", Secret(pairs["server"].private_pem.decode()))],
        )
        assert new.decrypt(json.loads(at_visa.encrypt(b"{}"))[ENCRYPTED_MEMBER]) == b"{}"
    assert encryption({**pairs, "same": pairs["new"]}, "same", retired=new).decrypts_with == ("same", "same")


# --- the source itself --------------------------------------------------------------------------------------------


class Scripted:
    """A client that answers as it is told, and says whether it was closed."""

    def __init__(self, answer: Callable[[VisaRequest], Exchange] = lambda _: OK) -> None:
        self.answer = answer
        self.sent: list[VisaRequest] = []
        self.closed = False
        self.hold: asyncio.Event | None = None

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        assert deadline.remaining_seconds() > 0
        assert not self.closed, "a call over a closed connection"
        self.sent.append(request)
        if self.hold is not None:
            await self.hold.wait()
        assert not self.closed, "closed under a call"
        return self.answer(request)

    async def aclose(self) -> None:
        self.closed = True


async def probe_well(_: VisaClient) -> str | None:
    return None


async def send(source: ClientSource, request: VisaRequest) -> Exchange:
    return await source.send(request, Deadline.after(PLENTY_SECONDS))


async def settled() -> None:
    """Let tasks that were started run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_connection_is_closed_when_it_is_not_wanted_and_its_last_call_has_ended() -> None:
    """S0-05: two swaps under one call; going back needs the one before, and nobody needs the one before that."""
    first, second, third = Scripted(), Scripted(), Scripted()
    first.hold = asyncio.Event()
    source = ClientSource(first)
    call = asyncio.create_task(send(source, push(1)))
    await settled()
    for client in (second, third):
        assert (await source.replace(client, probe_well)).result is ReloadResult.SUCCESS
    await settled()
    assert (first.closed, second.closed, third.closed) == (False, False, False)
    first.hold.set()
    assert await call is OK
    await settled()
    assert (first.closed, second.closed, third.closed) == (True, False, False)
    assert (await source.roll_back()).result is ReloadResult.ROLLED_BACK
    await settled()
    assert (source.client, second.closed, third.closed) == (second, False, True)
    assert (await source.roll_back()).result is ReloadResult.FAILURE, "one step back, not two"
    await source.aclose()
    assert second.closed


async def test_what_fails_its_verification_is_undone() -> None:
    """S0-06: probed well, taken, and not well any more: the old one is in use again."""
    asked: list[object] = []

    async def probe(client: VisaClient) -> str | None:
        asked.append(client)
        return None if len(asked) == 1 else "Visa refuses us"

    old, new = Scripted(), Scripted()
    source = ClientSource(old)
    done = await source.replace(new, probe)
    await settled()
    assert (done.result, done.why) == (ReloadResult.ROLLED_BACK, "Visa refuses us")
    assert asked == [new, source], "before the swap the new one, after it what calls use"
    assert (source.client, old.closed, new.closed, source.can_roll_back) == (old, False, True, False)


async def test_a_probe_that_breaks_is_a_probe_that_fails() -> None:
    """S0-04: whatever happens in it, nothing untried is used."""

    async def probe(_: VisaClient) -> str | None:
        raise RuntimeError("broken")

    old, new = Scripted(), Scripted()
    source = ClientSource(old)
    assert (await source.replace(new, probe)).result is ReloadResult.FAILURE
    assert (source.client, new.closed) == (old, True)


@pytest.mark.parametrize(
    ("answers", "returns_after"),
    [
        ([Answered(401)], 1),
        ([Answered(403)], 1),
        ([Answered(400, body={"responseStatus": {"code": "9125"}})], 1),
        ([Answered(200, body_problem=BodyProblem.UNDECRYPTABLE)], 1),
        ([Failed(True, FailureCause.CLIENT_CERTIFICATE_REFUSED)], 1),
        ([INVALID] * REFUSED_IN_A_ROW, REFUSED_IN_A_ROW),
        ([INVALID, Answered(503), INVALID, OK, INVALID, INVALID, INVALID], None),
        ([Answered(503), Failed(True, FailureCause.READ_TIMEOUT), Answered(429)], None),
        ([OK, Answered(401)], None),
    ],
)
async def test_the_first_calls_over_a_new_connection_are_watched(
    answers: Sequence[Exchange], returns_after: int | None
) -> None:
    """S0-06: no probe shows whether Visa can read what we encrypt; the first calls do, and undo the swap."""
    left = list(answers)
    old, new = Scripted(), Scripted(lambda request: left.pop(0) if request.body else NOT_FOUND)
    returned: list[str] = []
    source = ClientSource(old, on_returned=returned.append)
    assert (await source.replace(new, probe_well)).result is ReloadResult.SUCCESS
    for number in range(len(answers)):
        assert (source.client is old) is (returns_after is not None and number >= returns_after)
        await send(source, GREETING)
        await send(source, push(number))
    assert (source.client is old, len(returned)) == ((True, 1) if returns_after else (False, 0))


async def test_a_late_refusal_over_the_old_connection_undoes_nothing() -> None:
    """S0-06: Visa no longer takes the old certificate; that is why there is a new one."""
    old, new = Scripted(lambda _: Answered(401)), Scripted()
    old.hold = asyncio.Event()
    source = ClientSource(old)
    late = asyncio.create_task(send(source, push(1)))
    await settled()
    await source.replace(new, probe_well)
    old.hold.set()
    await late
    assert source.client is new


async def test_two_swaps_at_once_come_one_after_the_other() -> None:
    """S0-05: the second one is probed and taken when the first one stands."""
    first, second, third = Scripted(), Scripted(), Scripted()
    source = ClientSource(first)
    under_way: list[object] = []

    async def probe(client: VisaClient) -> str | None:
        if client is not source:
            under_way.append(client)
            assert len(under_way) == 1
            await settled()
        else:
            under_way.clear()
        return None

    results = await asyncio.gather(source.replace(second, probe), source.replace(third, probe))
    assert [done.result for done in results] == [ReloadResult.SUCCESS] * 2
    await settled()
    assert (source.client, first.closed, second.closed) == (third, True, False)


@pytest.mark.parametrize(
    ("greeting", "question", "problem"),
    [
        (Answered(200), Answered(404), None),
        (Answered(200), Answered(200, body=[]), None),
        (Answered(200), Answered(400, body={"responseStatus": {"code": "3001"}}), None),
        (Answered(401), OK, "refuses our certificate"),
        (Answered(503), OK, "HTTP 503"),
        (Failed(False, FailureCause.CONNECT_FAILED), OK, "CONNECT_FAILED"),
        (Answered(200), Answered(200, body_problem=BodyProblem.UNDECRYPTABLE), "another key than ours"),
        (Answered(200), Answered(400, body={"responseStatus": {"code": "9125"}}), "key id or credentials"),
        (Answered(200), Answered(500), "HTTP 500"),
        (Answered(200), Failed(True, FailureCause.READ_TIMEOUT), "READ_TIMEOUT"),
    ],
)
async def test_the_probe_moves_no_money_and_says_what_is_wrong(
    greeting: Exchange, question: Exchange, problem: str | None
) -> None:
    """S0-04, F-13: a greeting and a question; neither has a body or numbers of ours."""
    client = Scripted(lambda request: greeting if request.path == GREETING_PATH else question)
    found = await probe_of(BIN)(client)
    assert (found is None) if problem is None else (found is not None and problem in found)
    assert {request.method for request in client.sent} == {"GET"}
    assert all(request.body is None and request.client_transaction_id is None for request in client.sent)
    assert {request.path for request in client.sent} <= {GREETING_PATH, VISA_PATHS.transaction_query}
