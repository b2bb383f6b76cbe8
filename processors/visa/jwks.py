"""Visa's encryption key from an address that publishes it (JWKS, RFC 7517), kept as long as it may be.

    fresh (ttl_seconds, 600 by default)   used as it is
    stale                                 used while it is asked for again in the background, as long as that may work
    stale, and the breaker is open        not used: `KeysUnavailable`, and whoever needs it waits
    a key id that the set does not have   asked for once more, then `KeyUnknown`

Visa documents a JWKS for its MCP server only: `GET {base}/.well-known/jwks`, RSA keys with x5c, the first of which is
used there. For Visa Direct keys come from the project's dashboard as files, which is the default here. A set is read by
the key id of the project (`kid`); a key without one, alone in its set, is taken for it.
"""

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from jwcrypto import jwk
from jwcrypto.common import JWException

from processors.visa.breaker import Breaker, BreakerOpen, BreakerState
from processors.visa.mle import MleError, ServerKey, usable_server_key

LARGEST_SET_BYTES: Final = 256 * 1024
KEYS_MAX: Final = 64
UNKNOWN_KEY_SECONDS: Final = 30.0
"""How often a set that lacks our key id is asked for again: a rotation is noticed soon, and nobody is hammered."""

log = logging.getLogger(__name__)


class JwksInvalid(Exception):
    """What was fetched is no key set, or holds no key that may be used. Quotes nothing of it."""


class KeysUnavailable(Exception):
    """There is no key that may be used, and none can be got now."""


class KeyUnknown(KeysUnavailable):
    """The set was fetched, and does not have this key id."""


def read_key_set(content: bytes) -> Mapping[str | None, ServerKey]:
    """The RSA encryption keys of a JWKS document by key id. Raises JwksInvalid."""
    if len(content) > LARGEST_SET_BYTES:
        raise JwksInvalid(f"the key set is larger than {LARGEST_SET_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise JwksInvalid("what the address answers is no JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise JwksInvalid(f"what the address answers is no key set of at most {KEYS_MAX} keys")
    keys: dict[str | None, ServerKey] = {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("kty") == "RSA" and entry.get("use", "enc") == "enc":
            key_id = entry.get("kid")
            # The first of two with one id: another order must not bring another key.
            keys.setdefault(key_id if isinstance(key_id, str) else None, _server_key(entry))
    if not keys:
        raise JwksInvalid("the key set has no RSA key for encryption")
    return keys


def _server_key(entry: Mapping[str, Any]) -> ServerKey:
    try:
        if entry.get("n") is None and entry.get("x5c"):
            return _of_certificate(entry)
        public = {"kty": "RSA", "n": entry["n"], "e": entry["e"]}
        key = usable_server_key(jwk.JWK(**public).get_op_key("encrypt"))
        return ServerKey(key, _of_certificate(entry).valid_until if entry.get("x5c") else None)
    except (KeyError, TypeError, ValueError, JWException, UnsupportedAlgorithm, MleError):
        raise JwksInvalid("a key of the set cannot be used for encryption") from None


def _of_certificate(entry: Mapping[str, Any]) -> ServerKey:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(entry["x5c"][0], validate=True))
    except (binascii.Error, KeyError, IndexError):
        raise ValueError("x5c") from None
    return ServerKey(usable_server_key(certificate.public_key()), certificate.not_valid_after_utc)


class JwksKeys:
    """The cache. `fetch` gives the document's bytes; `clock` counts seconds and never goes back."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        breaker: Breaker,
        clock: Callable[[], float],
        ttl_seconds: float = 600.0,
    ) -> None:
        self._fetch = fetch
        self._breaker = breaker
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._keys: Mapping[str | None, ServerKey] = {}
        self._fetched_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._looked_for: dict[str, float] = {}
        """When the set was last asked for again because of a key id that it lacked."""

    async def get(self, key_id: str) -> ServerKey:
        """The key to encrypt to. Raises KeysUnavailable; KeyUnknown when the set does not have it."""
        has_just_asked = await self._up_to_date()
        found = self._find(key_id)
        if found is None and not has_just_asked and self._may_look_for(key_id):
            log.info("key id not in the key set: asking for it again", extra={"key_id": key_id})
            await self._refresh()
            found = self._find(key_id)
        if found is None:
            raise KeyUnknown(f"the key set has no key {key_id!r}: is VISA_MLE_KEY_ID the id of a key at this address?")
        return found

    async def renew(self) -> None:
        """Ask now, however fresh the keys are. Raises KeysUnavailable, and keeps what there is."""
        await self._refresh()
        self._looked_for.clear()

    async def _up_to_date(self) -> bool:
        """Have keys that may be used; whether they were asked for just now. Raises KeysUnavailable.

        Stale keys go on while somebody asks for new ones; once that has failed too often, they do not.
        """
        age_seconds = None if self._fetched_at is None else self._clock() - self._fetched_at
        if age_seconds is None or (age_seconds >= self._ttl_seconds and self._breaker.state is not BreakerState.CLOSED):
            await self._refresh()
            return True
        if age_seconds >= self._ttl_seconds:
            self._start()
        return False

    def _may_look_for(self, key_id: str) -> bool:
        """Once at once, then now and then: who asks for a key that there is not must not hammer the address."""
        now, last = self._clock(), self._looked_for.get(key_id)
        if last is not None and now - last < UNKNOWN_KEY_SECONDS:
            return False
        self._looked_for = {key_id: now}
        return True

    def _find(self, key_id: str) -> ServerKey | None:
        alone = self._keys.get(None) if len(self._keys) == 1 else None
        return self._keys.get(key_id, alone)

    async def _refresh(self) -> None:
        """Ask, or wait for who asks already. Raises KeysUnavailable."""
        task = self._start()
        try:
            await asyncio.shield(task)
        except Exception as error:  # noqa: BLE001 - every failure to fetch means the same to who needs a key
            raise KeysUnavailable(_why(error)) from None

    def _start(self) -> "asyncio.Task[None]":
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_once(), name="visa keys")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    async def _fetch_once(self) -> None:
        async def work() -> Mapping[str | None, ServerKey]:
            return read_key_set(await self._fetch())

        keys = await self._breaker.call(work)
        self._keys, self._fetched_at = keys, self._clock()

    def _fetched(self, task: "asyncio.Task[None]") -> None:
        self._fetching = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BreakerOpen):  # once a failure, not once a question
            log.warning("keys not fetched", extra={"why": _why(error)})


def _why(error: BaseException) -> str:
    """Without what a library may quote of an address or an answer."""
    ours = isinstance(error, JwksInvalid | BreakerOpen | KeysUnavailable)
    return str(error) if ours else type(error).__name__
