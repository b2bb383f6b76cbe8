"""Amounts reach Visa exactly or not at all (K7; issue: amount and currency exponent; B9 trap: 1.00 JPY)."""

from decimal import Decimal

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.money import (
    AmountNotExpressible,
    Money,
    MoneyError,
    UnknownCurrency,
    alphabetic_currency,
    amount_minor_from_decimal,
    decimal_string,
    exponent,
)

CURRENCIES = sorted(currency.code for currency in iso4217.Currency if currency.exponent is not None)
LARGEST = Decimal("999999999.999")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (12405, "USD", "124.05"),
        (1, "USD", "0.01"),
        (100, "USD", "1.00"),
        (1, "JPY", "1"),
        (124, "JPY", "124"),
        (1240, "KWD", "1.240"),
        (10, "KWD", "0.010"),
        (99_999_999_999, "USD", "999999999.99"),
        (999_999_999, "JPY", "999999999"),
        (999_999_999_990, "KWD", "999999999.990"),
        (12_300, "CLF", "1.230"),
    ],
)
def test_decimal_has_the_currency_s_own_digits(amount_minor: int, currency: str, text: str) -> None:
    """Visa's OpenAPI: two digits for USD, none for JPY, three with a last 0 for KWD."""
    assert decimal_string(amount_minor, currency) == text


@pytest.mark.parametrize(
    ("amount_minor", "currency"),
    [
        (0, "USD"),
        (-1, "USD"),
        (1241, "KWD"),
        (5, "KWD"),
        (12_310, "CLF"),
        (100_000_000_000, "USD"),
        (1_000_000_000, "JPY"),
        (1_000_000_000_000, "KWD"),
        (-(10**30), "JPY"),
        (10**30, "JPY"),
    ],
)
def test_what_visa_cannot_carry_is_refused(amount_minor: int, currency: str) -> None:
    """K7: an amount that the currency cannot express is refused, never rounded."""
    with pytest.raises(AmountNotExpressible):
        decimal_string(amount_minor, currency)


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDD", "XXX", "XAU", "XTS", "4111111111111111", "840"])
def test_unknown_currency_is_refused_without_being_quoted(currency: str) -> None:
    """P6: a currency field may hold a planted card number, so the message must not repeat it."""
    with pytest.raises(UnknownCurrency) as caught:
        exponent(currency)
    assert "4111111111111111" not in str(caught.value)


def test_money_does_not_print_a_planted_currency() -> None:
    """P6."""
    assert "4111111111111111" not in repr(Money(1, "4111111111111111"))
    assert repr(Money(12405, "USD")) == "Money(amount_minor=12405, currency='USD')"


@given(st.integers(min_value=-(10**14), max_value=10**14), st.sampled_from(CURRENCIES))
def test_round_trip_is_exact(amount_minor: int, currency: str) -> None:
    """Every amount either survives the trip to Visa's decimal and back, or is refused for a reason that is true."""
    scale = Decimal(1).scaleb(-exponent(currency))
    exact = amount_minor * scale
    try:
        text = decimal_string(amount_minor, currency)
    except AmountNotExpressible:
        third_digit_used = exact != exact.quantize(Decimal("0.01"))
        assert exact <= 0 or exact > LARGEST or third_digit_used
        return
    assert Decimal(text) == exact
    assert 0 < exact <= LARGEST
    assert amount_minor_from_decimal(text, currency) == amount_minor


@given(st.integers(min_value=1, max_value=10**12), st.sampled_from(CURRENCIES))
def test_text_has_no_exponent_sign_or_needless_digits(amount_minor: int, currency: str) -> None:
    """Visa's OpenAPI: at most three fraction digits, none for currencies without a minor unit."""
    try:
        text = decimal_string(amount_minor, currency)
    except AmountNotExpressible:
        return
    whole, point, fraction = text.partition(".")
    assert whole.isdigit()
    assert whole == str(int(whole))
    assert len(fraction) == min(exponent(currency), 3)
    assert bool(point) == bool(fraction)
    assert len(fraction) < 3 or fraction.endswith("0")


@given(st.text(max_size=40), st.sampled_from([*CURRENCIES, "XXX"]))
def test_reading_junk_raises_only_money_errors(text: str, currency: str) -> None:
    """P8: an answer that is no amount is an error of this module, nothing else."""
    try:
        amount_minor = amount_minor_from_decimal(text, currency)
    except MoneyError:
        return
    assert Decimal(text) == amount_minor * Decimal(1).scaleb(-exponent(currency))


@pytest.mark.parametrize("text", ["1e3", "+1", "-1", "1,0", "", ".", "1.", ".5", "1.234", " 1", "١"])
def test_only_plain_decimals_are_read(text: str) -> None:
    """Visa's answers carry plain decimals; anything else is not guessed at (S4)."""
    with pytest.raises(AmountNotExpressible):
        amount_minor_from_decimal(text, "USD")


def test_trailing_zeros_are_tolerated_when_reading() -> None:
    """Visa's samples write 124.05, 124.5 and 124 alike."""
    assert amount_minor_from_decimal("124.5", "USD") == 12450
    assert amount_minor_from_decimal("124.500", "USD") == 12450
    assert amount_minor_from_decimal("124.00", "JPY") == 124


@pytest.mark.parametrize("currency", CURRENCIES)
def test_a_currency_is_known_by_its_letters_and_by_its_number(currency: str) -> None:
    """K7: a number may have lost its leading zeros on the way."""
    number = iso4217.Currency(currency).number
    assert {alphabetic_currency(code) for code in (currency, f"{number:03d}", str(number))} == {currency}


@pytest.mark.parametrize("code", ["", "usd", "XAU", "959", "0840", "4957030420210462"])
def test_what_is_no_currency_is_not_quoted(code: str) -> None:
    """K7, P6: gold has a number, and no minor unit to count it in."""
    with pytest.raises(UnknownCurrency) as caught:
        alphabetic_currency(code)
    assert code == "" or code not in str(caught.value)
