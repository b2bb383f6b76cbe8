"""The gateway of the stand-in: two-way TLS, Basic, message level encryption, error shapes (design.md 8)."""

import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.contract.visa_direct.visa_direct_client import HELLO, PUSH, QUERY, Answer, VisaClient, push_body

Start = Callable[..., Awaitable[VisaClient]]


async def post_raw(visa: VisaClient, content: bytes, **headers: str) -> Answer:
    return visa.answer(await visa.visa.post(PUSH, content=content, headers=visa.headers(**headers)))


def connecting(visa: VisaClient, context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=visa.base_url, verify=context, auth=visa.basic, trust_env=False)


async def test_hello_world_answers_with_a_timestamp(visa: VisaClient) -> None:
    """Connectivity probe: GET /vdp/helloworld gives 200 and a timestamp, without encryption."""
    response = await visa.visa.get(HELLO)
    assert response.status_code == 200
    assert response.json()["timestamp"]


async def test_a_client_without_certificate_is_refused(visa: VisaClient) -> None:
    """Two-way TLS: no client certificate, no answer; in TLS 1.3 the client learns it after its handshake (S4)."""
    async with connecting(visa, visa.tls(with_certificate=False)) as stranger:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await stranger.get(HELLO)


async def test_a_certificate_of_another_authority_is_refused(visa: VisaClient, tmp_path: Any) -> None:
    """Two-way TLS: a client certificate that this server's CA did not issue is as good as none."""
    from sandbox.visa_direct.credentials import make_credentials

    other = make_credentials(tmp_path / "other").client_directory
    context = visa.tls(with_certificate=False)
    context.load_cert_chain(other / "client_certificate.pem", other / "client_key.pem")
    async with connecting(visa, context) as stranger:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await stranger.get(HELLO)


async def test_tls_below_1_2_is_refused(visa: VisaClient) -> None:
    """TLS 1.2 is the least that is spoken."""
    context = visa.tls()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with connecting(visa, context) as old:
        with pytest.raises(httpx.ConnectError):
            await old.get(HELLO)


async def test_tls_1_2_is_spoken(visa: VisaClient) -> None:
    """A client that knows TLS 1.2 only is served."""
    context = visa.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with connecting(visa, context) as client:
        assert (await client.get(HELLO)).status_code == 200


async def test_missing_basic_credentials_are_401_9123(visa: VisaClient) -> None:
    """No user and password: 401, code 9123."""
    response = await visa.visa.get(HELLO, auth=None, headers={"Authorization": ""})
    assert (response.status_code, visa.answer(response).code) == (401, "9123")


async def test_wrong_basic_credentials_are_401_9124(visa: VisaClient) -> None:
    """A wrong password: 401, code 9124 (Visa's error page)."""
    response = await visa.visa.get(HELLO, auth=(visa.basic[0], "wrong"))
    assert (response.status_code, visa.answer(response).code) == (401, "9124")


async def test_an_error_has_the_gateways_shape_and_is_in_the_clear(visa: VisaClient) -> None:
    """Error body of the gateway: responseStatus with five fields, unencrypted, and its headers."""
    answer = await post_raw(visa, b"{}")
    assert not answer.encrypted
    assert set(answer.body["responseStatus"]) == {"status", "code", "severity", "message", "info"}
    assert answer.body["responseStatus"]["status"] == 400
    assert answer.body["responseStatus"]["severity"] == "ERROR"
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    assert answer.headers["x-app-status"] == "400"
    assert answer.headers["x-error-origin"] == "9200"
    assert answer.headers["cache-control"] == "no-cache, no-store, must-revalidate"


async def test_every_answer_has_a_correlation_id_of_its_own(visa: VisaClient) -> None:
    """X-CORRELATION-ID is on every response, good, bad and unknown."""
    paths = [HELLO, "/nowhere", QUERY]
    seen = [(await visa.visa.get(path)).headers["X-CORRELATION-ID"] for path in paths]
    seen.append((await visa.push(push_body())).headers["X-CORRELATION-ID"])
    assert len(set(seen)) == 4


async def test_a_push_without_key_id_or_encrypted_data_is_400_9125(visa: VisaClient) -> None:
    """MLE on: keyId or encData missing gives 400 and 9125, expected input credential was not present."""
    plain = await post_raw(visa, json.dumps(push_body()).encode())
    assert (plain.status, plain.code) == (400, "9125")
    headers = {name: value for name, value in visa.headers().items() if name != "keyId"}
    keyless = visa.answer(await visa.visa.post(PUSH, content=visa.encrypt(b"{}"), headers=headers))
    assert (keyless.status, keyless.code) == (400, "9125")
    query = visa.answer(await visa.visa.get(QUERY, headers={"Accept": "application/json"}))
    assert (query.status, query.code) == (400, "9125")
    assert await visa.entries() == []


