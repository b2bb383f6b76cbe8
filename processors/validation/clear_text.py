"""What may stand in clear in a row, a topic or a log, and what may not (promise P6)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Final

from processors.personal_data import FieldNamesOnly, is_plain_text
from processors.sealing import compact_header
from processors.validation.request import PayoutRequest
from schemas.card_numbers import looks_like_card_number

WITHHELD: Final = "[withheld]"
# As ValidationLimits: what is longer ends rejected, and an index of the ledger would not take it.
LONGEST_STORABLE_CHARACTERS: Final = 512

_ENCRYPTED_FIELDS: Final = frozenset(
    {"encrypted_card", "encrypted_account", "encrypted_wallet", "encrypted_alias", "personal_data"}
)
# Visa's transaction identifier has 15 digits; some of them pass every test for a 15-digit card number by chance.
_TRANSACTION_IDENTIFIER: Final = "transaction_identifier"
_TRANSACTION_IDENTIFIER_DIGITS: Final = 15


@dataclass(frozen=True, slots=True, repr=False)
class TextField(FieldNamesOnly):
    """One string of a request; `path` names it without quoting anything that the originator chose."""

    path: str
    text: str
    encrypted: bool


def text_fields(request: PayoutRequest) -> Iterator[TextField]:
    """Every string of the request, metadata keys and values included, in field order."""
    yield from _walk(request, "")


def _walk(value: object, path: str) -> Iterator[TextField]:
    if isinstance(value, StrEnum):
        return
    if isinstance(value, str):
        yield TextField(path, value, path.rpartition(".")[2] in _ENCRYPTED_FIELDS)
    elif isinstance(value, Mapping):
        for position, (key, item) in enumerate(value.items(), start=1):
            yield TextField(f"the key of {path} entry {position}", key, False)
            yield TextField(f"the value of {path} entry {position}", item, False)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from _walk(getattr(value, item.name), f"{path}.{item.name}" if path else item.name)


def holds_card_number(field: TextField) -> bool:
    """Whether the field looks like a card number in clear. The ciphertext of a JWE is exempt, its header is not."""
    if field.encrypted:
        header = compact_header(field.text)
        if header is not None:
            return any(isinstance(item, str) and looks_like_card_number(item) for item in header.values())
    is_transaction_identifier = (
        field.path.endswith(_TRANSACTION_IDENTIFIER)
        and len(field.text) == _TRANSACTION_IDENTIFIER_DIGITS
        and field.text.isdigit()
    )
    return not is_transaction_identifier and looks_like_card_number(field.text)


def storable(text: str) -> str:
    """`text` if it may stand in clear in a row or an event, else a fixed word.

    For the clear columns and headers of a payout that is about to be rejected: a card number must not be stored even
    to refuse it, PostgreSQL takes no zero byte, and an index takes no text of any length.
    """
    is_bounded = len(text) <= LONGEST_STORABLE_CHARACTERS
    return text if is_bounded and is_plain_text(text) and not looks_like_card_number(text) else WITHHELD
