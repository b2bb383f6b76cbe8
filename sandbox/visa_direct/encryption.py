"""Message level encryption as Visa's encryption guide describes it.

Header ``keyId``, body ``{"encData": "<compact JWE>"}``, RSA-OAEP-256 with A128GCM or A256GCM, ``kid`` and
``iat`` (epoch milliseconds) in the protected header. One key id names the pairs of both directions.
"""

import json
from collections.abc import Callable

from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from sandbox.visa_direct.credentials import SandboxCredentials
from sandbox.visa_direct.refusal import CREDENTIAL_NOT_PRESENT, Refusal
from sandbox.visa_direct.settings import MLE_VALIDITY_MS

ALGORITHMS = ["RSA-OAEP-256", "A128GCM", "A256GCM"]


class MessageEncryption:
    """Opens what a client encrypted to the server's certificate, closes answers to the client's."""

    def __init__(self, credentials: SandboxCredentials, clock: Callable[[], float], invalid_code: str) -> None:
        self._key_id = credentials.mle_key_id
        self._clock = clock
        # What Visa answers to a stale or undecryptable JWE is not public; hence a setting.
        self._invalid_code = invalid_code
        self._server_key = jwk.JWK.from_pem(credentials.path("mle_server_private_key.pem").read_bytes())
        self._client_key = jwk.JWK.from_pem(credentials.path("mle_client_certificate.pem").read_bytes())

    def require_key_id(self, key_id: str | None) -> None:
        """Refuse a request without the header that says how to encrypt the answer (400, 9125)."""
        if not key_id:
            raise Refusal(400, CREDENTIAL_NOT_PRESENT, "Expected input credential was not present")
        if key_id != self._key_id:
            raise self._invalid("keyId is not a key of this project")

    def open(self, key_id: str | None, body: bytes) -> bytes:
        """The plaintext of an encrypted request body. Raises Refusal (400)."""
        self.require_key_id(key_id)
        compact = _encrypted_part(body)
        try:
            token = jwe.JWE(algs=ALGORITHMS)
            token.deserialize(compact)
            self._check_header(token.jose_header)
            token.decrypt(self._server_key)
        except (JWException, ValueError, TypeError, KeyError) as error:
            raise self._invalid("encData cannot be decrypted") from error
        plaintext: bytes = token.payload
        return plaintext

    def close(self, plaintext: bytes) -> bytes:
        """An answer body, encrypted to the client's certificate."""
        header = {
            "alg": "RSA-OAEP-256",
            "enc": "A128GCM",
            "kid": self._key_id,
            "iat": int(self._clock() * 1000),
            "typ": "JWE",
        }
        token = jwe.JWE(plaintext, protected=json.dumps(header), recipient=self._client_key)
        return json.dumps({"encData": token.serialize(compact=True)}).encode()

    def _check_header(self, header: dict[str, object]) -> None:
        if header.get("kid") != self._key_id:
            raise self._invalid("kid is not a key of this project")
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