async def test_a_jwe_is_valid_for_two_minutes(visa: VisaClient) -> None:
    """iat is in epoch milliseconds and at most two minutes away, in either direction."""
    plaintext = json.dumps(push_body()).encode()
    for seconds in (-125, 125):
        stale = await post_raw(visa, visa.encrypt(plaintext, iat=int((visa.now() + seconds) * 1000)))
        assert (seconds, stale.status, stale.code) == (seconds, 400, "9125")
    assert await visa.entries() == []
    fresh = await post_raw(visa, visa.encrypt(plaintext, iat=int((visa.now() - 100) * 1000)))
    assert fresh.status == 200


async def test_iat_must_be_a_number_of_milliseconds(visa: VisaClient) -> None:
    """iat is an integer in the protected header; one in seconds is half a century old."""
    for iat in (None, "soon", True, 1.5, int(visa.now())):
        answer = await post_raw(visa, visa.encrypt(json.dumps(push_body()).encode(), iat=iat))
        assert (iat, answer.status) == (iat, 400)


async def test_what_cannot_be_decrypted_is_400_with_a_code_that_can_be_set(start: Start) -> None:
    """Visa's code for an undecryptable body is not public, so it is a setting; no effect follows."""
    visa = await start(mle_error_code="9500")
    own_key = visa.server_key
    visa.server_key = visa.private_key
    content = visa.encrypt(json.dumps(push_body()).encode())
    visa.server_key = own_key
    for body in (content, b'{"encData": "a.b.c.d.e"}', b'{"encData": "nothing"}'):
        answer = await post_raw(visa, body)
        assert (answer.status, answer.code) == (400, "9500")
    wrong_kid = await post_raw(visa, visa.encrypt(b"{}", kid="other"))
    assert (wrong_kid.status, wrong_kid.code) == (400, "9500")
    wrong_header = await post_raw(visa, visa.encrypt(b"{}"), keyId="other")
    assert (wrong_header.status, wrong_header.code) == (400, "9500")
    assert await visa.entries() == []


async def test_both_content_encryptions_are_accepted(visa: VisaClient) -> None:
    """RSA-OAEP-256 with 128 or 256 bit GCM."""
    for encryption in ("A128GCM", "A256GCM"):
        content = visa.encrypt(json.dumps(push_body()).encode(), encryption)
        assert (encryption, (await post_raw(visa, content)).status) == (encryption, 200)


async def test_another_key_management_algorithm_is_refused(visa: VisaClient) -> None:
    """RSA-OAEP-256 only."""
    content = visa.encrypt(json.dumps(push_body()).encode(), alg="RSA-OAEP")
    assert (await post_raw(visa, content)).status == 400


async def test_answers_are_encrypted_to_the_client(visa: VisaClient) -> None:
    """The answer is a JWE to the client's certificate, with kid and a fresh iat in its header."""
    content = visa.encrypt(json.dumps(push_body()).encode())
    response = await visa.visa.post(PUSH, content=content, headers=visa.headers())
    document, header = visa.decrypt(response.content)
    assert document["actionCode"] == "00"
    assert (header["alg"], header["kid"]) == ("RSA-OAEP-256", visa.key_id)
    assert abs(header["iat"] - visa.now() * 1000) < 60_000


async def test_json_must_be_asked_for(visa: VisaClient) -> None:
    """Without Accept: application/json Visa answers in XML; here that is a 406 that says what to send."""
    for accept in ("", "*/*", "application/xml"):
        answer = await post_raw(visa, visa.encrypt(json.dumps(push_body()).encode()), Accept=accept)
        assert (accept, answer.status) == (accept, 406)
        assert "Accept: application/json" in answer.body["responseStatus"]["message"]
    assert await visa.entries() == []


async def test_wrong_path_method_type_and_size_have_the_usual_statuses(visa: VisaClient) -> None:
    """404, 405 with Allow, 415 and 413, all in the gateway's shape."""
    content = visa.encrypt(json.dumps(push_body()).encode())
    assert (await visa.get("/visadirect/nothing")).status == 404
    wrong_method = await visa.get(PUSH)
    assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "POST")
    assert (await post_raw(visa, content, Content_Type="text/plain")).status == 415
    too_big = await post_raw(visa, b"x" * (256 * 1024 + 1))
    assert (too_big.status, too_big.body["responseStatus"]["status"]) == (413, 413)
