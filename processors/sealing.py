"""Boxes that only we can open: the ledger's sealed columns, dead letters, and the JWE of personal data.

`Sealer`          symmetric, for what we write and read again (AES-256-GCM), bound to the row and column it is for
`EnvelopeSealer`  encrypt only, to a public key: what wrote a dead letter cannot read it back
`EnvelopeOpener`  the private half, held by the operator's tool
`encrypt_compact`, `decrypt_compact`  the one place where a compact JWE is made or opened

No error of this module holds any part of a key, a plaintext or a box.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
# One length byte carries the key id in a box.
LONGEST_KEY_ID_BYTES: Final = 255
# A Kafka record is at most 256 KiB here (rule K6); a sealed body stays far below.
LARGEST_BOX_PLAINTEXT_BYTES: Final = 1024 * 1024
# Below 2048 bits RSA is not considered safe; over 4096 one decryption costs more than a payout may.
SMALLEST_RSA_BITS: Final = 2048
LARGEST_RSA_BITS: Final = 4096

BOX_FORMAT: Final = 1
KEY_ENCRYPTION: Final = "RSA-OAEP-256"
CONTENT_ENCRYPTION: Final = "A256GCM"
CONTENT_ENCRYPTIONS_ACCEPTED: Final = frozenset({"A256GCM", "A128GCM"})
_HEADERS_ACCEPTED: Final = frozenset({"alg", "enc", "kid", "typ", "cty", "iat", "crit"})


class SealingError(Exception):
    """Root of what this module raises. The texts name a cause and a remedy, never content.

    SealingError
    ├── BoxNotOpened       wrong purpose or subject, damaged, or not one of ours
    ├── SealingKeyUnknown  the box or envelope names a key that this process does not hold
    └── SealingKeyInvalid  a configured key has the wrong form or size
    """


class BoxNotOpened(SealingError):
    """The box does not open with these arguments: damaged, moved from another row or column, or not a box."""


class SealingKeyUnknown(SealingError):
    """No key of that id is configured here; add the retired key to the configuration and try again."""


class SealingKeyInvalid(SealingError):
    """A configured key cannot be used; the message says which and why."""


class Sealer:
    """AES-256-GCM boxes bound to a purpose (which column) and a subject (which payout).

    Every box has a key of its own, derived by HKDF-SHA256 from the named key, the purpose and the subject; so random
    nonces never come near their bound, however many payouts one named key serves. The key id travels in the box and
    is authenticated; retired keys stay in `keys` for as long as boxes made with them exist.
    """

    __slots__ = ("_current", "_keys")

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        """`keys` maps key id to 32 bytes; `current` seals, all of them open. Raises SealingKeyInvalid."""
        for key_id, key in keys.items():
            if len(key) != KEY_BYTES:
                raise SealingKeyInvalid(f"sealing key {key_id!r} has {len(key)} bytes and must have {KEY_BYTES}")
            if not 0 < len(key_id.encode()) <= LONGEST_KEY_ID_BYTES:
                raise SealingKeyInvalid(f"a sealing key id must have 1 to {LONGEST_KEY_ID_BYTES} bytes")
        if current not in keys:
            raise SealingKeyInvalid(f"the current sealing key {current!r} is not among the configured keys")
        self._keys = dict(keys)
        self._current = current

    def __repr__(self) -> str:
        return f"Sealer(current={self._current!r}, keys={sorted(self._keys)!r})"

    @property
    def current_key_id(self) -> str:
        """The id of the key that seals."""
        return self._current

    def seal(self, plaintext: bytes, purpose: str, subject: str) -> bytes:
        """Box `plaintext`; opens only with the same purpose and subject. Raises ValueError over 1 MiB."""
        if len(plaintext) > LARGEST_BOX_PLAINTEXT_BYTES:
            raise ValueError(f"{len(plaintext)} bytes exceed the {LARGEST_BOX_PLAINTEXT_BYTES} that one box may hold")
        key_id = self._current.encode()
        header = bytes([BOX_FORMAT, len(key_id)]) + key_id
        context = _context(header, purpose, subject)
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + _box_cipher(self._keys[self._current], context).encrypt(nonce, plaintext, context)

    def open(self, box: bytes, purpose: str, subject: str) -> bytes:
        """The plaintext. Raises SealingKeyUnknown or BoxNotOpened, without content."""
        header, body = _split_box(box)
        key = self._keys.get(header[2:].decode(errors="replace"))
        if key is None:
            raise SealingKeyUnknown("the box names a sealing key that is not configured; add the retired key")
        context = _context(header, purpose, subject)
        try:
            return _box_cipher(key, context).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], context)
        except InvalidTag:
            raise BoxNotOpened(
                "the box does not open for this purpose and payout: it is damaged or belongs to another row or column"
            ) from None


def _split_box(box: bytes) -> tuple[bytes, bytes]:
    if len(box) < 2 or box[0] != BOX_FORMAT or len(box) < 2 + box[1] + NONCE_BYTES + TAG_BYTES:
        raise BoxNotOpened("these bytes are not a sealed box of a format this version knows")
    end = 2 + box[1]
    return box[:end], box[end:]


def _context(header: bytes, purpose: str, subject: str) -> bytes:
    parts = (header, purpose.encode(), subject.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _box_cipher(key: bytes, context: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"payout-box-1" + context).derive(key))


def load_public_key(source: Mapping[str, Any] | str | bytes) -> jwk.JWK:
    """An RSA public key from a JWK (mapping or JSON) or PEM; its id is the JWK's `kid`, else the RFC 7638 thumbprint.

    A private key is accepted and only its public half kept. Raises SealingKeyInvalid.
    """
    key = _load_rsa_key(source)
    public = jwk.JWK(**key.export_public(as_dict=True))
    public.setdefault("kid", key.thumbprint())
    return public


def load_private_key(source: Mapping[str, Any] | str | bytes) -> jwk.JWK:
    """An RSA private key from a JWK (mapping or JSON) or PEM; id as in `load_public_key`. Raises SealingKeyInvalid."""
    key = _load_rsa_key(source)
    if not key.has_private:
        raise SealingKeyInvalid("the key is a public key; a private key is needed to open what was encrypted to it")
    key.setdefault("kid", key.thumbprint())
    return key


def _load_rsa_key(source: Mapping[str, Any] | str | bytes) -> jwk.JWK:
    try:
        if isinstance(source, Mapping):
            key = jwk.JWK(**source)
        else:
            text = source.encode() if isinstance(source, str) else source
            key = jwk.JWK.from_json(text) if text.lstrip().startswith(b"{") else jwk.JWK.from_pem(text)
        modulus_bits = _modulus_bits(key) if key.get("kty") == "RSA" else 0
    except (JWException, ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        raise SealingKeyInvalid("the key is neither a readable JWK nor an unencrypted PEM key") from None
    if not SMALLEST_RSA_BITS <= modulus_bits <= LARGEST_RSA_BITS:
        raise SealingKeyInvalid(f"the key must be RSA with {SMALLEST_RSA_BITS} to {LARGEST_RSA_BITS} bits")
    return key


def _modulus_bits(key: jwk.JWK) -> int:
    public: dict[str, str] = key.export_public(as_dict=True)
    modulus = base64.urlsafe_b64decode(public["n"] + "=" * (-len(public["n"]) % 4))
    return int.from_bytes(modulus, "big").bit_length()


def encrypt_compact(public_key: jwk.JWK, plaintext: bytes) -> str:
    """A compact JWE: RSA-OAEP-256, A256GCM, `kid` in the protected header."""
    header = {"alg": KEY_ENCRYPTION, "enc": CONTENT_ENCRYPTION, "kid": public_key["kid"]}
    token = jwe.JWE(plaintext, protected=json.dumps(header), recipient=public_key)
    serialized: str = token.serialize(compact=True)
    return serialized


def compact_header(token: str) -> dict[str, Any] | None:
    """The protected header of a compact JWE, or None when the text has not the shape of one. Nothing is decrypted."""
    parts = token.split(".")
    if len(parts) != 5 or not token.isascii() or not all(parts[index] for index in (0, 1, 2, 4)):
        return None
    try:
        raw = base64.b64decode(parts[0] + "=" * (-len(parts[0]) % 4), altchars=b"-_", validate=True)
        header = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def decrypt_compact(
    keys: Mapping[str, jwk.JWK], token: str, *, largest_token_bytes: int, largest_plaintext_bytes: int
) -> bytes:
    """Open a compact JWE with the key that its header names.

    Accepts RSA-OAEP-256 with A256GCM or A128GCM only, and no compression (a few bytes could become many). Raises
    BoxNotOpened or SealingKeyUnknown, without content.
    """
    if len(token) > largest_token_bytes:
        raise BoxNotOpened(f"the JWE is longer than {largest_token_bytes} bytes")
    header = compact_header(token)
    if header is None:
        raise BoxNotOpened("the text is not a compact JWE (five base64url parts)")
    _check_header(header)
    kid = header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise SealingKeyUnknown(
            "the JWE names no key id that is known here; fetch the published key set and encrypt again"
        )
    plaintext = _decrypt(key, token)
    if len(plaintext) > largest_plaintext_bytes:
        raise BoxNotOpened(f"the decrypted content is longer than {largest_plaintext_bytes} bytes")
    return plaintext


def _check_header(header: Mapping[str, Any]) -> None:
    if "zip" in header:
        raise BoxNotOpened("the JWE is compressed; send it without a zip header")
    if header.get("alg") != KEY_ENCRYPTION or header.get("enc") not in CONTENT_ENCRYPTIONS_ACCEPTED:
        raise BoxNotOpened("the JWE must use alg RSA-OAEP-256 and enc A256GCM or A128GCM")
    if header.get("crit") or not _HEADERS_ACCEPTED.issuperset(header):
        raise BoxNotOpened("the JWE header holds parameters that are not understood here; send alg, enc and kid only")


def _decrypt(key: jwk.JWK, token: str) -> bytes:
    opened = jwe.JWE(algs=[KEY_ENCRYPTION, *sorted(CONTENT_ENCRYPTIONS_ACCEPTED)])
    try:
        opened.deserialize(token)
        opened.decrypt(key)
    except (JWException, ValueError, TypeError):
        # The library takes an empty plaintext, which it decrypted and authenticated, for a failure.
        if opened.plaintext == b"" and "Success" in (opened.decryptlog or ()):
            return b""
        raise BoxNotOpened("the JWE does not decrypt: it is damaged or was encrypted to another key") from None
    plaintext: bytes = opened.payload
    return plaintext


class EnvelopeSealer:
    """Encrypts to a public key and cannot decrypt: for dead letters, which may hold a card number (rule K6)."""

    __slots__ = ("_key",)

    def __init__(self, public_key: Mapping[str, Any] | str | bytes) -> None:
        """`public_key` is a JWK or PEM, RSA. Raises SealingKeyInvalid."""
        self._key = load_public_key(public_key)

    def __repr__(self) -> str:
        return f"EnvelopeSealer(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """The id in every envelope's header."""
        return str(self._key["kid"])

    def seal(self, plaintext: bytes) -> bytes:
        """A compact JWE as ASCII bytes. Raises ValueError over 1 MiB; the caller shortens first and says so."""
        if len(plaintext) > LARGEST_BOX_PLAINTEXT_BYTES:
            raise ValueError(
                f"{len(plaintext)} bytes exceed the {LARGEST_BOX_PLAINTEXT_BYTES} that one envelope may hold"
            )
        return encrypt_compact(self._key, plaintext).encode("ascii")


