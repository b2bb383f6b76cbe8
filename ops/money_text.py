"""Amounts as people read them."""

from collections.abc import Mapping
from typing import Any

from processors.money import UnknownCurrency, exponent


def money_text(money: Mapping[str, Any] | None) -> str | None:
    """`12.34 USD` of {amount_minor, currency}; minor units where the currency is not known."""
    if money is None:
        return None
    return amount_text(money["amount_minor"], money["currency"])


def amount_text(amount_minor: int, currency: str) -> str:
    """`12.34 USD` of 1234 minor units of USD."""
    try:
        digits = exponent(currency)
    except UnknownCurrency:
        return f"{amount_minor} minor units of {currency}"
    sign, units = ("-" if amount_minor < 0 else ""), str(abs(amount_minor)).rjust(digits + 1, "0")
    return f"{sign}{units[:-digits]}.{units[-digits:]} {currency}" if digits else f"{sign}{units} {currency}"


def corridor_text(corridor: Mapping[str, Any] | None) -> str | None:
    """`US/USD to GB/GBP` of a corridor."""
    if corridor is None:
        return None
    source = f"{corridor['source_country']}/{corridor['source_currency']}"
    return f"{source} to {corridor['target_country']}/{corridor['target_currency']}"
