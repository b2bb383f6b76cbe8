"""Keys and certificates that are renewed while calls are in flight, as a client of Visa meets it (B5, S0-05, S0-06)."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.visa_direct.credentials import make_credentials, renew_server_pair
from tests.contract.visa_direct.visa_direct_client import (
    HELLO,
    JWKS,
    LONG_SECONDS,
    VisaClient,
    eventually,
    push_body,
)

Start = Callable[..., Awaitable[VisaClient]]
REFUSED = (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)


async def admin(visa: VisaClient, method: str, path: str, status: int, **more: Any) -> Any:
    response = await visa.admin.request(method, path, **more)
    assert response.status_code == status, response.text
    return response.json()


@contextlib.asynccontextmanager
async def with_key(visa: VisaClient, issued: dict[str, str]) -> AsyncIterator[VisaClient]:
    """A second client, as the first but with the key id issued."""
    directory = visa.directory.parent / f"with-{issued['key_id']}"
    shutil.copytree(visa.directory, directory)
    shutil.copytree(issued["directory"], directory, dirs_exist_ok=True)
    words = json.loads((directory / "credentials.json").read_bytes()) | {"mle_key_id": issued["key_id"]}
    (directory / "credentials.json").write_text(json.dumps(words))
    client = VisaClient(visa.base_url, visa.admin_url, directory)
    client.now = visa.now
    try:
        yield client
    finally:
        await client.close()


async def answered_kid(visa: VisaClient, number: int) -> Any:
    response = await visa.visa.post(
        "/visadirect/fundstransfer/v1/pushfundstransactions",
        content=visa.encrypt(json.dumps(push_body(number)).encode()),
        headers=visa.headers(),
    )
    assert response.status_code == 200, response.text
    token = response.json()["encData"].split(".")[0]
    return json.loads(base64.urlsafe_b64decode(token + "=="))["kid"]


def shown_certificate(base_url: str) -> int:
    """The serial number that the server shows to whoever knocks."""
    url = httpx.URL(base_url)
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((url.host, url.port or 0)).encode()).serial_number


def certificate_in(directory: str | Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((Path(directory) / "client_certificate.pem").read_bytes())


async def test_two_key_ids_are_accepted_while_one_follows_the_other(visa: VisaClient) -> None:
    """B5: during a rotation requests under either key id are opened, each answered under its own; then one is left."""
    issued = await admin(visa, "POST", "/sandbox/keys/mle", 201)
    async with with_key(visa, issued) as renewed:
        assert await answered_kid(visa, 1) == visa.key_id
        assert await answered_kid(renewed, 2) == renewed.key_id
        assert (await renewed.push(push_body(3))).body["actionCode"] == "00"
        assert (await renewed.query(push_body(1))).body[0]["actionCode"] == "00"
        await admin(visa, "DELETE", f"/sandbox/keys/mle/{visa.key_id}", 200)
        retired = await visa.push(push_body(4))
        assert (retired.status, retired.code) == (400, "9125")
        assert (await renewed.push(push_body(4))).body["actionCode"] == "00"
    assert len(await visa.entries()) == 4


async def test_answers_can_come_with_the_retiring_key(visa: VisaClient) -> None:
    """B5: Visa may still close answers with the old key when the new one is in use; or already with the new."""
    issued = await admin(visa, "POST", "/sandbox/keys/mle", 201)
    async with with_key(visa, issued) as renewed:
        await admin(visa, "PUT", "/sandbox/keys", 200, json={"answers_with": visa.key_id})
        assert await answered_kid(renewed, 1) == visa.key_id
        await admin(visa, "PUT", "/sandbox/keys", 200, json={"answers_with": renewed.key_id})
        assert await answered_kid(visa, 2) == renewed.key_id
        await admin(visa, "PUT", "/sandbox/keys", 200, json={"answers_with": None})
        assert await answered_kid(visa, 3) == visa.key_id


async def test_a_body_must_name_the_key_of_its_header(visa: VisaClient) -> None:
    """MLE: kid and keyId are the same, also when both are known."""
    issued = await admin(visa, "POST", "/sandbox/keys/mle", 201)
    content = visa.encrypt(json.dumps(push_body()).encode(), kid=issued["key_id"])
    response = await visa.visa.post(
        "/visadirect/fundstransfer/v1/pushfundstransactions", content=content, headers=visa.headers()
    )
    assert (response.status_code, visa.answer(response).code) == (400, "9125")


async def test_a_call_in_flight_is_answered_although_its_key_is_retired(start: Start) -> None:
    """S0-05: no call in flight is lost by a swap."""
    visa = await start(latency_seconds=LONG_SECONDS)
    await admin(visa, "POST", "/sandbox/keys/mle", 201)
    calls = [asyncio.create_task(visa.push(push_body(number))) for number in range(10)]

    async def all_in_flight() -> bool:
        return bool((await visa.admin.get("/sandbox/health")).json()["in_flight"] == len(calls))

    await eventually(all_in_flight)
    await admin(visa, "DELETE", f"/sandbox/keys/mle/{visa.key_id}", 200)
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    answers = [answer for answer in await asyncio.gather(*calls) if answer.encrypted]
    assert len(answers) == len(calls)
    assert {answer.body["actionCode"] for answer in answers} == {"00"}


async def test_the_jwk_set_has_every_key_id_newest_first(visa: VisaClient) -> None:
    """B5, S1-13: the set names each server key by kid, with its certificate; no password is needed."""
    issued = await admin(visa, "POST", "/sandbox/keys/mle", 201)
    response = await visa.visa.get(JWKS, auth=None)
    keys = response.raise_for_status().json()["keys"]
    assert [key["kid"] for key in keys] == [issued["key_id"], visa.key_id]
    for key in keys:
        assert key.keys() == {"kty", "n", "e", "kid", "use", "alg", "x5c"}
        assert (key["kty"], key["use"], key["alg"]) == ("RSA", "enc", "RSA-OAEP-256")
    certificate = x509.load_der_x509_certificate(base64.b64decode(keys[1]["x5c"][0]))
    ours = x509.load_pem_x509_certificate((visa.directory / "mle_server_certificate.pem").read_bytes())
    assert certificate == ours


async def test_the_jwk_set_can_fail(visa: VisaClient) -> None:
    """B5: a set that is away, is a web page or holds other keys."""
    await visa.faults({"operation": "jwks", "fault": "503", "times": 1}, {"operation": "jwks", "fault": "web_page"})
    assert (await visa.visa.get(JWKS)).status_code == 503
    page = await visa.visa.get(JWKS)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    await visa.faults({"operation": "jwks", "fault": "other_key_ids"})
    assert [key["kid"] for key in (await visa.visa.get(JWKS)).json()["keys"]] == ["other-0"]
    await visa.faults({"operation": "jwks", "fault": "refuse"})
    with pytest.raises(REFUSED):
        await visa.visa.get(JWKS)
    refused = await visa.admin.put(
        "/sandbox/faults", json={"rules": [{"operation": "jwks", "fault": "503", "sender_reference": "R1"}]}
    )
    assert refused.status_code == 400


async def test_the_server_certificate_is_renewed_under_calls_in_flight(start: Start) -> None:
    """S0-05: new connections see the new certificate, none is refused, what is in flight is answered."""
    visa = await start(latency_seconds=LONG_SECONDS)
    before = shown = await asyncio.to_thread(shown_certificate, visa.base_url)
    calls = [asyncio.create_task(visa.push(push_body(number))) for number in range(10)]
    await eventually(visa.busy)
    for _ in range(3):
        await admin(visa, "POST", "/sandbox/keys/server", 200)
        assert shown != (shown := await asyncio.to_thread(shown_certificate, visa.base_url))
    await visa.knobs(clock_ahead_seconds=LONG_SECONDS)
    answers = await asyncio.gather(*calls)
    assert {answer.body["actionCode"] for answer in answers} == {"00"}
    assert shown != before


async def test_renewals_at_once_end_with_the_last_certificate(visa: VisaClient) -> None:
    """S0-05: two reloads at the same time leave one open port that shows what is on disk."""
    await asyncio.gather(*(admin(visa, "POST", "/sandbox/keys/reload", 200) for _ in range(5)))
    await asyncio.gather(*(admin(visa, "POST", "/sandbox/keys/server", 200) for _ in range(3)))
    on_disk = x509.load_pem_x509_certificate((visa.directory.parent / "server_certificate.pem").read_bytes())
    assert await asyncio.to_thread(shown_certificate, visa.base_url) == on_disk.serial_number
    assert (await visa.push(push_body())).status == 200


async def test_a_client_certificate_is_followed_by_another_and_revoked(visa: VisaClient) -> None:
    """S0-05, S0-06: both are taken for a time; the revoked one is refused, on connections that are open too."""
    serial = certificate_in(visa.directory).serial_number
    issued = await admin(visa, "POST", "/sandbox/keys/client", 201)
    context = visa.tls(with_certificate=False)
    context.load_cert_chain(
        Path(issued["directory"]) / "client_certificate.pem", Path(issued["directory"]) / "client_key.pem"
    )
    async with httpx.AsyncClient(base_url=visa.base_url, verify=context, auth=visa.basic, trust_env=False) as renewed:
        assert (await visa.visa.get(HELLO)).status_code == 200
        assert (await renewed.get(HELLO)).status_code == 200
        state = await admin(visa, "DELETE", f"/sandbox/keys/client/{serial:x}", 200)
        assert state["revoked_serials"] == [f"{serial:x}"]
        with pytest.raises(REFUSED):
            await visa.visa.get(HELLO)
        assert (await renewed.get(HELLO)).status_code == 200


async def test_a_client_certificate_can_end_soon(visa: VisaClient) -> None:
    """S0-07: something to warn about."""
    issued = await admin(visa, "POST", "/sandbox/keys/client", 201, json={"valid_seconds": 3600})
    certificate = certificate_in(issued["directory"])
    validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert validity.total_seconds() == 2 * 3600  # an hour of it lies behind, for clocks that differ


IMPOSSIBLE = [
    ("PUT", "/sandbox/keys", {"answers_with": "nobody"}, 409),
    ("PUT", "/sandbox/keys", {"answers_with": 5}, 400),
    ("PUT", "/sandbox/keys", {"answer_with": None}, 400),
    ("DELETE", "/sandbox/keys/mle/nobody", None, 409),
    ("DELETE", "/sandbox/keys/client/xyz", None, 409),
    ("POST", "/sandbox/keys/client", {"valid_seconds": 0}, 400),
    ("POST", "/sandbox/keys/client", {"valid_seconds": "soon"}, 400),
]


async def test_what_is_not_possible_is_refused_and_changes_nothing(visa: VisaClient) -> None:
    """The only key id is not retired; what nobody issued is not chosen."""
    before = (await visa.admin.get("/sandbox/keys")).json()
    for method, path, body, status in IMPOSSIBLE:
        await admin(visa, method, path, status, json=body)
    await admin(visa, "DELETE", f"/sandbox/keys/mle/{visa.key_id}", 409)
    assert (await visa.admin.get("/sandbox/keys")).json() == before
    for _ in range(3):
        await admin(visa, "POST", "/sandbox/keys/mle", 201)
    await admin(visa, "POST", "/sandbox/keys/mle", 409)


async def test_what_is_in_force_survives_a_restart(start: Start, with_credentials: Path) -> None:
    """A stand-in that is killed in the middle of a rotation goes on with the same keys."""
    from sandbox.visa_direct.server import running
    from sandbox.visa_direct.settings import Settings

    async with running(Settings(state_directory=with_credentials)) as endpoint:
        first = VisaClient(endpoint.base_url, endpoint.admin_url, endpoint.credentials.client_directory)
        issued = await admin(first, "POST", "/sandbox/keys/mle", 201)
        await admin(first, "DELETE", f"/sandbox/keys/mle/{first.key_id}", 200)
        await first.close()
    visa = await start()
    assert (await visa.push(push_body(1))).status == 400
    async with with_key(visa, issued) as renewed:
        assert (await renewed.push(push_body(1))).body["actionCode"] == "00"


def test_sighup_reads_the_certificates_again(tmp_path: Path) -> None:
    """S0-05: SIGHUP is enough; files that do not fit change nothing and end nothing."""
    stand_in = VisaStandIn(tmp_path / "visa")
    stand_in.start()
    try:
        credentials = make_credentials(tmp_path / "visa" / "credentials")
        before = shown_certificate(stand_in.base_url)
        renew_server_pair(credentials)
        renewed = x509.load_pem_x509_certificate(credentials.path("server_certificate.pem").read_bytes())
        os.kill(stand_in.process_id, signal.SIGHUP)
        asyncio.run(eventually(lambda: _shows(stand_in.base_url, renewed.serial_number)))
        assert renewed.serial_number != before
        shutil.copy(credentials.path("ca_key.pem"), credentials.path("server_key.pem"))
        os.kill(stand_in.process_id, signal.SIGHUP)
        asyncio.run(eventually(lambda: _says(tmp_path / "visa" / "visa.log")))
        assert shown_certificate(stand_in.base_url) == renewed.serial_number
    finally:
        stand_in.stop()


async def _shows(base_url: str, serial: int) -> bool:
    return await asyncio.to_thread(shown_certificate, base_url) == serial


async def _says(log: Path) -> bool:
    return "cannot be used" in await asyncio.to_thread(log.read_text)
