"""What people type that is stored: names, reasons, notes."""

from typing import Final

from ops.failures import refused, usage_error
from processors.personal_data import is_plain_text
from schemas.card_numbers import looks_like_card_number

TEXT_CHARACTERS_MAX: Final = 500


def checked_text(text: str, option: str) -> str:
    """The text, if it may be stored and shown. Raises CommandFailed without quoting it."""
    text = text.strip()
    if len(text) > TEXT_CHARACTERS_MAX:
        raise usage_error(f"{option} is longer than {TEXT_CHARACTERS_MAX} characters", next_step="shorten it")
    if not is_plain_text(text):
        raise usage_error(f"{option} holds control characters", next_step="give it as one line of text")
    if looks_like_card_number(text):
        raise refused(
            f"{option} looks like it holds a card number",
            why="what is given here is stored in clear",
            next_step="name the payout by its payout_id",
        )
    return text
