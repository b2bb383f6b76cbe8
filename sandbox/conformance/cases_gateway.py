"""The front door: TLS, credentials, message level encryption, error shapes, correlation."""

import json

import httpx

from sandbox.conformance.client import (
    HELLO,
    PUSH,
    QUERY,
    Answer,
    Client,
    Mismatch,
    holds,
    same,
)
from sandbox.conformance.suite import case

JWKS = "/.well-known/jwks"


def push_in_clear(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode()


async def post_encrypted(visa: Client, content: bytes, **headers: str) -> Answer:
    return await visa.raw("POST", PUSH, content, headers=visa.headers(**headers))


@case("F-001")
async def hello_world(visa: Client) -> None:
    answer = await visa.raw("GET", HELLO)
    same("status", answer.status, 200)
    holds("there is a timestamp", bool(answer["timestamp"]))


@case("F-005", "money")
async def json_is_asked_for(visa: Client) -> None:
    """The stand-in has no XML and says so with 406; Visa answers in XML. Either way it is no JSON answer of a push."""
    content = visa.encrypt(push_in_clear(visa.push_body()))
    unasked = await post_encrypted(visa, content, Accept="application/xml")
    holds("who asks for XML gets XML, or 406", unasked.status == 406 or not isinstance(unasked.body, dict))
    asked = await visa.push(visa.push_body())
    same("status with Accept: application/json", asked.status, 200)
    holds("the content type is JSON", "json" in asked.headers["content-type"])


@case("F-052", "stand_in")
async def bad_credentials(visa: Client) -> None:
    """On the stand-in only: a wrong password at Visa counts towards a lock-out."""
    missing = await visa.raw("GET", HELLO, auth=None)
    same("missing", (missing.status, missing.code), (401, "9123"))
    wrong = await visa.raw("GET", HELLO, auth=(visa.target.user_id, "wrong"))
    same("wrong", (wrong.status, wrong.code), (401, "9124"))


@case("F-053", "stand_in")
async def a_url_that_is_not_ours(visa: Client) -> None:
    body = visa.push_body()
    await visa.faults({"operation": "push", "fault": "403"})
    answer = await visa.push(body)
    same("status and code", (answer.status, answer.code), (403, "9611"))
    same("effects", await visa.effects(body["senderReference"]), 0)


@case("F-054")
async def a_resource_that_does_not_exist(visa: Client) -> None:
    same("status", (await visa.get("/visadirect/fundstransfer/v1/nothing")).status, 404)


@case("F-055")
async def wrong_method_and_content_type(visa: Client) -> None:
    same("GET on the push path", (await visa.get(PUSH)).status, 405)
    content = visa.encrypt(push_in_clear(visa.push_body()))
    same("text/plain", (await post_encrypted(visa, content, Content_Type="text/plain")).status, 415)


@case("F-063")
async def every_response_has_a_correlation_id(visa: Client) -> None:
    answers = [await visa.raw("GET", HELLO), await visa.get("/nowhere"), await visa.get(QUERY), await visa.get(PUSH)]
    seen = {answer.headers.get("X-CORRELATION-ID") for answer in answers}
    holds("four responses have four ids", None not in seen and len(seen) == 4)


@case("F-064", "money")
async def the_key_id_goes_along(visa: Client) -> None:
    content = visa.encrypt(push_in_clear(visa.push_body()))
    without = {name: value for name, value in visa.headers().items() if name != "keyId"}
    same("status without keyId", (await visa.raw("POST", PUSH, content, headers=without)).status, 400)
    same("status with keyId", (await post_encrypted(visa, content)).status, 200)


@case("F-073")
async def the_shape_of_an_error(visa: Client) -> None:
    answer = await visa.get(QUERY)
    same("status", answer.status, 400)
    status = answer["responseStatus"]
    same("members", set(status), {"status", "code", "severity", "message", "info"})
    same("status inside", str(status["status"]), "400")
    same("severity", status["severity"], "ERROR")


@case("F-118")
async def no_certificate_no_answer(visa: Client) -> None:
    same("status with our certificate", (await visa.raw("GET", HELLO)).status, 200)
    context = visa.tls(with_certificate=False)
    basic = (visa.target.user_id, visa.target.password)
    async with httpx.AsyncClient(
        base_url=visa.target.base_url, verify=context, auth=basic, trust_env=False
    ) as stranger:
        try:
            answer = await stranger.get(HELLO)
        except httpx.TransportError:
            return
    holds("a stranger is refused in the handshake or with 4xx", 400 <= answer.status_code < 500)


@case("F-119", "money")
async def what_is_not_encrypted_is_refused(visa: Client) -> None:
    same("status of an encrypted push", (await visa.push(visa.push_body())).status, 200)
    answer = await post_encrypted(visa, push_in_clear(visa.push_body()))
    same("status of a push in clear", answer.status, 400)


@case("F-120", "money")
async def bodies_are_encrypted_both_ways(visa: Client) -> None:
    answer = await visa.push(visa.push_body())
    same("status", answer.status, 200)
    holds("the answer is {encData}", answer.encrypted)


@case("F-121", "money")
async def the_encryptions_that_are_taken(visa: Client) -> None:
    for encryption in ("A128GCM", "A256GCM"):
        for typ in (None, "JWE"):
            content = visa.encrypt(push_in_clear(visa.push_body()), encryption, typ=typ)
            same(f"status with {encryption}, typ {typ}", (await post_encrypted(visa, content)).status, 200)
    content = visa.encrypt(push_in_clear(visa.push_body()), alg="RSA-OAEP")
    same("status with RSA-OAEP", (await post_encrypted(visa, content)).status, 400)
    content = visa.encrypt(push_in_clear(visa.push_body()), iat=int(visa.now()))
    same("status with iat in seconds", (await post_encrypted(visa, content)).status, 400)
    content = visa.encrypt(push_in_clear(visa.push_body()), kid=None)
    same("status without kid", (await post_encrypted(visa, content)).status, 400)


@case("F-122", "money")
async def an_old_body_is_refused(visa: Client) -> None:
    for seconds, status in ((-150, 400), (-60, 200)):
        iat = int((visa.now() + seconds) * 1000)
        content = visa.encrypt(push_in_clear(visa.push_body()), iat=iat)
        same(f"status with iat {seconds} s away", (await post_encrypted(visa, content)).status, status)


@case("F-123", "stand_in")
async def one_key_id_follows_another(visa: Client) -> None:
    """The answer names the key id of its request; an unknown key id is refused; two are accepted for a time."""
    answer = await visa.push(visa.push_body())
    same("kid of the answer", answer.jose_header.get("kid"), visa.target.mle_key_id)
    content = visa.encrypt(push_in_clear(visa.push_body()), kid="nobody")
    same("status with an unknown key id", (await post_encrypted(visa, content, keyId="nobody")).status, 400)
    issued = await visa.admin("POST", "/sandbox/keys/mle")
    try:
        state = await visa.admin("GET", "/sandbox/keys")
        same("accepted", state["mle_key_ids"][-2:], [visa.target.mle_key_id, issued["key_id"]])
        same("status under the first key id", (await visa.push(visa.push_body())).status, 200)
    finally:
        await visa.admin("DELETE", f"/sandbox/keys/mle/{issued['key_id']}")


@case("F-124", "money")
async def answers_are_for_us_alone(visa: Client) -> None:
    """Only our private key opened it: the client of this suite has no other."""
    answer = await visa.push(visa.push_body())
    same("algorithm", answer.jose_header.get("alg"), "RSA-OAEP-256")
    holds("A128GCM or A256GCM", answer.jose_header.get("enc") in ("A128GCM", "A256GCM"))


@case("F-125", "money")
async def no_key_id_or_encrypted_data(visa: Client) -> None:
    same("status with both", (await visa.push(visa.push_body())).status, 200)
    for content in (b"{}", push_in_clear(visa.push_body()), b""):
        answer = await post_encrypted(visa, content)
        same("status and code", (answer.status, answer.code), (400, "9125"))


@case("F-130", "stand_in")
async def the_key_set(visa: Client) -> None:
    """Visa publishes such a set for its MCP server only; for Visa Direct the dashboard gives the certificate."""
    answer = await visa.raw("GET", JWKS)
    same("status", answer.status, 200)
    keys = [key for key in answer["keys"] if key.get("kty") == "RSA" and key.get("x5c")]
    if not any(key.get("kid") == visa.target.mle_key_id for key in keys):
        raise Mismatch("no RSA key with x5c has our key id")


@case("F-137", "sandbox")
async def without_accept_the_answer_is_xml(visa: Client) -> None:
    """A query that lacks everything moves nothing; the stand-in has no XML and says 406."""
    unasked = {name: value for name, value in visa.headers().items() if name != "Accept"} | {"Accept": "*/*"}
    answer = await visa.raw("GET", QUERY, headers=unasked)
    holds("the content type is XML", "xml" in answer.headers.get("content-type", ""))
