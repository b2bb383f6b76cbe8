"""How the stand-in names a recipient without keeping the card number."""

import hashlib
import hmac


def recipient_fingerprint(key: bytes, recipient: str) -> str:
    """HMAC-SHA256 of a card number or a token reference, as 64 lower-case hexadecimal digits.

    Keyed, because a plain hash of a card number can be reversed by trying them all. The key lies in
    ``credentials/fingerprint.key`` of the stand-in's state directory, so an auditor can compute the same.
    """
    return hmac.new(key, recipient.encode("utf-8"), hashlib.sha256).hexdigest()