class EnvelopeOpener:
    """Opens what an `EnvelopeSealer` made, with the private key that the envelope names."""

    __slots__ = ("_keys",)

    def __init__(self, private_keys: Iterable[Mapping[str, Any] | str | bytes]) -> None:
        """`private_keys` are JWKs or PEMs, RSA. Raises SealingKeyInvalid."""
        loaded = [load_private_key(key) for key in private_keys]
        self._keys: dict[str, jwk.JWK] = {str(key["kid"]): key for key in loaded}

    def __repr__(self) -> str:
        return f"EnvelopeOpener(keys={sorted(self._keys)!r})"

    def open(self, envelope: bytes) -> bytes:
        """The plaintext. Raises BoxNotOpened or SealingKeyUnknown, without content."""
        try:
            token = envelope.decode("ascii")
        except UnicodeDecodeError:
            raise BoxNotOpened("these bytes are not an envelope: a compact JWE is ASCII") from None
        # base64url makes four bytes of three; a kilobyte covers header and wrapped key.
        return decrypt_compact(
            self._keys,
            token,
            largest_token_bytes=LARGEST_BOX_PLAINTEXT_BYTES * 4 // 3 + 4096,
            largest_plaintext_bytes=LARGEST_BOX_PLAINTEXT_BYTES,
        )
