"""Which test card or token gets which outcome: the data file, read once and checked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

CARDS_FILE: Final = Path(__file__).with_name("test_cards.yaml")
# tok_decline_51_000123 behaves like tok_decline_51: load runs need many recipients of one kind.
_RUNNING_NUMBER: Final = re.compile(r"_[0-9]+\Z")

ActionCode = Annotated[str, Field(pattern=r"^[0-9A-Z]{2}$")]


class Scenario(BaseModel):
    """What happens to a push. ``reply_action_code`` is what the client is told when that is not the truth."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    action_code: ActionCode
    reply_action_code: ActionCode | None = None
    approval_code: Annotated[str, Field(max_length=6)] | None = None
    query_status: Literal["COMPLETED", "FAILED"] = "COMPLETED"


APPROVED: Final = Scenario(action_code="00")


class _Card(Scenario):
    card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$", repr=False)]
    note: str


class _Token(Scenario):
    reference: Annotated[str, Field(min_length=1, max_length=75)]
    note: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    cards: list[_Card]
    tokens: list[_Token]


@dataclass(frozen=True, slots=True)
class Cards:
    """The scenarios of the data file. A recipient that it does not name is approved."""

    _by_recipient: dict[str, Scenario]

    @classmethod
    def from_file(cls, path: Path = CARDS_FILE) -> Self:
        """Read and check the data file. Raises pydantic.ValidationError, without quoting a card number."""
        file = _File.model_validate(yaml.safe_load(path.read_text("utf-8")))
        by_card: dict[str, Scenario] = {card.card_number: card for card in file.cards}
        by_token: dict[str, Scenario] = {token.reference: token for token in file.tokens}
        return cls(by_card | by_token)

    def scenario(self, recipient: str) -> Scenario:
        """The scenario of a card number or a token reference."""
        exact = self._by_recipient.get(recipient)
        if exact is not None or recipient.isdigit():
            return exact or APPROVED
        return self._by_recipient.get(_RUNNING_NUMBER.sub("", recipient), APPROVED)
