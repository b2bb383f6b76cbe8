"""The kinds of personal data that are looked for in texts (requirement S1-10)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a hit is. Where two overlap the one named first counts."""

    CARD = "CARD"
    CARD_MASKED = "CARD_MASKED"
    ACCOUNT = "ACCOUNT"
    SSN = "SSN"
    CVV = "CVV"
    PIN = "PIN"
    EXPIRY = "EXPIRY"
    EMAIL = "EMAIL"
    PHONE = "PHONE"


ALL_KINDS: Final = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Hit:
    """Where personal data stands in a text: characters from `start` up to, not including, `end`. Never the value."""

    kind: Kind
    start: int
    end: int
