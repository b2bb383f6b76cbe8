"""B5, S1-06: the key set is fetched over TLS that is verified, bounded, and without following anybody elsewhere."""

import asyncio
import os

import httpx
import pytest

from processors.visa.jwks import LARGEST_SET_BYTES, JwksInvalid
from streams.metrics import Metrics
from streams.settings import Profile, Settings
from streams.visa_jwks import counted, fetch_key_set, jwks_keys
from tests.unit.visa.visa_testbed import Pki, answering, make_pki, reply, tls_server


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def settings(pki: Pki, port: int, ca: str = "ca") -> Settings:
    return Settings(
        payouts_profile=Profile.TEST,
        visa_jwks_url=f"https://127.0.0.1:{port}/.well-known/jwks",
        visa_ca_path=pki.path(f"{ca}.pem"),
        visa_cert_path=pki.path("client.pem"),
        visa_key_path=pki.path("client.key"),
    )


async def test_the_document_is_fetched_with_our_certificate_if_the_server_asks_for_one(pki: Pki) -> None:
    """B5: the test server takes nobody without a certificate."""
    async with tls_server(pki, answering(reply(200, b'{"keys":[]}'))) as (port, seen):
        assert await fetch_key_set(settings(pki, port)) == b'{"keys":[]}'
    assert seen.http_bytes.startswith(b"GET /.well-known/jwks HTTP/1.1")
    assert b"authorization" not in seen.http_bytes.lower(), "the password is Visa Direct's alone"


@pytest.mark.parametrize(
    "answer",
    [
        reply(404), reply(303, b"", "Location: https://127.0.0.1:1/other"), reply(500, b"{}"),
        reply(200, b" " * (LARGEST_SET_BYTES + 1)),
    ],
)  # fmt: skip
async def test_what_is_no_answer_of_a_bounded_size_is_refused(pki: Pki, answer: bytes) -> None:
    """B5: not followed elsewhere, not read without end."""
    async with tls_server(pki, answering(answer)) as (port, seen):
        with pytest.raises(JwksInvalid):
            await fetch_key_set(settings(pki, port))
    assert seen.http_bytes.count(b" HTTP/1.1\r\n") == 1


async def test_a_server_that_cannot_prove_itself_is_not_asked(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """B5: who answers there chooses who can read what we encrypt; no proxy and no key log from the environment."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(pki.path("keys.log")))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with tls_server(pki, answering(reply(200, b"{}"))) as (port, seen):
        with pytest.raises(httpx.ConnectError):
            await fetch_key_set(settings(pki, port, ca="stranger_ca"))
    assert seen.http_bytes == b""
    assert "keys.log" not in await asyncio.to_thread(os.listdir, pki.directory)


async def test_fetches_and_failures_are_counted_under_their_names() -> None:
    """S1-20, S1-21, F-06: attempts, failures, seconds."""
    metrics = Metrics()
    answers: list[bytes | Exception] = [b"{}", OSError("away"), b"{}"]

    async def fetch() -> bytes:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    measured = counted(fetch, metrics)
    await measured()
    with pytest.raises(OSError, match="away"):
        await measured()
    await measured()

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name)

    assert (value("jwks_fetch_total"), value("jwks_fetch_fail_total")) == (3.0, 1.0)
    assert value("visa_direct_jwks_fetch_duration_seconds_count") == 3.0


def test_keys_from_files_have_no_breaker(pki: Pki) -> None:
    """S1-06: and its numbers come from the settings when there is one."""
    assert jwks_keys(Settings(payouts_profile=Profile.TEST), lambda: settings(pki, 1), Metrics()) is None
    metrics = Metrics()
    assert jwks_keys(settings(pki, 1), lambda: settings(pki, 1), metrics) is not None
    labels = {"name": "jwks", "state": "closed"}
    assert metrics.registry.get_sample_value("circuit_breaker_state", labels) == 1.0
