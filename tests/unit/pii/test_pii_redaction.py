"""S1-11, S1-12, S1-19: the one function through which logs, errors and spans go."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from processors.pii.hits import Kind
from processors.pii.redaction import (
    MASKS,
    NAME_NOT_ALLOWED,
    SEARCHED_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
    redact_fields,
    redact_text,
)
from processors.secrets import CardNumber, Secret

CARD = "4957030420210462"
# Some that are allowed; the product's own list is streams.telemetry.ATTRIBUTES.
SPAN_NAMES = frozenset(
    {"visa.rail", "visa.amount.currency", "visa.error_code", "http.status_code", "visa.correlation_id"}
)


def test_span_attributes_go_through_the_same_function() -> None:
    """S1-11, S1-19: by allow-list, whatever the value is; and what is allowed is masked as well."""
    attributes = {
        "visa.rail": "OCT",
        "http.status_code": 202,
        "visa.correlation_id": f"from shop {CARD}",
        "visa.error_code": None,
        "recipient.name": "Tomas Okafor",
        CARD: 1,
    }
    shown = redact_fields(attributes, SPAN_NAMES)
    assert shown.fields == {
        "visa.rail": "OCT", "http.status_code": 202, "visa.correlation_id": f"from shop {MASKS[Kind.CARD]}",
    }  # fmt: skip
    assert shown.withheld == Counter({NAME_NOT_ALLOWED: 2, "CARD": 1})


@pytest.mark.parametrize(
    "value", [0, 7, -3, True, 0.25, 1_763_805_600_123, 1_763_805_600_123_456, float("inf"), 10**30, "text", ""]
)
def test_what_holds_nothing_keeps_value_and_type(value: object) -> None:
    """S1-12: a time in milliseconds stays a number for whoever draws it."""
    (kept,) = redact_fields({"a": value}, {"a"}).fields.values()
    assert (kept, type(kept)) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    [int(CARD), -int(CARD), float(CARD), Decimal(CARD), [CARD], {"pan": CARD}, {CARD: 1}, (CARD,), CARD.encode(),
     ValueError(CARD), f"{CARD[:8]}\n{CARD[8:]}", "".join(f"\\u00{ord(digit):x}" for digit in CARD)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_card_number_of_any_type_becomes_its_mask(value: object) -> None:
    """P6: alone and beside others."""
    for others in ({}, {"b": "text", "c": 1, "d": [1]}):
        shown = redact_fields({"a": value} | others, {"a", "b", "c", "d"})
        assert MASKS[Kind.CARD] in str(shown.fields["a"])
        assert CARD not in str(shown.fields)
        assert shown.withheld == Counter({"CARD": 1})


def test_typed_secrets_stay_what_they_are() -> None:
    """S1-19: a secret cannot show itself here either."""
    shown = redact_fields({"a": CardNumber(CARD), "b": Secret("hunter22"), "c": [Secret("hunter22")]}, {"a", "b", "c"})
    assert shown.fields == {"a": "CardNumber(***)", "b": "Secret(***)", "c": "[Secret(***)]"}


def test_no_hit_reaches_from_one_value_into_the_next() -> None:
    """The quick look at all values at once finds nothing that is not in one of them."""
    halves = {"a": CARD[:8], "b": CARD[8:], "c": "pin", "d": "1234"}
    assert redact_fields(halves, halves.keys()).fields == halves


@pytest.mark.parametrize("missing", range(17))
def test_a_number_at_any_cut_is_masked_before_it_is_cut(missing: int) -> None:
    """P6: at the end of what is shown and at the end of what is searched."""
    shown = redact_text("x" * (TEXT_CHARACTERS_MAX - 17 + missing) + " " + CARD)
    assert len(shown) <= TEXT_CHARACTERS_MAX
    assert CARD[:7] not in shown
    # Long addresses become short masks, so that the end of what is searched could come into sight.
    address = f"{'a' * 64}@{'.'.join(letter * 63 for letter in 'bcd')}.{'e' * 50}.example.com "
    text = address * (SEARCHED_CHARACTERS_MAX // len(address) + 1)
    text = text[: SEARCHED_CHARACTERS_MAX - 17 + missing] + " " + CARD + " more"
    assert CARD[:7] not in redact_text(text)


def test_a_text_without_a_limit_is_searched_to_its_end() -> None:
    """P6: what commands print is not cut, and masked to its end."""
    text = "y" * (2 * SEARCHED_CHARACTERS_MAX) + " " + CARD
    assert redact_text(text, longest_characters=None) == text.replace(CARD, MASKS[Kind.CARD])


def test_kinds_that_are_not_asked_for_stay() -> None:
    """Operators name themselves by their addresses in their own commands."""
    text = f"held by maria@example.com: {CARD}"
    assert redact_text(text, frozenset({Kind.CARD})) == f"held by maria@example.com: {MASKS[Kind.CARD]}"
