"""Fetches Visa's key set from its address: HTTPS only, with the authorities that we trust, bounded in size and time."""

import ssl
import time
from collections.abc import Awaitable, Callable

import httpx

from processors.visa.breaker import Breaker, BreakerState
from processors.visa.jwks import LARGEST_SET_BYTES, JwksInvalid, JwksKeys
from streams.metrics import Metrics
from streams.settings import Settings, SettingsInvalid

BREAKER = "jwks"


def jwks_keys(
    settings: Settings, load_settings: Callable[[], Settings], metrics: Metrics
) -> tuple[JwksKeys, Breaker] | None:
    """The keys at the settings' address, and their breaker; None when keys come from files."""
    if settings.visa_jwks_url is None:
        return None
    breaker = Breaker(
        BREAKER,
        max_failures=settings.jwks_breaker_max_failures,
        timeout_seconds=settings.jwks_breaker_timeout_seconds,
        reset_seconds=settings.jwks_breaker_reset_seconds,
        clock=time.monotonic,
        on_change=state_shown(metrics),
    )

    def current() -> Settings:
        try:
            return load_settings()
        except SettingsInvalid:
            return settings  # a broken edit of the settings file must not stop what runs

    fetch = counted(lambda: fetch_key_set(current()), metrics)
    keys = JwksKeys(fetch, breaker=breaker, clock=time.monotonic, ttl_seconds=settings.jwks_cache_ttl_seconds)
    return keys, breaker


def state_shown(metrics: Metrics) -> Callable[[BreakerState, bool], None]:
    """Shows a breaker's state as one series a state, and counts what closes it: a trial, or a person."""

    def show(state: BreakerState) -> None:
        for one in BreakerState:
            metrics.breaker_state.labels(BREAKER, one.value.lower()).set(1 if one is state else 0)

    def changed(state: BreakerState, by_hand: bool) -> None:
        show(state)
        (metrics.breaker_open.closed if state is BreakerState.CLOSED else metrics.breaker_open.opened)(BREAKER)
        if state is BreakerState.CLOSED:
            metrics.breaker_resets.labels(BREAKER, "manual" if by_hand else "auto").inc()

    show(BreakerState.CLOSED)
    metrics.breaker_open.add(BREAKER)
    return changed


def counted(fetch: Callable[[], Awaitable[bytes]], metrics: Metrics) -> Callable[[], Awaitable[bytes]]:
    """The same, measured."""

    async def measured() -> bytes:
        metrics.jwks_fetches.inc()
        begun = time.monotonic()
        done = False
        try:
            content = await fetch()
            done = True
            metrics.jwks_fetch_successes.inc()
        finally:
            metrics.jwks_fetch_seconds.observe(time.monotonic() - begun)
            if not done:
                metrics.jwks_fetch_failures.inc()
        return content

    return measured


async def fetch_key_set(settings: Settings) -> bytes:
    """The document at VISA_JWKS_URL. Raises JwksInvalid, httpx.HTTPError, OSError.

    Once in ten minutes: a connection and a TLS context of its own each time, so that the files of the moment count.
    """
    url = settings.visa_jwks_url or ""
    async with (
        httpx.AsyncClient(
            verify=_tls_context(settings),
            trust_env=False,
            follow_redirects=False,
            timeout=settings.jwks_breaker_timeout_seconds,
        ) as client,
        client.stream("GET", url, headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as response,
    ):
        if response.status_code != 200:
            raise JwksInvalid(f"the address answers with HTTP {response.status_code}")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > LARGEST_SET_BYTES:
                raise JwksInvalid(f"the key set is larger than {LARGEST_SET_BYTES} bytes")
    return bytes(content)


def _tls_context(settings: Settings) -> ssl.SSLContext:
    # Not ssl.create_default_context: it would obey SSLKEYLOGFILE from the environment.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.visa_ca_path is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=settings.visa_ca_path)
    if settings.visa_cert_path is not None and settings.visa_key_path is not None:
        # Shown only to a server that asks for one.
        context.load_cert_chain(settings.visa_cert_path, settings.visa_key_path, password="")
    return context
