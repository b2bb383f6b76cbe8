"""S1-07, S1-13, S1-17, B5, B6, F-05: one question for many, ten minutes fresh, stale while asked for, unknown ids."""

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk

from processors.secrets import Secret
from processors.visa.breaker import Breaker
from processors.visa.jwks import (
    KEYS_MAX,
    LARGEST_SET_BYTES,
    UNKNOWN_KEY_SECONDS,
    JwksInvalid,
    JwksKeys,
    KeysUnavailable,
    KeyUnknown,
    read_key_set,
)
from processors.visa.mle import DecryptionKey, MessageEncryption, ServerKey
from tests.unit.visa.visa_testbed import MleKeys, MlePair, mle_pair

TTL_SECONDS = 600.0


def entry(pair: MlePair, key_id: str | None = "key-2026", **changes: Any) -> dict[str, Any]:
    public: dict[str, Any] = jwk.JWK.from_pem(pair.private_pem).export_public(as_dict=True)
    public.pop("kid", None)
    if key_id is not None:
        public["kid"] = key_id
    return {**public, **changes}


def x5c(pair: MlePair) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    return [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]


def document(*entries: Any) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


def thumbprint(key: ServerKey) -> str:
    found: str = key.key.thumbprint()
    return found


class Address:
    """Publishes a document; may be slow, or away."""

    def __init__(self, content: bytes) -> None:
        self.content: bytes | None = content
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.content is None:
            raise OSError("away")
        return self.content


class Cache:
    """The cache with its address and clock."""

    def __init__(self, content: bytes) -> None:
        self.now = 0.0
        self.address = Address(content)
        self.breaker = Breaker("jwks", clock=lambda: self.now)
        self.keys = JwksKeys(self.address, breaker=self.breaker, clock=lambda: self.now, ttl_seconds=TTL_SECONDS)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def cache(mle_keys: MleKeys) -> Cache:
    return Cache(document(entry(mle_keys.server)))


async def test_a_hundred_who_ask_at_once_are_one_question(cache: Cache) -> None:
    """S1-07: no stampede at the start, nor when the keys have become stale."""
    cache.address.gate.clear()
    waiting = [asyncio.create_task(cache.keys.get("key-2026")) for _ in range(100)]
    await cache.settle()
    cache.address.gate.set()
    found = await asyncio.gather(*waiting)
    assert (cache.address.asked, len({thumbprint(key) for key in found})) == (1, 1)
    cache.now = TTL_SECONDS
    cache.address.gate.clear()
    assert len(await asyncio.gather(*(cache.keys.get("key-2026") for _ in range(100)))) == 100, "stale goes on"
    await cache.settle()
    assert cache.address.asked == 2


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(cache: Cache) -> None:
    """S1-07: the question belongs to all of them."""
    cache.address.gate.clear()
    one, other = (asyncio.create_task(cache.keys.get("key-2026")) for _ in range(2))
    await cache.settle()
    one.cancel()
    await cache.settle()
    cache.address.gate.set()
    assert await other
    assert cache.address.asked == 1


async def test_keys_are_asked_for_again_after_ten_minutes_and_not_before(cache: Cache, mle_keys: MleKeys) -> None:
    """S1-13, F-05, B6: the new key counts as soon as it is there; nobody waits for it."""
    old = thumbprint(await cache.keys.get("key-2026"))
    cache.address.content = document(entry(mle_keys.client))
    cache.now = TTL_SECONDS - 0.1
    assert thumbprint(await cache.keys.get("key-2026")) == old
    await cache.settle()
    assert cache.address.asked == 1
    cache.now = TTL_SECONDS
    assert thumbprint(await cache.keys.get("key-2026")) == old
    await cache.settle()
    assert thumbprint(await cache.keys.get("key-2026")) != old
    assert cache.address.asked == 2


async def test_stale_keys_go_on_until_the_breaker_opens_and_fresh_ones_whatever_it_says(cache: Cache) -> None:
    """S0-13: a short failure is not felt; a long one ends the use of old keys."""
    await cache.keys.get("key-2026")
    cache.address.content = None
    for second in range(3):
        cache.now = TTL_SECONDS + second
        assert await cache.keys.get("key-2026")
        await cache.settle()
    with pytest.raises(KeysUnavailable):
        await cache.keys.get("key-2026")
    assert cache.address.asked == 4
    with pytest.raises(KeysUnavailable):
        await cache.keys.get("key-2026")
    assert cache.address.asked == 4, "left alone"
    cache.now = 100.0  # as if they had been fetched later: fresh again
    assert await cache.keys.get("key-2026")


