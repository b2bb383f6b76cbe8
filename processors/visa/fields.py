"""Checks of single request fields, and the exact JSON text of a request body.

Limits are those of Visa's OpenAPI. An error names the field and its rule, never its value: fields hold card numbers
and personal data.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Final

import pycountry

from processors.money import MOST_FRACTION_DIGITS, UnknownCurrency, exponent

# Visa's OpenAPI: 0..999999999.999, at most three fraction digits.
_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.([0-9]{1,3}))?")
# What goes into a header or a URL path is visible ASCII: nothing that could end a line or a path segment.
_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]{1,128}")
_STATUS_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]{0,127}")
_TRANSACTION_IDENTIFIER: Final = re.compile(r"[0-9]{15}")

_COUNTRIES: Final[dict[str, str]] = {
    code: country.alpha_3
    for country in pycountry.countries
    for code in (country.alpha_2, country.alpha_3, country.numeric)
}


class RequestInvalid(ValueError):
    """A request that Visa would refuse, or that would not say what was meant. Nothing was sent.

    `field` is Visa's name of the field, with dots for nesting.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class NumberLiteral(str):
    """Decimal text that becomes a JSON number as it stands, without passing through binary floating point."""

    __slots__ = ()


JsonValue = str | int | Mapping[str, "JsonValue"]


def json_text(value: JsonValue) -> str:
    """Canonical JSON: members in order of their names, no white space, ASCII only; equal input, equal bytes."""
    if isinstance(value, NumberLiteral):
        return str(value)
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, int):
        return json.dumps(value)
    return "{" + ",".join([f"{encode_basestring_ascii(name)}:{json_text(value[name])}" for name in sorted(value)]) + "}"


def required(field: str, value: str | None, rule: str) -> str:
    """The value, which the rule makes mandatory here."""
    if value is None or not value.strip():
        raise RequestInvalid(field, f"is missing; {rule}")
    return value


def text(field: str, value: str, shortest: int, longest: int) -> str:
    """Printable text of so many characters."""
    if not shortest <= len(value) <= longest:
        expected = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        raise RequestInvalid(field, f"has {len(value)} characters, Visa takes {expected}")
    if not value.isprintable():  # halves of surrogate pairs are not printable either
        raise RequestInvalid(field, "holds control characters or broken Unicode")
    return value


def alphanumeric(field: str, value: str, shortest: int, longest: int) -> str:
    """ASCII letters and digits."""
    text(field, value, shortest, longest)
    if not (value.isascii() and value.isalnum()):
        raise RequestInvalid(field, "may hold letters and digits only")
    return value


def digits(field: str, value: str, shortest: int, longest: int) -> str:
    """ASCII digits, kept as text."""
    text(field, value, shortest, longest)
    if not (value.isascii() and value.isdigit()):
        raise RequestInvalid(field, "may hold digits only")
    return value


def number(field: str, value: str, shortest: int, longest: int) -> JsonValue:
    """Digits that Visa's OpenAPI calls a number; as text where a leading zero would get lost."""
    digits(field, value, shortest, longest)
    return value if value.startswith("0") else int(value)


def amount_literal(field: str, amount: str, currency: str) -> NumberLiteral:
    """An amount as Visa takes it: positive, in the fraction digits of its currency, a third one only as 0."""
    match = _AMOUNT.fullmatch(amount)
    if match is None or Decimal(amount) <= 0:
        raise RequestInvalid(field, "is not a positive decimal of at most 999999999.999 in plain digits")
    fraction = match[1] or ""
    allowed = min(currency_exponent(currency), MOST_FRACTION_DIGITS)
    if len(fraction) > allowed:
        raise RequestInvalid(field, f"has {len(fraction)} fraction digits, its currency allows {allowed}")
    if len(fraction) == MOST_FRACTION_DIGITS and not fraction.endswith("0"):
        raise RequestInvalid(field, "must have 0 as its third fraction digit")
    return NumberLiteral(amount)


def currency_exponent(currency: str) -> int:
    """Digits after the point of an ISO 4217 currency."""
    try:
        return exponent(currency)
    except UnknownCurrency:
        raise RequestInvalid("currency", "is not an ISO 4217 code of three capital letters") from None


def country_alpha3(field: str, code: str) -> str:
    """The alpha-3 code of a country given by its ISO 3166-1 alpha-2, alpha-3 or numeric code."""
    try:
        return _COUNTRIES[code]
    except KeyError:
        raise RequestInvalid(field, "is not an ISO 3166-1 country code in capital letters or digits") from None


def header_value(field: str, value: str) -> str:
    """Text that can stand in an HTTP header."""
    if _HEADER_SAFE.fullmatch(value) is None:
        raise RequestInvalid(field, "must be 1 to 128 visible ASCII characters, it becomes a header")
    return value


def is_status_identifier(value: str) -> bool:
    """Whether the text can be the last segment of a status URL: never empty, a dot segment, or with a slash."""
    return _STATUS_IDENTIFIER.fullmatch(value) is not None


def transaction_identifier(field: str, value: str) -> NumberLiteral:
    """VisaNet's 15-digit transaction identifier, a JSON number in requests."""
    if _TRANSACTION_IDENTIFIER.fullmatch(value) is None or value.startswith("0"):
        raise RequestInvalid(field, "is a number of 15 digits")
    return NumberLiteral(value)
