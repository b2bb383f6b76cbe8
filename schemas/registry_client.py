"""The few calls of the Confluent schema registry's HTTP interface that we make; Apicurio and Karapace speak it too.

Whatever is not a clear answer is `RegistryUnavailable`. In particular a 404 counts as "there is no such schema"
only with the interface's own error code in its body: a proxy's or a wrong path's 404 page must never make good
records look undecodable (P8).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from schemas.errors import RegistryUnavailable

# A healthy registry answers from memory; longer than this and waiting in the pause loop is better.
CALL_TIMEOUT_SECONDS = 5.0
# Our largest schema has 16 KiB; anything far larger is not a schema.
BODY_LIMIT_BYTES = 1_048_576
CONNECTION_LIMIT = 8

Json: TypeAlias = Any

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
# Error codes of the interface: no such subject, no such version, no such schema.
NOT_FOUND_CODES = frozenset({40401, 40402, 40403})
# No compatibility level of its own is set for the subject.
NO_OWN_LEVEL_CODE = 40408


class RegistryRefused(RuntimeError):
    """The registry answered with an error of its own: `status` is HTTP's, `code` the interface's, if it gave one."""

    def __init__(self, call: str, status: int, code: int | None) -> None:
        super().__init__(f"the registry refused {call}: HTTP {status}, error code {code}")
        self.status = status
        self.code = code

    @property
    def not_found(self) -> bool:
        """Whether the registry itself says that it has no such thing."""
        return self.status == 404 and self.code in (NOT_FOUND_CODES | {NO_OWN_LEVEL_CODE})


class RegistryClient:
    """Calls one registry at `url`, for example http://127.0.0.1:8080/apis/ccompat/v7.

    `authentication` is (user, password) for Basic; `verify` is an SSL context that knows the registry's authority.
    Belongs to the event loop in which it is first used. Every call takes at most `timeout_seconds` and raises
    RegistryUnavailable (no usable answer) or RegistryRefused (an error of the registry's own).
    """

    def __init__(
        self,
        url: str,
        *,
        authentication: tuple[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> None:
        import httpx  # here, because it takes a quarter of a second, and most commands ask no registry

        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("the registry's address must begin with http:// or https:// and name a host")
        if parsed.userinfo:
            raise ValueError("the registry's address must not hold a password; give it as a setting of its own")
        self.url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            auth=httpx.BasicAuth(*authentication) if authentication else None,
            verify=verify,
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=CONNECTION_LIMIT),
            headers={"accept": f"{MEDIA_TYPE}, application/json"},
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def schema_by_id(self, schema_id: int) -> str:
        """Text of the schema with an id."""
        answer = await self._call("GET", f"/schemas/ids/{schema_id}")
        return _text(answer, "schema")

    async def lookup(self, subject: str, schema: str) -> int:
        """Id of a schema that is registered under a subject; registers nothing."""
        return _number(await self._call("POST", f"/subjects/{quote(subject, safe='')}", {"schema": schema}), "id")

    async def register(self, subject: str, schema: str) -> int:
        """Registers a schema and returns its id; the id it has when it is there already."""
        path = f"/subjects/{quote(subject, safe='')}/versions"
        return _number(await self._call("POST", path, {"schema": schema}), "id")

    async def versions(self, subject: str) -> tuple[int, ...]:
        """Numbers of the versions of a subject; none when there is no such subject."""
        try:
            answer = await self._call("GET", f"/subjects/{quote(subject, safe='')}/versions")
        except RegistryRefused as refusal:
            if refusal.not_found:
                return ()
            raise
        if not isinstance(answer, list) or not all(isinstance(number, int) for number in answer):
            raise RegistryUnavailable("the registry answered a list of versions with something else")
        return tuple(sorted(answer))

    async def version(self, subject: str, version: int) -> tuple[int, str]:
        """(id, schema text) of one version of a subject."""
        answer = await self._call("GET", f"/subjects/{quote(subject, safe='')}/versions/{version}")
        return _number(answer, "id"), _text(answer, "schema")

    async def is_compatible(self, subject: str, schema: str) -> bool:
        """Whether the registry would accept a schema as the next version; true for a subject without versions."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions"
        try:
            answer = await self._call("POST", path, {"schema": schema})
        except RegistryRefused as refusal:
            if refusal.not_found:
                return True
            raise
        verdict = answer.get("is_compatible") if isinstance(answer, dict) else None
        if not isinstance(verdict, bool):
            raise RegistryUnavailable("the registry answered a compatibility check with something else")
        return verdict

    async def level(self, subject: str) -> str | None:
        """The compatibility level set for a subject itself; None when it has none of its own."""
        try:
            answer = await self._call("GET", f"/config/{quote(subject, safe='')}")
        except RegistryRefused as refusal:
            if refusal.not_found:
                return None
            raise
        # Servers differ in the name that they answer with; the newer is the one that a PUT takes.
        key = "compatibilityLevel" if isinstance(answer, dict) and "compatibilityLevel" in answer else "compatibility"
        return _text(answer, key)

    async def set_level(self, subject: str, level: str) -> None:
        """Sets the compatibility level of a subject."""
        await self._call("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": level})

    async def _call(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Json:
        import httpx

        call = f"{method} {path}"
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": MEDIA_TYPE}
        failure = ""
        try:
            # httpx's own limits are for each read; a server that drips a byte a second needs this one.
            async with asyncio.timeout(self._timeout_seconds):
                status, data = await self._exchange(method, path, content, headers)
        except (httpx.HTTPError, httpx.StreamError, TimeoutError, OSError, ssl.SSLError) as error:
            failure = type(error).__name__
        if failure:
            raise RegistryUnavailable(f"the registry at {self.url} did not answer {call}: {failure}")
        return _answer(call, status, data)

    async def _exchange(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        request = self._client.stream(method, self.url + path, content=content, headers=headers)
        async with request as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > BODY_LIMIT_BYTES:
                    raise RegistryUnavailable(f"the registry's answer to {method} {path} is longer than any schema")
            return response.status_code, bytes(data)


def _answer(call: str, status: int, data: bytes) -> Json:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if status == 200:
        if body is None:
            raise RegistryUnavailable(f"the registry's answer to {call} is no JSON")
        return body
    code = body.get("error_code") if isinstance(body, dict) else None
    code = code if isinstance(code, int) else None
    # 401, 403, 408, 429, 5xx and redirects say nothing about the schema that was asked for.
    if status in (409, 422) or (status == 404 and code in (NOT_FOUND_CODES | {NO_OWN_LEVEL_CODE})):
        raise RegistryRefused(call, status, code)
    raise RegistryUnavailable(f"the registry answered {call} with HTTP {status}, error code {code}")


def _text(answer: Json, key: str) -> str:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise RegistryUnavailable(f"the registry's answer has no text under {key}")
    return value


def _number(answer: Json, key: str) -> int:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise RegistryUnavailable(f"the registry's answer has no number under {key}")
    return value


RegistryAddress: TypeAlias = "str | Callable[[], RegistryClient]"
"""A registry's URL, or what makes a client for it (with authentication or an authority of its own)."""


def connect(registry: RegistryAddress) -> RegistryClient:
    """A client for a registry's address."""
    return RegistryClient(registry) if isinstance(registry, str) else registry()
