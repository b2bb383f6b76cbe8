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
