"""Message level encryption (MLE), as Visa's encryption guide describes it.

A body travels as `{"encData": "<compact JWE>"}`: RSA-OAEP-256 with A128GCM (or A256GCM), the key id as `kid` and the
time as `iat` (epoch milliseconds, valid for two minutes) in the protected header, and the key id again as the HTTP
header `keyId`. Requests are encrypted to Visa's server certificate, answers to ours; one key id names both pairs.

MLE hides, it does not authenticate: anybody can encrypt to a certificate. Who answered is proven by TLS.

While a pair is renewed two of ours are in use: the next one is configured before Visa answers to it, and the retired
one is taken along (`retired`) because answers to calls under way, and late ones, still name it.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from processors.secrets import Secret

KEY_ENCRYPTION: Final = "RSA-OAEP-256"
CONTENT_ENCRYPTIONS: Final = frozenset({"A128GCM", "A256GCM"})
ENCRYPTED_MEMBER: Final = "encData"
# Visa's encryption guide asks for RSA-2048; smaller is not safe.
SMALLEST_RSA_BITS: Final = 2048
# A key and its successor, while Visa still answers to the old one. Each one more costs a failed RSA operation.
MOST_DECRYPTION_KEYS: Final = 4
# The header of a compact JWE is a few short members; more is not from Visa.
LONGEST_HEADER_BYTES: Final = 4096
# Five base64url parts; the JSON serialisations that the library would read as well are not Visa's.
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){4}")

ContentEncryption = Literal["A128GCM", "A256GCM"]


class MleError(Exception):
    """Encryption or decryption failed, or a key cannot be used. Never holds plaintext, ciphertext or key material."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """Visa's public key that requests are encrypted to, and until when its certificate is valid, if that is known."""

    key: jwk.JWK = field(repr=False)
    valid_until: datetime | None = None

    @classmethod
    def of_certificate(cls, pem: bytes) -> "ServerKey":
        """From a certificate in PEM. Raises MleError."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            public_key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise MleError("Visa's server encryption certificate is not an X.509 certificate in PEM") from None
        return cls(usable_server_key(public_key), certificate.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class DecryptionKey:
    """A private key of ours in PEM, and the key id it has at Visa."""

    key_id: str
    private_key_pem: Secret = field(repr=False)


class MessageEncryption:
    """Encrypts requests and decrypts answers.

    `key_id` names the pair in use and goes out as `keyId`; `decryption_keys` are ours, the retired one included while
    it may still be answered to. Without `server_certificate_pem` nothing is encrypted until `encrypt_to` brings a key.
    `retired` is what was in use before: its keys go on opening answers, as far as there is room for them. `clock` gives
    seconds since the epoch. Raises MleError for unusable keys.
    """

    __slots__ = ("_clock", "_content_encryption", "_decryption_keys", "_key_id", "_server_key")

    def __init__(
        self,
        *,
        key_id: str,
        server_certificate_pem: bytes | None,
        decryption_keys: Sequence[DecryptionKey],
        content_encryption: ContentEncryption = "A128GCM",
        retired: "MessageEncryption | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if content_encryption not in CONTENT_ENCRYPTIONS:
            raise MleError("content encryption must be A128GCM or A256GCM")
        if not 1 <= len(decryption_keys) <= MOST_DECRYPTION_KEYS:
            raise MleError(f"between 1 and {MOST_DECRYPTION_KEYS} decryption keys are needed")
        if len({key.key_id for key in decryption_keys}) != len(decryption_keys):
            raise MleError("two decryption keys have the same key id")
        if not key_id or not key_id.isascii() or not key_id.isprintable():
            raise MleError("the key id must be visible ASCII, it becomes a header")
        self._key_id = key_id
        self._content_encryption = content_encryption
        self._clock = clock
        self._server_key: ServerKey | None = None
        if server_certificate_pem is not None:
            self._server_key = ServerKey.of_certificate(server_certificate_pem)
        keys = [(key.key_id, _private_key(key)) for key in decryption_keys]
        if retired is not None:
            keys += retired._decryption_keys
        self._decryption_keys: list[tuple[str, jwk.JWK]] = _without_repeats(keys)

    def __repr__(self) -> str:
        return f"MessageEncryption(key_id={self._key_id!r}, decrypts_with={list(self.decrypts_with)!r})"

    @property
    def key_id(self) -> str:
        """The value of the HTTP header `keyId`."""
        return self._key_id

    @property
    def decrypts_with(self) -> tuple[str, ...]:
        """The ids of our keys that answers are opened with, the one in use first, the longest retired last."""
        return tuple(key_id for key_id, _ in self._decryption_keys)

    @property
    def server_key(self) -> ServerKey | None:
        """What requests are encrypted to; None while there is none, and nothing is encrypted."""
        return self._server_key

    def encrypt_to(self, server_key: ServerKey | None) -> None:
        """From the next request on, encrypt to this key; with None, encrypt nothing."""
        self._server_key = server_key

    def open_also(self, newer: "MessageEncryption") -> None:
        """Open answers to the keys of a newer one, too: Visa may answer to them while calls of before are under way."""
        own, *retired = self._decryption_keys
        self._decryption_keys = _without_repeats([own, *newer._decryption_keys, *retired])

    def encrypt(self, plaintext: bytes) -> bytes:
        """A request body around a fresh JWE: never the same twice, valid for two minutes."""
        if self._server_key is None:
            raise MleError("there is no key of Visa's to encrypt to; nothing is sent until there is")
        header = {
            "alg": KEY_ENCRYPTION,
            "enc": self._content_encryption,
            "kid": self._key_id,
            "iat": int(self._clock() * 1000),
        }
        try:
            token = jwe.JWE(plaintext, protected=json.dumps(header), recipient=self._server_key.key)
            compact: str = token.serialize(compact=True)
        except (JWException, ValueError, TypeError):
            raise MleError("the body could not be encrypted to Visa's certificate; check that certificate") from None
        return json.dumps({ENCRYPTED_MEMBER: compact}).encode("ascii")

    def decrypt(self, compact: str) -> bytes:
        """The plaintext of an answer's `encData`: tries the key it names first, then the others. Raises MleError."""
        if _COMPACT.fullmatch(compact) is None:
            raise MleError("the answer's encData is not a compact JWE")
        token = jwe.JWE(algs=[KEY_ENCRYPTION, *sorted(CONTENT_ENCRYPTIONS)])
        try:
            token.deserialize(compact)
            header = token.jose_header
        except (JWException, ValueError, TypeError, RecursionError):
            raise MleError("the answer's encData has no readable header") from None
        _check_header(header)
        for key in self._candidates(header.get("kid")):
            try:
                token.decrypt(key)
                plaintext: bytes = token.payload
            except (JWException, ValueError, TypeError):
                continue
            return plaintext
        raise MleError("none of our private keys opens the answer; was the key pair renewed at Visa?")

    def _candidates(self, key_id: object) -> list[jwk.JWK]:
        named = [key for name, key in self._decryption_keys if name == key_id]
        return named + [key for name, key in self._decryption_keys if name != key_id]


