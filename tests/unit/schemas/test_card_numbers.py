"""The one detector of card numbers: finds them as people write them, and leaves our own identifiers alone (P6)."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from schemas.card_numbers import (
    find_card_numbers,
    has_issuer_prefix,
    looks_like_card_number,
    mask_card_numbers,
    passes_luhn,
)

# The schemes' published test numbers, by length.
TEST_NUMBERS = [
    "4222222222222",  # Visa, 13
    "30569309025904",  # Diners Club, 14
    "36227206271667",  # Diners Club, 14
    "378282246310005",  # American Express, 15
    "4111111111111111",  # Visa, 16
    "5555555555554444",  # Mastercard
    "2223003122003222",  # Mastercard, 2-series
    "6011111111111117",  # Discover
    "3530111333300000",  # JCB
    "6200000000000005",  # UnionPay
    "6759649826438453",  # Maestro
    "4000000000000000006",  # Visa, 19
]


@pytest.mark.parametrize("number", TEST_NUMBERS)
@pytest.mark.parametrize(
    "around", ["{}", "card {} please", '"{}"', "pan={};", "({})", "\n{}\n", "a:{}", "{}.", "_{}_", "/{}/", "ä{}"]
)
def test_a_number_is_found_wherever_it_stands(number: str, around: str) -> None:
    text = around.format(number)
    assert looks_like_card_number(text)
    assert mask_card_numbers(text) == around.format("[card number]")


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111 1111-1111 1111",
        "41111111 11111111",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\u20131111\u20131111\u20131111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "3782 822463 10005",
        "3056 930902 5904",
        "4111 1111 1111 1111 12 27",
        "no 12 4111 1111 1111 1111",
        "4111111111111111 123",
        "2025-11-03 4111111111111111",
    ],
)
def test_a_number_is_found_as_people_write_it(text: str) -> None:
    assert looks_like_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",  # check digit
        "1111111111111117",  # no issuer
        "41111111111111112222",  # 20 digits
        "411111111111",  # 12 digits
        "a4111111111111111",  # part of a longer name
        "4111111111111111b",
        "4111  1111  1111  1111",  # double separators: two columns of a table, not a number
        "4111.1111.1111.1111",
        "550e8400-e29b-41d4-a716-446655440000",
        "530714451001",  # retrieval reference number
        "451001",
        "381228649430015",  # Visa's transaction identifiers have 15 digits, as no card that begins with 38
        "0001-2025-11-03",
    ],
)
def test_what_is_no_card_number(text: str) -> None:
    assert not looks_like_card_number(text)


@given(st.integers(0, 2**128 - 1))
def test_uuids_are_never_hit(value: int) -> None:
    text = str(uuid.UUID(int=value))
    if any(letter in text for letter in "abcdef"):
        assert not looks_like_card_number(text)
        assert not looks_like_card_number(f"payout {text.upper()} sent")


def test_a_uuid_whose_first_groups_are_a_card_number_is_still_a_uuid() -> None:
    text = "41111111-1111-1111-a716-446655440000"
    assert not looks_like_card_number(text)
    assert looks_like_card_number(text.replace("a716-446655440000", "x"))


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_ulids_are_never_hit(milliseconds: int, randomness: bytes) -> None:
    text = str(ULID(milliseconds.to_bytes(6, "big") + randomness))
    # 26 characters in one piece: digits alone would be more than any card number has.
    assert not looks_like_card_number(text)


@given(st.datetimes(datetime(2001, 9, 9), datetime(2033, 5, 18), timezones=st.just(UTC)))  # noqa: DTZ001
def test_timestamps_are_never_hit(at: datetime) -> None:
    seconds = at.timestamp()
    for text in (
        f"{seconds:.0f}",
        f"{seconds * 1e3:.0f}",
        f"{seconds * 1e6:.0f}",
        f"{seconds * 1e9:.0f}",
        at.isoformat(),
    ):
        assert not looks_like_card_number(text), text


@given(st.sampled_from(TEST_NUMBERS), st.integers(0, 18), st.integers(0, 9))
def test_one_wrong_digit_is_no_card_number(number: str, place: int, digit: int) -> None:
    """Luhn sees every single wrong digit."""
    place %= len(number)
    wrong = number[:place] + str(digit) + number[place + 1 :]
    assert passes_luhn(wrong) == (wrong == number)
    assert looks_like_card_number(wrong) == (wrong == number)


@given(st.text(max_size=60), st.sampled_from(TEST_NUMBERS), st.text(max_size=60))
def test_masking_leaves_nothing_and_loses_nothing_else(before: str, number: str, after: str) -> None:
    masked = mask_card_numbers(f"{before} | {number} | {after}")
    assert not looks_like_card_number(masked)
    assert number not in masked or number in before + after
    spans = find_card_numbers(f"{before} | {number} | {after}")
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_two_numbers_in_one_line() -> None:
    text = "from 4111 1111 1111 1111 5555 5555 5555 4444 to 378282246310005"
    assert mask_card_numbers(text, "#") == "from # # to #"


def test_issuer_prefixes_and_lengths() -> None:
    assert has_issuer_prefix("2720990000000000")
    assert not has_issuer_prefix("2721000000000000")
    assert not has_issuer_prefix("2220990000000000")
    assert not has_issuer_prefix("41111111111111")
    assert not has_issuer_prefix("3782822463100055")


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 130_000,
        "1" * 260_000,
        "1" * 260_000 + "a",
        "4-" * 130_000,
        "41111111-1111-1111-" * 13_000,
        "a" * 260_000,
        json.dumps(list(range(40_000))),
    ],
    ids=range(7),
)
def test_the_longest_text_is_searched_quickly(text: str) -> None:
    """Linear: it runs over fields that strangers fill."""
    started = time.process_time()
    looks_like_card_number(text)
    assert time.process_time() - started < 10.0
