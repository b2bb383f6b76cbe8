"""The reference under which Visa knows a payout: a published hash of its payout_id.

    "P" followed by the first 15 characters of base32(SHA-256(payout_id in UTF-8)), RFC 4648 alphabet

75 bits, so two of a billion payouts share one with a chance of about 1 in 75,000; nothing is decided by it alone.
The letter in front keeps digits from standing alone: it never looks like a card number.
"""

from __future__ import annotations

import base64
import hashlib

SENDER_REFERENCE_CHARACTERS = 16  # Visa's OpenAPI: senderReference has at most 16 characters
_DIGEST_BYTES = 10  # 16 characters of base32, of which 15 are taken


def sender_reference(payout_id: str) -> str:
    """The 16 characters of A-Z and 2-7 by which a payout is found at Visa."""
    digest = hashlib.sha256(payout_id.encode()).digest()
    return "P" + base64.b32encode(digest[:_DIGEST_BYTES]).decode()[: SENDER_REFERENCE_CHARACTERS - 1]
