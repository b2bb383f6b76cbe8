"""What travels encrypted has a published form too (design 11)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from schemas.catalog import FOLDER

PARTY = {
    "name": "Ada Lovelace",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "date_of_birth": "1990-12-10",
    "nationality": "GB",
    "account_reference": "acc-1",
    "address": {"line1": "1 High Street", "city": "London", "state": "LND", "postal_code": "N1 1AA", "country": "GB"},
}


def validator(name: str) -> Any:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"sender": PARTY, "recipient": PARTY}, True),
        ({"sender": {"name": "A"}, "recipient": {"name": "B"}}, True),
        ({"sender": PARTY}, False),
        ({"sender": PARTY, "recipient": {}}, False),
        ({"sender": PARTY, "recipient": {"name": ""}}, False),
        ({"sender": PARTY, "recipient": {"name": "B", "phone": "1"}}, False),
        ({"sender": PARTY, "recipient": {"name": "B", "date_of_birth": "10.12.1990"}}, False),
        ({"sender": PARTY, "recipient": {"name": "B", "address": {"country": "GBR"}}}, False),
        ({"sender": PARTY, "recipient": PARTY, "card": "x"}, False),
    ],
)
def test_personal_data(value: Any, valid: bool) -> None:
    assert validator("personal_data").is_valid(value) == valid


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"account_number": "GB33BUKB20201555555555", "account_number_type": "IBAN"}, True),
        ({"account_number": "12345678", "bank_code": "20-20-15"}, True),
        ({"account_number": "12345678", "bic": "BUKBGB22"}, True),
        ({"account_number": "12345678", "bank_code": "1", "account_type": "SAVINGS", "account_name": "Ada"}, True),
        ({"account_number": "12345678"}, False),
        ({"account_number": "12345678", "account_number_type": "DEFAULT"}, False),
        ({"account_number": "1234 5678", "bank_code": "1"}, False),
        ({"account_number": "", "bank_code": "1"}, False),
        ({"account_number": 12345678, "bank_code": "1"}, False),
        ({"account_number": "12345678", "bic": "BUKB"}, False),
        ({"account_number": "12345678", "bank_code": "1", "account_type": "OTHER"}, False),
        ({"account_number": "12345678", "bank_code": "1", "card": "x"}, False),
    ],
)
def test_account(value: dict[str, Any], valid: bool) -> None:
    """B4: an account is a number and what says at which bank."""
    assert validator("account").is_valid({"country": "GB", "currency": "GBP"} | value) == valid
    assert not validator("account").is_valid(value), "country and currency are required"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"account_number": "+254700000001", "operator_name": "M-PESA"}, True),
        ({"account_number": "ada@example.org", "operator_name": "W"}, True),
        ({"account_number": "+254 700", "operator_name": "M-PESA"}, False),
        ({"account_number": "+254700000001"}, False),
        ({"account_number": "+254700000001", "operator_name": ""}, False),
        ({"account_number": "+254700000001", "operator_name": "M", "phone": "1"}, False),
    ],
)
def test_wallet(value: dict[str, Any], valid: bool) -> None:
    """B4: a wallet is a number and who runs it."""
    assert validator("wallet").is_valid({"country": "KE", "currency": "KES"} | value) == valid
    assert not validator("wallet").is_valid(value), "country and currency are required"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"primary_account_number": "4111111111111111"}, True),
        ({"primary_account_number": "4111111111111111", "expiry": "2027-12"}, True),
        ({"primary_account_number": "4111 1111 1111 1111"}, False),
        ({"primary_account_number": 4111111111111111}, False),
        ({"primary_account_number": "411111111111"}, False),
        ({"primary_account_number": "4111111111111111", "expiry": "12/27"}, False),
        ({"primary_account_number": "4111111111111111", "cvv2": "123"}, False),
        ({"expiry": "2027-12"}, False),
    ],
)
def test_card(value: Any, valid: bool) -> None:
    assert validator("card").is_valid(value) == valid
