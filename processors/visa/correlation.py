"""The id under which a payout's calls reach Visa: chosen once by its payout_id, the same after any retry or restart.

    originator   the originator's own correlation id, as it came
    uuid         a UUID of version 5
    ulid         a ULID: when the broker took the request, then 80 bits of a hash; sorts by time
    prefix+ts    PREFIX-1767225600000-5f0c…: the same time in milliseconds, then 64 bits of a hash

Nothing is drawn or remembered: whoever knows payout_id and received_at, both fixed with the row, knows the id. Whatever
the format, the originator's correlation id stays on every event and in every log line; ours stands beside it.
"""

import functools
import hashlib
import itertools
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from ulid import ULID

from processors.payout.row import PayoutRow
from processors.visa.fields import RequestInvalid, header_value
from schemas.card_numbers import looks_like_card_number

# Fixed for ever: a payout must keep its id when the program is updated.
_REQUEST_IDS: Final = uuid.UUID("0d1b6a8e-55f4-5c0e-8f5e-7a9b1c2d3e4f")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ULID_MILLISECONDS_MAX: Final = 2**48 - 1
_ULID_HASH_BYTES: Final = 10
_SUFFIX_BYTES: Final = 8
DEFAULT_PREFIX: Final = "visa-sdk"
PREFIX_PATTERN: Final = "^[A-Za-z][A-Za-z0-9._-]{0,31}$"
_PREFIX: Final = re.compile(PREFIX_PATTERN)


class RequestIdFormat(StrEnum):
    """What the id looks like."""

    ORIGINATOR = "originator"
    UUID = "uuid"
    ULID = "ulid"
    PREFIX_TS = "prefix+ts"


@dataclass(frozen=True, slots=True)
class RequestIds:
    """The ids of one installation."""

    form: RequestIdFormat = RequestIdFormat.ORIGINATOR
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        """Raises ValueError for a prefix that could not stand in a header, or that could be taken for a number."""
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"the prefix must match {PREFIX_PATTERN}")

    def of(self, row: PayoutRow) -> str:
        """The id of every call of this payout; fits a header."""
        if self.form is RequestIdFormat.ORIGINATOR:
            return originators_id(row.correlation_id)
        return outbound_id(row.payout_id, row.received_at, self.form, self.prefix)


def originators_id(correlation_id: str) -> str:
    """The originator's id as a header; one that no header can carry goes out as a name derived from it."""
    try:
        return header_value("correlation_id", correlation_id)
    except RequestInvalid:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, correlation_id))


@functools.lru_cache(maxsize=4_096)  # asked for with each event and call of a payout
def outbound_id(payout_id: str, received_at: datetime, form: RequestIdFormat, prefix: str = DEFAULT_PREFIX) -> str:
    """The id in one of our own formats. `received_at` is aware; a time that no ULID can hold counts as its nearest.

    By chance an id may look like a card number (P6); the next one in line is taken then, always the same.
    Raises ValueError for `originator`, which is not ours.
    """
    names = itertools.chain([payout_id], (f"{payout_id}\n{again}" for again in itertools.count(1)))
    candidates = (_candidate(name, received_at, form, prefix) for name in names)
    return next(candidate for candidate in candidates if not looks_like_card_number(candidate))


def _candidate(name: str, received_at: datetime, form: RequestIdFormat, prefix: str) -> str:
    milliseconds = min(max((received_at - _EPOCH) // timedelta(milliseconds=1), 0), _ULID_MILLISECONDS_MAX)
    digest = hashlib.sha256(_REQUEST_IDS.bytes + name.encode()).digest()
    match form:
        case RequestIdFormat.UUID:
            return str(uuid.uuid5(_REQUEST_IDS, name))
        case RequestIdFormat.ULID:
            return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + digest[:_ULID_HASH_BYTES]))
        case RequestIdFormat.PREFIX_TS:
            return f"{prefix}-{milliseconds}-{digest[:_SUFFIX_BYTES].hex()}"
        case RequestIdFormat.ORIGINATOR:
            raise ValueError("the originator's own id is not derived")
