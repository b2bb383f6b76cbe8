"""S1: STAN and RRN alone are unique for ever, and are what the design says they are."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.visa.identity import (
    LARGEST_NUMBER,
    Identity,
    IdentityError,
    Operation,
    client_transaction_id,
    identity_from_sequence,
    sequence_number,
)

NUMBERS = st.integers(0, LARGEST_NUMBER)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
INTENT = datetime(2026, 11, 22, 17, 59, 59, tzinfo=UTC)


@given(NUMBERS, MOMENTS)
def test_the_numbers_follow_the_rule(number: int, intent: datetime) -> None:
    """S1: STAN = 100000 + n mod 900000, RRN = ydddhh of the first intent and n div 900000."""
    identity = identity_from_sequence(number, intent)
    assert identity.systems_trace_audit_number == 100_000 + number % 900_000
    assert len(str(identity.systems_trace_audit_number)) == 6
    rrn = identity.retrieval_reference_number
    assert rrn == f"{intent.year % 10}{intent:%j%H}{number // 900_000:06d}"
    assert len(rrn) == 12


@given(NUMBERS, NUMBERS, MOMENTS, MOMENTS)
def test_distinct_numbers_never_share_stan_and_suffix(first: int, second: int, one: datetime, other: datetime) -> None:
    """S1: uniqueness does not lean on the hour, which repeats every ten years."""
    a, b = identity_from_sequence(first, one), identity_from_sequence(second, other)
    same = (a.systems_trace_audit_number, a.retrieval_reference_number[6:]) == (
        b.systems_trace_audit_number,
        b.retrieval_reference_number[6:],
    )
    assert same == (first == second)


@given(NUMBERS, MOMENTS)
def test_the_number_can_be_read_back(number: int, intent: datetime) -> None:
    """S1: an exact inverse, so that a row can be checked against its sequence number."""
    identity = identity_from_sequence(number, intent)
    assert sequence_number(identity.systems_trace_audit_number, identity.retrieval_reference_number) == number


def test_a_number_without_room_stops_submission() -> None:
    """S1: the first number that does not fit is an error, never a wrap-around."""
    identity = identity_from_sequence(LARGEST_NUMBER, INTENT)
    assert (identity.systems_trace_audit_number, identity.retrieval_reference_number) == (999_999, "632617999999")
    for number in (LARGEST_NUMBER + 1, -1):
        with pytest.raises(IdentityError, match="outside"):
            identity_from_sequence(number, INTENT)


def test_the_hour_is_utc() -> None:
    """S1: whatever zone the first intent was given in."""
    local = INTENT.astimezone(timezone(timedelta(hours=9)))
    assert identity_from_sequence(7, local) == identity_from_sequence(7, INTENT)
    with pytest.raises(IdentityError, match="time zone"):
        identity_from_sequence(7, INTENT.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("stan", "rrn"),
    [
        (100_008, "632617000000"),
        (99_999, "632617000000"),
        (100_007, "600017000000"),
        (100_007, "632624000000"),
        (100_007, "x"),
    ],
)
def test_a_damaged_row_yields_no_identity(stan: int, rrn: str) -> None:
    """S1: numbers that do not belong together are not sent."""
    with pytest.raises(IdentityError):
        Identity(7, stan, rrn, INTENT)


def test_the_client_transaction_id_is_fixed_for_ever() -> None:
    """S1: the same on every attempt, process and release; another value would defeat Visa's check while in flight."""
    assert client_transaction_id("payout-0001", Operation.PUSH_FUNDS) == "6ca3e5a5-1a72-5897-8c02-b54907148bbb"
    assert client_transaction_id("payout-0001", Operation.REVERSE_FUNDS) == "aa4aa9af-9519-53d7-bf0e-ba9825c89140"
    ids = {client_transaction_id(f"payout-{n:04d}", operation) for n in range(50) for operation in Operation}
    assert len(ids) == 50 * len(Operation)