def _check_header(header: dict[str, Any]) -> None:
    # A compressed JWE lets a few bytes become very many, and Visa does not use it.
    if "zip" in header or len(json.dumps(header)) > LONGEST_HEADER_BYTES:
        raise MleError("the answer's JWE is compressed or has an oversized header")
    if header.get("alg") != KEY_ENCRYPTION or header.get("enc") not in CONTENT_ENCRYPTIONS:
        raise MleError("the answer's JWE does not use RSA-OAEP-256 with A128GCM or A256GCM")


def usable_server_key(public_key: object) -> jwk.JWK:
    """A public key that may be encrypted to. Raises MleError."""
    if not isinstance(public_key, rsa.RSAPublicKey) or public_key.key_size < SMALLEST_RSA_BITS:
        raise MleError(f"Visa's server encryption certificate must hold an RSA key of {SMALLEST_RSA_BITS} bits or more")
    return jwk.JWK.from_pyca(public_key)


def _without_repeats(keys: Sequence[tuple[str, jwk.JWK]]) -> list[tuple[str, jwk.JWK]]:
    """Each key once, and no more than are worth trying; a key renewed under the same id is another key."""
    kept: dict[tuple[str, str], jwk.JWK] = {}
    for key_id, key in keys:
        kept.setdefault((key_id, key.thumbprint()), key)
    return [(key_id, key) for (key_id, _), key in kept.items()][:MOST_DECRYPTION_KEYS]


def _private_key(key: DecryptionKey) -> jwk.JWK:
    try:
        loaded = jwk.JWK.from_pem(key.private_key_pem.reveal().encode())
        usable = loaded.has_private and loaded["kty"] == "RSA"
    except (JWException, ValueError, TypeError, UnsupportedAlgorithm):
        usable = False
    if not usable:
        raise MleError(f"decryption key {key.key_id!r} is not an unencrypted RSA private key in PEM")
    if loaded.get_op_key("decrypt").key_size < SMALLEST_RSA_BITS:
        raise MleError(f"decryption key {key.key_id!r} must have {SMALLEST_RSA_BITS} bits or more")
    return loaded
