"""What a payout's id may be."""

from __future__ import annotations

import re

from schemas.card_numbers import looks_like_card_number

PAYOUT_ID_PATTERN = "[A-Za-z0-9_-]{8,64}"
_PATTERN = re.compile(PAYOUT_ID_PATTERN)


def payout_id_problem(text: str) -> str | None:
    """Why a text is no payout id, for people and without quoting it; None when it is one."""
    if not _PATTERN.fullmatch(text):
        return "a payout_id has 8 to 64 characters of A-Z, a-z, 0-9, underscore and hyphen"
    # An underscore separates like a hyphen here; elsewhere it is part of a name.
    if looks_like_card_number(text.replace("_", "-")):
        return "the payout_id looks like a card number"
    return None


def is_payout_id(text: str) -> bool:
    """Whether a text may be a payout id."""
    return payout_id_problem(text) is None
