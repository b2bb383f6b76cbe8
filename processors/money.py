"""Money in minor units, and its exact decimal form at Visa's edge. No floating point anywhere.

Inside the system an amount is an integer count of a currency's minor unit. Visa Direct takes a decimal; its OpenAPI
bounds it to 0..999999999.999 with at most three fraction digits, asks for a last digit of 0 in three-decimal
currencies, and allows no fraction in currencies without a minor unit.
"""

from dataclasses import dataclass
from typing import Final

import iso4217

# Visa's OpenAPI: amount is at most 999999999.999 and has at most three fraction digits.
LARGEST_AMOUNT_THOUSANDTHS: Final = 999_999_999_999
MOST_FRACTION_DIGITS: Final = 3
# The longest decimal text that can be in range is "999999999.999"; anything longer is not worth parsing.
LONGEST_DECIMAL_TEXT: Final = 13

_EXPONENTS: Final[dict[str, int]] = {
    currency.code: int(currency.exponent) for currency in iso4217.Currency if currency.exponent is not None
}
_BY_NUMBER: Final[dict[str, str]] = {
    f"{currency.number:03d}": currency.code for currency in iso4217.Currency if currency.code in _EXPONENTS
}
_NO_CURRENCY: Final = "no ISO 4217 alphabetic code with a minor unit; send three upper-case letters such as USD"


class MoneyError(Exception):
    """Root of what this module raises.

    MoneyError
    ├── UnknownCurrency        not an ISO 4217 currency with a minor unit
    └── AmountNotExpressible   Visa's decimal cannot carry this amount in this currency
    """


class UnknownCurrency(MoneyError):
    """The code is no ISO 4217 alphabetic code of a currency one can pay in. Never quotes the code it was given."""


class AmountNotExpressible(MoneyError):
    """The amount is zero, negative, too large, or finer than Visa can express in this currency."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of an ISO 4217 currency; not yet checked."""

    amount_minor: int
    currency: str

    def __repr__(self) -> str:
        # An unknown currency is a text that somebody else chose: it may be a card number (promise P6).
        shown = repr(self.currency) if self.currency in _EXPONENTS else "[unknown]"
        return f"Money(amount_minor={self.amount_minor}, currency={shown})"


def is_currency(code: str) -> bool:
    """Whether `exponent` knows it."""
    return code in _EXPONENTS


def exponent(currency: str) -> int:
    """Digits after the decimal point of an ISO 4217 currency: USD 2, JPY 0, KWD 3.

    Raises UnknownCurrency, also for codes without a minor unit (metals, test codes, units of account).
    """
    try:
        return _EXPONENTS[currency]
    except KeyError:
        raise UnknownCurrency(_NO_CURRENCY) from None


def alphabetic_currency(code: str) -> str:
    """The alphabetic code of a currency that is given by it or by its ISO 4217 number: "840", "USD" are both "USD".

    A number may have lost its leading zeros ("36" is "AUD"). Raises UnknownCurrency, which never quotes the code.
    """
    if code in _EXPONENTS:
        return code
    try:
        return _BY_NUMBER[code.zfill(3)]
    except KeyError:
        raise UnknownCurrency(_NO_CURRENCY) from None


def decimal_string(amount_minor: int, currency: str) -> str:
    """The amount as Visa's decimal, exactly: 12405 USD is "124.05", 124 JPY is "124", 1240 KWD is "1.240".

    Raises UnknownCurrency, and AmountNotExpressible when the amount is not positive, exceeds 999999999.999, or needs
    a third fraction digit other than 0 (Visa's OpenAPI).
    """
    digits = exponent(currency)
    if amount_minor <= 0:
        raise AmountNotExpressible("the amount is not positive; Visa accepts amounts greater than zero only")
    dropped = max(0, digits - MOST_FRACTION_DIGITS)
    if digits >= MOST_FRACTION_DIGITS and amount_minor % 10 ** (dropped + 1):
        raise AmountNotExpressible(
            f"{currency} has {digits} decimals and Visa requires the third to be 0 and takes no fourth; "
            f"send a multiple of {10 ** (dropped + 1)} minor units"
        )
    shown = digits - dropped
    scaled = amount_minor // 10**dropped
    if scaled * 10 ** (MOST_FRACTION_DIGITS - shown) > LARGEST_AMOUNT_THOUSANDTHS:
        raise AmountNotExpressible("the amount exceeds 999999999.999, the largest that Visa accepts in one transaction")
    if shown == 0:
        return str(scaled)
    whole, fraction = divmod(scaled, 10**shown)
    return f"{whole}.{fraction:0{shown}d}"


def amount_minor_from_decimal(text: str, currency: str) -> int:
    """The inverse of `decimal_string`, lenient about trailing zeros: "124.5" and "124.50" USD are both 12450.

    For reading Visa's answers. Raises UnknownCurrency, and AmountNotExpressible for anything but plain digits with at
    most one point, or for a fraction finer than the currency's minor unit.
    """
    digits = exponent(currency)
    whole, point, fraction = text.partition(".")
    plain = text.isascii() and whole.isdigit() and (fraction.isdigit() if point else not fraction)
    if not plain or len(text) > LONGEST_DECIMAL_TEXT:
        raise AmountNotExpressible("the amount is not plain decimal digits with at most one point")
    significant = fraction.rstrip("0")
    if len(significant) > digits:
        raise AmountNotExpressible(f"the amount is finer than the minor unit of {currency}")
    scale: int = 10**digits
    return int(whole) * scale + int(significant.ljust(digits, "0") or "0")