async def test_an_unknown_key_id_is_asked_for_once_and_then_now_and_then(cache: Cache, mle_keys: MleKeys) -> None:
    """B5: refresh once on an unknown id, then say so; who asks on does not hammer the address."""
    await cache.keys.get("key-2026")
    cache.now = 1.0
    cache.address.content = document(entry(mle_keys.server), entry(mle_keys.client, "key-2027"))
    assert await cache.keys.get("key-2027"), "a rotation is noticed at once"
    assert cache.address.asked == 2
    with pytest.raises(KeyUnknown, match="unheard-of"):
        await cache.keys.get("unheard-of")
    for _ in range(20):
        with pytest.raises(KeyUnknown):
            await cache.keys.get("unheard-of")
    assert cache.address.asked == 3
    cache.now += UNKNOWN_KEY_SECONDS
    with pytest.raises(KeyUnknown):
        await cache.keys.get("unheard-of")
    assert cache.address.asked == 4


async def test_a_reload_asks_at_once_and_keeps_what_there_is_when_it_fails(cache: Cache, mle_keys: MleKeys) -> None:
    """S1-08: new keys count before the ten minutes are over; a failed reload takes nothing away."""
    old = thumbprint(await cache.keys.get("key-2026"))
    cache.address.content = b"<html>maintenance</html>"
    with pytest.raises(KeysUnavailable, match="no JSON"):
        await cache.keys.renew()
    assert thumbprint(await cache.keys.get("key-2026")) == old
    cache.address.content = document(entry(mle_keys.client))
    await cache.keys.renew()
    assert thumbprint(await cache.keys.get("key-2026")) != old


def test_what_is_fetched_encrypts(mle_keys: MleKeys) -> None:
    """B5: from modulus and exponent, from a certificate, or both; the certificate's end is kept."""
    server = mle_keys.server
    for published in (
        entry(server),
        entry(server, use="enc"),
        entry(server, x5c=x5c(server)),
        {"kty": "RSA", "kid": "key-2026", "x5c": x5c(server)},
    ):
        key = read_key_set(document(published))["key-2026"]
        assert (key.valid_until is not None) is ("x5c" in published)
        ours = MessageEncryption(
            key_id="key-2026",
            server_certificate_pem=None,
            decryption_keys=[DecryptionKey("key-2026", Secret(mle_keys.client.private_pem.decode()))],
        )
        ours.encrypt_to(key)
        sealed = json.loads(ours.encrypt(b"{}"))["encData"]
        assert mle_keys.visas().decrypt(sealed) == b"{}"


async def test_a_key_without_an_id_is_taken_only_when_it_is_alone(mle_keys: MleKeys) -> None:
    """[D] only for Visa's MCP server: the first RSA key with x5c; which of several is ours nobody can say."""
    alone = Cache(document(entry(mle_keys.server, None)))
    assert await alone.keys.get("any")
    two = Cache(document(entry(mle_keys.server, None), entry(mle_keys.client, "key-2027")))
    with pytest.raises(KeyUnknown):
        await two.keys.get("any")


def elliptic() -> dict[str, Any]:
    key: dict[str, Any] = jwk.JWK.from_pyca(ec.generate_private_key(ec.SECP256R1()).public_key()).export(as_dict=True)
    return {**key, "kid": "key-2026"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<html></html>", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1,null,"x"]}', b"[" * 100_000,
        b'{"keys":[{"kty":"RSA","kid":"a"}]}', b'{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}',
        b'{"keys":[{"kty":"RSA","kid":"a","n":1,"e":2}]}', b'{"keys":[{"kty":"RSA","kid":"a","x5c":[]}]}',
        b'{"keys":[{"kty":"RSA","kid":"a","x5c":["%%%"]}]}', b'{"keys":[{"kty":"RSA","kid":"a","x5c":["AAAA"]}]}',
        b" " * (LARGEST_SET_BYTES + 1), json.dumps({"keys": [{}] * (KEYS_MAX + 1)}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_usable_set_is_refused_and_not_quoted(content: bytes) -> None:
    """B5: HTML, other JSON, hostile sizes, keys that cannot encrypt."""
    with pytest.raises(JwksInvalid):
        read_key_set(content)


def test_signing_and_small_keys_are_no_encryption_keys(mle_keys: MleKeys) -> None:
    """B5: RSA of 2,048 bits or more, not for signatures, not elliptic."""
    for published in (entry(mle_keys.server, use="sig"), elliptic(), entry(mle_pair(1024))):
        with pytest.raises(JwksInvalid):
            read_key_set(document(published))
    mixed = read_key_set(document(entry(mle_keys.client, "s", use="sig"), elliptic(), entry(mle_keys.server, "e")))
    assert set(mixed) == {"e"}
