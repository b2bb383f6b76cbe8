"""Whether two requests under one payout_id are the same request (rule L8, promise P5).

Equal bytes are equal. Otherwise the decrypted money, party and funding fields decide: producers encrypt with random
IVs, so a re-encrypted request has other bytes and the same content. Both are compared as keyed hashes, because a
plain hash of a card number can be reversed by trying them all.

Not part of the content: requested_at, any expires_at, correlation_id, metadata. Fields at their default are left out,
so a field that a later schema adds, unset, does not change the hash of an older request.
"""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from processors.money import Money
from processors.personal_data import Card
from processors.validation.opened import (
    OpenedRequest,
    Unreadable,
    encrypted_destination_card,
    encrypted_destination_details,
    encrypted_funding_card,
)
from processors.validation.request import PayoutRequest

SMALLEST_KEY_BYTES: Final = 32
# The form of the canonical text is part of the hash: a change of form is a new name here and a migration.
_CONTENT_FORM: Final = b"payout-content/1\x00"
_BYTES_FORM: Final = b"payout-bytes/1\x00"
_NEVER_CONTENT: Final = frozenset({"requested_at", "expires_at", "correlation_id", "metadata"})
# Replaced by what they decrypt to.
_ENCRYPTED: Final = frozenset(
    {"personal_data", "encrypted_card", "encrypted_account", "encrypted_wallet", "encrypted_alias"}
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ContentKeyInvalid(ValueError):
    """A configured content key is too short, or the current version is missing."""


class ContentKeyUnknown(Exception):
    """A digest names a key version that is not configured; content keys live as long as the rows (rule L8)."""


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """Two keyed hashes (HMAC-SHA256) of one request, under a named version of the key."""

    key_version: str
    bytes_hmac: bytes
    content_hmac: bytes


class ContentKeys:
    """HMAC keys by version. Old versions stay: a duplicate is compared under the version its row was hashed with."""

    __slots__ = ("_current", "_keys")

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        """`keys` maps version to at least 32 bytes. Raises ContentKeyInvalid."""
        for version, key in keys.items():
            if len(key) < SMALLEST_KEY_BYTES:
                raise ContentKeyInvalid(f"content key {version!r} has fewer than {SMALLEST_KEY_BYTES} bytes")
        if current not in keys:
            raise ContentKeyInvalid(f"the current content key version {current!r} is not configured")
        self._keys = dict(keys)
        self._current = current

    def __repr__(self) -> str:
        return f"ContentKeys(current={self._current!r}, versions={sorted(self._keys)!r})"

    @property
    def current_version(self) -> str:
        """The version that new rows are hashed with."""
        return self._current

    def hmac(self, version: str, message: bytes) -> bytes:
        """HMAC-SHA256 under that version. Raises ContentKeyUnknown."""
        key = self._keys.get(version)
        if key is None:
            raise ContentKeyUnknown(f"content key version {version!r} is not configured; restore it before going on")
        return hmac.digest(key, message, "sha256")


def content_digest(
    keys: ContentKeys,
    request: PayoutRequest,
    opened: OpenedRequest,
    raw_bytes: bytes,
    *,
    key_version: str | None = None,
) -> ContentDigest:
    """The digest of one request, under the current key or, to compare with a stored row, under that row's version.

    `raw_bytes` is the record's value as it came from Kafka. Raises ContentKeyUnknown.
    """
    version = keys.current_version if key_version is None else key_version
    return ContentDigest(
        key_version=version,
        bytes_hmac=keys.hmac(version, _BYTES_FORM + raw_bytes),
        content_hmac=keys.hmac(version, _CONTENT_FORM + _canonical_text(request, opened)),
    )


def same_content(stored: ContentDigest, incoming: ContentDigest) -> bool:
    """Whether both digests are of the same request: equal bytes, or equal content.

    Raises ValueError when the key versions differ: compute `incoming` under `stored.key_version` first.
    """
    if stored.key_version != incoming.key_version:
        raise ValueError("digests under different key versions cannot be compared; recompute under the stored version")
    equal_bytes = hmac.compare_digest(stored.bytes_hmac, incoming.bytes_hmac)
    equal_content = hmac.compare_digest(stored.content_hmac, incoming.content_hmac)
    return equal_bytes or equal_content


def _canonical_text(request: PayoutRequest, opened: OpenedRequest) -> bytes:
    content = {
        "request": _canonical(request),
        "personal": _decrypted(opened.personal, request.personal_data),
        "destination_card": _decrypted(opened.destination_card, encrypted_destination_card(request.destination)),
        "funding_card": _decrypted(opened.funding_card, encrypted_funding_card(request.funding)),
        "destination_details": _decrypted(
            opened.destination_details, encrypted_destination_details(request.destination)
        ),
    }
    return json.dumps(_without_defaults(content), sort_keys=True, separators=(",", ":")).encode("ascii")


def _decrypted(opened: object, token: str | None) -> object:
    # What does not open is compared as the text it came in: a second copy of the same bytes still matches.
    return {"unreadable": token} if isinstance(opened, Unreadable) else _canonical(opened)


def _canonical(value: object) -> object:
    if isinstance(value, Card):
        return {"number": value.number.reveal(), "expiry": value.expiry}
    if isinstance(value, Money):
        # Written out, not walked: an amount is content even when it is zero.
        return {"amount_minor": str(value.amount_minor), "currency": value.currency}
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _canonical(getattr(value, item.name))
            for item in fields(value)
            if item.name not in _NEVER_CONTENT and item.name not in _ENCRYPTED
        }
    return str(value) if isinstance(value, StrEnum) else value


def _without_defaults(value: object) -> object:
    if isinstance(value, dict):
        kept = {name: _without_defaults(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if not _is_default(item)}
    return value


def _is_default(value: object) -> bool:
    return value in (None, "", False, 0, "UNSPECIFIED") or value == {}
