"""Keys and certificates that come and go while the stand-in runs: what a rotation needs on Visa's side.

Everything issued lies under ``credentials/client/issued`` for the client, one directory each; what the stand-in
itself needs lies under ``credentials/mle``. ``credentials/keyring.json`` says what is in force, so that a kill in the
middle of a rotation changes nothing. The first key id and certificate lie where they always did.
"""

import asyncio
import base64
import contextlib
import datetime
import json
import os
import secrets
import shutil
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sandbox.visa_direct.credentials import (
    SandboxCredentials,
    issue_client_pair,
    make_mle_pairs,
    renew_server_pair,
    revocation_list,
    write_new,
)
from sandbox.visa_direct.encryption import MlePairs

# A key, its successor and two more: a client tries that many as well.
MLE_KEYS_MAX: Final = 4
_FOR_CLIENT: Final = ("mle_server_certificate.pem", "mle_client_private_key.pem")


class RotationError(Exception):
    """The change is not possible; the message says why. Nothing was changed."""


@dataclass(slots=True)
class _InForce:
    """The content of keyring.json. ``answers_with`` None: each answer with the key id of its request."""

    mle_key_ids: list[str]
    answers_with: str | None = None
    revoked_serials: list[str] = field(default_factory=list)


class Keyring:
    """Which MLE key ids and client certificates are accepted. ``pairs`` is the live mapping, oldest first."""

    def __init__(self, credentials: SandboxCredentials) -> None:
        self._credentials = credentials
        self._path = credentials.path("keyring.json")
        self._in_force = self._read()
        self.pairs: dict[str, MlePairs] = {
            key_id: MlePairs.read(key_id, self._directory(key_id)) for key_id in self._in_force.mle_key_ids
        }
        self._renewing = asyncio.Lock()  # key and certificate are two files: two renewals must not mix them
        self.on_tls_change: Callable[[], Awaitable[None]] | None = None
        self.on_revocation: Callable[[], None] | None = None

    def answering(self, asked_with: MlePairs) -> MlePairs:
        """The pairs that an answer is closed with."""
        chosen = self._in_force.answers_with
        return asked_with if chosen is None else self.pairs[chosen]

    def state(self) -> dict[str, Any]:
        """What is in force, as the admin port shows it."""
        return asdict(self._in_force)

    def jwks(self) -> dict[str, Any]:
        """The server's encryption certificates as a JWK set, the newest first, each with ``kid`` and ``x5c``."""
        return {"keys": [_public_jwk(pairs) for pairs in reversed(self.pairs.values())]}

    async def add_mle_key(self) -> dict[str, str]:
        """A further key id, accepted from now on. Returns it and the directory with the client's two files."""
        if len(self.pairs) >= MLE_KEYS_MAX:
            raise RotationError(f"{MLE_KEYS_MAX} key ids are accepted already: retire one first")
        key_id = f"sandbox-{secrets.token_hex(8)}"
        issued = await asyncio.to_thread(self._make_mle_key, key_id)
        self.pairs[key_id] = MlePairs.read(key_id, self._directory(key_id))
        self._in_force.mle_key_ids.append(key_id)
        self._write()
        return {"key_id": key_id, "directory": str(issued)}

    def retire_mle_key(self, key_id: str) -> None:
        """Accept it no longer."""
        if key_id not in self.pairs:
            raise RotationError("no such key id is accepted")
        if len(self.pairs) == 1:
            raise RotationError("it is the only key id: add its successor first")
        del self.pairs[key_id]
        self._in_force.mle_key_ids.remove(key_id)
        if self._in_force.answers_with == key_id:
            self._in_force.answers_with = None
        self._write()

    def answer_with(self, key_id: str | None) -> None:
        """Close every answer with this key id, whichever the request came with; None: with the request's."""
        if key_id is not None and key_id not in self.pairs:
            raise RotationError("no such key id is accepted")
        self._in_force.answers_with = key_id
        self._write()

    async def issue_client_certificate(self, validity: datetime.timedelta) -> dict[str, str]:
        """A further client certificate. Returns its serial number and the directory with certificate and key."""
        directory = self._issued_directory(f"client-{secrets.token_hex(8)}")
        serial = await asyncio.to_thread(issue_client_pair, self._credentials, directory, validity)
        return {"serial": f"{serial:x}", "directory": str(directory)}

    async def revoke_client_certificate(self, serial: str) -> None:
        """Take this client certificate no longer, not on connections that are open either."""
        try:
            canonical = f"{int(serial, 16):x}"
        except ValueError as error:
            raise RotationError("a serial number is hexadecimal") from error
        if canonical not in self._in_force.revoked_serials:
            self._in_force.revoked_serials.append(canonical)
            self._write()
        await self.reload_tls()
        if self.on_revocation is not None:
            self.on_revocation()

    async def renew_server_certificate(self) -> None:
        """Another server certificate of the same authority, shown to new connections from now on."""
        async with self._renewing:
            await asyncio.to_thread(renew_server_pair, self._credentials)
            await self.reload_tls()

    async def reload_tls(self) -> None:
        """Read certificate, key, authority and revocations again, for new connections."""
        if self.on_tls_change is not None:
            await self.on_tls_change()

    def tls_context(self) -> ssl.SSLContext:
        """Two-way TLS as the files say it now. Raises RotationError if they do not fit."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self._credentials.path("ca.pem"))
            context.load_cert_chain(
                self._credentials.path("server_certificate.pem"), self._credentials.path("server_key.pem")
            )
        except (OSError, ssl.SSLError) as error:
            raise RotationError(f"the server's certificate files cannot be used ({type(error).__name__})") from error
        if self._in_force.revoked_serials:
            self._load_revocations(context)
        return context

    def _load_revocations(self, context: ssl.SSLContext) -> None:
        serials = [int(serial, 16) for serial in self._in_force.revoked_serials]
        path = self._credentials.path("revoked.pem")
        path.write_bytes(revocation_list(self._credentials, serials))
        context.load_verify_locations(path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    def _make_mle_key(self, key_id: str) -> Path:
        directory = self._directory(key_id)
        directory.mkdir(parents=True, mode=0o700)
        make_mle_pairs(directory)
        issued = self._issued_directory(f"mle-{key_id}")
        for name in _FOR_CLIENT:
            write_new(issued / name, (directory / name).read_bytes())
        return issued

    def _issued_directory(self, name: str) -> Path:
        directory = self._credentials.client_directory / "issued" / name
        directory.mkdir(parents=True, mode=0o700)
        return directory

    def _directory(self, key_id: str) -> Path:
        first = key_id == self._credentials.mle_key_id
        return self._credentials.directory if first else self._credentials.path("mle") / key_id

    def _read(self) -> _InForce:
        if not self._path.exists():
            return _InForce([self._credentials.mle_key_id])
        in_force = _InForce(**json.loads(self._path.read_bytes()))
        _forget_unfinished(self._credentials.path("mle"), in_force.mle_key_ids)
        return in_force

    def _write(self) -> None:
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
        write_new(unfinished, json.dumps(asdict(self._in_force)).encode())
        unfinished.replace(self._path)


def _forget_unfinished(directory: Path, kept: list[str]) -> None:
    """A kill while a key was made leaves its files, and nobody was told of them; retired ones are needed no more."""
    if directory.is_dir():
        for left in directory.iterdir():
            if left.name not in kept:
                shutil.rmtree(left)


def _public_jwk(pairs: MlePairs) -> dict[str, Any]:
    certificate = x509.load_pem_x509_certificate(pairs.server_certificate_pem)
    der = certificate.public_bytes(serialization.Encoding.DER)
    public: dict[str, Any] = pairs.server_key.export_public(as_dict=True)
    named = {"kid": pairs.key_id, "use": "enc", "alg": "RSA-OAEP-256"}
    return public | named | {"x5c": [base64.b64encode(der).decode("ascii")]}
