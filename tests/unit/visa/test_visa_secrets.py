"""P6: a secret shows itself only through `reveal()`."""

import copy
import dataclasses
import json
import logging
import pickle
import traceback

import pytest

from processors.secrets import CardNumber, Secret
from processors.visa.requests import Party, Recipient, TokenReference, VisaRequest

CARD = "4957030420210462"
WORD = "correct horse battery staple"


def shown(value: object) -> str:
    """Everything Python prints a value with."""
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (value, value), None)
    return " ".join([repr(value), str(value), f"{value}", f"{value!r:>40}", repr([value]), record.getMessage()])


@pytest.mark.parametrize("value", [Secret(WORD), CardNumber(CARD)])
def test_no_printing_shows_the_value(value: Secret) -> None:
    """P6."""
    assert value.reveal() not in shown(value)
    assert type(value).__name__ in shown(value)


def test_records_that_hold_secrets_and_personal_data_show_names_of_fields_only() -> None:
    """P6: dataclasses around secrets do not print them, and personal data prints as little."""
    party = Party(name="Jane Q. Public", city="Springfield", country_code="US")
    values = [
        party,
        Recipient(party=party, card=CardNumber(CARD), card_expiry="2030-12"),
        TokenReference(value=Secret("tok_private")),
        VisaRequest(operation=None, method="POST", path="/x", body=CARD.encode()),  # type: ignore[arg-type]
    ]
    text = " ".join(shown(value) for value in values)
    for private in (CARD, "Jane", "Springfield", "2030-12", "tok_private"):
        assert private not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(protocol: int) -> None:
    """P6: nothing carries it to a file or another process by accident."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps([CardNumber(CARD)], protocol)
    assert CARD not in "".join(traceback.format_exception(caught.value))


def test_a_secret_is_not_json_and_has_no_dictionary() -> None:
    """P6."""
    with pytest.raises(TypeError):
        json.dumps({"card": CardNumber(CARD)})
    assert not hasattr(CardNumber(CARD), "__dict__")


def test_copies_are_the_same_and_values_never_change() -> None:
    """Dataclass helpers copy deeply; a secret survives that and cannot be altered."""

    @dataclasses.dataclass
    class Holder:
        card: CardNumber

    card = CardNumber(CARD)
    assert copy.deepcopy(card) is card
    assert dataclasses.asdict(Holder(card))["card"] is card
    with pytest.raises(AttributeError):
        card.anything = 1
    assert card == CardNumber(CARD)
    assert card != Secret(CARD)
    assert len({card, CardNumber(CARD), Secret(WORD)}) == 2


@pytest.mark.parametrize(
    "text",
    ["", "4957 0304 2021 0462", "495703042021", "4" * 20, "49570304202104ab", "４９５７０３０４２０２１０４６２"],
)
def test_what_is_no_card_number_is_refused_without_showing_it(text: str) -> None:
    """P6: the error holds no part of the value."""
    with pytest.raises(ValueError, match="13 to 19 digits") as caught:
        CardNumber(text)
    assert not text or text not in str(caught.value)
