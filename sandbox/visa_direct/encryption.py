"""Message level encryption as Visa's encryption guide describes it.

Header ``keyId``, body ``{"encData": "<compact JWE>"}``, RSA-OAEP-256 with A128GCM or A256GCM, ``kid`` and
``iat`` (epoch milliseconds) in the protected header. One key id names the pairs of both directions; while a key is
renewed there are several key ids, and an answer belongs to the key id of its request unless told otherwise.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from sandbox.visa_direct.refusal import CREDENTIAL_NOT_PRESENT, Refusal
from sandbox.visa_direct.settings import MLE_VALIDITY_MS

ALGORITHMS = ["RSA-OAEP-256", "A128GCM", "A256GCM"]


@dataclass(frozen=True, slots=True)
class MlePairs:
    """What one key id names: the pair that opens requests, and the client's certificate that closes answers."""

    key_id: str
    server_certificate_pem: bytes = field(repr=False)
    server_key: jwk.JWK = field(repr=False)
    client_certificate: jwk.JWK = field(repr=False)

    @classmethod
    def read(cls, key_id: str, directory: Path) -> Self:
        """The pairs in the files of ``directory``."""
        return cls(
            key_id,
            (directory / "mle_server_certificate.pem").read_bytes(),
            jwk.JWK.from_pem((directory / "mle_server_private_key.pem").read_bytes()),
            jwk.JWK.from_pem((directory / "mle_client_certificate.pem").read_bytes()),
        )


class MessageEncryption:
    """Opens what a client encrypted to the server's certificate, closes answers to the client's."""

    def __init__(self, pairs: Mapping[str, MlePairs], clock: Callable[[], float], invalid_code: str) -> None:
        """``pairs`` by key id is looked at again at each request: keys come and go."""
        self._pairs = pairs
        self._clock = clock
        # What Visa answers to a stale or undecryptable JWE is not public; hence a setting.
        self._invalid_code = invalid_code

    def require_key_id(self, key_id: str | None) -> MlePairs:
        """The pairs of the header's key id: it says how to encrypt the answer. Raises Refusal (400, 9125)."""
        if not key_id:
            raise Refusal(400, CREDENTIAL_NOT_PRESENT, "Expected input credential was not present")
        pairs = self._pairs.get(key_id)
        if pairs is None:
            raise self._invalid("keyId is not a key of this project")
        return pairs

    def open(self, pairs: MlePairs, body: bytes) -> bytes:
        """The plaintext of an encrypted request body. Raises Refusal (400)."""
        compact = _encrypted_part(body)
        try:
            token = jwe.JWE(algs=ALGORITHMS)
            token.deserialize(compact)
            self._check_header(token.jose_header, pairs.key_id)
            token.decrypt(pairs.server_key)
        except (JWException, ValueError, TypeError, KeyError) as error:
            raise self._invalid("encData cannot be decrypted") from error
        plaintext: bytes = token.payload
        return plaintext

    def close(self, pairs: MlePairs, plaintext: bytes) -> bytes:
        """An answer body, encrypted to the client's certificate."""
        header = {
            "alg": "RSA-OAEP-256",
            "enc": "A128GCM",
            "kid": pairs.key_id,
            "iat": int(self._clock() * 1000),
            "typ": "JWE",
        }
        token = jwe.JWE(plaintext, protected=json.dumps(header), recipient=pairs.client_certificate)
        return json.dumps({"encData": token.serialize(compact=True)}).encode()

    def _check_header(self, header: dict[str, object], key_id: str) -> None:
        if header.get("kid") != key_id:
            raise self._invalid("kid is not the key that the keyId header names")
        issued_at_ms = header.get("iat")
        if not isinstance(issued_at_ms, int) or isinstance(issued_at_ms, bool):
            raise self._invalid("iat in the JWE header must be an integer, in milliseconds")
        if abs(int(self._clock() * 1000) - issued_at_ms) > MLE_VALIDITY_MS:
            raise self._invalid("iat in the JWE header is more than two minutes away")

    def _invalid(self, why: str) -> Refusal:
        return Refusal(400, self._invalid_code, f"Message level encryption failed: {why}")


def _encrypted_part(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    compact = document.get("encData") if isinstance(document, dict) else None
    if not isinstance(compact, str) or not compact:
        raise Refusal(400, CREDENTIAL_NOT_PRESENT, "Expected input credential was not present")
    return compact
