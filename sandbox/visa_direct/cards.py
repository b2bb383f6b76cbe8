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
# tok_code_XX gets the action code XX, whichever it is: Visa's tables have some seventy.
_ANY_CODE: Final = re.compile(r"tok_code_([0-9A-Z]{2})(?:_|\Z)")

ActionCode = Annotated[str, Field(pattern=r"^[0-9A-Z]{2}$")]


class Scenario(BaseModel):
    """What happens to a push. ``reply_action_code`` is what the client is told when that is not the truth.

    ``response_code`` is who answered, one character; ``issuer_country`` (alpha-3) is where the card's issuer sits,
    which decides about conditional fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    action_code: ActionCode
    reply_action_code: ActionCode | None = None
    approval_code: Annotated[str, Field(max_length=6)] | None = None
    query_status: Literal["COMPLETED", "FAILED"] = "COMPLETED"
    response_code: Annotated[str, Field(pattern=r"^[0-9A-Z]$")] | None = None
    issuer_country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None


APPROVED: Final = Scenario(action_code="00")


class Attributes(BaseModel):
    """What an inquiry before the push says of a card; ``billing_currency`` is alphabetic."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    push_funds: bool = True
    fast_funds: bool = True
    issuer_name: str = "SANDBOX BANK"
    issuer_country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USA"
    billing_currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class _Card(Scenario):
    card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$", repr=False)]
    attributes: Attributes = Attributes()
    note: str


class Alias(BaseModel):
    """Whose alias it is, and which card it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    alias: str = Field(repr=False)
    card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$", repr=False)]
    name: str = Field(repr=False)
    issuer: str
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class _Token(Scenario):
    reference: Annotated[str, Field(min_length=1, max_length=75)]
    note: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    cards: list[_Card]
    tokens: list[_Token]
    aliases: list[Alias]


@dataclass(frozen=True, slots=True)
class Cards:
    """The scenarios of the data file. A recipient that it does not name is approved."""

    _by_recipient: dict[str, Scenario]
    _attributes: dict[str, Attributes]
    aliases: dict[str, Alias]

    @classmethod
    def from_file(cls, path: Path = CARDS_FILE) -> Self:
        """Read and check the data file. Raises pydantic.ValidationError, without quoting a card number."""
        file = _File.model_validate(yaml.safe_load(path.read_text("utf-8")))
        by_card: dict[str, Scenario] = {card.card_number: card for card in file.cards}
        by_token: dict[str, Scenario] = {token.reference: token for token in file.tokens}
        attributes = {card.card_number: card.attributes for card in file.cards}
        return cls(by_card | by_token, attributes, {alias.alias: alias for alias in file.aliases})

    def attributes(self, card_number: str) -> Attributes:
        """What an inquiry says of a card number; one that is not listed can take everything."""
        return self._attributes.get(card_number, Attributes())

    def scenario(self, recipient: str) -> Scenario:
        """The scenario of a card number or a token reference."""
        exact = self._by_recipient.get(recipient)
        if exact is not None or recipient.isdigit():
            return exact or APPROVED
        told = _ANY_CODE.match(recipient)
        if told is not None:
            return Scenario(action_code=told.group(1))
        return self._by_recipient.get(_RUNNING_NUMBER.sub("", recipient), APPROVED)
